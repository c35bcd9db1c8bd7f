/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/trace.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "migration/stop.h"

#define CPU_EVERY  5 /* samples */
#define LINE_BYTES 16384

struct trace {
	/* owner */
	int fd;
	struct mig_stop stop;
	bool running;
	pthread_t thread;
	/* constant while the thread runs */
	const char *role;
	void (*status)(void *object, struct mig_status *out);
	void *object;
	/* the thread's */
	bool broken; /* the file takes nothing any more */
	size_t len;
	char line[LINE_BYTES];
};

static const struct {
	const char *name;
	size_t offset; /* of a uint64_t in struct mig_status */
} figures[] = {
	{"pass", offsetof(struct mig_status, passes)},
	{"bytes", offsetof(struct mig_status, transferred_bytes)},
	{"remaining_bytes", offsetof(struct mig_status, remaining_bytes)},
	{"normal_pages", offsetof(struct mig_status, normal_pages)},
	{"zero_pages", offsetof(struct mig_status, zero_pages)},
	{"free_pages", offsetof(struct mig_status, free_pages)},
	{"dirty_pages_per_s", offsetof(struct mig_status, dirty_pages_per_s)},
	{"bytes_per_s", offsetof(struct mig_status, bytes_per_s)},
	{"predicted_downtime_ns", offsetof(struct mig_status, predicted_downtime_ns)},
	{"downtime_limit_ns", offsetof(struct mig_status, downtime_limit_ns)},
	{"syncs", offsetof(struct mig_status, syncs)},
	{"sync_ns", offsetof(struct mig_status, sync_ns_total)},
	{"protect_calls", offsetof(struct mig_status, protect_calls)},
	{"throttle_permille", offsetof(struct mig_status, throttle.most_taken)},
	{"stall_ns", offsetof(struct mig_status, throttle.stall_ns)},
	{"called_off", offsetof(struct mig_status, switchovers_called_off)},
};

static void __attribute__((format(printf, 2, 3))) say(struct trace *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (t->len >= LINE_BYTES)
		return;
	va_start(ap, fmt);
	n = vsnprintf(t->line + t->len, LINE_BYTES - t->len, fmt, ap);
	va_end(ap);
	t->len = n < 0 ? LINE_BYTES : t->len + (size_t)n;
}

/* A small file of /proc, without its '\n'. */
static bool read_small(int dir, const char *thread, const char *file, char *text, size_t room)
{
	char path[300];
	ssize_t n;
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s", thread, file);
	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, room - 1);
	(void)close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return true;
}

/* "name-tid": ns. Names are our own, and have nothing that JSON would mind. */
static void say_threads(struct trace *t)
{
	DIR *dir = opendir("/proc/self/task");
	const char *comma = "";
	struct dirent *entry;
	char name[32], times[96];

	if (!dir)
		return;
	say(t, ",\"cpu\":{");
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' ||
		    !read_small(dirfd(dir), entry->d_name, "comm", name, sizeof(name)) ||
		    !read_small(dirfd(dir), entry->d_name, "schedstat", times, sizeof(times)) ||
		    strpbrk(name, "\"\\"))
			continue;
		say(t, "%s\"%s-%s\":%llu", comma, name, entry->d_name, strtoull(times, NULL, 10));
		comma = ",";
	}
	say(t, "}");
	(void)closedir(dir);
}

static void write_line(struct trace *t)
{
	ssize_t n;

	if (t->len >= LINE_BYTES) /* more threads than a line holds: leave it out */
		return;
	n = write(t->fd, t->line, t->len);
	if (n == (ssize_t)t->len)
		return;
	log_warn("the trace of the migration ends here: %s",
		 n < 0 ? strerror(errno) : "the file takes no more");
	t->broken = true;
}

static void sample(struct trace *t, const struct mig_status *st, bool with_cpu)
{
	t->len = 0;
	say(t, "{\"t\":%" PRIu64 ",\"role\":\"%s\",\"state\":\"%s\"", clock_mono_ns(), t->role,
	    mig_state_name(st->state));
	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
		uint64_t value;

		memcpy(&value, (const char *)st + figures[i].offset, sizeof(value));
		say(t, ",\"%s\":%" PRIu64, figures[i].name, value);
	}
	if (with_cpu)
		say_threads(t);
	say(t, "}\n");
	write_line(t);
}

/* States in which nothing moves: one line is enough, however long they last. */
static bool is_quiet(enum mig_state s)
{
	return s == MIG_NONE || s == MIG_COMPLETED || s == MIG_FAILED || s == MIG_CANCELLED ||
	       s == MIG_UNDECIDED;
}

static void *tracer(void *arg)
{
	struct trace *t = arg;
	uint64_t due_ns = clock_mono_ns(), now_ns;
	enum mig_state last = MIG_NONE;
	struct mig_status st;
	bool stopped = false;

	for (unsigned n = 0; !t->broken && last != MIG_COMPLETED; n++) {
		t->status(t->object, &st);
		if (st.state != last || !is_quiet(st.state))
			sample(t, &st, n % CPU_EVERY == 0 || is_quiet(st.state));
		last = st.state;
		if (stopped) /* that was the last look */
			break;
		due_ns += TRACE_PERIOD_NS;
		now_ns = clock_mono_ns();
		if (due_ns < now_ns) /* late: none is made up for */
			due_ns = now_ns;
		stopped = mig_stop_wait(&t->stop, -1, 0, due_ns - now_ns) == -ECANCELED;
	}
	return NULL;
}

int trace_open(struct trace **out, const char *path, struct err *e)
{
	struct trace *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return err_set(e, ENOMEM, "out of memory");
	t->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (t->fd < 0) {
		rc = err_sys(e, errno, "cannot open the trace file '%s'", path);
		free(t);
		return rc;
	}
	*out = t;
	return 0;
}

void trace_begin(struct trace *t, const char *role,
		 void (*status)(void *object, struct mig_status *out), void *object)
{
	int rc;

	if (!t)
		return;
	trace_end(t);
	t->role = role;
	t->status = status;
	t->object = object;
	rc = mig_stop_init(&t->stop);
	if (!rc) {
		rc = -pthread_create(&t->thread, NULL, tracer, t);
		if (rc)
			mig_stop_free(&t->stop);
	}
	if (rc) {
		log_warn("the migration is not traced: %s", strerror(-rc));
		return;
	}
	(void)pthread_setname_np(t->thread, "trace");
	t->running = true;
}

void trace_end(struct trace *t)
{
	if (!t || !t->running)
		return;
	mig_stop_set(&t->stop);
	(void)pthread_join(t->thread, NULL);
	mig_stop_free(&t->stop);
	t->running = false;
}

void trace_close(struct trace *t)
{
	if (!t)
		return;
	trace_end(t);
	(void)close(t->fd);
	free(t);
}
