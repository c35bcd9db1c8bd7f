/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "migration/migration.h"
#include "migration/uri.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/client.h"
#include "vmm/cli/progress.h"
#include "vmm/ctl/qmp.h"

#define POLL_MS        100  /* how often the guest is asked */
#define LINE_MS        1000 /* how often a plain line or a JSON object is printed */
#define CANCEL_WAIT_MS 30000
#define SECOND_MS      500 /* signals closer together are one wish (timeout(1) sends two) */
#define LINE_BYTES     256

struct migrate_options {
	bool json, hold, compress, verify, auto_converge;
	uint64_t limit_ms, bandwidth, channels, converge_s;
	json_t *free_pages; /* NULL: none */
};

/* One run of the command. */
struct follow {
	const struct migrate_options *opts;
	const char *target, *uri;
	struct client *client;
	int signal_fd;
	bool terminal, line_open; /* a live line without its newline is on the terminal */
	bool hinted, hinted_least, hinted_hold, cancelling;
	uint64_t next_line_ns, cancelled_ns;
	json_t *answer; /* the latest query-migrate, and what was read from it */
	struct progress now;
};

static int set_json(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct migrate_options *)out)->json = true;
	return 0;
}

static int set_hold(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct migrate_options *)out)->hold = true;
	return 0;
}

static int set_compress(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct migrate_options *)out)->compress = true;
	return 0;
}

static int set_verify(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct migrate_options *)out)->verify = true;
	return 0;
}

static int set_limit(void *out, const char *value, struct err *e)
{
	struct migrate_options *o = out;

	if (number_parse(value, MIG_DOWNTIME_LIMIT_MS_MAX, &o->limit_ms) || !o->limit_ms)
		return err_set(e, EINVAL, "expected milliseconds from 1 to %d",
			       MIG_DOWNTIME_LIMIT_MS_MAX);
	return 0;
}

static int set_bandwidth(void *out, const char *value, struct err *e)
{
	struct migrate_options *o = out;

	if (size_parse(value, &o->bandwidth) || o->bandwidth > INT64_MAX)
		return err_set(e, EINVAL,
			       "expected bytes a second with K, M or G, like 100M; 0: no limit");
	return 0;
}

static int set_channels(void *out, const char *value, struct err *e)
{
	struct migrate_options *o = out;

	if (number_parse(value, MIG_CHANNELS_MAX, &o->channels) || !o->channels)
		return err_set(e, EINVAL, "expected a number from 1 to %d", MIG_CHANNELS_MAX);
	return 0;
}

/* "GPA+LEN,GPA+LEN" */
static int set_free_pages(void *out, const char *value, struct err *e)
{
	struct migrate_options *o = out;
	char text[RANGE_TEXT_BYTES];
	uint64_t gpa, bytes;
	json_t *item;

	if (!o->free_pages)
		o->free_pages = json_array();
	for (size_t len; *value; value += len + (value[len] == ',')) {
		len = strcspn(value, ",");
		(void)snprintf(text, sizeof(text), "%.*s", (int)(len < sizeof(text) ? len : 0),
			       value);
		if (range_parse(text, &gpa, &bytes) || gpa > INT64_MAX || bytes > INT64_MAX)
			return err_set(e, EINVAL,
				       "expected address and length, like 0x40000000+512M");
		item = json_pack("{s:I,s:I}", "gpa", (json_int_t)gpa, "bytes", (json_int_t)bytes);
		if (!item || json_array_append_new(o->free_pages, item))
			return err_set(e, ENOMEM, "out of memory");
	}
	return 0;
}

static int set_auto_converge(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct migrate_options *)out)->auto_converge = true;
	return 0;
}

static int set_converge_time(void *out, const char *value, struct err *e)
{
	struct migrate_options *o = out;

	if (number_parse(value, MIG_CONVERGE_SECONDS_MAX, &o->converge_s) || !o->converge_s)
		return err_set(e, EINVAL, "expected seconds from 1 to %d",
			       MIG_CONVERGE_SECONDS_MAX);
	o->auto_converge = true;
	return 0;
}

