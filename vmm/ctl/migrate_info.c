/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ctl/migrate_info.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "vmm/ctl/qmp.h"

/* Members are added one by one; a failure (no memory) sticks. */
struct object {
	json_t *o;
	bool failed;
};

static void add(struct object *to, const char *key, json_t *value)
{
	if (json_object_set_new(to->o, key, value))
		to->failed = true;
}

static void add_uint(struct object *to, const char *key, uint64_t value)
{
	add(to, key, qmp_uint(value));
}

static json_t *finish(struct object *o)
{
	if (!o->failed)
		return o->o;
	json_decref(o->o);
	return NULL;
}

static uint64_t to_ms(uint64_t ns)
{
	return ns / NS_PER_MS + (ns % NS_PER_MS != 0);
}

/* What went over other connections than the first, which is what the name says elsewhere. */
static uint64_t multifd_bytes(const struct mig_status *s)
{
	uint64_t bytes = 0;

	for (unsigned i = 1; i < s->n_channels; i++)
		bytes += s->channel_bytes[i];
	return bytes;
}

static json_t *ram_json(const struct mig_status *s)
{
	struct object o = {.o = json_object()};

	add_uint(&o, "transferred", s->transferred_bytes);
	add_uint(&o, "remaining", s->remaining_bytes);
	add_uint(&o, "total", s->ram_total_bytes);
	add_uint(&o, "duplicate", s->zero_pages);
	add_uint(&o, "x-ferry-free-pages", s->free_pages);
	add_uint(&o, "normal", s->normal_pages);
	add_uint(&o, "normal-bytes", s->normal_pages * s->page_bytes);
	add_uint(&o, "dirty-pages-rate", s->dirty_pages_per_s);
	add(&o, "mbps", json_real((double)s->bytes_per_s * 8 / 1e6));
	add_uint(&o, "dirty-sync-count", s->syncs);
	add_uint(&o, "page-size", s->page_bytes);
	add_uint(&o, "multifd-bytes", multifd_bytes(s));
	add_uint(&o, "pages-per-second", s->page_bytes ? s->bytes_per_s / s->page_bytes : 0);
	add_uint(&o, "precopy-bytes", s->precopy_bytes);
	add_uint(&o, "downtime-bytes", s->downtime_bytes);
	add_uint(&o, "postcopy-bytes", 0);
	add_uint(&o, "postcopy-requests", 0);
	add_uint(&o, "dirty-sync-missed-zero-copy", 0);
	return finish(&o);
}

/* Nanoseconds by phase, and who measured which. */
static json_t *phases_json(const uint64_t ns[MIG_PHASES])
{
	struct object here = {.o = json_object()}, there = {.o = json_object()};
	struct object o = {.o = json_object()};

	for (unsigned p = 0; p < MIG_PHASES; p++)
		add_uint(mig_phase_is_dest(p) ? &there : &here, mig_phase_name(p), ns[p]);
	add(&o, "source", finish(&here));
	add(&o, "destination", finish(&there));
	return finish(&o);
}

static void add_downtime(struct object *o, const struct mig_status *s)
{
	add_uint(o, "x-ferry-least-downtime-ns", s->least_downtime_ns);
	add_uint(o, "x-ferry-rehearsals", s->rehearsals);
	add_uint(o, "x-ferry-rehearsal-pause-ns-last", s->rehearsal_pause_ns_last);
	add_uint(o, "x-ferry-rehearsal-pause-ns-total", s->rehearsal_pause_ns_total);
	if (s->state == MIG_COMPLETED) {
		add(o, "x-ferry-downtime-phases", phases_json(s->downtime_phase_ns));
		add(o, "x-ferry-predicted-phases", phases_json(s->predicted_at_switch_phase_ns));
	} else {
		add(o, "x-ferry-predicted-phases", phases_json(s->predicted_phase_ns));
	}
}

