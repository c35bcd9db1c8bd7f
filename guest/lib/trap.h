/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts, exceptions and calls from ring 3.
 */
#ifndef FERRY_GUEST_TRAP_H
#define FERRY_GUEST_TRAP_H

#include <stdint.h>

/* What trap_common in trap.S leaves on the stack. */
struct trap_frame {
	uint64_t r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

/* Build the IDT; once, on vCPU 0. */
void trap_init(void);

/* Load the IDT and this vCPU's TSS, whose ring-0 stack is given. */
void trap_load(unsigned int cpu, uint64_t stack_top);

/* Call `handler` on interrupts of this vector, before their end is told to the LAPIC. */
void trap_handle(unsigned int vector, void (*handler)(void));

/* From trap.S. */
void trap(struct trap_frame *f);
_Noreturn void user_enter(unsigned int arg, void (*fn)(unsigned int), uint64_t stack_top);

#endif
