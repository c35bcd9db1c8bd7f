/* SPDX-License-Identifier: Apache-2.0 */
/* Saving a guest to a file and bringing it back: that it is the same, whatever its RAM is like. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mem/page.h"
#include "tests/unit/support/pair.h"
#include "tests/unit/support/saved.h"

#define RAM (9 * SAVED_MIB)

static void round_trip(struct saved *s, uint64_t ram_bytes)
{
	struct err e = ERR_INIT;
	const char *wrong;

	ck_assert_msg(saved_save(s) == MIG_COMPLETED, "%s", s->status.error);
	ck_assert_msg(!saved_verify(s->path, &e), "%s", e.msg);
	ck_assert_msg(saved_restore(s, ram_bytes) == MIG_COMPLETED, "%s", s->status.error);
	wrong = saved_compare(s);
	ck_assert_msg(!wrong, "%s", wrong);
	ck_assert_uint_eq(saved_n_files(s->dir), 1);
}

START_TEST(comes_back)
{
	struct stat st;
	struct saved s;

	saved_up(&s, RAM, 1);
	synth_fill(s.src, 3, 1500);
	synth_fill(s.src, 2303, 1);
	s.cfg.go_on = true;
	for (unsigned i = 1; i <= 8; i *= 2) {
		s.cfg.params.n_threads = i;
		round_trip(&s, RAM);
	}
	ck_assert_uint_eq(s.status.normal_pages, 1501);
	ck_assert_uint_eq(s.status.zero_pages, 9 * 256 - 1501);
	ck_assert_uint_eq(s.status.remaining_bytes, 0);
	/* Holes where the zeroes are, and nobody else may read it. */
	ck_assert_int_eq(stat(s.path, &st), 0);
	ck_assert_uint_lt((uint64_t)st.st_blocks * 512, 8 * SAVED_MIB);
	ck_assert_int_eq(st.st_mode & 0777, 0600);
	saved_down(&s);
}
END_TEST

START_TEST(every_kind_of_ram)
{
	struct saved s;

	saved_up(&s, RAM, 2);
	/* Nothing; every other page; all of it; an odd end. */
	round_trip(&s, RAM);
	for (uint64_t p = 0; p < synth_n_pages(s.src); p += 2)
		synth_fill(s.src, p, 1);
	round_trip(&s, RAM);
	synth_fill(s.src, 0, synth_n_pages(s.src));
	round_trip(&s, RAM);
	ck_assert_uint_eq(s.status.zero_pages, 0);
	saved_down(&s);
	saved_up(&s, SAVED_MIB + 5 * MEM_PAGE_BYTES, 3);
	synth_fill(s.src, 255, 6);
	round_trip(&s, SAVED_MIB + 5 * MEM_PAGE_BYTES);
	saved_down(&s);
}
END_TEST

START_TEST(two_blocks)
{
	const uint64_t ram = MEM_HOLE_START + 3 * SAVED_MIB;
	struct saved s;

	saved_up(&s, ram, 4);
	ck_assert_uint_eq(s.src->mem->n_blocks, 2);
	synth_fill(s.src, 100, 300);
	synth_fill(s.src, MEM_HOLE_START / MEM_PAGE_BYTES - 2, 4); /* across the border */
	synth_fill(s.src, ram / MEM_PAGE_BYTES - 1, 1);
	ck_assert_msg(saved_save(&s) == MIG_COMPLETED, "%s", s.status.error);
	ck_assert_msg(saved_restore(&s, ram) == MIG_COMPLETED, "%s", s.status.error);
	for (unsigned b = 0; b < 2; b++) {
		const struct mem_block *a = &s.src->mem->blocks[b], *c = &s.dst->mem->blocks[b];
		const uint64_t ends[] = {0, a->size_bytes - 4 * SAVED_MIB};

		/* Where there is something; the middle is gigabytes of nothing. */
		for (unsigned i = 0; i < 2 && a->size_bytes > 8 * SAVED_MIB; i++)
			ck_assert(!memcmp(a->hva + ends[i], c->hva + ends[i], 4 * SAVED_MIB));
		if (a->size_bytes <= 8 * SAVED_MIB)
			ck_assert(!memcmp(a->hva, c->hva, a->size_bytes));
	}
	saved_down(&s);
}
END_TEST

