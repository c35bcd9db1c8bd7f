/* SPDX-License-Identifier: Apache-2.0 */
/* A migration's figures: the engine's status to JSON, JSON to what `ferry migrate` shows. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"
#include "vmm/cli/progress.h"
#include "vmm/ctl/migrate_info.h"

static struct err err;

static struct mig_status sample(enum mig_state state)
{
	return (struct mig_status){
		.state = state,
		.token = 0x0123456789abcdef,
		.total_ns = 2500000000,
		.setup_ns = 1500000,
		.downtime_ns = 9400001,
		.predicted_downtime_ns = 20000000,
		.predicted_at_switch_ns = 11000000,
		.downtime_limit_ns = 300000000,
		.page_bytes = 4096,
		.ram_total_bytes = 1 << 30,
		.remaining_bytes = 1 << 28,
		.transferred_bytes = 900 << 20,
		.normal_pages = 1000,
		.zero_pages = 2000,
		.precopy_bytes = 5,
		.downtime_bytes = 6,
		.passes = 3,
		.syncs = 4,
		.dirty_pages_per_s = 256,
		.bytes_per_s = 100 << 20,
		.switchovers_called_off = 1,
	};
}

static json_int_t number(const json_t *o, const char *key)
{
	ck_assert_msg(json_is_integer(json_object_get(o, key)), "%s", key);
	return json_integer_value(json_object_get(o, key));
}

static bool has(const json_t *o, const char *key)
{
	return json_object_get(o, key) != NULL;
}

START_TEST(active)
{
	struct mig_status s = sample(MIG_ACTIVE);
	json_t *o = migrate_info_json(&s, true, "tcp:a:1"), *ram = json_object_get(o, "ram");

	ck_assert_str_eq(json_string_value(json_object_get(o, "status")), "active");
	ck_assert_int_eq(number(o, "expected-downtime"), 20);
	ck_assert_int_eq(number(o, "total-time"), 2500);
	ck_assert_int_eq(number(o, "setup-time"), 2);
	ck_assert(!has(o, "downtime") && !has(o, "error-desc") && !has(o, "x-ferry-token"));
	ck_assert_int_eq(number(ram, "remaining"), 1 << 28);
	ck_assert_int_eq(number(ram, "total"), 1 << 30);
	ck_assert_int_eq(number(ram, "transferred"), 900 << 20);
	ck_assert_int_eq(number(ram, "duplicate"), 2000);
	ck_assert_int_eq(number(ram, "normal"), 1000);
	ck_assert_int_eq(number(ram, "normal-bytes"), 4096000);
	ck_assert_int_eq(number(ram, "dirty-pages-rate"), 256);
	ck_assert_int_eq(number(ram, "dirty-sync-count"), 4);
	ck_assert_int_eq(number(ram, "page-size"), 4096);
	ck_assert_int_eq(number(ram, "pages-per-second"), 25600);
	ck_assert_double_eq_tol(json_real_value(json_object_get(ram, "mbps")), 838.86, 0.01);
	json_decref(o);
}
END_TEST

START_TEST(other_states)
{
	struct mig_status s = sample(MIG_COMPLETED);
	json_t *o = migrate_info_json(&s, true, NULL);

	ck_assert_int_eq(number(o, "downtime"), 10);
	ck_assert_int_eq(number(o, "x-ferry-downtime-ns"), 9400001);
	ck_assert(!has(o, "expected-downtime"));
	json_decref(o);

	s = sample(MIG_SETUP);
	o = migrate_info_json(&s, true, NULL);
	ck_assert(!has(o, "ram"));
	json_decref(o);

	s = sample(MIG_NONE);
	o = migrate_info_json(&s, false, "unix:/x");
	ck_assert(!has(o, "total-time") && has(o, "x-ferry-uri"));
	json_decref(o);

	s = sample(MIG_FAILED);
	strcpy(s.error, "no \xff route");
	o = migrate_info_json(&s, true, NULL);
	ck_assert_str_eq(json_string_value(json_object_get(o, "error-desc")), "no ? route");
	json_decref(o);

	/* The token is the source's to show. */
	s = sample(MIG_UNDECIDED);
	o = migrate_info_json(&s, true, NULL);
	ck_assert_str_eq(json_string_value(json_object_get(o, "x-ferry-token")),
			 "0123456789abcdef");
	json_decref(o);
	o = migrate_info_json(&s, false, NULL);
	ck_assert(!has(o, "x-ferry-token"));
	json_decref(o);
}
END_TEST

