/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast the wire is, how long the rest would take, and keeping below a limit.
 *
 * Bandwidth is measured from bytes that really left (sent less what the socket still holds) during
 * sending time only: mig_rate_pause() takes syncs and sleeps out of it.
 *
 * A wire that had little to carry says little: looking through empty RAM, and the round trip behind
 * a pass of a few pages, take time in which hardly a byte is there to be sent. What is measured
 * then only counts if it is more than was known. But what was known is not known for ever: it may
 * have been a moment in which the wire stood still, and a guest that writes nothing gives no chance
 * to measure it again. So a low estimate grows a little with each pass that does not bear it out.
 *
 * Threads: one thread per struct.
 */
#ifndef MIGRATION_RATE_H
#define MIGRATION_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct mig_rate {
	uint64_t window_bytes;  /* on the wire when the window began */
	uint64_t window_ns;     /* sending time in this window so far */
	uint64_t running_since; /* 0 while paused */
	uint64_t bytes_s;       /* smoothed estimate; provisional until the first window is full */
	bool measured;
	bool busy; /* bytes were seen to wait for the wire in this window */
	/* In this pass there was a window that says how fast the wire is; one that does not. */
	bool told, thin;
};

/* Sending begins (again) / stops, at time now_ns. */
void mig_rate_resume(struct mig_rate *r, uint64_t now_ns);
void mig_rate_pause(struct mig_rate *r, uint64_t now_ns);

/* Of what left meanwhile, so much was not sent in sending time: it does not count. */
void mig_rate_skip(struct mig_rate *r, uint64_t bytes);

/* on_wire_bytes have left in all by now, and waiting_bytes could not yet. */
void mig_rate_update(struct mig_rate *r, uint64_t on_wire_bytes, uint64_t waiting_bytes,
		     uint64_t now_ns);

/* A pass is over. */
void mig_rate_pass(struct mig_rate *r);

/* Bytes a second; before the first window is full the best guess so far. At least 1. */
uint64_t mig_rate_bytes_s(const struct mig_rate *r);

/* Nanoseconds for so many bytes at this rate. */
uint64_t mig_rate_time_ns(const struct mig_rate *r, uint64_t bytes);

/* ---- staying below max-bandwidth ---- */

struct mig_limit {
	uint64_t free_at_ns;  /* when the bytes sent so far will have paid for themselves ... */
	uint64_t brisk_at_ns; /* ... and when they will have if it is a little brisker */
};

/* What should be sent at a time under a limit, at most: more would be a burst by itself. */
static inline uint64_t mig_limit_chunk_bytes(uint64_t bytes_s)
{
	return bytes_s / 128;
}

/*
 * `bytes` are about to be sent under a limit of bytes_s (0 = none): how long to wait before, in ns.
 *
 * Over any second no more than 3 % above the limit, and on average the limit itself: a wake-up that
 * was late is made up for at once within 8 ms' worth, and up to half a second's worth by being one
 * per cent brisker for a while. A longer pause is not saved up for.
 */
uint64_t mig_limit_wait_ns(struct mig_limit *l, uint64_t bytes, uint64_t bytes_s, uint64_t now_ns);

#endif
