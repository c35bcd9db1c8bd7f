/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two interrupt controllers outside the CPU: 8259 pair and I/O APIC. Ring 0 only.
 */
#ifndef FERRY_GUEST_PIC_H
#define FERRY_GUEST_PIC_H

#include <stdint.h>

#define PIC_IRQS 16

/* Program both 8259s to vectors VEC_PIC and up, all lines masked. */
void pic_init(void);

/* Let one line through. */
void pic_unmask(unsigned int irq);

void pic_eoi(unsigned int irq);

/* Send an I/O APIC pin to vCPU 0 as an edge-triggered interrupt. */
void ioapic_route(unsigned int pin, unsigned int vector);

#endif
