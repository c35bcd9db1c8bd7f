/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ring 3 asks of ring 0.
 *
 * The call is UD2 with the number in RAX and arguments in RDI and RSI: an exception reaches ring 0
 * everywhere, while SYSCALL and INT don't on hypervisors that run ring 3 natively and emulate the
 * rest. All other registers, vector registers too, are kept. Ring 3 runs with interrupts off; they
 * are taken in user_halt() alone.
 */
#ifndef FERRY_GUEST_USER_H
#define FERRY_GUEST_USER_H

#include <stddef.h>
#include <stdint.h>

enum user_call {
	USER_WRITE,
	USER_GETC,
	USER_HALT,
	USER_WAKE,
	USER_WAKE_ALL,
	USER_APIC_ID,
	USER_EXIT,
	USER_STOP,
	USER_READ32,
	USER_WRITE32,
};

static inline int64_t user_call(enum user_call nr, uint64_t a, uint64_t b)
{
	int64_t ret = nr;

	asm volatile("ud2" : "+a"(ret) : "D"(a), "S"(b) : "memory");
	return ret;
}

/* Send to the serial line. */
static inline void user_write(const char *s, size_t len)
{
	user_call(USER_WRITE, (uint64_t)(uintptr_t)s, len);
}

/* A byte from the serial line, or -1. */
static inline int user_getc(void)
{
	return (int)user_call(USER_GETC, 0, 0);
}

/*
 * Halt until the TSC reads `until` (0: no limit) or another vCPU sends a wake-up. A wake-up sent
 * since the last user_halt() counts, so check the condition first, then halt, then check again.
 */
static inline void user_halt(uint64_t until_tsc)
{
	user_call(USER_HALT, until_tsc, 0);
}

/* Wake one other vCPU, or all others. */
static inline void user_wake(unsigned int cpu)
{
	user_call(USER_WAKE, cpu, 0);
}

static inline void user_wake_all(void)
{
	user_call(USER_WAKE_ALL, 0, 0);
}

/* This vCPU's id as its local APIC has it now. */
static inline unsigned int user_apic_id(void)
{
	return (unsigned int)user_call(USER_APIC_ID, 0, 0);
}

/* Write the exit byte, then stop. */
static inline _Noreturn void user_exit(uint8_t code)
{
	for (;;)
		user_call(USER_EXIT, code, 0);
}

/* Halt this vCPU for ever. */
static inline _Noreturn void user_stop(void)
{
	for (;;)
		user_call(USER_STOP, 0, 0);
}

/* Registers of a device, 32 bits wide, at an address that is identity-mapped. */
static inline uint32_t user_read32(uint64_t gpa)
{
	return (uint32_t)user_call(USER_READ32, gpa, 0);
}

static inline void user_write32(uint64_t gpa, uint32_t value)
{
	user_call(USER_WRITE32, gpa, value);
}

#endif
