/* SPDX-License-Identifier: Apache-2.0 */
/* The iterations: send, sync, decide. */
#include <errno.h>
#include <string.h>

#include "migration/source_state.h"

/* Further passes are worth it while they halve the rest and the rest takes longer than this. */
#define WORTH_NS         (2 * NS_PER_MS)
#define MAX_EXTRA        8
#define WINDOW_NS        (10 * NS_PER_MS) /* of sending: how much is protected at a time */
#define LIMIT_SLICE_NS   (100 * NS_PER_MS)
#define DRAIN_LOOK_NS    (50 * NS_PER_US) /* is the socket empty? Then twice as long, and so on */
#define MIN_PASS_NS      (50 * NS_PER_MS) /* shorter passes that do not fit are spaced out */
#define WATCH_NS         (5 * NS_PER_MS)  /* how often the clock is looked at beside the senders */
#define WORDS_NS         (500 * NS_PER_MS)
#define FAR              4                /* times the limit: no switchover follows the next pass */
#define SHARED_PAGES_MIN WIRE_CHUNK_PAGES /* fewer are sent on the first connection alone */

static uint64_t remaining_bytes(const struct mig_source *s)
{
	uint64_t pending = mig_senders_sums(&s->senders).pending_pages;

	return (mig_bitmap_count(&s->bitmap) + pending) * MEM_PAGE_BYTES;
}

/* What so many bytes of pages are on the wire. */
static uint64_t on_wire(const struct mig_source *s, uint64_t bytes)
{
	return s->shrink > 0 ? (uint64_t)((double)bytes * s->shrink) : bytes;
}

/* Until everything that is left, in the bitmap and in the sockets, has gone out. */
static uint64_t rest_ns(struct mig_source *s)
{
	return mig_rate_time_ns(&s->rate, on_wire(s, remaining_bytes(s)) +
						  mig_senders_queued_bytes(&s->senders));
}

/* Pages that have probably been written since the last sync, and wait for the next to be seen. */
static uint64_t unseen_bytes(struct mig_source *s)
{
	struct mig_sync_figures sync = mig_sync_figures(&s->sync);
	uint64_t since = sync.end_ns ? clock_mono_ns() - sync.end_ns : 0;
	double pages = (double)sync.dirty_pages_per_s * (double)since / (double)NS_PER_SEC;
	double most = (double)(s->cfg.mem->size_bytes / MEM_PAGE_BYTES);

	return (uint64_t)(pages < most ? pages : most) * MEM_PAGE_BYTES;
}

uint64_t mig_predict_queued(struct mig_source *s, uint64_t queued_bytes,
			    uint64_t phases[MIG_PHASES])
{
	uint64_t bytes = remaining_bytes(s);

	if (!s->paused)
		bytes += unseen_bytes(s);
	if (bytes > s->cfg.mem->size_bytes)
		bytes = s->cfg.mem->size_bytes;
	bytes = on_wire(s, bytes) + queued_bytes;
	mig_costs_predict(&s->costs, &s->rate, bytes, phases);
	return mig_phases_from(phases, MIG_PHASE_PAUSE);
}

uint64_t mig_predict(struct mig_source *s, uint64_t phases[MIG_PHASES])
{
	return mig_predict_queued(s, mig_senders_queued_bytes(&s->senders), phases);
}

uint64_t mig_carried_bytes(const struct mig_source *s, uint64_t wire_bytes)
{
	return s->shrink > 0 ? (uint64_t)((double)wire_bytes / s->shrink) : wire_bytes;
}

uint64_t mig_fit_bytes(const struct mig_source *s, uint64_t fixed_ns, uint64_t limit_ns)
{
	if (fixed_ns >= limit_ns)
		return 0;
	return mig_carried_bytes(s, (uint64_t)((double)mig_rate_bytes_s(&s->rate) *
					       (double)(limit_ns - fixed_ns) / (double)NS_PER_SEC));
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
	uint64_t sent = mig_senders_sums(&s->senders).sent_bytes;
	uint64_t queued = mig_senders_queued_bytes(&s->senders);

	mig_rate_update(&s->rate, sent > queued ? sent - queued : 0, queued, clock_mono_ns());
}

