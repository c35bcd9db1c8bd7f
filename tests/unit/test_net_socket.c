/* SPDX-License-Identifier: Apache-2.0 */
/* The network card on UNIX sockets: streams that come in pieces, peers that go and come. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "tests/unit/support/net_fixture.h"

static void stream_write(const void *data, size_t n)
{
	ck_assert_int_eq((int)send(card_peer, data, n, 0), (int)n);
}

START_TEST(stream_frames)
{
	uint8_t out[3000], in[3000];
	const uint8_t *want;
	uint32_t id, len;

	net_use(net_make_pair(SOCK_STREAM));
	vdrv_start(&nv, EVENT_IDX | MRG, 2);
	net_give_buffers(8, 1536);
	/* Two frames and a half, then the rest byte by byte. */
	net_fill(out, sizeof(out), 3);
	memcpy(out, "\0\0\0\x40", 4);
	memcpy(out + 68, "\0\0\0\x50", 4);
	memcpy(out + 152, "\0\0\0\x60", 4);
	stream_write(out, 170);
	vdrv_run(&nv);
	ck_assert(vdrv_used(&nv, RX, &id, &len));
	ck_assert_uint_eq(len, HDR + 0x40);
	ck_assert_mem_eq((uint8_t *)vdrv_ram(&nv, RXBUF, 100) + HDR, out + 4, 0x40);
	ck_assert(vdrv_used(&nv, RX, &id, &len));
	ck_assert(!vdrv_used(&nv, RX, &id, &len));
	for (size_t i = 170; i < 152 + 4 + 0x60; i++) {
		stream_write(out + i, 1);
		vdrv_run(&nv);
	}
	ck_assert(vdrv_used(&nv, RX, &id, &len));
	ck_assert_uint_eq(len, HDR + 0x60);
	want = net_guest_sends(1514, 9);
	ck_assert_int_eq(recv(card_peer, in, sizeof(in), 0), 1518);
	ck_assert_mem_eq(in, "\0\0\x05\xea", 4);
	ck_assert_mem_eq(in + 4, want, 1514);
}
END_TEST

/* A peer that takes a few bytes at a time: frames stay whole and in order. */
START_TEST(stream_slow_peer)
{
	static uint8_t all[64 * 70000];
	size_t n = 0, at = 0;
	int small = 4096;

	net_use(net_make_pair(SOCK_STREAM));
	(void)setsockopt(card_peer, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	(void)setsockopt(card_peer, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	vdrv_start(&nv, EVENT_IDX, 2);
	for (unsigned i = 0; i < 60; i++) {
		struct vdrv_part p = {TXBUF + i * 0x10000ull, HDR + 60000 + i, false};

		net_fill(vdrv_ram(&nv, p.gpa, p.len), p.len, i);
		vdrv_add(&nv, TX, &p, 1);
	}
	vdrv_kick(&nv, TX);
	for (unsigned i = 0; i < 200000 && nv.q[TX].used16[1] < 60; i++) {
		ssize_t got = recv(card_peer, all + n, 3001, 0);

		n += got > 0 ? (size_t)got : 0;
		(void)loop_step(nv.loop, 0);
	}
	for (unsigned i = 0; i < 2000; i++) {
		ssize_t got = recv(card_peer, all + n, sizeof(all) - n, 0);

		n += got > 0 ? (size_t)got : 0;
		(void)loop_step(nv.loop, 0);
	}
	for (unsigned i = 0; i < 60; i++) {
		uint32_t len =
			(uint32_t)all[at + 1] << 16 | (uint32_t)all[at + 2] << 8 | all[at + 3];

		ck_assert_uint_eq(len, 60000 + i);
		ck_assert_mem_eq(all + at + 4,
				 (uint8_t *)vdrv_ram(&nv, TXBUF + i * 0x10000ull, HDR + len) + HDR,
				 len);
		at += 4 + len;
	}
	ck_assert_uint_eq(at, n);
}
END_TEST

START_TEST(stream_peer_goes)
{
	static const char ends[][8] = {"", {0}, {-1, -1, -1, -1}, {0, 0, 0, 64, 1, 2, 3}};
	static const size_t lens[] = {0, 4, 4, 7};

	for (unsigned i = 0; i < 4; i++) {
		for (unsigned paused = 0; paused < 2; paused++) {
			net_use(net_make_pair(SOCK_STREAM));
			vdrv_log_begin();
			vdrv_start(&nv, EVENT_IDX | MRG | VDEV_F(VIRTIO_NET_F_STATUS), 2);
			net_give_buffers(2, 1536);
			if (paused)
				ck_assert_int_eq(vdev_pause(nv.dev, NULL), 0);
			if (lens[i])
				stream_write(ends[i], lens[i]);
			if (i == 0 || i == 3) {
				(void)close(card_peer);
				card_peer = -1;
			}
			vdrv_run(&nv);
			if (paused)
				vdev_resume(nv.dev);
			vdrv_run(&nv);
			ck_assert_uint_eq(vdrv_config(&nv, 6, 2), 0);
			ck_assert_uint_eq(vdrv_log_lines(), 1);
			ck_assert(!vdrv_broken(&nv));
			/* The card goes on, into the void. */
			(void)net_guest_sends(100, 1);
		}
	}
}
END_TEST

/* --- datagrams by name --- */

START_TEST(datagrams_by_name)
{
	char dir[] = "/tmp/ferry-net-XXXXXX", spec[200];
	struct sockaddr_un a = {.sun_family = AF_UNIX}, from;
	socklen_t from_len = sizeof(from);
	uint8_t got[2048], frame[100];
	uint32_t id, len;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(spec, sizeof(spec), "dgram:%s/a,%s/b", dir, dir);
	net_use(net_make(spec));
	vdrv_start(&nv, EVENT_IDX | MRG, 2);
	net_give_buffers(2, 1536);
	/* Nobody is there yet; then somebody comes, goes, and comes again. */
	(void)net_guest_sends(100, 1);
	for (unsigned i = 0; i < 2; i++) {
		(void)close(card_peer);
		card_peer = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
		(void)snprintf(a.sun_path, sizeof(a.sun_path), "%s/b", dir);
		ck_assert_int_eq(bind(card_peer, (struct sockaddr *)&a, sizeof(a)), 0);
		(void)net_guest_sends(100, 2);
		(void)net_guest_sends(200, 3);
		ck_assert_int_gt(recvfrom(card_peer, got, sizeof(got), 0, (struct sockaddr *)&from,
					  &from_len),
				 0);
		net_fill(frame, sizeof(frame), 8);
		ck_assert_int_eq(
			sendto(card_peer, frame, 100, 0, (struct sockaddr *)&from, from_len), 100);
		vdrv_run(&nv);
		ck_assert(vdrv_used(&nv, RX, &id, &len));
		(void)close(card_peer);
		card_peer = -1;
		ck_assert_int_eq(unlink(a.sun_path), 0);
		(void)net_guest_sends(100, 1);
	}
	net_use(net_make_pair(SOCK_DGRAM));
	ck_assert_int_eq(rmdir(dir), 0); /* its own socket is gone, too */
}
END_TEST

SUITE_WITH("net_socket", net_setup, net_teardown, stream_frames, stream_slow_peer, stream_peer_goes,
	   datagrams_by_name)
