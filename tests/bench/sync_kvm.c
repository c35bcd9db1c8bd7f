/* SPDX-License-Identifier: Apache-2.0 */
/* KVM's own part of a sync: the log of slots far larger than this host's memory. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/kvm.h>

#include "kvm/dirty_log.h"
#include "kvm/vcpu.h"
#include "mem/bits.h"
#include "migration/bitmap.h"
#include "migration/pages.h"
#include "tests/bench/sync.h"

#define CODE_GPA      0x10000ull
#define PML4_GPA      0x100000ull
#define PDPT_GPA      0x101000ull
#define TABLES_GPA    0x200000ull /* one page for each GiB */
#define CLUSTER_PAGES 64          /* what is dirty lies in such stretches, evenly spread */

struct kvm_bench {
	struct mem *mem;
	struct vm *vm;
	struct vcpu *vcpu;
	struct dirty_log log;
	struct mig_bitmap map;
	struct err e;
};

/*
 * 1: mov rbx,rdi; mov edx,64; 2: mov [rbx],rcx; add rbx,4096; dec edx; jnz 2b; add rdi,r8; dec rcx;
 * jnz 1b; out 0x10,al
 */
static const uint8_t touch_code[] = {0x48, 0x89, 0xfb, 0xba, 0x40, 0x00, 0x00, 0x00,
				     0x48, 0x89, 0x0b, 0x48, 0x81, 0xc3, 0x00, 0x10,
				     0x00, 0x00, 0xff, 0xca, 0x75, 0xf2, 0x4c, 0x01,
				     0xc7, 0x48, 0xff, 0xc9, 0x75, 0xe2, 0xe6, 0x10};

static struct mem_block *high(const struct kvm_bench *b)
{
	return &b->mem->blocks[b->mem->n_blocks - 1];
}

/* User code in long mode, all RAM mapped where it is. */
static int enter_long_mode(struct kvm_bench *b, uint64_t gib)
{
	const uint64_t flags = 7, large = 0x87; /* present, writable, for users; 2 MiB */
	uint64_t entry = PDPT_GPA | flags;
	struct kvm_sregs s;
	int rc = mem_write(b->mem, PML4_GPA, &entry, sizeof(entry));

	for (uint64_t g = 0; g < gib && !rc; g++) {
		uint64_t table[512];

		for (uint64_t i = 0; i < 512; i++)
			table[i] = (g << 30 | i << 21) | large;
		entry = (TABLES_GPA + g * MEM_PAGE_BYTES) | flags;
		rc = mem_write(b->mem, PDPT_GPA + g * sizeof(entry), &entry, sizeof(entry));
		rc = rc ? rc
			: mem_write(b->mem, TABLES_GPA + g * MEM_PAGE_BYTES, table, sizeof(table));
	}
	if (!rc)
		rc = mem_write(b->mem, CODE_GPA, touch_code, sizeof(touch_code));
	if (rc || vcpu_set_boot(b->vcpu, CODE_GPA, 0, 0, &b->e) ||
	    ioctl(b->vcpu->fd, KVM_GET_SREGS, &s))
		return -EIO;
	s.cr3 = PML4_GPA;
	s.cr4 |= 0x20;
	s.cr0 |= 0x80000000;
	s.efer |= 0x500;
	s.cs.l = 1;
	s.cs.db = 0;
	s.cs.dpl = s.ss.dpl = s.ds.dpl = s.es.dpl = 3;
	s.cs.selector |= 3;
	s.ss.selector |= 3;
	s.ds.selector |= 3;
	s.es.selector |= 3;
	return ioctl(b->vcpu->fd, KVM_SET_SREGS, &s) ? -errno : 0;
}

/* Have the guest write this part of its upper block. How many pages that is, or 0. */
static uint64_t touch(struct kvm_bench *b, double part)
{
	const struct mem_block *h = high(b);
	uint64_t stride = (uint64_t)(CLUSTER_PAGES / part), n = h->n_pages / stride;
	const uint64_t cluster = CLUSTER_PAGES * MEM_PAGE_BYTES;
	struct kvm_regs r = {.rip = CODE_GPA,
			     .rflags = 0x3002, /* users may do I/O */
			     .rdi = h->gpa,
			     .rcx = n,
			     .r8 = stride * MEM_PAGE_BYTES};
	struct vcpu_exit ex;

	for (uint64_t i = 0; i < n; i++) {
		if (madvise(h->hva + i * stride * MEM_PAGE_BYTES, cluster, MADV_POPULATE_WRITE))
			return 0;
	}
	if (ioctl(b->vcpu->fd, KVM_SET_REGS, &r))
		return 0;
	do
		vcpu_run(b->vcpu, &ex);
	while (ex.kind == VCPU_EXIT_INTERRUPTED);
	if (ex.kind != VCPU_EXIT_IO) {
		char text[512] = "";

		vcpu_describe_exit(b->vcpu, &ex, text, sizeof(text));
		(void)fprintf(stderr, "the guest stopped: %s\n", text);
		return 0;
	}
	return n * CLUSTER_PAGES;
}

struct cost {
	double get_ms, merge_ms, clear_ms;
	uint64_t pages, get_calls, clear_calls;
};

static int get_all(struct kvm_bench *b, struct cost *c)
{
	uint64_t calls = b->log.read_calls;

	for (unsigned i = 0; i < b->vm->n_slots; i++) {
		struct dirty_log_part part;
		uint64_t begin_ns = bench_now_ns();
		int rc = dirty_log_read(&b->log, i, &part, &b->e);

		if (rc)
			return rc;
		c->get_ms += bench_ms(begin_ns);
		begin_ns = bench_now_ns();
		c->pages += mig_bitmap_merge(&b->map, part.block, part.first_page, part.words,
					     part.n_pages);
		c->merge_ms += bench_ms(begin_ns);
	}
	c->get_calls = b->log.read_calls - calls;
	return 0;
}

