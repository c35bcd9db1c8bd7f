/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the boot loader (PVH or Multiboot: 32-bit protected mode, paging off, EBX = boot
 * information) or from a start-up IPI (real mode) into 64-bit C code.
 */
#include "guest/lib/layout.h"

#define UART	 0x3f8
#define UART_LSR 0x3fd
#define THRE	 0x20

#define CR0_LONG 0x80000033 /* PG NE ET MP PE */
#define CR4_PAE	 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100

/* Leave 32-bit mode for \target; changes EAX, ECX and EDX. */
.macro	enter_long_mode target
	movl	$CR4_PAE, %eax
	movl	%eax, %cr4
	movl	$boot_pml4, %eax
	movl	%eax, %cr3
	movl	$MSR_EFER, %ecx
	movl	$EFER_LME, %eax
	xorl	%edx, %edx
	wrmsr
	movl	$CR0_LONG, %eax
	movl	%eax, %cr0
	ljmp	$SEL_KERNEL_CODE, $\target
.endm

.macro	load_data_segments
	movl	$SEL_KERNEL_DATA, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %fs
	movl	%eax, %gs
	movl	%eax, %ss
.endm

	.text
	.code32
	.globl	start
start:
	cli
	cld
	movl	%eax, %ebp

	/* The host times its boot by this line, so it comes before all else. */
	movl	$guest_banner, %esi
1:	movb	(%esi), %al
	testb	%al, %al
	jz	3f
	incl	%esi
	movl	$UART, %edx
	outb	%al, %dx
	movl	$100000, %ecx
	movl	$UART_LSR, %edx
2:	inb	%dx, %al
	testb	$THRE, %al
	jnz	1b
	decl	%ecx
	jnz	2b
3:
	lgdt	boot_gdtr
	enter_long_mode start64

	.code64
start64:
	load_data_segments
	movl	$boot_stack_top, %esp
	movl	%ebp, %edi
	movl	%ebx, %esi
	xorl	%ebp, %ebp
	call	boot_main
	ud2

/*
 * Copied to TRAMPOLINE_GPA; begins there in real mode with CS:IP = that page : 0.
 */
	.code16
	.globl	trampoline, trampoline_end
trampoline:
	cli
	movw	%cs, %ax
	movw	%ax, %ds
	lgdtl	trampoline_gdtr - trampoline
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	ljmpl	$SEL_CODE32, $secondary
	.balign	4
trampoline_gdtr:
	.word	gdt_end - gdt - 1
	.long	gdt
trampoline_end:

	.code32
secondary:
	load_data_segments
	enter_long_mode secondary64

	.code64
secondary64:
	load_data_segments
	movq	secondary_stack, %rsp
	xorl	%ebp, %ebp
	call	secondary_main
	ud2

	.data
	.balign	16
	.globl	gdt
gdt:	.quad	0
	.quad	0x00af9b000000ffff	/* kernel code */
	.quad	0x00cf93000000ffff	/* kernel data */
	.quad	0x00cff3000000ffff	/* user data */
	.quad	0x00affb000000ffff	/* user code */
	.quad	0x00cf9b000000ffff	/* 32-bit code, on the way up */
	.fill	64 * 2, 8, 0		/* one TSS a vCPU, filled by C */
gdt_end:
boot_gdtr:
	.word	gdt_end - gdt - 1
	.long	gdt

/*
 * Identity map of 4 GiB in 2 MiB pages, present at load so that nobody has to build it: 0x87 is a
 * large page, user, writable; the devices from 0xfec00000 up are uncached.
 */
	.balign	4096
	.globl	boot_pdpt
boot_pml4:
	.quad	boot_pdpt + 7
	.fill	511, 8, 0
boot_pdpt:
	.quad	boot_pd + 0x0007, boot_pd + 0x1007, boot_pd + 0x2007, boot_pd + 0x3007
	.fill	508, 8, 0
boot_pd:
	.set	gpa, 0
	.rept	2048
	.if	gpa < 0xfec00000
	.quad	gpa + 0x87
	.else
	.quad	gpa + 0x9f
	.endif
	.set	gpa, gpa + 0x200000
	.endr

	.bss
	.balign	4096
	.skip	8192
boot_stack_top:

	.section .note.GNU-stack, "", @progbits
