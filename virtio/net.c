/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include "base/clock.h"
#include "virtio/net_impl.h"
#include "virtio/tables.h"

#define ANNOUNCEMENTS   5
#define FIRST_GAP_MS    50  /* from the first announcement to the second; ... */
#define LONGER_BY_MS    100 /* ... each gap is longer than the one before it */
#define ARP_FRAME_BYTES 60u

static const struct field net_fields[] = {
	FIELD_SUB(struct net_state, vdev, &vdev_table),
	FIELD_RAW(struct net_state, mac),
	FIELD(struct net_state, status, FIELD_U16),
};
FIELD_TABLE(net_table, "virtio-net", 1, net_fields);

static struct net *to_net(struct vdev *d)
{
	return (struct net *)d;
}

/* --- addresses --- */

static bool none(const uint8_t *mac)
{
	static const uint8_t zeroes[NET_MAC_BYTES];

	return memcmp(mac, zeroes, NET_MAC_BYTES) == 0;
}

static bool usable(const uint8_t *mac)
{
	return !none(mac) && !(mac[0] & 1);
}

int net_parse_mac(const char *text, uint8_t mac[NET_MAC_BYTES])
{
	static const char digits[] = "0123456789abcdefABCDEF";

	for (unsigned i = 0; i < NET_MAC_BYTES; i++, text += 3) {
		/* Exactly two digits, and what ends or separates the numbers. */
		if (strspn(text, digits) != 2 || text[2] != (i + 1 < NET_MAC_BYTES ? ':' : '\0'))
			return -EINVAL;
		mac[i] = (uint8_t)strtoul(text, NULL, 16);
	}
	return usable(mac) ? 0 : -EINVAL;
}

static int choose_mac(struct net *n, const uint8_t *mac, struct err *e)
{
	static const uint8_t local[] = {0x52, 0x54, 0x00};

	memcpy(n->mac, mac, NET_MAC_BYTES);
	if (usable(mac))
		return 0;
	if (!none(mac))
		return err_set(e, EINVAL, "a network card cannot have a group address");
	memcpy(n->mac, local, sizeof(local));
	if (getrandom(n->mac + 3, 3, 0) != 3)
		return err_sys(e, EIO, "cannot make up an address for a network card");
	return 0;
}

/* --- announcing --- */

static void arm(struct net *n, unsigned ms)
{
	struct itimerspec t = {.it_value.tv_sec = ms / 1000,
			       .it_value.tv_nsec = (long)(ms % 1000) * (long)NS_PER_MS};

	(void)timerfd_settime(n->timer_fd, 0, &t, NULL);
}

/* "Who has my address?", asked by all who are new: switches learn from it where the guest is. */
static void send_rarp(struct net *n)
{
	static const uint8_t fixed[] = {0x80, 0x35,              /* reverse ARP (RFC 903) */
					0x00, 0x01, 0x08, 0x00,  /* Ethernet, IPv4 */
					6,    4,    0x00, 0x03}; /* lengths; "request reverse" */
	uint8_t frame[NET_HDR_BYTES + ARP_FRAME_BYTES] = {0};
	struct iovec iov = {.iov_base = frame, .iov_len = sizeof(frame)};
	uint8_t *at = frame + NET_HDR_BYTES;

	memset(at, 0xff, NET_MAC_BYTES);
	memcpy(at + 6, n->mac, NET_MAC_BYTES);
	memcpy(at + 12, fixed, sizeof(fixed));
	memcpy(at + 22, n->mac, NET_MAC_BYTES); /* sender */
	memcpy(at + 32, n->mac, NET_MAC_BYTES); /* target */
	/* One that does not get through now is followed by others. */
	if (net_backend_send(&n->be, &iov, 1) == 1) {
		n->tx_blocked = true;
		net_watch(n);
	}
}

static void on_timer(void *ctx, uint32_t events)
{
	struct net *n = ctx;
	uint64_t count;

	(void)events;
	(void)!read(n->timer_fd, &count, sizeof(count));
	vdev_lock(&n->vdev);
	if (n->announcements && !n->vdev.is_paused) {
		unsigned sent = ANNOUNCEMENTS - n->announcements;

		send_rarp(n);
		if (--n->announcements)
			arm(n, FIRST_GAP_MS + sent * LONGER_BY_MS);
	}
	vdev_unlock(&n->vdev);
}

void net_announce(struct net *n)
{
	struct itimerspec now = {.it_value.tv_nsec = 1};

	vdev_lock(&n->vdev);
	n->announcements = ANNOUNCEMENTS;
	(void)timerfd_settime(n->timer_fd, 0, &now, NULL);
	if (vdev_live(&n->vdev) && vdev_has(&n->vdev, VIRTIO_NET_F_GUEST_ANNOUNCE)) {
		n->status |= VIRTIO_NET_S_ANNOUNCE;
		vdev_config_changed(&n->vdev);
	}
	vdev_unlock(&n->vdev);
}

/* --- control queue --- */

static uint8_t control(struct net *n)
{
	struct virtio_net_ctrl_hdr h;

	if (vq_read(&n->chain, 0, &h, sizeof(h)) != sizeof(h))
		return VIRTIO_NET_ERR;
	if (h.class != VIRTIO_NET_CTRL_ANNOUNCE || h.cmd != VIRTIO_NET_CTRL_ANNOUNCE_ACK)
		return VIRTIO_NET_ERR;
	n->status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	return VIRTIO_NET_OK;
}

