/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file that a guest is being saved to.
 *
 * Nobody sees it before it is complete: it is written without a name (where the file system knows
 * no such thing, under a name of its own that begins with a dot), synced, and only then takes its
 * name, in one step, from an earlier file that may have had it. Whatever happens before, the
 * earlier file stays as it was.
 *
 * Threads: one at a time; the descriptor may be written to by any.
 */
#ifndef MIGRATION_FILE_TARGET_H
#define MIGRATION_FILE_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct mig_file_target {
	int dir_fd, fd;
	bool named; /* the temporary name exists */
	char *path, *dir, *base, *temporary;
};

/* With a bad path: -EINVAL, -EISDIR, -EEXIST (there is something that is no file), -errno. */
int mig_file_target_open(struct mig_file_target *t, const char *path, struct err *e);
/* Past the page cache, or not. -EINVAL with a message where the file system refuses. */
int mig_file_target_direct(struct mig_file_target *t, bool direct, struct err *e);
/* It is complete: sync it, give it its name, sync the directory. */
int mig_file_target_publish(struct mig_file_target *t, struct err *e);
/* Closes; what was not published is gone. */
void mig_file_target_close(struct mig_file_target *t);

#endif
