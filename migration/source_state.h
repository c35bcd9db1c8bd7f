/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of struct mig_source, shared by source.c, precopy.c and switchover.c only. */
#ifndef MIGRATION_SOURCE_STATE_H
#define MIGRATION_SOURCE_STATE_H

#include <pthread.h>

#include "migration/free_pages.h"
#include "migration/migration.h"
#include "migration/pages.h"
#include "migration/rate.h"
#include "migration/stop.h"
#include "migration/sync.h"
#include "migration/uri.h"
#include "migration/wire.h"

#define MIG_IDLE_TIMEOUT_NS (30 * NS_PER_SEC) /* while RAM is moving */

struct mig_source {
	/* constant after start */
	struct mig_source_config cfg;
	struct mig_uri uri;
	char peer[MIG_URI_BYTES]; /* the URI without its scheme, for messages */
	char guest_name[WIRE_NAME_BYTES];
	pthread_t thread;
	uint64_t begin_ns;
	struct mig_stop stop;
	/* guarded by lock */
	pthread_mutex_t lock;
	struct mig_status status;
	struct mig_params params;
	bool ended;
	bool committed;        /* the commit point has passed: a cancel comes too late */
	struct mig_chan *chan; /* set and cleared by the coordinator */
	/*
	 * The destination has everything: a cancel must not cut the line, or it would never learn
	 * that the guest stays here. The coordinator sees the stop by itself and says so.
	 */
	bool polite;
	/* the coordinator's own */
	struct mig_bitmap bitmap;
	struct mig_sync sync;
	struct mig_pages pages;
	struct mig_free_pages free;
	struct mig_chunk chunks[2];
	unsigned next_chunk;
	struct mig_rate rate;
	struct mig_limit limit;
	struct wire_writer writer;
	struct wire_reader reader;
	uint64_t token;
	uint64_t rtt_ns;
	uint64_t sent_normal, sent_zero, sent_free;
	bool logging, syncing; /* dirty source started, sync worker runs */
	bool paused, was_running;
	uint64_t paused_ns;     /* when the pause began */
	uint64_t pause_cost_ns; /* from there to the first of the last pages, as last seen */
	uint64_t dark_until_ns; /* the source must have committed by then, or the guest goes on */
};

/* No error, hence positive: the switchover would not have fitted the downtime limit. */
#define MIG_CALLED_OFF 1

/* ---- source.c ---- */

/* Set a state and tell the owner. */
void mig_source_state(struct mig_source *s, enum mig_state state);
struct mig_params mig_source_params(struct mig_source *s);
/* Bring the figures in the status up to date. */
void mig_source_figures(struct mig_source *s);
/* If the destination has said something out of turn, it is why it gave up: an error. */
int mig_source_heed(struct mig_source *s, struct err *e);
/* A frame that must be of this type; FAIL becomes the destination's error. */
int mig_source_expect(struct mig_source *s, enum wire_type type, struct err *e);

/* A section as a SECTION frame has it. */
void mig_source_put_section(struct wbuf *meta, const struct mig_section *sec);

/* ---- precopy.c ---- */

/* Iterate until the rest is predicted to fit the downtime limit. */
int mig_precopy(struct mig_source *s, struct err *e);
/*
 * Send everything that is set in the bitmap now. With until_ns (a point of time, 0 = none)
 * MIG_CALLED_OFF as soon as the rest is predicted to end later; what was not sent is set in the
 * bitmap again.
 */
int mig_send_pass(struct mig_source *s, uint64_t until_ns, struct err *e);
/* The downtime if the switchover began now: what is left, and the fixed costs. */
uint64_t mig_predict_ns(struct mig_source *s);
/* Of that, what comes after the last page: state, load, acknowledgements. */
uint64_t mig_after_pages_ns(struct mig_source *s);
/* A sync in the worker, out of the sending time. */
int mig_precopy_sync(struct mig_source *s, struct err *e);

/* ---- switchover.c ---- */

/*
 * Pause, last pages, state, handover. 0: the destination owns the guest. MIG_CALLED_OFF: the guest
 * runs here, go on with precopy. -EINPROGRESS: committed, but no word from the other side.
 * Other errors: not committed; s->paused tells whether the guest has to be resumed.
 */
int mig_switchover(struct mig_source *s, struct err *e);

#endif
