/* SPDX-License-Identifier: Apache-2.0 */
/*
 * key=value words of the boot command line. A key given twice counts the second time.
 */
#ifndef FERRY_GUEST_CMDLINE_H
#define FERRY_GUEST_CMDLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Copy a value, cut to fit and NUL-terminated; false, and "" copied, if the key isn't there. */
bool cmdline_get(const char *key, char *value, size_t size);

/* A number with an optional suffix K, M or G; dies of one that is malformed. */
uint64_t cmdline_number(const char *key, uint64_t otherwise);

/*
 * The index of the value in a NULL-terminated list of choices, whose first is the default; dies of
 * a value that isn't in it.
 */
unsigned int cmdline_choice(const char *key, const char *const *choices);

bool string_equal(const char *a, const char *b);

#endif
