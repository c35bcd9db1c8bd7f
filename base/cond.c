/* SPDX-License-Identifier: Apache-2.0 */
#include "base/cond.h"

#include <time.h>

#include "base/clock.h"

void thread_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_cond_init(cond, &attr);
	(void)pthread_condattr_destroy(&attr);
}

int thread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t deadline_ns)
{
	const struct timespec at = {.tv_sec = (time_t)(deadline_ns / NS_PER_SEC),
				    .tv_nsec = (long)(deadline_ns % NS_PER_SEC)};

	return -pthread_cond_timedwait(cond, lock, &at);
}
