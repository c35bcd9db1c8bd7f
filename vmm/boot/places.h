/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which guest memory is taken while a guest is loaded, and where there is room. Main thread.
 */
#ifndef VMM_BOOT_PLACES_H
#define VMM_BOOT_PLACES_H

#include <stdint.h>

#define PLACES_MAX 80

struct places {
	unsigned n;
	struct {
		uint64_t gpa, len;
	} taken[PLACES_MAX];
};

/* Take [gpa, gpa+len). -EEXIST if some of it is taken, -EINVAL if it wraps, -ENOSPC past the max.
 */
int places_take(struct places *p, uint64_t gpa, uint64_t len);

/*
 * Take the lowest (highest) free len bytes inside [from, to), aligned to `align` (a power of two).
 * -ENOMEM if there is no such place.
 */
int places_take_low(struct places *p, uint64_t from, uint64_t to, uint64_t len, uint64_t align,
		    uint64_t *gpa);
int places_take_high(struct places *p, uint64_t from, uint64_t to, uint64_t len, uint64_t align,
		     uint64_t *gpa);

#endif
