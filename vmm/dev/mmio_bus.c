/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/mmio_bus.h"

#include <errno.h>
#include <string.h>

int mmio_bus_add(struct mmio_bus *b, uint64_t first_gpa, uint64_t bytes, const struct mmio_ops *ops,
		 void *dev)
{
	if (!bytes || first_gpa > UINT64_MAX - bytes)
		return -EINVAL;
	for (unsigned i = 0; i < b->n; i++) {
		const struct mmio_range *r = &b->ranges[i];

		if (first_gpa < r->first_gpa + r->bytes && r->first_gpa < first_gpa + bytes)
			return -EEXIST;
	}
	if (b->n == MMIO_BUS_MAX)
		return -ENOSPC;
	b->ranges[b->n++] =
		(struct mmio_range){.first_gpa = first_gpa, .bytes = bytes, .ops = ops, .dev = dev};
	return 0;
}

static const struct mmio_range *find_range(const struct mmio_bus *b, uint64_t gpa, unsigned size)
{
	for (unsigned i = 0; i < b->n; i++) {
		const struct mmio_range *r = &b->ranges[i];

		if (gpa >= r->first_gpa && size <= r->bytes &&
		    gpa - r->first_gpa <= r->bytes - size)
			return r;
	}
	return NULL;
}

void mmio_bus_access(const struct mmio_bus *b, bool write, uint64_t gpa, unsigned size, void *data)
{
	/* KVM splits what an instruction accesses, so other sizes are possible, but nobody's. */
	bool is_size = size == 1 || size == 2 || size == 4 || size == 8;
	const struct mmio_range *r = is_size ? find_range(b, gpa, size) : NULL;
	uint8_t *bytes = data;
	uint64_t value = 0;

	if (!r) {
		if (!write)
			memset(data, 0xff, size);
	} else if (write) {
		for (unsigned i = 0; i < size; i++)
			value |= (uint64_t)bytes[i] << (8 * i);
		r->ops->write(r->dev, gpa - r->first_gpa, size, value);
	} else {
		value = r->ops->read(r->dev, gpa - r->first_gpa, size);
		for (unsigned i = 0; i < size; i++)
			bytes[i] = (uint8_t)(value >> (8 * i));
	}
}
