/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM: blocks, addresses, host-side dirty marks.
 *
 * RAM is a few *blocks*, each one contiguous range of guest physical addresses (gpa) and of our own
 * (hva). The PC layout has two around the PCI hole: "ram.low" from 0 up to 3 GiB, "ram.high" from
 * 4 GiB for what does not fit. A block is one bitmap of the migration, and one KVM slot
 * or several.
 *
 * Host code never writes guest RAM but through mem_write(), mem_set() or a pointer from mem_host()
 * followed by mem_mark(): each marks the pages dirty in the block's *host marks*, which the sync
 * merges with KVM's log (KVM does not log what the host writes). The one exception is the incoming
 * migration, which fills RAM that nobody runs on yet.
 *
 * Every guest address is checked for range and overflow here; callers never add gpa and length.
 *
 * Threads: the layout is constant after mem_create(). Access and marks are safe from any thread
 * (the marks are atomic); the bytes themselves are the guest's and may change at any time.
 */
#ifndef MEM_MEM_H
#define MEM_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "mem/bitset.h"

#define MEM_PAGE_SHIFT     12
#define MEM_PAGE_BYTES     4096ull
#define MEM_HOLE_START     (3ull << 30) /* RAM below the PCI hole ends here at most ... */
#define MEM_HOLE_END       (4ull << 30) /* ... and goes on here */
#define MEM_MAX_BLOCKS     4
#define MEM_BLOCK_NAME_LEN 32
#define MEM_MIN_BYTES      (1ull << 20)
#define MEM_MAX_BYTES      (16ull << 40)

enum mem_backend {
	MEM_ANON,    /* private anonymous memory, transparent huge pages advised (default) */
	MEM_MEMFD,   /* shared memory by memfd */
	MEM_HUGETLB, /* reserved 2 MiB huge pages */
};

struct mem_block {
	char name[MEM_BLOCK_NAME_LEN];
	uint64_t gpa;
	uint64_t size_bytes; /* multiple of the page size */
	uint64_t n_pages;
	uint8_t *hva;
	int fd;              /* memfd, or -1 */
	bool of_file;        /* parts of it are (mem_map_file()); constant once a guest runs */
	struct bitset marks; /* host marks: one bit a page */
};

struct mem {
	enum mem_backend backend;
	uint64_t size_bytes;
	unsigned n_blocks;
	struct mem_block blocks[MEM_MAX_BLOCKS];
};

/*
 * Reserve RAM of size_bytes in the PC layout. All zero, not in core dumps. -EINVAL for a size that
 * is no multiple of the page size (of 2 MiB with hugetlb) or out of [MEM_MIN_BYTES, MEM_MAX_BYTES];
 * -ENOMEM and the mmap/memfd errors with a message.
 */
int mem_create(struct mem **out, enum mem_backend backend, uint64_t size_bytes, struct err *e);
void mem_free(struct mem *m);

/* All RAM back to zero and to the host. Only while no vCPU runs and no log is on. */
int mem_discard(struct mem *m, struct err *e);

/*
 * Let pages [page, page + n) of block b be those of a file from `offset` on, read when they are
 * first touched. What is written stays ours. The file must stay as long as it is: touching a page
 * that has gone from it ends the process. -ENOTSUP unless RAM is private memory. Only while no vCPU
 * runs.
 */
int mem_map_file(struct mem *m, unsigned b, uint64_t page, uint64_t n, int fd, uint64_t offset,
		 struct err *e);
/*
 * Give part of a block (page-aligned) back to the host: it reads as zeroes from here on. The caller
 * marks it. -errno: some of it may be as it was. Not for huge pages, which would lose their
 * reservation.
 */
int mem_give_back(const struct mem_block *b, uint64_t offset, uint64_t len);

/*
 * Is the page at hand a hole, never written and not allocated? *end_page: how far that answer
 * holds. Only shared memory can tell (false otherwise), and it should be asked: reading a hole
 * there allocates it. The guest may write it at any moment: ask after the page was protected.
 */
bool mem_hole(const struct mem_block *b, uint64_t page, uint64_t *end_page);

/* "anon", "memfd", "hugetlb". -EINVAL for another text. */
int mem_backend_parse(const char *text, enum mem_backend *out);
const char *mem_backend_name(enum mem_backend b);

/* The block that holds this address; NULL if none does. */
const struct mem_block *mem_block_at(const struct mem *m, uint64_t gpa);

/*
 * Our address of [gpa, gpa+len), which must lie inside one block (len 0 needs a valid gpa as well);
 * NULL otherwise. For reading, or for writing followed by mem_mark().
 */
void *mem_host(const struct mem *m, uint64_t gpa, uint64_t len);
/* The bytes from gpa to the end of its block; 0 if gpa is no RAM. */
uint64_t mem_run(const struct mem *m, uint64_t gpa);

/* Copies across block borders are refused like addresses outside RAM: -EFAULT. */
int mem_read(const struct mem *m, uint64_t gpa, void *to, uint64_t len);
int mem_write(struct mem *m, uint64_t gpa, const void *from, uint64_t len);
int mem_set(struct mem *m, uint64_t gpa, uint8_t value, uint64_t len);

/* The host wrote [gpa, gpa+len): mark its pages. Addresses outside RAM are ignored. */
void mem_mark(struct mem *m, uint64_t gpa, uint64_t len);

/*
 * Take the host marks of 64 pages: returns word `word` of block b's marks and clears it. Only one
 * thread at a time calls it (who starts and who syncs the dirty log).
 */
uint64_t mem_marks_take(struct mem *m, unsigned b, uint64_t word);
/* The first word of block b at or after `from` that holds marks, or one past its last word. */
uint64_t mem_marks_next(const struct mem *m, unsigned b, uint64_t from);

#endif
