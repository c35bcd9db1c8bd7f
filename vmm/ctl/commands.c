/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ctl/commands.h"

#include <errno.h>

static int done(json_t *value, json_t **ret)
{
	*ret = value;
	return value ? 0 : -ENOMEM;
}

/* [{"name", "instance", "address", "interrupt", "backend"}]; NULL without memory. */
static json_t *devices(struct machine *m)
{
	const struct devices *ds = machine_devices(m);
	json_t *list = json_array();
	struct device_info d;

	for (unsigned i = 0; i < devices_count(ds); i++) {
		devices_info(ds, i, &d);
		if (json_array_append_new(list, json_pack("{s:s,s:i,s:o,s:i,s:o}", "name", d.name,
							  "instance", (int)d.instance, "address",
							  qmp_uint(d.gpa), "interrupt", (int)d.gsi,
							  "backend", qmp_text(d.backend)))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* Names of those that are in the set. */
static json_t *feature_names(const struct cpu_feature_set *set)
{
	json_t *list = json_array();
	unsigned n;
	const struct cpu_feature *f = cpu_features(&n);

	for (unsigned i = 0; i < n; i++) {
		if (cpu_feature_in(set, i) && json_array_append_new(list, json_string(f[i].name))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* {"model", "features", "not-hidden"}: what the guest sees, and what of it the model does not. */
static json_t *processor(struct machine *m)
{
	const struct cpu_model *model = machine_cpu_model(m);
	struct cpu_feature_set seen, more = {{0}};

	machine_cpu_features(m, &seen);
	for (unsigned i = 0; i < CPU_FEATURES_MAX; i++) {
		if (cpu_feature_in(&seen, i) && cpu_model_hides(model, i))
			cpu_feature_add(&more, i);
	}
	return json_pack("{s:o,s:o,s:o}", "model", qmp_text(cpu_model_text(model)), "features",
			 feature_names(&seen), "not-hidden", feature_names(&more));
}

static int cmd_query_status(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	enum run_state state = machine_state(s->machine);
	struct machine_end end;
	json_t *o;

	(void)args, (void)e;
	o = json_pack("{s:s,s:b,s:b,s:o,s:o,s:o,s:o,s:o}", "status", machine_state_name(state),
		      "running", state == RUN_RUNNING, "singlestep", 0, "x-ferry-serial",
		      qmp_text(machine_serial_name(s->machine)), "x-ferry-memory-bytes",
		      qmp_uint(machine_mem(s->machine)->size_bytes), "x-ferry-cpus",
		      qmp_uint(machine_n_cpus(s->machine)), "x-ferry-devices", devices(s->machine),
		      "x-ferry-cpu", processor(s->machine));
	machine_end(s->machine, &end);
	if (o && end.kind != END_NONE &&
	    json_object_set_new(o, "x-ferry-end", qmp_text(end.text))) {
		json_decref(o);
		o = NULL;
	}
	return done(o, ret);
}

static int cmd_query_version(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	(void)ctx, (void)args, (void)e;
	return done(qmp_version(), ret);
}

static int cmd_query_name(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;

	(void)args, (void)e;
	return done(json_pack("{s:s}", "name", s->name), ret);
}

static int cmd_query_kvm(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	(void)ctx, (void)args, (void)e;
	return done(json_pack("{s:b,s:b}", "enabled", 1, "present", 1), ret);
}

static int cmd_query_cpus(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	json_t *list = json_array();
	unsigned n = machine_n_cpus(s->machine);
	int rc = 0;

	(void)args, (void)e;
	for (unsigned i = 0; !rc && i < n; i++)
		rc = json_array_append_new(list, json_pack("{s:i,s:s,s:i,s:s}", "cpu-index", (int)i,
							   "qom-path", "", "thread-id",
							   machine_cpu_tid(s->machine, i), "target",
							   "x86_64"));
	if (rc) {
		json_decref(list);
		list = NULL;
	}
	return done(list, ret);
}

static int cmd_stop(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;

	(void)args, (void)ret;
	return machine_pause(s->machine, e);
}

static int cmd_cont(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	struct mig_status st;

	(void)args, (void)ret;
	if (s->dest) {
		mig_dest_status(s->dest, &st);
		if (st.state == MIG_UNDECIDED)
			return err_set(
				e, EPERM,
				"the handover is undecided: the guest may run here only with "
				"the token that the source shows ('ferry cont %s --token "
				"TOKEN')",
				s->name);
	}
	return machine_resume(s->machine, e);
}

static int cmd_system_powerdown(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;

	(void)args, (void)ret;
	return machine_power_button(s->machine, e);
}

static int cmd_quit(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;

	(void)args, (void)ret, (void)e;
	session_quit(s, s->exit_status, false, QUIT_BY_CLIENT);
	return 0;
}

/* What migrate and migrate-set-parameters both take. */
/* clang-format off */
#define PARAMETERS                                                                                 \
	{"max-bandwidth", QMP_UINT, true}, {"downtime-limit", QMP_UINT, true},                     \
	{"throttle-trigger-threshold", QMP_UINT, true}, {"max-cpu-throttle", QMP_UINT, true},      \
	{"vcpu-dirty-limit", QMP_UINT, true}, {"x-converge-time", QMP_UINT, true}
/* clang-format on */

static const struct qmp_command table[] = {
	{.name = "query-status", .run = cmd_query_status},
	{.name = "query-version", .run = cmd_query_version},
	{.name = "query-name", .run = cmd_query_name},
	{.name = "query-kvm", .run = cmd_query_kvm},
	{.name = "query-cpus-fast", .run = cmd_query_cpus},
	{.name = "balloon", .run = cmd_balloon, .args = {{"value", QMP_UINT, false}}},
	{.name = "query-balloon", .run = cmd_query_balloon},
	{.name = "stop", .run = cmd_stop},
	{.name = "cont", .run = cmd_cont},
	{.name = "system_powerdown", .run = cmd_system_powerdown},
	{.name = "quit", .run = cmd_quit},
	{.name = "migrate",
	 .run = cmd_migrate,
	 .args = {{"uri", QMP_STRING, false},
		  {"detach", QMP_BOOL, true},
		  {"auto-converge", QMP_BOOL, true},
		  {"pause-before-switchover", QMP_BOOL, true},
		  {"multifd-channels", QMP_UINT, true},
		  {"multifd-compression", QMP_STRING, true},
		  {"x-ferry-verify", QMP_BOOL, true},
		  {"x-ferry-free-pages", QMP_LIST, true},
		  PARAMETERS}},
	{.name = "migrate-incoming",
	 .run = cmd_migrate_incoming,
	 .args = {{"uri", QMP_STRING, false}}},
	{.name = "migrate_cancel", .run = cmd_migrate_cancel},
	{.name = "migrate-continue",
	 .run = cmd_migrate_continue,
	 .args = {{"state", QMP_STRING, true}}},
	{.name = "query-migrate", .run = cmd_query_migrate},
	{.name = "migrate-set-parameters",
	 .run = cmd_set_parameters,
	 .args = {{"multifd-channels", QMP_UINT, true},
		  {"multifd-compression", QMP_STRING, true},
		  {"direct-io", QMP_BOOL, true},
		  {"x-ferry-on-demand", QMP_BOOL, true},
		  PARAMETERS}},
	{.name = "query-migrate-parameters", .run = cmd_query_parameters},
	{.name = "migrate-set-capabilities",
	 .run = cmd_set_capabilities,
	 .args = {{"capabilities", QMP_LIST, false}}},
	{.name = "query-migrate-capabilities", .run = cmd_query_capabilities},
	{.name = "x-ferry-save",
	 .run = cmd_save,
	 .args = {{"path", QMP_STRING, false},
		  {"live", QMP_BOOL, true},
		  {"go-on", QMP_BOOL, true},
		  {"auto-converge", QMP_BOOL, true},
		  {"multifd-channels", QMP_UINT, true},
		  {"direct-io", QMP_BOOL, true}}},
	{.name = "x-ferry-commit",
	 .run = cmd_commit,
	 .args = {{"token", QMP_STRING, true}, {"force", QMP_BOOL, true}}},
};

struct qmp_table session_commands(struct session *s)
{
	return (struct qmp_table){
		.commands = table, .n_commands = sizeof(table) / sizeof(table[0]), .ctx = s};
}
