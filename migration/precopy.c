/* SPDX-License-Identifier: Apache-2.0 */
/* What is left and how long it would take; the iterations: send, sync, decide. */
#include <errno.h>

#include "migration/further.h"
#include "migration/source_state.h"

#define MIN_PASS_NS (50 * NS_PER_MS) /* shorter passes that do not fit are spaced out */
#define FAR         4                /* times the limit: no switchover follows the next pass */

static uint64_t remaining_of(const struct mig_source *s, const struct mig_sums *sums)
{
	return (mig_bitmap_count(&s->bitmap) + sums->pending_pages) * MEM_PAGE_BYTES;
}

uint64_t mig_remaining_bytes(const struct mig_source *s)
{
	struct mig_sums sums = mig_senders_sums(&s->senders);

	return remaining_of(s, &sums);
}

/* What so many bytes of pages are on the wire. */
static uint64_t on_wire(const struct mig_source *s, uint64_t bytes)
{
	return s->shrink > 0 ? (uint64_t)((double)bytes * s->shrink) : bytes;
}

uint64_t mig_rest_ns(struct mig_source *s)
{
	struct mig_sample now = mig_source_sample(s);

	return mig_rate_time_ns(&s->rate,
				on_wire(s, remaining_of(s, &now.sums)) + now.queued_bytes);
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

uint64_t mig_predict_of(struct mig_source *s, const struct mig_sample *sample,
			uint64_t phases[MIG_PHASES])
{
	uint64_t bytes = remaining_of(s, &sample->sums);

	if (!s->paused)
		bytes += unseen_bytes(s);
	if (bytes > s->cfg.mem->size_bytes)
		bytes = s->cfg.mem->size_bytes;
	bytes = on_wire(s, bytes) + sample->queued_bytes;
	mig_costs_predict(&s->costs, &s->rate, bytes, phases);
	return mig_phases_from(phases, MIG_PHASE_PAUSE);
}

uint64_t mig_predict(struct mig_source *s, uint64_t phases[MIG_PHASES])
{
	struct mig_sample now = mig_source_sample(s);

	return mig_predict_of(s, &now, phases);
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

uint64_t mig_limit_now(struct mig_source *s)
{
	return s->paused ? MIG_BANDWIDTH_UNLIMITED : mig_source_params(s).max_bandwidth_bytes_s;
}

uint64_t mig_speed_bytes_s(struct mig_source *s)
{
	uint64_t wire = mig_rate_bytes_s(&s->rate), limit = mig_limit_now(s);

	return limit && limit < wire ? limit : wire;
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
	mig_account_sent(s);
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
	rc = mig_mark_round(s, e);
	if (!rc && (!s->far || mig_rehearsal_due(s)))
		return settle(s, e);
	mig_account_sent(s);
	return rc;
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
		rc = mig_send_free_pages(s, e);
	if (!rc)
		rc = end_pass(s, e);
	mig_rate_pass(&s->rate);
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

static bool slowed(struct mig_source *s)
{
	struct mig_throttle_status throttle;

	mig_brake_status(&s->brake, &throttle);
	return throttle.active;
}

int mig_precopy(struct mig_source *s, struct err *e)
{
	uint64_t before = mig_remaining_bytes(s);
	struct mig_further further;

	mig_further_begin(&further, clock_mono_ns());
	for (;;) {
		uint64_t begin_ns = clock_mono_ns(), sent = s->sent_normal, left;
		bool fits = false;
		int rc = iterate(s, e);

		if (!rc)
			rc = decide(s, &fits, e);
		if (rc)
			return rc;
		left = mig_remaining_bytes(s);
		if (!fits) {
			mig_brake_pass(&s->brake, (s->sent_normal - sent) * MEM_PAGE_BYTES, left);
			rc = space_out(s, begin_ns, e);
			if (rc)
				return rc;
		} else if (!mig_further_wanted(&further, before, left, mig_rest_ns(s), slowed(s),
					       clock_mono_ns())) {
			return 0;
		}
		before = left;
	}
}