static const struct opt migrate_table[] = {
	{"downtime-limit", "MS", "the guest may stand still for so long (default 300)", set_limit},
	{"max-bandwidth", "SIZE", "bytes a second, with K, M or G (default: no limit)",
	 set_bandwidth},
	{"channels", "N", "connections, 1 to 16 (default 1)", set_channels},
	{"compress", NULL, "compress memory by zstd while that makes it shorter", set_compress},
	{"free-pages", "GPA+LEN,...", "what the guest does not need of its RAM: not sent",
	 set_free_pages},
	{"verify", NULL, "compare all memory on both sides before the guest goes on there",
	 set_verify},
	{"pause-before-switchover", NULL, "wait, the guest paused, for 'ferry continue GUEST'",
	 set_hold},
	{"auto-converge", NULL, "slow down vCPUs that write faster than it can be sent",
	 set_auto_converge},
	{"converge-time", "SECONDS", "the same, by as much as getting done in this time needs",
	 set_converge_time},
	{"json", NULL, "progress and result as one JSON object a line", set_json},
	{NULL, NULL, NULL, NULL},
};

/* ---- what is shown ---- */

static void end_live_line(struct follow *f)
{
	if (f->line_open)
		(void)fputc('\n', stdout);
	f->line_open = false;
	(void)fflush(stdout);
}

/* error: NULL, or why this command could not follow the migration to its end. */
static void print_json(struct follow *f, const char *event, const char *error)
{
	json_t *o = f->answer ? json_copy(f->answer) : json_object();

	if (o && !json_object_set_new(o, "event", json_string(event)) &&
	    (!error || !json_object_set_new(o, "error", qmp_text(error)))) {
		(void)json_dumpf(o, stdout, JSON_COMPACT);
		(void)fputc('\n', stdout);
		(void)fflush(stdout);
	}
	json_decref(o);
}

static void hint_least(struct follow *f)
{
	if (f->hinted_least || !progress_below_least(&f->now))
		return;
	f->hinted_least = true;
	end_live_line(f);
	(void)fprintf(stderr,
		      "ferry: cannot get below about %.0f ms of downtime here, whatever the guest "
		      "writes; the limit is %.0f ms. A larger --downtime-limit lets the guest "
		      "move; Ctrl-C cancels.\n",
		      (double)(f->now.least_ns / NS_PER_MS + 1),
		      (double)(f->now.limit_ns / NS_PER_MS));
}

static void hint_hold(struct follow *f)
{
	if (f->hinted_hold || strcmp(f->now.status, "pre-switchover") != 0)
		return;
	f->hinted_hold = true;
	end_live_line(f);
	(void)fprintf(stderr,
		      "ferry: the guest is paused and waits for its switchover: 'ferry continue "
		      "%s' lets it go on, Ctrl-C cancels.\n",
		      f->target);
}

static void hint(struct follow *f)
{
	hint_least(f);
	if (f->hinted || f->opts->auto_converge || !progress_stuck(&f->now))
		return;
	f->hinted = true;
	end_live_line(f);
	(void)fprintf(stderr,
		      "ferry: the guest writes memory as fast as it can be sent: it will not get "
		      "done like this. --auto-converge would slow it down for that; more bandwidth "
		      "or a larger --downtime-limit would help; Ctrl-C cancels.\n");
}

/* Room for a line that does not wrap, or it could not be overwritten. */
static size_t fitting(size_t room)
{
	struct winsize w;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) || !w.ws_col || w.ws_col > room)
		return room;
	return w.ws_col;
}