/* The bytes of each connection. */
static json_t *channels_json(const struct mig_status *s)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < s->n_channels; i++) {
		if (json_array_append_new(list, qmp_uint(s->channel_bytes[i]))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* Nothing is said before it is known. */
static void add_zero_copy(struct object *o, const struct mig_status *s)
{
	static const char *const words[] = {
		[MIG_ZERO_COPY_NOT_OFFERED] = "not offered",
		[MIG_ZERO_COPY_COPIED] = "copied by the device",
		[MIG_ZERO_COPY_USED] = "used",
	};

	if (s->zero_copy != MIG_ZERO_COPY_UNTRIED)
		add(o, "x-ferry-zero-copy", json_string(words[s->zero_copy]));
}

static void add_own(struct object *o, const struct mig_status *s)
{
	add(o, "x-ferry-channels", channels_json(s));
	add_zero_copy(o, s);
	add_uint(o, "x-ferry-compressed-from-bytes", s->compressed_from_bytes);
	add_uint(o, "x-ferry-compressed-to-bytes", s->compressed_to_bytes);
	add_uint(o, "x-ferry-total-ns", s->total_ns);
	add_uint(o, "x-ferry-setup-ns", s->setup_ns);
	add_uint(o, "x-ferry-downtime-ns", s->downtime_ns);
	add_uint(o, "x-ferry-predicted-downtime-ns", s->predicted_downtime_ns);
	add_uint(o, "x-ferry-predicted-at-switch-ns", s->predicted_at_switch_ns);
	add_uint(o, "x-ferry-downtime-limit-ns", s->downtime_limit_ns);
	add_uint(o, "x-ferry-bytes-per-second", s->bytes_per_s);
	add_uint(o, "x-ferry-passes", s->passes);
	add_uint(o, "x-ferry-sync-ns-last", s->sync_ns_last);
	add_uint(o, "x-ferry-sync-ns-total", s->sync_ns_total);
	add_uint(o, "x-ferry-protect-calls", s->protect_calls);
	add_uint(o, "x-ferry-protect-pages", s->protect_pages);
	add_uint(o, "x-ferry-switchovers-called-off", s->switchovers_called_off);
}

/* Of all the time since the beginning, and of each vCPU now. */
static void add_throttle(struct object *o, const struct mig_throttle_status *t)
{
	json_t *list;

	add_uint(o, "x-ferry-stall-ns", t->stall_ns);
	if (!t->active)
		return;
	list = json_array();
	for (unsigned i = 0; i < t->n_cpus; i++) {
		double share = (double)t->cpus[i].share / MIG_SHARE_FULL;

		if (json_array_append_new(list, json_pack("{s:i,s:o,s:f}", "cpu-index", (int)i,
							  "dirty-pages-rate",
							  qmp_uint(t->cpus[i].dirty_pages_s),
							  "share", share)))
			o->failed = true;
	}
	add(o, "x-ferry-vcpus", list);
	add_uint(o, "cpu-throttle-percentage", t->most_taken / (MIG_SHARE_FULL / 100));
}

json_t *migrate_info_json(const struct mig_status *s, bool is_source, const char *uri)
{
	struct object o = {.o = json_object()};
	char token[MIGRATE_TOKEN_BYTES];

	add(&o, "status", json_string(mig_state_name(s->state)));
	add(&o, "x-ferry-role", json_string(is_source ? "source" : "destination"));
	if (uri)
		add(&o, "x-ferry-uri", qmp_text(uri));
	if (s->error[0])
		add(&o, "error-desc", qmp_text(s->error));
	if (s->state == MIG_NONE)
		return finish(&o);
	add_uint(&o, "total-time", to_ms(s->total_ns));
	add_uint(&o, "setup-time", to_ms(s->setup_ns));
	if (s->state == MIG_COMPLETED)
		add_uint(&o, "downtime", to_ms(s->downtime_ns));
	if (s->state == MIG_ACTIVE)
		add_uint(&o, "expected-downtime", to_ms(s->predicted_downtime_ns));
	if (s->state != MIG_SETUP && s->ram_total_bytes)
		add(&o, "ram", ram_json(s));
	if (s->state == MIG_UNDECIDED && is_source) {
		migrate_token_format(s->token, token);
		add(&o, "x-ferry-token", json_string(token));
	}
	add_own(&o, s);
	if (is_source) {
		add_downtime(&o, s);
		add_throttle(&o, &s->throttle);
	}
	return finish(&o);
}

/* ---- parameters ---- */

static const struct {
	const char *name;
	size_t offset; /* of its uint64_t in struct mig_params */
	int64_t min, max;
	const char *zero; /* what a minimum of 0 means */
	const char *unit;
} params_table[] = {
	{"max-bandwidth", offsetof(struct mig_params, max_bandwidth_bytes_s), 0, INT64_MAX,
	 " (no limit)", "bytes/s"},
	{"downtime-limit", offsetof(struct mig_params, downtime_limit_ms), 1,
	 MIG_DOWNTIME_LIMIT_MS_MAX, "", "milliseconds"},
	{"throttle-trigger-threshold", offsetof(struct mig_params, throttle.trigger_percent), 1,
	 100, "", "percent"},
	{"max-cpu-throttle", offsetof(struct mig_params, throttle.max_percent), 1, 99, "",
	 "percent"},
	{"vcpu-dirty-limit", offsetof(struct mig_params, throttle.cpu_limit_mib_s), 1,
	 MIG_CPU_LIMIT_MIB_MAX, "", "MiB/s"},
	{"x-converge-time", offsetof(struct mig_params, throttle.converge_s), 0,
	 MIG_CONVERGE_SECONDS_MAX, " (not given)", "seconds"},
};

#define N_PARAMS (sizeof(params_table) / sizeof(params_table[0]))

static uint64_t *param_at(struct mig_params *p, size_t i)
{
	return (uint64_t *)(void *)((char *)p + params_table[i].offset);
}

json_t *migrate_params_json(const struct mig_params *p)
{
	struct object o = {.o = json_object()};
	struct mig_params copy = *p;

	for (size_t i = 0; i < N_PARAMS; i++)
		add_uint(&o, params_table[i].name, *param_at(&copy, i));
	add(&o, "multifd-compression", json_string(p->compress ? "zstd" : "none"));
	return finish(&o);
}

int migrate_params_set(struct mig_params *p, const json_t *args, struct err *e)
{
	const char *compression = json_string_value(json_object_get(args, "multifd-compression"));
	struct mig_params new = *p;

	for (size_t i = 0; i < N_PARAMS; i++) {
		const json_t *arg = json_object_get(args, params_table[i].name);
		json_int_t value = json_integer_value(arg);

		if (!arg)
			continue;
		if (value < params_table[i].min || value > params_table[i].max)
			return err_set(e, EINVAL, "%s must be %" PRId64 "%s to %" PRId64 " %s",
				       params_table[i].name, params_table[i].min,
				       params_table[i].zero, params_table[i].max,
				       params_table[i].unit);
		*param_at(&new, i) = (uint64_t)value;
	}
	if (compression) {
		new.compress = !strcmp(compression, "zstd");
		if (!new.compress && strcmp(compression, "none") != 0)
			return err_set(e, EINVAL, "multifd-compression must be none or zstd");
	}
	*p = new;
	return 0;
}

/* ---- capabilities ---- */

/* What QMP knows and ferry does not do: a management tool may switch it off. */
static const char *const absent_caps[] = {
	"xbzrle",          "rdma-pin-all",  "zero-blocks",         "compress",
	"postcopy-ram",    "x-colo",        "release-ram",         "block",
	"return-path",     "dirty-bitmaps", "postcopy-blocktime",  "late-block-activate",
	"x-ignore-shared", "validate-uuid", "background-snapshot", "postcopy-preempt",
	"switchover-ack",
};

static bool is_absent_cap(const char *name)
{
	for (size_t i = 0; i < sizeof(absent_caps) / sizeof(absent_caps[0]); i++)
		if (!strcmp(name, absent_caps[i]))
			return true;
	return false;
}

/* Those that are there. */
static const struct {
	const char *name;
	size_t offset; /* of its bool in struct migrate_caps */
} caps_table[] = {
	{"events", offsetof(struct migrate_caps, events)},
	{"mapped-ram", offsetof(struct migrate_caps, mapped_ram)},
	{"pause-before-switchover", offsetof(struct migrate_caps, pause_before_switchover)},
	{"multifd", offsetof(struct migrate_caps, multifd)},
	{"auto-converge", offsetof(struct migrate_caps, auto_converge)},
	{"dirty-limit", offsetof(struct migrate_caps, dirty_limit)},
	{"zero-copy-send", offsetof(struct migrate_caps, zero_copy_send)},
};

#define N_CAPS (sizeof(caps_table) / sizeof(caps_table[0]))

static bool *find_cap(struct migrate_caps *caps, const char *name)
{
	for (size_t i = 0; i < N_CAPS; i++)
		if (!strcmp(name, caps_table[i].name))
			return (bool *)((char *)caps + caps_table[i].offset);
	return NULL;
}

static int set_cap(struct migrate_caps *caps, const json_t *item, struct err *e)
{
	const char *name = json_string_value(json_object_get(item, "capability"));
	const json_t *state = json_object_get(item, "state");
	bool *cap;

	if (!name || !json_is_boolean(state) || json_object_size(item) != 2)
		return err_set(e, EINVAL,
			       "each item of 'capabilities' must be an object with 'capability', a "
			       "string, and 'state', true or false");
	cap = find_cap(caps, name);
	if (cap) {
		*cap = json_is_true(state);
		return 0;
	}
	if (!is_absent_cap(name))
		return err_set(e, EINVAL, "there is no migration capability '%.64s'", name);
	if (json_is_true(state))
		return err_set(e, ENOTSUP, "the migration capability '%s' is not supported", name);
	return 0;
}

int migrate_free_ranges(struct free_ranges *f, const struct mem *mem, const json_t *list,
			struct err *e)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item)
	{
		const json_t *gpa = json_object_get(item, "gpa");
		const json_t *bytes = json_object_get(item, "bytes");
		int rc;

		if (json_object_size(item) != 2 || !json_is_integer(gpa) ||
		    !json_is_integer(bytes) || json_integer_value(gpa) < 0 ||
		    json_integer_value(bytes) < 0)
			return err_set(
				e, EINVAL,
				"x-ferry-free-pages is a list of {\"gpa\": N, \"bytes\": N}");
		rc = free_ranges_add(f, mem, (uint64_t)json_integer_value(gpa),
				     (uint64_t)json_integer_value(bytes), e);
		if (rc)
			return rc;
	}
	return 0;
}

