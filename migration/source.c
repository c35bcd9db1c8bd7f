/* SPDX-License-Identifier: Apache-2.0 */
/* The source as an object: start, status, cancel; the course of a migration and its ending. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "migration/source_state.h"

#define ABORT_LINGER_NS (200 * NS_PER_MS)

const char *mig_state_name(enum mig_state s)
{
	static const char *const names[] = {
		[MIG_NONE] = "none",
		[MIG_SETUP] = "setup",
		[MIG_ACTIVE] = "active",
		[MIG_PRE_SWITCHOVER] = "pre-switchover",
		[MIG_DEVICE] = "device",
		[MIG_COMPLETED] = "completed",
		[MIG_FAILED] = "failed",
		[MIG_CANCELLING] = "cancelling",
		[MIG_CANCELLED] = "cancelled",
		[MIG_UNDECIDED] = "undecided",
		[MIG_POSTCOPY] = "postcopy-active",
	};

	return names[s];
}

void mig_source_state(struct mig_source *s, enum mig_state state)
{
	struct mig_event ev = {.kind = MIG_EVENT_STATE, .state = state};

	pthread_mutex_lock(&s->lock);
	/* "cancelling" stays until the end is known. */
	if (s->status.state != MIG_CANCELLING || state == MIG_CANCELLED || state == MIG_COMPLETED ||
	    state == MIG_FAILED || state == MIG_UNDECIDED)
		s->status.state = state;
	ev.state = s->status.state;
	ev.pass = s->status.passes;
	pthread_mutex_unlock(&s->lock);
	if (s->cfg.on_event)
		s->cfg.on_event(s->cfg.event_ctx, &ev);
}

void mig_source_polite(struct mig_source *s, bool polite)
{
	pthread_mutex_lock(&s->lock);
	s->polite = polite;
	pthread_mutex_unlock(&s->lock);
}

struct mig_params mig_source_params(struct mig_source *s)
{
	struct mig_params p;

	pthread_mutex_lock(&s->lock);
	p = s->params;
	pthread_mutex_unlock(&s->lock);
	return p;
}

struct mig_sample mig_source_sample(const struct mig_source *s)
{
	struct mig_sample now = {.sums = mig_senders_sums(&s->senders)};

	now.queued_bytes = mig_senders_queued_bytes(&s->senders);
	return now;
}

void mig_source_figures(struct mig_source *s)
{
	struct mig_sample now = mig_source_sample(s);

	mig_source_figures_of(s, &now);
}

void mig_source_figures_of(struct mig_source *s, const struct mig_sample *sample)
{
	struct mig_sync_figures sync = mig_sync_figures(&s->sync);
	const struct mig_sums *sums = &sample->sums;
	uint64_t pending = sums->pending_pages * MEM_PAGE_BYTES, fixed_ns;
	uint64_t speed = mig_speed_bytes_s(s);
	uint64_t phases[MIG_PHASES], predicted = mig_predict_of(s, sample, phases);
	struct mig_params params = mig_source_params(s);
	struct mig_throttle_status throttle;
	struct mig_status *st = &s->status;

	fixed_ns = predicted - phases[MIG_PHASE_PAGES];
	mig_brake_feed(&s->brake, &params.throttle, mig_carried_bytes(s, speed),
		       mig_fit_bytes(s, fixed_ns, params.downtime_limit_ms * NS_PER_MS),
		       pending + mig_carried_bytes(s, sample->queued_bytes));
	mig_brake_status(&s->brake, &throttle);
	pthread_mutex_lock(&s->lock);
	st->predicted_downtime_ns = predicted;
	memcpy(st->predicted_phase_ns, phases, sizeof(phases));
	st->least_downtime_ns = fixed_ns;
	st->remaining_bytes = mig_bitmap_count(&s->bitmap) * MEM_PAGE_BYTES + pending;
	st->transferred_bytes = 0;
	st->n_channels = s->senders.n;
	for (unsigned i = 0; i < s->senders.n; i++) {
		st->channel_bytes[i] = mig_chan_sent(s->senders.list[i].chan);
		st->transferred_bytes += st->channel_bytes[i];
	}
	st->zero_copy = mig_senders_zero_copy(&s->senders);
	st->compressed_from_bytes = sums->packed_from_bytes;
	st->compressed_to_bytes = sums->packed_to_bytes;
	if (!s->paused)
		st->precopy_bytes = st->transferred_bytes;
	st->downtime_bytes = st->transferred_bytes - st->precopy_bytes;
	s->sent_normal = sums->normal_pages;
	s->sent_zero = sums->zero_pages;
	st->normal_pages = s->sent_normal;
	st->zero_pages = s->sent_zero;
	st->free_pages = s->sent_free;
	st->syncs = sync.syncs;
	st->sync_ns_last = sync.last_ns;
	st->sync_ns_total = sync.total_ns;
	st->dirty_pages_per_s = sync.dirty_pages_per_s;
	st->throttle = throttle;
	st->bytes_per_s = speed;
	st->protect_calls = sums->protect_calls + s->free.protect_calls;
	st->protect_pages = sums->protect_pages + s->free.protect_pages;
	pthread_mutex_unlock(&s->lock);
}

