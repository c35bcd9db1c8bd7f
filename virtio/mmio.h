/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The virtio-mmio transport, version 2 (virtio 1.2, section 4.2): a window of VDEV_MMIO_BYTES of
 * registers in front of a struct vdev.
 *
 * Registers below 0x100 are 32 bits wide and are read and written only whole; any other access
 * reads as 0 and writes nothing. The configuration space from 0x100 takes 1, 2, 4 and 8 bytes; past
 * its end it reads as 0. Registers of the first, "legacy" version are not there: a driver that
 * knows no other finds version 2, and one that goes on regardless ends in DEVICE_NEEDS_RESET.
 *
 * Threads: vCPU threads, any number at once. Doorbell and interrupt registers take no device lock,
 * so that a vCPU does not wait for a batch of the I/O thread.
 */
#ifndef VIRTIO_MMIO_H
#define VIRTIO_MMIO_H

#include <stdint.h>

#include "virtio/vdev.h"

#define VDEV_MMIO_BYTES  0x1000u /* of address space a device takes */
#define VDEV_MMIO_NOTIFY 0x50u   /* offset of the doorbell, for KVM_IOEVENTFD */

/* An access at `offset` of the window. size is 1, 2, 4 or 8; values are little-endian numbers. */
uint64_t vdev_mmio_read(struct vdev *d, uint64_t offset, unsigned size);
void vdev_mmio_write(struct vdev *d, uint64_t offset, unsigned size, uint64_t value);

#endif
