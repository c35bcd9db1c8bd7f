/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network card (virtio 1.2, section 5.1): one pair of queues and a control queue.
 *
 * Back-ends, by `backend`:
 *
 *   tap:NAME          a TAP interface, made if it is not there (and gone with us); offloads
 *   tap-fd:N          one that somebody opened for us, with IFF_VNET_HDR and IFF_NO_PI; offloads
 *   stream:PATH       connect to a UNIX stream socket; each frame after its length in 4 big-endian
 *                     bytes
 *   dgram:OURS,PEER   UNIX datagrams, one a frame, between two paths; the peer may come later
 *   stream-fd:N, dgram-fd:N   such sockets, connected by somebody else
 *
 * Descriptors that are passed become the device's. With offloads, checksums, TCP segmentation and
 * (where the host's TAP has it) UDP fragmentation are offered to the guest, both ways.
 *
 * After a move the network must learn where the guest is now: net_announce() has the guest announce
 * itself (GUEST_ANNOUNCE) and sends reverse-ARP frames in its name, several times within a second.
 *
 * Frames in flight when a device is paused may be lost, as on any network.
 *
 * Threads: as virtio/vdev.h says.
 */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/vdev.h"

#define NET_MAC_BYTES 6u

struct net;

struct net_config {
	const char *backend;
	uint8_t mac[NET_MAC_BYTES]; /* all 0: one is made up */
	bool no_offloads;
};

struct net_state {
	struct vdev_state vdev;
	uint8_t mac[NET_MAC_BYTES];
	uint16_t status;
};

/* "52:54:00:12:34:56". -EINVAL for another text, for a group address and for all zeroes. */
int net_parse_mac(const char *text, uint8_t mac[NET_MAC_BYTES]);

/*
 * Open a TAP for a process that gives up its privileges before it makes its devices; what is passed
 * on is "tap-fd:N".
 */
int net_tap_open(const char *name, int *fd, struct err *e);

/* -EINVAL for a back-end that is none (the message lists them), and the system's errors. */
int net_new(struct net **out, const struct vdev_host *host, const struct net_config *cfg,
	    struct err *e);
/* NULL is fine. */
void net_free(struct net *n);
struct vdev *net_vdev(struct net *n);

/* Tell the network. Once the device has been resumed at its new place. */
void net_announce(struct net *n);

#endif
