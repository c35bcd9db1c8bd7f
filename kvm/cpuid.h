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
#include "kvm/cpu_features.h"
#include "kvm/vm.h"

#define CPUID_ENTRIES_MAX  256
#define CPUID_KVM_FEATURES 0x40000001u /* the leaf with KVM's own */

struct cpu_model;
struct kvm_cpuid2;

/* One entry as it travels in a vCPU's state. */
struct cpuid_state {
	uint32_t function, index, flags, eax, ebx, ecx, edx;
};

/* Ask KVM what it supports. *out is malloc()ed. */
int cpuid_supported(int kvm_fd, struct kvm_cpuid2 **out, struct err *e);

/*
 * The table to ask KVM for, for vCPU `index` of n_cpus: everything it supports, reduced to the VM's
 * model. malloc()ed, NULL when out of memory.
 */
struct kvm_cpuid2 *cpuid_for_vcpu(const struct vm *vm, unsigned index, unsigned n_cpus);

/* Registers whose bits are features, with the bits that say something else taken out. */
struct cpuid_feature_word {
	uint32_t function, index;
	uint32_t mask[4]; /* EAX, EBX, ECX, EDX */
};

/* How many there are. */
size_t cpuid_feature_words(const struct cpuid_feature_word **words);

/*
 * May a guest that was given `theirs` go on here, where KVM gives `ours` to guests of this model?
 * -EINVAL naming the features that are missing here, and what to do about it; or the part of the
 * XSAVE area that lies elsewhere here, or the performance counters.
 */
int cpuid_check(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *ours,
		const struct cpu_model *model, struct err *e);

/* What the guest of a vCPU really sees: KVM may give more than it was asked for. *out is
 * malloc()ed.
 */
int cpuid_given(int vcpu_fd, struct kvm_cpuid2 **out, struct err *e);

/* The table as it travels. -EOPNOTSUPP if it has more than CPUID_ENTRIES_MAX entries. */
int cpuid_to_state(const struct kvm_cpuid2 *t, struct cpuid_state *s, uint32_t *n, struct err *e);
/* malloc()ed, NULL when out of memory. n is at most CPUID_ENTRIES_MAX. */
struct kvm_cpuid2 *cpuid_from_state(const struct cpuid_state *s, uint32_t n);

bool cpuid_equal(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b);

#endif
