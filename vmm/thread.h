/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of the machine: small stack, a name, and no signals but those of faults, so that what is
 * sent to the process arrives in the main thread.
 */
#ifndef VMM_THREAD_H
#define VMM_THREAD_H

#include <pthread.h>
#include <stdint.h>

/* `name` has at most 15 characters. Returns 0 or -errno. */
int thread_start(pthread_t *out, const char *name, void *(*fn)(void *), void *arg);

/* A condition whose timed waits count on the monotonic clock. */
void thread_cond_init(pthread_cond_t *cond);

/* Wait until clock_mono_ns() >= deadline_ns at the latest. 0 or -ETIMEDOUT. */
int thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns);

/* Join a thread that should end by then. -ETIMEDOUT: it has not, and runs on. */
int thread_join(pthread_t thread, uint64_t deadline_ns);

#endif
