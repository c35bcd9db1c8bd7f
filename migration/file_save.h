/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a saved guest: RAM into its places in the file, then everything else.
 *
 * The order is that of safety: pages, the tail, and last what describes the RAM, bitmaps and the
 * file's first bytes among it. A file that was not finished has neither beginning nor end.
 *
 * Threads: one at a time but for `progress`.
 */
#ifndef MIGRATION_FILE_SAVE_H
#define MIGRATION_FILE_SAVE_H

#include "migration/file.h"
#include "migration/live.h"
#include "migration/save.h"

struct mig_file_save {
	const struct mem *mem;
	int fd;
	struct mig_file_params params;
	struct mig_stop *stop;
	struct mig_live *live; /* NULL: the guest stands still */
	bool background;       /* the guest runs, and comes first */
	struct mig_file_layout layout;
	uint64_t *present[MEM_MAX_BLOCKS];
	uint64_t *page_sums[MEM_MAX_BLOCKS]; /* of pages that are present */
	uint8_t *hot;                        /* for each extent: was any of it written again? */
	bool again;                          /* all of RAM has been written once */
	struct mig_file_progress progress;
};

/* fd is empty, and gets its size. */
int mig_file_save_init(struct mig_file_save *f, const struct mem *mem, int fd,
		       const struct mig_file_params *params, struct mig_stop *stop, struct err *e);
void mig_file_save_free(struct mig_file_save *f);

/* All pages that are not zero; live, all that have to be written (again). */
int mig_file_save_pages(struct mig_file_save *f, struct err *e);
/* What mig_live_copy() has copied. */
int mig_file_save_copies(struct mig_file_save *f, struct err *e);
/* Everything else; fd must not be open for direct I/O then. */
int mig_file_save_rest(struct mig_file_save *f, const struct mig_file_guest *guest,
		       const struct mig_machine *machine, struct err *e);

#endif
