/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU's thread and its mailbox.
 *
 *	       request_run                        exit handler says "end", or
 *   STOPPED ---------------> RUNNING ----------------------------------------> STOPPED
 *	|                                request_stop, kick, nothing half done
 *	+-- call: fn runs in the thread
 *
 * The thread owns the vCPU's descriptor while the cpu lives. Others ask through the mailbox (what
 *is wanted, a call to make) under its lock, and wait for the acknowledgement with a deadline.
 *
 * Kick: KVM_RUN returns at once while the shared area's immediate_exit is set, which covers a
 *thread on its way into KVM; SIGRTMIN, whose handler does nothing, gets it out of the guest. The
 *thread counts as stopped only after a VCPU_EXIT_INTERRUPTED: KVM_RUN completes a pending port or
 *memory access before it returns that, so no register is waiting for a value.
 *
 * Threads: requests and waits from any thread, also from a vCPU's own (requests only).
 */
#ifndef VMM_CPU_H
#define VMM_CPU_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "kvm/vcpu.h"

struct cpu;

/* In the vCPU's thread: handle an exit (never VCPU_EXIT_INTERRUPTED). false: stop running. */
typedef bool cpu_exit_fn(void *ctx, struct vcpu *v, const struct vcpu_exit *exit);

/* In the vCPU's thread while it is stopped. Returns 0 or -errno with words in e. */
typedef int cpu_call_fn(void *arg, struct vcpu *v, struct err *e);

/* Start the thread, stopped. The vCPU stays the caller's to free, after cpu_free(). */
int cpu_create(struct cpu **out, struct vcpu *v, cpu_exit_fn *on_exit, void *ctx, struct err *e);

/*
 * End the thread. false if it did not end by the deadline: then it, its vCPU and whatever on_exit
 * uses must be left alone for good. NULL is fine.
 */
bool cpu_free(struct cpu *c, uint64_t deadline_ns);

/* Ask, and do not wait. */
void cpu_request_run(struct cpu *c);
void cpu_request_stop(struct cpu *c);

/* Until the thread is about to enter the guest (or the guest has ended); false: not in time. */
bool cpu_wait_running(struct cpu *c, uint64_t deadline_ns);
/* -ETIMEDOUT with a message naming the vCPU. */
int cpu_wait_stopped(struct cpu *c, uint64_t deadline_ns, struct err *e);

/*
 * Have fn(arg) called. -EBUSY if the vCPU runs or an earlier call is still under way. Then wait for
 * its result: 0, what fn returned with its words, or -ETIMEDOUT (arg stays in use).
 */
int cpu_call(struct cpu *c, cpu_call_fn *fn, void *arg, struct err *e);
int cpu_wait_call(struct cpu *c, uint64_t deadline_ns, struct err *e);

/*
 * Let it use only so many thousandths (SHARE_MIN to SHARE_FULL) of the processor time that it would
 * use, in slices of SLICE_NS (vmm/cpu_slice.h), from now on. What is asked of the thread is served
 * at once all the same.
 */
void cpu_set_share(struct cpu *c, unsigned share);

struct cpu_time {
	uint64_t run_ns;   /* processor time of the thread */
	uint64_t stall_ns; /* what it was made to wait by its share */
};

struct cpu_time cpu_time(struct cpu *c);

/* Kernel thread id. */
pid_t cpu_tid(struct cpu *c);

#endif
