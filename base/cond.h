/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conditions whose timed waits count on the monotonic clock: setting the host's clock neither ends
 * nor prolongs them.
 *
 * Threads: as the pthread functions.
 */
#ifndef BASE_COND_H
#define BASE_COND_H

#include <pthread.h>
#include <stdint.h>

/* To be freed by pthread_cond_destroy(). */
void thread_cond_init(pthread_cond_t *cond);

/* Wait until clock_mono_ns() >= deadline_ns at the latest. 0 (maybe for nothing) or -ETIMEDOUT. */
int thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns);

#endif
