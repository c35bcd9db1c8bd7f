/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time by the TSC, and what the hypervisor's own clock says.
 */
#ifndef FERRY_GUEST_CLOCK_H
#define FERRY_GUEST_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Ring 0, once, on vCPU 0: learn the TSC's frequency from tsc_khz=, kvmclock, or 40 ms of the PIT,
 * in this order. Dies if none will do.
 */
void clock_init(void);

uint32_t clock_tsc_khz(void);

/* Durations between TSC ticks and microseconds; exact up to 50 days. Any ring. */
uint64_t clock_us(uint64_t ticks);
uint64_t clock_ticks(uint64_t us);

/* Spin. Any ring. */
void clock_wait_us(uint64_t us);

/*
 * Ring 0, vCPU 0: have kvmclock kept up for kvmclock_ns(), which reads nanoseconds since the VM's
 * start, or 0 where the hypervisor has none.
 */
void kvmclock_on(void);
uint64_t kvmclock_ns(void);

/* Ring 0: have PIT channel 0 raise IRQ 0 so many (19 or more) times a second. */
void pit_periodic(uint32_t hz);

#endif
