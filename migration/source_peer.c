/* SPDX-License-Identifier: Apache-2.0 */
/* The source's side of the talk: what comes back, agreeing on what is moved, the connections. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migration/source_state.h"

#define CONNECT_TIMEOUT_NS (10 * NS_PER_SEC)
#define HELLO_TIMEOUT_NS   (10 * NS_PER_SEC)
#define JOIN_TIMEOUT_NS    (10 * NS_PER_SEC) /* more than the destination's own */
#define HEED_FRAMES        64
#define LAST_WORDS_BYTES   4096

static int peer_failed(const char *text, struct err *e)
{
	return err_set(e, EREMOTEIO, "the destination gave up: %s", text);
}

#define SKIPPED 1

static int take_passed(struct mig_source *s, struct err *e)
{
	uint64_t number;
	int rc = wire_get_one_u64(&s->reader.meta, "passed", &number, e);

	if (!rc && number != s->passed + 1)
		rc = err_set(e, EPROTO, "the destination confirms another pass than was sent");
	s->passed++;
	return rc ? rc : SKIPPED;
}

/*
 * The next frame, or SKIPPED if nobody waits for it: the READY to a switchover that was called off
 * comes late, and still tells what loading took; PASSED comes when the destination is there.
 */
static int receive(struct mig_source *s, struct wire_frame *f, struct err *e)
{
	int rc = wire_recv_any(&s->reader, s->chan, f, e);

	if (!rc && f->type == WIRE_ALIVE)
		return SKIPPED;
	if (!rc && f->type == WIRE_PASSED && s->passed < s->marks)
		return take_passed(s, e);
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

bool mig_source_settled(const struct mig_source *s)
{
	return s->passed == s->marks;
}

int mig_source_settle(struct mig_source *s, struct err *e)
{
	struct wire_frame f;
	int rc = 0;

	while (rc >= 0 && !mig_source_settled(s)) {
		rc = receive(s, &f, e);
		if (!rc)
			return check_type(s, &f, WIRE_PASSED, e);
	}
	return rc < 0 ? rc : 0;
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

	/* One that never stops talking must not keep its caller from everything else. */
	for (unsigned n = 0; n < HEED_FRAMES && rc >= 0 && mig_chan_readable(s->chan); n++) {
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
void mig_source_last_words(struct mig_source *s, struct err *e)
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
	h->n_channels = s->cfg.params.channels > 1 ? (uint8_t)s->cfg.params.channels : 1;
	if (h->n_channels > 1)
		h->features |= WIRE_FEATURE_CHANNELS;
	if (s->cfg.params.compress)
		h->features |= WIRE_FEATURE_ZSTD;
	if (s->cfg.params.verify)
		h->features |= WIRE_FEATURE_DIGEST;
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

int mig_source_agree(struct mig_source *s, unsigned *n_channels, struct err *e)
{
	struct wire_hello *h = calloc(1, sizeof(*h));
	struct err why = ERR_INIT;
	struct wire_welcome welcome;
	struct wbuf meta;
	int rc;

	if (!h)
		return err_set(e, ENOMEM, "out of memory");
	fill_hello(s, h);
	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	wire_put_hello(&meta, h);
	rc = wire_send(&s->writer, s->chan, WIRE_HELLO, &meta, e);
	if (!rc)
		rc = send_early(s, &meta, e);
	wbuf_free(&meta);
	if (!rc)
		rc = mig_source_expect(s, WIRE_WELCOME, &why);
	if (rc == -ETIMEDOUT && why.code)
		rc = err_set(e, ETIMEDOUT,
			     "%s took the connection, but has not answered for %llu s: another "
			     "guest is arriving there, or what listens there is no ferry",
			     s->peer, HELLO_TIMEOUT_NS / NS_PER_SEC);
	else if (why.code)
		rc = err_set(e, why.code, "%s", why.msg);
	/* Not the time of this exchange: the destination may have been busy with another source. */
	mig_costs_init(&s->costs, s->cfg.machine.n_cpus, mig_chan_rtt_ns(s->chan));
	if (!rc)
		rc = wire_get_welcome(&s->reader.meta, h, &welcome, e);
	if (!rc) {
		s->session = welcome.session;
		*n_channels = welcome.n_channels;
	}
	free(h);
	return rc;
}

int mig_source_connect(struct mig_source *s, struct err *e)
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

/* A sender's first part: another connection, and which one it is. */
static int connect_sender(struct mig_sender *w, struct err *e)
{
	struct mig_source *s = w->all->ctx;
	const struct wire_channel m = {.session = s->session, .index = (uint8_t)w->index};
	struct mig_chan *chan;
	struct wbuf meta;
	int fd, rc = mig_uri_connect(&s->uri, &s->stop, CONNECT_TIMEOUT_NS, &fd, e);

	if (!rc)
		rc = mig_chan_open(&chan, fd, s->peer, MIG_IDLE_TIMEOUT_NS, e);
	if (rc)
		return rc;
	mig_chan_set_user_timeout(chan, MIG_BEAT_USER_TIMEOUT_MS);
	if (s->cfg.params.zero_copy)
		mig_chan_allow_zero_copy(chan);
	mig_sender_connected(w, chan);
	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	wire_put_channel(&meta, &m);
	rc = wire_send(w->writer, chan, WIRE_CHANNEL, &meta, e);
	wbuf_free(&meta);
	return rc;
}

/* Nothing is sent before all are there: it would stand in the way of bad news. */
static int await_joined(struct mig_source *s, struct err *e)
{
	uint64_t number;
	int rc = mig_senders_watch(&s->senders, &s->stop, JOIN_TIMEOUT_NS, e);

	if (!rc)
		rc = mig_source_expect(s, WIRE_PASSED, e);
	if (!rc)
		rc = wire_get_one_u64(&s->reader.meta, "passed", &number, e);
	if (!rc && number)
		rc = err_set(e, EPROTO, "the destination confirms a pass before the first");
	return rc;
}

int mig_source_start_senders(struct mig_source *s, unsigned n, struct err *e)
{
	int rc = mig_senders_init(&s->senders, s, n, s->cfg.mem, &s->bitmap, &s->cfg.dirty, e);

	if (rc)
		return rc;
	s->senders.list[0].chan = s->chan;
	s->senders.list[0].writer = &s->writer;
	if (s->cfg.params.zero_copy)
		mig_chan_allow_zero_copy(s->chan);
	pthread_mutex_lock(&s->lock);
	s->sharing = true;
	pthread_mutex_unlock(&s->lock);
	/* A cancel that came before the senders were known. */
	if (mig_stop_is_set(&s->stop))
		return err_set(e, ECANCELED, "cancelled");
	rc = s->cfg.params.compress ? mig_senders_compress(&s->senders, e) : 0;
	if (rc)
		return rc;
	if (n < 2)
		return 0;
	mig_senders_go(&s->senders, connect_sender);
	rc = mig_senders_join(&s->senders, 0, e);
	return rc ? rc : await_joined(s, e);
}

void mig_source_end_senders(struct mig_source *s)
{
	pthread_mutex_lock(&s->lock);
	s->sharing = false;
	pthread_mutex_unlock(&s->lock);
	mig_senders_free(&s->senders);
}
