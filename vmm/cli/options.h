/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command lines: options of one command by a table, its arguments by number.
 *
 * "--name value" or "--name=value", "--flag"; "--" ends the options; nothing may be abbreviated,
 * and nothing given twice but what has a value that ends in "..." in the help. A value that follows
 * its option as a word of its own must not begin with "--". Messages name the option and say what
 * is possible.
 */
#ifndef VMM_CLI_OPTIONS_H
#define VMM_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

struct opt {
	const char *name;  /* without the dashes; NULL ends a table */
	const char *value; /* what stands for the value in the help; NULL: a flag */
	const char *help;
	/* `out` is the caller's; value is NULL for a flag. The error need not name the option. */
	int (*set)(void *out, const char *value, struct err *e);
};

#define OPTS_MAX      32 /* options of a table */
#define OPTS_ARGS_MAX 2

struct opts_args {
	bool help; /* --help or -h was there: nothing else has been checked */
	unsigned n;
	const char *arg[OPTS_ARGS_MAX];
};

/*
 * argv[0..argc) are the words after the command's name. Fills *args with what is no option.
 * -EINVAL with a message. max_args <= OPTS_ARGS_MAX.
 */
int opts_parse(const struct opt *table, int argc, char *const *argv, unsigned max_args, void *out,
	       struct opts_args *args, struct err *e);

/* The table as help text, one option a line or two. */
void opts_help(const struct opt *table, FILE *to);

/* "512M": digits and an optional K, M, G or T (powers of 1024). -EINVAL, -ERANGE; no message. */
int size_parse(const char *text, uint64_t *out);
/* Digits only, at most max. -EINVAL, -ERANGE; no message. */
int number_parse(const char *text, uint64_t max, uint64_t *out);
/* "0x40000000+512M": an address, in hexadecimal or as a size, and a size. -EINVAL, -ERANGE. */
#define RANGE_TEXT_BYTES 64
int range_parse(const char *text, uint64_t *start, uint64_t *bytes);
/* "512 MiB": to three digits, for people. Returns buf. */
char *size_text(uint64_t bytes, char *buf, size_t buf_bytes);

#endif
