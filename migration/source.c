/* SPDX-License-Identifier: Apache-2.0 */
/* The source as an object: start, status, cancel; agreeing with the destination; the ending. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "migration/source_state.h"

#define CONNECT_TIMEOUT_NS (10 * NS_PER_SEC)
#define HELLO_TIMEOUT_NS   (10 * NS_PER_SEC)
#define LAST_WORDS_BYTES   4096
#define ABORT_LINGER_NS    (200 * NS_PER_MS)

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

void mig_source_figures(struct mig_source *s)
{
	struct mig_sync_figures sync = mig_sync_figures(&s->sync);
	uint64_t speed = mig_speed_bytes_s(s);
	uint64_t phases[MIG_PHASES], predicted = mig_predict(s, phases);
	struct mig_status *st = &s->status;

	pthread_mutex_lock(&s->lock);
	st->predicted_downtime_ns = predicted;
	memcpy(st->predicted_phase_ns, phases, sizeof(phases));
	st->least_downtime_ns = predicted - phases[MIG_PHASE_PAGES];
	st->remaining_bytes =
		(mig_bitmap_count(&s->bitmap) + mig_pages_pending(&s->pages)) * MEM_PAGE_BYTES;
	st->transferred_bytes = mig_chan_sent(s->chan);
	if (!s->paused)
		st->precopy_bytes = st->transferred_bytes;
	st->downtime_bytes = st->transferred_bytes - st->precopy_bytes;
	st->normal_pages = s->sent_normal;
	st->zero_pages = s->sent_zero;
	st->free_pages = s->sent_free;
	st->syncs = sync.syncs;
	st->sync_ns_last = sync.last_ns;
	st->sync_ns_total = sync.total_ns;
	st->dirty_pages_per_s = sync.dirty_pages_per_s;
	st->bytes_per_s = speed;
	st->protect_calls = s->pages.protect_calls + s->free.protect_calls;
	st->protect_pages = s->pages.protect_pages + s->free.protect_pages;
	pthread_mutex_unlock(&s->lock);
}

/* ---- talking to the destination ---- */

static int peer_failed(const char *text, struct err *e)
{
	return err_set(e, EREMOTEIO, "the destination gave up: %s", text);
}

#define SKIPPED 1

/*
 * The next frame, or SKIPPED if nobody waits for it: the READY to a switchover that was called off
 * comes late, and still tells what loading took.
 */
static int receive(struct mig_source *s, struct wire_frame *f, struct err *e)
{
	int rc = wire_recv_any(&s->reader, s->chan, f, e);

	if (!rc && f->type == WIRE_ALIVE)
		return SKIPPED;
	if (rc || f->type != WIRE_READY || !s->readies_owed)
		return rc;
	s->readies_owed--;
	rc = mig_learn_loaded(s, e);
	/* One by one they come: this END's, those that are still due, and that is all. */
	if (!rc && s->loaded_number != s->n_ends - s->readies_owed)
		rc = err_set(e, EPROTO, "the destination is ready for another switchover (%u)",
			     s->loaded_number);
	return rc ? rc : SKIPPED;
}

/* It must be of this type; FAIL becomes the destination's error. */
static int check_type(struct mig_source *s, const struct wire_frame *f, enum wire_type type,
		      struct err *e)
{
	char text[WIRE_TEXT_MAX + 1];

	if (f->type == WIRE_FAIL) {
		wire_get_text(&s->reader.meta, text);
		return peer_failed(text, e);
	}
	if (f->type == type)
		return 0;
	return err_set(e, EPROTO, "the destination sent a %s message out of turn",
		       wire_type_name(f->type));
}

int mig_source_expect(struct mig_source *s, enum wire_type type, struct err *e)
{
	struct wire_frame f;
	int rc;

	do {
		rc = receive(s, &f, e);
	} while (rc == SKIPPED);
	return rc ? rc : check_type(s, &f, type, e);
}

int mig_source_take_ready(struct mig_source *s, struct err *e)
{
	struct wire_frame f;
	int rc = receive(s, &f, e);

	return !rc ? check_type(s, &f, WIRE_READY, e) : rc == SKIPPED ? 0 : rc;
}