/* In windows, as a sender does. */
static int clear_all(struct kvm_bench *b, struct cost *c)
{
	uint64_t window[MIG_WINDOW_WORDS], calls = b->log.clear_calls, n;
	int rc = 0;

	for (unsigned k = 0; k < b->map.n_blocks; k++) {
		const struct bitset *s = &b->map.blocks[k];

		for (uint64_t w = 0; (w = bitset_next_word(s, w)) < s->n_words && !rc; w += n) {
			uint64_t begin_ns;

			for (n = 0; n < MIG_WINDOW_WORDS && w + n < s->n_words; n++)
				window[n] = mig_bitmap_take(&b->map, k, w + n, ~0ull);
			begin_ns = bench_now_ns();
			rc = dirty_log_protect(&b->log, k, w, window, n, &b->e);
			c->clear_ms += bench_ms(begin_ns);
		}
	}
	c->clear_calls = b->log.clear_calls - calls;
	return rc;
}

static int row(struct kvm_bench *b, const char *name)
{
	struct cost c = {0};
	int rc = get_all(b, &c);

	rc = rc ? rc : clear_all(b, &c);
	if (!rc)
		(void)printf("| %s | %llu | %llu | %.2f | %.2f | %llu | %.2f |\n", name,
			     (unsigned long long)c.pages, (unsigned long long)c.get_calls, c.get_ms,
			     c.merge_ms, (unsigned long long)c.clear_calls, c.clear_ms);
	(void)fflush(stdout);
	return rc;
}

static int rows(struct kvm_bench *b)
{
	uint64_t begin_ns = bench_now_ns();
	int rc = dirty_log_start(&b->log, &b->e);

	if (rc)
		return rc;
	(void)printf("| log on | | | %.2f | | | |\n", bench_ms(begin_ns));
	rc = row(b, "all, as the log begins");
	rc = rc ? rc : row(b, "none");
	if (!rc && !touch(b, 0.001))
		return err_set(&b->e, EIO, "the guest cannot write");
	rc = rc ? rc : row(b, "0.1 %");
	if (!rc && !touch(b, 0.01))
		return err_set(&b->e, EIO, "the guest cannot write");
	rc = rc ? rc : row(b, "1 %");
	rc = rc ? rc : row(b, "none");
	return rc;
}

static int build(struct kvm_bench *b, uint64_t gib, uint64_t slot_pages)
{
	const struct vm_config cfg = {.kvm_fd = -1, .slot_pages = slot_pages};
	uint64_t pages[MEM_MAX_BLOCKS];
	int rc = mem_create(&b->mem, MEM_ANON, gib << 30, &b->e);

	if (rc)
		return rc;
	/* Or a page that is written here and there would take 2 MiB each time. */
	(void)madvise(high(b)->hva, high(b)->size_bytes, MADV_NOHUGEPAGE);
	for (unsigned i = 0; i < b->mem->n_blocks; i++)
		pages[i] = b->mem->blocks[i].n_pages;
	if (mig_bitmap_init(&b->map, pages, b->mem->n_blocks))
		return err_set(&b->e, ENOMEM, "out of memory");
	mig_bitmap_fill(&b->map);
	for (unsigned k = 0; k < b->mem->n_blocks; k++) {
		for (uint64_t w = 0; w < b->map.blocks[k].n_words; w++)
			(void)mig_bitmap_take(&b->map, k, w, ~0ull);
	}
	rc = vm_create(&b->vm, &cfg, b->mem, &b->e);
	rc = rc ? rc : vcpu_create(&b->vcpu, b->vm, 0, 1, &b->e);
	return rc ? rc : enter_long_mode(b, gib + 1);
}

static int measure(uint64_t gib, uint64_t slot_pages, const char *name)
{
	struct kvm_bench b = {.e = ERR_INIT};
	int rc = build(&b, gib, slot_pages);

	if (!rc) {
		(void)printf("\n%llu GiB, %s (%u slots)\n\n"
			     "| dirty | pages | GETs | GET ms | merge ms | CLEARs | CLEAR ms |\n"
			     "|---|---|---|---|---|---|---|\n",
			     (unsigned long long)gib, name, b.vm->n_slots);
		dirty_log_init(&b.log, b.vm);
		rc = rows(&b);
		dirty_log_stop(&b.log);
	}
	if (rc)
		(void)fprintf(stderr, "the part with KVM failed (%d): %s\n", rc, b.e.msg);
	vcpu_free(b.vcpu);
	vm_free(b.vm);
	mig_bitmap_free(&b.map);
	mem_free(b.mem);
	return rc != 0;
}

static uint64_t available_gib(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[256];

	while (f && !kib && fgets(line, sizeof(line), f))
		(void)sscanf(line, "MemAvailable: %llu kB", &kib);
	if (f)
		(void)fclose(f);
	return kib >> 20;
}

int bench_kvm(uint64_t gib)
{
	/* KVM's records of the slots, the pages that are written, their tables; and as much again.
	 */
	uint64_t need_gib = 3 + gib / 32;

	if (gib < 8 || gib > 256) {
		(void)fprintf(stderr, "the part with KVM takes 8 to 256 GiB\n");
		return 2;
	}
	if (available_gib() < need_gib) {
		(void)printf("\nSKIP kvm: needs %llu GiB of free memory\n",
			     (unsigned long long)need_gib);
		return 0;
	}
	return measure(gib, 0, "slots that begin with a word of the map") ||
	       measure(gib, gib * GIB_PAGES, "slots as large as can be") ||
	       measure(gib, 33 * GIB_PAGES + 7, "slots that begin in the middle of words");
}
