/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of vdev*.c. */
#ifndef VIRTIO_VDEV_IMPL_H
#define VIRTIO_VDEV_IMPL_H

#include "virtio/vdev.h"

/* Set bits of the interrupt status and raise the interrupt. */
void vdev_raise(struct vdev *d, uint32_t bits);

#endif
