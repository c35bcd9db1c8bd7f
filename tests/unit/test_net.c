/* SPDX-License-Identifier: Apache-2.0 */
/* The network card: frames, control queue, announcements; on datagrams and on a TAP. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/if_packet.h>

#include "base/clock.h"
#include "tests/support/suite.h"
#include "tests/unit/support/net_fixture.h"

START_TEST(addresses)
{
	static const char *const bad[] = {"",
					  "52:54:00:12:34",
					  "52:54:00:12:34:5",
					  "52:54:00:12:34:5g",
					  "53:54:00:12:34:56",
					  "00:00:00:00:00:00",
					  "52:54:00:12:34:567",
					  "5254:00:12:34:56:7",
					  " 2:54:00:12:34:56"};
	uint8_t got[6], want[] = {0x52, 0x54, 0, 0x12, 0xab, 0xcd};

	ck_assert_int_eq(net_parse_mac("52:54:00:12:aB:Cd", got), 0);
	ck_assert_mem_eq(got, want, 6);
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_msg(net_parse_mac(bad[i], got) == -EINVAL, "%s", bad[i]);
	vdrv_start(&nv, EVENT_IDX, 2);
	for (unsigned i = 0; i < 6; i++)
		ck_assert_uint_eq(vdrv_config(&nv, i, 1), card_mac[i]);
	ck_assert_uint_eq(vdrv_config(&nv, 6, 2), VIRTIO_NET_S_LINK_UP);
}
END_TEST

START_TEST(bad_backends)
{
	static const struct {
		const char *spec, *text;
	} bad[] = {
		{"", "no network back-end"},
		{"user", "no network back-end"},
		{"tap:", "no name"},
		{"tap:name-that-is-too-long", "no name"},
		{"tap-fd:x", "no file descriptor"},
		{"tap-fd:-1", "no file descriptor"},
		{"tap-fd:99999", "no TAP"},
		{"stream:/tmp/no-such-socket", "cannot connect"},
		{"stream:", "empty or too long"},
		{"dgram:/tmp/x", "two paths"},
		{"dgram:,", "empty or too long"},
		{"dgram:/no-such-dir/x,/tmp/y", "cannot make"},
		{"stream-fd:99999", "no socket"},
	};
	struct vdev_host host = vdrv_host(&nv);

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct net_config cfg = {.backend = bad[i].spec};
		struct err e = ERR_INIT;
		struct net *n;

		ck_assert_int_lt(net_new(&n, &host, &cfg, &e), 0);
		ck_assert_msg(strstr(e.msg, bad[i].text) != NULL, "%s: %s", bad[i].spec, e.msg);
	}
}
END_TEST

START_TEST(sends)
{
	uint8_t got[2048];
	const uint8_t *want;
	struct vdrv_part runt = {TXBUF, HDR + 5, false}, none = {TXBUF, 5, true};
	struct vdrv_part huge = {0, VDRV_RAM_BYTES, false};

	vdrv_start(&nv, EVENT_IDX, 2);
	want = net_guest_sends(1514, 1);
	ck_assert_int_eq(recv(card_peer, got, sizeof(got), 0), 1514);
	ck_assert_mem_eq(got, want, 1514);
	/* No frames at all: dropped. */
	(void)vdrv_call(&nv, TX, &runt, 1);
	(void)vdrv_call(&nv, TX, &none, 1);
	(void)vdrv_call(&nv, TX, &huge, 1);
	ck_assert_int_eq(recv(card_peer, got, sizeof(got), 0), -1);
	ck_assert(!vdrv_broken(&nv));
}
END_TEST

