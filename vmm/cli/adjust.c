/* SPDX-License-Identifier: Apache-2.0 */
/* Other limits for a migration that is under way. */
#include <errno.h>
#include <string.h>

#include "migration/migration.h"
#include "migration/save.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/client.h"
#include "vmm/cli/limits.h"
#include "vmm/cli/progress.h"

struct adjust_options {
	bool has_limit, has_bandwidth;
	uint64_t limit_ms, bandwidth;
};

int limits_parse_downtime(const char *value, uint64_t *ms, struct err *e)
{
	if (number_parse(value, MIG_DOWNTIME_LIMIT_MS_MAX, ms) || !*ms)
		return err_set(e, EINVAL, "expected milliseconds from 1 to %d",
			       MIG_DOWNTIME_LIMIT_MS_MAX);
	return 0;
}

int limits_parse_bandwidth(const char *value, uint64_t *bytes_s, struct err *e)
{
	if (size_parse(value, bytes_s) || *bytes_s > INT64_MAX)
		return err_set(e, EINVAL,
			       "expected bytes a second with K, M or G, like 100M; 0: no limit");
	return 0;
}

static int set_limit(void *out, const char *value, struct err *e)
{
	struct adjust_options *o = out;

	o->has_limit = true;
	return limits_parse_downtime(value, &o->limit_ms, e);
}

static int set_bandwidth(void *out, const char *value, struct err *e)
{
	struct adjust_options *o = out;

	o->has_bandwidth = true;
	return limits_parse_bandwidth(value, &o->bandwidth, e);
}

static const struct opt adjust_table[] = {
	{"downtime-limit", "MS", "the guest may stand still for so long", set_limit},
	{"max-bandwidth", "SIZE", "bytes a second, with K, M or G; 0: no limit", set_bandwidth},
	{NULL, NULL, NULL, NULL},
};

/* Limits are those of one migration: without one there is nothing that they could hold for. */
static int check_moving(struct client *c, struct err *e)
{
	json_t *answer = NULL;
	int rc = client_call(c, "query-migrate", NULL, &answer, e);
	const char *role = json_string_value(json_object_get(answer, "x-ferry-role"));
	const char *uri = json_string_value(json_object_get(answer, "x-ferry-uri"));
	struct progress p;

	if (rc)
		return rc;
	progress_read(&p, answer);
	if (progress_ended(&p) || !role || strcmp(role, "source") != 0 || !uri ||
	    mig_file_uri_path(uri))
		rc = err_set(e, EINVAL,
			     "the guest is not being moved from here: limits are given to 'ferry "
			     "migrate', and changed while it goes on");
	json_decref(answer);
	return rc;
}

static int adjust(struct client *c, const struct adjust_options *o, struct err *e)
{
	json_t *args = json_object();
	int rc = check_moving(c, e);

	if (o->has_limit)
		(void)json_object_set_new(args, "downtime-limit",
					  json_integer((json_int_t)o->limit_ms));
	if (o->has_bandwidth)
		(void)json_object_set_new(args, "max-bandwidth",
					  json_integer((json_int_t)o->bandwidth));
	if (!rc)
		return client_call(c, "migrate-set-parameters", args, NULL, e);
	json_decref(args);
	return rc;
}

int cli_adjust(int argc, char *const *argv)
{
	struct adjust_options o = {0};
	struct client *c = NULL;
	struct opts_args args;
	struct err e = ERR_INIT;
	int status = cli_parse("adjust", adjust_table, argc, argv, 1, &o, &args);
	int rc;

	if (status >= 0)
		return status;
	if (!o.has_limit && !o.has_bandwidth) {
		(void)err_set(&e, EINVAL, "adjust what? --downtime-limit MS, --max-bandwidth SIZE");
		return cli_usage_error("adjust", &e);
	}
	rc = client_open(&c, args.arg[0], CLIENT_TIMEOUT_MS, &e);
	if (!rc)
		rc = adjust(c, &o, &e);
	client_close(c);
	return rc ? cli_failed(&e) : EXIT_OK;
}
