/* SPDX-License-Identifier: Apache-2.0 */
/* Migration addresses: tcp:HOST:PORT, tcp:[V6]:PORT, unix:PATH. */
#ifndef MIGRATION_URI_H
#define MIGRATION_URI_H

#include <netdb.h>
#include <stdbool.h>
#include <sys/un.h>

#include "base/err.h"
#include "migration/stop.h"

#define MIG_URI_BYTES 512

enum mig_uri_kind { MIG_URI_TCP, MIG_URI_UNIX };

struct mig_uri {
	enum mig_uri_kind kind;
	char host[NI_MAXHOST]; /* TCP; "" = loopback */
	char port[NI_MAXSERV];
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* -EINVAL with what is wrong and what a URI looks like. Port 0 is allowed (for listening). */
int mig_uri_parse(const char *text, struct mig_uri *out, struct err *e);

/*
 * A connected, non-blocking socket in *fd. Looking up a host's name takes timeout_ns at most; then
 * every address of the host is tried, timeout_ns for each. The message has the address and the
 * reason; -ECANCELED when the stop was set.
 */
int mig_uri_connect(const struct mig_uri *u, struct mig_stop *stop, uint64_t timeout_ns, int *fd,
		    struct err *e);

/* Is it a host's name, not an address? To listen there takes a look-up, and thus time. */
bool mig_uri_has_name(const struct mig_uri *u);

/*
 * A listening, non-blocking socket in *fd and the URI that peers can use (real port) in name. A
 * UNIX socket gets mode 0600; a stale one (nobody listens) is replaced, a live one is refused. A
 * host's name is looked up meanwhile, for 5 seconds at most; `stop` (or NULL) ends that.
 */
int mig_uri_listen(const struct mig_uri *u, struct mig_stop *stop, int *fd,
		   char name[MIG_URI_BYTES], struct err *e);

/* Options of a connected migration socket: no delay, keep-alive, TCP_USER_TIMEOUT. */
void mig_socket_tune(int fd);

#endif
