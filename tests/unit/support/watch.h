/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for a migration's events. watch_event() from the engine's threads, the rest from one. */
#ifndef TESTS_UNIT_SUPPORT_WATCH_H
#define TESTS_UNIT_SUPPORT_WATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "migration/migration.h"

#define WATCH(state) (1u << (state))
#define WATCH_MAX    64
#define WATCH_ENDED \
	(WATCH(MIG_COMPLETED) | WATCH(MIG_FAILED) | WATCH(MIG_CANCELLED) | WATCH(MIG_UNDECIDED))

struct watch {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned n_states; /* the first WATCH_MAX are kept */
	enum mig_state states[WATCH_MAX], last;
	unsigned events; /* state changes */
	uint64_t pass;
	unsigned stop_at;
	bool stopped;
};

void watch_init(struct watch *w);
void watch_free(struct watch *w);
/* Forget what was, but for watch_stop_at(). */
void watch_reset(struct watch *w);
mig_event_fn watch_event;
/* Wait until the last state told is one of the mask. */
bool watch_wait(struct watch *w, unsigned mask, uint64_t timeout_ms);
/* Wait until this pass has begun. */
bool watch_wait_pass(struct watch *w, uint64_t pass, uint64_t timeout_ms);
/*
 * The migration stands still where it tells the next of these states, until this is called again
 * (with 0: and goes on from there for good). watch_stopped() waits until it does.
 */
void watch_stop_at(struct watch *w, unsigned mask);
bool watch_stopped(struct watch *w, uint64_t timeout_ms);
/* Were these the states, in this order, n of them? */
bool watch_saw(struct watch *w, const enum mig_state *states, unsigned n);

#endif