START_TEST(large_numbers)
{
	struct mig_status s = sample(MIG_ACTIVE);
	json_t *o;

	s.remaining_bytes = UINT64_MAX;
	o = migrate_info_json(&s, true, NULL);
	ck_assert(number(json_object_get(o, "ram"), "remaining") == INT64_MAX);
	json_decref(o);
}
END_TEST

START_TEST(zero_copy_words)
{
	static const char *const words[] = {NULL, "not offered", "copied by the device", "used"};
	struct mig_status s = {.state = MIG_ACTIVE};

	for (unsigned i = 0; i < 4; i++) {
		const char *said;
		json_t *o;

		s.zero_copy = (enum mig_zero_copy_verdict)i;
		o = migrate_info_json(&s, true, NULL);
		said = json_string_value(json_object_get(o, "x-ferry-zero-copy"));
		ck_assert_pstr_eq(said, words[i]);
		json_decref(o);
	}
}
END_TEST

static int set_params(struct mig_params *p, const char *text)
{
	json_t *args = json_loads(text, 0, NULL);
	int rc;

	err_clear(&err);
	rc = migrate_params_set(p, args, &err);
	json_decref(args);
	return rc;
}

START_TEST(params)
{
	struct mig_params p = {.downtime_limit_ms = 300};
	json_t *o;

	ck_assert_int_eq(set_params(&p, "{}"), 0);
	ck_assert_int_eq(set_params(&p, "{\"downtime-limit\": 50}"), 0);
	ck_assert_uint_eq(p.downtime_limit_ms, 50);
	ck_assert_int_eq(set_params(&p,
				    "{\"max-bandwidth\": 9223372036854775807, \"downtime-limit\": "
				    "2000000}"),
			 0);
	ck_assert_uint_eq(p.max_bandwidth_bytes_s, INT64_MAX);
	ck_assert_int_eq(set_params(&p, "{\"max-bandwidth\": 5, \"downtime-limit\": 2000001}"),
			 -EINVAL);
	ck_assert_uint_eq(p.max_bandwidth_bytes_s, INT64_MAX);
	ck_assert_ptr_nonnull(strstr(err.msg, "2000000"));
	ck_assert_int_eq(set_params(&p, "{\"downtime-limit\": 0}"), -EINVAL);
	ck_assert_int_eq(set_params(&p, "{\"max-bandwidth\": 0}"), 0);
	ck_assert_int_eq(set_params(&p,
				    "{\"x-converge-time\": 40, \"max-cpu-throttle\": 80, "
				    "\"throttle-trigger-threshold\": 60, \"vcpu-dirty-limit\": 7}"),
			 0);
	ck_assert_uint_eq(p.throttle.converge_s, 40);
	ck_assert_uint_eq(p.throttle.max_percent, 80);
	ck_assert_uint_eq(p.throttle.trigger_percent, 60);
	ck_assert_uint_eq(p.throttle.cpu_limit_mib_s, 7);
	ck_assert_int_eq(set_params(&p, "{\"max-cpu-throttle\": 100}"), -EINVAL);
	ck_assert_int_eq(set_params(&p, "{\"vcpu-dirty-limit\": 0}"), -EINVAL);
	o = migrate_params_json(&p);
	ck_assert_int_eq(number(o, "downtime-limit"), 2000000);
	ck_assert_int_eq(number(o, "max-bandwidth"), 0);
	ck_assert_int_eq(number(o, "x-converge-time"), 40);
	json_decref(o);
}
END_TEST

static int set_caps(struct migrate_caps *caps, const char *text)
{
	json_t *list = json_loads(text, 0, NULL);
	int rc;

	ck_assert_ptr_nonnull(list);
	err_clear(&err);
	rc = migrate_caps_set(caps, list, &err);
	json_decref(list);
	return rc;
}

