/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/options.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int number_parse(const char *text, uint64_t max, uint64_t *out)
{
	uint64_t n = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
			n = UINT64_MAX; /* go on: a letter further on is the better complaint */
	}
	if (n > max)
		return -ERANGE;
	*out = n;
	return 0;
}

int size_parse(const char *text, uint64_t *out)
{
	static const char units[] = "kmgt";
	size_t len = strlen(text);
	char digits[32];
	const char *unit;
	unsigned shift = 0;
	uint64_t n;
	int rc;

	if (!len || len >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, len + 1);
	unit = strchr(units, digits[len - 1] | 0x20);
	if (unit && (digits[len - 1] < '0' || digits[len - 1] > '9')) {
		shift = 10 * (unsigned)(unit - units + 1);
		digits[len - 1] = '\0';
	}
	rc = number_parse(digits, UINT64_MAX - 1, &n);
	if (rc)
		return rc;
	if (n > UINT64_MAX >> shift)
		return -ERANGE;
	*out = n << shift;
	return 0;
}

/* After "0x"; at least one digit. */
static int hex_parse(const char *digits, uint64_t *out)
{
	uint64_t n = 0;
	size_t len = strspn(digits, "0123456789abcdefABCDEF");

	if (!len || digits[len])
		return -EINVAL;
	for (; *digits; digits++) {
		if (n >> 60)
			return -ERANGE;
		n = n << 4 |
		    (uint64_t)(*digits <= '9' ? *digits - '0' : (*digits | 0x20) - 'a' + 10);
	}
	*out = n;
	return 0;
}

int range_parse(const char *text, uint64_t *start, uint64_t *bytes)
{
	const char *plus = strchr(text, '+');
	char first[RANGE_TEXT_BYTES];
	int rc;

	if (!plus || (size_t)(plus - text) >= sizeof(first))
		return -EINVAL;
	memcpy(first, text, (size_t)(plus - text));
	first[plus - text] = '\0';
	rc = !strncmp(first, "0x", 2) ? hex_parse(first + 2, start) : size_parse(first, start);
	return rc ? rc : size_parse(plus + 1, bytes);
}

char *size_text(uint64_t bytes, char *buf, size_t buf_bytes)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double v = (double)bytes;
	int unit = -1;

	/* 999.5, not 1024: "1000 KiB" would need four digits. */
	while (v >= 999.5 && unit < 5) {
		v /= 1024;
		unit++;
	}
	if (unit < 0)
		(void)snprintf(buf, buf_bytes, "%" PRIu64 " B", bytes);
	else
		(void)snprintf(buf, buf_bytes, "%.*f %s",
			       v < 9.995   ? 2
			       : v < 99.95 ? 1
					   : 0,
			       v, units[unit]);
	return buf;
}

static bool may_repeat(const struct opt *o)
{
	size_t len = o->value ? strlen(o->value) : 0;

	return len >= 3 && !strcmp(o->value + len - 3, "...");
}

static const struct opt *find_opt(const struct opt *table, const char *name, size_t len)
{
	for (; table->name; table++)
		if (strlen(table->name) == len && !memcmp(table->name, name, len))
			return table;
	return NULL;
}

/* Take the option at argv[0] and its value; *used says how many words that were. */
static int take_opt(const struct opt *table, int argc, char *const *argv, uint32_t *seen, void *out,
		    int *used, struct err *e)
{
	const char *name = argv[0] + 2, *equals = strchr(name, '=');
	size_t len = equals ? (size_t)(equals - name) : strlen(name);
	const struct opt *o = find_opt(table, name, len);
	const char *value = equals ? equals + 1 : NULL;
	struct err why = ERR_INIT;
	int rc;

	*used = 1;
	if (!o)
		return err_set(e, EINVAL, "unknown option '--%.*s'", len > 40 ? 40 : (int)len,
			       name);
	if (*seen & 1u << (o - table) && !may_repeat(o))
		return err_set(e, EINVAL, "--%s is given twice", o->name);
	*seen |= 1u << (o - table);
	if (!o->value && value)
		return err_set(e, EINVAL, "--%s takes no value", o->name);
	if (o->value && !value) {
		if (argc < 2 || !strncmp(argv[1], "--", 2))
			return err_set(e, EINVAL, "--%s needs a value: --%s %s", o->name, o->name,
				       o->value);
		value = argv[1];
		*used = 2;
	}
	rc = o->set(out, value, &why);
	if (!rc)
		return 0;
	(void)err_set(&why, EINVAL, "expected %s", o->value ? o->value : "something else");
	if (!value)
		return err_set(e, EINVAL, "--%s: %s", o->name, why.msg);
	return err_set(e, EINVAL, "--%s %.100s: %s", o->name, value, why.msg);
}

static bool asks_for_help(int argc, char *const *argv)
{
	for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
			return true;
	return false;
}

int opts_parse(const struct opt *table, int argc, char *const *argv, unsigned max_args, void *out,
	       struct opts_args *args, struct err *e)
{
	bool ended = false;
	uint32_t seen = 0;

	*args = (struct opts_args){.help = asks_for_help(argc, argv)};
	if (args->help)
		return 0;
	for (int i = 0, used; i < argc; i += used) {
		used = 1;
		if (!ended && !strcmp(argv[i], "--")) {
			ended = true;
		} else if (!ended && !strncmp(argv[i], "--", 2)) {
			int rc = take_opt(table, argc - i, argv + i, &seen, out, &used, e);

			if (rc)
				return rc;
		} else if (!ended && argv[i][0] == '-' && argv[i][1]) {
			return err_set(e, EINVAL, "unknown option '%.40s'", argv[i]);
		} else if (args->n == max_args) {
			return err_set(e, EINVAL, "unexpected argument '%.100s'", argv[i]);
		} else {
			args->arg[args->n++] = argv[i];
		}
	}
	return 0;
}

void opts_help(const struct opt *table, FILE *to)
{
	char head[64];

	for (; table->name; table++) {
		(void)snprintf(head, sizeof(head), "--%s%s%s", table->name, table->value ? " " : "",
			       table->value ? table->value : "");
		if (strlen(head) > 24)
			(void)fprintf(to, "  %s\n  %-24s  %s\n", head, "", table->help);
		else
			(void)fprintf(to, "  %-24s  %s\n", head, table->help);
	}
	(void)fprintf(to, "  %-24s  %s\n", "--help", "this text");
}
