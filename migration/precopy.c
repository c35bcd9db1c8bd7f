/* SPDX-License-Identifier: Apache-2.0 */
/* The iterations: send, sync, decide. */
#include <errno.h>
#include <string.h>

#include "migration/source_state.h"

/* Further passes are worth it while they halve the rest and the rest takes longer than this. */
#define WORTH_NS       (2 * NS_PER_MS)
#define MAX_EXTRA      8
#define WINDOW_NS      (10 * NS_PER_MS) /* of sending: how much is protected at a time */
#define LIMIT_SLICE_NS (100 * NS_PER_MS)
#define DRAIN_LOOK_NS  (50 * NS_PER_US) /* is the socket empty? Then twice as long, and so on */
#define MIN_PASS_NS    (50 * NS_PER_MS) /* shorter passes that do not fit are spaced out */

static uint64_t remaining_bytes(const struct mig_source *s)
{
	return (mig_bitmap_count(&s->bitmap) + mig_pages_pending(&s->pages)) * MEM_PAGE_BYTES;
}

/* Until everything that is left, in the bitmap and in the socket, has gone out. */
static uint64_t rest_ns(struct mig_source *s)
{
	return mig_rate_time_ns(&s->rate, remaining_bytes(s) + mig_chan_queued(s->chan));
}

/* Pages that have probably been written since the last sync, and wait for the next to be seen. */
static uint64_t unseen_bytes(struct mig_source *s)
{
	uint64_t rate = mig_sync_figures(&s->sync).dirty_pages_per_s;
	uint64_t since = s->synced_ns ? clock_mono_ns() - s->synced_ns : 0;
	double pages = (double)rate * (double)since / (double)NS_PER_SEC;
	double most = (double)(s->cfg.mem->size_bytes / MEM_PAGE_BYTES);

	return (uint64_t)(pages < most ? pages : most) * MEM_PAGE_BYTES;
}

uint64_t mig_predict(struct mig_source *s, uint64_t phases[MIG_PHASES])
{
	uint64_t bytes = remaining_bytes(s) + mig_chan_queued(s->chan);

	if (!s->paused)
		bytes += unseen_bytes(s);
	if (bytes > s->cfg.mem->size_bytes)
		bytes = s->cfg.mem->size_bytes;
	mig_costs_predict(&s->costs, &s->rate, bytes, phases);
	return mig_phases_from(phases, MIG_PHASE_PAUSE);
}

/* What max-bandwidth says. Nothing during the switchover: dark time is worth more. */
static uint64_t limit_now(struct mig_source *s)
{
	return s->paused ? MIG_BANDWIDTH_UNLIMITED : mig_source_params(s).max_bandwidth_bytes_s;
}

uint64_t mig_speed_bytes_s(struct mig_source *s)
{
	uint64_t wire = mig_rate_bytes_s(&s->rate), limit = limit_now(s);

	return limit && limit < wire ? limit : wire;
}

static void update_rate(struct mig_source *s)
{
	uint64_t sent = mig_chan_sent(s->chan), queued = mig_chan_queued(s->chan);

	mig_rate_update(&s->rate, sent > queued ? sent - queued : 0, clock_mono_ns());
}

static void account(struct mig_source *s)
{
	uint64_t pages;

	update_rate(s);
	pages = mig_speed_bytes_s(s) / (NS_PER_SEC / WINDOW_NS) / MEM_PAGE_BYTES;
	if (pages < MIG_WINDOW_PAGES_MIN)
		pages = MIG_WINDOW_PAGES_MIN;
	if (pages > MIG_WINDOW_PAGES_MAX)
		pages = MIG_WINDOW_PAGES_MAX;
	s->pages.window_pages = pages;
	mig_source_figures(s);
}

/* Small bites under a small limit, so that bytes keep moving. */
static void size_chunks(struct mig_source *s, uint64_t limit_bytes_s)
{
	uint64_t pages = mig_limit_chunk_bytes(limit_bytes_s) / MEM_PAGE_BYTES;

	if (!limit_bytes_s || pages > WIRE_CHUNK_PAGES)
		pages = WIRE_CHUNK_PAGES;
	s->pages.chunk_pages = pages ? (uint32_t)pages : 1;
}

