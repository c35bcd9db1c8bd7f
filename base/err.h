/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors for people.
 *
 * Functions return 0 or -errno. One that can fail for a reason that errno cannot tell takes, as its
 * last argument, a `struct err *` (NULL allowed: the caller does not want words). The message says
 * what failed, why, and where it helps what to do, in the words of the user's task and without a
 * final full stop.
 *
 * The *first* error of a chain is the one that counts: err_set() on an error that is already set
 * keeps the old one, so that a clean-up that fails too does not hide the cause.
 *
 * Threads: a struct err belongs to one thread at a time; nothing here is shared.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#define ERR_MSG_BYTES 512

struct err {
	int code; /* positive errno; 0 = no error */
	char msg[ERR_MSG_BYTES];
};

#define ERR_INIT      \
	{             \
		0, "" \
	}

/* Record an error unless one is there already. `code` is a positive errno. Returns -code. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same with ": strerror(code)" at the end of the message. */
int err_sys(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put "prefix: " before the message of an error that is set (the name of the failing step). */
void err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void err_clear(struct err *e);

#endif