/* In one piece, and over several buffers. */
START_TEST(receives)
{
	uint8_t frame[9000];
	uint32_t id, len;
	uint16_t num;

	net_fill(frame, sizeof(frame), 5);
	vdrv_start(&nv, EVENT_IDX | MRG, 2);
	net_give_buffers(10, 1536);
	vdrv_clear_marks(&nv);
	ck_assert_int_eq(send(card_peer, frame, 1000, 0), 1000);
	ck_assert_int_eq(send(card_peer, frame, sizeof(frame), 0), sizeof(frame));
	vdrv_run(&nv);
	ck_assert(nv.irq.level);
	ck_assert(vdrv_used(&nv, RX, &id, &len));
	ck_assert_uint_eq(len, HDR + 1000);
	memcpy(&num, (uint8_t *)vdrv_ram(&nv, RXBUF, HDR) + 10, 2);
	ck_assert_uint_eq(num, 1);
	ck_assert_mem_eq((uint8_t *)vdrv_ram(&nv, RXBUF, 2000) + HDR, frame, 1000);
	memcpy(&num, (uint8_t *)vdrv_ram(&nv, RXBUF + 0x10000, HDR) + 10, 2);
	ck_assert_uint_eq(num, 6);
	for (size_t i = 0, done = 0; i < 6; i++) {
		size_t skip = i ? 0 : HDR;

		ck_assert(vdrv_used(&nv, RX, &id, &len));
		ck_assert_uint_eq(id, 1 + i);
		ck_assert(vdrv_marked(&nv, RXBUF + (1 + i) * 0x10000));
		ck_assert_mem_eq((uint8_t *)vdrv_ram(&nv, RXBUF + (1 + i) * 0x10000, 1536) + skip,
				 frame + done, len - skip);
		done += len - skip;
		if (i == 5)
			ck_assert_uint_eq(done, sizeof(frame));
	}
	ck_assert(!vdrv_used(&nv, RX, &id, &len));
}
END_TEST

START_TEST(frames_wait_for_buffers)
{
	uint8_t frame[3000];
	uint32_t id, len;

	net_fill(frame, sizeof(frame), 1);
	vdrv_start(&nv, EVENT_IDX | MRG, 2);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_gt(send(card_peer, frame, 100 + i, 0), 0);
	vdrv_run(&nv);
	net_give_buffers(2, 1536);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert(vdrv_used(&nv, RX, &id, &len));
		ck_assert_uint_eq(len, HDR + 100 + i);
	}
	ck_assert(!vdrv_used(&nv, RX, &id, &len));
	net_give_buffers(1, 1536);
	ck_assert(vdrv_used(&nv, RX, &id, &len));
	ck_assert_uint_eq(len, HDR + 102);
	/* Two buffers are needed, one is there. */
	net_give_buffers(1, 1536);
	ck_assert_int_eq(send(card_peer, frame, 3000, 0), 3000);
	vdrv_run(&nv);
	ck_assert(!vdrv_used(&nv, RX, &id, &len));
	net_give_buffers(1, 1536);
	ck_assert(vdrv_used(&nv, RX, &id, &len) && vdrv_used(&nv, RX, &id, &len));
}
END_TEST

START_TEST(too_large_without_merging)
{
	uint8_t frame[3000];
	uint32_t id, len;

	net_fill(frame, sizeof(frame), 1);
	vdrv_start(&nv, EVENT_IDX, 2);
	net_give_buffers(3, 1536);
	ck_assert_int_eq(send(card_peer, frame, 3000, 0), 3000);
	ck_assert_int_eq(send(card_peer, frame, 60, 0), 60);
	vdrv_run(&nv);
	ck_assert(vdrv_used(&nv, RX, &id, &len));
	ck_assert_uint_eq(len, HDR + 60);
	ck_assert(!vdrv_used(&nv, RX, &id, &len));
}
END_TEST

START_TEST(bad_receive_buffers)
{
	struct vdrv_part out = {RXBUF, 1536, false}, small = {RXBUF, 1, true};
	uint8_t frame[60];

	net_fill(frame, sizeof(frame), 1);
	vdrv_start(&nv, EVENT_IDX | MRG, 2);
	vdrv_add(&nv, RX, &out, 1);
	vdrv_kick(&nv, RX);
	ck_assert_int_eq(send(card_peer, frame, 60, 0), 60);
	vdrv_run(&nv);
	ck_assert(vdrv_broken(&nv));
	ck_assert_uint_eq(vdrv_log_lines(), 1);
	/* As small as can be: it is just slow. */
	vdrv_start(&nv, EVENT_IDX | MRG, 2);
	for (unsigned i = 0; i < 64; i++)
		vdrv_add(&nv, RX, &small, 1);
	vdrv_kick(&nv, RX);
	ck_assert_int_eq(send(card_peer, frame, 40, 0), 40);
	vdrv_run(&nv);
	ck_assert(!vdrv_broken(&nv));
	ck_assert_uint_eq(nv.q[RX].used16[1], HDR + 40);
}
END_TEST

