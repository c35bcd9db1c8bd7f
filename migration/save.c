/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/save.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "migration/brake.h"
#include "migration/file_save.h"
#include "migration/file_target.h"

#define LIVE_LEFT_PAGES 1024 /* copied in a millisecond: another pass would not pay */
#define LIVE_PASSES_MIN 3
#define LIVE_PASSES_MAX 30
/* If the guest may be slowed: so many, none shorter than this, since slowing takes its time. */
#define BRAKED_PASSES_MAX  200
#define BRAKED_PASS_MIN_NS (50 * NS_PER_MS)

struct mig_save {
	/* constant after start */
	struct mig_save_config cfg;
	pthread_t thread;
	bool joined; /* the owner's */
	uint64_t begin_ns;
	struct mig_stop stop;
	/* guarded by lock */
	pthread_mutex_t lock;
	struct mig_status status;
	uint64_t pass_pages, pass_begin; /* live: how many there are in this pass, of all so far */
	bool braking;                    /* live: the brake is there, on or not */
	bool ended;
	/* the coordinator's own */
	struct mig_file_target target;
	struct mig_file_save file;
	struct mig_live live;
	struct mig_brake brake;
	struct mig_file_guest guest;
	bool paused, was_running;
	uint64_t paused_ns, dark_ns;
};

const char *mig_file_uri_path(const char *uri)
{
	size_t n = strlen(MIG_FILE_URI);

	return strncmp(uri, MIG_FILE_URI, n) ? NULL : uri + n;
}

static void set_state(struct mig_save *s, enum mig_state state)
{
	struct mig_event ev = {.kind = MIG_EVENT_STATE, .state = state};

	pthread_mutex_lock(&s->lock);
	s->status.state = state;
	pthread_mutex_unlock(&s->lock);
	if (s->cfg.on_event)
		s->cfg.on_event(s->cfg.event_ctx, &ev);
}

static void fill_guest(const struct mig_save *s, struct mig_file_guest *g)
{
	size_t len = strlen(s->cfg.guest_name);

	*g = (struct mig_file_guest){.n_cpus = s->cfg.machine.n_cpus,
				     .was_running = s->was_running,
				     .saved_real_ns = clock_real_ns(),
				     .n_blocks = s->cfg.mem->n_blocks};
	g->name_len = (uint32_t)(len < MIG_FILE_NAME_BYTES ? len : MIG_FILE_NAME_BYTES);
	memcpy(g->name, s->cfg.guest_name, g->name_len);
	for (unsigned i = 0; i < g->n_blocks; i++)
		g->blocks[i].gpa = s->cfg.mem->blocks[i].gpa;
}

static int pause_guest(struct mig_save *s, struct err *e)
{
	const struct mig_machine *m = &s->cfg.machine;
	int rc;

	s->paused_ns = clock_mono_ns();
	s->paused = true; /* even if only some of it stopped */
	rc = m->pause(m->ctx, &s->was_running, e);
	if (!rc)
		rc = m->collect(m->ctx, e);
	if (rc)
		err_prefix(e, "pausing the guest");
	else
		fill_guest(s, &s->guest);
	return rc;
}

/* All of it is known: what becomes of the guest. */
static int let_go(struct mig_save *s, struct err *e)
{
	const struct mig_machine *m = &s->cfg.machine;
	int rc = s->cfg.go_on ? m->resume(m->ctx, e) : m->stay(m->ctx, e);

	if (rc)
		return rc;
	s->paused = false;
	s->dark_ns = clock_mono_ns() - s->paused_ns;
	return 0;
}

/* ---- RAM ---- */

static int standing(struct mig_save *s, struct err *e)
{
	int rc = pause_guest(s, e);

	return rc ? rc : mig_file_save_pages(&s->file, e);
}

static uint64_t written_pages(const struct mig_save *s)
{
	return atomic_load(&s->file.progress.normal_pages) +
	       atomic_load(&s->file.progress.zero_pages);
}

static void begin_pass(struct mig_save *s, unsigned pass)
{
	struct mig_event ev = {.kind = MIG_EVENT_PASS, .pass = pass};

	pthread_mutex_lock(&s->lock);
	s->pass_pages = mig_live_left(&s->live);
	s->pass_begin = written_pages(s);
	s->status.syncs = pass - 1;
	s->status.passes = pass;
	pthread_mutex_unlock(&s->lock);
	if (pass > 1 && s->cfg.on_event)
		s->cfg.on_event(s->cfg.event_ctx, &ev);
}

static bool may_brake(const struct mig_save *s)
{
	const struct mig_throttle_params *p = &s->cfg.throttle;

	return (p->auto_converge || p->dirty_limit) && s->cfg.cpus.n_cpus;
}

