/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instructions that a KVM cannot emulate and that we can finish for it.
 *
 * A KVM that emulates ring 0 (or does so for a moment, as some hardware needs it in real mode) ends
 * KVM_RUN with an emulation failure at an instruction it does not know. Two that operating systems
 * use in ring 0 need no more than registers:
 *
 *	FWAIT	waits for the x87: #NM if CR0 says TS and MP, #MF if an exception is pending there
 *		and CR0.NE is set, otherwise nothing happens
 *	INT3	#BP, with RIP behind it
 *
 * Everything else stays what it is: the end of the guest, with a clear report.
 *
 * In the vCPU's thread, after VCPU_EXIT_EMULATION.
 */
#ifndef KVM_RECOVER_H
#define KVM_RECOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvm/vcpu.h"

/* What an instruction does, as far as we can finish it. */
struct recovery {
	bool known;
	unsigned skip_bytes; /* RIP moves on so far */
	int vector;          /* an exception to inject, without error code; -1 = none */
};

/* Pure. x87_status is the x87 status word. */
struct recovery recovery_for(const uint8_t *bytes, size_t n, uint64_t cr0, uint16_t x87_status);

/* True: the instruction is done, run on. False: nothing was changed. */
bool vcpu_recover(struct vcpu *v);

#endif
