/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/client.h"
#include "vmm/ctl/path.h"
#include "vmm/ctl/qmp.h"

/* A guest that hangs shall not keep the others from being shown. */
#define LIST_TIMEOUT_MS 1000

static int set_json(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	*(bool *)out = true;
	return 0;
}

static const struct opt list_table[] = {
	{"json", NULL, "a JSON list of objects", set_json},
	{NULL, NULL, NULL, NULL},
};

/* Has this socket been seen already? (Two places may be one directory.) */
static bool listed(const json_t *list, const char *path)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i,
			   item) if (!strcmp(json_string_value(json_object_get(item, "control")),
					     path)) return true;
	return false;
}

static int look_at(void *ctx, const char *name, const char *path)
{
	json_t *list = ctx, *status = NULL, *item;
	struct client *c = NULL;
	struct err e = ERR_INIT;
	const char *state;
	int rc;

	if (listed(list, path))
		return 0;
	rc = client_open(&c, path, LIST_TIMEOUT_MS, &e);
	if (!rc)
		rc = client_call(c, "query-status", NULL, &status, &e);
	if (rc == -ECONNREFUSED || rc == -ENOENT)
		return 0; /* left behind by a process that was killed */
	state = json_string_value(json_object_get(status, "status"));
	item = json_pack(
		"{s:s,s:s,s:I,s:I,s:i,s:o}", "name", name, "status", state ? state : "no answer",
		"cpus", json_integer_value(json_object_get(status, "x-ferry-cpus")), "memory-bytes",
		json_integer_value(json_object_get(status, "x-ferry-memory-bytes")), "pid",
		c ? (int)client_pid(c) : 0, "control", qmp_text(path));
	rc = json_array_append_new(list, item) ? -ENOMEM : 0;
	json_decref(status);
	client_close(c);
	return rc;
}

static void print_list(const json_t *list)
{
	const json_t *item;
	size_t i;

	(void)printf("%-20s %-15s %4s %10s %8s  %s\n", "NAME", "STATE", "CPUS", "MEMORY", "PID",
		     "CONTROL");
	json_array_foreach(list, i, item)
	{
		const char *name, *state, *path;
		json_int_t cpus, bytes;
		char mem[32];
		int pid;

		if (json_unpack((json_t *)item, "{s:s,s:s,s:I,s:I,s:i,s:s}", "name", &name,
				"status", &state, "cpus", &cpus, "memory-bytes", &bytes, "pid",
				&pid, "control", &path))
			continue;
		if (!cpus) /* it has not answered */
			(void)printf("%-20s %-15s %4s %10s %8s  %s\n", name, state, "-", "-", "-",
				     path);
		else
			(void)printf("%-20s %-15s %4d %10s %8d  %s\n", name, state, (int)cpus,
				     size_text((uint64_t)bytes, mem, sizeof(mem)), pid, path);
	}
}

int cli_list(int argc, char *const *argv)
{
	struct ctl_places places;
	struct opts_args args;
	struct err e = ERR_INIT;
	bool json = false;
	json_t *list;
	int status = cli_parse("list", list_table, argc, argv, 0, &json, &args);

	if (status >= 0)
		return status;
	list = json_array();
	ctl_places_init(&places);
	if (!list || ctl_each(&places, look_at, list)) {
		json_decref(list);
		(void)err_sys(&e, ENOMEM, "cannot list the guests");
		return cli_failed(&e);
	}
	if (json)
		(void)(json_dumpf(list, stdout, JSON_COMPACT), fputc('\n', stdout));
	else
		print_list(list);
	json_decref(list);
	return cli_finish(EXIT_OK);
}