/* The last of it: what it has done stays to be seen. */
static void end_brake(struct mig_save *s)
{
	pthread_mutex_lock(&s->lock);
	if (!s->braking) {
		pthread_mutex_unlock(&s->lock);
		return;
	}
	s->braking = false;
	mig_brake_status(&s->brake, &s->status.throttle);
	pthread_mutex_unlock(&s->lock);
	mig_brake_stop(&s->brake);
}

static int begin_live(struct mig_save *s, struct err *e)
{
	int rc = mig_live_start(&s->live, s->cfg.mem, s->cfg.live, e);

	if (rc)
		return rc;
	s->file.live = &s->live;
	mig_brake_start(&s->brake, &s->cfg.cpus, &s->live.sync, &s->live.bitmap);
	pthread_mutex_lock(&s->lock);
	s->braking = true;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* One pass, and what has been written meanwhile. */
static int one_pass(struct mig_save *s, struct err *e)
{
	uint64_t begin_ns = clock_mono_ns(), begin = written_pages(s), sent_bytes, took_ns;
	int rc = mig_file_save_pages(&s->file, e);

	took_ns = clock_mono_ns() - begin_ns;
	if (!rc && may_brake(s) && begin && took_ns < BRAKED_PASS_MIN_NS &&
	    mig_stop_wait(&s->stop, -1, 0, BRAKED_PASS_MIN_NS - took_ns) == -ECANCELED)
		rc = err_set(e, ECANCELED, "cancelled");
	if (!rc)
		rc = mig_live_sync(&s->live, e);
	if (rc)
		return rc;
	sent_bytes = (written_pages(s) - begin) * MEM_PAGE_BYTES;
	mig_brake_feed(&s->brake, &s->cfg.throttle,
		       (uint64_t)((double)sent_bytes * (double)NS_PER_SEC / (double)(took_ns + 1)),
		       LIVE_LEFT_PAGES * MEM_PAGE_BYTES, 0);
	mig_brake_pass(&s->brake, sent_bytes, mig_live_left(&s->live) * MEM_PAGE_BYTES);
	return 0;
}

/* Write what has to be, until little of it is left, or until that does not help any more. */
static int write_passes(struct mig_save *s, struct err *e)
{
	uint64_t left = UINT64_MAX, before;
	unsigned pass = 1;
	bool helps;
	int rc;

	begin_pass(s, pass);
	do {
		rc = one_pass(s, e);
		before = left;
		left = mig_live_left(&s->live);
		begin_pass(s, ++pass);
		if (may_brake(s))
			helps = pass < BRAKED_PASSES_MAX;
		else
			helps = pass < LIVE_PASSES_MIN ||
				(pass < LIVE_PASSES_MAX && left <= before / 2);
	} while (!rc && left > LIVE_LEFT_PAGES && helps);
	return rc;
}

/*
 * The image is that of the moment in which the guest stands still. If it goes on, it waits for
 * copies in memory, not for the disk.
 */
static int running(struct mig_save *s, struct err *e)
{
	bool copy = s->cfg.go_on;
	int rc = begin_live(s, e);

	s->file.background = true;
	if (!rc)
		rc = write_passes(s, e);
	s->file.background = false;
	if (!rc && copy)
		rc = mig_live_make_room(&s->live, mig_live_left(&s->live) * 2, e);
	if (s->braking)
		mig_brake_hold(&s->brake, true);
	if (!rc)
		rc = pause_guest(s, e);
	if (!rc)
		rc = mig_live_sync(&s->live, e);
	if (s->braking)
		mig_brake_release(&s->brake);
	if (!rc && copy)
		mig_live_copy(&s->live);
	if (!rc && mig_live_left(&s->live))
		rc = mig_file_save_pages(&s->file, e);
	if (!rc && copy)
		rc = let_go(s, e);
	if (!rc && copy)
		rc = mig_file_save_copies(&s->file, e);
	return rc;
}

static int save(struct mig_save *s, struct err *e)
{
	int rc = mig_file_target_open(&s->target, s->cfg.path, e);

	if (!rc && s->cfg.params.direct_io)
		rc = mig_file_target_direct(&s->target, true, e);
	if (!rc)
		rc = mig_file_save_init(&s->file, s->cfg.mem, s->target.fd, &s->cfg.params,
					&s->stop, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->status.setup_ns = clock_mono_ns() - s->begin_ns;
	s->status.passes = 1;
	pthread_mutex_unlock(&s->lock);
	set_state(s, MIG_ACTIVE);
	rc = s->cfg.live ? running(s, e) : standing(s, e);
	if (rc)
		return rc;
	set_state(s, MIG_DEVICE);
	if (s->cfg.params.direct_io)
		rc = mig_file_target_direct(&s->target, false, e);
	if (!rc)
		rc = mig_file_save_rest(&s->file, &s->guest, &s->cfg.machine, e);
	if (!rc && mig_stop_is_set(&s->stop))
		rc = err_set(e, ECANCELED, "cancelled");
	if (!rc)
		rc = mig_file_target_publish(&s->target, e);
	return rc;
}

static void finish(struct mig_save *s, int rc, struct err *e)
{
	const struct mig_machine *m = &s->cfg.machine;
	enum mig_state state = MIG_COMPLETED;
	struct mig_status st;
	struct err why = ERR_INIT;
	size_t len;

	if (!rc && s->paused) {
		rc = let_go(s, e);
		if (rc)
			err_prefix(e, "the guest is saved, but");
	}
	if (rc) {
		state = mig_stop_is_set(&s->stop) ? MIG_CANCELLED : MIG_FAILED;
		if (s->paused)
			(void)m->resume(m->ctx, &why);
		len = strlen(e->msg);
		(void)snprintf(e->msg + len, sizeof(e->msg) - len, "; %s", m->fate(m->ctx));
	}
	mig_save_status(s, &st);
	if (!rc)
		st.remaining_bytes = 0;
	st.downtime_ns = s->dark_ns;
	if (s->paused_ns && !s->dark_ns)
		st.downtime_ns = clock_mono_ns() - s->paused_ns;
	end_brake(s);
	mig_live_stop(&s->live);
	mig_file_target_close(&s->target);
	pthread_mutex_lock(&s->lock);
	mig_file_save_free(&s->file);
	st.state = state;
	st.total_ns = clock_mono_ns() - s->begin_ns;
	if (rc)
		memcpy(st.error, e->msg, sizeof(st.error));
	s->status = st;
	s->ended = true;
	pthread_mutex_unlock(&s->lock);
	set_state(s, state);
}

static void *coordinator(void *arg)
{
	struct mig_save *s = arg;
	struct err e = ERR_INIT;
	int rc;

	set_state(s, MIG_SETUP);
	rc = save(s, &e);
	finish(s, rc, &e);
	return NULL;
}

/* ---- the owner's side ---- */

int mig_save_start(struct mig_save **out, const struct mig_save_config *cfg, struct err *e)
{
	struct mig_save *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(e, ENOMEM, "out of memory");
	s->cfg = *cfg;
	s->begin_ns = clock_mono_ns();
	s->target = (struct mig_file_target){.dir_fd = -1, .fd = -1};
	s->status.state = MIG_SETUP;
	s->status.page_bytes = MEM_PAGE_BYTES;
	s->status.ram_total_bytes = cfg->mem->size_bytes;
	s->status.remaining_bytes = cfg->mem->size_bytes;
	(void)pthread_mutex_init(&s->lock, NULL);
	rc = mig_stop_init(&s->stop);
	if (!rc)
		rc = -pthread_create(&s->thread, NULL, coordinator, s);
	if (rc) {
		mig_stop_free(&s->stop);
		(void)pthread_mutex_destroy(&s->lock);
		free(s);
		return err_sys(e, -rc, "cannot start the thread that saves the guest");
	}
	(void)pthread_setname_np(s->thread, "mig-save");
	*out = s;
	return 0;
}

void mig_save_cancel(struct mig_save *s)
{
	mig_stop_set(&s->stop);
}

void mig_save_status(struct mig_save *s, struct mig_status *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->status;
	if (!s->ended) {
		const struct mig_file_progress *p = &s->file.progress;
		uint64_t done = atomic_load(&p->done_pages) * MEM_PAGE_BYTES;
		uint64_t all = out->ram_total_bytes;

		if (s->cfg.live) {
			all = s->pass_pages * MEM_PAGE_BYTES;
			done = (written_pages(s) - s->pass_begin) * MEM_PAGE_BYTES;
		}
		if (s->braking)
			mig_brake_status(&s->brake, &out->throttle);
		out->total_ns = clock_mono_ns() - s->begin_ns;
		out->normal_pages = atomic_load(&p->normal_pages);
		out->zero_pages = atomic_load(&p->zero_pages);
		out->transferred_bytes = atomic_load(&p->bytes);
		out->remaining_bytes = done < all ? all - done : 0;
		if (out->total_ns > NS_PER_MS)
			out->bytes_per_s = (uint64_t)((double)out->transferred_bytes *
						      (double)NS_PER_SEC / (double)out->total_ns);
		if (mig_stop_is_set(&s->stop))
			out->state = MIG_CANCELLING;
	}
	pthread_mutex_unlock(&s->lock);
}

bool mig_save_ended(struct mig_save *s)
{
	bool ended;

	pthread_mutex_lock(&s->lock);
	ended = s->ended;
	pthread_mutex_unlock(&s->lock);
	return ended;
}

void mig_save_join(struct mig_save *s)
{
	if (!s->joined)
		(void)pthread_join(s->thread, NULL);
	s->joined = true;
}

void mig_save_free(struct mig_save *s)
{
	if (!s)
		return;
	mig_save_cancel(s);
	mig_save_join(s);
	mig_stop_free(&s->stop);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}
