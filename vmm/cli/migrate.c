/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "migration/migration.h"
#include "migration/save.h"
#include "migration/uri.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/follow.h"
#include "vmm/cli/limits.h"

#define POLL_MS 100 /* how often the guest is asked */

struct migrate_options {
	bool json, hold, compress, verify, auto_converge;
	uint64_t limit_ms, bandwidth, channels, converge_s;
	json_t *free_pages; /* NULL: none */
};

/* One run of the command. */
struct moving {
	const struct migrate_options *opts;
	const char *uri;
	bool hinted, hinted_least, hinted_hold;
	struct follow f;
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
	return limits_parse_downtime(value, &((struct migrate_options *)out)->limit_ms, e);
}

static int set_bandwidth(void *out, const char *value, struct err *e)
{
	return limits_parse_bandwidth(value, &((struct migrate_options *)out)->bandwidth, e);
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

static void hint_least(struct moving *m)
{
	if (m->hinted_least || !progress_below_least(&m->f.now))
		return;
	m->hinted_least = true;
	follow_end_line(&m->f);
	(void)fprintf(stderr,
		      "ferry: cannot get below about %.0f ms of downtime here, whatever the guest "
		      "writes; the limit is %.0f ms. A larger one lets the guest move: 'ferry "
		      "adjust %s --downtime-limit MS'; Ctrl-C cancels.\n",
		      (double)(m->f.now.least_ns / NS_PER_MS + 1),
		      (double)(m->f.now.limit_ns / NS_PER_MS), m->f.target);
}

static void hint_hold(struct moving *m)
{
	if (m->hinted_hold || strcmp(m->f.now.status, "pre-switchover") != 0)
		return;
	m->hinted_hold = true;
	follow_end_line(&m->f);
	(void)fprintf(stderr,
		      "ferry: the guest is paused and waits for its switchover: 'ferry continue "
		      "%s' lets it go on, Ctrl-C cancels.\n",
		      m->f.target);
}

static void hint(struct moving *m)
{
	hint_least(m);
	if (m->hinted || m->opts->auto_converge || !progress_stuck(&m->f.now))
		return;
	m->hinted = true;
	follow_end_line(&m->f);
	(void)fprintf(
		stderr,
		"ferry: the guest writes memory as fast as it can be sent: it will not get "
		"done like this. --auto-converge would slow it down for that; more bandwidth "
		"or a larger downtime limit would help ('ferry adjust %s'); Ctrl-C cancels.\n",
		m->f.target);
}

static void show(struct moving *m)
{
	if (!m->opts->json)
		hint_hold(m);
	if (follow_show(&m->f, progress_line) && !m->opts->json)
		hint(m);
}

static void explain_undecided(const struct moving *m)
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
		m->f.now.error ? m->f.now.error : "no word from the other side", m->uri,
		m->f.now.token ? m->f.now.token : "TOKEN", m->f.target);
}

/* The migration is over: say how, return the exit status. */
static int conclude(struct moving *m)
{
	const char *why = m->f.now.error ? m->f.now.error : "no reason given";

	follow_end_line(&m->f);
	if (m->opts->json)
		follow_json(&m->f, "done", NULL);
	if (!strcmp(m->f.now.status, "completed")) {
		if (m->f.cancelling)
			(void)fprintf(stderr, "ferry: too late to cancel: the guest has moved\n");
		if (!m->opts->json) {
			(void)printf("completed: the guest runs at %s\n", m->uri);
			progress_summary(&m->f.now, stdout);
		}
		return EXIT_OK;
	}
	if (!strcmp(m->f.now.status, "cancelled")) {
		(void)fprintf(stderr, "ferry: %s\n", m->f.now.error ? m->f.now.error : "cancelled");
		return m->f.cancelling ? EXIT_CANCELLED : EXIT_FAILED;
	}
	if (m->f.now.token) {
		explain_undecided(m);
		return EXIT_UNDECIDED;
	}
	(void)fprintf(stderr, "ferry: the migration %s: %s\n", m->f.now.status, why);
	return EXIT_FAILED;
}

/* With the defaults as well: options of an earlier migration shall not stay in force. */
static json_t *migrate_args(const struct moving *m)
{
	return json_pack(
		"{s:s,s:I,s:I,s:I,s:s,s:b,s:I,s:b,s:b,s:O*}", "uri", m->uri, "downtime-limit",
		(json_int_t)m->opts->limit_ms, "max-bandwidth", (json_int_t)m->opts->bandwidth,
		"multifd-channels", (json_int_t)m->opts->channels, "multifd-compression",
		m->opts->compress ? "zstd" : "none", "auto-converge", (int)m->opts->auto_converge,
		"x-converge-time", (json_int_t)m->opts->converge_s, "pause-before-switchover",
		(int)m->opts->hold, "x-ferry-verify", (int)m->opts->verify, "x-ferry-free-pages",
		m->opts->free_pages);
}

/* Returns the exit status; *e is set if the end of the migration has not been seen. */
static int migrate(struct moving *m, struct err *e)
{
	struct err why = ERR_INIT;
	int rc = client_call(m->f.client, "migrate", migrate_args(m), NULL, &why);

	if (rc == -EREMOTEIO) { /* refused: nothing has begun */
		*e = why;
		return EXIT_FAILED;
	}
	if (!rc)
		rc = follow_ask(&m->f, &why);
	while (!rc && !progress_ended(&m->f.now)) {
		show(m);
		rc = follow_wait(&m->f, POLL_MS, &why);
		if (!rc)
			rc = follow_ask(&m->f, &why);
	}
	follow_end_line(&m->f);
	if (!rc)
		return conclude(m);
	if (client_lost(rc)) { /* and with the process what it knew */
		err_clear(&why);
		(void)err_set(
			&why, ECONNRESET,
			"the source process ended before it said how the migration went; look "
			"at the destination: ferry status NAME");
	}
	return follow_lost(&m->f, rc, &why, e);
}

static int check_address(const char *uri, struct err *e)
{
	struct mig_uri parsed;

	if (mig_file_uri_path(uri))
		return err_set(e, EINVAL, "'ferry save GUEST FILE' saves a guest to a file");
	return mig_uri_parse(uri, &parsed, e);
}

/* Returns the exit status. */
static int open_and_migrate(struct moving *m, const char *target, struct err *e)
{
	int status = EXIT_FAILED;

	if (!client_check_text(m->uri, e) &&
	    !follow_open(&m->f, target, "migration", m->opts->json, e))
		status = migrate(m, e);
	if (e->code && m->opts->json)
		follow_json(&m->f, "done", e->msg);
	if (e->code)
		(void)cli_failed(e);
	follow_close(&m->f);
	return cli_finish(status);
}

int cli_migrate(int argc, char *const *argv)
{
	struct migrate_options o = {.limit_ms = MIG_DOWNTIME_LIMIT_MS_DEFAULT,
				    .channels = 1,
				    .bandwidth = MIG_BANDWIDTH_UNLIMITED};
	struct opts_args args;
	struct err e = ERR_INIT;
	int status = cli_parse("migrate", migrate_table, argc, argv, 2, &o, &args);
	struct moving m = {.opts = &o, .f = {.signal_fd = -1}};

	if (status < 0) {
		m.uri = args.arg[1];
		status = check_address(m.uri, &e) ? cli_usage_error("migrate", &e)
						  : open_and_migrate(&m, args.arg[0], &e);
	}
	json_decref(o.free_pages);
	return status;
}
