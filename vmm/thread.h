/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of the machine: small stack, a name, and no signals but those of faults, so that what is
 * sent to the process arrives in the main thread.
 */
#ifndef VMM_THREAD_H
#define VMM_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cond.h"

typedef void thread_fn(void *arg);

/* Owned by who starts the thread; stays where it is until the thread was joined. */
struct thread {
	pthread_t id;
	thread_fn *fn;
	void *arg;
	pthread_mutex_t lock; /* guards ended */
	pthread_cond_t changed;
	bool ended; /* fn has returned */
};

/* `name` has at most 15 characters. Returns 0 or -errno. */
int thread_start(struct thread *t, const char *name, thread_fn *fn, void *arg);

/* Join a thread that should end by then. -ETIMEDOUT: it has not, and runs on. */
int thread_join(struct thread *t, uint64_t deadline_ns);

#endif
