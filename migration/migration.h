/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moving a running guest: the engine's front door.
 *
 * A *source* (mig_source) sends a guest away by precopy: all RAM once, then what was written
 * meanwhile, until the rest is predicted to fit the downtime limit; then pause, last pages, state,
 * handover (docs/handover.md). A *destination* (mig_dest) waits for one and takes it over.
 *
 * Whatever fails before the commit point, the source's guest goes on as if nothing had happened,
 * and the destination throws away what it has and waits for the next attempt.
 *
 * Threads: each object has one coordinator thread of its own, which alone works on it (but for the
 * sync worker, and a thread for each connection beyond the first). The functions here may be called
 * from any thread and do not wait, but for
 * *_free(), which cancels and joins. The event callback runs in the coordinator thread and must
 * neither block nor call *_free().
 */
#ifndef MIGRATION_MIGRATION_H
#define MIGRATION_MIGRATION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "mem/mem.h"
#include "migration/machine.h"

enum mig_state {
	MIG_NONE,   /* destination: waiting for a source */
	MIG_SETUP,  /* connecting, agreeing on what is moved; destination: looking up a name */
	MIG_ACTIVE, /* RAM is being sent, the guest runs at the source */
	/* the guest is paused at the source for the switchover, which waits for the user's word */
	MIG_PRE_SWITCHOVER,
	MIG_DEVICE,     /* switchover: paused at the source, last pages and state under way */
	MIG_POSTCOPY,   /* destination: the guest runs here, the rest of its RAM still comes */
	MIG_COMPLETED,  /* the destination owns the guest */
	MIG_FAILED,     /* the source owns the guest */
	MIG_CANCELLING, /* a cancel was asked for and is not done yet */
	MIG_CANCELLED,  /* the source owns the guest */
	/*
	 * The link broke in the middle of the handover. Source: the commit is given away, but no
	 * word came that it arrived; this side never runs the guest again. Destination: everything
	 * is here, but no commit came; the guest stays paused until someone brings the token.
	 */
	MIG_UNDECIDED,
};

const char *mig_state_name(enum mig_state s); /* as query-migrate spells it */

/* What a switchover consists of, in this order; the guest is dark from the first to the last. */
enum mig_phase {
	MIG_PHASE_PAUSE,   /* the source stops vCPUs and devices */
	MIG_PHASE_HELD,    /* pause-before-switchover: until the user says so */
	MIG_PHASE_COLLECT, /* the source reads the state outside RAM */
	MIG_PHASE_SYNC,    /* the last look at the dirty log */
	MIG_PHASE_VERIFY,  /* verify: the source's digest of all RAM (the destination's is in LOAD)
			    */
	MIG_PHASE_PAGES,   /* the last pages, into the socket */
	MIG_PHASE_STATE,   /* what the socket holds, the sections, and the answer's way back */
	MIG_PHASE_LOAD,    /* the destination decodes and loads the state */
	MIG_PHASE_COMMIT,  /* the commit's way and its answer's */
	MIG_PHASE_START,   /* the destination lets the guest run */
	MIG_PHASES
};

const char *mig_phase_name(enum mig_phase p);
/* Measured by the destination, in its own time? All others by the source. */
bool mig_phase_is_dest(enum mig_phase p);

#define MIG_DOWNTIME_LIMIT_MS_DEFAULT 300
#define MIG_DOWNTIME_LIMIT_MS_MAX     2000000
#define MIG_BANDWIDTH_UNLIMITED       0

#define MIG_CHANNELS_MAX            16
#define MIG_TRIGGER_PERCENT_DEFAULT 50
#define MIG_MAX_THROTTLE_DEFAULT    99
#define MIG_CPU_LIMIT_MIB_DEFAULT   1
#define MIG_CONVERGE_SECONDS_MAX    86400
#define MIG_CPU_LIMIT_MIB_MAX       1048576

