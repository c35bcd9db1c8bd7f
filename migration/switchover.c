/* SPDX-License-Identifier: Apache-2.0 */
/* The source's half of the handover (docs/handover.md): from the pause to the commit and after. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "mem/digest.h"
#include "migration/source_state.h"

/*
 * Bounds for a destination that has fallen silent or become slow; the guest is dark meanwhile. They
 * count from the pause: by then the source has committed, or its guest goes on here.
 */
#define DARK_EXTRA_NS      (5 * NS_PER_SEC) /* beyond the downtime limit */
#define CALL_OFF_WAIT_NS   (25 * NS_PER_MS)
#define RUNNING_TIMEOUT_NS (10 * NS_PER_SEC)
#define LIMIT_SLICE_NS     (100 * NS_PER_MS) /* a limit that is changed counts so soon */

/* ---- the clock ---- */

/* When the guest should run again at the latest. */
static uint64_t limit_at_ns(struct mig_source *s)
{
	if (s->held)
		return s->dark_until_ns;
	return s->paused_ns + mig_source_params(s).downtime_limit_ms * NS_PER_MS;
}

static void begin_clock(struct mig_source *s)
{
	s->paused_ns = clock_mono_ns();
	s->mark_ns = s->paused_ns;
	s->held = false;
	s->dark_until_ns = limit_at_ns(s) + DARK_EXTRA_NS;
	memset(s->took_ns, 0, sizeof(s->took_ns));
	mig_chan_set_deadline(s->chan, s->dark_until_ns);
}

/* A phase is over. */
static void phase_done(struct mig_source *s, enum mig_phase phase)
{
	uint64_t now = clock_mono_ns();

	s->took_ns[phase] = now - s->mark_ns;
	s->mark_ns = now;
}

/* Would what is left from this phase on end too late, as far as is known now? */
static bool overruns(struct mig_source *s, enum mig_phase next)
{
	uint64_t phases[MIG_PHASES], rest_ns;

	(void)mig_predict(s, phases);
	rest_ns = mig_phases_from(phases, next);
	if (next > MIG_PHASE_PAGES)
		rest_ns += phases[MIG_PHASE_PAGES]; /* what the socket still holds of them */
	return clock_mono_ns() + rest_ns > limit_at_ns(s);
}

/* ---- calling it off ---- */

static void learn_phase(struct mig_source *s, enum mig_phase phase, uint64_t took_ns)
{
	if (took_ns > s->costs.cost[phase].ns)
		mig_costs_overran(&s->costs, phase, took_ns);
	else if (s->cfg.machine.rehearse)
		mig_costs_learn(&s->costs, phase, took_ns);
}

/* The next prediction is to know what this attempt has found out, not only what the limit cut off.
 */
static void learn_from_attempt(struct mig_source *s, enum mig_phase reached)
{
	uint64_t wire_ns = mig_rate_time_ns(&s->rate, s->costs.state_bytes);
	uint64_t state_ns = s->took_ns[MIG_PHASE_STATE];

	if (reached > MIG_PHASE_PAUSE)
		learn_phase(s, MIG_PHASE_PAUSE, s->took_ns[MIG_PHASE_PAUSE]);
	if (reached > MIG_PHASE_COLLECT)
		learn_phase(s, MIG_PHASE_COLLECT, s->took_ns[MIG_PHASE_COLLECT]);
	if (reached > MIG_PHASE_SYNC)
		learn_phase(s, MIG_PHASE_SYNC, s->took_ns[MIG_PHASE_SYNC]);
	if (reached > MIG_PHASE_VERIFY && s->cfg.params.verify)
		learn_phase(s, MIG_PHASE_VERIFY, s->took_ns[MIG_PHASE_VERIFY]);
	if (reached > MIG_PHASE_STATE) {
		learn_phase(s, MIG_PHASE_STATE, state_ns > wire_ns ? state_ns - wire_ns : 0);
		learn_phase(s, MIG_PHASE_LOAD, s->took_ns[MIG_PHASE_LOAD]);
	}
	/* Nobody knows yet where the answer is; loading is the part that may take any time. */
	if (reached == MIG_PHASE_STATE)
		learn_phase(s, MIG_PHASE_LOAD, clock_mono_ns() - s->mark_ns);
	s->rehearsal_stale = true;
}

/* Not now after all: the guest runs on, precopy goes on. */
static int call_off(struct mig_source *s, enum mig_phase reached, struct err *e)
{
	int rc;
	uint64_t n;

	learn_from_attempt(s, reached);
	rc = s->cfg.machine.resume(s->cfg.machine.ctx, e);
	if (rc)
		return rc;
	s->paused = false;
	mig_brake_hold(&s->brake, false);
	mig_chan_set_deadline(s->chan, 0);
	if (s->ended_state) {
		rc = wire_send(&s->writer, s->chan, WIRE_AGAIN, NULL, e);
		if (rc)
			return rc;
	}
	/* Only now may a cancel cut the line: before AGAIN the destination would wait for a word.
	 */
	mig_source_polite(s, false);
	pthread_mutex_lock(&s->lock);
	n = s->status.switchovers_called_off++;
	pthread_mutex_unlock(&s->lock);
	mig_source_figures(s);
	mig_source_state(s, MIG_ACTIVE);
	/* Every attempt costs the guest a little: leave it more and more time in between. */
	if (mig_stop_wait(&s->stop, -1, 0, CALL_OFF_WAIT_NS << (n < 6 ? n : 6)) == -ECANCELED)
		return err_set(e, ECANCELED, "cancelled");
	return MIG_CALLED_OFF;
}

