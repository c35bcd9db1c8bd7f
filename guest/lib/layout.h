/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers that the assembly and the C code share.
 */
#ifndef FERRY_GUEST_LAYOUT_H
#define FERRY_GUEST_LAYOUT_H

#define SEL_KERNEL_CODE 0x08
#define SEL_KERNEL_DATA 0x10
#define SEL_USER_DATA   0x1b
#define SEL_USER_CODE   0x23
#define SEL_CODE32      0x28
#define SEL_TSS         0x30 /* vCPU 0's; 16 bytes each */

/* A page of RAM below 1 MiB: where the other vCPUs begin. */
#define TRAMPOLINE_GPA 0x8000

/* Interrupt vectors. The PIC's sixteen begin at VEC_PIC. */
#define VEC_TIMER    0x20
#define VEC_WAKE     0x21
#define VEC_UART     0x24
#define VEC_PIC      0x28
#define VEC_SPURIOUS 0x3f
#define NR_VECTORS   0x40
#define TRAP_STUB    16 /* bytes from one vector's entry to the next */

#endif
