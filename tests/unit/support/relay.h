/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between a source and a destination, for any number of connections at once: each may be slow, and
 * each may be cut, or stall, after so many bytes. The destination's answers may be held back, all
 * but its signs of life. Connections are counted in the order in which they come.
 *
 * Threads: some of its own; the test's thread calls.
 */
#ifndef TESTS_UNIT_SUPPORT_RELAY_H
#define TESTS_UNIT_SUPPORT_RELAY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RELAY_MAX    64
#define RELAY_NO_CUT UINT64_MAX

struct relay;

struct relay_link {
	struct relay *r;
	pthread_t threads[2];
	int fd[2]; /* source, destination */
	/* set before relay_start() */
	uint64_t cut_at;   /* bytes to the destination */
	uint64_t delay_us; /* before every piece to the destination, 64 KiB at most */
	uint64_t stall_at; /* so many bytes to the destination, and nothing is read any more */
	_Atomic uint64_t passed;
	atomic_bool was_cut;
};

struct relay {
	pthread_t thread;
	int listen_fd;
	char uri[64]; /* where sources connect */
	char target[128];
	atomic_bool stop;
	atomic_bool hold; /* answers; when it ends they go out with the next sign of life */
	atomic_uint n_links;
	struct relay_link links[RELAY_MAX];
};

/* No delay, no cut. */
void relay_init(struct relay *r);
void relay_start(struct relay *r, const char *target);
void relay_stop(struct relay *r);

#endif
