/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control protocol (QMP) of one connection: bytes in, bytes out, no socket.
 *
 * A connection begins with a greeting in its output. Until the client has sent qmp_capabilities no
 * other command is known. A message is one JSON object; it ends with its closing brace or, whatever
 * it is, with the end of its line. Each message gets exactly one reply, in order, that repeats its
 * "id"; events come between replies, to clients that have negotiated only.
 *
 * Nothing of what a client sends is trusted. A message is at most QMP_LINE_MAX bytes (a longer one
 * is answered and ends the connection), nested at most QMP_DEPTH_MAX deep, and without duplicate
 * keys. A message that is not understood is answered with an error and the connection goes on.
 * Arguments are checked against the command's list before it runs: unknown, missing, wrong type.
 * Output that the client does not take is bounded by QMP_OUT_MAX; past that it is dropped.
 *
 * qmp_capabilities and query-commands are answered here, all others by the table.
 * Threads: a connection belongs to one thread; the table is constant.
 */
#ifndef VMM_CTL_QMP_H
#define VMM_CTL_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define QMP_LINE_MAX  (64u * 1024)
#define QMP_OUT_MAX   (256u * 1024)
#define QMP_DEPTH_MAX 64
#define QMP_ARGS_MAX  16

enum qmp_type { QMP_STRING, QMP_UINT, QMP_BOOL, QMP_LIST };

struct qmp_arg {
	const char *name; /* NULL ends a command's list */
	enum qmp_type type;
	bool optional;
};

/*
 * Run a command. `args` is an object that matches the command's list. On success *ret may be set to
 * a new reference to what is returned (left NULL: an empty object). -errno with the reason in *e.
 */
typedef int qmp_command_fn(void *ctx, const json_t *args, json_t **ret, struct err *e);

struct qmp_command {
	const char *name;
	qmp_command_fn *run;
	struct qmp_arg args[QMP_ARGS_MAX + 1];
};

struct qmp_table {
	const struct qmp_command *commands;
	size_t n_commands;
	void *ctx; /* for the commands */
};

struct qmp_conn;

/* A connection with the greeting in its output. The table must outlive it. -ENOMEM. */
int qmp_conn_new(struct qmp_conn **out, const struct qmp_table *table);
void qmp_conn_free(struct qmp_conn *c);

/* Bytes from the client. Ignored once the connection is closing. */
void qmp_input(struct qmp_conn *c, const char *data, size_t len);
/* The client sends no more: what is left of a line counts as a message; then it is closing. */
void qmp_input_end(struct qmp_conn *c);

/* An event for the client (borrowed data, NULL = none). Does nothing before it has negotiated. */
void qmp_event(struct qmp_conn *c, const char *name, const json_t *data);

/* What is to be sent, *len bytes; valid until the next call. qmp_sent() forgets the first n. */
const char *qmp_output(const struct qmp_conn *c, size_t *len);
void qmp_sent(struct qmp_conn *c, size_t n);

/* Has the client said qmp_capabilities? */
bool qmp_negotiated(const struct qmp_conn *c);
/* No more input is wanted: close when the output is sent. */
bool qmp_closing(const struct qmp_conn *c);
/* The client took too long to take its output (or memory ran out): close now. */
bool qmp_dropped(const struct qmp_conn *c);

/*
 * A JSON string of any bytes: those that are not UTF-8 (a file's name, a message cut at its bound)
 * become '?'. NULL only without memory.
 */
json_t *qmp_text(const char *text);
/* An integer of a uint64_t; JSON's end at INT64_MAX here, larger ones stay there. */
json_t *qmp_uint(uint64_t v);

/* {"version": ...} of the greeting and query-version. */
json_t *qmp_version(void);

#endif