static void show(struct follow *f)
{
	char line[LINE_BYTES];
	uint64_t now_ns = clock_mono_ns();

	if (!f->opts->json)
		hint_hold(f);
	if (!f->terminal && now_ns < f->next_line_ns)
		return;
	f->next_line_ns = now_ns + LINE_MS * NS_PER_MS;
	if (f->opts->json) {
		print_json(f, "progress", NULL);
		return;
	}
	progress_line(&f->now, line, f->terminal ? fitting(sizeof(line)) : sizeof(line));
	if (f->terminal)
		(void)printf("\r%s\033[K", line);
	else
		(void)printf("%s\n", line);
	f->line_open = f->terminal;
	(void)fflush(stdout);
	hint(f);
}

static void explain_undecided(const struct follow *f)
{
	(void)fprintf(
		stderr,
		"ferry: undecided: %s\n"
		"The connection broke in the middle of the handover. The guest is stopped here "
		"and never runs here again, so that it cannot run twice.\n"
		"Look at the other side (%s), with 'ferry status NAME' there:\n"
		"  - if it is running, the guest has arrived;\n"
		"  - if it waits for a decision: ferry cont NAME --token %s\n"
		"When it runs there, end what is left here: ferry quit %s\n",
		f->now.error ? f->now.error : "no word from the other side", f->uri,
		f->now.token ? f->now.token : "TOKEN", f->target);
}

/* The migration is over: say how, return the exit status. */
static int conclude(struct follow *f)
{
	const char *why = f->now.error ? f->now.error : "no reason given";

	end_live_line(f);
	if (f->opts->json)
		print_json(f, "done", NULL);
	if (!strcmp(f->now.status, "completed")) {
		if (f->cancelling)
			(void)fprintf(stderr, "ferry: too late to cancel: the guest has moved\n");
		if (!f->opts->json) {
			(void)printf("completed: the guest runs at %s\n", f->uri);
			progress_summary(&f->now, stdout);
		}
		return EXIT_OK;
	}
	if (!strcmp(f->now.status, "cancelled")) {
		(void)fprintf(stderr, "ferry: %s\n", f->now.error ? f->now.error : "cancelled");
		return f->cancelling ? EXIT_CANCELLED : EXIT_FAILED;
	}
	if (f->now.token) {
		explain_undecided(f);
		return EXIT_UNDECIDED;
	}
	(void)fprintf(stderr, "ferry: the migration %s: %s\n", f->now.status, why);
	return EXIT_FAILED;
}

/* ---- following it ---- */

static int ask(struct follow *f, struct err *e)
{
	json_t *answer;
	int rc = client_call(f->client, "query-migrate", NULL, &answer, e);

	if (rc)
		return rc;
	json_decref(f->answer);
	f->answer = answer;
	progress_read(&f->now, answer);
	return 0;
}

/*
 * A signal has come: the first cancels, the next gives up waiting. But a terminal that is closed is
 * no wish for anything.
 */
static int interrupted(struct follow *f, uint32_t sig, struct err *e)
{
	uint64_t now_ns = clock_mono_ns();

	if (sig == SIGHUP)
		return err_set(
			e, EINTR,
			"the terminal is gone; the migration goes on: 'ferry status %s' shows "
			"it, 'ferry cancel %s' ends it",
			f->target, f->target);
	if (f->cancelling && now_ns - f->cancelled_ns < SECOND_MS * NS_PER_MS)
		return 0;
	if (f->cancelling)
		return err_set(e, EINTR,
			       "not waiting any longer: 'ferry status %s' tells how the cancelling "
			       "goes",
			       f->target);
	f->cancelling = true;
	f->cancelled_ns = now_ns;
	return client_call(f->client, "migrate_cancel", NULL, NULL, e);
}

static int wait_a_little(struct follow *f, struct err *e)
{
	struct pollfd p = {.fd = f->signal_fd, .events = POLLIN};
	struct signalfd_siginfo info;

	if (poll(&p, 1, POLL_MS) > 0 && read(f->signal_fd, &info, sizeof(info)) == sizeof(info))
		return interrupted(f, info.ssi_signo, e);
	if (f->cancelling && clock_mono_ns() - f->cancelled_ns > CANCEL_WAIT_MS * NS_PER_MS)
		return err_set(e, ETIMEDOUT,
			       "the migration was to be cancelled, and is still '%s' after %d s",
			       f->now.status, CANCEL_WAIT_MS / 1000);
	return 0;
}