static int notify_control(struct net *n, struct vq *q)
{
	for (unsigned i = 0; i < NET_BATCH; i++) {
		int rc = vq_pop(q, &n->chain);
		uint8_t ack;

		if (rc <= 0)
			return rc;
		ack = control(n);
		vq_push(q, &n->chain, vq_write(&n->chain, 0, &ack, 1));
	}
	return 1;
}

/* --- device --- */

static int notify(struct vdev *d, unsigned q)
{
	struct net *n = to_net(d);

	if (q == NET_RX)
		return net_notify_rx(n);
	return q == NET_TX ? net_notify_tx(n) : notify_control(n, vdev_queue(d, q));
}

static void config_read(struct vdev *d, uint32_t offset, void *to, uint32_t len)
{
	const struct net *n = to_net(d);
	struct virtio_net_config c = {.status = n->status, .max_virtqueue_pairs = 1};

	memcpy(c.mac, n->mac, sizeof(c.mac));
	memcpy(to, (const uint8_t *)&c + offset, len);
}

static void activate(struct vdev *d)
{
	net_backend_set_features(&to_net(d)->be, d->driver_features);
}

static void reset(struct vdev *d)
{
	struct net *n = to_net(d);

	net_backend_set_features(&n->be, 0);
	n->status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	n->frame_bytes = 0;
}

static void save(struct vdev *d, void *state)
{
	const struct net *n = to_net(d);
	struct net_state *st = state;

	memcpy(st->mac, n->mac, sizeof(st->mac));
	st->status = n->status;
}

static int check(struct vdev *d, const void *state, struct err *e)
{
	const struct net_state *st = state;

	(void)d;
	if (!usable(st->mac))
		return err_set(e, EINVAL, "no card has that address");
	if (st->status & ~(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE))
		return err_set(e, EINVAL, "no card has the link status 0x%x", st->status);
	return 0;
}

static void load(struct vdev *d, const void *state)
{
	const struct net_state *st = state;
	struct net *n = to_net(d);

	memcpy(n->mac, st->mac, sizeof(n->mac));
	/* The link is this host's, the guest's task to announce itself moves with it. */
	n->status = (uint16_t)((n->status & VIRTIO_NET_S_LINK_UP) |
			       (st->status & VIRTIO_NET_S_ANNOUNCE));
	n->frame_bytes = 0;
}

static const struct vdev_ops net_ops = {
	.name = "virtio-net",
	.device_id = VIRTIO_ID_NET,
	.config_bytes = sizeof(struct virtio_net_config),
	.config_read = config_read,
	.activate = activate,
	.reset = reset,
	.notify = notify,
	.table = &net_table,
	.state_bytes = sizeof(struct net_state),
	.save = save,
	.check = check,
	.load = load,
};

/* --- life --- */

static int watch_all(struct net *n, struct loop *loop)
{
	int rc = loop_add(loop, n->be.fd, 0, net_on_backend, n);

	if (rc)
		return rc;
	n->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	rc = n->timer_fd < 0 ? -errno : loop_add(loop, n->timer_fd, EPOLLIN, on_timer, n);
	if (rc)
		loop_remove(loop, n->be.fd);
	return rc;
}

int net_new(struct net **out, const struct vdev_host *host, const struct net_config *cfg,
	    struct err *e)
{
	static const uint16_t sizes[] = {256, 256, 64};
	const uint64_t own = VDEV_F(VIRTIO_NET_F_MAC) | VDEV_F(VIRTIO_NET_F_STATUS) |
			     VDEV_F(VIRTIO_NET_F_CTRL_VQ) | VDEV_F(VIRTIO_NET_F_GUEST_ANNOUNCE) |
			     VDEV_F(VIRTIO_NET_F_MRG_RXBUF);
	struct net *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return err_set(e, ENOMEM, "out of memory for a network card");
	n->timer_fd = -1;
	n->status = VIRTIO_NET_S_LINK_UP;
	rc = net_backend_open(&n->be, cfg->backend, cfg->no_offloads, e);
	if (!rc)
		rc = choose_mac(n, cfg->mac, e);
	if (!rc)
		rc = vdev_init(&n->vdev, &net_ops, host, own | n->be.features, sizes, 3, e);
	if (rc)
		goto fail;
	rc = watch_all(n, host->loop);
	if (rc) {
		(void)err_sys(e, -rc, "cannot set up a network card");
		vdev_fini(&n->vdev);
		goto fail;
	}
	*out = n;
	return 0;
fail:
	if (n->timer_fd >= 0)
		(void)close(n->timer_fd);
	net_backend_close(&n->be);
	free(n);
	return rc;
}

void net_free(struct net *n)
{
	if (!n)
		return;
	if (n->be.fd >= 0)
		loop_remove(n->vdev.host.loop, n->be.fd);
	loop_remove(n->vdev.host.loop, n->timer_fd);
	(void)close(n->timer_fd);
	net_backend_close(&n->be);
	vdev_fini(&n->vdev);
	free(n);
}

struct vdev *net_vdev(struct net *n)
{
	return &n->vdev;
}
