/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bringing a saved guest back, as an object like the destination of a migration.
 *
 * The file is checked whole, all RAM is read, then the machine applies the state; only then is the
 * guest taken over. A file that is not in order leaves RAM empty and the machine waiting.
 *
 * On demand RAM is mapped from the file and the guest taken over at once; then all of RAM is read
 * and checked behind it, in the state MIG_POSTCOPY. Damage that is found by then pauses the guest.
 *
 * Threads: as migration/migration.h says of mig_dest_*(); RAM is read by threads of its own.
 */
#ifndef MIGRATION_RESTORE_H
#define MIGRATION_RESTORE_H

#include "migration/save.h"

struct mig_restore;

struct mig_restore_config {
	const char *path;
	struct mig_file *file; /* the same, opened: ours when the start succeeds; NULL: not yet */
	struct mem *mem;       /* all zero */
	struct mig_machine machine;
	struct mig_file_params params;
	bool paused; /* do not run it, whatever it did when it was saved */
	mig_event_fn *on_event;
	void *event_ctx;
};

/* What cfg points to must outlive *out. All that can fail but memory shows up in the status. */
int mig_restore_start(struct mig_restore **out, const struct mig_restore_config *cfg,
		      struct err *e);
void mig_restore_status(struct mig_restore *r, struct mig_status *out);
/* Neither under way nor to be tried again with the same object. */
bool mig_restore_ended(struct mig_restore *r);
/* Of one that has ended, wait for the thread: no event comes from it afterwards. */
void mig_restore_join(struct mig_restore *r);
/* Ends it, waits for the thread, frees. NULL is fine. */
void mig_restore_free(struct mig_restore *r);

/*
 * Does the file's guest fit here: RAM, vCPUs, pieces of state, and what the machine's admit() says?
 * -EINVAL with what differs and what to change. The sections' data are filled on success.
 */
int mig_restore_sections(const struct mig_file *f, const struct mem *mem,
			 const struct mig_machine *machine, struct err *e);

#endif
