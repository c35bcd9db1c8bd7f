/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The port I/O bus and what a device on it gets from the machine.
 *
 * Devices register their ports while the machine is built; after that the bus is constant and
 * vCPU threads go through it without a lock. Each device guards its own state. A port that nobody
 * claimed reads as all ones and ignores writes.
 */
#ifndef VMM_DEV_BUS_H
#define VMM_DEV_BUS_H

#include <stdbool.h>
#include <stdint.h>

/* size is 1, 2 or 4 bytes. Called in vCPU threads. */
struct io_ops {
	uint32_t (*in)(void *dev, uint16_t port, unsigned size);
	void (*out)(void *dev, uint16_t port, unsigned size, uint32_t value);
};

/* An interrupt input of the machine. set() may be called from any thread. */
struct irq_line {
	void (*set)(void *ctx, unsigned gsi, bool level);
	void *ctx;
	unsigned gsi;
};

#define IO_BUS_MAX 32

struct io_range {
	uint16_t first, count;
	const struct io_ops *ops;
	void *dev;
};

struct io_bus {
	unsigned n;
	struct io_range ranges[IO_BUS_MAX];
};

/* -EEXIST if the ports overlap a device's, -ENOSPC past IO_BUS_MAX, -EINVAL past port 0xffff. */
int io_bus_add(struct io_bus *b, uint16_t first, uint16_t count, const struct io_ops *ops,
	       void *dev);

/* One access of a guest; data holds `size` little-endian bytes. */
void io_bus_access(const struct io_bus *b, bool out, uint16_t port, unsigned size, void *data);

#endif
