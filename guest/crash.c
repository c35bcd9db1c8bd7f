/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends in the way that how= says:
 *
 *   debugexit  the byte code=N (default 1) to the exit port
 *   triple     a triple fault
 *   badinsn    an instruction that a hypervisor which emulates ring 0 may not know (CRC32); where
 *              the CPU runs it, the guest says so and leaves with GUEST_EXIT_OK
 *   ud         an undefined opcode in ring 0: caught, reported as FAILED exception vector=6
 *   reset      by the keyboard controller
 *   cf9        by the reset control register
 *   hlt        halts, interrupts off
 */
#include <stddef.h>

#include "guest/abi.h"
#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/say.h"

#define KBC_COMMAND   0x64
#define KBC_RESET     0xfe
#define RESET_CONTROL 0xcf9
#define RESET_FULL    0x06

enum how { DEBUGEXIT, TRIPLE, BADINSN, UD, RESET, CF9, HLT };

GUEST_NAME("crash");
GUEST_NOTE_64;

static const char *const hows[] = {"debugexit", "triple", "badinsn", "ud",
				   "reset",     "cf9",    "hlt",     NULL};

/* No IDT, then an exception. */
static void triple_fault(void)
{
	static const struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} none;

	asm volatile("lidt %0; ud2" : : "m"(none));
}

static void bad_instruction(void)
{
	uint32_t crc = 0;

	asm volatile("crc32l %1, %0" : "+r"(crc) : "r"(1));
	say("%n: badinsn executed crc=%x\n", crc);
	guest_exit(GUEST_EXIT_OK);
}

void guest_main(void)
{
	enum how how = cmdline_choice("how", hows);

	say("%n: about to %s\n", hows[how]);
	switch (how) {
	case DEBUGEXIT:
		guest_exit((uint8_t)cmdline_number("code", GUEST_EXIT_FAILED));
	case TRIPLE:
		triple_fault();
		break;
	case BADINSN:
		bad_instruction();
		break;
	case UD:
		asm volatile("ud2");
		break;
	case RESET:
		outb(KBC_COMMAND, KBC_RESET);
		break;
	case CF9:
		outb(RESET_CONTROL, RESET_FULL);
		break;
	case HLT:
		break;
	}
	halt_forever();
}
