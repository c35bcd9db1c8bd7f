/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ctl/qmp.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

struct qmp_conn {
	const struct qmp_table *table;
	bool negotiated, closing, dropped;
	/* the message that is being read, and what scan() knows of it */
	char *line;
	size_t len;
	unsigned depth, max_depth;
	bool in_string, escaped;
	bool tried; /* its braces were balanced once, but it was no JSON: wait for the line's end */
	/* what is to be sent */
	char *out;
	size_t out_len, out_cap;
};

json_t *qmp_text(const char *text)
{
	json_t *v = json_string(text);
	char *copy;

	if (v)
		return v;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	v = json_string(copy);
	free(copy);
	return v;
}

json_t *qmp_uint(uint64_t v)
{
	return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

json_t *qmp_version(void)
{
	int major = 0, minor = 0, micro = 0;

	(void)sscanf(FERRY_VERSION, "%d.%d.%d", &major, &minor, &micro);
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "major", major, "minor", minor, "micro",
			 micro, "package", "ferry " FERRY_VERSION);
}

/* ---- output ---- */

static int append(const char *data, size_t len, void *ctx)
{
	struct qmp_conn *c = ctx;

	if (len > QMP_OUT_MAX - c->out_len)
		return -1;
	if (c->out_len + len > c->out_cap) {
		size_t cap = c->out_cap ? c->out_cap : 512;
		char *grown;

		while (cap < c->out_len + len)
			cap *= 2;
		grown = realloc(c->out, cap);
		if (!grown)
			return -1;
		c->out = grown;
		c->out_cap = cap;
	}
	memcpy(c->out + c->out_len, data, len);
	c->out_len += len;
	return 0;
}

/* Steals the message. What does not fit, or could not be made, ends the connection. */
static void emit(struct qmp_conn *c, json_t *message)
{
	if (!c->dropped && (!message || json_dump_callback(message, append, c, JSON_ENSURE_ASCII) ||
			    append("\n", 1, c)))
		c->dropped = true;
	json_decref(message);
}

static void emit_error(struct qmp_conn *c, const char *class, const char *desc, json_t *id)
{
	json_t *message =
		json_pack("{s:{s:s,s:o}}", "error", "class", class, "desc", qmp_text(desc));

	if (message && id && json_object_set(message, "id", id)) {
		json_decref(message);
		message = NULL;
	}
	emit(c, message);
}

static void emit_return(struct qmp_conn *c, json_t *value, json_t *id)
{
	json_t *message = json_pack("{s:o}", "return", value ? value : json_object());

	if (message && id && json_object_set(message, "id", id)) {
		json_decref(message);
		message = NULL;
	}
	emit(c, message);
}

void qmp_event(struct qmp_conn *c, const char *name, const json_t *data)
{
	struct timeval now;
	json_t *message;

	if (!c->negotiated || c->dropped)
		return;
	(void)gettimeofday(&now, NULL);
	message = json_pack("{s:s,s:{s:I,s:I}}", "event", name, "timestamp", "seconds",
			    (json_int_t)now.tv_sec, "microseconds", (json_int_t)now.tv_usec);
	if (message && data && json_object_set_new(message, "data", json_deep_copy(data))) {
		json_decref(message);
		message = NULL;
	}
	emit(c, message);
}

const char *qmp_output(const struct qmp_conn *c, size_t *len)
{
	*len = c->out_len;
	return c->out;
}

void qmp_sent(struct qmp_conn *c, size_t n)
{
	c->out_len -= n;
	memmove(c->out, c->out + n, c->out_len);
}

bool qmp_negotiated(const struct qmp_conn *c)
{
	return c->negotiated;
}

bool qmp_closing(const struct qmp_conn *c)
{
	return c->closing;
}

bool qmp_dropped(const struct qmp_conn *c)
{
	return c->dropped;
}

/* ---- commands ---- */

static const char *type_text(enum qmp_type t)
{
	switch (t) {
	case QMP_STRING:
		return "a string";
	case QMP_UINT:
		return "a whole number from 0 up";
	case QMP_BOOL:
		return "true or false";
	case QMP_LIST:
		return "a list";
	}
	return "something else";
}

static bool type_matches(const json_t *v, enum qmp_type t)
{
	switch (t) {
	case QMP_STRING:
		return json_is_string(v);
	case QMP_UINT:
		return json_is_integer(v) && json_integer_value(v) >= 0;
	case QMP_BOOL:
		return json_is_boolean(v);
	case QMP_LIST:
		return json_is_array(v);
	}
	return false;
}

static bool has_arg(const struct qmp_command *cmd, const char *name)
{
	for (const struct qmp_arg *a = cmd->args; a->name; a++)
		if (!strcmp(a->name, name))
			return true;
	return false;
}

