/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saved guests: where everything is in the file (docs/saved-file.md has every byte).
 *
 * The file is a QEMU migration stream of version 3 whose RAM is mapped: each page has a fixed
 * place, so pages may be written by several threads in any order, again and again, and the file can
 * be mapped. Seen from here it is:
 *
 * - for each block of RAM what describes it (from "start" to pages_offset: stream header or
 * nothing, the block's header, the bitmap of the pages that are there, zeroes up to the next MiB),
 * then its pages, with holes for pages of zeroes;
 * - the tail: the other sections, and the description of all of them in JSON.
 *
 * All that is not pages is covered by one checksum at the very end of the file; pages have a
 * checksum for every extent (MIG_FILE_EXTENT_PAGES of a block), in the section "sums".
 *
 * Threads: pure functions.
 */
#ifndef MIGRATION_FILE_FORMAT_H
#define MIGRATION_FILE_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/codec.h"
#include "base/fields.h"
#include "mem/mem.h"
#include "migration/machine.h"

#define MIG_FILE_MAGIC          0x5145564du /* "QEVM" */
#define MIG_FILE_VERSION        3u
#define MIG_FILE_MACHINE        "ferry"
#define MIG_FILE_CAPABILITY     "mapped-ram"
#define MIG_FILE_RAM_VERSION    4u
#define MIG_FILE_MAP_VERSION    1u
#define MIG_FILE_ALIGN_BYTES    (1ull << 20) /* of the first page of a block */
#define MIG_FILE_EXTENT_PAGES   256u
#define MIG_FILE_GAP_MAX        (64ull << 20)  /* zeroes between a bitmap and the pages */
#define MIG_FILE_TAIL_MAX       (256ull << 20) /* sections, sums and description */
#define MIG_FILE_JSON_MAX       (8u << 20)     /* readers look for it in the last 10 MB */
#define MIG_FILE_CHECKSUM_CHARS 16

/* Section types. */
enum {
	MIG_FILE_EOF = 0x00,
	MIG_FILE_SECTION_START = 0x01,
	MIG_FILE_SECTION_END = 0x03,
	MIG_FILE_SECTION_FULL = 0x04,
	MIG_FILE_SUBSECTION = 0x05,
	MIG_FILE_DESCRIPTION = 0x06,
	MIG_FILE_CONFIGURATION = 0x07,
	MIG_FILE_FOOTER = 0x7e,
};

/* Section numbers; those of devices follow, or "hot" where it is there, and then those. */
enum { MIG_FILE_ID_RAM, MIG_FILE_ID_GUEST, MIG_FILE_ID_SUMS, MIG_FILE_ID_DEVICES };

/* Flags in the words of the RAM section. */
#define MIG_FILE_RAM_SIZE 0x04u
#define MIG_FILE_RAM_EOS  0x10u

#define MIG_FILE_NAME_BYTES 64

/* The section "guest": what the stream itself has no place for. */
struct mig_file_range {
	uint64_t gpa;
};

struct mig_file_guest {
	uint32_t name_len;
	uint8_t name[MIG_FILE_NAME_BYTES];
	uint32_t n_cpus;
	uint8_t was_running;
	uint64_t saved_real_ns; /* wall clock */
	uint32_t n_blocks;
	struct mig_file_range blocks[MEM_MAX_BLOCKS];
};

extern const struct field_table mig_file_guest_table;

struct mig_file_block {
	char name[MEM_BLOCK_NAME_LEN];
	uint64_t size_bytes, n_pages;
	uint64_t start;         /* of what describes it: 0, or the end of the block before */
	uint64_t bitmap_offset; /* from the file's beginning, as pages_offset */
	uint64_t bitmap_bytes;
	uint64_t pages_offset;
};

struct mig_file_layout {
	unsigned n_blocks;
	struct mig_file_block blocks[MEM_MAX_BLOCKS];
	uint64_t tail_offset; /* behind the last page */
};

static inline uint64_t mig_file_page_offset(const struct mig_file_block *b, uint64_t page)
{
	return b->pages_offset + page * MEM_PAGE_BYTES;
}

static inline uint64_t mig_file_n_extents(const struct mig_file_block *b)
{
	return (b->n_pages + MIG_FILE_EXTENT_PAGES - 1) / MIG_FILE_EXTENT_PAGES;
}

/* Extents are numbered over all blocks, in their order. */
static inline uint64_t mig_file_extent_number(const struct mig_file_layout *l, unsigned block,
					      uint64_t page)
{
	uint64_t n = page / MIG_FILE_EXTENT_PAGES;

	while (block--)
		n += mig_file_n_extents(&l->blocks[block]);
	return n;
}

static inline uint64_t mig_file_all_extents(const struct mig_file_layout *l)
{
	return mig_file_extent_number(l, l->n_blocks, 0);
}

/* The layout for this RAM. */
void mig_file_layout(struct mig_file_layout *l, const struct mem *mem);

/* What stands from the start of block b to its bitmap. */
void mig_file_put_head(struct wbuf *w, const struct mig_file_layout *l, unsigned b);

/*
 * The tail up to and without the digits of the checksum; then they and MIG_FILE_END follow.
 * sums[b][i] is the sum of extent i of block b; hot has a bit for each extent, numbered as above,
 * or is NULL. The machine's early sections come first.
 */
void mig_file_put_tail(struct wbuf *w, const struct mig_file_layout *l,
		       const struct mig_file_guest *guest, uint64_t *const *sums,
		       const uint8_t *hot, const struct mig_machine *machine);
#define MIG_FILE_END "\"}"

#endif
