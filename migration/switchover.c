/* SPDX-License-Identifier: Apache-2.0 */
/* The source's half of the handover (docs/handover.md): from the pause to the commit and after. */
#include <errno.h>

#include "migration/source_state.h"

/*
 * Bounds for a destination that has fallen silent or become slow; the guest is dark meanwhile. Both
 * count from the pause: by then the source has committed, or its guest goes on here.
 */
#define DARK_EXTRA_NS      (5 * NS_PER_SEC) /* beyond the downtime limit */
#define CALL_OFF_WAIT_NS   (25 * NS_PER_MS)
#define RUNNING_TIMEOUT_NS (10 * NS_PER_SEC)
#define TAIL_MAX           (64u << 20) /* all sections together */

static int pause_guest(struct mig_source *s, struct err *e)
{
	int rc;

	s->paused_ns = clock_mono_ns();
	s->dark_until_ns =
		s->paused_ns + DARK_EXTRA_NS + mig_source_params(s).downtime_limit_ms * NS_PER_MS;
	mig_chan_set_deadline(s->chan, s->dark_until_ns);
	s->paused = true; /* even if only some of it stopped */
	rc = s->cfg.machine.pause(s->cfg.machine.ctx, &s->was_running, e);
	if (!rc)
		rc = s->cfg.machine.collect(s->cfg.machine.ctx, e);
	if (rc)
		err_prefix(e, "pausing the guest");
	return rc;
}

/* Not now after all: the guest runs on, precopy goes on. */
static int call_off(struct mig_source *s, struct err *e)
{
	int rc = s->cfg.machine.resume(s->cfg.machine.ctx, e);
	uint64_t n;

	if (rc)
		return rc;
	s->paused = false;
	mig_chan_set_deadline(s->chan, 0);
	pthread_mutex_lock(&s->lock);
	n = s->status.switchovers_called_off++;
	pthread_mutex_unlock(&s->lock);
	mig_source_state(s, MIG_ACTIVE);
	/* Every attempt costs the guest a little: leave it more and more time in between. */
	if (mig_stop_wait(&s->stop, -1, 0, CALL_OFF_WAIT_NS << (n < 6 ? n : 6)) == -ECANCELED)
		return err_set(e, ECANCELED, "cancelled");
	return MIG_CALLED_OFF;
}

static void append_frame(struct mig_source *s, struct wbuf *tail, enum wire_type type,
			 const struct wbuf *meta)
{
	wire_header(&s->writer, type, meta, 0);
	put_bytes(tail, s->writer.header, WIRE_HEADER_BYTES);
	put_bytes(tail, meta->data, meta->len);
	if (wbuf_error(meta) && !tail->error)
		tail->error = wbuf_error(meta);
}

/* Every section and the end mark, in one piece. */
static int send_state(struct mig_source *s, struct err *e)
{
	const struct mig_machine *m = &s->cfg.machine;
	struct wire_end end = {.normal_pages = s->sent_normal,
			       .zero_pages = s->sent_zero,
			       .n_sections = m->n_sections,
			       .was_running = s->was_running};
	struct wbuf tail, meta;
	int rc;

	wbuf_init(&tail, ORDER_LITTLE, TAIL_MAX);
	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	for (unsigned i = 0; i < m->n_sections; i++) {
		wbuf_reset(&meta);
		mig_source_put_section(&meta, &m->sections[i]);
		append_frame(s, &tail, WIRE_SECTION, &meta);
	}
	wbuf_reset(&meta);
	wire_put_end(&meta, &end);
	append_frame(s, &tail, WIRE_END, &meta);
	rc = wbuf_error(&tail);
	rc = rc ? err_sys(e, -rc, "cannot build the state sections")
		: mig_chan_send(s->chan, tail.data, tail.len, e);
	wbuf_free(&meta);
	wbuf_free(&tail);
	return rc;
}

/* MIG_CALLED_OFF if they would not be out in time for what comes after them to fit the limit. */
static int send_last_pages(struct mig_source *s, struct err *e)
{
	uint64_t limit_ns = mig_source_params(s).downtime_limit_ms * NS_PER_MS;
	uint64_t after_ns = mig_after_pages_ns(s);
	int rc = mig_precopy_sync(s, e);

	if (rc)
		return rc;
	s->pause_cost_ns = clock_mono_ns() - s->paused_ns;
	return mig_send_pass(s, s->paused_ns + (limit_ns > after_ns ? limit_ns - after_ns : 0), e);
}

static void set_polite(struct mig_source *s)
{
	pthread_mutex_lock(&s->lock);
	s->polite = true;
	pthread_mutex_unlock(&s->lock);
}

static int await_ready(struct mig_source *s, struct err *e)
{
	int rc = mig_chan_wait_readable(s->chan, &s->stop, e);

	return rc ? rc : mig_source_expect(s, WIRE_READY, e);
}

/*
 * The commit point. After this returns 0 the guest is the destination's: a cancel is refused, and
 * whatever happens, nothing here runs it again.
 */
static int commit(struct mig_source *s, struct err *e)
{
	/* Whoever was frozen in between must not commit when nobody expects it any more. */
	if (clock_mono_ns() > s->dark_until_ns)
		return err_set(
			e, ETIMEDOUT, "the switchover took longer than %llu s",
			(unsigned long long)((s->dark_until_ns - s->paused_ns) / NS_PER_SEC));
	pthread_mutex_lock(&s->lock);
	s->committed = !mig_stop_is_set(&s->stop);
	pthread_mutex_unlock(&s->lock);
	if (!s->committed)
		return err_set(e, ECANCELED, "cancelled");
	s->cfg.machine.given_away(s->cfg.machine.ctx);
	return 0;
}

static int hand_over(struct mig_source *s, struct err *e)
{
	struct wbuf meta;
	int rc;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	put_u64(&meta, s->token);
	mig_chan_set_deadline(s->chan, clock_mono_ns() + RUNNING_TIMEOUT_NS);
	rc = wire_send(&s->writer, s->chan, WIRE_COMMIT, &meta, e);
	wbuf_free(&meta);
	if (!rc)
		rc = mig_source_expect(s, WIRE_RUNNING, e);
	return rc ? -EINPROGRESS : 0;
}

int mig_switchover(struct mig_source *s, struct err *e)
{
	uint64_t predicted = mig_predict_ns(s);
	int rc;

	mig_source_figures(s); /* what was precopy */
	mig_source_state(s, MIG_DEVICE);
	rc = pause_guest(s, e);
	if (!rc) {
		rc = send_last_pages(s, e);
		if (rc == MIG_CALLED_OFF)
			return call_off(s, e);
	}
	if (!rc) {
		set_polite(s);
		rc = send_state(s, e);
	}
	if (!rc)
		rc = await_ready(s, e);
	if (!rc)
		rc = commit(s, e);
	if (!rc)
		rc = hand_over(s, e);
	if (!s->committed)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->status.downtime_ns = clock_mono_ns() - s->paused_ns;
	s->status.predicted_at_switch_ns = predicted;
	pthread_mutex_unlock(&s->lock);
	return rc;
}
