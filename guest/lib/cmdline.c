/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/cmdline.h"

#include "guest/abi.h"
#include "guest/lib/boot.h"
#include "guest/lib/say.h"

static _Noreturn void bad_value(const char *key, const char *value)
{
	say("%n: FAILED bad value %s=%s\n", key, value);
	guest_exit(GUEST_EXIT_FAILED);
}

bool string_equal(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return *a == *b;
}

/* If `word` begins with "key=", what follows; else NULL. */
static const char *value_of(const char *word, const char *key)
{
	while (*key && *word == *key) {
		word++;
		key++;
	}
	return *key || *word != '=' ? NULL : word + 1;
}

bool cmdline_get(const char *key, char *value, size_t size)
{
	const char *found = NULL;
	size_t n = 0;

	for (const char *p = boot_info()->cmdline; *p;) {
		const char *v = value_of(p, key);

		if (v)
			found = v;
		while (*p && *p != ' ')
			p++;
		while (*p == ' ')
			p++;
	}
	for (; found && found[n] && found[n] != ' ' && n + 1 < size; n++)
		value[n] = found[n];
	value[n] = '\0';
	return found;
}

static unsigned int suffix_shift(char c)
{
	switch (c) {
	case 'K':
		return 10;
	case 'M':
		return 20;
	case 'G':
		return 30;
	default:
		return 0;
	}
}

uint64_t cmdline_number(const char *key, uint64_t otherwise)
{
	char text[24];
	const char *p = text;
	uint64_t n = 0;

	if (!cmdline_get(key, text, sizeof(text)))
		return otherwise;
	for (; *p >= '0' && *p <= '9'; p++)
		n = n * 10 + (uint64_t)(*p - '0');
	if (p == text || (*p && (!suffix_shift(*p) || p[1])))
		bad_value(key, text);
	return n << suffix_shift(*p);
}

unsigned int cmdline_choice(const char *key, const char *const *choices)
{
	char text[24];

	if (!cmdline_get(key, text, sizeof(text)))
		return 0;
	for (unsigned int i = 0; choices[i]; i++)
		if (string_equal(text, choices[i]))
			return i;
	bad_value(key, text);
}