/* ---- the steps ---- */

static int pause_guest(struct mig_source *s, struct err *e)
{
	const struct mig_machine *m = &s->cfg.machine;
	int rc;

	mig_brake_hold(&s->brake, true);
	begin_clock(s);
	s->paused = true; /* even if only some of it stopped */
	rc = m->pause(m->ctx, &s->was_running, e);
	if (rc)
		err_prefix(e, "pausing the guest");
	phase_done(s, MIG_PHASE_PAUSE);
	return rc;
}

/* pause-before-switchover: the guest is paused until the user says so, or cancels. */
static int hold(struct mig_source *s, struct err *e)
{
	int rc = -ETIMEDOUT, heard;

	if (!s->hold)
		return 0;
	mig_chan_set_deadline(s->chan, 0);
	mig_stop_clear(&s->go);
	mig_source_state(s, MIG_PRE_SWITCHOVER);
	while (rc == -ETIMEDOUT) {
		rc = mig_stop_wait(&s->stop, s->go.fd, POLLIN, LIMIT_SLICE_NS);
		if (rc == -ECANCELED)
			return err_set(e, ECANCELED, "cancelled");
		/* It is a long time for a destination to go away in. */
		heard = rc == -ETIMEDOUT ? mig_source_heed(s, e) : 0;
		if (heard)
			return heard;
	}
	if (rc)
		return err_sys(e, -rc, "cannot wait for the word to go on");
	phase_done(s, MIG_PHASE_HELD);
	s->held = true;
	s->dark_until_ns =
		s->mark_ns + DARK_EXTRA_NS + mig_source_params(s).downtime_limit_ms * NS_PER_MS;
	mig_chan_set_deadline(s->chan, s->dark_until_ns);
	mig_source_state(s, MIG_DEVICE);
	return 0;
}

static int collect(struct mig_source *s, struct err *e)
{
	const struct mig_machine *m = &s->cfg.machine;
	int rc = m->collect(m->ctx, e);

	if (rc)
		err_prefix(e, "reading the guest's state");
	phase_done(s, MIG_PHASE_COLLECT);
	return rc;
}

static int last_sync(struct mig_source *s, struct err *e)
{
	int rc = mig_precopy_sync(s, e);

	phase_done(s, MIG_PHASE_SYNC);
	return rc;
}

/* RAM is what it will be: the vCPUs and devices stand still. */
static int take_digest(struct mig_source *s, struct err *e)
{
	(void)e;
	if (!s->cfg.params.verify)
		return 0;
	s->digest = mem_digest(s->cfg.mem, MIG_DIGEST_THREADS);
	phase_done(s, MIG_PHASE_VERIFY);
	return 0;
}

/* MIG_CALLED_OFF if they would not be out in time for what comes after them to fit the limit. */
static int last_pages(struct mig_source *s, struct err *e)
{
	uint64_t phases[MIG_PHASES], after_ns, limit_ns = limit_at_ns(s);
	int rc;

	(void)mig_predict(s, phases);
	after_ns = mig_phases_from(phases, MIG_PHASE_STATE);
	rc = mig_send_pass(s, limit_ns > after_ns ? limit_ns - after_ns : 1, e);
	phase_done(s, MIG_PHASE_PAGES);
	return rc;
}

/* Until the destination has loaded everything. MIG_CALLED_OFF: it would take too long. */
static int await_ready(struct mig_source *s, struct err *e)
{
	uint64_t phases[MIG_PHASES], rest_ns;

	(void)mig_predict(s, phases);
	rest_ns = mig_phases_from(phases, MIG_PHASE_COMMIT);
	for (;;) {
		uint64_t now = clock_mono_ns(), at = limit_at_ns(s);
		uint64_t left = at > now + rest_ns ? at - now - rest_ns : 0;
		struct err late = ERR_INIT;
		int rc;

		if (!left && !mig_chan_readable(s->chan))
			return MIG_CALLED_OFF;
		mig_chan_set_deadline(s->chan,
				      now + (left < LIMIT_SLICE_NS ? left : LIMIT_SLICE_NS));
		rc = mig_chan_wait_readable(s->chan, &s->stop, &late);
		mig_chan_set_deadline(s->chan, s->dark_until_ns);
		/* Who stood still himself meanwhile is too late for whatever has come. */
		if (!rc)
			return clock_mono_ns() < s->dark_until_ns ? 0 : MIG_CALLED_OFF;
		if (rc != -ETIMEDOUT) {
			*e = late;
			return rc;
		}
	}
}