/* ---- the life of a migration ---- */

static int prepare(struct mig_source *s, struct err *e)
{
	uint64_t pages[MEM_MAX_BLOCKS];
	unsigned n_channels = 1;
	int rc = mig_source_connect(s, e);

	if (!rc)
		rc = mig_source_agree(s, &n_channels, e);
	if (!rc)
		rc = mig_source_start_senders(s, n_channels, e);
	if (rc)
		return rc;
	mig_chan_set_idle_timeout(s->chan, MIG_IDLE_TIMEOUT_NS);
	rc = mig_beat_start(&s->beat, s->chan, NULL, NULL, e);
	if (rc)
		return rc;
	for (unsigned i = 0; i < s->cfg.mem->n_blocks; i++)
		pages[i] = s->cfg.mem->blocks[i].n_pages;
	rc = mig_bitmap_init(&s->bitmap, pages, s->cfg.mem->n_blocks);
	if (rc)
		return err_set(e, ENOMEM, "out of memory for the migration bitmap");
	/* Of a free page the two sides hold different bytes, and both are right. */
	rc = mig_free_init(&s->free, s->cfg.mem, &s->bitmap, &s->cfg.dirty, s->cfg.free_sources,
			   s->cfg.params.verify ? 0 : s->cfg.n_free_sources);
	if (rc)
		return err_set(e, ENOMEM, "out of memory for the record of free pages");
	s->logging = true;
	rc = s->cfg.dirty.start(s->cfg.dirty.ctx, e);
	if (rc) {
		err_prefix(e, "starting the dirty log");
		return rc;
	}
	mig_bitmap_fill(&s->bitmap);
	rc = mig_sync_start(&s->sync, &s->cfg.dirty, &s->bitmap, MIG_SYNC_BACKGROUND_NS, e);
	s->syncing = !rc;
	if (!rc)
		mig_brake_start(&s->brake, &s->cfg.cpus, &s->sync, &s->bitmap);
	return rc;
}

