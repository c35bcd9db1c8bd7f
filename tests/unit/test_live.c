/* SPDX-License-Identifier: Apache-2.0 */
/* Saving a guest that runs: the file is the guest of one moment, whatever was written meanwhile. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mem/bits.h"
#include "migration/file_save.h"
#include "tests/unit/support/pair.h"
#include "tests/unit/support/saved.h"

#define RAM (32 * SAVED_MIB)

static struct mig_dirty_source dirty;

static void up(struct saved *s, uint64_t seed)
{
	saved_up(s, RAM, seed);
	synth_fill(s->src, 3, 6000);
	dirty = s->src->dirty;
	s->cfg.live = &dirty;
}

/* It stays paused in the end: what was saved can be compared with it. */
START_TEST(same_as_the_guest)
{
	struct err e = ERR_INIT;
	const char *wrong;
	struct saved s;

	for (unsigned i = 0; i < 3; i++) {
		up(&s, 31 + i);
		synth_start_writer(s.src, 0, 4000, i == 2 ? 0 : 20000);
		if (i == 1)
			synth_start_host_writer(s.src, 5000, 3000);
		ck_assert_msg(saved_save(&s) == MIG_COMPLETED, "%s", s.status.error);
		ck_assert(!s.src->running);
		ck_assert_uint_ge(s.status.passes, 2);
		ck_assert_uint_eq(s.status.remaining_bytes, 0);
		ck_assert_msg(!saved_verify(s.path, &e), "%s", e.msg);
		ck_assert_msg(saved_restore(&s, RAM) == MIG_COMPLETED, "%s", s.status.error);
		wrong = saved_compare(&s);
		ck_assert_msg(!wrong, "%s", wrong);
		ck_assert_uint_eq(atomic_load(&s.src->calls[SYNTH_STOP]), 1);
		saved_down(&s);
	}
}
END_TEST

/* It goes on, and is dark for copies only; two saves in a row, and one of a guest at rest. */
START_TEST(goes_on)
{
	struct err e = ERR_INIT;
	struct saved s;

	up(&s, 41);
	s.cfg.go_on = true;
	synth_start_writer(s.src, 0, 4000, 20000);
	for (unsigned i = 0; i < 2; i++) {
		s.cfg.params.direct_io = i == 1;
		if (saved_save(&s) != MIG_COMPLETED) {
			ck_assert(i == 1 && strstr(s.status.error, "direct I/O"));
			continue;
		}
		ck_assert(s.src->running);
		ck_assert_uint_gt(s.status.downtime_ns, 0);
		ck_assert_uint_lt(s.status.downtime_ns, s.status.total_ns);
		ck_assert_msg(!saved_verify(s.path, &e), "%s", e.msg);
		ck_assert_msg(saved_restore(&s, RAM) == MIG_COMPLETED, "%s", s.status.error);
		ck_assert(s.back.runs_at_dest);
	}
	ck_assert_ptr_null(s.guest.violation);
	saved_down(&s);
	up(&s, 42);
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	ck_assert_int_eq(saved_restore(&s, RAM), MIG_COMPLETED);
	ck_assert_ptr_null(saved_compare(&s));
	saved_down(&s);
}
END_TEST

/* It writes faster than the file takes it: slowed if that is wanted, and free in the end. */
START_TEST(slowed)
{
	struct saved s;

	for (unsigned i = 0; i < 2; i++) {
		up(&s, 45 + i);
		s.cfg.go_on = true;
		s.cfg.cpus = s.src->cpus;
		s.cfg.throttle = (struct mig_throttle_params){
			.auto_converge = i == 1, .trigger_percent = 50, .max_percent = 99};
		/* For every extent: so the file takes less than is written. */
		atomic_store(&s.src->delay_ns[SYNTH_PROTECT], 3 * NS_PER_MS);
		synth_start_writer(s.src, 0, 8000, 0);
		ck_assert_msg(saved_save(&s) == MIG_COMPLETED, "%s", s.status.error);
		if (i)
			ck_assert_uint_lt(atomic_load(&s.src->lowest_shares[0]), MIG_SHARE_FULL);
		else
			ck_assert_uint_eq(atomic_load(&s.src->lowest_shares[0]), MIG_SHARE_FULL);
		ck_assert_uint_eq(atomic_load(&s.src->lowest_shares[1]), MIG_SHARE_FULL);
		ck_assert_uint_eq(atomic_load(&s.src->shares[0]), MIG_SHARE_FULL);
		ck_assert_int_eq(s.status.throttle.stall_ns > 0, i == 1);
		ck_assert(!s.status.throttle.active);
		ck_assert_msg(saved_restore(&s, RAM) == MIG_COMPLETED, "%s", s.status.error);
		saved_down(&s);
	}
}
END_TEST

