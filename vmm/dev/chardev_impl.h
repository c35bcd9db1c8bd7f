/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the chardev share; nobody else includes this.
 *
 *   chardev.c        output, its ring, the public functions
 *   chardev_open.c   from a spec to open descriptors; closing them
 *   chardev_input.c  input, as much as the user has room for; the terminal's escape key; the state
 *   chardev_peer.c   clients that come and go: UNIX socket and pty
 *
 * The descriptor of a client is kept twice, once for each direction, so that each has its own watch
 * in the loop. The input lock is held while the loop's thread handles an event of the input or of a
 * client, calls to the user included; it is taken before any other. The other lock is held for a
 * moment and never across a call to the user.
 */
#ifndef VMM_DEV_CHARDEV_IMPL_H
#define VMM_DEV_CHARDEV_IMPL_H

#include <pthread.h>
#include <sys/types.h>

#include "vmm/dev/chardev.h"

enum chardev_kind { CHARDEV_NONE, CHARDEV_STDIO, CHARDEV_FILE, CHARDEV_PTY, CHARDEV_UNIX };

/* How to write without waiting. */
enum out_how {
	OUT_PLAIN,    /* never waits: a file, /dev/null */
	OUT_NONBLOCK, /* our own description, O_NONBLOCK */
	OUT_SOCKET,   /* send() with MSG_DONTWAIT */
	OUT_POLL,     /* shared with others: ask poll(), then one byte */
};

struct chardev {
	/* constant after chardev_open() */
	enum chardev_kind kind;
	char *name;
	const char *path; /* inside name; of a file or socket */
	struct loop *loop;
	struct chardev_user user;
	dev_t path_dev; /* our socket's file, so that we remove no other */
	ino_t path_ino;
	bool path_ours;
	bool terminal_raw; /* standard input is a terminal, in raw mode */

	/* the loop's thread, with the input lock held */
	pthread_mutex_t input_lock;
	int listen_fd; /* UNIX socket */
	int timer_fd;  /* looks again for what cannot be waited for */
	int in_fd;
	bool in_watched, in_eof;
	bool in_always; /* in_fd is a file: always readable, and epoll does not take it */
	bool in_escape; /* Ctrl-A was typed */
	size_t stash_at, stash_len; /* input that was read and not taken yet: [at, len) */
	size_t stash_loaded; /* how many of them came by chardev_load(), if none was taken yet */
	uint8_t stash[CHARDEV_INPUT_BYTES];

	pthread_mutex_t lock; /* guards all below */
	int out_fd;           /* -1: nothing to write to */
	enum out_how out_how;
	bool peer;        /* somebody listens: hold back rather than drop */
	bool out_posted;  /* the loop has been asked to empty the ring */
	bool out_watched; /* the loop waits for out_fd to take more */
	bool out_failed;  /* a write failed for good; the loop has been told */
	bool out_warned;
	size_t ring_at, ring_len;
	uint8_t ring[CHARDEV_RING_BYTES];
};

/* chardev_open.c: close what is open and owned. */
void chardev_close_fds(struct chardev *c);

/* chardev.c. Loop's thread: stop writing to out_fd, close it if it is ours, and say "drained". */
void chardev_drop_output(struct chardev *c);
/* Loop's thread: from now on there is a peer at out_fd. */
void chardev_take_output(struct chardev *c, int out_fd, enum out_how how);
/* Is out_fd ours to close (not descriptor 1)? */
bool chardev_owns_output(const struct chardev *c);

/* chardev_input.c, loop's thread, input lock held: begin or go on to read in_fd. */
void chardev_watch_input(struct chardev *c);
void chardev_unwatch_input(struct chardev *c);
/* A posted call: take the lock, hand over what waits, then read on. */
void chardev_input_go(void *ctx, uint32_t events);

/* chardev_peer.c. Posted once at the start: watch for what the kind needs. */
void chardev_start(void *ctx, uint32_t events);
/* Posted: a write said that the other side is gone. */
void chardev_output_lost(void *ctx, uint32_t events);
/* Loop's thread, input lock held: a read said so. */
void chardev_input_lost(struct chardev *c);

#endif