static void account(struct mig_source *s)
{
	uint64_t pages;

	update_rate(s);
	pages = mig_speed_bytes_s(s) / (NS_PER_SEC / WINDOW_NS) / MEM_PAGE_BYTES;
	__atomic_store_n(&s->window_pages, pages, __ATOMIC_RELAXED);
	mig_source_figures(s);
}

static struct mig_source *source_of(const struct mig_sender *w)
{
	return w->all->ctx;
}

/* A sender's share of what should be protected at a time, and of what is left. */
static void size_window(struct mig_sender *w)
{
	struct mig_source *s = source_of(w);
	uint64_t pages = __atomic_load_n(&s->window_pages, __ATOMIC_RELAXED) / s->at_work;
	uint64_t share = mig_bitmap_count(&s->bitmap) / s->at_work;

	/* Towards the end in smaller and smaller pieces, so that all are done at the same time. */
	if (s->at_work > 1 && pages > share / 2)
		pages = share / 2;
	if (pages < MIG_WINDOW_PAGES_MIN)
		pages = MIG_WINDOW_PAGES_MIN;
	if (pages > MIG_WINDOW_PAGES_MAX)
		pages = MIG_WINDOW_PAGES_MAX;
	w->pages.window_pages = pages;
}

/* Small bites under a small limit, so that bytes keep moving. */
static void size_chunks(struct mig_sender *w, uint64_t limit_bytes_s)
{
	uint64_t pages = mig_limit_chunk_bytes(limit_bytes_s) / MEM_PAGE_BYTES;

	if (!limit_bytes_s || pages > WIRE_CHUNK_PAGES)
		pages = WIRE_CHUNK_PAGES;
	w->pages.chunk_pages = pages ? (uint32_t)pages : 1;
}

/* Wait out what the limit says. Sender 0 watches the sockets and the destination. */
static int wait_limit(struct mig_sender *w, uint64_t limit, uint64_t end, struct err *e)
{
	struct mig_source *s = source_of(w);
	uint64_t now = clock_mono_ns(), look_ns = DRAIN_LOOK_NS;
	int rc = 0;

	/* In slices: who raises the limit should not have to wait for the old one. */
	while (!rc && now < end && limit_now(s) == limit && !atomic_load(&w->all->failed)) {
		/* Until the sockets are empty the wire is busy; from then on it only waits. */
		bool busy = !w->index && mig_senders_queued_bytes(&s->senders) > 0;
		uint64_t slice = busy ? look_ns : LIMIT_SLICE_NS;

		if (!w->index)
			update_rate(s);
		if (!w->index && !busy)
			mig_rate_pause(&s->rate, clock_mono_ns());
		rc = mig_stop_wait(&s->stop, -1, 0, end - now < slice ? end - now : slice);
		if (rc == -ECANCELED)
			return err_set(e, ECANCELED, "cancelled");
		rc = w->index ? 0 : mig_source_heed(s, e);
		now = clock_mono_ns();
		look_ns *= 2;
	}
	return rc;
}

static int keep_limit(struct mig_sender *w, uint64_t bytes, struct err *e)
{
	struct mig_source *s = source_of(w);
	uint64_t limit = limit_now(s), now = clock_mono_ns(), wait;
	int rc;

	pthread_mutex_lock(&s->limit_lock);
	wait = mig_limit_wait_ns(&s->limit, bytes, limit, now);
	pthread_mutex_unlock(&s->limit_lock);
	size_chunks(w, limit);
	rc = wait_limit(w, limit, now + wait, e);
	if (!w->index)
		mig_rate_resume(&s->rate, clock_mono_ns());
	return rc;
}

