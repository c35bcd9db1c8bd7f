/* SPDX-License-Identifier: Apache-2.0 */
/* A network card with a driver in the test. One a process; tests begin with net_setup(). */
#ifndef TESTS_UNIT_SUPPORT_NET_FIXTURE_H
#define TESTS_UNIT_SUPPORT_NET_FIXTURE_H

#include <check.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>

#include "tests/unit/support/vdriver.h"
#include "virtio/net.h"
#include "virtio/net_backend.h"

#define EVENT_IDX VDEV_F(VIRTIO_RING_F_EVENT_IDX)
#define MRG       VDEV_F(VIRTIO_NET_F_MRG_RXBUF)
#define CTRL_VQ   VDEV_F(VIRTIO_NET_F_CTRL_VQ)
#define ANNOUNCE  VDEV_F(VIRTIO_NET_F_GUEST_ANNOUNCE)
#define RX        0
#define TX        1
#define CQ        2
#define RXBUF     VDRV_BUFFER_GPA
#define TXBUF     (VDRV_BUFFER_GPA + 0x100000)
#define HDR       NET_HDR_BYTES

extern const uint8_t card_mac[6];
extern struct vdrv nv;
extern struct net *card;
extern int card_peer; /* the other end of the card's socket, not blocking; or -1 */

struct net *net_make(const char *backend);
/* A card on one end of a new socket pair of this type; `card_peer` is the other end. */
struct net *net_make_pair(int type);
/* A card on datagrams. */
void net_setup(void);
void net_teardown(void);
/* Have another card instead. */
void net_use(struct net *n);

/* Bytes that differ by place and seed. */
void net_fill(uint8_t *at, size_t n, unsigned seed);
/* The guest sends a frame of len bytes; where it lies. */
const uint8_t *net_guest_sends(size_t len, unsigned seed);
/* Buffers for n frames or parts of them, 64 KiB apart from RXBUF on. */
void net_give_buffers(unsigned n, uint32_t bytes);

#endif
