/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A QMP client: one connection, one command at a time, every wait bounded.
 *
 * Of the events that come between only those of the process's end are kept: who wants to follow
 * something asks for its state. The peer is not trusted with the terminal: control characters in
 * its strings become '?'. Threads: one at a time.
 */
#ifndef VMM_CLI_CLIENT_H
#define VMM_CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

#define CLIENT_TIMEOUT_MS 10000
#define CLIENT_LINE_MAX   (1024u * 1024)

struct client;

/*
 * Connect to a guest by name or path of its socket, read the greeting, negotiate. -ENOENT (no such
 * guest), -ECONNREFUSED (its process is gone), -ETIMEDOUT ("does not answer"), -EPROTO; with a
 * message. timeout_ms bounds each step, now and later.
 */
int client_open(struct client **out, const char *target, int timeout_ms, struct err *e);
void client_close(struct client *c);

/* Can the text be sent (is it UTF-8)? -EINVAL with a message. */
int client_check_text(const char *text, struct err *e);
/*
 * Send a command and wait for its reply. Steals args (NULL = none). *ret (ret may be NULL) gets a
 * new reference. -EREMOTEIO with the reply's own text if the command was refused, else as above.
 */
int client_call(struct client *c, const char *command, json_t *args, json_t **ret, struct err *e);

/* Is this error of client_call() the end of the connection: the other process is gone? */
bool client_lost(int rc);
/* What the process has said of its end, between the replies to commands. */
struct client_last_word {
	bool ends;        /* it is about to end, ... */
	bool guest_ended; /* ... because its guest did */
	char outcome[24]; /* how the migration or save went that was under way then; "": not said */
};
const struct client_last_word *client_last_word(const struct client *c);
/* Wait until the process at the other end has closed the connection. -ETIMEDOUT. */
int client_wait_end(struct client *c, int timeout_ms, struct err *e);

/* Of the process at the other end; 0 if unknown. */
pid_t client_pid(const struct client *c);
const char *client_path(const struct client *c);

#endif
