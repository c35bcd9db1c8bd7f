/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The migration in QMP's words: query-migrate and the parameters.
 *
 * Members that start with "x-ferry-" are ours: times in ns, and figures that QMP has no name for.
 * Threads: pure functions.
 */
#ifndef VMM_CTL_MIGRATE_INFO_H
#define VMM_CTL_MIGRATE_INFO_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "migration/migration.h"
#include "vmm/free_ranges.h"

/* query-migrate. New reference; NULL without memory. */
json_t *migrate_info_json(const struct mig_status *s, bool is_source, const char *uri);

/* query-migrate-parameters. New reference; NULL without memory. */
json_t *migrate_params_json(const struct mig_params *p);
/*
 * migrate-set-parameters: the members of args (non-negative integers) into *p. -EINVAL and *p as it
 * was if one is out of its range.
 */
int migrate_params_set(struct mig_params *p, const json_t *args, struct err *e);

/* What can be switched on and off. */
struct migrate_caps {
	bool events;
	bool mapped_ram; /* file: addresses need it */
	bool pause_before_switchover;
	bool multifd; /* multifd-channels counts for connections too */
	bool auto_converge;
	bool dirty_limit;
	bool zero_copy_send; /* tried where the kernel offers it */
};

/*
 * migrate-set-capabilities: a list of {capability, state}. Capabilities that exist elsewhere may be
 * switched off, and are refused by name otherwise.
 */
int migrate_caps_set(struct migrate_caps *caps, const json_t *list, struct err *e);
json_t *migrate_caps_json(const struct migrate_caps *caps);

/*
 * The argument x-ferry-free-pages of migrate, a list of {gpa, bytes}, appended to *f; NULL is an
 * empty list. -EINVAL with words.
 */
int migrate_free_ranges(struct free_ranges *f, const struct mem *mem, const json_t *list,
			struct err *e);

/* The token as the user sees it: 16 hexadecimal digits. Parsing takes 1 to 16, with or without 0x.
 */
#define MIGRATE_TOKEN_BYTES 17
void migrate_token_format(uint64_t token, char out[MIGRATE_TOKEN_BYTES]);
int migrate_token_parse(const char *text, uint64_t *out, struct err *e);

#endif