START_TEST(slow_peer)
{
	uint8_t got[2048];
	unsigned sent = 0, got_n = 0;

	vdrv_start(&nv, EVENT_IDX, 2);
	for (; sent < 60; sent++) {
		struct vdrv_part p = {TXBUF + sent * 2048, HDR + 1000, false};

		net_fill(vdrv_ram(&nv, p.gpa, p.len), p.len, sent);
		vdrv_add(&nv, TX, &p, 1);
	}
	vdrv_kick(&nv, TX);
	vdrv_run(&nv);
	for (unsigned i = 0; i < 1000 && got_n < 60; i++) {
		if (recv(card_peer, got, sizeof(got), 0) == 1000) {
			ck_assert_mem_eq(got,
					 (uint8_t *)vdrv_ram(&nv, TXBUF + got_n * 2048, 1012) + HDR,
					 1000);
			got_n++;
		}
		(void)loop_step(nv.loop, 0);
	}
	ck_assert_uint_eq(got_n, 60);
	vdrv_run(&nv);
	ck_assert_uint_eq(nv.q[TX].used16[1], 60);
}
END_TEST

/* --- control queue and announcing --- */

static uint8_t command(uint8_t class, uint8_t cmd, uint32_t len)
{
	struct vdrv_part p[] = {{TXBUF, len, false}, {TXBUF + 64, 1, true}};
	uint8_t *at = vdrv_ram(&nv, TXBUF, 65);

	at[0] = class;
	at[1] = cmd;
	at[64] = 0x55;
	ck_assert_uint_eq(vdrv_call(&nv, CQ, p, 2), 1);
	return at[64];
}

START_TEST(control_queue)
{
	struct vdrv_part no_ack = {TXBUF, 2, false};

	vdrv_start(&nv, EVENT_IDX | CTRL_VQ | ANNOUNCE, 3);
	ck_assert_uint_eq(command(VIRTIO_NET_CTRL_ANNOUNCE, 0, 2), VIRTIO_NET_OK);
	ck_assert_uint_eq(command(VIRTIO_NET_CTRL_ANNOUNCE, 1, 2), VIRTIO_NET_ERR);
	ck_assert_uint_eq(command(VIRTIO_NET_CTRL_RX, 0, 3), VIRTIO_NET_ERR);
	ck_assert_uint_eq(command(0xff, 0xff, 1), VIRTIO_NET_ERR);
	(void)vdrv_call(&nv, CQ, &no_ack, 1);
	ck_assert(!vdrv_broken(&nv));
}
END_TEST

static bool is_rarp(const uint8_t *f, ssize_t n)
{
	static const uint8_t head[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1,
				       2,    3,    0x80, 0x35, 0,    1,    8,    0,    6, 4,
				       0,    3,    0x52, 0x54, 0,    1,    2,    3};

	return n == 60 && !memcmp(f, head, sizeof(head)) && !memcmp(f + 32, card_mac, 6);
}