static int keep_limit(struct mig_source *s, uint64_t bytes, struct err *e)
{
	uint64_t limit = limit_now(s), now = clock_mono_ns();
	uint64_t end = now + mig_limit_wait_ns(&s->limit, bytes, limit, now);
	uint64_t look_ns = DRAIN_LOOK_NS;
	int rc = 0;

	size_chunks(s, limit);
	/* In slices: who raises the limit should not have to wait for the old one. */
	while (!rc && now < end && limit_now(s) == limit) {
		/* Until the socket is empty the wire is busy; from then on it only waits. */
		bool busy = mig_chan_queued(s->chan) > 0;
		uint64_t slice = busy ? look_ns : LIMIT_SLICE_NS;

		update_rate(s);
		if (!busy)
			mig_rate_pause(&s->rate, clock_mono_ns());
		if (mig_stop_wait(&s->stop, -1, 0, end - now < slice ? end - now : slice) ==
		    -ECANCELED)
			rc = err_set(e, ECANCELED, "cancelled");
		now = clock_mono_ns();
		look_ns *= 2;
	}
	mig_rate_resume(&s->rate, now);
	return rc;
}

static int send_chunk(struct mig_source *s, struct mig_chunk *c, struct err *e)
{
	int rc = mig_chan_send_end(s->chan, e);

	if (!rc)
		rc = keep_limit(s, c->data_bytes + c->meta.len + WIRE_HEADER_BYTES, e);
	if (rc)
		return rc;
	wire_header(&s->writer, WIRE_PAGES, &c->meta, (uint32_t)c->data_bytes);
	memcpy(c->header, s->writer.header, WIRE_HEADER_BYTES);
	rc = mig_chan_send_begin(s->chan, c->iov, c->n_iov, e);
	s->sent_normal += c->normal_pages;
	s->sent_zero += c->zero_pages;
	return rc;
}

int mig_send_pass(struct mig_source *s, uint64_t until_ns, struct err *e)
{
	bool more = true;
	int rc = 0;

	mig_pages_rewind(&s->pages);
	size_chunks(s, limit_now(s)); /* the first one is under the limit too */
	mig_rate_resume(&s->rate, clock_mono_ns());
	while (!rc) {
		/* One is prepared while the kernel still sends the other. */
		struct mig_chunk *c = &s->chunks[s->next_chunk];

		if (until_ns && remaining_bytes(s) && clock_mono_ns() + rest_ns(s) > until_ns) {
			mig_pages_put_back(&s->pages);
			rc = MIG_CALLED_OFF;
			break;
		}
		rc = mig_pages_next(&s->pages, c, &more, e);
		if (rc || !more)
			break;
		rc = send_chunk(s, c, e);
		s->next_chunk ^= 1;
		if (!rc)
			rc = mig_source_heed(s, e);
		if (!rc)
			rc = mig_free_step(&s->free, e);
		account(s);
	}
	if (rc >= 0) {
		int ended = mig_chan_send_end(s->chan, e);

		rc = ended ? ended : rc;
	}
	account(s);
	mig_rate_pause(&s->rate, clock_mono_ns());
	return rc;
}

int mig_precopy_sync(struct mig_source *s, struct err *e)
{
	uint64_t begin_ns = clock_mono_ns();
	int rc;

	mig_rate_pause(&s->rate, begin_ns);
	rc = mig_sync_now(&s->sync, e);
	if (rc) {
		err_prefix(e, "reading the dirty log");
		return rc;
	}
	s->synced_ns = clock_mono_ns();
	mig_costs_learn(&s->costs, MIG_PHASE_SYNC, s->synced_ns - begin_ns);
	return 0;
}

/*
 * Wait until the destination has worked off the pass, not just its host's socket: in the dark
 * there must be nothing left to catch up on. It counts as sending time, so the bandwidth is that of
 * the whole way into the destination's memory.
 */