START_TEST(whoever_runs)
{
	struct saved s;

	saved_up(&s, RAM, 5);
	synth_fill(s.src, 0, 64);
	/* It stays paused. */
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	ck_assert_uint_eq(atomic_load(&s.src->calls[SYNTH_STAY]), 1);
	ck_assert_uint_eq(atomic_load(&s.src->calls[SYNTH_RESUME]), 0);
	ck_assert(!s.src->running);
	ck_assert_int_eq(saved_restore(&s, RAM), MIG_COMPLETED);
	ck_assert(s.back.runs_at_dest);
	/* It was paused when it was saved: it comes back paused. */
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	ck_assert_int_eq(saved_restore(&s, RAM), MIG_COMPLETED);
	ck_assert(s.back.taken_over && !s.back.runs_at_dest);
	saved_down(&s);
	/* It goes on. */
	saved_up(&s, RAM, 6);
	s.cfg.go_on = true;
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	ck_assert_uint_eq(atomic_load(&s.src->calls[SYNTH_STAY]), 0);
	ck_assert(s.src->running);
	saved_down(&s);
}
END_TEST

START_TEST(direct)
{
	struct saved s;

	saved_up(&s, RAM, 7);
	synth_fill(s.src, 10, 700);
	s.cfg.params.direct_io = true;
	if (saved_save(&s) != MIG_COMPLETED) {
		/* Not here: then it says so, and the guest goes on. */
		ck_assert_ptr_nonnull(strstr(s.status.error, "direct I/O"));
		ck_assert(s.src->running);
	} else {
		round_trip(&s, RAM);
	}
	saved_down(&s);
}
END_TEST

/* ---- what fails ---- */

static void keeps(struct saved *s, const char *reason)
{
	ck_assert_msg(strstr(s->status.error, reason) != NULL, "%s", s->status.error);
	ck_assert_msg(strstr(s->status.error, "the guest keeps running here") != NULL, "%s",
		      s->status.error);
	ck_assert(s->src->running);
	ck_assert(s->guest.runs_at_source);
	ck_assert_ptr_null(s->guest.violation);
}

/* Each callback fails in turn: the guest goes on, and the earlier file is what it was. */
START_TEST(callbacks_fail)
{
	static const enum synth_call calls[] = {SYNTH_PAUSE, SYNTH_COLLECT, SYNTH_STAY};
	size_t before_bytes, after_bytes;
	uint8_t *before, *after;
	struct saved s;

	saved_up(&s, RAM, 8);
	synth_fill(s.src, 10, 700);
	s.cfg.go_on = true;
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	before = saved_read(s.path, &before_bytes);
	s.cfg.go_on = false;
	synth_fill(s.src, 10, 900);
	for (unsigned i = 0; i < 2; i++) {
		atomic_store(&s.src->fail_at[calls[i]], atomic_load(&s.src->calls[calls[i]]) + 1);
		ck_assert_int_eq(saved_save(&s), MIG_FAILED);
		keeps(&s, "synthetic failure");
		ck_assert_uint_eq(saved_n_files(s.dir), 1);
		after = saved_read(s.path, &after_bytes);
		ck_assert(after_bytes == before_bytes && !memcmp(before, after, before_bytes));
		free(after);
	}
	/* This one comes when the file is there. */
	atomic_store(&s.src->fail_at[SYNTH_STAY], 1);
	ck_assert_int_eq(saved_save(&s), MIG_FAILED);
	keeps(&s, "the guest is saved, but");
	free(before);
	saved_down(&s);
}
END_TEST

START_TEST(bad_places)
{
	char path[128];
	struct saved s;

	saved_up(&s, RAM, 9);
	s.cfg.path = path;
	(void)snprintf(path, sizeof(path), "%s/none/guest", s.dir);
	ck_assert_int_eq(saved_save(&s), MIG_FAILED);
	keeps(&s, "No such file or directory");
	(void)snprintf(path, sizeof(path), "%s", s.dir);
	ck_assert_int_eq(saved_save(&s), MIG_FAILED);
	keeps(&s, "no regular file");
	(void)snprintf(path, sizeof(path), "%s/sub/", s.dir);
	ck_assert_int_eq(saved_save(&s), MIG_FAILED);
	keeps(&s, "no name of a file");
	(void)snprintf(path, sizeof(path), "/dev/null");
	ck_assert_int_eq(saved_save(&s), MIG_FAILED);
	keeps(&s, "no regular file");
	(void)snprintf(path, sizeof(path), "/proc/guest");
	ck_assert_int_eq(saved_save(&s), MIG_FAILED);
	keeps(&s, "cannot save to");
	ck_assert_uint_eq(saved_n_files(s.dir), 0);
	/* Nobody paused the guest for that. */
	ck_assert_uint_eq(atomic_load(&s.src->calls[SYNTH_PAUSE]), 0);
	saved_down(&s);
}
END_TEST

