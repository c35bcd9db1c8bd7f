/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a network card's frames go: see net.h for the kinds. A frame here is what the guest's
 * queues hold: a header of NET_HDR_BYTES (struct virtio_net_hdr_v1), then the Ethernet frame.
 *
 * Threads: one at a time (the device's lock). Nothing here blocks.
 */
#ifndef VIRTIO_NET_BACKEND_H
#define VIRTIO_NET_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/err.h"

#define NET_HDR_BYTES 12u
#define NET_ETH_MIN   14u
/* The largest segment that is cut up later (64 KiB of IP), its Ethernet and VLAN headers, ours. */
#define NET_FRAME_MAX (NET_HDR_BYTES + 18u + 65536u)

enum net_kind { NET_TAP, NET_STREAM, NET_DGRAM };

struct net_backend {
	enum net_kind kind;
	int fd;
	uint64_t features; /* offloads it can do, as VIRTIO_NET_F_ bits */
	/* dgram */
	struct sockaddr_un peer;
	char own_path[108]; /* removed in the end; "" if there is none */
	bool connected;
	/* stream: a frame that has come in part, and one that has left in part */
	uint8_t *in, *out;
	size_t in_len, out_at, out_len;
};

int net_backend_open(struct net_backend *b, const char *spec, bool no_offloads, struct err *e);
void net_backend_close(struct net_backend *b);

/* What the driver took: which offloads frames to it may carry. */
void net_backend_set_features(struct net_backend *b, uint64_t driver_features);

/*
 * The next frame into buf[NET_FRAME_MAX]: its length with the header; 0: none now; -ENOTCONN: the
 * peer is gone for good.
 */
ssize_t net_backend_recv(struct net_backend *b, uint8_t *buf);
/*
 * 0: sent, or dropped as networks do. 1: taken, but call net_backend_flush() when it can be written
 * to. -EAGAIN: not taken; again when it can be written to.
 */
int net_backend_send(struct net_backend *b, const struct iovec *iov, unsigned n);
/* It can be written to: send what is left of the last frame. 0 or -EAGAIN. */
int net_backend_flush(struct net_backend *b);

#endif
