/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of struct mig_source, shared by the files of the source only. */
#ifndef MIGRATION_SOURCE_STATE_H
#define MIGRATION_SOURCE_STATE_H

#include <pthread.h>

#include "migration/brake.h"
#include "migration/free_pages.h"
#include "migration/heartbeat.h"
#include "migration/migration.h"
#include "migration/pages.h"
#include "migration/predict.h"
#include "migration/rate.h"
#include "migration/senders.h"
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
	bool joined; /* the owner's */
	uint64_t begin_ns;
	struct mig_stop stop, go; /* go: the user's word in MIG_PRE_SWITCHOVER */
	/* guarded by lock */
	pthread_mutex_t lock;
	struct mig_status status;
	struct mig_params params;
	bool ended;
	bool committed;        /* the commit point has passed: a cancel comes too late */
	struct mig_chan *chan; /* the first connection; set and cleared by the coordinator */
	bool sharing;          /* there are senders: a cancel breaks their connections too */
	/*
	 * The destination has everything: a cancel must not cut the line, or it would never learn
	 * that the guest stays here. The coordinator sees the stop by itself and says so.
	 */
	bool polite;
	/* the coordinator's own */
	struct mig_bitmap bitmap;
	struct mig_sync sync;
	struct mig_senders senders;
	struct mig_brake brake;
	struct mig_free_pages free;
	struct mig_rate rate;
	struct wire_writer writer;
	struct wire_reader reader;
	struct mig_beat beat;
	uint64_t marks, passed; /* sent on the first connection; of them, those that came back */
	uint64_t marks_others;  /* sent on the others */
	bool far;               /* from fitting, as of the last sync: passes are not waited for */
	bool round_open;        /* several connections, and pages since the last mark */
	uint64_t until_ns;      /* the last pages must be out by then; 0 = no matter */
	uint64_t token, session;
	struct mig_costs costs;
	uint64_t rehearsed_ns; /* when the last rehearsal was; 0 = none */
	bool rehearsal_stale;  /* a switchover was called off since */
	uint64_t sent_normal, sent_zero, sent_free;
	double shrink;         /* bytes on the wire for a page's byte, as of the last pass; 0 = 1 */
	bool logging, syncing; /* dirty source started, sync worker (and brake) there */
	bool paused, was_running;
	/* the switchover under way */
	uint64_t paused_ns; /* when the pause began */
	uint64_t mark_ns;   /* when the phase under way began */
	uint64_t took_ns[MIG_PHASES];
	uint64_t plan_ns[MIG_PHASES]; /* the prediction that it began with */
	bool hold;                    /* wait for the user before going on */
	bool held;                    /* by the user: the limit counts no more */
	uint64_t dark_until_ns; /* the source must have committed by then, or the guest goes on */
	uint64_t digest;        /* of all RAM, with verify */
	bool ended_state;       /* END is out: the destination makes itself ready */
	unsigned readies_owed;  /* READYs still to come, those to switchovers called off included */
	uint32_t n_ends;        /* ENDs sent */
	uint32_t loaded_number; /* what the last READY said: to which END ... */
	uint64_t loaded_ns;     /* ... and how long loading took */
	/* the senders' too */
	atomic_bool called_off;
	unsigned at_work;      /* senders that share this pass; constant while they do */
	uint64_t window_pages; /* what all together should have protected at a time; atomic */
	pthread_mutex_t limit_lock;
	struct mig_limit limit; /* under limit_lock */
};

/* No error, hence positive: the switchover would not have fitted the downtime limit. */
#define MIG_CALLED_OFF 1

/* ---- source.c ---- */

/* Set a state and tell the owner. */
void mig_source_state(struct mig_source *s, enum mig_state state);
struct mig_params mig_source_params(struct mig_source *s);
/* What the senders have done, and what of it waits in their sockets. */
struct mig_sample {
	struct mig_sums sums;
	uint64_t queued_bytes;
};
struct mig_sample mig_source_sample(const struct mig_source *s);
/* Bring the figures in the status up to date, by a new sample or by this one. */
void mig_source_figures(struct mig_source *s);
void mig_source_figures_of(struct mig_source *s, const struct mig_sample *sample);
/* The destination may have everything (or has nothing again): how a cancel has to go about it. */
void mig_source_polite(struct mig_source *s, bool polite);

/* ---- source_peer.c ---- */