static void add(uint64_t *figure, uint64_t n)
{
	__atomic_fetch_add(figure, n, __ATOMIC_RELAXED);
}

/* Compress it if that is worth it. Returns how many plain bytes tell what it takes; 0: none. */
static uint64_t pack_chunk(struct mig_sender *w, struct mig_chunk *c, bool *packed)
{
	uint64_t plain_bytes = c->data_bytes;

	*packed = false;
	if (!w->squeeze || !plain_bytes || !mig_squeeze_wanted(w->squeeze))
		return plain_bytes;
	*packed = mig_chunk_pack(c, w->squeeze);
	if (!*packed)
		return 0;
	add(&w->packed_from_bytes, plain_bytes);
	add(&w->packed_to_bytes, c->data_bytes);
	return plain_bytes;
}

static int send_chunk(struct mig_sender *w, struct mig_chunk *c, struct err *e)
{
	int rc = mig_chan_send_end(w->chan, e);

	if (!rc)
		rc = keep_limit(w, c->data_bytes + c->meta.len + WIRE_HEADER_BYTES, e);
	if (rc)
		return rc;
	wire_header(w->writer, WIRE_PAGES, &c->meta, (uint32_t)c->data_bytes);
	memcpy(c->header, w->writer->header, WIRE_HEADER_BYTES);
	rc = mig_chan_send_lasting(w->chan, c->iov, c->n_iov, c->lasting, e);
	add(&w->sent_normal, c->normal_pages);
	add(&w->sent_zero, c->zero_pages);
	add(&w->data_bytes, c->data_bytes);
	return rc;
}

/* The coordinator between two chunks: will the last pages be out in time? */
static void watch_time(struct mig_source *s)
{
	if (s->until_ns && remaining_bytes(s) && clock_mono_ns() + rest_ns(s) > s->until_ns)
		atomic_store(&s->called_off, true);
}

/* One sender's share of a pass. */
static int send_part(struct mig_sender *w, struct err *e)
{
	struct mig_source *s = source_of(w);
	uint64_t last = clock_mono_ns(), now, plain_bytes;
	bool more = true, packed;
	int rc = 0;

	if (w->index)
		mig_chan_set_deadline(w->chan, s->paused ? s->dark_until_ns : 0);
	size_chunks(w, limit_now(s)); /* the first one is under the limit too */
	while (!rc && !atomic_load(&w->all->failed)) {
		/* One is prepared while the kernel still sends the other. */
		struct mig_chunk *c = &w->chunks[w->next_chunk];

		if (!w->index)
			watch_time(s);
		if (atomic_load(&s->called_off)) {
			mig_pages_put_back(&w->pages);
			break;
		}
		size_window(w);
		rc = mig_pages_next(&w->pages, c, &more, e);
		if (rc || !more)
			break;
		plain_bytes = pack_chunk(w, c, &packed);
		rc = send_chunk(w, c, e);
		w->next_chunk ^= 1;
		if (w->squeeze) {
			now = clock_mono_ns();
			mig_squeeze_sent(w->squeeze, plain_bytes, packed, now - last);
			last = now;
		}
		if (w->index)
			continue;
		rc = rc ? rc : mig_source_heed(s, e);
		rc = rc ? rc : mig_free_step(&s->free, &s->senders.cursor.lock, e);
		account(s);
	}
	return rc ? rc : mig_chan_send_end(w->chan, e);
}

static int send_mark(struct mig_sender *w, uint64_t number, struct err *e)
{
	struct wbuf meta;
	int rc;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	put_u64(&meta, number);
	rc = wire_send(w->writer, w->chan, WIRE_PASS, &meta, e);
	wbuf_free(&meta);
	return rc;
}