static int settle_pass(struct mig_source *s, uint64_t pass, struct err *e)
{
	struct wbuf meta;
	uint64_t passed = 0;
	int rc;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	put_u64(&meta, pass);
	mig_rate_resume(&s->rate, clock_mono_ns());
	rc = wire_send(&s->writer, s->chan, WIRE_PASS, &meta, e);
	wbuf_free(&meta);
	if (!rc)
		rc = mig_source_expect(s, WIRE_PASSED, e);
	if (!rc)
		rc = wire_get_one_u64(&s->reader.meta, "passed", &passed, e);
	if (!rc && passed != pass)
		rc = err_set(e, EPROTO, "the destination confirms another pass than was sent");
	account(s);
	mig_rate_pause(&s->rate, clock_mono_ns());
	return rc;
}

/* The bulk pass is through: close the round, and tell the destination of what was left out. */
static int send_free_pages(struct mig_source *s, struct err *e)
{
	bool more = true;
	int rc = 0;

	mig_free_end(&s->free);
	mig_pages_rewind(&s->pages);
	while (!rc) {
		struct mig_chunk *c = &s->chunks[s->next_chunk];

		rc = mig_pages_next_free(&s->pages, &s->free, c, &more, e);
		if (rc || !more)
			break;
		s->sent_free += c->zero_pages;
		rc = send_chunk(s, c, e);
		s->next_chunk ^= 1;
	}
	return rc ? rc : mig_chan_send_end(s->chan, e);
}

static void tell_pass(struct mig_source *s, uint64_t pass)
{
	struct mig_event ev = {.kind = MIG_EVENT_PASS, .state = MIG_ACTIVE, .pass = pass};

	pthread_mutex_lock(&s->lock);
	s->status.passes = pass;
	pthread_mutex_unlock(&s->lock);
	if (s->cfg.on_event)
		s->cfg.on_event(s->cfg.event_ctx, &ev);
}

/* One pass and the sync after it. */
static int iterate(struct mig_source *s, struct err *e)
{
	uint64_t pass = s->status.passes + 1; /* only this thread writes it */
	int rc;

	if (mig_stop_is_set(&s->stop))
		return err_set(e, ECANCELED, "cancelled");
	if (!s->cfg.machine.rehearse)
		mig_costs_fade(&s->costs);
	tell_pass(s, pass);
	mig_sync_iteration(&s->sync, pass > 1);
	rc = mig_send_pass(s, 0, e);
	if (!rc && pass == 1)
		rc = send_free_pages(s, e);
	if (!rc)
		rc = settle_pass(s, pass, e);
	if (!rc && mig_rehearsal_due(s))
		rc = mig_rehearse(s, e);
	mig_sync_iteration(&s->sync, false);
	if (!rc)
		rc = mig_precopy_sync(s, e);
	mig_source_figures(s);
	return rc;
}

/* A guest that dirties next to nothing and still does not fit: do not spin on it. */
static int space_out(struct mig_source *s, uint64_t begin_ns, struct err *e)
{
	uint64_t took = clock_mono_ns() - begin_ns;

	if (took < MIN_PASS_NS && mig_stop_wait(&s->stop, -1, 0, MIN_PASS_NS - took) == -ECANCELED)
		return err_set(e, ECANCELED, "cancelled");
	return 0;
}

int mig_precopy(struct mig_source *s, struct err *e)
{
	uint64_t before = remaining_bytes(s), extra = 0, phases[MIG_PHASES];

	for (;;) {
		uint64_t begin_ns = clock_mono_ns(), left, limit_ns;
		int rc = iterate(s, e);

		if (rc)
			return rc;
		left = remaining_bytes(s);
		limit_ns = mig_source_params(s).downtime_limit_ms * NS_PER_MS;
		if (mig_predict(s, phases) > limit_ns) {
			rc = space_out(s, begin_ns, e);
			if (rc)
				return rc;
		} else if (rest_ns(s) <= WORTH_NS || left * 2 > before || extra++ == MAX_EXTRA) {
			return 0;
		}
		before = left;
	}
}
