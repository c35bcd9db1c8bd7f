/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "migration/save.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/follow.h"

#define POLL_MS 50
#define QUIT_MS 15000

struct save_options {
	bool json, live, auto_converge, go_on, quit, direct_io;
	uint64_t n_threads;
};

/* One run of the command. */
struct saving {
	const struct save_options *opts;
	char path[PATH_MAX];
	struct follow f;
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

static int set_auto_converge(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct save_options *)out)->auto_converge = true;
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
	{"auto-converge", NULL, "live: slow down vCPUs that write faster than the file takes it",
	 set_auto_converge},
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

static int conclude(struct saving *s)
{
	const char *why = s->f.now.error ? s->f.now.error : "no reason given";
	char size[32];

	follow_end_line(&s->f);
	if (s->opts->json)
		follow_json(&s->f, "done", NULL);
	if (!strcmp(s->f.now.status, "completed")) {
		if (!s->opts->json)
			(void)printf("saved in %s: %s in %.3f s, %llu pages, %llu zero; dark for "
				     "%.3f ms\n",
				     s->path, size_text(s->f.now.transferred, size, sizeof(size)),
				     (double)s->f.now.total_ns / (double)NS_PER_SEC,
				     (unsigned long long)s->f.now.normal_pages,
				     (unsigned long long)s->f.now.zero_pages,
				     (double)s->f.now.downtime_ns / (double)NS_PER_MS);
		return EXIT_OK;
	}
	(void)fprintf(stderr, "ferry: the guest is not saved: %s\n", why);
	return s->f.cancelling && !strcmp(s->f.now.status, "cancelled") ? EXIT_CANCELLED
									: EXIT_FAILED;
}

static json_t *arguments(const struct saving *s)
{
	json_t *args = json_pack("{s:s,s:b,s:b,s:I,s:b}", "path", s->path, "live", s->opts->live,
				 "go-on", s->opts->go_on, "multifd-channels",
				 (json_int_t)s->opts->n_threads, "direct-io", s->opts->direct_io);

	/* Not given: as the capability of that name says. */
	if (args && s->opts->auto_converge &&
	    json_object_set_new(args, "auto-converge", json_true())) {
		json_decref(args);
		args = NULL;
	}
	return args;
}

/* Returns the exit status; *e is set if the end of the save has not been seen. */
static int save(struct saving *s, struct err *e)
{
	struct err why = ERR_INIT;
	int rc = client_call(s->f.client, "x-ferry-save", arguments(s), NULL, &why);

	if (rc == -EREMOTEIO) { /* refused: nothing has begun */
		*e = why;
		return EXIT_FAILED;
	}
	if (!rc)
		rc = follow_ask(&s->f, &why);
	while (!rc && !progress_ended(&s->f.now)) {
		(void)follow_show(&s->f, progress_save_line);
		rc = follow_wait(&s->f, POLL_MS, &why);
		if (!rc)
			rc = follow_ask(&s->f, &why);
	}
	follow_end_line(&s->f);
	if (client_lost(rc)) {
		err_clear(&why);
		(void)err_set(&why, ECONNRESET,
			      "the guest's process ended before it said that the guest is saved: "
			      "if there is a file, it is whole, but perhaps an earlier one");
	}
	if (rc)
		return follow_lost(&s->f, rc, &why, e);
	rc = conclude(s);
	if (rc || !s->opts->quit)
		return rc;
	if (s->f.cancelling) {
		(void)fprintf(stderr, "ferry: too late to cancel: the guest is saved; its process "
				      "stays all the same\n");
		return EXIT_FAILED;
	}
	rc = client_call(s->f.client, "quit", NULL, NULL, e);
	if (!rc)
		rc = client_wait_end(s->f.client, QUIT_MS, e);
	return rc ? EXIT_FAILED : EXIT_OK;
}

/* Returns the exit status. */
static int open_and_save(struct saving *s, const char *target, const char *path, struct err *e)
{
	int status = EXIT_FAILED;

	if (!absolute_path(path, s->path, e) && !client_check_text(s->path, e) &&
	    !follow_open(&s->f, target, "save", s->opts->json, e))
		status = save(s, e);
	if (e->code && s->opts->json)
		follow_json(&s->f, "done", e->msg);
	if (e->code)
		(void)cli_failed(e);
	follow_close(&s->f);
	return cli_finish(status);
}

int cli_save(int argc, char *const *argv)
{
	struct save_options o = {.n_threads = MIG_FILE_THREADS_DEFAULT};
	struct opts_args args;
	struct err e = ERR_INIT;
	int status = cli_parse("save", save_table, argc, argv, 2, &o, &args);
	struct saving s = {.opts = &o, .f = {.signal_fd = -1}};

	if (status >= 0)
		return status;
	if (o.go_on && o.quit) {
		(void)err_set(&e, EINVAL, "--cont and --quit do not go together");
		return cli_usage_error("save", &e);
	}
	if (o.auto_converge && !o.live) {
		(void)err_set(&e, EINVAL, "--auto-converge goes with --live");
		return cli_usage_error("save", &e);
	}
	o.go_on = o.go_on || (o.live && !o.quit);
	return open_and_save(&s, args.arg[0], args.arg[1], &e);
}
