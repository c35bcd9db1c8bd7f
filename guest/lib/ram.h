/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who has which RAM. The image and what ram_alloc() gave come first; the rest, below and above the
 * hole under 4 GiB, is handed out as one region of pages. RAM below 1 MiB and whole modules are
 * left alone. Addresses are identity-mapped.
 */
#ifndef FERRY_GUEST_RAM_H
#define FERRY_GUEST_RAM_H

#include <stdint.h>

#define RAM_PIECES_MAX 32

/* Pages numbered 0 to nr_pages - 1, in pieces of RAM. */
struct ram_region {
	uint64_t nr_pages;
	unsigned int nr_pieces;
	struct {
		uint64_t first_page, nr_pages, gpa;
	} piece[RAM_PIECES_MAX];
};

/* Ring 0, once: map RAM above 4 GiB, find the image's surroundings. */
void ram_init(void);

/* Ring 0: page-aligned memory, contents undefined; dies when there is none. */
void *ram_alloc(uint64_t bytes);

/*
 * Ring 0: all that is left, or its first `bytes` (a multiple of a page); pieces begin on a 2 MiB
 * boundary. Fewer pages than asked for mean that there are no more. ram_alloc() gives nothing after
 * this.
 */
void ram_take(struct ram_region *r, uint64_t bytes);

/* The address of a page. Any ring. */
static inline void *ram_page(const struct ram_region *r, uint64_t page)
{
	unsigned int i = 0;

	while (page - r->piece[i].first_page >= r->piece[i].nr_pages)
		i++;
	return (void *)(uintptr_t)(r->piece[i].gpa + (page - r->piece[i].first_page) * 4096);
}

#endif
