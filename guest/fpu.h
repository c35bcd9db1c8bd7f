/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registers that the fpu guest watches, as C and the assembly see them.
 */
#ifndef FERRY_GUEST_FPU_H
#define FERRY_GUEST_FPU_H

#define FPU_FX           0
#define FPU_VECTORS      512
#define FPU_VECTOR_BYTES 64
#define FPU_MASKS        (FPU_VECTORS + 32 * FPU_VECTOR_BYTES)

#ifndef __ASSEMBLER__

#include <stddef.h>
#include <stdint.h>

/* The FXSAVE area. */
struct fx_area {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved0;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	struct {
		uint64_t mantissa;
		uint16_t exponent, reserved[3];
	} st[8];
	uint64_t xmm[16][2];
	uint64_t unused[12];
};

struct __attribute__((aligned(64))) fpu_regs {
	struct fx_area fx;
	uint64_t vector[32][8]; /* as far as the vectors go: 128, 256 or 512 bits */
	uint64_t mask[8];
};

_Static_assert(offsetof(struct fpu_regs, vector) == FPU_VECTORS, "as in fpu_regs.S");
_Static_assert(offsetof(struct fpu_regs, mask) == FPU_MASKS, "as in fpu_regs.S");

/* Ring 3; SSE goes first, as it changes the lowest part of the AVX registers. */
void regs_load_sse(const struct fpu_regs *r);
void regs_save_sse(struct fpu_regs *r);
void regs_load_avx(const struct fpu_regs *r);
void regs_save_avx(struct fpu_regs *r);
void regs_load_avx512(const struct fpu_regs *r);
void regs_save_avx512(struct fpu_regs *r);

#endif

#endif
