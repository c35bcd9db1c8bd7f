/* SPDX-License-Identifier: Apache-2.0 */
/* The destination: receive one guest at a time, take it over (docs/handover.md). */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "migration/dest_state.h"

#define HELLO_TIMEOUT_NS (5 * NS_PER_SEC)
#define IDLE_TIMEOUT_NS  (30 * NS_PER_SEC)
#define FAIL_LINGER_NS   NS_PER_SEC
#define CALLED_OFF       1 /* no error: the switchover is, not the migration */

void mig_dest_state(struct mig_dest *d, enum mig_state state, const struct err *e)
{
	struct mig_event ev = {.kind = MIG_EVENT_STATE, .state = state};

	pthread_mutex_lock(&d->lock);
	d->status.state = state;
	(void)snprintf(d->status.error, sizeof(d->status.error), "%s", e ? e->msg : "");
	pthread_mutex_unlock(&d->lock);
	if (d->cfg.on_event)
		d->cfg.on_event(d->cfg.event_ctx, &ev);
}

static uint64_t figure(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

/* Called by every reader after its frames. */
static void update_figures(void *ctx)
{
	struct mig_dest *d = ctx;

	pthread_mutex_lock(&d->lock);
	d->status.transferred_bytes = mig_readers_bytes(&d->readers);
	d->status.n_channels = d->readers.n;
	for (unsigned i = 0; i < d->readers.n; i++)
		d->status.channel_bytes[i] = mig_chan_received(d->readers.list[i].chan);
	d->status.normal_pages = figure(&d->in.normal_pages);
	d->status.zero_pages = figure(&d->in.zero_pages);
	d->status.remaining_bytes =
		d->cfg.mem->size_bytes - figure(&d->in.n_arrived) * MEM_PAGE_BYTES;
	d->status.total_ns = clock_mono_ns() - d->begin_ns;
	pthread_mutex_unlock(&d->lock);
}

int mig_dest_send_u64(struct mig_dest *d, enum wire_type type, uint64_t v, struct err *e)
{
	struct wbuf meta;
	int rc;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	put_u64(&meta, v);
	rc = wire_send(&d->writer, d->chan, type, &meta, e);
	wbuf_free(&meta);
	return rc;
}

static void send_fail(struct mig_dest *d, const struct err *why)
{
	struct err ignored = ERR_INIT;
	struct wbuf meta;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	wire_put_text(&meta, why->msg);
	if (!wire_send(&d->writer, d->chan, WIRE_FAIL, &meta, &ignored))
		mig_chan_linger(d->chan, FAIL_LINGER_NS);
	wbuf_free(&meta);
}

int mig_dest_aborted(struct mig_dest *d, struct err *e)
{
	char text[WIRE_TEXT_MAX + 1];

	wire_get_text(&d->reader.meta, text);
	return err_set(e, ECONNABORTED, "the source gave up: %s", text);
}

/* ---- one attempt ---- */

/* While others lag the first connection is not read, and may be too full for a sign of life. */
static int await_mark(struct mig_dest *d, uint64_t number, struct err *e)
{
	int rc;

	mig_beat_patient(&d->beat, d->readers.n > 1);
	rc = mig_readers_mark(&d->readers, 0, number, e);
	mig_beat_patient(&d->beat, false);
	return rc;
}

static int pass_mark(struct mig_dest *d, struct err *e)
{
	uint64_t pass;
	int rc = wire_get_one_u64(&d->reader.meta, "pass", &pass, e);

	if (!rc)
		rc = await_mark(d, pass, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&d->lock);
	d->status.passes = pass;
	pthread_mutex_unlock(&d->lock);
	return mig_dest_send_u64(d, WIRE_PASSED, pass, e);
}

/* `number`: of the END that is answered; 0: it was a rehearsal. */
static int send_loaded(struct mig_dest *d, uint32_t number, uint64_t load_ns, struct err *e)
{
	struct wire_loaded loaded = {
		.number = number, .decode_ns = d->in.decode_ns, .load_ns = load_ns};
	struct wbuf meta;
	int rc;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	wire_put_loaded(&meta, &loaded);
	rc = wire_send(&d->writer, d->chan, number ? WIRE_READY : WIRE_REHEARSED, &meta, e);
	wbuf_free(&meta);
	return rc;
}

/* Load the state so far as if it were the last: what fails now does not fail in the dark. */
static int rehearse(struct mig_dest *d, struct err *e)
{
	const struct mig_machine *m = &d->cfg.machine;
	uint64_t begin_ns = clock_mono_ns(), load_ns, digest_ns;
	int rc = rbuf_done(&d->reader.meta) ? mig_incoming_rehearsal(&d->in, e)
					    : err_set(e, EPROTO, "malformed rehearse message");

	if (!rc && m->rehearse_apply) {
		rc = m->rehearse_apply(m->ctx, e);
		if (rc)
			err_prefix(e, "loading the guest's state");
	}
	load_ns = clock_mono_ns() - begin_ns;
	mig_incoming_rehearse_digest(&d->in, &digest_ns);
	if (!rc)
		rc = send_loaded(d, 0, load_ns + digest_ns, e);
	mig_incoming_again(&d->in);
	return rc;
}

/* Everything up to the end mark. */
static int receive_guest(struct mig_dest *d, struct wire_end *end, struct err *e)
{
	struct wire_frame f;

	for (;;) {
		int rc = mig_readers_wait(&d->readers, e);

		/* Behind a sign of life the other connections are looked at again. */
		if (!rc)
			rc = wire_recv_any(&d->reader, d->chan, &f, e);
		if (rc)
			return rc;
		switch (f.type) {
		case WIRE_ALIVE:
			break;
		case WIRE_PAGES:
			rc = mig_incoming_pages(&d->in, &d->readers.list[0].inlet, d->chan,
						&d->reader.meta, f.data_bytes, e);
			break;
		case WIRE_PASS:
			rc = pass_mark(d, e);
			break;
		case WIRE_SECTION:
			rc = mig_incoming_section(&d->in, &d->reader.meta, e);
			break;
		case WIRE_REHEARSE:
			rc = rehearse(d, e);
			break;
		case WIRE_END:
			rc = wire_get_end(&d->reader.meta, end, e);
			if (!rc)
				rc = mig_readers_close(&d->readers, end->marks, e);
			update_figures(d);
			return rc ? rc : mig_incoming_complete(&d->in, end, e);
		case WIRE_ABORT:
			return mig_dest_aborted(d, e);
		default:
			return err_set(e, EPROTO, "a %s message in the middle of the memory",
				       wire_type_name(f.type));
		}
		if (rc)
			return rc;
		update_figures(d);
	}
}

/*
 * Ready: the source alone decides now. 0: the commit came. CALLED_OFF: it goes on with the guest,
 * and with sending. -ECONNABORTED: it keeps its guest for good. Anything else leaves open what it
 * decided: -EINPROGRESS.
 */
static int await_commit(struct mig_dest *d, struct err *e)
{
	struct wire_frame f;
	uint64_t token = 0;
	int rc;

	/*
	 * As long as the line holds the source's word may come, and only the source knows which; it
	 * does not commit late. Its silence is shown; of a line that is dead TCP tells in time.
	 */
	mig_chan_set_idle_timeout(d->chan, 0);
	mig_beat_patient(&d->beat, true);
	rc = wire_recv(&d->reader, d->chan, &f, e);
	mig_beat_patient(&d->beat, false);
	if (!rc && f.type == WIRE_ABORT)
		return mig_dest_aborted(d, e);
	if (!rc && f.type == WIRE_AGAIN && rbuf_done(&d->reader.meta))
		return CALLED_OFF;
	if (!rc && f.type != WIRE_COMMIT)
		rc = err_set(e, EPROTO, "a %s message where the commit was due",
			     wire_type_name(f.type));
	if (!rc)
		rc = wire_get_one_u64(&d->reader.meta, "commit", &token, e);
	if (!rc)
		update_figures(d); /* both sides shall have counted the same */
	if (!rc && wire_token_hash(token) != d->token_hash)
		rc = err_set(e, EPROTO, "the commit carries a wrong token");
	return rc ? -EINPROGRESS : 0;
}

/* Wait for somebody to bring the token. False: the destination is being ended. */
static bool await_decision(struct mig_dest *d)
{
	bool decision;

	pthread_mutex_lock(&d->lock);
	while (!d->quit && !d->decision)
		pthread_cond_wait(&d->decided, &d->lock);
	decision = d->decision;
	pthread_mutex_unlock(&d->lock);
	return decision;
}

static int take_over(struct mig_dest *d, bool run, bool tell, struct err *e)
{
	struct err ignored = ERR_INIT;
	uint64_t begin_ns = clock_mono_ns();
	int rc = d->cfg.machine.taken_over(d->cfg.machine.ctx, run, e);

	if (tell && !rc)
		(void)mig_dest_send_u64(d, WIRE_RUNNING, clock_mono_ns() - begin_ns, &ignored);
	else if (tell)
		send_fail(d, e);
	return rc;
}

/* From the end mark to the source's word: as await_commit(), or why the guest is not ready. */
static int get_ready(struct mig_dest *d, const struct wire_end *end, struct err *e)
{
	uint64_t begin_ns = clock_mono_ns();
	int rc = mig_incoming_digest(&d->in, end->digest, e);

	if (rc)
		return rc;
	rc = d->cfg.machine.apply(d->cfg.machine.ctx, e);
	if (rc) {
		err_prefix(e, "loading the guest's state");
		return rc;
	}
	rc = send_loaded(d, end->number, clock_mono_ns() - begin_ns, e);
	/* If that failed the source cannot have committed: it has not heard READY whole. */
	return rc ? rc : await_commit(d, e);
}

/* Everything, and as often as the source takes it back. */
static int receive_all(struct mig_dest *d, struct wire_end *end, struct err *e)
{
	int rc;

	do {
		if (d->status.state != MIG_ACTIVE) /* only this thread writes it */
			mig_dest_state(d, MIG_ACTIVE, NULL);
		mig_chan_set_idle_timeout(d->chan, IDLE_TIMEOUT_NS);
		rc = mig_readers_open(&d->readers, e);
		if (!rc)
			rc = receive_guest(d, end, e);
		if (rc)
			return rc;
		mig_dest_state(d, MIG_DEVICE, NULL);
		rc = get_ready(d, end, e);
		mig_incoming_again(&d->in);
	} while (rc == CALLED_OFF);
	return rc;
}

/* The source is silent while its word is due: people should know, but it may still come. */
static void tell_silence(void *ctx, bool silent)
{
	struct mig_dest *d = ctx;

	pthread_mutex_lock(&d->lock);
	(void)snprintf(d->status.error, sizeof(d->status.error), "%s",
		       silent && d->status.state == MIG_DEVICE
			       ? "the source is silent, and it alone knows where the guest is to "
				 "run: waiting for its word"
			       : "");
	pthread_mutex_unlock(&d->lock);
}

static int attempt(struct mig_dest *d, struct err *e)
{
	struct wire_end end = {0};
	struct wire_welcome agreed;
	bool tell = true;
	int rc = mig_dest_hello(d, &agreed, e);

	if (!rc)
		rc = mig_dest_welcome(d, &agreed, e);
	if (!rc)
		rc = mig_dest_gather(d, &agreed, e);
	if (rc)
		return rc;
	mig_chan_set_deadline(d->chan, 0);
	rc = mig_beat_start(&d->beat, d->chan, tell_silence, d, e);
	if (!rc)
		rc = receive_all(d, &end, e);
	if (rc == -EINPROGRESS && !mig_stop_is_set(&d->stop)) {
		tell = false;
		mig_beat_stop(&d->beat);
		mig_dest_state(d, MIG_UNDECIDED, e);
		if (!await_decision(d))
			return rc;
		err_clear(e);
		rc = 0;
	}
	if (rc)
		return rc;
	d->committed = true;
	return take_over(d, end.was_running, tell, e);
}

static int start_attempt(struct mig_dest *d, int fd, struct err *e)
{
	struct mig_chan *chan;
	int rc = mig_incoming_init(&d->in, d->cfg.mem, &d->cfg.machine, e);

	if (rc) {
		(void)close(fd);
		return rc;
	}
	rc = mig_chan_open(&chan, fd, "the source", HELLO_TIMEOUT_NS, e);
	if (rc)
		return rc;
	rc = mig_readers_init(&d->readers, &d->in, chan, update_figures, d, e);
	if (rc) {
		mig_chan_close(chan);
		return rc;
	}
	/* Nobody holds the door for longer, not even byte by byte. */
	mig_chan_set_deadline(chan, clock_mono_ns() + 2 * HELLO_TIMEOUT_NS);
	d->writer = (struct wire_writer){0};
	wire_reader_free(&d->reader);
	pthread_mutex_lock(&d->lock);
	d->chan = chan;
	d->reading = true;
	d->decision = false; /* it was about the attempt before */
	if (d->quit)
		mig_chan_abort(chan);
	pthread_mutex_unlock(&d->lock);
	return 0;
}

static void end_attempt(struct mig_dest *d)
{
	mig_beat_stop(&d->beat);
	pthread_mutex_lock(&d->lock);
	d->reading = false;
	pthread_mutex_unlock(&d->lock);
	mig_readers_free(&d->readers);
	pthread_mutex_lock(&d->lock);
	mig_chan_close(d->chan);
	d->chan = NULL;
	pthread_mutex_unlock(&d->lock);
	mig_incoming_free(&d->in);
}

bool mig_dest_serve(struct mig_dest *d, int fd)
{
	struct err e = ERR_INIT, dirty = ERR_INIT;
	enum mig_state before = d->status.state; /* only this thread writes it */
	bool touched;
	int rc = start_attempt(d, fd, &e);

	if (!rc)
		rc = attempt(d, &e);
	if (!rc) {
		end_attempt(d);
		mig_dest_state(d, MIG_COMPLETED, NULL);
		return true;
	}
	if (d->chan && !d->committed)
		send_fail(d, &e);
	end_attempt(d);
	touched = d->in.touched; /* now that nobody writes any more */
	if (mig_stop_is_set(&d->stop))
		return false;
	if (d->committed) {
		/* The only copy there is: it stays. */
		err_prefix(&e, "the guest was handed over, but cannot go on here");
		log_warn("%s", e.msg);
		mig_dest_state(d, MIG_FAILED, &e);
		return true;
	}
	if (touched && mem_discard(d->cfg.mem, &dirty)) {
		/* What is left in RAM would end up in the next guest. */
		log_warn("an incoming migration failed: %s; no other is waited for: %s", e.msg,
			 dirty.msg);
		mig_dest_state(d, MIG_FAILED, &e);
		return true;
	}
	log_warn("an incoming migration failed: %s; waiting for another at %s", e.msg, d->name);
	/* Somebody who was turned away at the door is no migration that failed. */
	if (d->status.state != before)
		mig_dest_state(d, MIG_FAILED, &e);
	return false;
}
