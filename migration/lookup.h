/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking up host names within bounds. getaddrinfo() asks name servers for as long as it likes
 * (half a minute is usual) and nothing can end it, so a name is looked up by a thread of its own.
 * Who waits for it may stop waiting: the thread then lives on until getaddrinfo() returns, with
 * data that are its own. A numeric address is no look-up, and needs no thread.
 *
 * Threads: any, each call on its own.
 */
#ifndef MIGRATION_LOOKUP_H
#define MIGRATION_LOOKUP_H

#include <netdb.h>
#include <stdint.h>

#include "base/err.h"
#include "migration/stop.h"

/*
 * The stream addresses of a host, in *out (freeaddrinfo). `flags`: AI_PASSIVE or 0. `stop` may be
 * NULL. -ECANCELED: the stop was set; -ETIMEDOUT; -EHOSTUNREACH: no such host; or -errno.
 */
int mig_lookup(const char *host, const char *port, int flags, struct mig_stop *stop,
	       uint64_t timeout_ns, struct addrinfo **out, struct err *e);

#endif
