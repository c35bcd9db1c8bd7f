/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A virtio device, apart from what makes it a disk or a balloon: status, features, queues,
 * interrupts, life (virtio 1.2, chapters 2 and 3). The registers by which a driver reaches it are
 * in virtio/mmio.h; each kind of device fills in struct vdev_ops.
 *
 *                 registers (vCPU threads)                 vdev_pause/resume/save/load (machine)
 *                            │                                        │
 *   doorbell ──▶ kick fd ────┼──▶ I/O thread ──▶ ops->notify()        │
 *   (ioeventfd or register)  └──────── the device's lock ─────────────┘
 *                                            └──▶ interrupt lock ──▶ host.irq_set()
 *
 * Doorbells. Every queue has an eventfd, vdev_kick_fd(). A write of the queue's number to the
 * notify register writes it; the machine may bind it to that register (KVM_IOEVENTFD, 4 bytes,
 * datamatch = queue number), and then nothing else changes. The I/O thread's loop watches it.
 *
 * Interrupts. host.irq_set(true) is called for each event, also while the line is high already, and
 * irq_set(false) when the driver has acknowledged all. Behind it is a level-triggered line, or an
 * irqfd for an edge-triggered one (true: write it; false: nothing).
 *
 * Life. A device is made *paused*; vdev_resume() whenever the vCPUs begin to run, vdev_pause()
 * after they have stopped. Paused, no queue is worked on and nothing is in flight: RAM, state and
 * back-ends are at rest. The first thing a resumed device does is to look at every queue, so that
 * doorbells that rang at another place, or nowhere, are not missed; and to raise an interrupt that
 * is pending, for the same reason.
 * A driver may reset a device at any moment; requests in flight are completed first.
 *
 * A driver that breaks a rule breaks its device, and nothing else: DEVICE_NEEDS_RESET is set (with
 * a configuration interrupt), its queues rest until the reset, and one line is logged; after
 * VDEV_MAX_COMPLAINTS lines a device is silent.
 *
 * Locks. The device's lock (fair: see fairlock.h) guards all but what is said otherwise; ops are
 * called with it held, and back-end handlers take it by vdev_lock(). It is held for one register
 * access, one batch of a queue, or a quiesce. Under it the interrupt lock, a back-end's lock, and
 * host.irq_set() are taken; never the other way round. Nobody waits for a vCPU under it.
 *
 * Threads: any, but vdev_init() before the loop runs, and vdev_fini() after the loop's thread and
 * the vCPUs have ended.
 */
#ifndef VIRTIO_VDEV_H
#define VIRTIO_VDEV_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "base/loop.h"
#include "mem/mem.h"
#include "virtio/fairlock.h"
#include "virtio/queue.h"

#define VDEV_MAX_QUEUES     16
#define VDEV_MAX_COMPLAINTS 8
#define VDEV_QUIESCE_MS     10000 /* requests in flight must end within this time */

#define VDEV_F(bit) (1ull << (bit))

struct vdev;

/* What the machine gives a device. */
struct vdev_host {
	struct mem *mem;
	struct loop *loop;                      /* the I/O thread's */
	void (*irq_set)(void *ctx, bool level); /* any thread, under the interrupt lock */
	void *irq_ctx;
	unsigned instance; /* 0, 1, ... among devices of its kind, for messages */
};

/*
 * What a kind of device fills in. All are called with the device's lock held. NULL stands for
 * "nothing to do", but for notify. `q` is a queue's number.
 */
struct vdev_ops {
	const char *name; /* "virtio-rng": in messages, and the name of its section */
	uint32_t device_id;
	uint32_t config_bytes;
	/* [offset, offset+len) lies within config_bytes. */
	void (*config_read)(struct vdev *d, uint32_t offset, void *to, uint32_t len);
	void (*config_write)(struct vdev *d, uint32_t offset, const void *from, uint32_t len);
	/* DRIVER_OK: d->driver_features are final. Also after a load. */
	void (*activate)(struct vdev *d);
	/* Forget the driver. quiesce() has been called. */
	void (*reset)(struct vdev *d);
	/*
	 * I/O thread: queue q may have new chains. Work on some. 0: done for now; 1: there is more,
	 * call again soon (others get their turn first); -EBADMSG: the driver broke a rule, which
	 * vdev_queue(d, q)->why or vdev_break() names. An interrupt, if wanted, is raised after it.
	 */
	int (*notify)(struct vdev *d, unsigned q);
	/*
	 * Complete what is in flight; when it returns 0 nothing is. Bounded by VDEV_QUIESCE_MS:
	 * -ETIMEDOUT, and things go on as before.
	 */
	int (*quiesce)(struct vdev *d, struct err *e);
	/* Any thread: the vCPUs are about to run, or have stopped (after quiesce()). */
	void (*resumed)(struct vdev *d);
	void (*paused)(struct vdev *d);

