/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A recorded migration, and playing streams like it to a destination. Check assertions inside:
 * the test's thread only.
 */
#ifndef TESTS_UNIT_SUPPORT_REPLAY_H
#define TESTS_UNIT_SUPPORT_REPLAY_H

#include "tests/unit/support/pair.h"
#include "tests/unit/support/raw.h"

#define REPLAY_FRAMES     64
#define REPLAY_FIRST_PAGE 3 /* the source's pages that are not zero */
#define REPLAY_PAGES      6

struct replay {
	struct pair p; /* src: the guest that was recorded; dst: what plays are for */
	struct wbuf to_dest, to_source;
	struct raw_frame frames[REPLAY_FRAMES]; /* of to_dest */
	unsigned n_frames;
	char reason[ERR_MSG_BYTES]; /* why the last play failed: as told to the source, or locally
				     */
};

/* Move a guest with 1 MiB of RAM once and keep every byte; then a fresh destination listens. */
void replay_up(struct replay *r);
/* The same with rehearsals and a digest of all memory. */
void replay_up_verified(struct replay *r);
void replay_down(struct replay *r);
/* A fresh destination, with no guest in it. */
void replay_listen(struct replay *r);
/* Send these bytes and the end of the stream; the state the destination comes to. */
enum mig_state replay_play(struct replay *r, const void *data, size_t len);
/* The destination has taken nothing over, and the recorded stream as it was still loads there. */
void replay_still_good(struct replay *r);

#endif
