/* SPDX-License-Identifier: Apache-2.0 */
/* One pass: everything that is set in the bitmap, on all connections, as fast as may be. */
#include <errno.h>
#include <string.h>

#include "migration/source_state.h"

#define WINDOW_NS        (10 * NS_PER_MS) /* of sending: how much is protected at a time */
#define LIMIT_SLICE_NS   (100 * NS_PER_MS)
#define DRAIN_LOOK_NS    (50 * NS_PER_US) /* is the socket empty? Then twice as long, and so on */
#define WATCH_NS         (5 * NS_PER_MS)  /* how often the clock is looked at beside the senders */
#define WORDS_NS         (500 * NS_PER_MS)
#define SHARED_PAGES_MIN WIRE_CHUNK_PAGES /* fewer are sent on the first connection alone */

/* It is so long that nothing has been sent. */
static void update_rate(struct mig_source *s, const struct mig_sample *sample, uint64_t since_ns)
{
	uint64_t sent = sample->sums.sent_bytes, queued = sample->queued_bytes;
	uint64_t waiting = queued;

	/* What is under way may just be acknowledged late, but not for ever. */
	if (since_ns <= 2 * s->costs.rtt_ns)
		waiting = mig_senders_unsent_bytes(&s->senders);

	mig_rate_update(&s->rate, sent > queued ? sent - queued : 0, waiting, clock_mono_ns());
}

void mig_account_sent(struct mig_source *s)
{
	struct mig_sample now = mig_source_sample(s);
	uint64_t pages;

	update_rate(s, &now, 0);
	pages = mig_speed_bytes_s(s) / (NS_PER_SEC / WINDOW_NS) / MEM_PAGE_BYTES;
	__atomic_store_n(&s->window_pages, pages, __ATOMIC_RELAXED);
	mig_source_figures_of(s, &now);
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
	uint64_t begin = clock_mono_ns(), now = begin, look_ns = DRAIN_LOOK_NS;
	int rc = 0;

	/* In slices: who raises the limit should not have to wait for the old one. */
	while (!rc && now < end && mig_limit_now(s) == limit && !atomic_load(&w->all->failed)) {
		uint64_t slice = LIMIT_SLICE_NS;

		if (!w->index) {
			struct mig_sample sample = mig_source_sample(s);

			update_rate(s, &sample, now - begin);
			/* Until the sockets are empty the wire is busy; then it only waits. */
			if (sample.queued_bytes)
				slice = look_ns;
			else
				mig_rate_pause(&s->rate, clock_mono_ns());
		}
		rc = mig_stop_wait(&s->stop, -1, 0, end - now < slice ? end - now : slice);
		if (rc == -ECANCELED)
			return err_set(e, ECANCELED, "cancelled");
		rc = w->index ? 0 : mig_source_heed(s, e);
		now = clock_mono_ns();
		if (look_ns < LIMIT_SLICE_NS)
			look_ns *= 2;
	}
	return rc;
}

static int keep_limit(struct mig_sender *w, uint64_t bytes, struct err *e)
{
	struct mig_source *s = source_of(w);
	uint64_t limit = mig_limit_now(s), now = clock_mono_ns(), wait;
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
	if (s->until_ns && mig_remaining_bytes(s) && clock_mono_ns() + mig_rest_ns(s) > s->until_ns)
		atomic_store(&s->called_off, true);
}

/* One sender's share of a pass. */
static int send_part(struct mig_sender *w, struct err *e)
{
	struct mig_source *s = source_of(w);
	uint64_t last = clock_mono_ns(), now, plain_bytes;
	bool more = true, packed;
	int rc = 0;

	size_chunks(w, mig_limit_now(s)); /* the first one is under the limit too */
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
		mig_account_sent(s);
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
int mig_mark_round(struct mig_source *s, struct err *e)
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
		mig_account_sent(s);
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
	int rc;

	for (unsigned i = 1; i < s->senders.n; i++)
		mig_chan_set_deadline(s->senders.list[i].chan, s->paused ? s->dark_until_ns : 0);
	rc = s->round_open ? mig_mark_round(s, e) : 0;
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
	mig_account_sent(s);
	mig_rate_pause(&s->rate, clock_mono_ns());
	s->round_open = s->senders.n > 1;
	if (!rc && atomic_load(&s->called_off))
		return MIG_CALLED_OFF;
	/* END takes the place of a mark, but says how far the others have to be. */
	return !rc && all && s->paused ? mark_others(s, e) : rc;
}

/* The bulk pass is through: close the round, and tell the destination of what was left out. */
int mig_send_free_pages(struct mig_source *s, struct err *e)
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
