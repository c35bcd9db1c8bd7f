/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket: QMP connections on a listening UNIX socket, served by an event loop.
 *
 * At most CTL_MAX_CLIENTS at a time. For one more the oldest of those makes way that have not moved
 * a byte for a while: CTL_GRACE_NS if they have not negotiated, or are to be closed once they have
 * taken what waits for them, else CTL_SILENCE_NS. If there is none, the newcomer is told so and
 * closed. A client that sends nothing costs its slot and no time. One that does not read its
 * replies is not read from either; when events fill its queue it is dropped. A client may
 * half-close: its last commands are answered.
 *
 * Threads: the loop's thread only.
 */
#ifndef VMM_CTL_SERVER_H
#define VMM_CTL_SERVER_H

#include "base/clock.h"
#include "base/loop.h"
#include "vmm/ctl/qmp.h"

#define CTL_MAX_CLIENTS 16
#define CTL_GRACE_NS    (1 * NS_PER_SEC)
#define CTL_SILENCE_NS  (30 * NS_PER_SEC)

struct ctl_server;

/* Serve listen_fd (a listening, non-blocking socket; ours on success). *table and *l must outlive
 * it. */
int ctl_server_new(struct ctl_server **out, struct loop *l, int listen_fd,
		   const struct qmp_table *table, struct err *e);
/* Sends what can be sent without waiting, closes everything. NULL is fine. */
void ctl_server_free(struct ctl_server *s);

/* Tell every client that has negotiated. `data` is borrowed, NULL = none. */
void ctl_server_event(struct ctl_server *s, const char *name, const json_t *data);

#endif
