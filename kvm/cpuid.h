/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What CPUID tells a guest: KVM's supported list, made consistent for N single-threaded cores in
 * one package, without features whose state ferry does not move and without paravirtual features
 * that need hypercalls.
 *
 * Pure functions on tables; any thread.
 */
#ifndef KVM_CPUID_H
#define KVM_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kvm/vm.h"

#define CPUID_ENTRIES_MAX 256

struct kvm_cpuid2;

/* One entry as it travels in a vCPU's state. */
struct cpuid_state {
	uint32_t function, index, flags, eax, ebx, ecx, edx;
};

/* Ask KVM what it supports. *out is malloc()ed. */
int cpuid_supported(int kvm_fd, struct kvm_cpuid2 **out, struct err *e);

/* The table of vCPU `index` of n_cpus; malloc()ed, NULL when out of memory. */
struct kvm_cpuid2 *cpuid_for_vcpu(const struct vm *vm, unsigned index, unsigned n_cpus);

/*
 * May a guest that was given `theirs` go on here, where it would have been given `ours`? -EINVAL
 * naming the first leaf and register with a feature that is missing here.
 */
int cpuid_check(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *ours, struct err *e);

/* malloc()ed, NULL when out of memory. n is at most CPUID_ENTRIES_MAX. */
struct kvm_cpuid2 *cpuid_from_state(const struct cpuid_state *s, uint32_t n);

bool cpuid_equal(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b);

#endif
