/* SPDX-License-Identifier: Apache-2.0 */
/* Cancel what goes out, and say what came of it: who cancels wants to know where the guest is. */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "migration/save.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/follow.h"

#define POLL_MS 20

static const struct opt no_options[] = {{NULL, NULL, NULL, NULL}};

static const char *text(const struct follow *f, const char *key)
{
	const char *s = json_string_value(json_object_get(f->answer, key));

	return s ? s : "";
}

static bool is_save(const struct follow *f)
{
	return mig_file_uri_path(text(f, "x-ferry-uri"));
}

/* There was nothing to cancel. That is no failure, unless it comes too late. */
static int nothing_to_cancel(const struct follow *f)
{
	if (!strcmp(text(f, "x-ferry-role"), "destination") && !progress_ended(&f->now)) {
		(void)fprintf(stderr, "ferry: the guest comes here: a migration is cancelled where "
				      "the guest is; 'ferry quit' ends this process\n");
		return EXIT_FAILED;
	}
	if (!strcmp(text(f, "x-ferry-role"), "source") && !is_save(f) &&
	    !strcmp(f->now.status, "completed")) {
		(void)fprintf(stderr, "ferry: too late to cancel: the guest has moved to %s\n",
			      text(f, "x-ferry-uri"));
		return EXIT_FAILED;
	}
	if (f->now.token) {
		(void)fprintf(stderr,
			      "ferry: too late to cancel: the migration to %s is undecided: "
			      "'ferry status %s' says more\n",
			      text(f, "x-ferry-uri"), f->target);
		return EXIT_UNDECIDED;
	}
	(void)printf("nothing to cancel: no migration and no save is under way\n");
	return EXIT_OK;
}

/* It was under way, and now is not. */
static int conclude(const struct follow *f)
{
	if (!strcmp(f->now.status, "cancelled")) {
		(void)printf("%s\n", f->now.error ? f->now.error : "cancelled");
		return EXIT_OK;
	}
	if (!strcmp(f->now.status, "failed")) {
		(void)printf("the %s has failed by itself: %s\n", is_save(f) ? "save" : "migration",
			     f->now.error ? f->now.error : "no reason given");
		return EXIT_OK;
	}
	if (is_save(f)) {
		(void)fprintf(stderr, "ferry: too late to cancel: the guest is saved in %s\n",
			      mig_file_uri_path(text(f, "x-ferry-uri")));
		return EXIT_FAILED;
	}
	return nothing_to_cancel(f);
}

/* Returns the exit status; *e is set if it is not known what came of it. */
static int cancel(struct follow *f, struct err *e)
{
	struct err why = ERR_INIT;
	int rc = follow_ask(f, e);

	if (rc)
		return EXIT_FAILED;
	if (progress_ended(&f->now) || strcmp(text(f, "x-ferry-role"), "destination") == 0)
		return nothing_to_cancel(f);
	rc = follow_cancel(f, &why);
	while (!rc && !progress_ended(&f->now)) {
		rc = follow_wait(f, POLL_MS, &why);
		if (!rc)
			rc = follow_ask(f, &why);
	}
	return rc ? follow_lost(f, rc, &why, e) : conclude(f);
}

int cli_cancel(int argc, char *const *argv)
{
	struct opts_args args;
	struct err e = ERR_INIT;
	struct follow f = {.signal_fd = -1};
	int status = cli_parse("cancel", no_options, argc, argv, 1, NULL, &args);

	if (status >= 0)
		return status;
	status =
		follow_open(&f, args.arg[0], "migration", false, &e) ? EXIT_FAILED : cancel(&f, &e);
	if (e.code)
		(void)cli_failed(&e);
	follow_close(&f);
	return cli_finish(status);
}
