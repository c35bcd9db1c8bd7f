/* SPDX-License-Identifier: Apache-2.0 */
/* The control protocol without a socket: bytes in, messages out. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"
#include "vmm/ctl/qmp.h"

struct calls {
	unsigned plain, args, fail;
	char text[64];
};

static int run_plain(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	(void)args, (void)ret, (void)e;
	((struct calls *)ctx)->plain++;
	return 0;
}

static int run_args(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct calls *c = ctx;

	(void)e;
	c->args++;
	(void)snprintf(c->text, sizeof(c->text), "%s",
		       json_string_value(json_object_get(args, "text")));
	*ret = json_pack("{s:i}", "n", 7);
	return 0;
}

static int run_fail(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct calls *c = ctx;

	(void)args;
	*ret = json_object(); /* must not leak */
	return c->fail++ ? -EPERM : err_set(e, EIO, "broken \xff\xfe file");
}

static const struct qmp_command commands[] = {
	{.name = "plain", .run = run_plain},
	{.name = "args",
	 .run = run_args,
	 .args = {{"text", QMP_STRING, false},
		  {"count", QMP_UINT, true},
		  {"flag", QMP_BOOL, true},
		  {"list", QMP_LIST, true}}},
	{.name = "fail", .run = run_fail},
};

static struct calls calls;
static struct qmp_table table;
static struct qmp_conn *conn;

/* The next message from the connection; NULL if there is none. */
static json_t *next(void)
{
	size_t len;
	const char *out = qmp_output(conn, &len);
	const char *end = len ? memchr(out, '\n', len) : NULL;
	json_t *message;

	if (!end)
		return NULL;
	message = json_loadb(out, (size_t)(end - out), 0, NULL);
	ck_assert_ptr_nonnull(message);
	qmp_sent(conn, (size_t)(end - out) + 1);
	return message;
}

static void expect_nothing(void)
{
	size_t len;

	(void)qmp_output(conn, &len);
	ck_assert_uint_eq(len, 0);
}

static void say(const char *text)
{
	qmp_input(conn, text, strlen(text));
}

/* The next message must be an error of that class whose text contains `part`. */
static void expect_error(const char *class, const char *part)
{
	json_t *message = next(), *error = json_object_get(message, "error");
	const char *desc = json_string_value(json_object_get(error, "desc"));

	ck_assert_ptr_nonnull(error);
	ck_assert_str_eq(json_string_value(json_object_get(error, "class")), class);
	ck_assert_msg(strstr(desc, part), "'%s' is not in '%s'", part, desc);
	json_decref(message);
}

static void expect_return(void)
{
	json_t *message = next();

	ck_assert_ptr_nonnull(json_object_get(message, "return"));
	json_decref(message);
}

static void connect_only(void)
{
	json_t *greeting;

	memset(&calls, 0, sizeof(calls));
	table = (struct qmp_table){commands, sizeof(commands) / sizeof(commands[0]), &calls};
	ck_assert_int_eq(qmp_conn_new(&conn, &table), 0);
	greeting = next();
	ck_assert_int_eq(json_integer_value(json_object_get(
				 json_object_get(json_object_get(json_object_get(greeting, "QMP"),
								 "version"),
						 "qemu"),
				 "minor")),
			 1);
	ck_assert(json_is_array(json_object_get(json_object_get(greeting, "QMP"), "capabilities")));
	json_decref(greeting);
}

static void negotiated(void)
{
	connect_only();
	say("{\"execute\": \"qmp_capabilities\"}\n");
	expect_return();
}

static void teardown(void)
{
	qmp_conn_free(conn);
	conn = NULL;
}

