/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From set bits to frames of pages: what a sender does between the bitmap and the channel.
 *
 * Pages are taken a *window* at a time: the bits of a stretch of one block leave the bitmap, then
 * one protect() call re-protects exactly those pages, and only then are their bytes looked at. So a
 * fragmented stretch costs one call, and a page is never read before a later write to it would be
 * seen. The window is as large as the wire drains in a few milliseconds: a page that is protected
 * long before it is sent is likely to be written, faulted on and sent again. Where RAM turns out to
 * be empty, which costs the wire nothing, windows grow with the pages that were.
 *
 * A *chunk* is one WIRE_PAGES frame cut from the window: zero pages as runs, others by reference
 * (the iovecs point into guest RAM) with a checksum each. The guest may change a page between
 * checksum and sending: then its bit is set again, a later copy follows, and only that one counts.
 *
 * Several senders share one *cursor*, which hands out the pass window by window: finding and taking
 * the bits is under its lock, all else is not. It only moves on, and a window is one sender's
 * alone, so within a pass no page is sent twice, whatever bits are set meanwhile.
 *
 * Threads: one sender thread per struct mig_pages; mig_pages_pending() and the figures from any.
 */
#ifndef MIGRATION_PAGES_H
#define MIGRATION_PAGES_H

#include <pthread.h>

#include "migration/bitmap.h"
#include "migration/free_pages.h"
#include "migration/machine.h"
#include "migration/squeeze.h"
#include "migration/wire.h"

#define MIG_WINDOW_WORDS     512  /* a window spans at most 32768 pages (128 MiB) ... */
#define MIG_WINDOW_PAGES_MAX 4096 /* ... and has about this many set bits at most */
#define MIG_WINDOW_PAGES_MIN 64

/* The pass: where the next window begins. */
struct mig_cursor {
	pthread_mutex_t lock;
	unsigned block;
	uint64_t word;
};

struct mig_pages {
	const struct mem *mem;
	struct mig_bitmap *bitmap;
	const struct mig_dirty_source *source;
	struct mig_cursor *cursor;
	uint64_t window_pages; /* set bits to take at a time; the owner adapts it to the wire */
	uint64_t zero_streak;  /* pages without bytes since the last one with */
	uint32_t chunk_pages;  /* pages with bytes in a chunk, 1 to WIRE_CHUNK_PAGES */
	/* the window: taken, protected, not sent yet */
	unsigned window_block;
	uint64_t window_first_word, window_n_words;
	uint64_t window_left; /* pages; atomic */
	uint64_t window_at;   /* search from this word of the window */
	uint64_t window[MIG_WINDOW_WORDS];
	/* shared memory: up to this page of the window's block it is known whether it is a hole */
	uint64_t extent_end;
	bool extent_hole;
	uint64_t free_left; /* hinted pages of the current word that are still to be told */
	/* figures; atomic */
	uint64_t protect_calls, protect_pages;
};

struct mig_chunk {
	uint8_t header[WIRE_HEADER_BYTES];
	struct wbuf meta;
	struct wire_pages pages;
	struct iovec iov[2 + WIRE_CHUNK_PAGES]; /* header, meta, runs of guest RAM */
	unsigned n_iov, lasting;                /* from iov[lasting] on it is guest RAM */
	uint64_t normal_pages, zero_pages, data_bytes;
	uint8_t *packed; /* WIRE_DATA_MAX for compressed pages; NULL: never */
};

void mig_cursor_init(struct mig_cursor *c);
void mig_cursor_destroy(struct mig_cursor *c);
/* A new pass: begin at the first page. */
void mig_cursor_rewind(struct mig_cursor *c);

void mig_pages_init(struct mig_pages *p, const struct mem *mem, struct mig_bitmap *bitmap,
		    const struct mig_dirty_source *source, struct mig_cursor *cursor);

void mig_chunk_init(struct mig_chunk *c);
void mig_chunk_free(struct mig_chunk *c);

/* Compress the chunk if that makes it smaller. Returns whether it did. */
bool mig_chunk_pack(struct mig_chunk *c, struct mig_squeeze *z);

/*
 * As mig_pages_next(), of pages that were hinted free: zero runs only. After the round, with no
 * other sender at work.
 */
int mig_pages_next_free(struct mig_pages *p, struct mig_free_pages *f, struct mig_chunk *c,
			bool *more, struct err *e);

/*
 * The next chunk of this pass, ready to be sent but for its frame header. *more is false when the
 * pass is over (the chunk is then empty). Pages taken and not sent because of an error are lost to
 * the bitmap: a failed migration is not continued.
 */
int mig_pages_next(struct mig_pages *p, struct mig_chunk *c, bool *more, struct err *e);

/* The rest of the window back into the bitmap (it is protected already, which does no harm). */
void mig_pages_put_back(struct mig_pages *p);

/* Pages that are taken but not in a chunk yet: they still have to be sent. */
uint64_t mig_pages_pending(const struct mig_pages *p);

#endif
