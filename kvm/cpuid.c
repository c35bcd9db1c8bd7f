/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/cpuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>
#include <linux/kvm_para.h>

#define BIT(n) (1u << (n))

/* Leaf 1 ECX */
#define L1C_MONITOR      BIT(3)
#define L1C_VMX          BIT(5)
#define L1C_X2APIC       BIT(21)
#define L1C_TSC_DEADLINE BIT(24)
#define L1C_OSXSAVE      BIT(27) /* mirrors CR4: KVM keeps it */
#define L1C_HYPERVISOR   BIT(31)
#define L1D_APIC         BIT(9) /* mirrors the APIC base MSR: KVM keeps it */
#define L1D_HTT          BIT(28)
#define L7B_SGX          BIT(2)
#define L7C_OSPKE        BIT(4) /* mirrors CR4: KVM keeps it */
#define X1C_CMP_LEGACY   BIT(1)
#define X1C_SVM          BIT(2)

/* Features that KVM serves by shared memory or MSRs alone, and whose state is moved. */
#define PV_FEATURES                                                     \
	(BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) | \
	 BIT(KVM_FEATURE_CLOCKSOURCE2) | BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT))

static struct kvm_cpuid2 *alloc_table(uint32_t entries)
{
	struct kvm_cpuid2 *t;

	t = calloc(1, sizeof(*t) + entries * sizeof(t->entries[0]));
	if (t)
		t->nent = entries;
	return t;
}

int cpuid_supported(int kvm_fd, struct kvm_cpuid2 **out, struct err *e)
{
	/* The list's length is only told by success: -E2BIG asks for a larger table. */
	for (uint32_t room = 128; room <= CPUID_ENTRIES_MAX; room *= 2) {
		struct kvm_cpuid2 *t = alloc_table(room);

		if (!t)
			return err_set(e, ENOMEM, "out of memory for CPUID");
		if (!ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, t)) {
			*out = t;
			return 0;
		}
		free(t);
		if (errno != E2BIG)
			break;
	}
	return err_sys(e, errno, "KVM does not tell which CPUID it supports");
}