/* A link is followed: what it leads to is replaced, the link stays. */
START_TEST(link_is_followed)
{
	char link[128], real[128];
	struct stat st;
	struct saved s;

	saved_up(&s, RAM, 10);
	s.cfg.go_on = true;
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	(void)snprintf(link, sizeof(link), "%s/link", s.dir);
	(void)snprintf(real, sizeof(real), "%s", s.path);
	ck_assert_int_eq(symlink("guest", link), 0);
	ck_assert_int_eq(truncate(real, 5), 0);
	s.cfg.path = link;
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	ck_assert_int_eq(lstat(link, &st), 0);
	ck_assert(S_ISLNK(st.st_mode));
	ck_assert_int_eq(saved_verify(real, NULL), 0);
	saved_down(&s);
}
END_TEST

/* Whenever the cancel comes: either the file is whole, or it is not there. */
START_TEST(cancelled)
{
	struct saved s;

	saved_up(&s, 64 * SAVED_MIB, 11);
	synth_fill(s.src, 0, synth_n_pages(s.src));
	s.cfg.go_on = true;
	for (unsigned i = 0; i < 20; i++) {
		struct timespec ts = {0, (long)i * 2000000};
		struct mig_save *save;
		struct err e = ERR_INIT;
		enum mig_state end;

		watch_reset(&s.src->watch);
		(void)unlink(s.path);
		ck_assert_msg(!mig_save_start(&save, &s.cfg, &e), "%s", e.msg);
		(void)nanosleep(&ts, NULL);
		mig_save_cancel(save);
		ck_assert(watch_wait(&s.src->watch, WATCH_ENDED, SYNTH_WAIT_MS));
		mig_save_status(save, &s.status);
		end = s.status.state;
		ck_assert(end == MIG_CANCELLED || end == MIG_COMPLETED);
		mig_save_free(save);
		ck_assert_uint_eq(saved_n_files(s.dir), end == MIG_COMPLETED);
		if (end == MIG_CANCELLED)
			keeps(&s, "cancelled");
		else
			ck_assert_msg(!saved_verify(s.path, &e), "%s", e.msg);
		ck_assert(s.src->running);
	}
	saved_down(&s);
}
END_TEST

START_TEST(other_shape)
{
	struct saved s;

	saved_up(&s, RAM, 12);
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	ck_assert_int_eq(saved_restore(&s, 8 * SAVED_MIB), MIG_FAILED);
	ck_assert_ptr_nonnull(strstr(s.status.error, "use --mem 9216K"));
	ck_assert_uint_eq(atomic_load(&s.dst->calls[SYNTH_APPLY]), 0);
	saved_down(&s);
}
END_TEST

/* Mapped from the file: the same guest; what it writes and gives back is not the file's. */
START_TEST(on_demand)
{
	const struct mem_block *b;
	size_t before_bytes, after_bytes;
	uint8_t *before, *after;
	struct saved s;

	saved_up(&s, RAM, 14);
	s.on_demand = true;
	synth_fill(s.src, 3, 1500);
	synth_fill(s.src, 2303, 1);
	s.cfg.go_on = true;
	round_trip(&s, RAM);
	ck_assert_uint_eq(s.status.normal_pages, 1501);
	ck_assert_uint_eq(s.status.remaining_bytes, 0);
	before = saved_read(s.path, &before_bytes);
	b = &s.dst->mem->blocks[0];
	memset(b->hva, 0x5a, 64 * MEM_PAGE_BYTES);
	ck_assert_int_eq(mem_give_back(b, 32 * MEM_PAGE_BYTES, 64 * MEM_PAGE_BYTES), 0);
	ck_assert_uint_eq(b->hva[31 * MEM_PAGE_BYTES], 0x5a);
	for (uint64_t p = 32; p < 96; p++)
		ck_assert(page_is_zero(b->hva + p * MEM_PAGE_BYTES));
	ck_assert(!page_is_zero(b->hva + 96 * MEM_PAGE_BYTES));
	after = saved_read(s.path, &after_bytes);
	ck_assert(before_bytes == after_bytes && !memcmp(before, after, before_bytes));
	ck_assert_int_eq(mem_discard(s.dst->mem, NULL), 0);
	for (uint64_t p = 0; p < 2304; p++)
		ck_assert(page_is_zero(b->hva + p * MEM_PAGE_BYTES));
	free(before);
	free(after);
	saved_down(&s);
}
END_TEST

