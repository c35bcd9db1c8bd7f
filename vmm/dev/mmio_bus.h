/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bus of devices whose registers lie in the guest's physical memory, where there is no RAM.
 *
 * Like the port bus (bus.h): devices register their windows while the machine is built, after that
 * it is constant and vCPU threads go through it without a lock. What nobody claimed, or reaches
 * beyond a window, reads as all ones and ignores writes.
 */
#ifndef VMM_DEV_MMIO_BUS_H
#define VMM_DEV_MMIO_BUS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * size is 1, 2, 4 or 8; `offset` counts from the window's beginning and need not be aligned. Called
 * in vCPU threads.
 */
struct mmio_ops {
	uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
	void (*write)(void *dev, uint64_t offset, unsigned size, uint64_t value);
};

#define MMIO_BUS_MAX 16

struct mmio_range {
	uint64_t first_gpa, bytes;
	const struct mmio_ops *ops;
	void *dev;
};

struct mmio_bus {
	unsigned n;
	struct mmio_range ranges[MMIO_BUS_MAX];
};

/* -EEXIST if it overlaps another window, -ENOSPC past MMIO_BUS_MAX, -EINVAL for no range. */
int mmio_bus_add(struct mmio_bus *b, uint64_t first_gpa, uint64_t bytes, const struct mmio_ops *ops,
		 void *dev);

/* One access of a guest; data holds `size` (1 to 8) little-endian bytes. */
void mmio_bus_access(const struct mmio_bus *b, bool write, uint64_t gpa, unsigned size, void *data);

#endif
