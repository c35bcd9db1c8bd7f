/* SPDX-License-Identifier: Apache-2.0 */
/* Who knows of free pages: the balloon's driver. */
#include "vmm/machine_impl.h"

static void balloon_begin(void *ctx, void (*hint)(void *hint_ctx, uint64_t gpa, uint64_t len),
			  void *hint_ctx)
{
	/* A driver that can't, or isn't there, tells of no pages: that is no failure. */
	(void)balloon_hint_start(ctx, hint, hint_ctx);
}

static void balloon_end(void *ctx)
{
	balloon_hint_stop(ctx);
}

static void balloon_done(void *ctx)
{
	balloon_hint_done(ctx);
}

unsigned machine_free_sources(struct machine *m,
			      struct mig_free_source sources[MACHINE_FREE_SOURCES])
{
	struct balloon *b = devices_balloon(m->devices);

	if (!b)
		return 0;
	sources[0] = (struct mig_free_source){
		.ctx = b, .begin = balloon_begin, .end = balloon_end, .done = balloon_done};
	return 1;
}
