/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entry points of the interrupt vectors, and the way down to ring 3.
 */
#include "guest/lib/layout.h"

	.text
	.code64

/* TRAP_STUB bytes a vector, so that C finds them by their number. */
	.balign	TRAP_STUB
	.globl	trap_stubs
trap_stubs:
	.set	vector, 0
	.rept	NR_VECTORS
	.balign	TRAP_STUB
	.if	!(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	pushq	$0
	.endif
	pushq	$vector
	jmp	trap_common
	.set	vector, vector + 1
	.endr

/*
 * Only what C may change is saved: every instruction counts where ring 0 is emulated. The pushes
 * are struct trap_frame, last member first.
 */
trap_common:
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	movq	%rsp, %rdi
	cld
	call	trap
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rax
	addq	$16, %rsp
	iretq

/* void user_enter(unsigned int arg, void (*fn)(unsigned int), void *stack_top) */
	.globl	user_enter
user_enter:
	pushq	$SEL_USER_DATA
	subq	$8, %rdx		/* as if called: the ABI's alignment */
	pushq	%rdx
	pushq	$2			/* interrupts stay off in ring 3 */
	pushq	$SEL_USER_CODE
	pushq	%rsi
	movl	$SEL_USER_DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	xorl	%ebp, %ebp
	iretq

	.section .note.GNU-stack, "", @progbits