int mig_source_heed(struct mig_source *s, struct err *e)
{
	int rc = 0;

	while (rc >= 0 && mig_chan_readable(s->chan)) {
		struct wire_frame f;

		rc = receive(s, &f, e);
		if (!rc)
			/* Nothing is due from the destination now but the end. */
			return check_type(s, &f, WIRE_FAIL, e);
	}
	return rc < 0 ? rc : 0;
}

/*
 * The connection broke: did the destination say why before? Replaces the plain error. Whatever it
 * said before that, "alive" and the like, is of no interest any more.
 */
static void last_words(struct mig_source *s, struct err *e)
{
	uint8_t bytes[LAST_WORDS_BYTES];
	size_t n = mig_chan_last_words(s->chan, bytes, sizeof(bytes)), at = 0;
	char text[WIRE_TEXT_MAX + 1];
	struct err none = ERR_INIT;
	struct wire_frame f;
	struct rbuf meta;
	uint32_t crc;

	while (n - at >= WIRE_HEADER_BYTES) {
		if (wire_parse_header(&s->reader, bytes + at, &f, &crc, &none))
			return;
		at += WIRE_HEADER_BYTES;
		if (f.meta_bytes > n - at)
			return;
		if (f.type == WIRE_FAIL) {
			rbuf_init(&meta, ORDER_LITTLE, bytes + at, f.meta_bytes);
			wire_get_text(&meta, text);
			err_clear(e);
			(void)peer_failed(text, e);
			return;
		}
		at += f.meta_bytes;
	}
}

static void fill_hello(struct mig_source *s, struct wire_hello *h)
{
	const struct mig_machine *m = &s->cfg.machine;

	h->version_min = WIRE_VERSION;
	h->version_max = WIRE_VERSION;
	h->page_bytes = (uint32_t)MEM_PAGE_BYTES;
	h->n_cpus = m->n_cpus;
	h->token_hash = wire_token_hash(s->token);
	memcpy(h->guest_name, s->guest_name, sizeof(h->guest_name));
	h->n_blocks = s->cfg.mem->n_blocks;
	for (unsigned i = 0; i < h->n_blocks; i++) {
		const struct mem_block *b = &s->cfg.mem->blocks[i];

		memcpy(h->blocks[i].name, b->name, sizeof(b->name));
		h->blocks[i].gpa = b->gpa;
		h->blocks[i].size_bytes = b->size_bytes;
	}
	h->n_sections = m->n_sections;
	for (unsigned i = 0; i < m->n_sections; i++) {
		struct wire_section_id *id = &h->sections[i];

		(void)snprintf(id->name, sizeof(id->name), "%s", m->sections[i].table->name);
		id->instance = m->sections[i].instance;
		id->version = m->sections[i].table->version;
	}
	h->n_early = m->n_early;
}

void mig_source_put_section(struct wbuf *meta, const struct mig_section *sec)
{
	put_str8(meta, sec->table->name);
	put_u32(meta, sec->instance);
	put_u32(meta, sec->table->version);
	fields_encode(meta, sec->table, sec->data);
}

static int send_early(struct mig_source *s, struct wbuf *meta, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < s->cfg.machine.n_early && !rc; i++) {
		wbuf_reset(meta);
		mig_source_put_section(meta, &s->cfg.machine.early[i]);
		rc = wire_send(&s->writer, s->chan, WIRE_SECTION, meta, e);
	}
	return rc;
}

static int agree(struct mig_source *s, struct err *e)
{
	struct wire_hello *h = calloc(1, sizeof(*h));
	struct wbuf meta;
	int rc;

	if (!h)
		return err_set(e, ENOMEM, "out of memory");
	fill_hello(s, h);
	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	wire_put_hello(&meta, h);
	free(h);
	rc = wire_send(&s->writer, s->chan, WIRE_HELLO, &meta, e);
	if (!rc)
		rc = send_early(s, &meta, e);
	wbuf_free(&meta);
	if (!rc)
		rc = mig_source_expect(s, WIRE_WELCOME, e);
	/* Not the time of this exchange: the destination may have been busy with another source. */
	mig_costs_init(&s->costs, s->cfg.machine.n_cpus, mig_chan_rtt_ns(s->chan));
	if (!rc && get_u16(&s->reader.meta) != WIRE_VERSION)
		rc = err_set(e, EPROTO, "the destination chose a version that was not offered");
	if (!rc && (get_u64(&s->reader.meta) || !rbuf_done(&s->reader.meta)))
		rc = err_set(e, EPROTO, "the destination wants features that were not offered");
	return rc;
}