START_TEST(callbacks_fail)
{
	static const enum synth_call calls[] = {SYNTH_START, SYNTH_HARVEST, SYNTH_PROTECT,
						SYNTH_PAUSE, SYNTH_COLLECT, SYNTH_RESUME};
	struct saved s;

	up(&s, 51);
	s.cfg.go_on = true;
	for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		unsigned stops = atomic_load(&s.src->calls[SYNTH_STOP]);

		atomic_store(&s.src->fail_at[calls[i]], atomic_load(&s.src->calls[calls[i]]) + 1);
		ck_assert_int_eq(saved_save(&s), MIG_FAILED);
		ck_assert_ptr_nonnull(strstr(s.status.error, "synthetic failure"));
		ck_assert(s.src->running);
		ck_assert_uint_eq(atomic_load(&s.src->calls[SYNTH_STOP]), stops + 1);
		ck_assert_uint_eq(saved_n_files(s.dir), 0);
	}
	ck_assert_int_eq(saved_save(&s), MIG_COMPLETED);
	saved_down(&s);
}
END_TEST

/* Whenever the cancel comes. */
START_TEST(cancelled)
{
	struct saved s;

	up(&s, 61);
	s.cfg.go_on = true;
	synth_start_writer(s.src, 0, 4000, 20000);
	for (unsigned i = 0; i < 12; i++) {
		struct timespec ts = {0, (long)i * 3000000};
		struct mig_save *save;
		struct err e = ERR_INIT;
		struct mig_status st;

		watch_reset(&s.src->watch);
		(void)unlink(s.path);
		ck_assert_msg(!mig_save_start(&save, &s.cfg, &e), "%s", e.msg);
		(void)nanosleep(&ts, NULL);
		mig_save_cancel(save);
		ck_assert(watch_wait(&s.src->watch, WATCH_ENDED, SYNTH_WAIT_MS));
		mig_save_status(save, &st);
		mig_save_free(save);
		ck_assert(st.state == MIG_CANCELLED || st.state == MIG_COMPLETED);
		ck_assert_uint_eq(saved_n_files(s.dir), st.state == MIG_COMPLETED);
		ck_assert(s.src->running);
	}
	saved_down(&s);
}
END_TEST

static bool in_file(const struct mig_file_save *f, uint64_t page)
{
	uint8_t bytes[MEM_PAGE_BYTES];

	ck_assert_int_eq(pread(f->fd, bytes, sizeof(bytes),
			       (off_t)mig_file_page_offset(&f->layout.blocks[0], page)),
			 sizeof(bytes));
	for (size_t i = 0; i < sizeof(bytes); i++)
		if (bytes[i])
			return true;
	return false;
}

/* Pages come and go between passes: what has become zero is a hole again. */
START_TEST(pages_come_and_go)
{
	const struct mig_file_params params = {.n_threads = 2};
	const uint64_t go[] = {5, 8, 300, 4000}, come[] = {0, 7000, 7010};
	struct mig_file_save f = {.fd = -1};
	struct mig_live live = {.started = false};
	struct saved s;
	int fd;

	up(&s, 71);
	fd = open(s.path, O_CREAT | O_RDWR, 0600);
	ck_assert_int_eq(mig_file_save_init(&f, s.src->mem, fd, &params, NULL, NULL), 0);
	ck_assert_int_eq(mig_live_start(&live, s.src->mem, &dirty, NULL), 0);
	f.live = &live;
	ck_assert_int_eq(mig_file_save_pages(&f, NULL), 0);
	ck_assert_uint_eq(mig_live_left(&live), 0);
	for (unsigned copy = 0; copy < 2; copy++) {
		for (size_t i = 0; i < sizeof(go) / sizeof(go[0]); i++) {
			ck_assert(in_file(&f, go[i] + copy));
			ck_assert_int_eq(mem_set(s.src->mem, (go[i] + copy) * MEM_PAGE_BYTES, 0,
						 MEM_PAGE_BYTES),
					 0);
		}
		for (size_t i = 0; i < sizeof(come) / sizeof(come[0]); i++)
			ck_assert_int_eq(mem_set(s.src->mem, (come[i] + copy) * MEM_PAGE_BYTES, 7,
						 MEM_PAGE_BYTES),
					 0);
		ck_assert_int_eq(mig_live_sync(&live, NULL), 0);
		if (copy) {
			ck_assert_int_eq(mig_live_make_room(&live, 1, NULL), 0);
			mig_live_copy(&live);
			ck_assert_uint_eq(mig_live_left(&live), 0);
			ck_assert_int_eq(mig_file_save_copies(&f, NULL), 0);
		} else {
			ck_assert_int_eq(mig_file_save_pages(&f, NULL), 0);
		}
		for (size_t i = 0; i < sizeof(go) / sizeof(go[0]); i++)
			ck_assert(!in_file(&f, go[i] + copy) &&
				  !bits_test(f.present[0], go[i] + copy) &&
				  !f.page_sums[0][go[i] + copy]);
		for (size_t i = 0; i < sizeof(come) / sizeof(come[0]); i++)
			ck_assert(in_file(&f, come[i] + copy) &&
				  bits_test(f.present[0], come[i] + copy));
	}
	mig_live_stop(&live);
	mig_file_save_free(&f);
	(void)close(fd);
	saved_down(&s);
}
END_TEST