/* Slowing down a guest that writes faster than the wire carries (migration/throttle.h). */
struct mig_throttle_params {
	bool auto_converge; /* by as much as convergence needs */
	bool dirty_limit;   /* every vCPU that writes more than cpu_limit_mib_s to that */
	uint64_t cpu_limit_mib_s;
	uint64_t converge_s;      /* the time for it, from when it begins; 0 = not given */
	uint64_t max_percent;     /* of its time that may be taken from a vCPU, 1 to 99 */
	uint64_t trigger_percent; /* a pass that leaves more than this of what it sent is in vain */
};

struct mig_params {
	uint64_t max_bandwidth_bytes_s; /* MIG_BANDWIDTH_UNLIMITED = as fast as it goes */
	uint64_t downtime_limit_ms;
	bool pause_before_switchover; /* MIG_PRE_SWITCHOVER until mig_source_continue() */
	struct mig_throttle_params throttle;
	/* what follows counts at the start only */
	unsigned channels; /* connections, 1 to MIG_CHANNELS_MAX (0: 1) */
	bool compress;     /* by zstd, while that makes it shorter */
	bool zero_copy;    /* by zero-copy sends, if the device can */
	bool verify; /* compare all RAM at the switchover; free page hints are left out then */
};

void mig_params_default(struct mig_params *p);

struct mig_throttle_status {
	bool active;
	uint64_t stall_ns;   /* taken from the guest so far, over all vCPUs; stays after the end */
	uint64_t most_taken; /* thousandths of its time, from the vCPU that has least; 0 = off */
	unsigned n_cpus;
	struct {
		unsigned share; /* thousandths of its time that the vCPU has */
		uint64_t dirty_pages_s;
	} cpus[MIG_CPUS_MAX];
};

/* Does RAM leave without being copied (migration/zero_copy.h)? In the order of what counts. */
enum mig_zero_copy_verdict {
	MIG_ZERO_COPY_UNTRIED,     /* or not known yet, or not wanted */
	MIG_ZERO_COPY_NOT_OFFERED, /* by the kernel, for such a socket */
	MIG_ZERO_COPY_COPIED,      /* the device did, and plain sends are cheaper */
	MIG_ZERO_COPY_USED,
};

/* A snapshot of everything visible. Times in ns since the migration began unless said otherwise. */
struct mig_status {
	enum mig_state state;
	char error[ERR_MSG_BYTES]; /* MIG_FAILED, MIG_UNDECIDED: what happened */
	uint64_t token;            /* source, MIG_UNDECIDED: what lets the destination run it */
	uint64_t total_ns;         /* running, or final */
	uint64_t setup_ns;         /* until RAM began to move */
	uint64_t downtime_ns; /* completed: pause at the source to "it runs" from the other side */
	uint64_t predicted_downtime_ns;  /* active: if the switchover began now */
	uint64_t predicted_at_switch_ns; /* what the prediction was when the switchover began */
	uint64_t downtime_limit_ns;
	uint64_t predicted_phase_ns[MIG_PHASES]; /* what predicted_downtime_ns consists of ... */
	uint64_t predicted_at_switch_phase_ns[MIG_PHASES]; /* ... and predicted_at_switch_ns */
	uint64_t downtime_phase_ns[MIG_PHASES]; /* completed: what downtime_ns consists of */
	uint64_t least_downtime_ns;             /* predicted without a single page */
	/* Of the fixed part, with the guest paused for a moment at the source. */
	uint64_t rehearsals, rehearsal_pause_ns_last, rehearsal_pause_ns_total;
	/* RAM */
	uint64_t page_bytes, ram_total_bytes, remaining_bytes;
	uint64_t transferred_bytes; /* everything handed to the socket (received from it) */
	uint64_t normal_pages, zero_pages;
	uint64_t free_pages; /* of the zero pages, those that were hinted free and not looked at */
	uint64_t precopy_bytes, downtime_bytes;  /* transferred before / after the pause */
	uint64_t passes;                         /* iterations begun */
	uint64_t syncs;                          /* dirty log harvests */
	uint64_t dirty_pages_per_s, bytes_per_s; /* latest estimates */
	uint64_t sync_ns_last, sync_ns_total;
	uint64_t protect_calls, protect_pages;
	uint64_t switchovers_called_off;
	/* connections, and what was handed to (received from) each */
	unsigned n_channels;
	uint64_t channel_bytes[MIG_CHANNELS_MAX];
	enum mig_zero_copy_verdict zero_copy; /* source: of the connection that got furthest */
	/* compressed pages: their bytes, and what they became */
	uint64_t compressed_from_bytes, compressed_to_bytes;
	struct mig_throttle_status throttle;
};

