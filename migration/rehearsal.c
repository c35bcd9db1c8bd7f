/* SPDX-License-Identifier: Apache-2.0 */
/* The source's rehearsal: the fixed part of a switchover, measured instead of allowed for. */
#include <errno.h>

#include "mem/digest.h"
#include "migration/source_state.h"

#define TAIL_MAX  (64u << 20)       /* all sections together */
#define OLD_NS    (10 * NS_PER_SEC) /* what was measured before may have changed */
#define SOON_NS   (250 * NS_PER_MS) /* when it is what stands between the guest and its move */
#define RARE      200               /* times its pause: what it takes of the guest's time */
#define EXCHANGES 3                 /* each: the guest runs meanwhile */
#define LOADED_NS (3600 * NS_PER_SEC)

bool mig_rehearsal_due(struct mig_source *s)
{
	/* As of the last sync; only this thread writes the status. */
	const struct mig_status *st = &s->status;
	uint64_t limit_ns = mig_source_params(s).downtime_limit_ms * NS_PER_MS;
	uint64_t since = clock_mono_ns() - s->rehearsed_ns, wait_ns = OLD_NS;

	if (!s->cfg.machine.rehearse)
		return false;
	if (!s->rehearsed_ns)
		return true;
	/*
	 * While the pages alone take far longer, the rest does not matter. Unless nothing could
	 * fit, for then the guest is not slowed down (migration/brake.h), and that is not to hang
	 * on one rehearsal in a bad moment.
	 */
	if (st->predicted_phase_ns[MIG_PHASE_PAGES] > 2 * limit_ns &&
	    st->least_downtime_ns <= limit_ns)
		return false;
	if (s->rehearsal_stale || st->predicted_downtime_ns > limit_ns)
		wait_ns = SOON_NS;
	if (wait_ns < st->rehearsal_pause_ns_last * RARE)
		wait_ns = st->rehearsal_pause_ns_last * RARE;
	return since >= wait_ns;
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

static void append_sections(struct mig_source *s, struct wbuf *tail, struct wbuf *meta)
{
	const struct mig_machine *m = &s->cfg.machine;

	for (unsigned i = 0; i < m->n_sections; i++) {
		wbuf_reset(meta);
		mig_source_put_section(meta, &m->sections[i]);
		append_frame(s, tail, WIRE_SECTION, meta);
	}
}

int mig_send_state(struct mig_source *s, enum wire_type mark, struct err *e)
{
	struct wire_end end = {.normal_pages = s->sent_normal,
			       .zero_pages = s->sent_zero,
			       .n_sections = s->cfg.machine.n_sections,
			       .was_running = s->was_running,
			       .number = s->n_ends,
			       .marks = s->marks_others,
			       .digest = s->digest};
	struct wbuf tail, meta;
	int rc;

	wbuf_init(&tail, ORDER_LITTLE, TAIL_MAX);
	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	append_sections(s, &tail, &meta);
	wbuf_reset(&meta);
	if (mark == WIRE_END)
		wire_put_end(&meta, &end);
	append_frame(s, &tail, mark, &meta);
	s->costs.state_bytes = tail.len;
	rc = wbuf_error(&tail);
	rc = rc ? err_sys(e, -rc, "cannot build the state sections")
		: mig_chan_send(s->chan, tail.data, tail.len, e);
	wbuf_free(&meta);
	wbuf_free(&tail);
	return rc;
}

int mig_learn_loaded(struct mig_source *s, struct err *e)
{
	struct wire_loaded m;
	int rc = wire_get_loaded(&s->reader.meta, &m, e);

	if (rc)
		return rc;
	/* The destination's word: it can only mislead the prediction, but not by overflowing. */
	if (m.decode_ns > LOADED_NS)
		m.decode_ns = LOADED_NS;
	if (m.load_ns > LOADED_NS)
		m.load_ns = LOADED_NS;
	s->loaded_number = m.number;
	s->loaded_ns = m.decode_ns + m.load_ns;
	/* Without rehearsals nobody will measure it anew: then it must not count for ever. */
	if (s->cfg.machine.rehearse)
		mig_costs_learn(&s->costs, MIG_PHASE_LOAD, s->loaded_ns);
	else
		mig_costs_overran(&s->costs, MIG_PHASE_LOAD, s->loaded_ns);
	return 0;
}

/* There and back with the state; what is neither wire nor loading is the round trip. */
static int exchange(struct mig_source *s, struct err *e)
{
	uint64_t begin_ns = clock_mono_ns(), before = mig_chan_sent(s->chan), wire_ns;
	uint64_t took_ns;
	int rc = mig_send_state(s, WIRE_REHEARSE, e);

	if (!rc)
		rc = mig_source_expect(s, WIRE_REHEARSED, e);
	if (!rc)
		rc = mig_learn_loaded(s, e);
	if (rc)
		return rc;
	took_ns = clock_mono_ns() - begin_ns;
	mig_rate_skip(&s->rate, mig_chan_sent(s->chan) - before);
	wire_ns = s->loaded_ns + mig_rate_time_ns(&s->rate, s->costs.state_bytes);
	took_ns = took_ns > wire_ns ? took_ns - wire_ns : 0;
	mig_costs_learn(&s->costs, MIG_PHASE_STATE, took_ns);
	mig_costs_learn(&s->costs, MIG_PHASE_COMMIT, took_ns);
	return 0;
}

/* Of memory that changes meanwhile: it is the time that counts, once. */
static void rehearse_digest(struct mig_source *s)
{
	uint64_t begin_ns = clock_mono_ns();

	(void)mem_digest(s->cfg.mem, MIG_DIGEST_THREADS);
	mig_costs_learn(&s->costs, MIG_PHASE_VERIFY, clock_mono_ns() - begin_ns);
}

int mig_rehearse(struct mig_source *s, struct err *e)
{
	struct mig_rehearsal r = {0};
	int rc = s->cfg.machine.rehearse(s->cfg.machine.ctx, &r, e);
	uint64_t dark_ns = r.pause_ns + r.collect_ns + r.resume_ns;

	if (rc) {
		err_prefix(e, "pausing the guest for a moment");
		return rc;
	}
	mig_costs_learn(&s->costs, MIG_PHASE_PAUSE, r.pause_ns);
	mig_costs_learn(&s->costs, MIG_PHASE_COLLECT, r.collect_ns);
	/* Nobody starts a guest for a trial over there; here one has just been. */
	mig_costs_learn(&s->costs, MIG_PHASE_START, r.resume_ns);
	pthread_mutex_lock(&s->lock);
	s->status.rehearsals++;
	s->status.rehearsal_pause_ns_last = dark_ns;
	s->status.rehearsal_pause_ns_total += dark_ns;
	pthread_mutex_unlock(&s->lock);
	if (s->cfg.params.verify && !s->rehearsed_ns)
		rehearse_digest(s);
	for (unsigned i = 0; i < EXCHANGES && !rc; i++)
		rc = exchange(s, e);
	s->rehearsed_ns = clock_mono_ns();
	s->rehearsal_stale = false;
	return rc;
}
