/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/net_backend.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if_tun.h>
#include <linux/virtio_net.h>

#include "virtio/net_open.h"

#define LENGTH_BYTES 4u

#define F(bit) (1ull << (bit))

_Static_assert(sizeof(struct virtio_net_hdr_v1) == NET_HDR_BYTES, "the header of version 1");

void net_backend_close(struct net_backend *b)
{
	if (b->fd >= 0)
		(void)close(b->fd);
	b->fd = -1;
	if (b->own_path[0])
		(void)unlink(b->own_path);
	b->own_path[0] = '\0';
	free(b->in);
	free(b->out);
	b->in = b->out = NULL;
}

/* --- TAP --- */

static void tap_set_features(struct net_backend *b, uint64_t f)
{
	static const struct {
		unsigned bit, flag;
	} map[] = {
		{VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
		{VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
		{VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO},
	};
	unsigned flags = 0;

	/* Segmentation rests on checksums; without them the kernel takes none of it. */
	if (f & F(VIRTIO_NET_F_GUEST_CSUM)) {
		flags = TUN_F_CSUM;
		for (unsigned i = 0; i < sizeof(map) / sizeof(map[0]); i++)
			if (f & F(map[i].bit))
				flags |= map[i].flag;
		if (f & F(VIRTIO_NET_F_GUEST_ECN) && flags & (TUN_F_TSO4 | TUN_F_TSO6))
			flags |= TUN_F_TSO_ECN;
	}
	if (ioctl(b->fd, TUNSETOFFLOAD, flags))
		(void)ioctl(b->fd, TUNSETOFFLOAD, 0);
}

static ssize_t tap_recv(struct net_backend *b, uint8_t *buf)
{
	ssize_t n = read(b->fd, buf, NET_FRAME_MAX);

	if (n < 0)
		return errno == EBADFD || errno == ENODEV ? -ENOTCONN : 0;
	return n >= (ssize_t)NET_HDR_BYTES ? n : 0;
}

static int tap_send(struct net_backend *b, const struct iovec *iov, unsigned n)
{
	/* An interface that is down, a header that makes no sense: the frame is lost. */
	return writev(b->fd, iov, (int)n) < 0 && errno == EAGAIN ? -EAGAIN : 0;
}

/* --- sockets: frames without our header --- */

/* The frame's parts without the first NET_HDR_BYTES bytes. Returns how many parts are left. */
static unsigned cut_header(const struct iovec *iov, unsigned n, struct iovec *to)
{
	size_t cut = NET_HDR_BYTES;
	unsigned k = 0;

	for (unsigned i = 0; i < n; i++) {
		size_t part = iov[i].iov_len < cut ? iov[i].iov_len : cut;

		cut -= part;
		if (iov[i].iov_len > part)
			to[k++] = (struct iovec){.iov_base = (uint8_t *)iov[i].iov_base + part,
						 .iov_len = iov[i].iov_len - part};
	}
	return k;
}

static void clear_header(uint8_t *buf)
{
	memset(buf, 0, NET_HDR_BYTES);
}

static ssize_t dgram_recv(struct net_backend *b, uint8_t *buf)
{
	ssize_t n = recv(b->fd, buf + NET_HDR_BYTES, NET_FRAME_MAX - NET_HDR_BYTES,
			 MSG_DONTWAIT | MSG_TRUNC);

	clear_header(buf);
	/* A frame that was cut off is dropped: 0 would say that none is left, so is an empty one.
	 */
	if (n < 0)
		return 0;
	return n > (ssize_t)(NET_FRAME_MAX - NET_HDR_BYTES) ? NET_HDR_BYTES
							    : n + (ssize_t)NET_HDR_BYTES;
}

static int dgram_send(struct net_backend *b, const struct iovec *iov, unsigned n)
{
	struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n};

	/* Connected, so that the socket's being writable tells of room at the peer. */
	if (!b->connected) {
		if (connect(b->fd, (struct sockaddr *)&b->peer, sizeof(b->peer)))
			return 0;
		b->connected = true;
	}
	if (sendmsg(b->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 0;
	if (errno == EAGAIN)
		return -EAGAIN;
	/* A peer that went away may come back under its name. */
	if (b->peer.sun_family == AF_UNIX && (errno == ECONNREFUSED || errno == ENOTCONN))
		b->connected = false;
	return 0;
}

/* --- stream: frames after their lengths --- */

static ssize_t take_frame(struct net_backend *b, uint8_t *buf)
{
	uint32_t len;
	size_t all;

	if (b->in_len < LENGTH_BYTES)
		return 0;
	memcpy(&len, b->in, sizeof(len));
	len = ntohl(len);
	/* Out of step, or no peer of ours: there is no way to find the next frame. */
	if (!len || len > NET_FRAME_MAX - NET_HDR_BYTES)
		return -ENOTCONN;
	all = LENGTH_BYTES + (size_t)len;
	if (b->in_len < all)
		return 0;
	clear_header(buf);
	memcpy(buf + NET_HDR_BYTES, b->in + LENGTH_BYTES, len);
	b->in_len -= all;
	memmove(b->in, b->in + all, b->in_len);
	return (ssize_t)len + (ssize_t)NET_HDR_BYTES;
}

static ssize_t stream_recv(struct net_backend *b, uint8_t *buf)
{
	ssize_t n = take_frame(b, buf);

	if (n)
		return n;
	n = recv(b->fd, b->in + b->in_len, LENGTH_BYTES + NET_FRAME_MAX - b->in_len, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -ENOTCONN;
	if (n == 0)
		return -ENOTCONN;
	b->in_len += (size_t)n;
	return take_frame(b, buf);
}

static int stream_flush(struct net_backend *b)
{
	while (b->out_at < b->out_len) {
		ssize_t n = send(b->fd, b->out + b->out_at, b->out_len - b->out_at,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			return -EAGAIN;
		if (n < 0 && errno != EINTR) {
			b->out_at = b->out_len; /* reading finds out that the peer is gone */
			return 0;
		}
		b->out_at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int stream_send(struct net_backend *b, const struct iovec *iov, unsigned n)
{
	uint32_t len = 0, be;

	if (stream_flush(b))
		return -EAGAIN;
	for (unsigned i = 0; i < n; i++) {
		memcpy(b->out + LENGTH_BYTES + len, iov[i].iov_base, iov[i].iov_len);
		len += (uint32_t)iov[i].iov_len;
	}
	be = htonl(len);
	memcpy(b->out, &be, sizeof(be));
	b->out_at = 0;
	b->out_len = LENGTH_BYTES + (size_t)len;
	/* The frame is ours now, also if only part of it leaves at once. */
	return stream_flush(b) ? 1 : 0;
}

/* --- whatever it is --- */

void net_backend_set_features(struct net_backend *b, uint64_t driver_features)
{
	if (b->fd >= 0 && b->kind == NET_TAP)
		tap_set_features(b, driver_features);
}

ssize_t net_backend_recv(struct net_backend *b, uint8_t *buf)
{
	if (b->fd < 0)
		return 0;
	if (b->kind == NET_TAP)
		return tap_recv(b, buf);
	return b->kind == NET_DGRAM ? dgram_recv(b, buf) : stream_recv(b, buf);
}

int net_backend_send(struct net_backend *b, const struct iovec *iov, unsigned n)
{
	struct iovec frame[256];
	size_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += iov[i].iov_len;
	if (b->fd < 0 || n > sizeof(frame) / sizeof(frame[0]) ||
	    bytes < NET_HDR_BYTES + NET_ETH_MIN || bytes > NET_FRAME_MAX)
		return 0;
	if (b->kind == NET_TAP)
		return tap_send(b, iov, n);
	n = cut_header(iov, n, frame);
	return b->kind == NET_DGRAM ? dgram_send(b, frame, n) : stream_send(b, frame, n);
}

int net_backend_flush(struct net_backend *b)
{
	return b->fd >= 0 && b->kind == NET_STREAM ? stream_flush(b) : 0;
}

int net_backend_open(struct net_backend *b, const char *spec, bool no_offloads, struct err *e)
{
	int rc;

	*b = (struct net_backend){.fd = -1};
	rc = net_open(b, spec, no_offloads, e);
	if (!rc && b->kind == NET_STREAM) {
		b->in = malloc(LENGTH_BYTES + NET_FRAME_MAX);
		b->out = malloc(LENGTH_BYTES + NET_FRAME_MAX);
		if (!b->in || !b->out)
			rc = err_set(e, ENOMEM, "out of memory for a network card");
	}
	if (rc)
		net_backend_close(b);
	return rc;
}
