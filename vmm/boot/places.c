/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/boot/places.h"

#include <errno.h>

/* Index of a place that overlaps [gpa, gpa+len), or p->n. */
static unsigned overlap(const struct places *p, uint64_t gpa, uint64_t len)
{
	unsigned i;

	for (i = 0; i < p->n; i++) {
		if (gpa < p->taken[i].gpa + p->taken[i].len && p->taken[i].gpa < gpa + len)
			break;
	}
	return i;
}

int places_take(struct places *p, uint64_t gpa, uint64_t len)
{
	if (len > UINT64_MAX - gpa)
		return -EINVAL;
	if (!len)
		return 0;
	if (overlap(p, gpa, len) < p->n)
		return -EEXIST;
	if (p->n == PLACES_MAX)
		return -ENOSPC;
	p->taken[p->n].gpa = gpa;
	p->taken[p->n++].len = len;
	return 0;
}

int places_take_low(struct places *p, uint64_t from, uint64_t to, uint64_t len, uint64_t align,
		    uint64_t *gpa)
{
	uint64_t at = (from + align - 1) & ~(align - 1);

	while (at >= from && at < to && len <= to - at) {
		unsigned i = overlap(p, at, len);

		if (i == p->n) {
			*gpa = at;
			return places_take(p, at, len);
		}
		from = p->taken[i].gpa + p->taken[i].len;
		at = (from + align - 1) & ~(align - 1);
	}
	return -ENOMEM;
}

int places_take_high(struct places *p, uint64_t from, uint64_t to, uint64_t len, uint64_t align,
		     uint64_t *gpa)
{
	while (to >= from && len <= to - from) {
		uint64_t at = (to - len) & ~(align - 1);
		unsigned i;

		if (at < from)
			break;
		i = overlap(p, at, len);
		if (i == p->n) {
			*gpa = at;
			return places_take(p, at, len);
		}
		to = p->taken[i].gpa;
	}
	return -ENOMEM;
}
