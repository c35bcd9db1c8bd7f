/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's connections during one attempt: what arrives on each, and in which order.
 *
 * Reader 0 is the coordinator itself, on the first connection. Every other connection has a thread
 * ("mig-recv-N") that knows pages and marks only. The one order that matters is kept by *marks*:
 * the source ends each round on every connection with the same mark, and a reader that has come to
 * one goes on only when all have. So a page's newer copy, which another connection may carry, is
 * never overtaken by an older one. Nobody stops for it at the source; what a reader does not fetch
 * yet waits in its socket.
 *
 * The first failure of any connection is the attempt's: it breaks all connections but the first,
 * whose reader (mig_readers_wait()) comes back with it and can still tell the source why.
 *
 * Threads: the coordinator, unless said otherwise.
 */
#ifndef MIGRATION_READERS_H
#define MIGRATION_READERS_H

#include <pthread.h>
#include <stdbool.h>

#include "migration/incoming.h"
#include "migration/stop.h"

struct mig_readers;

struct mig_reader {
	/* constant while the threads live */
	struct mig_readers *all;
	unsigned index;
	pthread_t thread; /* not of reader 0 */
	bool started;
	struct mig_chan *chan;
	/* its thread's */
	struct wire_reader wire;
	struct mig_inlet inlet;
};

struct mig_readers {
	/* constant while the threads live */
	unsigned n; /* connections; 0: no attempt */
	struct mig_incoming *in;
	void (*on_frame)(void *ctx); /* after each frame of pages, in that reader's thread */
	void *ctx;
	struct mig_reader list[WIRE_CHANNELS_MAX];
	struct mig_stop failed; /* wakes reader 0 */
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint64_t marks[WIRE_CHANNELS_MAX]; /* that each connection has come to */
	bool busy[WIRE_CHANNELS_MAX];      /* its reader may be writing RAM */
	bool closed;                       /* no reader but 0 may write RAM now */
	bool ended;                        /* give up, closed or not */
	int rc;                            /* the first failure */
	struct err err;
};

/* Ready for one connection, chan; others may be added. */
int mig_readers_init(struct mig_readers *p, struct mig_incoming *in, struct mig_chan *chan,
		     void (*on_frame)(void *ctx), void *ctx, struct err *e);
/*
 * Connection `index` is there; wire has read its first frame. It is read from mig_readers_start()
 * on. Takes over chan.
 */
void mig_readers_add(struct mig_readers *p, unsigned index, struct mig_chan *chan,
		     const struct wire_reader *wire);
/* Connections 1 to n-1 are all there. */
int mig_readers_start(struct mig_readers *p, unsigned n, struct err *e);
/*
 * Breaks the connections (but the first, which is the caller's), ends the threads: from here on
 * nobody writes RAM. A zeroed struct is fine.
 */
void mig_readers_free(struct mig_readers *p);

/* Wait for the first connection's next frame, or for any other's failure (in *e). */
int mig_readers_wait(struct mig_readers *p, struct err *e);
/*
 * Any reader: its connection has come to this mark. Returns 0 when all have; a failure of another
 * connection, or one that has stalled (reader 0 alone looks), ends the wait.
 */
int mig_readers_mark(struct mig_readers *p, unsigned index, uint64_t number, struct err *e);
/*
 * The source says that this was everything, and that the other connections end at mark `marks`:
 * wait until they are there. None of them touches RAM after this, until mig_readers_open(): what
 * comes earlier waits in its socket.
 */
int mig_readers_close(struct mig_readers *p, uint64_t marks, struct err *e);
/* More comes. What failed meanwhile is told now. */
int mig_readers_open(struct mig_readers *p, struct err *e);

/* Any thread: give up, whatever the readers wait for. */
void mig_readers_abort(struct mig_readers *p);

/* Received on all connections; any thread. */
uint64_t mig_readers_bytes(const struct mig_readers *p);

#endif
