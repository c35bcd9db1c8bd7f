/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/brake.h"

#include <string.h>

#include "base/cond.h"
#include "base/log.h"

#define MIB 1048576ull

static struct mig_throttle_aim aim_of(const struct mig_throttle_params *p)
{
	struct mig_throttle_aim aim = {.converge_ns = p->converge_s * NS_PER_SEC,
				       .min_share = MIG_SHARE_MIN};

	if (p->max_percent < 100 - MIG_SHARE_MIN * 100 / MIG_SHARE_FULL)
		aim.min_share = (unsigned)(100 - p->max_percent) * (MIG_SHARE_FULL / 100);
	if (p->dirty_limit)
		aim.cpu_limit_pages_s = p->cpu_limit_mib_s * (MIB / MEM_PAGE_BYTES);
	return aim;
}

static uint64_t sample(const struct mig_brake *b, struct mig_throttle_view *v)
{
	uint64_t stall_ns = 0;

	b->cpus->sample(b->cpus->ctx, v->cpus, &v->host_pages);
	v->now_ns = clock_mono_ns();
	v->new_pages = mig_bitmap_added(b->bitmap);
	v->rest_bytes = mig_bitmap_count(b->bitmap) * MEM_PAGE_BYTES;
	for (unsigned i = 0; i < b->cpus->n_cpus; i++)
		stall_ns += v->cpus[i].stall_ns;
	return stall_ns;
}

/* Under the lock. */
static void publish(struct mig_brake *b, uint64_t stall_ns)
{
	const struct mig_throttle *t = &b->throttle;

	b->status.active = true;
	b->status.stall_ns = stall_ns - b->stalled_before_ns;
	b->status.most_taken = 0;
	b->status.n_cpus = t->n_cpus;
	for (unsigned i = 0; i < t->n_cpus; i++) {
		uint64_t taken = MIG_SHARE_FULL - t->cpus[i].share;

		if (taken > b->status.most_taken)
			b->status.most_taken = taken;
		b->status.cpus[i].share = t->cpus[i].share;
		b->status.cpus[i].dirty_pages_s = (uint64_t)t->cpus[i].rate;
	}
}

/* One step; the guest runs. false: the dirty log cannot be read any more. */
static bool step(struct mig_brake *b, bool skip)
{
	struct mig_throttle_view v = {.now_ns = 0};
	uint64_t stall_ns;

	if (mig_sync_now(b->sync, NULL))
		return false;
	stall_ns = sample(b, &v);
	pthread_mutex_lock(&b->lock);
	if (b->quit) { /* everybody runs freely again: so it stays */
		pthread_mutex_unlock(&b->lock);
		return false;
	}
	v.wire_bytes_s = b->wire_bytes_s;
	v.fit_bytes = b->fit_bytes;
	v.rest_bytes += b->under_way_bytes;
	b->throttle.aim = aim_of(&b->params);
	if (skip)
		mig_throttle_skip(&b->throttle, &v);
	else
		mig_throttle_step(&b->throttle, &v);
	publish(b, stall_ns);
	/* Under the lock: after mig_brake_release() no share may be set any more. */
	for (unsigned i = 0; i < b->cpus->n_cpus; i++)
		b->cpus->set_share(b->cpus->ctx, i, b->throttle.cpus[i].share);
	pthread_mutex_unlock(&b->lock);
	return true;
}

/* Sleep for a step, or longer while held. Called with the lock held. */
static void wait_step(struct mig_brake *b, bool *was_held)
{
	uint64_t until_ns = clock_mono_ns() + MIG_THROTTLE_STEP_NS;
	int rc = 0;

	*was_held = b->held;
	while (!b->quit && (!rc || b->held)) {
		*was_held |= b->held;
		if (b->held)
			(void)pthread_cond_wait(&b->changed, &b->lock);
		else
			rc = thread_cond_wait(&b->changed, &b->lock, until_ns);
	}
}

static void *brake_main(void *arg)
{
	struct mig_brake *b = arg;
	struct mig_throttle_view v = {.now_ns = 0};
	bool going = true, skip;

	pthread_mutex_lock(&b->lock);
	b->stalled_before_ns = sample(b, &v);
	mig_throttle_begin(&b->throttle, b->cpus->n_cpus, &v);
	while (going) {
		wait_step(b, &skip);
		if (b->quit)
			break;
		pthread_mutex_unlock(&b->lock);
		going = step(b, skip);
		pthread_mutex_lock(&b->lock);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

void mig_brake_start(struct mig_brake *b, const struct mig_cpu_source *cpus, struct mig_sync *sync,
		     const struct mig_bitmap *bitmap)
{
	*b = (struct mig_brake){.cpus = cpus, .sync = sync, .bitmap = bitmap};
	(void)pthread_mutex_init(&b->lock, NULL);
	thread_cond_init(&b->changed);
}

void mig_brake_release(struct mig_brake *b)
{
	pthread_mutex_lock(&b->lock);
	b->quit = true;
	b->status.active = false;
	if (b->on)
		for (unsigned i = 0; i < b->cpus->n_cpus; i++)
			b->cpus->set_share(b->cpus->ctx, i, MIG_SHARE_FULL);
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
}

void mig_brake_stop(struct mig_brake *b)
{
	mig_brake_release(b);
	if (b->has_thread)
		(void)pthread_join(b->thread, NULL);
	(void)pthread_cond_destroy(&b->changed);
	(void)pthread_mutex_destroy(&b->lock);
}

static void come_on(struct mig_brake *b)
{
	int rc = pthread_create(&b->thread, NULL, brake_main, b);

	b->has_thread = !rc;
	if (rc) {
		log_warn("cannot start the thread that would slow the guest down: %s",
			 strerror(rc));
		return;
	}
	(void)pthread_setname_np(b->thread, "mig-brake");
}

void mig_brake_pass(struct mig_brake *b, uint64_t sent_bytes, uint64_t left_bytes)
{
	struct mig_throttle_params p;
	bool may, needed;

	pthread_mutex_lock(&b->lock);
	p = b->params;
	/* If not even an empty rest would fit, a slower guest is of no use. */
	may = (p.auto_converge || p.dirty_limit) && b->cpus->n_cpus && b->fit_bytes && !b->on;
	needed = mig_throttle_needed(&b->trigger, sent_bytes, left_bytes, p.trigger_percent);
	b->on |= may && needed;
	pthread_mutex_unlock(&b->lock);
	if (may && needed)
		come_on(b);
}

void mig_brake_hold(struct mig_brake *b, bool hold)
{
	pthread_mutex_lock(&b->lock);
	b->held = hold;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
}

void mig_brake_feed(struct mig_brake *b, const struct mig_throttle_params *params,
		    uint64_t wire_bytes_s, uint64_t fit_bytes, uint64_t under_way_bytes)
{
	pthread_mutex_lock(&b->lock);
	b->params = *params;
	b->wire_bytes_s = wire_bytes_s;
	b->fit_bytes = fit_bytes;
	b->under_way_bytes = under_way_bytes;
	pthread_mutex_unlock(&b->lock);
}

void mig_brake_status(struct mig_brake *b, struct mig_throttle_status *out)
{
	pthread_mutex_lock(&b->lock);
	*out = b->status;
	pthread_mutex_unlock(&b->lock);
}
