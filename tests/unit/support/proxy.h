/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A byte proxy between a source and a destination: keeps what it sees, and cuts the connection
 * after so many bytes in one direction. Or a slow wire, of which nothing is kept.
 *
 * Threads: one of its own; the test's thread calls, and looks at the record after proxy_stop().
 */
#ifndef TESTS_UNIT_SUPPORT_PROXY_H
#define TESTS_UNIT_SUPPORT_PROXY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/codec.h"

enum proxy_way { PROXY_TO_DEST, PROXY_TO_SOURCE, PROXY_WAYS };

#define PROXY_NO_CUT UINT64_MAX

struct proxy {
	pthread_t thread;
	int listen_fd, stop_fd;
	char uri[64];     /* where sources connect */
	char target[128]; /* the destination's URI */
	/* of the next connection; read when it is accepted */
	uint64_t cut_at[PROXY_WAYS];
	bool reset;       /* cut by RST, not by FIN */
	uint64_t bytes_s; /* how fast it carries bytes to the destination; 0: as fast as it can */
	atomic_bool
		mute; /* nothing goes through any more, and the connections stay: now or later */
	struct wbuf seen[PROXY_WAYS];
};

/* `way` is cut after n bytes (with 0: at once). */
void proxy_start(struct proxy *p, const char *target, enum proxy_way way, uint64_t n, bool reset);
/* A wire that carries so many bytes a second to the destination, and holds next to none. */
void proxy_start_slow(struct proxy *p, const char *target, uint64_t bytes_s);
void proxy_stop(struct proxy *p);
/* After proxy_stop(). */
void proxy_free(struct proxy *p);

#endif