	/* The state: a struct that begins with struct vdev_state. */
	const struct field_table *table;
	size_t state_bytes;
	void (*save)(struct vdev *d, void *state);
	int (*check)(struct vdev *d, const void *state, struct err *e);
	void (*load)(struct vdev *d, const void *state);
};

/* What every device saves. */
struct vdev_state {
	uint32_t status, isr, generation;
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint64_t driver_features;
	uint32_t n_queues;
	struct vq_state queues[VDEV_MAX_QUEUES];
};

extern const struct field_table vdev_table;

struct vdev_kick {
	struct vdev *d;
	unsigned q;
	int fd;
};

struct vdev {
	/* constant after vdev_init() */
	const struct vdev_ops *ops;
	struct vdev_host host;
	uint64_t features; /* offered */
	unsigned n_queues;
	struct vdev_kick kicks[VDEV_MAX_QUEUES];

	struct fairlock lock; /* guards what follows */
	uint32_t status, generation;
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint64_t driver_features;
	struct vq queues[VDEV_MAX_QUEUES];
	bool is_paused;
	unsigned complaints;

	pthread_mutex_t irq_lock; /* guards isr and the line */
	uint32_t isr;
};

/*
 * `features` are the device's own; VERSION_1, INDIRECT_DESC and EVENT_IDX are added. queue_sizes
 * are powers of two up to VQ_MAX_SIZE. On failure nothing is left behind.
 */
int vdev_init(struct vdev *d, const struct vdev_ops *ops, const struct vdev_host *host,
	      uint64_t features, const uint16_t *queue_sizes, unsigned n_queues, struct err *e);
void vdev_fini(struct vdev *d);

/* The eventfd that rings for queue q < n_queues. */
int vdev_kick_fd(const struct vdev *d, unsigned q);
/* Ring it. Any thread; no lock. Numbers that are no queue's are ignored. */
void vdev_kick(struct vdev *d, uint32_t q);

/*
 * Stop. On failure (a request in flight does not end; the message says which device) the device
 * runs on. Idempotent, like vdev_resume().
 */
int vdev_pause(struct vdev *d, struct err *e);
void vdev_resume(struct vdev *d);
/*
 * For a guest that has ended and will not run again: no queue is looked at any more, whether or not
 * the requests in flight end.
 */
void vdev_halt(struct vdev *d);

/* While paused. `state` is of ops->state_bytes and described by ops->table. */
void vdev_save(struct vdev *d, void *state);
/* -EINVAL with words if this device could not be in that state. Changes nothing. */
int vdev_check(struct vdev *d, const void *state, struct err *e);
/* While paused: take over a state that vdev_check() has passed. */
void vdev_load(struct vdev *d, const void *state);

/* --- for the devices and the transport; with the lock held but for vdev_lock() --- */

void vdev_lock(struct vdev *d);
void vdev_unlock(struct vdev *d);

/* Is there a driver to work for now: DRIVER_OK, not broken, not paused? */
bool vdev_live(const struct vdev *d);
static inline bool vdev_has(const struct vdev *d, unsigned feature_bit)
{
	return d->driver_features >> feature_bit & 1;
}
static inline struct vq *vdev_queue(struct vdev *d, unsigned q)
{
	return &d->queues[q];
}

/* Chains of q were given back outside notify(): raise an interrupt if the driver wants one. */
void vdev_signal(struct vdev *d, unsigned q);
/* The configuration changed: a new generation, and an interrupt if there is a driver. */
void vdev_config_changed(struct vdev *d);
/* The driver broke a rule. Returns -EBADMSG. */
int vdev_break(struct vdev *d, const char *why);
/* The same for a rule of queue q, as vq_pop() reports it. */
int vdev_break_queue(struct vdev *d, unsigned q);

/* The transport's: a write of the status register, other than 0; of a queue's ready register. */
void vdev_set_status(struct vdev *d, uint32_t value);
void vdev_set_queue_ready(struct vdev *d, unsigned q, bool ready);
/*
 * A driver's reset, with the lock held. -ETIMEDOUT: a request in flight does not end, so the device
 * stays in DEVICE_NEEDS_RESET.
 */
int vdev_reset_locked(struct vdev *d);
/* Interrupt status (no lock needed): read it, acknowledge bits. */
uint32_t vdev_isr(struct vdev *d);
void vdev_ack(struct vdev *d, uint32_t bits);

#endif
