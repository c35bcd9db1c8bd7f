/* SPDX-License-Identifier: Apache-2.0 */
/* The small commands on one guest: stop, cont, continue, quit, status. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "migration/save.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/client.h"
#include "vmm/cli/progress.h"
#include "vmm/ctl/qmp.h"

/* It may have to cancel a migration first, which is bounded as well. */
#define QUIT_WAIT_MS 15000
#define COLUMNS      100 /* where a list goes on in the next line */

static const struct opt no_options[] = {{NULL, NULL, NULL, NULL}};

/* One command without arguments to one guest; wait_end_ms: then wait for the end of its process. */
static int simple(const char *name, const char *qmp, int wait_end_ms, int argc, char *const *argv)
{
	struct client *c = NULL;
	struct opts_args args;
	struct err e = ERR_INIT;
	int status = cli_parse(name, no_options, argc, argv, 1, NULL, &args);
	int rc;

	if (status >= 0)
		return status;
	rc = client_open(&c, args.arg[0], CLIENT_TIMEOUT_MS, &e);
	if (!rc)
		rc = client_call(c, qmp, NULL, NULL, &e);
	if (!rc && wait_end_ms)
		rc = client_wait_end(c, wait_end_ms, &e);
	client_close(c);
	return rc ? cli_failed(&e) : EXIT_OK;
}

int cli_stop(int argc, char *const *argv)
{
	return simple("stop", "stop", 0, argc, argv);
}

int cli_continue(int argc, char *const *argv)
{
	return simple("continue", "migrate-continue", 0, argc, argv);
}

/* Done when the guest's process has let go of everything, its name included. */
int cli_quit(int argc, char *const *argv)
{
	return simple("quit", "quit", QUIT_WAIT_MS, argc, argv);
}

/* ---- cont ---- */

struct cont_options {
	const char *token;
	bool force;
};

static int set_token(void *out, const char *value, struct err *e)
{
	(void)e;
	((struct cont_options *)out)->token = value;
	return 0;
}

static int set_force(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct cont_options *)out)->force = true;
	return 0;
}

static const struct opt cont_table[] = {
	{"token", "TOKEN",
	 "after an undecided migration: the token that the source shows lets the guest run here",
	 set_token},
	{"force", NULL,
	 "after an undecided migration: the source is gone for good (if not, the guest runs twice)",
	 set_force},
	{NULL, NULL, NULL, NULL},
};

static int cont(struct client *c, const struct cont_options *o, struct err *e)
{
	if (o->token)
		return client_call(c, "x-ferry-commit", json_pack("{s:s}", "token", o->token), NULL,
				   e);
	if (o->force)
		return client_call(c, "x-ferry-commit", json_pack("{s:b}", "force", 1), NULL, e);
	return client_call(c, "cont", NULL, NULL, e);
}

int cli_cont(int argc, char *const *argv)
{
	struct cont_options o = {0};
	struct client *c = NULL;
	struct opts_args args;
	struct err e = ERR_INIT;
	int status = cli_parse("cont", cont_table, argc, argv, 1, &o, &args);
	int rc;

	if (status >= 0)
		return status;
	if (o.token && o.force) {
		(void)err_set(&e, EINVAL, "--token and --force do not go together");
		return cli_usage_error("cont", &e);
	}
	rc = o.token ? client_check_text(o.token, &e) : 0;
	if (!rc)
		rc = client_open(&c, args.arg[0], CLIENT_TIMEOUT_MS, &e);
	if (!rc)
		rc = cont(c, &o, &e);
	client_close(c);
	return rc ? cli_failed(&e) : EXIT_OK;
}

/* ---- status ---- */

static int set_json(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	*(bool *)out = true;
	return 0;
}

static const struct opt status_table[] = {
	{"json", NULL, "one JSON object", set_json},
	{NULL, NULL, NULL, NULL},
};

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "?";
}

static void print_migration(const json_t *migration)
{
	const char *role = text(migration, "x-ferry-role");
	char line[256];
	struct progress p;

	progress_read(&p, migration);
	if (!json_object_get(migration, "status"))
		return;
	if (!strcmp(role, "destination"))
		(void)printf("incoming   %s at %s\n", strcmp(p.status, "none") ? p.status : "waits",
			     text(migration, "x-ferry-uri"));
	else if (mig_file_uri_path(text(migration, "x-ferry-uri")))
		(void)printf("save       %s to %s\n", p.status,
			     mig_file_uri_path(text(migration, "x-ferry-uri")));
	else
		(void)printf("migration  %s to %s\n", p.status, text(migration, "x-ferry-uri"));
	if (!progress_ended(&p)) {
		progress_line(&p, line, sizeof(line));
		(void)printf("progress   %s\n", line);
	}
	if (p.error)
		(void)printf("reason     %s\n", p.error);
	if (p.token)
		(void)printf("token      %s\n", p.token);
	if (!strcmp(p.status, "completed") && strcmp(role, "destination") != 0)
		progress_summary(&p, stdout);
}

