/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's virtio devices: where they are in the guest's memory, their interrupts, doorbells,
 * life and state.
 *
 * Every device has a place of its own, whatever others there are, so that a machine can be built
 * again with the same devices from its options alone:
 *
 *   place  device        registers                     interrupt
 *   0..3   disks         DEVICES_GPA + place * 4 KiB   5, 6, 7, 3
 *   4, 5   network       (in the PCI hole)             10, 11
 *   6      entropy                                     12
 *   7      balloon                                     14
 *   8      console                                     15
 *
 * The interrupts are ISA lines that no device of ferry has: edge-triggered, active high, known to
 * every interrupt mode and table without another word. A guest's kernel learns the places from its
 * command line (devices_cmdline()).
 *
 * Doorbells and interrupts are eventfds that KVM handles; where it can't, exits and pulses by
 * ioctl().
 *
 * Threads: devices_new() before the loop's thread runs, devices_free() after it and the vCPUs have
 * ended; the others as virtio/vdev.h says, one at a time.
 */
#ifndef VMM_DEVICES_H
#define VMM_DEVICES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "base/loop.h"
#include "kvm/vm.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/net.h"
#include "vmm/dev/mmio_bus.h"

#define DEVICES_MAX_DISKS 4u
#define DEVICES_MAX_NETS  2u
#define DEVICES_MAX       9u
#define DEVICES_GPA       0xd0000000ull

#define DEVICES_CMDLINE_BYTES 512u

/* What is wanted. What pointers point to must live as long as devices_new() runs. */
struct devices_config {
	struct blk_config disks[DEVICES_MAX_DISKS];
	unsigned n_disks;
	struct net_config nets[DEVICES_MAX_NETS];
	unsigned n_nets;
	bool rng, balloon;
	const char *console; /* its back-end, see dev/chardev.h; NULL: no console */
};

/* What the machine gives them. */
struct devices_host {
	struct vm *vm;
	struct mem *mem;
	struct loop *loop;
	struct mmio_bus *bus;
	/* See struct balloon_config: in a vCPU's thread, pass it on. */
	void (*on_balloon)(void *ctx, uint64_t actual_bytes);
	void (*on_quit)(void *ctx); /* Ctrl-A x on the console's terminal */
	void *ctx;
};

struct chardev;
struct devices;

/* Build them, paused. Messages name the option. */
int devices_new(struct devices **out, const struct devices_config *cfg,
		const struct devices_host *host, struct err *e);
/*
 * NULL is fine. -ETIMEDOUT: the kernel still works on a disk's request (see blk_free()): RAM must
 * stay mapped. Waits VDEV_QUIESCE_MS for all of them together.
 */
int devices_free(struct devices *ds);
/* Put the console's terminal back; for exits that don't come by devices_free(). */
void devices_restore_terminal(struct devices *ds);

/* What a Linux kernel wants to hear of them on its command line; "" if there are none. */
void devices_cmdline(const struct devices *ds, char text[DEVICES_CMDLINE_BYTES]);

/*
 * Pause all, after the vCPUs have stopped. If one fails, those that were paused are resumed. Resume
 * all, before the vCPUs run. Both are idempotent.
 */
int devices_pause(struct devices *ds, struct err *e);
void devices_resume(struct devices *ds);
/* The guest has ended: no device begins anything any more. */
void devices_halt(struct devices *ds);
/* The guest is at a new place and runs: tell the network. */
void devices_announce(struct devices *ds);

/* The state of device i < devices_count(): what it is described by, where it is kept. */
unsigned devices_count(const struct devices *ds);
void devices_section(const struct devices *ds, unsigned i, uint32_t *instance,
		     const struct field_table **table, void **state);
/* While paused: fill the states; check them; take them over. */
void devices_save(struct devices *ds);
int devices_check(struct devices *ds, struct err *e);
void devices_load(struct devices *ds);

/* For people and programs. */
struct device_info {
	const char *name; /* "virtio-blk" */
	unsigned instance;
	uint64_t gpa;
	unsigned gsi;
	const char *backend; /* "/var/disk.img", "pty:/dev/pts/3"; "" if it has none */
};

void devices_info(const struct devices *ds, unsigned i, struct device_info *out);

/* The console's back-end, whose state is no part of the device's. NULL if there is none. */
struct chardev *devices_console_chardev(struct devices *ds);

/* NULL if there is none. */
struct balloon *devices_balloon(struct devices *ds);

#endif