/* With the defaults as well: options of an earlier migration shall not stay in force. */
static json_t *migrate_args(const struct follow *f)
{
	return json_pack(
		"{s:s,s:I,s:I,s:I,s:s,s:b,s:I,s:b,s:b,s:O*}", "uri", f->uri, "downtime-limit",
		(json_int_t)f->opts->limit_ms, "max-bandwidth", (json_int_t)f->opts->bandwidth,
		"multifd-channels", (json_int_t)f->opts->channels, "multifd-compression",
		f->opts->compress ? "zstd" : "none", "auto-converge", (int)f->opts->auto_converge,
		"x-converge-time", (json_int_t)f->opts->converge_s, "pause-before-switchover",
		(int)f->opts->hold, "x-ferry-verify", (int)f->opts->verify, "x-ferry-free-pages",
		f->opts->free_pages);
}

/* The other process is gone, and with it what it knew. */
static int lost(struct err *e)
{
	(void)err_set(e, ECONNRESET,
		      "the source process ended before it said how the migration went; look at the "
		      "destination: ferry status NAME");
	return EXIT_UNDECIDED;
}

/* Returns the exit status; *e is set if the end of the migration has not been seen. */
static int follow(struct follow *f, struct err *e)
{
	struct err why = ERR_INIT;
	int rc = client_call(f->client, "migrate", migrate_args(f), NULL, &why);

	if (!rc)
		rc = ask(f, &why);
	while (!rc && !progress_ended(&f->now)) {
		show(f);
		rc = wait_a_little(f, &why);
		if (!rc)
			rc = ask(f, &why);
	}
	end_live_line(f);
	if (!rc)
		return conclude(f);
	if (client_lost(rc))
		return lost(e);
	*e = why;
	return EXIT_FAILED;
}

static int watch_signals(struct err *e)
{
	struct sigaction hangup;
	sigset_t set;
	int fd;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	if (!sigaction(SIGHUP, NULL, &hangup) && hangup.sa_handler != SIG_IGN) /* nohup */
		(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_sys(e, errno, "cannot watch for signals") : fd;
}

static int migrate(struct follow *f, struct err *e)
{
	int rc = client_check_text(f->uri, e);

	if (!rc)
		rc = client_open(&f->client, f->target, CLIENT_TIMEOUT_MS, e);
	if (!rc) {
		f->signal_fd = watch_signals(e);
		rc = f->signal_fd < 0 ? f->signal_fd : 0;
	}
	return rc ? EXIT_FAILED : follow(f, e);
}

int cli_migrate(int argc, char *const *argv)
{
	struct migrate_options o = {.limit_ms = MIG_DOWNTIME_LIMIT_MS_DEFAULT,
				    .channels = 1,
				    .bandwidth = MIG_BANDWIDTH_UNLIMITED};
	struct opts_args args;
	struct err e = ERR_INIT;
	struct mig_uri parsed;
	int status = cli_parse("migrate", migrate_table, argc, argv, 2, &o, &args);
	struct follow f = {.opts = &o, .signal_fd = -1};

	if (status >= 0) {
		json_decref(o.free_pages);
		return status;
	}
	f.target = args.arg[0];
	f.uri = args.arg[1];
	f.terminal = !o.json && isatty(STDOUT_FILENO);
	if (mig_uri_parse(f.uri, &parsed, &e)) {
		json_decref(o.free_pages);
		return cli_usage_error("migrate", &e);
	}
	status = migrate(&f, &e);
	if (e.code && o.json)
		print_json(&f, "done", e.msg);
	if (e.code)
		(void)cli_failed(&e);
	client_close(f.client);
	if (f.signal_fd >= 0)
		(void)close(f.signal_fd);
	json_decref(f.answer);
	json_decref(o.free_pages);
	return cli_finish(status);
}
