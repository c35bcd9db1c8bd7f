/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the migration engine sees of the machine it moves. The engine knows neither KVM nor virtio:
 * vmm/ fills these in for a real VM, tests fill them in with synthetic ones.
 */
#ifndef MIGRATION_MACHINE_H
#define MIGRATION_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "migration/bitmap.h"

/*
 * Where dirty pages come from. All calls but protect() come from one thread at a time; protect()
 * comes from the sending threads, several at once (never for the same page), and may run while
 * harvest() runs.
 */
struct mig_dirty_source {
	void *ctx;
	/* Begin to record. From here on every write to RAM, guest's or host's, is recorded. */
	int (*start)(void *ctx, struct err *e);
	/*
	 * Set the bit (mig_bitmap_or) of every page written since it was last protected. It does
	 * not protect anything, and a page stays reported until it is protected.
	 */
	int (*harvest)(void *ctx, struct mig_bitmap *into, struct err *e);
	/*
	 * Forget that these pages were written, so that the next write is recorded: the pages of
	 * the block whose bits are set in mask[0..n_words), bit 0 being page 64 * first_word.
	 */
	int (*protect)(void *ctx, unsigned block, uint64_t first_word, const uint64_t *mask,
		       uint64_t n_words, struct err *e);
	/* Stop recording. Also called after a failed start(). */
	void (*stop)(void *ctx);
};

/*
 * Who knows of free pages: a balloon device, a list of ranges, a test. Untrusted: what it says is
 * checked, may be wrong, late or endless, and is never waited for.
 */
struct mig_free_source {
	void *ctx;
	/*
	 * A round begins: pages that become free or are free from now on may be told by
	 * hint(hint_ctx, gpa, len), from any thread, until end() has returned.
	 */
	void (*begin)(void *ctx, void (*hint)(void *hint_ctx, uint64_t gpa, uint64_t len),
		      void *hint_ctx);
	/* The round is over. No hint() once this has returned; it must not wait for the guest. */
	void (*end)(void *ctx);
	/* The migration is over here (completed or not): the guest may have its pages back. */
	void (*done)(void *ctx);
};

/* What one vCPU has done so far; all counts only grow. */
struct mig_cpu_sample {
	uint64_t writes;   /* first writes to pages since they were protected, if counted */
	uint64_t run_ns;   /* processor time that it used */
	uint64_t stall_ns; /* time that it was made to wait by its share */
};

/*
 * Who dirties the pages, and the means to slow it down. Both calls come from any thread, while the
 * vCPUs run or not, and do not wait.
 */
struct mig_cpu_source {
	void *ctx;
	unsigned n_cpus; /* at most MIG_CPUS_MAX; 0: nothing is known, and nothing can be slowed */
	/*
	 * One sample for each vCPU, and how many pages no vCPU but the host made dirty, ever. What
	 * neither explains of the dirty pages are writes of vCPUs that were not counted.
	 */
	void (*sample)(void *ctx, struct mig_cpu_sample *out, uint64_t *host_pages);
	/* Let a vCPU use only so many thousandths of the time; MIG_SHARE_FULL: as it likes. */
	void (*set_share)(void *ctx, unsigned cpu, unsigned share);
};

#define MIG_CPUS_MAX   64
#define MIG_SHARE_FULL 1000
#define MIG_SHARE_MIN  10

/*
 * One piece of state outside RAM: a plain struct that `table` describes. Before it is encoded the
 * machine's collect() has filled *data; after all have been decoded apply() checks and uses them.
 */
struct mig_section {
	uint32_t instance; /* vCPU number; 0 where there is only one */
	const struct field_table *table;
	void *data;
};

/* How long the parts of a rehearsal took. */
struct mig_rehearsal {
	uint64_t pause_ns, collect_ns, resume_ns;
};

struct mig_machine {
	void *ctx;
	/*
	 * Sections whose data never change during the guest's life, and are there from the start:
	 * the source sends them before anything else. Destination: admit() has them decoded, checks
	 * them, and refuses a guest that cannot live here, while it still runs at the source.
	 */
	struct mig_section *early;
	unsigned n_early; /* at most WIRE_MAX_EARLY */
	int (*admit)(void *ctx, struct err *e);
	/*
	 * Source: stop every vCPU and device, so that neither RAM nor state changes any more.
	 * *was_running tells whether the guest ran before (a paused guest may be moved too).
	 */
	int (*pause)(void *ctx, bool *was_running, struct err *e);
	/* Source, before the commit point: go on as before pause(). */
	int (*resume)(void *ctx, struct err *e);
	/* Saved to a file: stay paused after pause(), to be run on by the user whenever. */
	int (*stay)(void *ctx, struct err *e);
	/* Source: how the guest is now, for the end of a message: "the guest keeps running here".
	 */
	const char *(*fate)(void *ctx);
	/* Source, paused: fill the sections' data. */
	int (*collect)(void *ctx, struct err *e);
	/*
	 * Source: pause, collect and resume in one go, to learn what they cost. The guest goes on
	 * whatever this returns, as resume() would have it. NULL: no rehearsals.
	 */
	int (*rehearse)(void *ctx, struct mig_rehearsal *out, struct err *e);
	/* Source: the commit point has passed, the guest is the destination's now. */
	void (*given_away)(void *ctx);
	/*
	 * Destination: RAM and sections are complete; check the sections, load them. Nothing runs.
	 * More than once if the source calls its switchover off.
	 */
	int (*apply)(void *ctx, struct err *e);
	/*
	 * Destination: as apply(), but the guest goes on at the source: nothing that was loaded may
	 * tick or raise anything, and it is all loaded anew later. NULL: cannot.
	 */
	int (*rehearse_apply)(void *ctx, struct err *e);
	/* Destination: the guest is ours. Run it if `run`, else leave it paused. */
	int (*taken_over)(void *ctx, bool run, struct err *e);
	struct mig_section *sections;
	unsigned n_sections;
	unsigned n_cpus;
};

#endif
