/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/ram.h"

#include <stdbool.h>

#include "guest/lib/boot.h"
#include "guest/lib/say.h"

#define PAGE         4096UL
#define LARGE        (2UL << 20)
#define GIB          (1UL << 30)
#define MIB          (1UL << 20)
#define PDPT_ENTRIES 512UL
#define PTE_TABLE    0x07 /* user, writable, present */
#define PTE_LARGE    0x87

extern char image_end[];
extern uint64_t boot_pdpt[];

static uint64_t next_free, free_end;

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* If [start, end) meets a module, the module's end; else `start`. */
static uint64_t skip_modules(uint64_t start, uint64_t end)
{
	const struct boot_info *b = boot_info();

	for (unsigned int i = 0; i < b->nr_modules; i++) {
		const struct boot_range *m = &b->modules[i];

		if (m->start < end && m->start + m->bytes > start)
			return m->start + m->bytes;
	}
	return start;
}

static void map_gib(uint64_t gib)
{
	uint64_t *pd;

	if (gib >= PDPT_ENTRIES)
		die("more RAM than 512 GiB");
	if (boot_pdpt[gib])
		return;
	pd = ram_alloc(PAGE);
	for (uint64_t i = 0; i < GIB / LARGE; i++)
		pd[i] = (gib * GIB + i * LARGE) | PTE_LARGE;
	boot_pdpt[gib] = (uint64_t)(uintptr_t)pd | PTE_TABLE;
}

void ram_init(void)
{
	const struct boot_info *b = boot_info();
	uint64_t image = (uint64_t)(uintptr_t)image_end;

	for (unsigned int i = 0; i < b->nr_ram; i++)
		if (b->ram[i].start < image && image <= b->ram[i].start + b->ram[i].bytes)
			free_end = b->ram[i].start + b->ram[i].bytes;
	if (!free_end)
		die("the image isn't in RAM");
	next_free = round_up(image, PAGE);

	for (unsigned int i = 0; i < b->nr_ram; i++) {
		uint64_t end = b->ram[i].start + b->ram[i].bytes;

		for (uint64_t gib = b->ram[i].start / GIB; gib * GIB < end; gib++)
			map_gib(gib);
	}
}

void *ram_alloc(uint64_t bytes)
{
	uint64_t start, skipped = next_free;

	bytes = round_up(bytes, PAGE);
	do {
		start = round_up(skipped, PAGE);
		skipped = skip_modules(start, start + bytes);
	} while (skipped != start);
	if (bytes > free_end || start > free_end - bytes)
		die("out of memory");
	next_free = start + bytes;
	return (void *)(uintptr_t)start;
}

/* Add [start, end) without modules, in large-page steps, as far as `want_pages` goes. */
static void add_pieces(struct ram_region *r, uint64_t start, uint64_t end, uint64_t want_pages)
{
	uint64_t run = 0;

	start = round_up(start, LARGE);
	end = end / LARGE * LARGE;
	for (uint64_t at = start; at < end && r->nr_pages < want_pages; at += LARGE) {
		uint64_t pages = LARGE / PAGE;

		if (skip_modules(at, at + LARGE) != at) {
			run = 0;
			continue;
		}
		if (pages > want_pages - r->nr_pages)
			pages = want_pages - r->nr_pages;
		if (!run) {
			if (r->nr_pieces == RAM_PIECES_MAX)
				return;
			r->piece[r->nr_pieces].first_page = r->nr_pages;
			r->piece[r->nr_pieces].gpa = at;
			r->piece[r->nr_pieces].nr_pages = 0;
			r->nr_pieces++;
		}
		run += pages;
		r->piece[r->nr_pieces - 1].nr_pages = run;
		r->nr_pages += pages;
	}
}

void ram_take(struct ram_region *r, uint64_t bytes)
{
	const struct boot_info *b = boot_info();
	uint64_t want_pages = bytes / PAGE;

	r->nr_pages = 0;
	r->nr_pieces = 0;
	for (unsigned int i = 0; i < b->nr_ram; i++) {
		uint64_t start = b->ram[i].start, end = start + b->ram[i].bytes;

		if (end == free_end)
			start = next_free;
		if (start >= MIB)
			add_pieces(r, start, end, want_pages);
	}
	free_end = 0;
}