START_TEST(capabilities)
{
	struct migrate_caps caps = {.events = false};
	json_t *o;

	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"events\", \"state\": true}]"), 0);
	ck_assert(caps.events);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"xbzrle\", \"state\": false}]"), 0);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"events\", \"state\": false}, "
					 "{\"capability\": \"xbzrle\", \"state\": true}]"),
			 -ENOTSUP);
	ck_assert_ptr_nonnull(strstr(err.msg, "'xbzrle' is not supported"));
	ck_assert(caps.events);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"magic\", \"state\": false}]"),
			 -EINVAL);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"events\"}]"), -EINVAL);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": 5, \"state\": true}]"), -EINVAL);
	ck_assert_int_eq(set_caps(&caps, "[5]"), -EINVAL);
	ck_assert_int_eq(set_caps(&caps, "[[]]"), -EINVAL);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"mapped-ram\", \"state\": true}]"), 0);
	ck_assert(caps.events && caps.mapped_ram && !caps.pause_before_switchover);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"multifd\", \"state\": true}]"), 0);
	ck_assert(caps.multifd);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"auto-converge\", \"state\": true}]"),
			 0);
	ck_assert(caps.auto_converge);
	/* One or the other. */
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"dirty-limit\", \"state\": true}]"),
			 -EINVAL);
	ck_assert(!caps.dirty_limit);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"dirty-limit\", \"state\": true}, "
					 "{\"capability\": \"auto-converge\", \"state\": false}]"),
			 0);
	ck_assert(caps.dirty_limit && !caps.auto_converge);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"zero-copy-send\", \"state\": true}]"),
			 0);
	ck_assert(caps.zero_copy_send);
	o = migrate_caps_json(&caps);
	ck_assert_uint_eq(json_array_size(o), 7);
	ck_assert(json_is_true(json_object_get(json_array_get(o, 0), "state")));
	json_decref(o);
	ck_assert_int_eq(set_caps(&caps, "[{\"capability\": \"pause-before-switchover\", "
					 "\"state\": true}]"),
			 0);
	ck_assert(caps.events && caps.pause_before_switchover);
}
END_TEST

/* Who is slowed down, from the engine's figures to the line that people read. */
START_TEST(slowed)
{
	struct mig_status s = sample(MIG_ACTIVE);
	struct progress p;
	char line[256];
	json_t *o;

	s.throttle = (struct mig_throttle_status){
		.active = true,
		.stall_ns = 1500000000,
		.most_taken = 600,
		.n_cpus = 2,
		.cpus = {{.share = MIG_SHARE_FULL}, {.share = 400, .dirty_pages_s = 123}}};
	o = migrate_info_json(&s, true, NULL);
	ck_assert_int_eq(number(o, "cpu-throttle-percentage"), 60);
	ck_assert_int_eq(number(o, "x-ferry-stall-ns"), 1500000000);
	ck_assert_int_eq(
		number(json_array_get(json_object_get(o, "x-ferry-vcpus"), 1), "dirty-pages-rate"),
		123);
	progress_read(&p, o);
	progress_line(&p, line, sizeof(line));
	ck_assert_ptr_nonnull(strstr(line, "vCPU 1 slowed to 40 %"));
	json_decref(o);

	s.throttle.cpus[0].share = 900;
	o = migrate_info_json(&s, true, NULL);
	progress_read(&p, o);
	ck_assert_str_eq(p.slowed, "2 vCPUs slowed, to 40 % and up");
	json_decref(o);

	/* Off again: what it cost stays. */
	s.throttle.active = false;
	o = migrate_info_json(&s, true, NULL);
	ck_assert(!has(o, "cpu-throttle-percentage") && !has(o, "x-ferry-vcpus"));
	progress_read(&p, o);
	ck_assert_str_eq(p.slowed, "");
	ck_assert_uint_eq(p.stall_ns, 1500000000);
	json_decref(o);
}
END_TEST

START_TEST(tokens)
{
	static const char *const bad[] = {"", "0x", "xyz", "00123456789abcdef", "-1", " 1", "1 "};
	char text[MIGRATE_TOKEN_BYTES];
	uint64_t t;

	migrate_token_format(0xab, text);
	ck_assert_str_eq(text, "00000000000000ab");
	ck_assert_int_eq(migrate_token_parse(text, &t, &err), 0);
	ck_assert_uint_eq(t, 0xab);
	ck_assert_int_eq(migrate_token_parse("0xFFFFFFFFFFFFFFFF", &t, &err), 0);
	ck_assert_uint_eq(t, UINT64_MAX);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_msg(migrate_token_parse(bad[i], &t, NULL) == -EINVAL, "'%s'", bad[i]);
}
END_TEST

static struct progress read_sample(const struct mig_status *s, json_t **keep)
{
	struct progress p;

	*keep = migrate_info_json(s, true, "tcp:a:1");
	progress_read(&p, *keep);
	return p;
}

