/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mutex that is handed over in the order of arrival.
 *
 * The I/O thread works on a queue in batches and takes the device's lock anew for each. A guest
 * that keeps a queue busy for ever would, with a plain mutex, let it win the lock every time; here
 * whoever asked meanwhile is next.
 *
 * Threads: any. Not recursive.
 */
#ifndef VIRTIO_FAIRLOCK_H
#define VIRTIO_FAIRLOCK_H

#include <pthread.h>
#include <stdint.h>

struct fairlock {
	pthread_mutex_t mutex;
	pthread_cond_t turn;
	uint64_t next, serving; /* the ticket given out next, and the one whose turn it is */
};

static inline void fairlock_init(struct fairlock *l)
{
	(void)pthread_mutex_init(&l->mutex, NULL);
	(void)pthread_cond_init(&l->turn, NULL);
	l->next = l->serving = 0;
}

static inline void fairlock_destroy(struct fairlock *l)
{
	(void)pthread_cond_destroy(&l->turn);
	(void)pthread_mutex_destroy(&l->mutex);
}

static inline void fairlock_take(struct fairlock *l)
{
	uint64_t ticket;

	pthread_mutex_lock(&l->mutex);
	ticket = l->next++;
	while (l->serving != ticket)
		pthread_cond_wait(&l->turn, &l->mutex);
	pthread_mutex_unlock(&l->mutex);
}

static inline void fairlock_give(struct fairlock *l)
{
	pthread_mutex_lock(&l->mutex);
	l->serving++;
	if (l->serving != l->next)
		pthread_cond_broadcast(&l->turn);
	pthread_mutex_unlock(&l->mutex);
}

#endif
