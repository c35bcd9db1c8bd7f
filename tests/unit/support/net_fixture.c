/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/net_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const uint8_t card_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct vdrv nv;
struct net *card;
int card_peer = -1;

struct net *net_make(const char *backend)
{
	struct net_config cfg = {.backend = backend};
	struct vdev_host host = vdrv_host(&nv);
	struct err e = ERR_INIT;
	struct net *n;

	memcpy(cfg.mac, card_mac, 6);
	ck_assert_msg(net_new(&n, &host, &cfg, &e) == 0, "%s", e.msg);
	return n;
}

/* A card on one end of a socket pair; the other end is `card_peer`. */
struct net *net_make_pair(int type)
{
	char spec[32];
	int s[2];

	ck_assert_int_eq(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, s), 0);
	if (card_peer >= 0)
		(void)close(card_peer);
	card_peer = s[0];
	ck_assert_int_eq(fcntl(card_peer, F_SETFL, O_NONBLOCK), 0);
	(void)snprintf(spec, sizeof(spec), "%s-fd:%d", type == SOCK_STREAM ? "stream" : "dgram",
		       s[1]);
	return net_make(spec);
}

void net_setup(void)
{
	vdrv_setup(&nv);
	card = net_make_pair(SOCK_DGRAM);
	vdrv_attach(&nv, net_vdev(card));
	vdrv_log_begin();
}

void net_teardown(void)
{
	net_free(card);
	vdrv_teardown(&nv);
}

void net_use(struct net *n)
{
	net_free(card);
	card = n;
	vdrv_attach(&nv, net_vdev(card));
}

void net_fill(uint8_t *at, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		at[i] = (uint8_t)(i * 7 + i / 300 + seed);
}

/* The guest sends a frame of len bytes. */
const uint8_t *net_guest_sends(size_t len, unsigned seed)
{
	struct vdrv_part p[] = {{TXBUF, HDR, false}, {TXBUF + HDR, (uint32_t)len, false}};

	memset(vdrv_ram(&nv, TXBUF, HDR), 0, HDR);
	net_fill(vdrv_ram(&nv, TXBUF + HDR, len), len, seed);
	(void)vdrv_call(&nv, TX, p, 2);
	return vdrv_ram(&nv, TXBUF + HDR, len);
}

void net_give_buffers(unsigned n, uint32_t bytes)
{
	for (unsigned i = 0; i < n; i++) {
		struct vdrv_part p = {RXBUF + i * 0x10000ull, bytes, true};

		vdrv_add(&nv, RX, &p, 1);
	}
	vdrv_kick(&nv, RX);
	vdrv_run(&nv);
}
