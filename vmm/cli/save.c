/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "migration/save.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/client.h"
#include "vmm/cli/progress.h"
#include "vmm/ctl/qmp.h"

#define POLL_MS 50
#define LINE_MS 1000 /* how often a plain line or a JSON object is printed */
#define QUIT_MS 15000

struct save_options {
	bool json, live, go_on, quit, direct_io;
	uint64_t n_threads;
};

/* One run of the command. */
struct saving {
	const struct save_options *opts;
	const char *target;
	char path[PATH_MAX];
	struct client *client;
	int signal_fd;
	bool terminal, line_open, cancelled;
	uint64_t next_line_ns;
	json_t *answer; /* the latest query-migrate, and what was read from it */
	struct progress now;
};

static int set_json(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct save_options *)out)->json = true;
	return 0;
}

static int set_live(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct save_options *)out)->live = true;
	return 0;
}

static int set_go_on(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct save_options *)out)->go_on = true;
	return 0;
}

static int set_quit(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct save_options *)out)->quit = true;
	return 0;
}

static int set_direct_io(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct save_options *)out)->direct_io = true;
	return 0;
}

static int set_threads(void *out, const char *value, struct err *e)
{
	uint64_t *n = &((struct save_options *)out)->n_threads;

	if (number_parse(value, MIG_FILE_THREADS_MAX, n) || *n < 1)
		return err_set(e, EINVAL, "expected a number from 1 to %d", MIG_FILE_THREADS_MAX);
	return 0;
}

static const struct opt save_table[] = {
	{"live", NULL, "the guest runs meanwhile, and goes on (unless --quit)", set_live},
	{"cont", NULL, "the guest goes on when it is saved (default: it stays paused)", set_go_on},
	{"quit", NULL, "end the guest's process when it is saved", set_quit},
	{"direct-io", NULL, "write past the page cache", set_direct_io},
	{"threads", "N", "threads that write (default 2)", set_threads},
	{"json", NULL, "progress and result as one JSON object a line", set_json},
	{NULL, NULL, NULL, NULL},
};

/* The guest's process has another working directory, perhaps. */
static int absolute_path(const char *path, char out[PATH_MAX], struct err *e)
{
	char *copy = strdup(path), *again = strdup(path), *dir = NULL;
	int rc = 0;

	if (!copy || !again)
		rc = err_set(e, ENOMEM, "out of memory");
	if (!rc && (!*path || path[strlen(path) - 1] == '/'))
		rc = err_set(e, EINVAL, "'%.200s' is no name of a file", path);
	if (!rc) {
		dir = realpath(dirname(copy), NULL);
		if (!dir)
			rc = err_sys(e, errno, "cannot save to %.200s", path);
	}
	if (!rc && snprintf(out, PATH_MAX, "%s%s%s", dir, strcmp(dir, "/") ? "/" : "",
			    basename(again)) >= PATH_MAX)
		rc = err_set(e, ENAMETOOLONG, "the name of the file is too long");
	free(dir);
	free(copy);
	free(again);
	return rc;
}

/* ---- what is shown ---- */

static void end_live_line(struct saving *s)
{
	if (s->line_open)
		(void)fputc('\n', stdout);
	s->line_open = false;
	(void)fflush(stdout);
}

static void print_json(struct saving *s, const char *event, const char *error)
{
	json_t *o = s->answer ? json_copy(s->answer) : json_object();

	if (o && !json_object_set_new(o, "event", json_string(event)) &&
	    (!error || !json_object_set_new(o, "error", qmp_text(error)))) {
		(void)json_dumpf(o, stdout, JSON_COMPACT);
		(void)fputc('\n', stdout);
		(void)fflush(stdout);
	}
	json_decref(o);
}

static void show(struct saving *s)
{
	uint64_t now_ns = clock_mono_ns(), done;
	char size[32], rate[32];

	if (!s->terminal && now_ns < s->next_line_ns)
		return;
	s->next_line_ns = now_ns + LINE_MS * NS_PER_MS;
	if (s->opts->json) {
		print_json(s, "progress", NULL);
		return;
	}
	done = s->now.ram_total ? (s->now.ram_total - s->now.remaining) * 100 / s->now.ram_total
				: 0;
	(void)printf("%s%s %3llu%%, %s written, %s/s%s", s->terminal ? "\r" : "", s->now.status,
		     (unsigned long long)done, size_text(s->now.transferred, size, sizeof(size)),
		     size_text(s->now.bytes_s, rate, sizeof(rate)), s->terminal ? "\033[K" : "\n");
	s->line_open = s->terminal;
	(void)fflush(stdout);
}

