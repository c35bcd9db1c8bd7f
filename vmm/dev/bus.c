/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/bus.h"

#include <errno.h>
#include <stddef.h>

#define IO_PORTS 0x10000u

int io_bus_add(struct io_bus *b, uint16_t first, uint16_t count, const struct io_ops *ops,
	       void *dev)
{
	uint32_t end = (uint32_t)first + count;

	if (!count || end > IO_PORTS)
		return -EINVAL;
	for (unsigned i = 0; i < b->n; i++) {
		const struct io_range *r = &b->ranges[i];

		if (first < (uint32_t)r->first + r->count && r->first < end)
			return -EEXIST;
	}
	if (b->n == IO_BUS_MAX)
		return -ENOSPC;
	b->ranges[b->n++] =
		(struct io_range){.first = first, .count = count, .ops = ops, .dev = dev};
	return 0;
}

/* The device that has all of the ports; an access that reaches beyond a device is nobody's. */
static const struct io_range *find_range(const struct io_bus *b, uint16_t port, unsigned size)
{
	for (unsigned i = 0; i < b->n; i++) {
		const struct io_range *r = &b->ranges[i];

		if (port >= r->first && port + size <= (uint32_t)r->first + r->count)
			return r;
	}
	return NULL;
}

void io_bus_access(const struct io_bus *b, bool out, uint16_t port, unsigned size, void *data)
{
	const struct io_range *r = find_range(b, port, size);
	uint8_t *bytes = data;
	uint32_t value = 0;

	if (size > sizeof(value))
		return;
	if (out) {
		for (unsigned i = 0; i < size; i++)
			value |= (uint32_t)bytes[i] << (8 * i);
		if (r)
			r->ops->out(r->dev, port, size, value);
		return;
	}
	value = r ? r->ops->in(r->dev, port, size) : ~0u;
	for (unsigned i = 0; i < size; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
}
