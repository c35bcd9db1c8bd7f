/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For devices whose registers are one byte wide: an access of 2 or 4 bytes is as many accesses to
 * successive ports, lowest first. Called in vCPU threads.
 */
#ifndef VMM_DEV_BYTES_H
#define VMM_DEV_BYTES_H

#include <stdint.h>

static inline uint32_t io_in_bytes(uint8_t (*in)(void *dev, uint16_t port), void *dev,
				   uint16_t port, unsigned size)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint32_t)in(dev, (uint16_t)(port + i)) << (8 * i);
	return value;
}

static inline void io_out_bytes(void (*out)(void *dev, uint16_t port, uint8_t value), void *dev,
				uint16_t port, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size; i++)
		out(dev, (uint16_t)(port + i), (uint8_t)(value >> (8 * i)));
}

#endif