static int connect_to_peer(struct mig_source *s, struct err *e)
{
	struct mig_chan *chan;
	int fd, rc = mig_uri_connect(&s->uri, &s->stop, CONNECT_TIMEOUT_NS, &fd, e);

	if (!rc)
		rc = mig_chan_open(&chan, fd, s->peer, HELLO_TIMEOUT_NS, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->chan = chan;
	pthread_mutex_unlock(&s->lock);
	/* A cancel that came before the channel was known. */
	return mig_stop_is_set(&s->stop) ? err_set(e, ECANCELED, "cancelled") : 0;
}

/* ---- the life of a migration ---- */

static int prepare(struct mig_source *s, struct err *e)
{
	uint64_t pages[MEM_MAX_BLOCKS];
	int rc = connect_to_peer(s, e);

	if (!rc)
		rc = agree(s, e);
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
	rc = mig_free_init(&s->free, s->cfg.mem, &s->bitmap, &s->cfg.dirty, s->cfg.free_sources,
			   s->cfg.n_free_sources);
	if (rc)
		return err_set(e, ENOMEM, "out of memory for the record of free pages");
	mig_pages_init(&s->pages, s->cfg.mem, &s->bitmap, &s->cfg.dirty);
	s->logging = true;
	rc = s->cfg.dirty.start(s->cfg.dirty.ctx, e);
	if (rc) {
		err_prefix(e, "starting the dirty log");
		return rc;
	}
	mig_bitmap_fill(&s->bitmap);
	rc = mig_sync_start(&s->sync, &s->cfg.dirty, &s->bitmap, MIG_SYNC_BACKGROUND_NS, e);
	s->syncing = !rc;
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

/* The guest goes on here: resume it first, the rest can wait. Completes the message. */
static void keep_guest(struct mig_source *s, struct err *e)
{
	const struct mig_machine *m = &s->cfg.machine;
	struct err why = ERR_INIT;
	size_t len;

	if (s->paused)
		(void)m->resume(m->ctx, &why);
	len = strlen(e->msg);
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
	s->ended = true;
	pthread_mutex_unlock(&s->lock);
	mig_source_state(s, state);
}

static void finish(struct mig_source *s, int rc, struct err *e)
{
	enum mig_state state = MIG_COMPLETED;

	mig_beat_stop(&s->beat);
	if (rc && !s->committed && mig_stop_is_set(&s->stop))
		mig_source_state(s, MIG_CANCELLING);
	if (rc && s->chan && !s->committed)
		last_words(s, e);
	if (rc && !s->committed) {
		state = mig_stop_is_set(&s->stop) ? MIG_CANCELLED : MIG_FAILED;
		keep_guest(s, e);
	} else if (rc) {
		state = MIG_UNDECIDED;
		err_prefix(e, "the guest was handed over, but the destination has not confirmed "
			      "that it runs it");
	}
	mig_free_done(&s->free);
	if (s->syncing)
		mig_sync_stop(&s->sync);
	if (s->logging)
		s->cfg.dirty.stop(s->cfg.dirty.ctx);
	show_end(s, state, e);
	if (rc && !s->committed && s->chan)
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
	mig_chunk_init(&s->chunks[0]);
	mig_chunk_init(&s->chunks[1]);
	(void)pthread_mutex_init(&s->lock, NULL);
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

void mig_source_free(struct mig_source *s)
{
	if (!s)
		return;
	mig_source_cancel(s);
	(void)pthread_join(s->thread, NULL);
	mig_chunk_free(&s->chunks[0]);
	mig_chunk_free(&s->chunks[1]);
	mig_bitmap_free(&s->bitmap);
	mig_free_destroy(&s->free);
	wire_reader_free(&s->reader);
	mig_stop_free(&s->go);
	mig_stop_free(&s->stop);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}
