/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limits of a migration as the user writes them, when it begins (migrate) and while it goes on
 * (adjust). -EINVAL with what is expected. Pure functions.
 */
#ifndef VMM_CLI_LIMITS_H
#define VMM_CLI_LIMITS_H

#include <stdint.h>

#include "base/err.h"

int limits_parse_downtime(const char *value, uint64_t *ms, struct err *e);
/* Bytes a second; 0: no limit. At most INT64_MAX. */
int limits_parse_bandwidth(const char *value, uint64_t *bytes_s, struct err *e);

#endif
