/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the network card, for net*.c. All with the device's lock held. */
#ifndef VIRTIO_NET_IMPL_H
#define VIRTIO_NET_IMPL_H

#include "virtio/net.h"
#include "virtio/net_backend.h"

#define NET_RX    0u
#define NET_TX    1u
#define NET_BATCH 64 /* frames moved before others get their turn */

struct net {
	struct vdev vdev; /* first: ops get a pointer to it */
	struct net_backend be;
	uint8_t mac[NET_MAC_BYTES];
	uint16_t status; /* VIRTIO_NET_S_ */

	/* the loop's thread: what it watches the back-end for */
	uint32_t watched;
	bool rx_open;    /* frames can be taken: the driver has buffers, as far as we know */
	bool tx_blocked; /* the back-end takes none now */

	int timer_fd;           /* announcements */
	unsigned announcements; /* still to be sent */

	size_t frame_bytes; /* of a frame that waits for buffers; 0 = none */
	uint8_t frame[NET_FRAME_MAX];
	struct vq_chain chain;
};

/* net_io.c; vdev_ops.notify for two of the queues */
int net_notify_rx(struct net *n);
int net_notify_tx(struct net *n);
/* Have the loop watch the back-end for what is wanted now. I/O thread. */
void net_watch(struct net *n);
/* loop_fn of the back-end's descriptor */
void net_on_backend(void *ctx, uint32_t events);

#endif