START_TEST(negotiation)
{
	connect_only();
	say("{\"execute\": \"plain\"}\n");
	expect_error("CommandNotFound", "qmp_capabilities");
	qmp_event(conn, "STOP", NULL);
	expect_nothing();
	say("{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": [\"oob\"]}}\n");
	expect_error("GenericError", "oob");
	say("{\"execute\": \"plain\"}\n");
	expect_error("CommandNotFound", "qmp_capabilities");
	say("{\"execute\": \"qmp_capabilities\", \"arguments\": {\"enable\": []}}\n");
	expect_return();
	say("{\"execute\": \"qmp_capabilities\"}\n");
	expect_error("CommandNotFound", "over");
	ck_assert_uint_eq(calls.plain, 0);
	say("{\"execute\": \"plain\"}\n");
	expect_return();
	ck_assert_uint_eq(calls.plain, 1);
}
END_TEST

START_TEST(ids_are_echoed)
{
	static const char *const ids[] = {
		"1", "-5", "1.5", "null", "true", "\"a \\\" \\u00e9\"", "[1, [2]]", "{\"a\": {}}"};
	char line[128];

	negotiated();
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		for (int bad = 0; bad < 2; bad++) {
			json_t *want = json_loads(ids[i], JSON_DECODE_ANY, NULL), *got;

			(void)snprintf(line, sizeof(line), "{\"id\": %s, \"execute\": \"%s\"}\n",
				       ids[i], bad ? "nothing" : "plain");
			say(line);
			got = next();
			ck_assert(json_equal(json_object_get(got, "id"), want));
			ck_assert_ptr_nonnull(json_object_get(got, bad ? "error" : "return"));
			json_decref(got);
			json_decref(want);
		}
	}
	say("{\"execute\": \"plain\"}\n");
	json_t *without = next();

	ck_assert_ptr_null(json_object_get(without, "id"));
	json_decref(without);
}
END_TEST

START_TEST(arguments)
{
	negotiated();
	say("{\"execute\": \"args\", \"arguments\": {\"text\": \"hello\", \"count\": 0, \"flag\": "
	    "true, \"list\": []}}\n");
	expect_return();
	ck_assert_str_eq(calls.text, "hello");
	say("{\"execute\": \"args\"}\n");
	expect_error("GenericError", "'text'");
	say("{\"execute\": \"args\", \"arguments\": {\"text\": 5}}\n");
	expect_error("GenericError", "a string");
	say("{\"execute\": \"args\", \"arguments\": {\"text\": \"\", \"count\": -1}}\n");
	expect_error("GenericError", "'count'");
	say("{\"execute\": \"args\", \"arguments\": {\"text\": \"\", \"count\": 1.5}}\n");
	expect_error("GenericError", "'count'");
	say("{\"execute\": \"args\", \"arguments\": {\"text\": \"\", \"flag\": 1}}\n");
	expect_error("GenericError", "true or false");
	say("{\"execute\": \"args\", \"arguments\": {\"text\": \"\", \"list\": {}}}\n");
	expect_error("GenericError", "a list");
	say("{\"execute\": \"args\", \"arguments\": {\"text\": \"\", \"other\": 1}}\n");
	expect_error("GenericError", "'other'");
	say("{\"execute\": \"plain\", \"arguments\": {\"x\": 1}}\n");
	expect_error("GenericError", "'x'");
	say("{\"execute\": \"args\", \"arguments\": [1]}\n");
	expect_error("GenericError", "'arguments'");
	say("{\"execute\": \"args\", \"arguments\": {\"text\": \"\", \"count\": "
	    "99999999999999999999}}\n");
	expect_error("GenericError", "too big");
	ck_assert_uint_eq(calls.args, 1);
	ck_assert_uint_eq(calls.plain, 0);
}
END_TEST

START_TEST(failures)
{
	negotiated();
	say("{\"execute\": \"fail\"}\n");
	expect_error("GenericError", "broken ?? file");
	say("{\"execute\": \"fail\"}\n");
	expect_error("GenericError", "Operation not permitted");
	say("{\"execute\": \"system_reset\"}\n");
	expect_error("CommandNotFound", "system_reset");
	ck_assert(!qmp_closing(conn) && !qmp_dropped(conn));
}
END_TEST

static const char *const malformed[] = {
	"{",
	"}",
	"]",
	"nonsense",
	"{\"execute\"}",
	"{\"execute\": }",
	"{\"execute\": \"plain\"",
	"{\"execute\": \"plain}",
	"{\"execute\": \"plain\",}",
	"{'execute': 'plain'}",
	"{\"execute\": \"plain\", \"execute\": \"plain\"}",
	"{\"execute\": \"plain\", \"arguments\": {\"a\": 1, \"a\": 1}}",
	"{\"execute\": \"pla\\u0000in\"}",
	"{\"execute\": \"pla\xffin\"}",
	"{\"execute\": \"pla\tin\"}",
	"[{\"execute\": \"plain\"}]",
	"[]",
	"5",
	"\"plain\"",
	"null",
	"{}",
	"{\"execute\": 5}",
	"{\"exec-oob\": \"plain\"}",
	"{\"execute\": \"plain\", \"more\": 1}",
	"{\"arguments\": {}}",
	"{\"a\": }}}}{{{",
	"{\"execute\": 1e999}",
	"{\"x\": \"}\", }",
};