static int move(struct mig_source *s, struct err *e)
{
	int rc = prepare(s, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->status.setup_ns = clock_mono_ns() - s->begin_ns;
	pthread_mutex_unlock(&s->lock);
	mig_source_state(s, MIG_ACTIVE);
	do {
		rc = mig_precopy(s, e);
		if (!rc)
			rc = mig_switchover(s, e);
	} while (rc == MIG_CALLED_OFF);
	if (s->chan)
		mig_source_figures(s);
	return rc;
}

/*
 * The guest goes on here, at once: before anything that waits, even for a reading of the dirty log
 * that is still under way.
 */
static void keep_guest(struct mig_source *s)
{
	const struct mig_machine *m = &s->cfg.machine;
	struct err why = ERR_INIT;

	if (mig_stop_is_set(&s->stop))
		mig_source_state(s, MIG_CANCELLING);
	if (s->paused)
		(void)m->resume(m->ctx, &why);
}

/* What became of it, after the reason. */
static void tell_fate(struct mig_source *s, struct err *e)
{
	const struct mig_machine *m = &s->cfg.machine;
	size_t len = strlen(e->msg);

	(void)snprintf(e->msg + len, sizeof(e->msg) - len, "; %s", m->fate(m->ctx));
}

static void send_abort(struct mig_source *s, const struct err *e)
{
	struct err ignored = ERR_INIT;
	struct wbuf meta;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	wire_put_text(&meta, e->msg);
	mig_chan_set_deadline(s->chan, clock_mono_ns() + ABORT_LINGER_NS);
	/* Only between frames; after a broken send the channel refuses by itself. */
	if (!wire_send(&s->writer, s->chan, WIRE_ABORT, &meta, &ignored))
		mig_chan_linger(s->chan, ABORT_LINGER_NS);
	wbuf_free(&meta);
}

/* The end is there for all to see; whoever waits for it should not wait for the farewell. */
static void show_end(struct mig_source *s, enum mig_state state, const struct err *e)
{
	pthread_mutex_lock(&s->lock);
	s->status.total_ns = clock_mono_ns() - s->begin_ns;
	if (state == MIG_UNDECIDED)
		s->status.token = s->token;
	if (state != MIG_COMPLETED)
		memcpy(s->status.error, e->msg, sizeof(e->msg));
	s->status.state = state;
	s->status.throttle.active = false;
	s->status.throttle.most_taken = 0;
	s->ended = true;
	pthread_mutex_unlock(&s->lock);
	mig_source_state(s, state);
}

static void finish(struct mig_source *s, int rc, struct err *e)
{
	enum mig_state state = MIG_COMPLETED;
	bool kept = rc && !s->committed;

	if (s->syncing)
		mig_brake_release(&s->brake);
	if (kept)
		keep_guest(s);
	mig_beat_stop(&s->beat);
	if (kept && s->chan)
		mig_source_last_words(s, e);
	if (kept) {
		state = mig_stop_is_set(&s->stop) ? MIG_CANCELLED : MIG_FAILED;
		tell_fate(s, e);
	} else if (rc) {
		state = MIG_UNDECIDED;
		err_prefix(e, "the guest was handed over, but the destination has not confirmed "
			      "that it runs it");
	}
	mig_source_end_senders(s);
	mig_free_done(&s->free);
	if (s->syncing) {
		mig_brake_stop(&s->brake);
		mig_sync_stop(&s->sync);
	}
	if (s->logging)
		s->cfg.dirty.stop(s->cfg.dirty.ctx);
	show_end(s, state, e);
	if (kept && s->chan)
		send_abort(s, e);
	pthread_mutex_lock(&s->lock);
	mig_chan_close(s->chan);
	s->chan = NULL;
	pthread_mutex_unlock(&s->lock);
}

static void *coordinator(void *arg)
{
	struct mig_source *s = arg;
	struct err e = ERR_INIT;
	int rc;

	mig_source_state(s, MIG_SETUP);
	rc = move(s, &e);
	finish(s, rc, &e);
	return NULL;
}

/* ---- the owner's side ---- */

int mig_source_start(struct mig_source **out, const struct mig_source_config *cfg, struct err *e)
{
	struct mig_source *s = calloc(1, sizeof(*s));
	int rc = s ? mig_uri_parse(cfg->uri, &s->uri, e) : err_set(e, ENOMEM, "out of memory");

	if (rc) {
		free(s);
		return rc;
	}
	s->cfg = *cfg;
	s->params = cfg->params;
	(void)snprintf(s->peer, sizeof(s->peer), "%s", strchr(cfg->uri, ':') + 1);
	(void)snprintf(s->guest_name, sizeof(s->guest_name), "%.64s", cfg->guest_name);
	s->go.fd = -1;
	s->begin_ns = clock_mono_ns();
	s->status.state = MIG_SETUP;
	s->status.page_bytes = MEM_PAGE_BYTES;
	s->status.ram_total_bytes = cfg->mem->size_bytes;
	s->status.remaining_bytes = cfg->mem->size_bytes;
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_mutex_init(&s->limit_lock, NULL);
	if (getrandom(&s->token, sizeof(s->token), 0) != sizeof(s->token))
		s->token = clock_real_ns() ^ clock_mono_ns() << 20;
	rc = mig_stop_init(&s->stop);
	if (!rc)
		rc = mig_stop_init(&s->go);
	if (!rc)
		rc = -pthread_create(&s->thread, NULL, coordinator, s);
	if (rc) {
		mig_stop_free(&s->go);
		mig_stop_free(&s->stop);
		(void)pthread_mutex_destroy(&s->limit_lock);
		(void)pthread_mutex_destroy(&s->lock);
		free(s);
		return err_sys(e, -rc, "cannot start the migration thread");
	}
	(void)pthread_setname_np(s->thread, "mig-source");
	*out = s;
	return 0;
}

void mig_source_cancel(struct mig_source *s)
{
	pthread_mutex_lock(&s->lock);
	if (!s->committed && !s->ended) {
		s->status.state = MIG_CANCELLING;
		mig_stop_set(&s->stop);
		if (s->chan && !s->polite)
			mig_chan_abort(s->chan);
		if (s->sharing && !s->polite)
			mig_senders_abort(&s->senders);
	}
	pthread_mutex_unlock(&s->lock);
}

int mig_source_continue(struct mig_source *s, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	if (s->status.state == MIG_PRE_SWITCHOVER)
		mig_stop_set(&s->go);
	else
		rc = err_set(e, EINVAL,
			     "no switchover waits for a word here: the migration is '%s'",
			     mig_state_name(s->status.state));
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void mig_params_default(struct mig_params *p)
{
	*p = (struct mig_params){
		.max_bandwidth_bytes_s = MIG_BANDWIDTH_UNLIMITED,
		.downtime_limit_ms = MIG_DOWNTIME_LIMIT_MS_DEFAULT,
		.zero_copy = true,
		.throttle = {.cpu_limit_mib_s = MIG_CPU_LIMIT_MIB_DEFAULT,
			     .max_percent = MIG_MAX_THROTTLE_DEFAULT,
			     .trigger_percent = MIG_TRIGGER_PERCENT_DEFAULT},
	};
}

void mig_source_set_params(struct mig_source *s, const struct mig_params *p)
{
	pthread_mutex_lock(&s->lock);
	s->params = *p;
	pthread_mutex_unlock(&s->lock);
}

void mig_source_status(struct mig_source *s, struct mig_status *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->status;
	if (!s->ended)
		out->total_ns = clock_mono_ns() - s->begin_ns;
	out->downtime_limit_ns = s->params.downtime_limit_ms * NS_PER_MS;
	pthread_mutex_unlock(&s->lock);
}

bool mig_source_ended(struct mig_source *s)
{
	bool ended;

	pthread_mutex_lock(&s->lock);
	ended = s->ended;
	pthread_mutex_unlock(&s->lock);
	return ended;
}

void mig_source_join(struct mig_source *s)
{
	if (!s->joined)
		(void)pthread_join(s->thread, NULL);
	s->joined = true;
}

void mig_source_free(struct mig_source *s)
{
	if (!s)
		return;
	mig_source_cancel(s);
	mig_source_join(s);
	mig_bitmap_free(&s->bitmap);
	mig_free_destroy(&s->free);
	wire_reader_free(&s->reader);
	mig_stop_free(&s->go);
	mig_stop_free(&s->stop);
	(void)pthread_mutex_destroy(&s->limit_lock);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}
