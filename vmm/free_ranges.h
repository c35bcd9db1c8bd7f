/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Free pages that the user knows of: ranges of guest RAM, given with the command that begins a
 * migration. A source of free page hints (migration/machine.h), beside the balloon's driver.
 *
 * A range is the user's promise that nobody wants what is in it when the round of hints begins (a
 * moment after the command: all RAM is protected first). What the guest writes there from then on
 * counts and is sent; of the rest the other side gets zeroes.
 *
 * Threads: filled before a migration begins, and constant while it runs.
 */
#ifndef VMM_FREE_RANGES_H
#define VMM_FREE_RANGES_H

#include <stdint.h>

#include "base/err.h"
#include "mem/mem.h"
#include "migration/machine.h"

#define FREE_RANGES_MAX 1024

struct free_ranges {
	unsigned n;
	struct {
		uint64_t gpa, bytes;
	} range[FREE_RANGES_MAX];
};

/*
 * Add one. -EINVAL with words: not whole pages, not all of it RAM of this guest (a range ends where
 * a block of RAM ends), or too many.
 */
int free_ranges_add(struct free_ranges *f, const struct mem *mem, uint64_t gpa, uint64_t bytes,
		    struct err *e);

/* Tells of them when a round begins. They must outlive the migration. */
struct mig_free_source free_ranges_source(struct free_ranges *f);

#endif