/* The guest runs already when the damage is found: it is paused. */
START_TEST(on_demand_damaged)
{
	struct saved s;
	int fd;

	saved_up(&s, RAM, 15);
	s.on_demand = true;
	synth_fill(s.src, 3, 1500);
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	fd = open(s.path, O_WRONLY);
	ck_assert_int_eq(pwrite(fd, "damage", 6, SAVED_MIB + 700 * 4096 + 17), 6);
	(void)close(fd);
	ck_assert_int_eq(saved_restore(&s, RAM), MIG_FAILED);
	ck_assert_ptr_nonnull(strstr(s.status.error, "the guest has been paused"));
	ck_assert_ptr_nonnull(strstr(s.status.error, "pages 512 to 767 of ram.low"));
	ck_assert(s.back.taken_over);
	ck_assert_uint_eq(atomic_load(&s.dst->calls[SYNTH_PAUSE]), 1);
	ck_assert_uint_eq(atomic_load(&s.dst->calls[SYNTH_STAY]), 1);
	/* It does not stop at once: it is asked again. */
	s.pause_fails = 1;
	ck_assert_int_eq(saved_restore(&s, RAM), MIG_FAILED);
	ck_assert_ptr_nonnull(strstr(s.status.error, "the guest has been paused"));
	ck_assert_uint_eq(atomic_load(&s.dst->calls[SYNTH_PAUSE]), 2);
	ck_assert_uint_eq(atomic_load(&s.dst->calls[SYNTH_STAY]), 1);
	/* The state, before. */
	fd = open(s.path, O_WRONLY);
	ck_assert_int_eq(pwrite(fd, "damage", 6, SAVED_MIB + RAM + 100), 6);
	(void)close(fd);
	ck_assert_int_eq(saved_restore(&s, RAM), MIG_FAILED);
	ck_assert(!s.back.taken_over);
	saved_down(&s);
}
END_TEST

/* The machine refuses the state: RAM is empty again. */
START_TEST(state_refused)
{
	const struct synth_config cfg = {.ram_bytes = RAM};
	struct saved s;

	saved_up(&s, RAM, 13);
	synth_fill(s.src, 0, 100);
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	s.back.no_source = true;
	for (unsigned i = 0; i < 2; i++) {
		struct mig_restore_config r = {.path = s.path, .params = {.n_threads = 1}};
		struct mig_restore *restore;
		struct mig_status st;

		synth_guest_init(&s.back);
		s.back.no_source = true;
		synth_free(s.dst);
		s.dst = synth_dest(&s.back, &cfg);
		r.mem = s.dst->mem;
		r.machine = s.dst->machine;
		r.on_event = watch_event;
		r.event_ctx = &s.dst->watch;
		atomic_store(&s.dst->fail_at[i ? SYNTH_TAKEN_OVER : SYNTH_APPLY], 1);
		ck_assert_int_eq(mig_restore_start(&restore, &r, NULL), 0);
		ck_assert(watch_wait(&s.dst->watch, WATCH_ENDED, SYNTH_WAIT_MS));
		mig_restore_status(restore, &st);
		mig_restore_free(restore);
		ck_assert_int_eq(st.state, MIG_FAILED);
		ck_assert_ptr_nonnull(strstr(st.error, "synthetic failure"));
		for (uint64_t p = 0; p < 100; p++)
			ck_assert_uint_eq(synth_page(s.dst, p)[17], 0);
	}
	saved_down(&s);
}
END_TEST

PAIR_SUITE("file", comes_back, every_kind_of_ram, two_blocks, whoever_runs, direct, callbacks_fail,
	   bad_places, link_is_followed, cancelled, other_shape, on_demand, on_demand_damaged,
	   state_refused)
