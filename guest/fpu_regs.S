/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load and save the registers of struct fpu_regs (fpu.h), whose address is in RDI.
 */
#include "guest/fpu.h"

	.text
	.code64

	.globl	regs_load_sse, regs_save_sse
regs_load_sse:
	fxrstor64 FPU_FX(%rdi)
	ret
regs_save_sse:
	fxsave64 FPU_FX(%rdi)
	ret

	.globl	regs_load_avx, regs_save_avx
regs_load_avx:
	.set	slot, FPU_VECTORS
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu	slot(%rdi), %ymm\n
	.set	slot, slot + FPU_VECTOR_BYTES
	.endr
	ret
regs_save_avx:
	.set	slot, FPU_VECTORS
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu	%ymm\n, slot(%rdi)
	.set	slot, slot + FPU_VECTOR_BYTES
	.endr
	ret

	.globl	regs_load_avx512, regs_save_avx512
regs_load_avx512:
	.set	slot, FPU_VECTORS
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu64 slot(%rdi), %zmm\n
	.set	slot, slot + FPU_VECTOR_BYTES
	.endr
	.irp	n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	vmovdqu64 slot(%rdi), %zmm\n
	.set	slot, slot + FPU_VECTOR_BYTES
	.endr
	.set	slot, FPU_MASKS
	.irp	n, 0,1,2,3,4,5,6,7
	kmovq	slot(%rdi), %k\n
	.set	slot, slot + 8
	.endr
	ret
regs_save_avx512:
	.set	slot, FPU_VECTORS
	.irp	n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
	vmovdqu64 %zmm\n, slot(%rdi)
	.set	slot, slot + FPU_VECTOR_BYTES
	.endr
	.irp	n, 16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
	vmovdqu64 %zmm\n, slot(%rdi)
	.set	slot, slot + FPU_VECTOR_BYTES
	.endr
	.set	slot, FPU_MASKS
	.irp	n, 0,1,2,3,4,5,6,7
	kmovq	%k\n, slot(%rdi)
	.set	slot, slot + 8
	.endr
	ret

	.section .note.GNU-stack, "", @progbits