START_TEST(malformed_lines)
{
	char line[256];

	negotiated();
	(void)snprintf(line, sizeof(line), "%s\n", malformed[_i]);
	say(line);
	expect_error("GenericError", "");
	expect_nothing();
	ck_assert_uint_eq(calls.plain, 0);
	say("{\"execute\": \"plain\", \"id\": 9}\n");
	expect_return();
	expect_nothing();
	ck_assert_uint_eq(calls.plain, 1);
	ck_assert(!qmp_closing(conn) && !qmp_dropped(conn));
}
END_TEST

/* What is wrong is said in our own words, for people. */
static const struct {
	const char *line, *part;
} reasons[] = {
	{"[]", "must be an object"},
	{"[1, 2]", "must be an object"},
	{"5", "must be an object"},
	{"{\"execute\": \"a\\u0000b\"}", "the character \\u0000"},
	{"{\"a\": 1, \"a\": 2}", "twice"},
	{"\"\xff\"", "not UTF-8"},
	{"{\"execute\": ", "too early"},
	{"{,}", "no JSON"},
	{"{\"id\": 99999999999999999999}", "too big"},
};

START_TEST(reasons_are_told)
{
	negotiated();
	say(reasons[_i].line);
	say("\n");
	expect_error("GenericError", reasons[_i].part);
	expect_nothing();
}
END_TEST

START_TEST(nul_bytes)
{
	negotiated();
	qmp_input(conn, "\0\0{\"execute\": \"plain\"}\n", 23);
	expect_error("GenericError", "");
	say("{\"execute\": \"plain\"}\n");
	expect_return();
}
END_TEST

/* Whatever the pieces, the messages are the same. */
START_TEST(pieces)
{
	static const char text[] = "\n \r\n{\"execute\": \"plain\", \"id\": 1}\r\n"
				   "{\"execute\": \"plain\", \"id\": \"}{\\\"\"}{\"execute\": "
				   "\"plain\", \"id\": 3}  \n"
				   "{\"execute\":\n{\"execute\": \"plain\", \"id\": 4}\n";
	size_t len = sizeof(text) - 1;

	for (size_t step = 1; step <= len; step++) {
		negotiated();
		for (size_t at = 0; at < len; at += step)
			qmp_input(conn, text + at, at + step > len ? len - at : step);
		expect_return();
		expect_return();
		expect_return();
		expect_error("GenericError", "");
		expect_return();
		expect_nothing();
		ck_assert_uint_eq(calls.plain, 4);
		teardown();
	}
}
END_TEST

/* A client that sends no line ends is answered all the same. */
START_TEST(no_line_ends)
{
	negotiated();
	say("{\"execute\": \"plain\"");
	expect_nothing();
	say("}");
	expect_return();
	say("{\"execute\": \"args\", \"arguments\": {\"text\": \"{[\"}}");
	expect_return();
	ck_assert_str_eq(calls.text, "{[");
}
END_TEST

START_TEST(half_closed)
{
	negotiated();
	say("{\"execute\": \"plain\"}\n{\"execute\": ");
	qmp_input_end(conn);
	expect_return();
	expect_error("GenericError", "");
	ck_assert(qmp_closing(conn));
	say("{\"execute\": \"plain\"}\n");
	expect_nothing();
	ck_assert_uint_eq(calls.plain, 1);
}
END_TEST

static void say_long(size_t len)
{
	char *line = malloc(len);

	memset(line, ' ', len);
	memcpy(line, "{\"execute\": \"plain\"", 19);
	line[len - 1] = '}';
	qmp_input(conn, line, len);
	say("\n");
	free(line);
}