/* The round is sent: say so behind its pages on all connections but the first. */
static int mark_others(struct mig_source *s, struct err *e)
{
	int rc = 0;

	s->marks_others = s->marks + 1;
	for (unsigned i = 1; i < s->senders.n && !rc; i++)
		rc = send_mark(&s->senders.list[i], s->marks_others, e);
	return rc;
}

/* ... and on the first, where nothing more comes of this round either. */
static int mark_round(struct mig_source *s, struct err *e)
{
	int rc = 0;

	if (s->senders.n > 1 && s->marks_others == s->marks)
		rc = mark_others(s, e);
	s->round_open = false;
	return rc ? rc : send_mark(&s->senders.list[0], ++s->marks, e);
}

/* Another connection broke. If that was the destination's doing, it says why on the first. */
static int ask_why(struct mig_source *s, int rc, struct err *e)
{
	struct err words = ERR_INIT;

	if (mig_stop_is_set(&s->stop))
		return rc;
	mig_chan_set_idle_timeout(s->chan, WORDS_NS);
	if (!mig_chan_wait_readable(s->chan, &s->stop, &words) &&
	    mig_source_expect(s, WIRE_FAIL, &words) == -EREMOTEIO)
		*e = words;
	return rc;
}

/* The coordinator's share is done: see the others through theirs. */
static int wait_for_senders(struct mig_source *s, int rc, struct err *e)
{
	while (!rc && !mig_senders_wait(&s->senders, WATCH_NS)) {
		watch_time(s);
		account(s);
		rc = mig_source_heed(s, e);
	}
	rc = mig_senders_join(&s->senders, rc, e);
	return rc == -ECONNRESET ? ask_why(s, rc, e) : rc;
}

/* So many pages became so many bytes in this pass. What is left is supposed to be like them. */
static void learn_shrink(struct mig_source *s, uint64_t pages, uint64_t bytes)
{
	if (pages >= WIRE_CHUNK_PAGES)
		s->shrink = (double)bytes / (double)(pages * MEM_PAGE_BYTES);
}

int mig_send_pass(struct mig_source *s, uint64_t until_ns, struct err *e)
{
	/* Waking the others costs more than they would save on a few pages. */
	bool all = mig_bitmap_count(&s->bitmap) >= SHARED_PAGES_MIN && s->senders.n > 1;
	struct mig_sums before = mig_senders_sums(&s->senders), after;
	int rc = s->round_open ? mark_round(s, e) : 0;

	if (rc)
		return rc;
	mig_cursor_rewind(&s->senders.cursor);
	s->until_ns = until_ns;
	s->at_work = all ? s->senders.n : 1;
	atomic_store(&s->called_off, false);
	mig_rate_resume(&s->rate, clock_mono_ns());
	if (all)
		mig_senders_go(&s->senders, send_part);
	rc = send_part(&s->senders.list[0], e);
	if (all)
		rc = wait_for_senders(s, rc, e);
	after = mig_senders_sums(&s->senders);
	learn_shrink(s, after.normal_pages - before.normal_pages,
		     after.data_bytes - before.data_bytes);
	account(s);
	mig_rate_pause(&s->rate, clock_mono_ns());
	s->round_open = s->senders.n > 1;
	if (!rc && atomic_load(&s->called_off))
		return MIG_CALLED_OFF;
	/* END takes the place of a mark, but says how far the others have to be. */
	return !rc && all && s->paused ? mark_others(s, e) : rc;
}

/* Nothing is sent now. Behind a pass that was not waited for the wire may be busy all the same. */
static void pause_rate(struct mig_source *s)
{
	if (mig_source_settled(s) || !mig_senders_queued_bytes(&s->senders))
		mig_rate_pause(&s->rate, clock_mono_ns());
}

int mig_precopy_sync(struct mig_source *s, struct err *e)
{
	uint64_t begin_ns = clock_mono_ns();
	int rc;

	pause_rate(s);
	rc = mig_sync_now(&s->sync, e);
	if (rc) {
		err_prefix(e, "reading the dirty log");
		return rc;
	}
	mig_costs_learn(&s->costs, MIG_PHASE_SYNC, clock_mono_ns() - begin_ns);
	return 0;
}

