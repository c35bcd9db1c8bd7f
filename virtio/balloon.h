/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory balloon (virtio 1.2, section 5.5): the guest gives memory back, and tells what is free.
 *
 *   inflate, deflate  pages of the guest's choice leave and rejoin the guest. An inflated page is
 *                     really returned to the host; reading it gives zeroes.
 *   statistics        the guest's own figures of its memory, on request or every few seconds.
 *   reporting         free pages, returned to the host at once; the guest may use them again at
 *                     any time without telling.
 *   hinting           free pages at a moment of the host's choice, for a migration: see below.
 *
 * Queues: inflate, deflate, then those of statistics, hinting and reporting that the *driver* took.
 *
 * Whatever the host returns is marked dirty (KVM's log does not see it). Addresses outside RAM are
 * ignored, with one warning in the device's life. Reserved huge pages (hugetlb) stay where they
 * are.
 *
 * Poison. A driver with PAGE_POISON says that its free pages hold a value that they must keep. A
 * returned page comes back as zeroes, so reported pages stay where they are unless the value is 0,
 * and such a driver is not asked for hints at all (a page that was not sent could hold anything at
 * its new place; with the value 0 free pages are zero and cost nothing to send anyway).
 *
 * Hinting is done in rounds. Each has an id that the configuration shows; the driver answers with
 * that id, then free pages, then an end mark. Pages count only between the current id and the end,
 * so whatever belongs to another round is dropped:
 *
 *            hint_start()           driver sends the id         driver sends the end mark
 *   REST ────────────────▶ ASKED ───────────────────▶ HINTS ───────────────────────▶ ENDED
 *     ▲                      │                          │ ▲ other id: back to ASKED     │
 *     └──────────────────────┴── hint_stop(), reset ────┴───────────────────────────────┘
 *
 * hint_stop() shows the driver STOP: it keeps the pages it hinted, and another round may follow.
 * hint_done() shows DONE: it takes them back. After a move the new place says DONE by itself.
 *
 * A hint is a promise about the moment when the round began, and no more: the guest may write the
 * page at any time. Whoever uses hints must let the dirty log win.
 *
 * Threads: functions here from any thread, but for balloon_new() and _free(), see vdev.h; never
 * from one of the call-backs, which run with the device's lock held.
 */
#ifndef VIRTIO_BALLOON_H
#define VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/vdev.h"

#define BALLOON_N_STATS 10 /* VIRTIO_BALLOON_S_NR; the index is the kernel's tag */

struct balloon;

struct balloon_config {
	bool deflate_on_oom, stats, hinting, reporting; /* what is offered, beside the basics */
	/*
	 * The driver told a new size; `actual` is what the guest has, in bytes. In a vCPU's thread,
	 * with the device's lock held: pass it on (loop_post()), do not work here. May be NULL.
	 */
	void (*on_change)(void *ctx, uint64_t actual_bytes);
	void *ctx;
};

struct balloon_stats {
	uint64_t updated_ns;             /* wall clock; 0 = never */
	uint32_t known;                  /* bit i: value[i] was given */
	uint64_t value[BALLOON_N_STATS]; /* in bytes or events, as virtio says */
};

struct balloon_state {
	struct vdev_state vdev;
	uint32_t num_pages, actual, hint_cmd, hint_next_id, poison_val;
	uint32_t stats_known;
	uint64_t stats_ns;
	uint64_t stats[BALLOON_N_STATS];
};

/* For people and tests; all since the device was made. */
struct balloon_figures {
	uint64_t released_bytes; /* returned to the host, by inflate and by reporting */
	uint64_t hinted_bytes;   /* given to a round */
	uint64_t ignored;        /* addresses outside RAM, hints of no round, and the like */
};

int balloon_new(struct balloon **out, const struct vdev_host *host,
		const struct balloon_config *cfg, struct err *e);
/* NULL is fine. */
void balloon_free(struct balloon *b);
struct vdev *balloon_vdev(struct balloon *b);

/*
 * Ask the guest to shrink or grow to target_bytes of its RAM. It does so when and as far as it can.
 * A target above all RAM means all. -ENODEV: no driver runs (the target is kept for it).
 */
int balloon_set_target(struct balloon *b, uint64_t target_bytes);
/* RAM minus what is in the balloon, as the driver last said. */
uint64_t balloon_actual_bytes(struct balloon *b);

/* The last figures that came. -EOPNOTSUPP: the driver does not give any. */
int balloon_stats(struct balloon *b, struct balloon_stats *out);
/* Ask for new ones: they come when the driver answers. -EOPNOTSUPP; -EAGAIN: asked already. */
int balloon_stats_request(struct balloon *b);

/* A part of RAM that the guest says is free: whole pages. In the I/O thread, device's lock held. */
typedef void balloon_hint_fn(void *ctx, uint64_t gpa, uint64_t len);

/*
 * Begin a round. -EOPNOTSUPP: the driver gives no hints, or its free pages are poisoned. -ENODEV:
 * no driver runs. -EBUSY: a round is on.
 */
int balloon_hint_start(struct balloon *b, balloon_hint_fn *fn, void *ctx);
/*
 * End the round, if there is one. When it returns fn is not running and will not be called again.
 * It waits for one batch of the I/O thread at most, never for the guest.
 */
void balloon_hint_stop(struct balloon *b);
/* The same, and no other round follows: the guest may use the pages that it hinted. */
void balloon_hint_done(struct balloon *b);
/* No more hints come in this round: the driver has sent its end mark, or is gone. */
bool balloon_hint_ended(struct balloon *b);

void balloon_figures(struct balloon *b, struct balloon_figures *out);

#endif
