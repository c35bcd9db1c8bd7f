/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/cpuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>
#include <linux/kvm_para.h>

#include "kvm/cpu_model.h"

#define BIT(n) (1u << (n))

_Static_assert(CPUID_KVM_FEATURES == KVM_CPUID_FEATURES, "KVM's leaf");

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
	cpu_model_apply(&vm->model, t);
	return t;
}

static const struct cpuid_feature_word feature_words[] = {
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

size_t cpuid_feature_words(const struct cpuid_feature_word **words)
{
	*words = feature_words;
	return sizeof(feature_words) / sizeof(feature_words[0]);
}

static void get_regs(const struct kvm_cpuid2 *t, uint32_t function, uint32_t index,
		     uint32_t regs[4])
{
	struct kvm_cpuid_entry2 *en = cpuid_find(t, function, index);

	for (unsigned r = CPUID_EAX; r <= CPUID_EDX; r++)
		regs[r] = en ? *cpuid_reg(en, r) : 0;
}

/* What a guest has and would miss here. */
struct missing {
	struct cpu_feature_set named;
	unsigned n_unnamed;
	char unnamed[80]; /* the first of them */
};

static void note_missing(struct missing *m, const struct cpuid_feature_word *w, unsigned r,
			 unsigned bit)
{
	static const char *const names[] = {"EAX", "EBX", "ECX", "EDX"};
	int i = -1;

	if (w->function == 0xd && (w->index == 0 || r != CPUID_EAX))
		i = cpu_feature_of_xsave(bit + (r == CPUID_EDX ? 32 : 0));
	else
		i = cpu_feature_by_bit(w->function, w->index, r, bit);
	if (i >= 0)
		cpu_feature_add(&m->named, (unsigned)i);
	else if (!m->n_unnamed++)
		(void)snprintf(m->unnamed, sizeof(m->unnamed),
			       "a feature without a name (CPUID leaf 0x%x.%u %s, bit %u)",
			       w->function, w->index, names[r], bit);
}

/* "host,-x,-y": what takes all of them away, or "" if it does not fit. */
static void suggest(const struct cpu_feature_set *s, char *text, size_t text_bytes)
{
	unsigned n;
	const struct cpu_feature *t = cpu_features(&n);
	size_t len = (size_t)snprintf(text, text_bytes, "host");

	for (unsigned i = 0; i < n; i++) {
		bool follows =
			t[i].needs && cpu_feature_in(s, (unsigned)cpu_feature_by_name(t[i].needs));

		if (!cpu_feature_in(s, i) || follows)
			continue;
		if (len + strlen(t[i].name) + 3 > text_bytes) {
			text[0] = '\0';
			return;
		}
		len += (size_t)snprintf(text + len, text_bytes - len, ",-%s", t[i].name);
	}
}

static bool hides_any(const struct cpu_model *model, const struct missing *m)
{
	unsigned n;

	(void)cpu_features(&n);
	for (unsigned i = 0; i < n; i++) {
		if (cpu_feature_in(&m->named, i) && cpu_model_hides(model, i))
			return true;
	}
	return model->baseline && m->n_unnamed;
}

static int refuse(const struct missing *m, const struct cpu_model *model, struct err *e)
{
	char names[160], less[80];

	if (!cpu_features_text(&m->named, names, sizeof(names)))
		(void)snprintf(names, sizeof(names), "%s", m->unnamed);
	if (hides_any(model, m))
		return err_set(e, EINVAL,
			       "the guest uses %s, which this side does not give to its guest: it "
			       "was started with --cpu %.60s",
			       names, cpu_model_text(model));
	suggest(&m->named, less, sizeof(less));
	return err_set(e, EINVAL,
		       "the guest uses %s, which this host's KVM does not offer: start it with "
		       "--cpu %s%sbaseline, and it can move here",
		       names, m->n_unnamed ? "" : less, m->n_unnamed || !*less ? "" : " or --cpu ");
}

/* The guest's programs keep components of the XSAVE area where the source's CPUID says they lie. */
static int check_components(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *ours,
			    struct err *e)
{
	uint32_t all[4], a[4], b[4];

	get_regs(theirs, 0xd, 0, all);
	for (unsigned c = 2; c < 63; c++) {
		if (!(all[c < 32 ? CPUID_EAX : CPUID_EDX] >> (c % 32) & 1))
			continue;
		get_regs(theirs, 0xd, c, a);
		get_regs(ours, 0xd, c, b);
		if (a[CPUID_EAX] != b[CPUID_EAX] || a[CPUID_EBX] != b[CPUID_EBX])
			return err_set(e, EINVAL,
				       "part %u of the guest's XSAVE area has %u bytes at %u, on "
				       "this host %u at %u: only a guest without it (--cpu "
				       "baseline) can move here",
				       c, a[CPUID_EAX], a[CPUID_EBX], b[CPUID_EAX], b[CPUID_EBX]);
	}
	return 0;
}

/* Performance counters: more is not better, a guest that has them counts on just these. */
static int check_counters(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *ours,
			  struct err *e)
{
	static const uint32_t leaves[] = {0xa, 0x80000022};

	for (size_t i = 0; i < sizeof(leaves) / sizeof(leaves[0]); i++) {
		uint32_t a[4], b[4];

		get_regs(theirs, leaves[i], 0, a);
		get_regs(ours, leaves[i], 0, b);
		if (a[CPUID_EAX] && memcmp(a, b, sizeof(a)))
			return err_set(e, EINVAL,
				       "the guest has performance counters that differ from this "
				       "host's (CPUID leaf 0x%x): only a guest without them (--cpu "
				       "baseline) can move here",
				       leaves[i]);
	}
	return 0;
}

int cpuid_check(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *ours,
		const struct cpu_model *model, struct err *e)
{
	static const struct cpu_feature_set none;
	struct missing m = {.n_unnamed = 0};
	int rc;

	for (size_t i = 0; i < sizeof(feature_words) / sizeof(feature_words[0]); i++) {
		const struct cpuid_feature_word *w = &feature_words[i];
		uint32_t a[4], b[4];

		get_regs(theirs, w->function, w->index, a);
		get_regs(ours, w->function, w->index, b);
		for (unsigned r = CPUID_EAX; r <= CPUID_EDX; r++) {
			uint32_t bits = a[r] & ~b[r] & w->mask[r];

			for (; bits; bits &= bits - 1)
				note_missing(&m, w, r, (unsigned)__builtin_ctz(bits));
		}
	}
	if (m.n_unnamed || memcmp(&m.named, &none, sizeof(none)))
		return refuse(&m, model, e);
	rc = check_components(theirs, ours, e);
	return rc ? rc : check_counters(theirs, ours, e);
}

int cpuid_given(int vcpu_fd, struct kvm_cpuid2 **out, struct err *e)
{
	struct kvm_cpuid2 *t = alloc_table(CPUID_ENTRIES_MAX);

	if (!t)
		return err_set(e, ENOMEM, "out of memory for CPUID");
	if (ioctl(vcpu_fd, KVM_GET_CPUID2, t)) {
		int code = errno;

		free(t);
		return err_sys(e, code, "KVM does not tell which CPUID it gives a guest");
	}
	*out = t;
	return 0;
}

int cpuid_to_state(const struct kvm_cpuid2 *t, struct cpuid_state *s, uint32_t *n, struct err *e)
{
	if (t->nent > CPUID_ENTRIES_MAX)
		return err_set(e, EOPNOTSUPP, "the CPUID table has %u entries, at most %u fit",
			       t->nent, CPUID_ENTRIES_MAX);
	*n = t->nent;
	for (uint32_t i = 0; i < t->nent; i++) {
		const struct kvm_cpuid_entry2 *en = &t->entries[i];

		s[i] = (struct cpuid_state){en->function, en->index, en->flags, en->eax,
					    en->ebx,      en->ecx,   en->edx};
	}
	return 0;
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
