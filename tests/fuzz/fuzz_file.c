/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target for saved guests: the input is a list of changes to a file that the program's own
 * writer has written, with sections of every kind. Whatever is in the file then, it is inspected,
 * checked, and restored, whole and on demand: a message or a guest of the right shape. With a wrong
 * checksum nothing but the guest that was saved may come of it; the input may have it made right
 * again.
 *
 * `make fuzz` builds and runs it; see CONTRIBUTING.md.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xxhash.h>

#include "mem/page.h"
#include "migration/file_save.h"
#include "migration/restore.h"
#include "vmm/cli/cli.h"
#include "vmm/section_tables.h"

#define RAM_BYTES   (1ull << 20)
#define RAM_PAGES   (RAM_BYTES / MEM_PAGE_BYTES)
#define HEAD_BYTES  512u         /* what describes the RAM, and a few of the zeroes behind it */
#define TAIL_ROOM   (256u << 10) /* of what the writer wrote and the input adds */
#define LONGER_MAX  (64u << 20)  /* by so much the input makes a file longer, of holes */
#define SUM_AT(end) ((end)-MIG_FILE_CHECKSUM_CHARS - strlen(MIG_FILE_END))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(bool what)
{
	if (!what)
		abort();
}

/* ---- a machine with a piece of state of each kind ---- */

static const char *const names[] = {
	"vcpu",          "irqchip",    "pit",       "clock", "serial",
	"cmos",          "reset",      "acpi-pm",   "input", "virtio-blk",
	"virtio-net",    "virtio-rng", "processor", "vcpu",  "virtio-balloon",
	"virtio-console"};
#define N_SECTIONS (sizeof(names) / sizeof(names[0]))

static struct mig_section sections[N_SECTIONS];
static struct mem *saved_ram, *ram;

static int admit(void *ctx, struct err *e)
{
	(void)ctx;
	(void)e;
	return 0;
}

static const struct mig_machine machine = {
	.admit = admit, .sections = sections, .n_sections = N_SECTIONS, .n_cpus = 1};

static void make_sections(void)
{
	for (uint32_t i = 0; i < N_SECTIONS; i++) {
		const struct field_table *t = section_table(names[i]);

		must(t != NULL);
		/* The second of a kind is number 1. */
		sections[i] = (struct mig_section){
			.instance = i == 13, .table = t, .data = calloc(1, fields_struct_bytes(t))};
		must(sections[i].data != NULL);
	}
}

/* ---- the file as it was written ---- */

static const unsigned present[] = {0, 2, 3, 4, 100, 255};
#define N_PRESENT (sizeof(present) / sizeof(present[0]))

struct parts {
	uint8_t head[HEAD_BYTES];
	uint8_t pages[N_PRESENT][MEM_PAGE_BYTES];
	uint8_t tail[TAIL_ROOM];
	size_t tail_bytes;
};

static struct parts written;
static struct mig_file_layout layout;
static int fd = -1, out_fd = -1;
static char path[32];

static void get(void *to, size_t n, uint64_t at)
{
	must(pread(fd, to, n, (off_t)at) == (ssize_t)n);
}

static void put(const void *from, size_t n, uint64_t at)
{
	must(pwrite(fd, from, n, (off_t)at) == (ssize_t)n);
}

static uint64_t page_at(unsigned i)
{
	return mig_file_page_offset(&layout.blocks[0], present[i]);
}

static void write_with_ferry(void)
{
	const struct mig_file_params params = {.n_threads = 1};
	const struct mig_file_guest guest = {
		.name_len = 4, .name = "fuzz", .n_cpus = 1, .was_running = 1, .n_blocks = 1};
	static struct mig_file_save save;

	for (unsigned i = 0; i < N_PRESENT; i++)
		memset(saved_ram->blocks[0].hva + present[i] * MEM_PAGE_BYTES, (int)(i + 1),
		       MEM_PAGE_BYTES);
	must(!mig_file_save_init(&save, saved_ram, fd, &params, NULL, NULL));
	must(!mig_file_save_pages(&save, NULL));
	save.hot[0] = true;
	must(!mig_file_save_rest(&save, &guest, &machine, NULL));
	layout = save.layout;
	mig_file_save_free(&save);
}