/* A byte of this page is wrong in the file. */
static void damage(int fd, const struct mig_file_layout *l, uint64_t page)
{
	off_t at = (off_t)mig_file_page_offset(&l->blocks[0], page) + 9;
	uint8_t byte;

	ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
	byte ^= 1;
	ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
}

/* What was written while the guest was saved is known, and on demand comes before the rest. */
START_TEST(hot_first)
{
	const struct mig_file_params params = {.n_threads = 1};
	const struct mig_file_load how = {.n_threads = 1};
	const struct mig_file_guest guest = {.n_cpus = 2, .n_blocks = 1};
	struct mig_file_save f = {.fd = -1};
	struct mig_live live = {.started = false};
	struct err e = ERR_INIT;
	struct mig_file *file;
	struct saved s;
	uint8_t *data, *at;
	size_t bytes;
	int fd;

	up(&s, 81);
	fd = open(s.path, O_CREAT | O_RDWR, 0600);
	ck_assert_int_eq(mig_file_save_init(&f, s.src->mem, fd, &params, NULL, NULL), 0);
	ck_assert_int_eq(mig_live_start(&live, s.src->mem, &dirty, NULL), 0);
	f.live = &live;
	ck_assert_int_eq(mig_file_save_pages(&f, NULL), 0);
	ck_assert_int_eq(mem_set(s.src->mem, 5000 * MEM_PAGE_BYTES, 7, MEM_PAGE_BYTES), 0);
	ck_assert_int_eq(mig_live_sync(&live, NULL), 0);
	ck_assert_int_eq(mig_file_save_pages(&f, NULL), 0);
	ck_assert_int_eq(mig_file_save_rest(&f, &guest, &s.cfg.machine, NULL), 0);
	ck_assert_msg(!saved_verify(s.path, &e), "%s", e.msg);
	damage(fd, &f.layout, 600);
	damage(fd, &f.layout, 5000);
	ck_assert_int_eq(mig_file_open(&file, s.path, NULL), 0);
	ck_assert_uint_eq(mig_file_n_hot(file), 1);
	ck_assert_int_eq(mig_file_prefetch(file, s.src->mem, &how, &e), -EBADMSG);
	ck_assert_msg(strstr(e.msg, "pages 4864 to 5119"), "%s", e.msg);
	mig_file_close(file);
	/* Not for as many extents as there are. */
	data = saved_read(s.path, &bytes);
	at = memmem(data + f.layout.tail_offset, bytes - f.layout.tail_offset, "\x03hot", 4);
	ck_assert_ptr_nonnull(at);
	at[4 + 4 + 4 + 7] ^= 1;
	saved_resum(data, bytes, RAM);
	saved_write(s.path, data, bytes);
	err_clear(&e);
	ck_assert_int_eq(mig_file_open(&file, s.path, &e), -EINVAL);
	ck_assert_msg(strstr(e.msg, "the section 'hot' is damaged"), "%s", e.msg);
	free(data);
	mig_file_save_free(&f);
	mig_live_stop(&live);
	(void)close(fd);
	saved_down(&s);
}
END_TEST

PAIR_SUITE("live", same_as_the_guest, goes_on, slowed, callbacks_fail, cancelled, pages_come_and_go,
	   hot_first)