/*
 * Wait until the destination has worked off the passes, not just its host's socket: in the dark
 * there must be nothing left to catch up on. It counts as sending time, so the bandwidth is that of
 * the whole way into the destination's memory.
 */
static int settle(struct mig_source *s, struct err *e)
{
	int rc;

	mig_rate_resume(&s->rate, clock_mono_ns());
	rc = mig_source_settle(s, e);
	account(s);
	mig_rate_pause(&s->rate, clock_mono_ns());
	return rc;
}

/*
 * The pass is out. While the guest is far from fitting the wire is not left idle for the round trip
 * that waiting costs: the next pass follows at once, and PASSED is taken when it comes.
 */
static int end_pass(struct mig_source *s, struct err *e)
{
	int rc;

	mig_rate_resume(&s->rate, clock_mono_ns());
	rc = mark_round(s, e);
	if (!rc && (!s->far || mig_rehearsal_due(s)))
		return settle(s, e);
	account(s);
	return rc;
}

/* The bulk pass is through: close the round, and tell the destination of what was left out. */
static int send_free_pages(struct mig_source *s, struct err *e)
{
	struct mig_sender *w = &s->senders.list[0];
	bool more = true;
	int rc = 0;

	/*
	 * No page of these was sent in this pass on another connection: it would not wait to be
	 * sent any more. So they need no mark between.
	 */
	mig_free_end(&s->free);
	mig_cursor_rewind(&s->senders.cursor);
	while (!rc) {
		struct mig_chunk *c = &w->chunks[w->next_chunk];

		rc = mig_pages_next_free(&w->pages, &s->free, c, &more, e);
		if (rc || !more)
			break;
		s->sent_free += c->zero_pages;
		rc = send_chunk(w, c, e);
		w->next_chunk ^= 1;
	}
	return rc ? rc : mig_chan_send_end(w->chan, e);
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
		rc = end_pass(s, e);
	if (!rc && mig_source_settled(s) && mig_rehearsal_due(s))
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

	pause_rate(s);
	if (took < MIN_PASS_NS && mig_stop_wait(&s->stop, -1, 0, MIN_PASS_NS - took) == -ECANCELED)
		return err_set(e, ECANCELED, "cancelled");
	return 0;
}

/* Does the rest fit the limit? *fits only if the destination has all that was sent. */
static int decide(struct mig_source *s, bool *fits, struct err *e)
{
	uint64_t limit_ns = mig_source_params(s).downtime_limit_ms * NS_PER_MS;
	uint64_t phases[MIG_PHASES], predicted = mig_predict(s, phases);
	int rc = 0;

	s->far = predicted / FAR > limit_ns;
	*fits = predicted <= limit_ns;
	if (*fits && !mig_source_settled(s)) {
		rc = settle(s, e);
		*fits = mig_predict(s, phases) <= limit_ns;
	}
	return rc;
}

int mig_precopy(struct mig_source *s, struct err *e)
{
	uint64_t before = remaining_bytes(s), extra = 0;

	for (;;) {
		uint64_t begin_ns = clock_mono_ns(), sent = s->sent_normal, left;
		bool fits = false;
		int rc = iterate(s, e);

		if (!rc)
			rc = decide(s, &fits, e);
		if (rc)
			return rc;
		left = remaining_bytes(s);
		if (!fits) {
			mig_brake_pass(&s->brake, (s->sent_normal - sent) * MEM_PAGE_BYTES, left);
			rc = space_out(s, begin_ns, e);
			if (rc)
				return rc;
		} else if (rest_ns(s) <= WORTH_NS || left * 2 > before || extra++ == MAX_EXTRA) {
			return 0;
		}
		before = left;
	}
}
