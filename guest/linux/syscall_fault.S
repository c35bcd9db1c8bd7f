/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A page fault gate in front of Linux's own, for a KVM that runs ring 3 natively without hardware
 * virtualization. There SYSCALL loads RCX, R11 and RIP as it should but leaves the processor in ring
 * 3, so that fetching the first instruction of entry_SYSCALL_64 faults. Exactly that fault (a fetch,
 * from ring 3, from a present page that it may not touch, with RIP at that very address) becomes the
 * system call that it was meant to be; every other one goes where it always went.
 *
 * On entry, as the processor left it: error code, RIP, CS, RFLAGS, RSP, SS. The gate has switched
 * interrupts off; what SYSCALL's flag mask clears beside that is the direction flag. After the jump
 * nothing differs from a SYSCALL: user RSP, user GS base, no frame.
 *
 * Where SYSCALL works this can only be reached by a program that jumps to a kernel address. It gets
 * a system call that returns to RCX with the flags of R11: fine for a test image, not for others.
 */
#include <linux/linkage.h>
#include <asm/unwind_hints.h>

#define ERROR_CODE	   (0 * 8)
#define FRAME_RIP	   (1 * 8)
#define FRAME_RSP	   (4 * 8)
#define USER_FETCH_PRESENT 0x15

	.section .entry.text, "ax"

SYM_CODE_START(ferry_page_fault)
	UNWIND_HINT_IRET_REGS offset=8
	cmpl	$USER_FETCH_PRESENT, ERROR_CODE(%rsp)
	jne	1f
	cmpq	$entry_SYSCALL_64, FRAME_RIP(%rsp)
	jne	1f
	movq	FRAME_RSP(%rsp), %rsp
	cld
	jmp	entry_SYSCALL_64
1:	jmp	asm_exc_page_fault
SYM_CODE_END(ferry_page_fault)
