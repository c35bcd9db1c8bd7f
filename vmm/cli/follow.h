/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `ferry migrate` and `ferry save` have in common: they ask a guest's process how it goes,
 * show that, and hand on Ctrl-C as the wish to cancel. One thread.
 */
#ifndef VMM_CLI_FOLLOW_H
#define VMM_CLI_FOLLOW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/cli/client.h"
#include "vmm/cli/progress.h"

struct follow {
	const char *target; /* the guest, as the user names it */
	const char *what;   /* what is followed: "migration", "save" */
	struct client *client;
	int signal_fd;
	bool json;
	bool terminal, line_open; /* a live line without its newline is on the terminal */
	bool cancelling;          /* the user has asked for it */
	uint64_t next_line_ns, cancelled_ns;
	json_t *answer; /* the latest query-migrate, and what was read from it */
	struct progress now;
};

/*
 * Connects, and takes SIGINT, SIGTERM and SIGHUP over. follow_close() in any case, also if it was
 * never called: then .signal_fd is -1 and all else 0.
 */
int follow_open(struct follow *f, const char *target, const char *what, bool json, struct err *e);
void follow_close(struct follow *f);

/* Asks once; f->now is what was answered. */
int follow_ask(struct follow *f, struct err *e);
/*
 * Waits for poll_ms or a signal. The first that ends processes cancels; a later one, or an end that
 * does not come, gives up with a message.
 */
int follow_wait(struct follow *f, int poll_ms, struct err *e);

/* Asks for the cancelling; follow_wait() then bounds how long its end may take. */
int follow_cancel(struct follow *f, struct err *e);
/*
 * It could not be followed to its end (rc, why), which may be any: *e says so, unless the process
 * told of it before it ended itself. Returns the exit status.
 */
int follow_lost(struct follow *f, int rc, const struct err *why, struct err *e);

/*
 * Shows how it goes: on a terminal a line that is overwritten, else a line or an object a second.
 * False: it is not time yet.
 */
typedef void follow_line_fn(const struct progress *p, char *out, size_t out_bytes);
bool follow_show(struct follow *f, follow_line_fn *line_of);
void follow_end_line(struct follow *f);
/* The answer as one line of JSON; error: NULL, or why it could not be followed to its end. */
void follow_json(struct follow *f, const char *event, const char *error);

#endif