START_TEST(lines)
{
	struct mig_status s = sample(MIG_ACTIVE);
	struct progress p;
	char line[256];
	json_t *keep;

	p = read_sample(&s, &keep);
	progress_line(&p, line, sizeof(line));
	ck_assert_str_eq(line, "active  75%, 256 MiB left, pass 3, 100 MiB/s, "
			       "would be dark 20.0 ms, dirty 1.00 MiB/s, sent 900 MiB");
	/* Whole parts, the first ones, and the beginning in any case. */
	progress_line(&p, line, 80);
	ck_assert_str_eq(line,
			 "active  75%, 256 MiB left, pass 3, 100 MiB/s, would be dark 20.0 ms");
	progress_line(&p, line, 20);
	ck_assert_str_eq(line, "active  75%");
	progress_line(&p, line, 5);
	ck_assert_str_eq(line, "acti");
	p.syncs = 0; /* the first pass: what the guest writes is not known yet */
	progress_line(&p, line, sizeof(line));
	ck_assert_str_eq(line,
			 "active  75%, 256 MiB left, pass 3, 100 MiB/s, would be dark 20.0 ms, "
			 "sent 900 MiB");
	progress_save_line(&p, line, sizeof(line));
	ck_assert_str_eq(line, "active  75%, 900 MiB written, 100 MiB/s");
	progress_save_line(&p, line, 30);
	ck_assert_str_eq(line, "active  75%, 900 MiB written");
	json_decref(keep);
	s = sample(MIG_SETUP);
	p = read_sample(&s, &keep);
	progress_line(&p, line, sizeof(line));
	ck_assert_str_eq(line, "setup");
	json_decref(keep);
}
END_TEST

START_TEST(ends_and_hints)
{
	static const enum mig_state under_way[] = {MIG_SETUP, MIG_ACTIVE, MIG_DEVICE,
						   MIG_CANCELLING};
	static const enum mig_state over[] = {MIG_COMPLETED, MIG_FAILED, MIG_CANCELLED,
					      MIG_UNDECIDED};
	struct progress p;
	struct mig_status s;
	json_t *keep;

	for (size_t i = 0; i < 4; i++) {
		s = sample(under_way[i]);
		p = read_sample(&s, &keep);
		ck_assert(!progress_ended(&p));
		json_decref(keep);
		s = sample(over[i]);
		p = read_sample(&s, &keep);
		ck_assert(progress_ended(&p));
		json_decref(keep);
	}
	s = sample(MIG_ACTIVE);
	p = read_sample(&s, &keep);
	ck_assert(!progress_stuck(&p));
	json_decref(keep);
	s.dirty_pages_per_s = 25600;
	p = read_sample(&s, &keep);
	ck_assert(progress_stuck(&p));
	json_decref(keep);
	s.passes = 1;
	p = read_sample(&s, &keep);
	ck_assert(!progress_stuck(&p));
	json_decref(keep);
}
END_TEST

/* A save has no limit that it could be over. */
START_TEST(summary_of_a_save)
{
	struct mig_status s = sample(MIG_COMPLETED);
	struct progress p;
	json_t *keep;
	char *text = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&text, &len);

	s.downtime_limit_ns = 0;
	p = read_sample(&s, &keep);
	progress_summary(&p, to);
	ck_assert_int_eq(fclose(to), 0);
	ck_assert_msg(strstr(text, "downtime     9.400 ms\n") != NULL, "%s", text);
	ck_assert_msg(strstr(text, "1000 written, 2000 zero") != NULL, "%s", text);
	ck_assert_msg(!strstr(text, "limit") && !strstr(text, "sent"), "%s", text);
	free(text);
	json_decref(keep);
}
END_TEST

/* An answer of another shape shows zeroes, and harms nobody. */
START_TEST(strange_answers)
{
	static const char *const answers[] = {
		"{}", "{\"ram\": 5, \"status\": []}", "{\"ram\": {\"total\": -5}}",
		"{\"status\": \"a status of a length that nobody would have thought possible\"}",
		"{\"ram\": {\"total\": 10, \"remaining\": 20}, \"status\": \"active\"}"};
	struct progress p;
	char line[256];

	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		json_t *o = json_loads(answers[i], 0, NULL);
		FILE *null = fopen("/dev/null", "w");

		progress_read(&p, o);
		progress_line(&p, line, sizeof(line));
		progress_summary(&p, null);
		(void)fclose(null);
		json_decref(o);
	}
}
END_TEST

SUITE("migration figures", active, other_states, large_numbers, zero_copy_words, params,
      capabilities, slowed, tokens, lines, ends_and_hints, summary_of_a_save, strange_answers)