int migrate_caps_set(struct migrate_caps *caps, const json_t *list, struct err *e)
{
	struct migrate_caps wanted = *caps;
	const json_t *item;
	size_t i;
	int rc;

	json_array_foreach(list, i, item)
	{
		rc = set_cap(&wanted, item, e);
		if (rc)
			return rc;
	}
	if (wanted.auto_converge && wanted.dirty_limit)
		return err_set(e, EINVAL,
			       "auto-converge and dirty-limit both slow the guest down: only one "
			       "of them can be on");
	*caps = wanted;
	return 0;
}

json_t *migrate_caps_json(const struct migrate_caps *caps)
{
	struct migrate_caps copy = *caps;
	json_t *list = json_array();

	for (size_t i = 0; i < N_CAPS; i++) {
		const char *name = caps_table[i].name;

		if (json_array_append_new(list, json_pack("{s:s,s:b}", "capability", name, "state",
							  (int)*find_cap(&copy, name)))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* ---- the token of an undecided handover ---- */

void migrate_token_format(uint64_t token, char out[MIGRATE_TOKEN_BYTES])
{
	(void)snprintf(out, MIGRATE_TOKEN_BYTES, "%016" PRIx64, token);
}

int migrate_token_parse(const char *text, uint64_t *out, struct err *e)
{
	const char *digits = text;
	size_t len;

	if (digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X'))
		digits += 2;
	len = strlen(digits);
	if (len < 1 || len > 16 || strspn(digits, "0123456789abcdefABCDEF") != len)
		return err_set(e, EINVAL,
			       "'%.40s' is no token: it is up to 16 hexadecimal digits, as the "
			       "source shows them",
			       text);
	*out = strtoull(digits, NULL, 16);
	return 0;
}
