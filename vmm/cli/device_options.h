/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The values of --disk and --net, checked as far as that goes without touching anything:
 *
 *   --disk PATH[,ro][,direct][,queues=N][,serial=TEXT]
 *   --net tap=IFNAME|unix=PATH|dgram=OURS,peer=PATH[,mac=M]   (tap-fd=N, stream-fd=N, dgram-fd=N
 * too)
 *
 * A comma ends a path; there is no way to write one that has it.
 */
#ifndef VMM_CLI_DEVICE_OPTIONS_H
#define VMM_CLI_DEVICE_OPTIONS_H

#include <limits.h>

#include "virtio/blk.h"
#include "virtio/net.h"

struct disk_option {
	char path[PATH_MAX], serial[BLK_SERIAL_BYTES + 1];
	bool read_only, direct;
	unsigned n_queues;
};

#define NET_OPTION_BYTES 256

struct net_option {
	char backend[NET_OPTION_BYTES]; /* as in virtio/net.h */
	uint8_t mac[NET_MAC_BYTES];
};

/* -EINVAL with a message that need not name the option. */
int disk_option_parse(const char *value, struct disk_option *out, struct err *e);
int net_option_parse(const char *value, struct net_option *out, struct err *e);

/* What they stand for; it points into *o. */
struct blk_config disk_option_config(const struct disk_option *o);
struct net_config net_option_config(const struct net_option *o);

/* The name of the TAP that is to be opened for it, or NULL. */
const char *net_option_tap(const struct net_option *o);
/* It has been opened: take this descriptor. */
void net_option_set_tap_fd(struct net_option *o, int fd);

#endif
