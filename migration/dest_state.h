/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of struct mig_dest, shared by the files of the destination only. */
#ifndef MIGRATION_DEST_STATE_H
#define MIGRATION_DEST_STATE_H

#include <pthread.h>

#include "migration/heartbeat.h"
#include "migration/incoming.h"
#include "migration/joining.h"
#include "migration/migration.h"
#include "migration/readers.h"
#include "migration/stop.h"
#include "migration/uri.h"

struct mig_dest {
	/* constant after start */
	struct mig_dest_config cfg;
	struct mig_uri uri;
	char name[MIG_URI_BYTES]; /* where it listens: constant once it does */
	pthread_t thread;
	bool joined; /* the owner's */
	struct mig_stop stop;
	/* guarded by lock */
	pthread_mutex_t lock;
	pthread_cond_t decided;
	bool quit, decision, listening;
	uint64_t token_hash;
	uint64_t begin_ns;
	struct mig_status status;
	struct mig_chan *chan; /* the first connection; set and cleared by the coordinator */
	bool reading;          /* there are readers; likewise */
	/* the coordinator's own */
	int listen_fd;
	struct mig_waiting waiting; /* sources that came while connections were awaited */
	struct mig_readers readers;
	struct wire_writer writer;
	struct wire_reader reader;
	struct mig_incoming in;
	struct mig_beat beat;
	bool committed; /* the guest is ours, whatever happens from here on */
};

/* ---- dest.c ---- */

/* Set a state and tell the owner; e: why, NULL if all is well. */
void mig_dest_state(struct mig_dest *d, enum mig_state state, const struct err *e);
int mig_dest_send_u64(struct mig_dest *d, enum wire_type type, uint64_t v, struct err *e);
/* The frame at hand is ABORT: its reason. */
int mig_dest_aborted(struct mig_dest *d, struct err *e);

/* A source has connected. True: the guest lives here now (or RAM is spoilt): wait for no other. */
bool mig_dest_serve(struct mig_dest *d, int fd);

/* ---- dest_agree.c ---- */

/* What the source wants to move; refused if it cannot live here. *welcome: what is agreed. */
int mig_dest_hello(struct mig_dest *d, struct wire_welcome *welcome, struct err *e);
int mig_dest_welcome(struct mig_dest *d, struct wire_welcome *m, struct err *e);
/* Wait for the source's other connections, if there are to be any. */
int mig_dest_gather(struct mig_dest *d, const struct wire_welcome *m, struct err *e);

#endif