static int check_args(const struct qmp_command *cmd, json_t *args, struct err *e)
{
	const char *key;
	json_t *value;

	json_object_foreach(args, key, value) if (!has_arg(cmd, key)) return err_set(
		e, EINVAL, "%s has no argument '%.64s'", cmd->name, key);
	for (const struct qmp_arg *a = cmd->args; a->name; a++) {
		value = json_object_get(args, a->name);
		if (!value && a->optional)
			continue;
		if (!value)
			return err_set(e, EINVAL, "%s needs the argument '%s'", cmd->name, a->name);
		if (!type_matches(value, a->type))
			return err_set(e, EINVAL, "argument '%s' of %s must be %s", a->name,
				       cmd->name, type_text(a->type));
	}
	return 0;
}

static const struct qmp_command negotiate = {
	"qmp_capabilities", NULL, {{"enable", QMP_LIST, true}}};
static const struct qmp_command query_commands = {.name = "query-commands"};

static int run_negotiate(struct qmp_conn *c, const json_t *args, struct err *e)
{
	const json_t *wanted = json_array_get(json_object_get(args, "enable"), 0);
	const char *name = json_string_value(wanted);

	if (wanted)
		return err_set(e, EINVAL, "the protocol capability '%.64s' is not offered",
			       name ? name : "(no string)");
	c->negotiated = true;
	return 0;
}

static int run_query_commands(const struct qmp_table *t, json_t **ret)
{
	json_t *list = json_array();
	int rc = list ? 0 : -ENOMEM;

	for (size_t i = 0; !rc && i < t->n_commands; i++)
		rc = json_array_append_new(list, json_pack("{s:s}", "name", t->commands[i].name));
	if (!rc)
		rc = json_array_append_new(list, json_pack("{s:s}", "name", negotiate.name));
	if (!rc)
		rc = json_array_append_new(list, json_pack("{s:s}", "name", query_commands.name));
	*ret = list;
	return rc ? -ENOMEM : 0;
}

static const struct qmp_command *find_command(const struct qmp_table *t, const char *name)
{
	if (!strcmp(name, negotiate.name))
		return &negotiate;
	if (!strcmp(name, query_commands.name))
		return &query_commands;
	for (size_t i = 0; i < t->n_commands; i++)
		if (!strcmp(name, t->commands[i].name))
			return &t->commands[i];
	return NULL;
}

static void run_command(struct qmp_conn *c, const struct qmp_command *cmd, json_t *args, json_t *id)
{
	struct err e = ERR_INIT;
	json_t *ret = NULL;
	int rc = check_args(cmd, args, &e);

	if (!rc && cmd == &negotiate)
		rc = run_negotiate(c, args, &e);
	else if (!rc && cmd == &query_commands)
		rc = run_query_commands(c->table, &ret);
	else if (!rc)
		rc = cmd->run(c->table->ctx, args, &ret, &e);
	if (!rc) {
		emit_return(c, ret, id);
		return;
	}
	json_decref(ret);
	(void)err_sys(&e, -rc, "%s failed", cmd->name); /* if the command has not said more */
	emit_error(c, "GenericError", e.msg, id);
}

/* A message's members; only "execute" must be there. NULL or what is wrong with it. */
static const char *check_members(json_t *message)
{
	const char *key;
	json_t *value;

	json_object_foreach(message, key, value) if (
		strcmp(key, "execute") != 0 && strcmp(key, "arguments") != 0 &&
		strcmp(key, "id") !=
			0) return "a command has only the members 'execute', 'arguments' and 'id'";
	if (!json_is_string(json_object_get(message, "execute")))
		return "a command needs the member 'execute', a string";
	value = json_object_get(message, "arguments");
	if (value && !json_is_object(value))
		return "'arguments' must be an object";
	return NULL;
}

static void handle_object(struct qmp_conn *c, json_t *message)
{
	json_t *id = json_object_get(message, "id");
	json_t *args = json_object_get(message, "arguments");
	const char *wrong = check_members(message), *name;
	const struct qmp_command *cmd;
	char desc[160];

	if (wrong) {
		emit_error(c, "GenericError", wrong, id);
		return;
	}
	name = json_string_value(json_object_get(message, "execute"));
	cmd = find_command(c->table, name);
	if (!c->negotiated && cmd != &negotiate) {
		emit_error(c, "CommandNotFound",
			   "the first command must be qmp_capabilities, which ends the negotiation",
			   id);
	} else if (c->negotiated && cmd == &negotiate) {
		emit_error(c, "CommandNotFound", "the negotiation is over already", id);
	} else if (!cmd) {
		(void)snprintf(desc, sizeof(desc), "there is no command '%.64s'", name);
		emit_error(c, "CommandNotFound", desc, id);
	} else {
		json_t *none = args ? json_incref(args) : json_object();

		run_command(c, cmd, none, id);
		json_decref(none);
	}
}

