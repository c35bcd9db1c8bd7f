/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who comes to the destination while no guest is arriving.
 *
 * Everybody who connects is looked at side by side, and the first who has said something is let in:
 * somebody who connects and says nothing (a port scan, a health check, a source that was frozen)
 * keeps nobody waiting. Nothing is read; what was said is for whoever is called to judge. Who
 * has not said as much as a frame's header in time is turned away, and of too many the oldest.
 *
 * Threads: the coordinator; a call ends early when the stop is set.
 */
#ifndef MIGRATION_DOOR_H
#define MIGRATION_DOOR_H

#include "migration/joining.h"

#define MIG_DOOR_TIMEOUT_S 5

/*
 * The socket of the next one to be served, which is the caller's then. -ECANCELED: the stop is set.
 * *waiting is who came before, and afterwards who is there still. `name`: where they came to, for
 * messages.
 */
int mig_door_next(struct mig_waiting *waiting, int listen_fd, const char *name,
		  struct mig_stop *stop);

#endif
