/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the bytes of a serial port come from and go to.
 *
 *   stdio       standard input and output; a terminal is put into raw mode, Ctrl-A x means "quit"
 *   file:PATH   output only; the file is created (0644) or emptied
 *   pty         a new pseudo terminal; its name is reported; clients may come and go
 *   unix:PATH   a listening UNIX stream socket (0600); one client at a time
 *   none        no input, output is dropped
 *
 * Output never blocks the caller. It goes out directly while nothing is queued, else into a ring of
 * CHARDEV_RING_BYTES that the loop's thread empties. A peer that is there but slow lets the ring
 * fill up: chardev_room() tells, and the user holds back. Where nobody listens (no client of the
 * socket or of the pty) room never ends and the oldest bytes make way.
 *
 * Input is read only as far as the user has room for it, so that no byte is lost; but a terminal in
 * raw mode is always read, or Ctrl-A x would do nothing just when the guest takes no input: what is
 * typed ahead is kept up to CHARDEV_INPUT_BYTES, and what is typed past that is dropped.
 *
 * Input that the guest has not taken moves with it: what has been read, and what waits to be read
 * when the state is saved, up to CHARDEV_INPUT_BYTES. What comes later stays here, unread.
 *
 * Threads: everything but the handlers may be called from any thread. The handlers run in the
 * loop's thread and may call any function here but chardev_free() and those for the state: these
 * wait for a handler that runs. chardev_free() wants the loop's thread to have ended: the loop is
 * never stepped again.
 */
#ifndef VMM_DEV_CHARDEV_H
#define VMM_DEV_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "base/loop.h"

#define CHARDEV_RING_BYTES 65536
#define CHARDEV_INPUT_MAX  64 /* bytes that input() gets at most in one call */
/* More than the kernel keeps of what a client of a UNIX socket has sent, by its default limits. */
#define CHARDEV_INPUT_BYTES 262144

struct chardev;

struct chardev_user {
	void *ctx;
	/* How many bytes of input would you take now? After a 0 input stops until _want_input(). */
	size_t (*room)(void *ctx);
	/* Input. Returns how many of the bytes were taken; the rest is offered again later. */
	size_t (*input)(void *ctx, const uint8_t *data, size_t len);
	/* chardev_room() may have grown. */
	void (*drained)(void *ctx);
	/* The user typed Ctrl-A x on the terminal. May be NULL. */
	void (*quit)(void *ctx);
};

/*
 * Open the back-end that `spec` names. -EINVAL for a spec that is none (the message lists them),
 * -ENAMETOOLONG, -EADDRINUSE and the system's errors, all with a message. The first input may come
 * as soon as the loop runs. With stdio or a FIFO, SIGPIPE is ignored from here on.
 */
int chardev_open(struct chardev **out, const char *spec, struct loop *loop,
		 const struct chardev_user *user, struct err *e);
/* Restores the terminal, removes the socket, gives queued output a last short chance. NULL is fine.
 */
void chardev_free(struct chardev *c);

/* "stdio", "file:PATH", "pty:/dev/pts/N", "unix:PATH", "none". Valid until chardev_free(). */
const char *chardev_name(const struct chardev *c);

/* Put the terminal back as it was. Idempotent; fit for a signal handler. */
void chardev_restore_terminal(struct chardev *c);

/* Take bytes for output. More than chardev_room() at a time: what does not fit is dropped. */
void chardev_write(struct chardev *c, const uint8_t *data, size_t len);
/* Bytes that chardev_write() takes now; SIZE_MAX where output is never held back. */
size_t chardev_room(struct chardev *c);
/* Write out what can be written without waiting. */
void chardev_flush(struct chardev *c);
/* room() is above 0 again. -ENOMEM: not noted, call again. */
int chardev_want_input(struct chardev *c);

/* The state: input on its way to the guest, oldest first. */
struct chardev_state {
	uint32_t input_bytes;
	uint8_t input[CHARDEV_INPUT_BYTES];
};

extern const struct field_table chardev_table;

/*
 * While the user takes no input. What is saved stays here too, for a user that goes on after all.
 * What is loaded comes before anything that waits here, and takes the place of what was loaded
 * before. Call chardev_want_input() when the user takes input again.
 */
void chardev_save(struct chardev *c, struct chardev_state *out);
void chardev_load(struct chardev *c, const struct chardev_state *st);

#endif
