/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The senders of a migration: one for each connection, from 1 to 16.
 *
 * Sender 0 is the coordinator itself, on the connection that also carries all control messages;
 * with one connection there is no other thread, and nothing here costs anything. Each of the others
 * has a thread ("mig-send-N"), a connection, and a window and chunks of its own. They work in
 * *parts*: the coordinator lets them go, does its own part, and joins them. Between the parts they
 * rest, and what is theirs is the coordinator's.
 *
 *	coordinator:  go ─── own part ─── join        go ─── ...
 *	mig-send-1:   └────── part ────────┘  rests   └─── ...
 *
 * The first failure of any sender is kept, and breaks the connections of all but sender 0, so that
 * none waits for a peer that is not going to read: the destination then gives up by itself, says
 * why on connection 0 and closes it.
 *
 * Threads: the coordinator, unless said otherwise.
 */
#ifndef MIGRATION_SENDERS_H
#define MIGRATION_SENDERS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "migration/pages.h"
#include "migration/stop.h"

struct mig_sender;
struct mig_senders;

/* One part of one sender's. -errno with a message fails the migration. */
typedef int mig_part_fn(struct mig_sender *s, struct err *e);

struct mig_sender {
	/* constant */
	struct mig_senders *all;
	unsigned index;
	pthread_t thread; /* not of sender 0 */
	/* its thread's; the coordinator's while it rests */
	struct mig_chan *chan; /* set once, under the lock; NULL before */
	struct wire_writer *writer, own_writer;
	struct mig_pages pages;
	struct mig_chunk chunks[2];
	unsigned next_chunk;
	struct mig_squeeze *squeeze; /* NULL: nothing is compressed */
	/* figures; atomic */
	uint64_t sent_normal, sent_zero;
	uint64_t packed_chunks, packed_from_bytes, packed_to_bytes; /* compressed */
	uint64_t data_bytes; /* of pages, as they were sent */
};

struct mig_senders {
	/* constant while the threads live */
	void *ctx; /* the migration that they send */
	unsigned n;
	struct mig_sender *list; /* n of them, sender 0 first */
	struct mig_cursor cursor;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	mig_part_fn *part;
	uint64_t parts;   /* let go so far */
	unsigned working; /* threads that have not ended the part */
	bool quit;
	bool broken; /* mig_senders_abort(): connections are broken as they come */
	int rc;      /* the first failure of a thread */
	struct err err;
	atomic_bool failed; /* any sender has: leave off */
};

/*
 * Make n senders over this memory. The threads are there, and rest. Sender 0 gets its connection
 * and writer from the coordinator. A zeroed struct may be freed.
 */
int mig_senders_init(struct mig_senders *p, void *ctx, unsigned n, const struct mem *mem,
		     struct mig_bitmap *bitmap, const struct mig_dirty_source *dirty,
		     struct err *e);
/* While they rest: chunks may be compressed from now on. */
int mig_senders_compress(struct mig_senders *p, struct err *e);
/* Break the connections, end the threads, close the connections (but that of sender 0), free. */
void mig_senders_free(struct mig_senders *p);

/* A sender's thread has made its connection: it is the sender's, and breaks with the others. */
void mig_sender_connected(struct mig_sender *s, struct mig_chan *chan);

/*
 * While all rest: wait for the first connection to have something to read. -ECONNRESET if another
 * one ends meanwhile.
 */
int mig_senders_watch(const struct mig_senders *p, struct mig_stop *stop, uint64_t timeout_ns,
		      struct err *e);

/* All but sender 0 do this part now. */
void mig_senders_go(struct mig_senders *p, mig_part_fn *part);
/* Wait at most timeout_ns for them: are they through? */
bool mig_senders_wait(struct mig_senders *p, uint64_t timeout_ns);
/*
 * Wait until they are, and say how it went: rc and *e are how the coordinator's own part ended. The
 * failure of any that tells most about the cause is returned. -ECANCELED after mig_senders_abort().
 */
int mig_senders_join(struct mig_senders *p, int rc, struct err *e);

/* Any thread: break the connections of all but sender 0, those to come too. */
void mig_senders_abort(struct mig_senders *p);

/* Figures of all senders together. */
struct mig_sums {
	uint64_t pending_pages; /* taken from the bitmap, and not in a chunk yet */
	uint64_t normal_pages, zero_pages;
	uint64_t data_bytes; /* of pages, as they were sent */
	uint64_t packed_from_bytes, packed_to_bytes;
	uint64_t protect_calls, protect_pages;
	uint64_t sent_bytes; /* all that was handed to the sockets */
};

/* Any thread. */
struct mig_sums mig_senders_sums(const struct mig_senders *p);
/* Sent bytes that are not acknowledged yet: asks the kernel about each connection. Any thread. */
uint64_t mig_senders_queued_bytes(const struct mig_senders *p);
/* Of these, those that have not gone out yet (mig_chan_unsent()). Any thread. */
uint64_t mig_senders_unsent_bytes(const struct mig_senders *p);
/* Of the connection that got furthest with it. */
enum mig_zero_copy_verdict mig_senders_zero_copy(const struct mig_senders *p);

#endif
