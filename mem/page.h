/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking at pages that a guest may be writing at the same moment. Both answers are about the
 * bytes as they were read; if the guest changed them meanwhile, its write has set the page's dirty
 * bit again and the page will be looked at once more. Any thread may call.
 */
#ifndef MEM_PAGE_H
#define MEM_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Is the 4 KiB page at p (page aligned) all zero? AVX2 where the processor has it. */
bool page_is_zero(const void *p);

/* 32 bits of XXH3 over the 4 KiB at p: finds damage in transit, is no defence against malice. */
uint32_t page_sum(const void *p);

/*
 * 64 bits of XXH3 over the 4 KiB at p, with the page's number as the seed. Sums of several pages
 * may be added up: whatever the order, another page or a page in another place changes the sum.
 */
uint64_t page_sum_at(const void *p, uint64_t page);

/* The page at p will be looked at next: begin to fetch it. Does nothing where none is mapped. */
void page_prefetch(const void *p);

/* Copy a few pages' bytes. */
void page_copy(void *to, const void *from, size_t bytes);

#endif
