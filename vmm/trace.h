/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A trace of a migration: what its status says, 100 times a second, and what each of our threads
 * has used of the processors, every 50 ms, as lines of JSON in a file.
 *
 * Each line is one object. "t" is CLOCK_MONOTONIC in ns, so the files of both sides lie over each
 * other when both run on one host. Counters count from the migration's beginning; "cpu" has the
 * threads' times in ns since each was born.
 *
 * Threads: begin and end from one thread. In between a thread of the trace's own calls `status`.
 */
#ifndef VMM_TRACE_H
#define VMM_TRACE_H

#include "base/clock.h"
#include "base/err.h"
#include "migration/migration.h"

#define TRACE_PERIOD_NS (10 * NS_PER_MS)

struct trace;

/* Lines are appended to the file, which is made if need be. -errno with a message. */
int trace_open(struct trace **out, const char *path, struct err *e);
/* Ends what is being traced, and closes. NULL is fine. */
void trace_close(struct trace *t);

/*
 * Trace this migration from now on: status(object) is called until trace_end(). `role` is said in
 * every line. What it was before is ended. A trace that cannot go on (no memory, a full disk) says
 * so once, and the migration goes on without it. NULL: nothing happens.
 */
void trace_begin(struct trace *t, const char *role,
		 void (*status)(void *object, struct mig_status *out), void *object);
/* One last look; `object` is not used any more. NULL is fine. */
void trace_end(struct trace *t);

#endif