enum mig_event_kind {
	MIG_EVENT_STATE, /* state changed */
	MIG_EVENT_PASS,  /* a sync was done: a new pass begins */
};

struct mig_event {
	enum mig_event_kind kind;
	enum mig_state state;
	uint64_t pass;
};

typedef void mig_event_fn(void *ctx, const struct mig_event *ev);

/* ---- source ---- */

struct mig_source;

struct mig_source_config {
	const char *uri; /* tcp:HOST:PORT or unix:PATH */
	const char *guest_name;
	const struct mem *mem;
	struct mig_dirty_source dirty;
	struct mig_machine machine;
	struct mig_cpu_source cpus;
	const struct mig_free_source *free_sources; /* migration/free_pages.h */
	unsigned n_free_sources;
	struct mig_params params;
	mig_event_fn *on_event;
	void *event_ctx;
};

/*
 * Start moving the guest. -EINVAL for a bad URI (with a message); everything that takes time
 * happens in the coordinator and shows up in the status. What cfg points to must outlive *out.
 */
int mig_source_start(struct mig_source **out, const struct mig_source_config *cfg, struct err *e);
void mig_source_cancel(struct mig_source *s);
/*
 * MIG_PRE_SWITCHOVER only (-EINVAL): go on. From here on the downtime limit calls nothing off any
 * more: the guest has been paused for as long as the user liked.
 */
int mig_source_continue(struct mig_source *s, struct err *e);
void mig_source_set_params(struct mig_source *s, const struct mig_params *p);
void mig_source_status(struct mig_source *s, struct mig_status *out);
/* No longer under way: completed, failed, cancelled or undecided. */
bool mig_source_ended(struct mig_source *s);
/*
 * Of one that has ended, wait for the thread: it says goodbye to the other side, for a moment at
 * most. No event comes from it afterwards.
 */
void mig_source_join(struct mig_source *s);
/* Cancels if it is still under way, waits for the thread, frees. NULL is fine. */
void mig_source_free(struct mig_source *s);

/* ---- destination ---- */

struct mig_dest;

struct mig_dest_config {
	const char *uri; /* tcp:HOST:PORT (PORT 0: any, see mig_dest_uri()) or unix:PATH */
	struct mem *mem;
	struct mig_machine machine;
	mig_event_fn *on_event;
	void *event_ctx;
};

/*
 * Listen and wait for sources, one at a time, until one hands over its guest. Bind errors are
 * reported here, but those at a host's name, which takes time to look up: until it listens there
 * the state is MIG_SETUP, then MIG_NONE, or MIG_FAILED (mig_dest_nowhere()). A failed attempt
 * leaves a message in the status and the destination waiting.
 */
int mig_dest_start(struct mig_dest **out, const struct mig_dest_config *cfg, struct err *e);
/* The URI that sources can connect to (the real port), once it listens. Owned by d. */
const char *mig_dest_uri(struct mig_dest *d);
/* The name was not found, or one cannot listen there: nobody will ever come. */
bool mig_dest_nowhere(struct mig_dest *d);
/* Then: wait for the thread, which says so, and nothing else any more. */
void mig_dest_join(struct mig_dest *d);
void mig_dest_status(struct mig_dest *d, struct mig_status *out);
/*
 * MIG_UNDECIDED only: take the guest over with the token that the source shows. -EPERM if it is not
 * the right one, -EINVAL in any other state.
 */
int mig_dest_decide(struct mig_dest *d, uint64_t token, struct err *e);
/*
 * The same without a token, on the operator's word that the source is gone for good (its host is
 * dead): if it is not, the guest runs twice.
 */
int mig_dest_decide_forced(struct mig_dest *d, struct err *e);
void mig_dest_free(struct mig_dest *d);

#endif