START_TEST(longest_line)
{
	negotiated();
	say_long(QMP_LINE_MAX);
	expect_return();
	ck_assert(!qmp_closing(conn));
	say_long(QMP_LINE_MAX + 1);
	expect_error("GenericError", "64 KiB");
	expect_nothing();
	ck_assert(qmp_closing(conn));
	ck_assert_uint_eq(calls.plain, 1);
}
END_TEST

START_TEST(nesting)
{
	char line[8192];

	for (unsigned depth = QMP_DEPTH_MAX - 1; depth <= 3000;
	     depth += depth < QMP_DEPTH_MAX ? 1 : 500) {
		size_t at;

		negotiated();
		at = (size_t)sprintf(line, "{\"execute\": \"plain\", \"id\": ");
		memset(line + at, '[', depth);
		memset(line + at + depth, ']', depth);
		memcpy(line + at + 2 * depth, "}\n", 3);
		say(line);
		if (depth + 1 <= QMP_DEPTH_MAX)
			expect_return();
		else
			expect_error("GenericError", "deep");
		say("{\"execute\": \"plain\"}\n");
		expect_return();
		teardown();
	}
}
END_TEST

START_TEST(events)
{
	json_t *data = json_pack("{s:b,s:s}", "guest", 1, "reason", "x"), *got;

	negotiated();
	qmp_event(conn, "SHUTDOWN", data);
	json_decref(data);
	got = next();
	ck_assert_str_eq(json_string_value(json_object_get(got, "event")), "SHUTDOWN");
	ck_assert_str_eq(json_string_value(json_object_get(json_object_get(got, "data"), "reason")),
			 "x");
	ck_assert(json_integer_value(json_object_get(json_object_get(got, "timestamp"),
						     "seconds")) > 1000000000);
	json_decref(got);
	qmp_event(conn, "STOP", NULL);
	got = next();
	ck_assert_ptr_null(json_object_get(got, "data"));
	json_decref(got);
}
END_TEST

START_TEST(slow_client)
{
	size_t len = 0, before;

	negotiated();
	while (!qmp_dropped(conn)) {
		before = len;
		qmp_event(conn, "STOP", NULL);
		(void)qmp_output(conn, &len);
		ck_assert_uint_le(len, QMP_OUT_MAX);
		ck_assert(len > before || qmp_dropped(conn));
	}
	say("{\"execute\": \"plain\"}\n");
	ck_assert_uint_eq(calls.plain, 0);
}
END_TEST

START_TEST(lists_commands)
{
	json_t *got, *list, *item;
	unsigned found = 0;
	size_t i;

	negotiated();
	say("{\"execute\": \"query-commands\"}\n");
	got = next();
	list = json_object_get(got, "return");
	json_array_foreach(list, i, item)
	{
		const char *name = json_string_value(json_object_get(item, "name"));

		found += !strcmp(name, "plain") || !strcmp(name, "query-commands") ||
			 !strcmp(name, "qmp_capabilities") || !strcmp(name, "fail");
	}
	ck_assert_uint_eq(found, 4);
	ck_assert_uint_eq(json_array_size(list), 5);
	json_decref(got);
}
END_TEST

/* Random bytes, and random changes to good lines, must never do harm. */
START_TEST(noise)
{
	static const char good[] = "{\"execute\": \"args\", \"arguments\": {\"text\": \"a\"}}\n";
	char line[sizeof(good)];
	size_t len;

	srand(4711);
	negotiated();
	for (int i = 0; i < 200000; i++) {
		memcpy(line, good, sizeof(good));
		for (int k = rand() % 4; k >= 0; k--)
			line[(size_t)rand() % (sizeof(good) - 1)] =
				rand() % 2 ? (char)rand() : "{}[]\":,\\\n"[rand() % 9];
		qmp_input(conn, line, sizeof(good) - 1);
		(void)qmp_output(conn, &len);
		qmp_sent(conn, len);
		ck_assert(!qmp_dropped(conn));
		if (qmp_closing(conn)) {
			teardown();
			negotiated();
		}
	}
}
END_TEST

SUITE_WITH("qmp", NULL, teardown, negotiation, ids_are_echoed, arguments, failures,
	   EACH(malformed_lines, malformed), EACH(reasons_are_told, reasons), nul_bytes, pieces,
	   no_line_ends, half_closed, longest_line, nesting, events, slow_client, lists_commands,
	   noise)
