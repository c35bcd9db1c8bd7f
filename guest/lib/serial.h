/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 16550, polled. Ring 0 only; say() and user.h are for ring 3. One vCPU at a time.
 */
#ifndef FERRY_GUEST_SERIAL_H
#define FERRY_GUEST_SERIAL_H

#include <stdbool.h>
#include <stddef.h>

/* 115200 8N1, FIFOs on, interrupts off. */
void serial_init(void);

/* Have IRQ 4 raised for received bytes, or not. */
void serial_irq(bool on);

/* Wait (bounded) for room, then send. What a stuck line doesn't take is dropped. */
void serial_write(const char *s, size_t len);

/* A received byte, or -1. */
int serial_getc(void);

#endif