/* How many low bits of an APIC id tell n cores apart. */
static uint32_t id_bits(unsigned n)
{
	uint32_t bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/* Leaf 4 and 0x8000001d describe a cache: who shares it? Only the last level is shared. */
static void set_cache_sharing(struct kvm_cpuid_entry2 *en, uint32_t sharers)
{
	uint32_t level = en->eax >> 5 & 7;

	if (!(en->eax & 0x1f))
		return; /* no cache in this entry */
	en->eax &= ~(0xfffu << 14);
	if (level >= 3)
		en->eax |= (sharers - 1) << 14;
}

/* Extended topology (leaves 0xb and 0x1f): level 0 is one thread a core, level 1 all cores. */
static void set_topology(struct kvm_cpuid_entry2 *en, uint32_t level, unsigned index,
			 unsigned n_cpus)
{
	static const uint32_t types[] = {1, 2, 0}; /* SMT, core, none */

	en->index = level;
	en->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	en->eax = level == 1 ? id_bits(n_cpus) : 0;
	en->ebx = level == 0 ? 1 : level == 1 ? n_cpus : 0;
	en->ecx = level | types[level] << 8;
	en->edx = index;
}

static void adjust_leaf1(struct kvm_cpuid_entry2 *en, const struct vm *vm, unsigned index,
			 unsigned n_cpus)
{
	en->ebx &= 0x0000ffff;
	en->ebx |= index << 24 | 1u << (16 + id_bits(n_cpus));
	en->ecx &= ~(L1C_MONITOR | L1C_VMX | L1C_OSXSAVE);
	en->ecx |= L1C_X2APIC | L1C_HYPERVISOR;
	if (vm->caps.tsc_deadline)
		en->ecx |= L1C_TSC_DEADLINE;
	en->edx &= ~L1D_HTT;
	if (n_cpus > 1)
		en->edx |= L1D_HTT;
}

/* KVM_SET_CPUID2 takes one table for a vCPU; everything in it that depends on the vCPU is here. */
static void adjust(struct kvm_cpuid_entry2 *en, const struct vm *vm, unsigned index,
		   unsigned n_cpus)
{
	switch (en->function) {
	case 0x1:
		adjust_leaf1(en, vm, index, n_cpus);
		break;
	case 0x4:
		set_cache_sharing(en, 1u << id_bits(n_cpus));
		if (en->eax & 0x1f)
			en->eax = (en->eax & 0x03ffffff) | ((1u << id_bits(n_cpus)) - 1) << 26;
		break;
	case 0x7:
		if (en->index == 0) {
			en->ebx &= ~L7B_SGX;
			en->ecx &= ~L7C_OSPKE;
		}
		break;
	case 0x12: /* SGX: enclaves cannot be moved */
		en->eax = en->ebx = en->ecx = en->edx = 0;
		break;
	case KVM_CPUID_FEATURES:
		en->eax &= PV_FEATURES;
		en->edx = 0;
		break;
	case 0x80000001:
		en->ecx &= ~(X1C_SVM | X1C_CMP_LEGACY);
		if (n_cpus > 1)
			en->ecx |= X1C_CMP_LEGACY;
		break;
	case 0x80000008:
		en->ecx &= ~0xf0ffu;
		en->ecx |= id_bits(n_cpus) << 12 | (n_cpus - 1);
		break;
	case 0x8000000a: /* SVM */
		en->eax = en->ebx = en->ecx = en->edx = 0;
		break;
	case 0x8000001d:
		set_cache_sharing(en, n_cpus);
		break;
	case 0x8000001e:
		en->eax = index;
		en->ebx = index;
		en->ecx = 0;
		break;
	default:
		break;
	}
}

static bool is_topology(uint32_t function)
{
	return function == 0xb || function == 0x1f;
}

struct kvm_cpuid2 *cpuid_for_vcpu(const struct vm *vm, unsigned index, unsigned n_cpus)
{
	const struct kvm_cpuid2 *from = vm->cpuid;
	struct kvm_cpuid2 *t = alloc_table(from->nent + 6);
	uint32_t n = 0;

	if (!t)
		return NULL;
	for (uint32_t i = 0; i < from->nent; i++) {
		const struct kvm_cpuid_entry2 *en = &from->entries[i];

		if (!is_topology(en->function)) {
			t->entries[n] = *en;
			adjust(&t->entries[n++], vm, index, n_cpus);
			continue;
		}
		if (en->index)
			continue; /* written with index 0 */
		for (uint32_t level = 0; level < 3; level++) {
			t->entries[n] = (struct kvm_cpuid_entry2){.function = en->function};
			set_topology(&t->entries[n++], level, index, n_cpus);
		}
	}
	t->nent = n;
	return t;
}

/* Registers whose bits are features, with the bits that say something else taken out. */
static const struct feature_word {
	uint32_t function, index;
	uint32_t mask[4]; /* EAX, EBX, ECX, EDX */
} feature_words[] = {
	{0x1, 0, {0, 0, ~(L1C_OSXSAVE | L1C_HYPERVISOR), ~(L1D_APIC | L1D_HTT)}},
	{0x6, 0, {BIT(2), 0, 0, 0}},
	{0x7, 0, {0, ~0u, ~L7C_OSPKE, ~0u}},
	{0x7, 1, {~0u, ~0u, ~0u, ~0u}},
	{0x7, 2, {0, 0, 0, ~0u}},
	{0xd, 0, {~0u, 0, 0, ~0u}},
	{0xd, 1, {~0u, 0, ~0u, ~0u}},
	{KVM_CPUID_FEATURES, 0, {~0u, 0, 0, 0}},
	{0x80000001, 0, {0, 0, ~X1C_CMP_LEGACY, ~0u}},
	{0x80000007, 0, {0, 0, 0, ~0u}},
	{0x80000008, 0, {0, ~0u, 0, 0}},
	{0x80000021, 0, {~0u, 0, 0, 0}},
};

static void get_regs(const struct kvm_cpuid2 *t, const struct feature_word *w, uint32_t regs[4])
{
	memset(regs, 0, 4 * sizeof(regs[0]));
	for (uint32_t i = 0; i < t->nent; i++) {
		const struct kvm_cpuid_entry2 *en = &t->entries[i];

		if (en->function != w->function)
			continue;
		if ((en->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) && en->index != w->index)
			continue;
		regs[0] = en->eax;
		regs[1] = en->ebx;
		regs[2] = en->ecx;
		regs[3] = en->edx;
		return;
	}
}

/* Performance counters: more is not better, a guest that has them counts on just these. */
static const struct feature_word counter_words[] = {
	{0xa, 0, {~0u, ~0u, ~0u, ~0u}},
	{0x80000022, 0, {~0u, ~0u, ~0u, ~0u}},
};

static int check_counters(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *ours,
			  struct err *e)
{
	for (size_t i = 0; i < sizeof(counter_words) / sizeof(counter_words[0]); i++) {
		uint32_t a[4], b[4];

		get_regs(theirs, &counter_words[i], a);
		get_regs(ours, &counter_words[i], b);
		if (a[0] && memcmp(a, b, sizeof(a)))
			return err_set(
				e, EINVAL,
				"the guest was started with performance counters that differ "
				"from this host's (CPUID leaf 0x%x)",
				counter_words[i].function);
	}
	return 0;
}

int cpuid_check(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *ours, struct err *e)
{
	static const char *const names[] = {"EAX", "EBX", "ECX", "EDX"};

	for (size_t i = 0; i < sizeof(feature_words) / sizeof(feature_words[0]); i++) {
		const struct feature_word *w = &feature_words[i];
		uint32_t a[4], b[4];

		get_regs(theirs, w, a);
		get_regs(ours, w, b);
		for (unsigned r = 0; r < 4; r++) {
			uint32_t missing = a[r] & ~b[r] & w->mask[r];

			if (missing)
				return err_set(e, EINVAL,
					       "the guest was started with processor features that "
					       "this host lacks (CPUID leaf 0x%x.%u %s, bits 0x%x)",
					       w->function, w->index, names[r], missing);
		}
	}
	return check_counters(theirs, ours, e);
}

struct kvm_cpuid2 *cpuid_from_state(const struct cpuid_state *s, uint32_t n)
{
	struct kvm_cpuid2 *t = alloc_table(n);

	for (uint32_t i = 0; t && i < n; i++)
		t->entries[i] = (struct kvm_cpuid_entry2){.function = s[i].function,
							  .index = s[i].index,
							  .flags = s[i].flags,
							  .eax = s[i].eax,
							  .ebx = s[i].ebx,
							  .ecx = s[i].ecx,
							  .edx = s[i].edx};
	return t;
}

bool cpuid_equal(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b)
{
	return a->nent == b->nent &&
	       !memcmp(a->entries, b->entries, a->nent * sizeof(a->entries[0]));
}