static int conclude(struct saving *s)
{
	const char *why = s->now.error ? s->now.error : "no reason given";
	char size[32];

	end_live_line(s);
	if (s->opts->json)
		print_json(s, "done", NULL);
	if (!strcmp(s->now.status, "completed")) {
		if (!s->opts->json)
			(void)printf("saved in %s: %s in %.3f s, %llu pages, %llu zero; dark for "
				     "%.3f ms\n",
				     s->path, size_text(s->now.transferred, size, sizeof(size)),
				     (double)s->now.total_ns / (double)NS_PER_SEC,
				     (unsigned long long)s->now.normal_pages,
				     (unsigned long long)s->now.zero_pages,
				     (double)s->now.downtime_ns / (double)NS_PER_MS);
		return EXIT_OK;
	}
	(void)fprintf(stderr, "ferry: the guest is not saved: %s\n", why);
	return s->cancelled && !strcmp(s->now.status, "cancelled") ? EXIT_CANCELLED : EXIT_FAILED;
}

/* ---- following it ---- */

static int ask(struct saving *s, struct err *e)
{
	json_t *answer;
	int rc = client_call(s->client, "query-migrate", NULL, &answer, e);

	if (rc)
		return rc;
	json_decref(s->answer);
	s->answer = answer;
	progress_read(&s->now, answer);
	return 0;
}

static int wait_a_little(struct saving *s, struct err *e)
{
	struct pollfd p = {.fd = s->signal_fd, .events = POLLIN};
	struct signalfd_siginfo info;

	if (poll(&p, 1, POLL_MS) <= 0 || read(s->signal_fd, &info, sizeof(info)) != sizeof(info))
		return 0;
	s->cancelled = true;
	return client_call(s->client, "migrate_cancel", NULL, NULL, e);
}

static int follow(struct saving *s, struct err *e)
{
	int rc = client_call(s->client, "x-ferry-save",
			     json_pack("{s:s,s:b,s:b,s:I,s:b}", "path", s->path, "live",
				       s->opts->live, "go-on", s->opts->go_on, "multifd-channels",
				       (json_int_t)s->opts->n_threads, "direct-io",
				       s->opts->direct_io),
			     NULL, e);

	if (!rc)
		rc = ask(s, e);
	while (!rc && !progress_ended(&s->now)) {
		show(s);
		rc = wait_a_little(s, e);
		if (!rc)
			rc = ask(s, e);
	}
	end_live_line(s);
	if (rc)
		return EXIT_FAILED;
	rc = conclude(s);
	if (rc || !s->opts->quit)
		return rc;
	rc = client_call(s->client, "quit", NULL, NULL, e);
	if (!rc)
		rc = client_wait_end(s->client, QUIT_MS, e);
	return rc ? EXIT_FAILED : EXIT_OK;
}

static int watch_signals(struct err *e)
{
	sigset_t set;
	int fd;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_sys(e, errno, "cannot watch for signals") : fd;
}

int cli_save(int argc, char *const *argv)
{
	struct save_options o = {.n_threads = MIG_FILE_THREADS_DEFAULT};
	struct opts_args args;
	struct err e = ERR_INIT;
	int rc, status = cli_parse("save", save_table, argc, argv, 2, &o, &args);
	struct saving s = {.opts = &o, .signal_fd = -1};

	if (status >= 0)
		return status;
	if (o.go_on && o.quit) {
		(void)err_set(&e, EINVAL, "--cont and --quit do not go together");
		return cli_usage_error("save", &e);
	}
	o.go_on = o.go_on || (o.live && !o.quit);
	s.target = args.arg[0];
	s.terminal = !o.json && isatty(STDOUT_FILENO);
	status = EXIT_FAILED;
	rc = absolute_path(args.arg[1], s.path, &e);
	if (!rc)
		rc = client_check_text(s.path, &e);
	if (!rc)
		rc = client_open(&s.client, s.target, CLIENT_TIMEOUT_MS, &e);
	if (!rc)
		s.signal_fd = watch_signals(&e);
	if (!rc && s.signal_fd >= 0)
		status = follow(&s, &e);
	if (e.code && o.json)
		print_json(&s, "done", e.msg);
	if (e.code)
		(void)cli_failed(&e);
	client_close(s.client);
	if (s.signal_fd >= 0)
		(void)close(s.signal_fd);
	json_decref(s.answer);
	return cli_finish(status);
}
