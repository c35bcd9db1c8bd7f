/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Saving a guest to a file (docs/saved-file.md), as an object like the source of a migration.
 *
 * The guest stands still while its RAM is written. When the file is complete, synced and has its
 * name, the guest goes on or stays paused as asked for. Whatever fails before, and a cancel: the
 * guest goes on as if nothing had happened, and an earlier file of that name is untouched.
 *
 * Threads: as migration/migration.h says of mig_source_*(); the RAM is written by threads of the
 * save's own.
 */
#ifndef MIGRATION_SAVE_H
#define MIGRATION_SAVE_H

#include "migration/file.h"
#include "migration/migration.h"

#define MIG_FILE_URI "file:"

/* The path of a file: URI; NULL for another address. */
const char *mig_file_uri_path(const char *uri);

struct mig_file_params {
	unsigned n_threads; /* 1 to MIG_FILE_THREADS_MAX */
	bool direct_io;
	bool on_demand; /* restoring: the guest runs at once, its RAM comes when it is touched */
};

#define MIG_FILE_THREADS_DEFAULT 2

struct mig_save;

struct mig_save_config {
	const char *path;
	const char *guest_name;
	const struct mem *mem;
	struct mig_machine machine;
	struct mig_file_params params;
	/*
	 * Live: the guest runs on while its RAM is written again and again, until little is left;
	 * it is dark while that is copied and its state collected. NULL: it stands still.
	 */
	const struct mig_dirty_source *live;
	/*
	 * Live, and it writes faster than the file takes it: throttle.auto_converge (or
	 * dirty_limit) has its vCPUs slowed until little is left (migration/brake.h). Without: its
	 * last pages are written while it is dark, as soon as more passes would not help.
	 */
	struct mig_cpu_source cpus;
	struct mig_throttle_params throttle;
	bool go_on; /* after success: the guest goes on as before, instead of staying paused */
	mig_event_fn *on_event;
	void *event_ctx;
};

/* What cfg points to must outlive *out. All that can fail but memory shows up in the status. */
int mig_save_start(struct mig_save **out, const struct mig_save_config *cfg, struct err *e);
void mig_save_cancel(struct mig_save *s);
void mig_save_status(struct mig_save *s, struct mig_status *out);
bool mig_save_ended(struct mig_save *s);
/* Of one that has ended, wait for the thread: no event comes from it afterwards. */
void mig_save_join(struct mig_save *s);
/* Cancels if it is still under way, waits for the thread, frees. NULL is fine. */
void mig_save_free(struct mig_save *s);

#endif
