/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Features of a processor by name, as Linux's /proc/cpuinfo spells them: where CPUID tells of each
 * one, and which other one it is built on.
 *
 * Pure functions on constant tables; any thread.
 */
#ifndef KVM_CPU_FEATURES_H
#define KVM_CPU_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvm_cpuid2;
struct kvm_cpuid_entry2;

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

#define CPU_FEATURE_BASE 1u /* of the model "baseline" */
#define CPU_FEATURE_OWN  2u /* ferry itself decides whether a guest has it */

#define CPU_FEATURES_MAX 256

struct cpu_feature {
	const char *name;
	const char *needs; /* means nothing without this one; NULL = none */
	uint32_t function, index;
	enum cpuid_reg reg;
	unsigned bit;
	unsigned flags;
};

/* Features by their place in the table. */
struct cpu_feature_set {
	uint64_t bits[CPU_FEATURES_MAX / 64];
};

/* The table; n entries, below CPU_FEATURES_MAX. */
const struct cpu_feature *cpu_features(unsigned *n);

/* Place in the table, or -1. */
int cpu_feature_by_name(const char *name);
/* Whose bit is this? -1 if it has no name. AMD's copy of leaf 1 in leaf 0x80000001 counts as such.
 */
int cpu_feature_by_bit(uint32_t function, uint32_t index, enum cpuid_reg reg, unsigned bit);
/* The feature that a component of the XSAVE area belongs to; -1 = unknown, or always there. */
int cpu_feature_of_xsave(unsigned component);

static inline bool cpu_feature_in(const struct cpu_feature_set *s, unsigned i)
{
	return s->bits[i / 64] >> (i % 64) & 1;
}

static inline void cpu_feature_add(struct cpu_feature_set *s, unsigned i)
{
	s->bits[i / 64] |= 1ull << (i % 64);
}

/* Which features does this CPUID tell of? */
void cpu_features_of(const struct kvm_cpuid2 *t, struct cpu_feature_set *out);
/* "sse sse2 ...", cut with " and N more" if it does not fit. Returns how many there are. */
unsigned cpu_features_text(const struct cpu_feature_set *s, char *text, size_t text_bytes);

/* The entry of a leaf (index matters where KVM says so), or NULL. */
struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid2 *t, uint32_t function, uint32_t index);
/* One register of an entry. */
uint32_t *cpuid_reg(struct kvm_cpuid_entry2 *en, enum cpuid_reg reg);

#endif
