/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC, in x2APIC mode where the CPU has it (unless apic=x), else through its page.
 * Ring 0 only; every function acts on the vCPU that calls it.
 */
#ifndef FERRY_GUEST_LAPIC_H
#define FERRY_GUEST_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

/* Choose the mode; once, on vCPU 0, before the first lapic_init(). */
void lapic_choose_mode(void);

/* Enable this vCPU's, every local interrupt masked. */
void lapic_init(void);

uint32_t lapic_id(void);
void lapic_eoi(void);

/* A fixed interrupt to one other vCPU, or to all others. */
void lapic_send(uint32_t apic_id, unsigned int vector);
void lapic_send_others(unsigned int vector);

/* Start a vCPU at TRAMPOLINE_GPA: INIT, then start-up. */
void lapic_start_cpu(uint32_t apic_id);

/* Let the 8259's interrupts through LINT0. */
void lapic_accept_pic(void);

/* One interrupt, VEC_TIMER, when the TSC reads `tsc`: TSC-deadline mode, else one-shot. */
void lapic_timer_at(uint64_t tsc);

/* VEC_TIMER so many times a second. */
void lapic_timer_periodic(uint32_t hz);

void lapic_timer_stop(void);

bool lapic_has_deadline(void);

#endif
