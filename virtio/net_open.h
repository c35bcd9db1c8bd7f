/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a network card's back-end, for net_backend.c only. */
#ifndef VIRTIO_NET_OPEN_H
#define VIRTIO_NET_OPEN_H

#include "virtio/net_backend.h"

/* Sets kind, fd (not blocking), features and the addresses. The caller closes *b on failure. */
int net_open(struct net_backend *b, const char *spec, bool no_offloads, struct err *e);

#endif