static void print_devices(const json_t *devices)
{
	const json_t *d;
	size_t i;

	json_array_foreach(devices, i, d)(void)
		printf("device     %s %" JSON_INTEGER_FORMAT "%s%s\n", text(d, "name"),
		       json_integer_value(json_object_get(d, "instance")),
		       *text(d, "backend") ? "  " : "", text(d, "backend"));
}

static void print_names(const char *label, const json_t *names)
{
	const json_t *name;
	int column;
	size_t i;

	if (!json_array_size(names))
		return;
	column = printf("%s", label);
	json_array_foreach(names, i, name)
	{
		const char *s = json_string_value(name);

		if (column + (int)strlen(s) + 1 > COLUMNS)
			column = printf("\n%*s", (int)strlen(label), "") - 1;
		column += printf(" %s", s);
	}
	(void)putchar('\n');
}

static void print_processor(const json_t *cpu)
{
	(void)printf("processor  %s\n", text(cpu, "model"));
	print_names("features  ", json_object_get(cpu, "features"));
	print_names("not hidden", json_object_get(cpu, "not-hidden"));
}

static void print_status(const struct client *c, const json_t *all)
{
	const json_t *status = json_object_get(all, "status");
	char mem[32];

	(void)printf("name       %s\n", text(all, "name"));
	(void)printf("state      %s\n", text(status, "status"));
	if (json_object_get(status, "x-ferry-end"))
		(void)printf("end        %s\n", text(status, "x-ferry-end"));
	(void)printf("cpus       %" JSON_INTEGER_FORMAT "\n",
		     json_integer_value(json_object_get(status, "x-ferry-cpus")));
	(void)printf("memory     %s\n", size_text((uint64_t)json_integer_value(json_object_get(
							  status, "x-ferry-memory-bytes")),
						  mem, sizeof(mem)));
	print_processor(json_object_get(status, "x-ferry-cpu"));
	(void)printf("serial     %s\n", text(status, "x-ferry-serial"));
	print_devices(json_object_get(status, "x-ferry-devices"));
	(void)printf("process    %d\n", (int)client_pid(c));
	(void)printf("control    %s\n", client_path(c));
	print_migration(json_object_get(all, "migration"));
}

/* {"name", "status": {...}, "migration": {...}, "pid", "control"}; new reference. */
static int ask_all(struct client *c, json_t **out, struct err *e)
{
	json_t *name = NULL, *status = NULL, *migration = NULL;
	int rc = client_call(c, "query-name", NULL, &name, e);

	if (!rc)
		rc = client_call(c, "query-status", NULL, &status, e);
	if (!rc)
		rc = client_call(c, "query-migrate", NULL, &migration, e);
	if (!rc) {
		*out = json_pack("{s:s,s:O,s:O,s:i,s:o}", "name", text(name, "name"), "status",
				 status, "migration", migration, "pid", (int)client_pid(c),
				 "control", qmp_text(client_path(c)));
		if (!*out)
			rc = err_sys(e, ENOMEM, "cannot show the status");
	}
	json_decref(name);
	json_decref(status);
	json_decref(migration);
	return rc;
}

int cli_status(int argc, char *const *argv)
{
	struct client *c = NULL;
	struct opts_args args;
	struct err e = ERR_INIT;
	bool json = false;
	json_t *all = NULL;
	int status = cli_parse("status", status_table, argc, argv, 1, &json, &args);
	int rc;

	if (status >= 0)
		return status;
	rc = client_open(&c, args.arg[0], CLIENT_TIMEOUT_MS, &e);
	if (!rc)
		rc = ask_all(c, &all, &e);
	if (!rc) {
		if (json)
			(void)(json_dumpf(all, stdout, JSON_COMPACT), fputc('\n', stdout));
		else
			print_status(c, all);
	}
	json_decref(all);
	client_close(c);
	return rc ? cli_failed(&e) : cli_finish(EXIT_OK);
}