START_TEST(announces_after_a_move)
{
	uint64_t end = clock_mono_ns() + 5 * NS_PER_SEC;
	struct net *old = card, *other;
	uint8_t got[2048];
	unsigned rarps = 0;

	vdrv_start(&nv, EVENT_IDX | MRG | CTRL_VQ | ANNOUNCE, 3);
	net_give_buffers(4, 1536);
	(void)net_guest_sends(100, 1);
	/* Made with an address of its own, which gives way to the guest's. */
	other = net_make_pair(SOCK_DGRAM);
	vdrv_move(&nv, net_vdev(other));
	net_free(old);
	card = other;
	net_announce(card);
	ck_assert_uint_eq(vdrv_config(&nv, 6, 2), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	ck_assert(vdrv_in(&nv, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	ck_assert_uint_eq(command(VIRTIO_NET_CTRL_ANNOUNCE, 0, 2), VIRTIO_NET_OK);
	ck_assert_uint_eq(vdrv_config(&nv, 6, 2), VIRTIO_NET_S_LINK_UP);
	while (rarps < 5 && clock_mono_ns() < end) {
		ssize_t n;

		(void)loop_step(nv.loop, 100);
		while ((n = recv(card_peer, got, sizeof(got), 0)) > 0)
			rarps += is_rarp(got, n);
	}
	ck_assert_uint_eq(rarps, 5);
	/* And traffic goes on, with the buffers that were given before. */
	net_fill(got, 60, 1);
	ck_assert_int_eq(send(card_peer, got, 60, 0), 60);
	vdrv_run(&nv);
	ck_assert_uint_eq(nv.q[RX].used16[1], 1);
}
END_TEST

START_TEST(bad_states_refused)
{
	struct net_state good, st;

	ck_assert_int_eq(vdev_pause(nv.dev, NULL), 0);
	vdev_save(nv.dev, &good);
	ck_assert_int_eq(vdev_check(nv.dev, &good, NULL), 0);
	st = good;
	st.mac[0] = 1;
	ck_assert_int_eq(vdev_check(nv.dev, &st, NULL), -EINVAL);
	st = good;
	st.status = 4;
	ck_assert_int_eq(vdev_check(nv.dev, &st, NULL), -EINVAL);
}
END_TEST

/* --- TAP, in a network namespace of its own --- */

static int up(const char *name)
{
	struct ifreq ifr = {.ifr_flags = 0};
	int s = socket(AF_INET, SOCK_DGRAM, 0), rc;

	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	rc = ioctl(s, SIOCGIFFLAGS, &ifr);
	ifr.ifr_flags |= IFF_UP;
	rc = rc ? rc : ioctl(s, SIOCSIFFLAGS, &ifr);
	(void)close(s);
	return rc;
}

/* A socket that sees and sends whole frames on the host's side. */
static int packet_socket(const char *name)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(0x88b5)};
	int s = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(0x88b5));

	a.sll_ifindex = (int)if_nametoindex(name);
	ck_assert_int_ge(s, 0);
	ck_assert_int_eq(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	return s;
}

START_TEST(tap)
{
	struct vdev_host host = vdrv_host(&nv);
	struct net_config cfg = {.backend = "tap:ferrytest0"};
	uint8_t frame[1514], got[2048];
	uint32_t id, len = 0;
	struct net *n;
	ssize_t r = -1;
	int s;

	if (unshare(CLONE_NEWNET) || net_new(&n, &host, &cfg, NULL)) {
		printf("SKIP no TAP interfaces here\n");
		return;
	}
	net_use(n);
	ck_assert(vdrv_offered(&nv) & VDEV_F(VIRTIO_NET_F_CSUM));
	ck_assert(vdrv_offered(&nv) & VDEV_F(VIRTIO_NET_F_GUEST_TSO4));
	vdrv_start(&nv,
		   EVENT_IDX | MRG | VDEV_F(VIRTIO_NET_F_CSUM) | VDEV_F(VIRTIO_NET_F_GUEST_CSUM) |
			   VDEV_F(VIRTIO_NET_F_HOST_TSO4) | VDEV_F(VIRTIO_NET_F_GUEST_TSO4),
		   2);
	net_give_buffers(16, 1536);
	/* Down: frames are dropped, nothing else. */
	(void)net_guest_sends(100, 1);
	ck_assert_int_eq(up("ferrytest0"), 0);
	s = packet_socket("ferrytest0");
	memset(vdrv_ram(&nv, TXBUF, HDR), 0, HDR);
	net_fill(frame, sizeof(frame), 4);
	frame[0] = 0xff;
	frame[12] = 0x88;
	frame[13] = 0xb5;
	{
		struct vdrv_part p[] = {{TXBUF, HDR + 14, false}, {TXBUF + HDR + 14, 1000, false}};

		memcpy(vdrv_ram(&nv, TXBUF + HDR, sizeof(frame)), frame, sizeof(frame));
		(void)vdrv_call(&nv, TX, p, 2);
		/* A header that makes no sense is the host kernel's to refuse. */
		memset(vdrv_ram(&nv, TXBUF, HDR), 0xff, HDR);
		(void)vdrv_call(&nv, TX, p, 2);
	}
	for (int i = 0; i < 100 && r < 0; i++) {
		r = recv(s, got, sizeof(got), 0);
		(void)usleep(10000);
	}
	ck_assert_int_eq((int)r, 1014);
	ck_assert_mem_eq(got, frame, 1014);
	ck_assert_int_eq((int)send(s, frame, 200, 0), 200);
	for (int i = 0; i < 100 && len != HDR + 200; i++) {
		vdrv_run(&nv);
		if (!vdrv_used(&nv, RX, &id, &len))
			(void)usleep(10000);
	}
	ck_assert_uint_eq(len, HDR + 200);
	(void)close(s);
	ck_assert(!vdrv_broken(&nv));
}
END_TEST

SUITE_WITH("net", net_setup, net_teardown, addresses, bad_backends, sends, receives,
	   frames_wait_for_buffers, too_large_without_merging, bad_receive_buffers, slow_peer,
	   control_queue, announces_after_a_move, bad_states_refused, tap)