/* ---- input ---- */

static void forget_line(struct qmp_conn *c)
{
	c->len = 0;
	c->depth = c->max_depth = 0;
	c->in_string = c->escaped = c->tried = false;
}

/* Try to read c->line. Returns false, without a reply, if it is no JSON (*why) or no object. */
static bool try_message(struct qmp_conn *c, bool *parsed, json_error_t *why)
{
	json_t *message =
		json_loadb(c->line, c->len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, why);

	*parsed = message != NULL;
	if (!json_is_object(message)) {
		json_decref(message);
		return false;
	}
	handle_object(c, message);
	json_decref(message);
	return true;
}

/* The parser's own texts speak to programmers. */
static const char *reason(const json_error_t *why, bool parsed)
{
	if (parsed)
		return "a command must be an object";
	switch (json_error_code(why)) {
	case json_error_duplicate_key:
		return "a key is there twice";
	case json_error_null_character:
	case json_error_null_byte_in_key:
		return "texts must not contain the character \\u0000";
	case json_error_numeric_overflow:
		return "a number is too big";
	case json_error_invalid_utf8:
		return "it is not UTF-8";
	case json_error_premature_end_of_input:
		return "it ends too early";
	default:
		return "it is no JSON";
	}
}

static void handle_line(struct qmp_conn *c)
{
	json_error_t why = {.position = 0};
	bool parsed = false;
	char desc[160];

	if (c->max_depth > QMP_DEPTH_MAX) {
		emit_error(c, "GenericError", "the message is nested too deeply", NULL);
	} else if (c->len && !try_message(c, &parsed, &why)) {
		(void)snprintf(desc, sizeof(desc), "the message is not valid: %s",
			       reason(&why, parsed));
		emit_error(c, "GenericError", desc, NULL);
	}
	forget_line(c);
}

/*
 * Follow strings and brackets, only to see where an object may end and how deep it is nested.
 * Returns true where one may end.
 */
static bool scan(struct qmp_conn *c, char ch)
{
	if (c->in_string) {
		if (c->escaped)
			c->escaped = false;
		else if (ch == '\\')
			c->escaped = true;
		else if (ch == '"')
			c->in_string = false;
		return false;
	}
	if (ch == '"') {
		c->in_string = true;
	} else if (ch == '{' || ch == '[') {
		if (++c->depth > c->max_depth)
			c->max_depth = c->depth;
	} else if ((ch == '}' || ch == ']') && c->depth) {
		return --c->depth == 0 && ch == '}';
	}
	return false;
}

static void input_byte(struct qmp_conn *c, char ch)
{
	json_error_t why;
	bool parsed;

	if (ch == '\n') {
		handle_line(c);
		return;
	}
	if (!c->len && (ch == ' ' || ch == '\t' || ch == '\r'))
		return;
	if (c->len == QMP_LINE_MAX) {
		emit_error(c, "GenericError",
			   "the message is longer than 64 KiB: this connection is closed", NULL);
		c->closing = true;
		return;
	}
	c->line[c->len++] = ch;
	/* Some clients send no line ends; others send broken objects and get one reply a line. */
	if (!scan(c, ch) || c->tried || c->line[0] != '{' || c->max_depth > QMP_DEPTH_MAX)
		return;
	if (try_message(c, &parsed, &why))
		forget_line(c);
	else
		c->tried = true;
}

void qmp_input(struct qmp_conn *c, const char *data, size_t len)
{
	for (size_t i = 0; i < len && !c->closing && !c->dropped; i++)
		input_byte(c, data[i]);
}

void qmp_input_end(struct qmp_conn *c)
{
	if (!c->closing && !c->dropped)
		handle_line(c);
	c->closing = true;
}

int qmp_conn_new(struct qmp_conn **out, const struct qmp_table *table)
{
	struct qmp_conn *c = calloc(1, sizeof(*c));

	if (c)
		c->line = malloc(QMP_LINE_MAX);
	if (!c || !c->line) {
		free(c);
		return -ENOMEM;
	}
	c->table = table;
	emit(c, json_pack("{s:{s:o,s:[]}}", "QMP", "version", qmp_version(), "capabilities"));
	if (c->dropped) {
		qmp_conn_free(c);
		return -ENOMEM;
	}
	*out = c;
	return 0;
}

void qmp_conn_free(struct qmp_conn *c)
{
	if (!c)
		return;
	free(c->line);
	free(c->out);
	free(c);
}