static void set_up(void)
{
	off_t end;

	make_sections();
	must(!mem_create(&saved_ram, MEM_ANON, RAM_BYTES, NULL));
	must(!mem_create(&ram, MEM_ANON, RAM_BYTES, NULL));
	fd = memfd_create("saved", MFD_CLOEXEC);
	/* What is said of the file goes nowhere, but through all of the program. */
	out_fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
	must(fd >= 0 && out_fd >= 0 && dup2(out_fd, STDOUT_FILENO) == STDOUT_FILENO);
	(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	write_with_ferry();
	end = lseek(fd, 0, SEEK_END);
	must(end > (off_t)layout.tail_offset && end < (off_t)(layout.tail_offset + TAIL_ROOM / 2));
	written.tail_bytes = (size_t)end - layout.tail_offset;
	get(written.head, sizeof(written.head), 0);
	get(written.tail, written.tail_bytes, layout.tail_offset);
	for (unsigned i = 0; i < N_PRESENT; i++)
		get(written.pages[i], MEM_PAGE_BYTES, page_at(i));
}

/* ---- the input's changes ---- */

struct input {
	const uint8_t *at;
	size_t left;
	struct parts now;
	uint64_t file_bytes; /* 0: as it comes */
};

static uint64_t next(struct input *in, unsigned bytes)
{
	uint64_t v = 0;

	for (; bytes && in->left; bytes--, in->left--)
		v = v << 8 | *in->at++;
	return v;
}

static void some_bytes(struct input *in, uint8_t *to, size_t n)
{
	n = n < in->left ? n : in->left;
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
}

/* Make room for n bytes at this place of the tail, or take them out. */
static void insert(struct input *in, size_t at, size_t n)
{
	struct parts *p = &in->now;

	if (p->tail_bytes + n > TAIL_ROOM)
		return;
	memmove(p->tail + at + n, p->tail + at, p->tail_bytes - at);
	p->tail_bytes += n;
	some_bytes(in, p->tail + at, n);
}

static void take_out(struct input *in, size_t at, size_t n)
{
	struct parts *p = &in->now;

	n = n < p->tail_bytes - at ? n : p->tail_bytes - at;
	memmove(p->tail + at, p->tail + at + n, p->tail_bytes - at - n);
	p->tail_bytes -= n;
}

static uint64_t number(struct input *in)
{
	static const uint64_t some[] = {0,          1,          RAM_BYTES,      RAM_BYTES + 1,
					UINT32_MAX, UINT64_MAX, UINT64_MAX - 7, INT64_MAX};
	uint64_t how = next(in, 1);

	return how < 8 ? some[how] : next(in, 1 + how % 8);
}

static void change(struct input *in)
{
	struct parts *p = &in->now;
	uint64_t what = next(in, 1), at = next(in, 2), v;
	uint8_t *area = p->tail;
	size_t room = p->tail_bytes, n, width;

	if (what & 1) {
		area = p->head;
		room = sizeof(p->head);
	} else if (what & 2) {
		area = p->pages[0];
		room = sizeof(p->pages);
	}
	if (!room)
		return;
	at %= room;
	n = room - at;
	switch (what >> 2 & 7) {
	case 0:
		area[at] ^= (uint8_t)next(in, 1);
		break;
	case 1:
	case 2:
		width = (what >> 2 & 7) == 1 ? 8 : 4;
		v = number(in);
		for (size_t i = 0; i < width && i < n; i++)
			area[at + i] = (uint8_t)(v >> 8 * (width - 1 - i));
		break;
	case 3:
		v = next(in, 1);
		some_bytes(in, area + at, v < n ? v : n);
		break;
	case 4:
		insert(in, at % (p->tail_bytes + 1), next(in, 1));
		break;
	case 5:
		take_out(in, at % (p->tail_bytes + 1), next(in, 2));
		break;
	case 6:
		in->file_bytes = what & 1 ? layout.tail_offset + at : 1 + at;
		break;
	default:
		in->file_bytes = layout.tail_offset + number(in) % LONGER_MAX;
		break;
	}
}

/* The checksum that the reader expects, if the pages are where they were. */
static void make_sum_right(struct parts *p)
{
	static const uint8_t zeroes[RAM_BYTES];
	XXH3_state_t *sum = XXH3_createState();
	char digits[MIG_FILE_CHECKSUM_CHARS + 1];

	if (p->tail_bytes > MIG_FILE_CHECKSUM_CHARS + strlen(MIG_FILE_END)) {
		(void)XXH3_64bits_reset(sum);
		(void)XXH3_64bits_update(sum, p->head, sizeof(p->head));
		(void)XXH3_64bits_update(sum, zeroes, layout.blocks[0].pages_offset - HEAD_BYTES);
		(void)XXH3_64bits_update(sum, p->tail, SUM_AT(p->tail_bytes));
		(void)snprintf(digits, sizeof(digits), "%016" PRIx64,
			       (uint64_t)XXH3_64bits_digest(sum));
		memcpy(p->tail + SUM_AT(p->tail_bytes), digits, MIG_FILE_CHECKSUM_CHARS);
	}
	(void)XXH3_freeState(sum);
}

static void write_file(const struct input *in)
{
	const struct parts *p = &in->now;

	must(!ftruncate(fd, 0));
	must(!ftruncate(fd, (off_t)layout.tail_offset));
	put(p->head, sizeof(p->head), 0);
	for (unsigned i = 0; i < N_PRESENT; i++)
		put(p->pages[i], MEM_PAGE_BYTES, page_at(i));
	put(p->tail, p->tail_bytes, layout.tail_offset);
	if (in->file_bytes)
		must(!ftruncate(fd, (off_t)in->file_bytes));
}

/* ---- what reads it ---- */

static void inspect(bool json)
{
	char *const argv[] = {path, "--verify", "--json", NULL};

	must(cli_inspect(json ? 3 : 2, argv) <= EXIT_FAILED);
}

static bool same_ram(void)
{
	return !memcmp(ram->blocks[0].hva, saved_ram->blocks[0].hva, RAM_BYTES);
}

static bool same_state(void)
{
	for (unsigned i = 0; i < N_SECTIONS; i++) {
		const uint8_t *data = sections[i].data;
		size_t n = fields_struct_bytes(sections[i].table);

		for (size_t at = 0; at < n; at++)
			if (data[at])
				return false;
	}
	return true;
}

/* Whole, then on demand; RAM is empty before and after. Whether both led to a guest. */
static bool restore(const struct mig_file *f, bool genuine)
{
	const struct mig_file_load how = {.n_threads = 1};
	int rc;

	if (mig_restore_sections(f, ram, &machine, NULL))
		return false;
	must(!genuine || same_state());
	rc = mig_file_load(f, ram, &how, NULL);
	must(rc || !genuine || same_ram());
	must(!mem_discard(ram, NULL));
	if (rc)
		return false;
	must(!mig_file_map(f, ram, NULL));
	rc = mig_file_prefetch(f, ram, &how, NULL);
	must(rc || !genuine || same_ram());
	must(!mem_discard(ram, NULL));
	for (uint64_t i = 0; i < RAM_PAGES; i++)
		must(page_is_zero(ram->blocks[0].hva + i * MEM_PAGE_BYTES));
	return !rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct input in;
	struct mig_file *f;
	bool genuine, back = false;
	uint64_t how;

	if (fd < 0)
		set_up();
	in.at = data;
	in.left = len;
	in.now = written;
	in.file_bytes = 0;
	how = next(&in, 1);
	while (in.left)
		change(&in);
	genuine = !(how & 1);
	if (!genuine)
		make_sum_right(&in.now);
	write_file(&in);
	if (how & 6)
		inspect(how & 2);
	for (unsigned i = 0; i < N_SECTIONS; i++)
		memset(sections[i].data, 0, fields_struct_bytes(sections[i].table));
	if (!mig_file_open(&f, path, NULL)) {
		back = restore(f, genuine);
		mig_file_close(f);
	}
	/* If the file as it was written is refused, all of this tests next to nothing. */
	must(len || back);
	return 0;
}