/* Connect; s->chan is the first connection. */
int mig_source_connect(struct mig_source *s, struct err *e);
/* Hello and welcome: how many connections the destination grants. */
int mig_source_agree(struct mig_source *s, unsigned *n_channels, struct err *e);
/* The senders, their connections, and the destination's word that all are there. */
int mig_source_start_senders(struct mig_source *s, unsigned n, struct err *e);
void mig_source_end_senders(struct mig_source *s);
/* The connection broke: did the destination say why before? Replaces the plain error. */
void mig_source_last_words(struct mig_source *s, struct err *e);
/* Take in what the destination has said meanwhile. That it gave up is an error. */
int mig_source_heed(struct mig_source *s, struct err *e);
/* Receive something while a READY is owed: s->readies_owed tells whether it was one. */
int mig_source_take_ready(struct mig_source *s, struct err *e);
/* Does the destination have all that lies before the last mark, for all we know? */
bool mig_source_settled(const struct mig_source *s);
/* Wait until it has. */
int mig_source_settle(struct mig_source *s, struct err *e);
/* A frame that must be of this type; FAIL becomes the destination's error. */
int mig_source_expect(struct mig_source *s, enum wire_type type, struct err *e);

/* A section as a SECTION frame has it. */
void mig_source_put_section(struct wbuf *meta, const struct mig_section *sec);

/* ---- precopy.c ---- */

/* Iterate until the rest is predicted to fit the downtime limit. */
int mig_precopy(struct mig_source *s, struct err *e);
/* What is left to send: in the bitmap, and taken from it by senders. */
uint64_t mig_remaining_bytes(const struct mig_source *s);
/* Until that has gone out, and what the sockets hold. */
uint64_t mig_rest_ns(struct mig_source *s);
/* The downtime if the switchover began now, by phases; returns the sum. */
uint64_t mig_predict(struct mig_source *s, uint64_t phases[MIG_PHASES]);
/* The same by a sample that is there already. */
uint64_t mig_predict_of(struct mig_source *s, const struct mig_sample *sample,
			uint64_t phases[MIG_PHASES]);
/*
 * How much may be left for the downtime to fit the limit, where everything but the pages takes
 * fixed_ns; 0: not even nothing fits.
 */
uint64_t mig_fit_bytes(const struct mig_source *s, uint64_t fixed_ns, uint64_t limit_ns);
/* How much RAM so many bytes on the wire are, as of the last pass. */
uint64_t mig_carried_bytes(const struct mig_source *s, uint64_t wire_bytes);
/* Bytes a second while the guest runs: the wire's, or what max-bandwidth leaves of it. */
uint64_t mig_speed_bytes_s(struct mig_source *s);
/* What max-bandwidth says. Nothing during the switchover: dark time is worth more. */
uint64_t mig_limit_now(struct mig_source *s);
/* A sync in the worker, out of the sending time. */
int mig_precopy_sync(struct mig_source *s, struct err *e);

/* ---- send_pass.c ---- */

/*
 * Send everything that is set in the bitmap now. With until_ns (a point of time, 0 = none)
 * MIG_CALLED_OFF as soon as the rest is predicted to end later; what was not sent is set in the
 * bitmap again.
 */
int mig_send_pass(struct mig_source *s, uint64_t until_ns, struct err *e);
/* Behind the bulk pass: close the round of hints, and tell the destination of what was left out. */
int mig_send_free_pages(struct mig_source *s, struct err *e);
/* The pass is sent: a mark behind it on each connection that does not have one yet. */
int mig_mark_round(struct mig_source *s, struct err *e);
/* Bytes have left the sockets: the rate, the windows that follow from it, and the status. */
void mig_account_sent(struct mig_source *s);

/* ---- rehearsal.c ---- */

/* Is it time for one? After the pass that is just done, before its sync. */
bool mig_rehearsal_due(struct mig_source *s);
/*
 * The fixed part of a switchover without the switchover: pause, collect and resume at the source,
 * the state there and back, loading it at the destination. All of it is learnt.
 */
int mig_rehearse(struct mig_source *s, struct err *e);
/* Send every section, and behind them REHEARSE or END, in one piece. */
int mig_send_state(struct mig_source *s, enum wire_type mark, struct err *e);
/* What the destination says of its part, in READY or REHEARSED: learnt, and in s->loaded_ns. */
int mig_learn_loaded(struct mig_source *s, struct err *e);

/* ---- switchover.c ---- */

/*
 * Pause, last pages, state, handover. 0: the destination owns the guest. MIG_CALLED_OFF: the guest
 * runs here, go on with precopy. -EINPROGRESS: committed, but no word from the other side.
 * Other errors: not committed; s->paused tells whether the guest has to be resumed.
 */
int mig_switchover(struct mig_source *s, struct err *e);

#endif
