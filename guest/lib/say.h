/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Output lines, from either ring. One vCPU at a time (vCPU 0, by custom).
 */
#ifndef FERRY_GUEST_SAY_H
#define FERRY_GUEST_SAY_H

#include <stdint.h>

/*
 * Formatted output. %s, %u (uint32_t), %U (uint64_t), %x (uint32_t) and
 * %X (uint64_t), both hexadecimal with leading 0x; nothing else. "%n" stands for the guest's name
 * and takes no argument.
 */
void say(const char *format, ...);

/* say() "NAME: FAILED what", then leave with GUEST_EXIT_FAILED. */
_Noreturn void die(const char *what);

/* Write the exit byte; where nothing listens for it, halt this vCPU. */
_Noreturn void guest_exit(uint8_t code);

#endif
