/* SPDX-License-Identifier: Apache-2.0 */
/* Frames between the back-end and the queues. All of it in the I/O thread. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <linux/virtio_net.h>

#include "base/log.h"
#include "virtio/net_impl.h"

/* --- what the loop watches --- */

void net_watch(struct net *n)
{
	uint32_t want = (n->rx_open ? EPOLLIN : 0u) | (n->tx_blocked ? EPOLLOUT : 0u);

	if (n->be.fd < 0 || want == n->watched)
		return;
	if (!loop_modify(n->vdev.host.loop, n->be.fd, want))
		n->watched = want;
}

static void peer_gone(struct net *n)
{
	log_warn("virtio-net %u: the other end of the network is gone", n->vdev.host.instance);
	loop_remove(n->vdev.host.loop, n->be.fd);
	net_backend_close(&n->be);
	n->rx_open = n->tx_blocked = false;
	n->status &= (uint16_t)~VIRTIO_NET_S_LINK_UP;
	vdev_config_changed(&n->vdev);
}

/* --- to the guest --- */

/*
 * How many buffers does the waiting frame need? -EAGAIN: more than there are. -EMSGSIZE: it fits
 * none. Leaves the queue as it was.
 */
static int buffers_needed(struct net *n, struct vq *q)
{
	bool mergeable = vdev_has(&n->vdev, VIRTIO_NET_F_MRG_RXBUF);
	uint64_t room = 0;
	uint16_t k = 0;
	int rc = 0;

	while (room < n->frame_bytes && rc >= 0) {
		rc = vq_pop(q, &n->chain);
		if (rc == 0)
			rc = -EAGAIN;
		if (rc < 0)
			break;
		k++;
		room += n->chain.in_bytes;
		if (!n->chain.in_bytes)
			rc = vdev_break(&n->vdev, "a receive buffer without room");
		else if (!mergeable && room < n->frame_bytes)
			rc = -EMSGSIZE;
	}
	vq_rewind(q, k);
	return rc < 0 ? rc : k;
}

/* Put the waiting frame into `count` buffers. The driver may have changed them meanwhile. */
static int fill_buffers(struct net *n, struct vq *q, int count)
{
	uint16_t num_buffers = (uint16_t)count;
	size_t done = 0;

	memcpy(n->frame + offsetof(struct virtio_net_hdr_v1, num_buffers), &num_buffers,
	       sizeof(num_buffers));
	for (int i = 0; i < count; i++) {
		int rc = vq_pop(q, &n->chain);
		size_t part;

		if (rc <= 0)
			return rc ? rc : vdev_break(&n->vdev, "a receive buffer was taken back");
		part = vq_write(&n->chain, 0, n->frame + done, n->frame_bytes - done);
		vq_put(q, &n->chain, part);
		done += part;
	}
	if (done < n->frame_bytes)
		return vdev_break(&n->vdev, "a receive buffer became smaller");
	vq_publish(q);
	return 0;
}

/* 0: the frame is delivered or dropped; -EAGAIN: it has to wait; -EBADMSG. */
static int deliver(struct net *n, struct vq *q)
{
	int count = buffers_needed(n, q);
	int rc = count < 0 ? count : fill_buffers(n, q, count);

	if (rc == -EMSGSIZE)
		rc = 0; /* dropped */
	if (rc != -EAGAIN)
		n->frame_bytes = 0;
	return rc;
}

/* Is there any buffer? Without one nothing is taken off the network. */
static int has_buffer(struct net *n, struct vq *q)
{
	int rc = vq_pop(q, &n->chain);

	if (rc == 1)
		vq_rewind(q, 1);
	return rc;
}

/* vdev_ops.notify's answer. Closes rx_open when there is nothing to put frames into. */
static int receive(struct net *n)
{
	struct vq *q = vdev_queue(&n->vdev, NET_RX);

	for (unsigned i = 0; i < NET_BATCH; i++) {
		ssize_t len;
		int rc;

		if (!n->frame_bytes) {
			rc = has_buffer(n, q);
			n->rx_open = rc > 0;
			if (rc <= 0)
				return rc;
			len = net_backend_recv(&n->be, n->frame);
			if (len < 0)
				peer_gone(n);
			if (len <= 0)
				return 0;
			if ((size_t)len < NET_HDR_BYTES + NET_ETH_MIN)
				continue;
			n->frame_bytes = (size_t)len;
		}
		rc = deliver(n, q);
		n->rx_open = rc == 0;
		if (rc)
			return rc == -EAGAIN ? 0 : rc;
	}
	return 1;
}

int net_notify_rx(struct net *n)
{
	int rc = receive(n);

	net_watch(n);
	return rc;
}

/* --- from the guest --- */

int net_notify_tx(struct net *n)
{
	struct vq *q = vdev_queue(&n->vdev, NET_TX);

	for (unsigned i = 0; i < NET_BATCH && !n->tx_blocked; i++) {
		int rc = vq_pop(q, &n->chain), sent;

		if (rc <= 0)
			return rc;
		sent = net_backend_send(&n->be, n->chain.iov, n->chain.n_out);
		if (sent < 0)
			vq_rewind(q, 1);
		else
			vq_push(q, &n->chain, 0);
		if (sent) {
			n->tx_blocked = true;
			net_watch(n);
		}
	}
	return n->tx_blocked ? 0 : 1;
}

/* --- the back-end's events --- */

static void finish(struct net *n, unsigned q, int rc)
{
	if (rc < 0)
		(void)vdev_break_queue(&n->vdev, q);
	vdev_signal(&n->vdev, q);
	if (rc > 0)
		vdev_kick(&n->vdev, q);
}

/* An error of a datagram socket is the last frame's; others end the connection. */
static void on_error(struct net *n)
{
	int code;
	socklen_t len = sizeof(code);

	if (n->be.kind == NET_DGRAM)
		(void)getsockopt(n->be.fd, SOL_SOCKET, SO_ERROR, &code, &len);
	else
		peer_gone(n);
}

void net_on_backend(void *ctx, uint32_t events)
{
	struct net *n = ctx;

	vdev_lock(&n->vdev);
	if (events & EPOLLOUT) {
		n->tx_blocked = net_backend_flush(&n->be) != 0;
		if (vdev_live(&n->vdev))
			finish(n, NET_TX, net_notify_tx(n));
	}
	if (!vdev_live(&n->vdev))
		n->rx_open = false; /* the first doorbell opens it again */
	else if (events & EPOLLIN && n->be.fd >= 0)
		finish(n, NET_RX, receive(n));
	/* What the peer sent before it left is taken first, if there is room for it. */
	if (events & (EPOLLERR | EPOLLHUP) && n->be.fd >= 0 && !(n->rx_open && events & EPOLLIN))
		on_error(n);
	net_watch(n);
	vdev_unlock(&n->vdev);
}