/* Every section and the end mark; the destination's READY. */
static int hand_state(struct mig_source *s, struct err *e)
{
	uint64_t loaded_ns;
	int rc;

	mig_source_polite(s, true);
	s->ended_state = true;
	s->n_ends++;
	rc = mig_send_state(s, WIRE_END, e);
	if (rc)
		return rc;
	s->readies_owed++;
	do {
		rc = await_ready(s, e);
		if (rc)
			return rc;
		rc = mig_source_take_ready(s, e);
	} while (!rc && s->readies_owed);
	phase_done(s, MIG_PHASE_STATE);
	loaded_ns = s->loaded_ns;
	if (loaded_ns > s->took_ns[MIG_PHASE_STATE])
		loaded_ns = s->took_ns[MIG_PHASE_STATE];
	s->took_ns[MIG_PHASE_STATE] -= loaded_ns;
	s->took_ns[MIG_PHASE_LOAD] = loaded_ns;
	return rc;
}

/*
 * The commit point. After this returns 0 the guest is the destination's: a cancel is refused, and
 * whatever happens, nothing here runs it again.
 */
static int commit(struct mig_source *s, struct err *e)
{
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
	uint64_t start_ns = 0;
	struct wbuf meta;
	int rc;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	put_u64(&meta, s->token);
	mig_chan_set_deadline(s->chan, clock_mono_ns() + RUNNING_TIMEOUT_NS);
	rc = wire_send(&s->writer, s->chan, WIRE_COMMIT, &meta, e);
	wbuf_free(&meta);
	if (!rc)
		rc = mig_source_expect(s, WIRE_RUNNING, e);
	if (!rc)
		rc = wire_get_one_u64(&s->reader.meta, "running", &start_ns, e);
	phase_done(s, MIG_PHASE_COMMIT);
	if (start_ns > s->took_ns[MIG_PHASE_COMMIT])
		start_ns = s->took_ns[MIG_PHASE_COMMIT];
	s->took_ns[MIG_PHASE_COMMIT] -= start_ns;
	s->took_ns[MIG_PHASE_START] = start_ns;
	return rc ? -EINPROGRESS : 0;
}

/* ---- all of it ---- */

/*
 * Up to the commit point: 0 there. MIG_CALLED_OFF as soon as the limit would be overrun; *reached
 * is the phase that was not gone through.
 */
static int before_commit(struct mig_source *s, enum mig_phase *reached, struct err *e)
{
	static const struct {
		int (*step)(struct mig_source *s, struct err *e);
		enum mig_phase phase, next;
	} steps[] = {
		{pause_guest, MIG_PHASE_PAUSE, MIG_PHASE_HELD},
		{hold, MIG_PHASE_HELD, MIG_PHASE_COLLECT},
		{collect, MIG_PHASE_COLLECT, MIG_PHASE_SYNC},
		{last_sync, MIG_PHASE_SYNC, MIG_PHASE_VERIFY},
		{take_digest, MIG_PHASE_VERIFY, MIG_PHASE_PAGES},
		{last_pages, MIG_PHASE_PAGES, MIG_PHASE_STATE},
		{hand_state, MIG_PHASE_STATE, MIG_PHASE_COMMIT},
	};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		int rc = steps[i].step(s, e);

		*reached = steps[i].phase;
		if (rc)
			return rc;
		*reached = steps[i].next;
		if (mig_stop_is_set(&s->stop))
			return err_set(e, ECANCELED, "cancelled");
		if (overruns(s, steps[i].next))
			return MIG_CALLED_OFF;
	}
	return commit(s, e);
}

int mig_switchover(struct mig_source *s, struct err *e)
{
	uint64_t predicted = mig_predict(s, s->plan_ns);
	enum mig_phase reached = MIG_PHASE_PAUSE;
	int rc;

	mig_source_figures(s); /* what was precopy */
	s->hold = mig_source_params(s).pause_before_switchover;
	if (!s->hold)
		mig_source_state(s, MIG_DEVICE);
	s->ended_state = false;
	rc = before_commit(s, &reached, e);
	if (rc == MIG_CALLED_OFF && s->held)
		/* The user was told that it goes on, and should hear that it did not. */
		rc = err_set(e, ETIMEDOUT, "the switchover took longer than %llu s",
			     (unsigned long long)((s->dark_until_ns - s->paused_ns -
						   s->took_ns[MIG_PHASE_HELD]) /
						  NS_PER_SEC));
	if (rc == MIG_CALLED_OFF)
		return call_off(s, reached, e);
	if (!rc)
		rc = hand_over(s, e);
	if (!s->committed)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->status.downtime_ns = s->mark_ns - s->paused_ns;
	memcpy(s->status.downtime_phase_ns, s->took_ns, sizeof(s->took_ns));
	s->status.predicted_at_switch_ns = predicted;
	memcpy(s->status.predicted_at_switch_phase_ns, s->plan_ns, sizeof(s->plan_ns));
	pthread_mutex_unlock(&s->lock);
	return rc;
}
