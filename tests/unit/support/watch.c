/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/watch.h"

#include <string.h>

#include "base/clock.h"
#include "base/cond.h"

void watch_init(struct watch *w)
{
	memset(w, 0, sizeof(*w));
	(void)pthread_mutex_init(&w->lock, NULL);
	thread_cond_init(&w->changed);
}

void watch_free(struct watch *w)
{
	(void)pthread_cond_destroy(&w->changed);
	(void)pthread_mutex_destroy(&w->lock);
}

void watch_reset(struct watch *w)
{
	pthread_mutex_lock(&w->lock);
	w->n_states = 0;
	w->events = 0;
	w->pass = 0;
	w->last = MIG_NONE;
	pthread_mutex_unlock(&w->lock);
}

void watch_event(void *ctx, const struct mig_event *ev)
{
	struct watch *w = ctx;

	pthread_mutex_lock(&w->lock);
	if (ev->kind == MIG_EVENT_STATE) {
		w->last = ev->state;
		w->events++;
		if (w->n_states < WATCH_MAX)
			w->states[w->n_states++] = ev->state;
	} else {
		w->pass = ev->pass;
	}
	w->stopped = ev->kind == MIG_EVENT_STATE && w->stop_at & WATCH(ev->state);
	pthread_cond_broadcast(&w->changed);
	while (w->stopped)
		pthread_cond_wait(&w->changed, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

void watch_stop_at(struct watch *w, unsigned mask)
{
	pthread_mutex_lock(&w->lock);
	w->stop_at = mask;
	w->stopped = false;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

struct wish {
	unsigned mask;
	uint64_t pass;
	bool stopped;
};

static bool granted(const struct watch *w, const struct wish *wish)
{
	return (!wish->mask || (w->events && wish->mask & WATCH(w->last))) &&
	       w->pass >= wish->pass && w->stopped >= wish->stopped;
}

static bool wait_for(struct watch *w, const struct wish *wish, uint64_t timeout_ms)
{
	uint64_t end = clock_mono_ns() + timeout_ms * NS_PER_MS;
	bool is;

	pthread_mutex_lock(&w->lock);
	while (!(is = granted(w, wish)) && clock_mono_ns() < end)
		(void)thread_cond_wait(&w->changed, &w->lock, end);
	pthread_mutex_unlock(&w->lock);
	return is;
}

bool watch_wait(struct watch *w, unsigned mask, uint64_t timeout_ms)
{
	return wait_for(w, &(struct wish){.mask = mask}, timeout_ms);
}

bool watch_wait_pass(struct watch *w, uint64_t pass, uint64_t timeout_ms)
{
	return wait_for(w, &(struct wish){.pass = pass}, timeout_ms);
}

bool watch_stopped(struct watch *w, uint64_t timeout_ms)
{
	return wait_for(w, &(struct wish){.stopped = true}, timeout_ms);
}

bool watch_saw(struct watch *w, const enum mig_state *states, unsigned n)
{
	bool same;

	pthread_mutex_lock(&w->lock);
	same = w->n_states == n && !memcmp(w->states, states, n * sizeof(*states));
	pthread_mutex_unlock(&w->lock);
	return same;
}
