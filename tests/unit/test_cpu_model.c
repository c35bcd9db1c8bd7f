/* SPDX-License-Identifier: Apache-2.0 */
/* Features of a processor by name, models of it, and whether a guest's fits a host. */
#include <check.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/kvm.h>

#include "kvm/cpu_model.h"
#include "kvm/cpuid.h"
#include "tests/support/suite.h"

#define ENTRIES 16

static struct cpu_model model;
static struct err err;

static void set(struct kvm_cpuid2 *t, uint32_t function, uint32_t index, const uint32_t regs[4])
{
	bool indexed = function == 7 || function == 0xd;

	t->entries[t->nent++] = (struct kvm_cpuid_entry2){
		.function = function,
		.index = index,
		.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		.eax = regs[0],
		.ebx = regs[1],
		.ecx = regs[2],
		.edx = regs[3],
	};
}

#define SET(t, f, i, ...) set(t, f, i, (const uint32_t[4]){__VA_ARGS__})

/* A host that has everything there is a bit for. */
static struct kvm_cpuid2 *host(void)
{
	struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + ENTRIES * sizeof(t->entries[0]));
	const uint32_t all = ~0u;

	ck_assert_ptr_nonnull(t);
	SET(t, 0, 0, 0x1c, 1, 2, 3);
	SET(t, 1, 0, 0x00b00f21, 0x01020800, all, all);
	SET(t, 6, 0, 4, 0, 0, 0);
	SET(t, 7, 0, 2, all, all, all);
	SET(t, 7, 1, all, all, all, all);
	SET(t, 7, 2, 0, 0, 0, all);
	SET(t, 0xa, 0, 0x08300802, 0, 0, 0x603);
	SET(t, 0xd, 0, 0x2e7, 0, 0x1000, 0);
	SET(t, 0xd, 1, 0xf, 0, 0x1800, 0);
	SET(t, 0xd, 2, 0x100, 0x240, 0, 0);
	SET(t, 0xd, 5, 0x40, 0x440, 0, 0);
	SET(t, 0xd, 9, 8, 0xa80, 0, 0);
	SET(t, CPUID_KVM_FEATURES, 0, 0x01000009, 0, 0, 0);
	SET(t, 0x80000001, 0, 0, 0, all, all);
	SET(t, 0x80000008, 0, 0x3030, all, 0, 0);
	return t;
}

static bool has(const struct kvm_cpuid2 *t, const char *name)
{
	struct cpu_feature_set s;
	int i = cpu_feature_by_name(name);

	ck_assert_int_ge(i, 0);
	cpu_features_of(t, &s);
	return cpu_feature_in(&s, (unsigned)i);
}

static struct kvm_cpuid2 *guest_of(const char *text)
{
	struct kvm_cpuid2 *t = host();

	err_clear(&err);
	ck_assert_msg(!cpu_model_parse(text, &model, &err), "%s: %s", text, err.msg);
	cpu_model_apply(&model, t);
	return t;
}

START_TEST(table)
{
	unsigned n;
	const struct cpu_feature *f = cpu_features(&n);

	ck_assert_uint_gt(n, 200);
	for (unsigned i = 0; i < n; i++) {
		ck_assert_int_eq(cpu_feature_by_name(f[i].name), (int)i);
		ck_assert_msg(cpu_feature_by_bit(f[i].function, f[i].index, f[i].reg, f[i].bit) ==
				      (int)i,
			      "%s shares its bit", f[i].name);
		ck_assert_uint_lt(f[i].bit, 32);
		for (const char *c = f[i].name; *c; c++)
			ck_assert_msg(islower(*c) || isdigit(*c) || *c == '_', "%s", f[i].name);
		/* What it needs exists, and the chain ends. */
		for (unsigned k = i, steps = 0; f[k].needs; steps++) {
			int needs = cpu_feature_by_name(f[k].needs);

			ck_assert_msg(needs >= 0 && steps < 20, "%s needs %s", f[k].name,
				      f[k].needs);
			/* baseline is whole in itself */
			ck_assert(!(f[k].flags & CPU_FEATURE_BASE) ||
				  (f[needs].flags & CPU_FEATURE_BASE));
			k = (unsigned)needs;
		}
	}
	ck_assert_int_eq(cpu_feature_by_name("nonsense"), -1);
	ck_assert_int_eq(cpu_feature_by_name(""), -1);
	ck_assert_int_eq(cpu_feature_by_bit(0x80000001, 0, CPUID_EDX, 25),
			 cpu_feature_by_name("fxsr_opt"));
	ck_assert_int_eq(cpu_feature_by_bit(0x80000001, 0, CPUID_EDX, 23),
			 cpu_feature_by_name("mmx"));
	ck_assert_int_eq(cpu_feature_by_bit(0x1234, 0, CPUID_EAX, 0), -1);
	ck_assert_int_eq(cpu_feature_of_xsave(6), cpu_feature_by_name("avx512f"));
	ck_assert_int_eq(cpu_feature_of_xsave(1), -1);
}
END_TEST

/* Where a few stand, by the processors' manuals. */
START_TEST(places)
{
	static const struct {
		const char *name;
		uint32_t function, index;
		enum cpuid_reg reg;
		unsigned bit;
	} known[] = {
		{"fpu", 1, 0, CPUID_EDX, 0},          {"sse2", 1, 0, CPUID_EDX, 26},
		{"pni", 1, 0, CPUID_ECX, 0},          {"cx16", 1, 0, CPUID_ECX, 13},
		{"avx", 1, 0, CPUID_ECX, 28},         {"avx2", 7, 0, CPUID_EBX, 5},
		{"avx512f", 7, 0, CPUID_EBX, 16},     {"pku", 7, 0, CPUID_ECX, 3},
		{"la57", 7, 0, CPUID_ECX, 16},        {"arch_capabilities", 7, 0, CPUID_EDX, 29},
		{"avx_vnni", 7, 1, CPUID_EAX, 4},     {"xsaves", 0xd, 1, CPUID_EAX, 3},
		{"lm", 0x80000001, 0, CPUID_EDX, 29}, {"nx", 0x80000001, 0, CPUID_EDX, 20},
		{"svm", 0x80000001, 0, CPUID_ECX, 2}, {"clzero", 0x80000008, 0, CPUID_EBX, 0},
	};
	unsigned n;
	const struct cpu_feature *f = cpu_features(&n);

	for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++) {
		int i = cpu_feature_by_name(known[k].name);

		ck_assert_msg(i >= 0, "%s", known[k].name);
		ck_assert_uint_eq(f[i].function, known[k].function);
		ck_assert_uint_eq(f[i].index, known[k].index);
		ck_assert_int_eq((int)f[i].reg, (int)known[k].reg);
		ck_assert_uint_eq(f[i].bit, known[k].bit);
	}
}
END_TEST

START_TEST(texts)
{
	struct cpu_feature_set s = {{0}};
	char text[40];

	ck_assert_uint_eq(cpu_features_text(&s, text, sizeof(text)), 0);
	ck_assert_str_eq(text, "");
	cpu_feature_add(&s, (unsigned)cpu_feature_by_name("avx2"));
	cpu_feature_add(&s, (unsigned)cpu_feature_by_name("fpu"));
	ck_assert_uint_eq(cpu_features_text(&s, text, sizeof(text)), 2);
	ck_assert_str_eq(text, "fpu avx2");
	memset(&s, 0, sizeof(s));
	for (unsigned i = 0; i < 200; i++)
		cpu_feature_add(&s, i);
	ck_assert_uint_eq(cpu_features_text(&s, text, sizeof(text)), 200);
	ck_assert_str_eq(text, "fpu vme de pse tsc msr and 194 more");
}
END_TEST

static const char *const good_models[] = {"host",
					  "baseline",
					  "host,-cx16",
					  "host,+avx2,-hle",
					  "baseline,+avx2,-cx16",
					  "host,-cx16,-cx16"};

START_TEST(good)
{
	ck_assert_msg(!cpu_model_parse(good_models[_i], &model, &err), "%s", err.msg);
	ck_assert_str_eq(cpu_model_text(&model), good_models[_i]);
}
END_TEST

static const struct {
	const char *text, *part;
} bad_models[] = {
	{"", "host or baseline"},
	{",", "host or baseline"},
	{"hosts", "host or baseline"},
	{"-avx", "host or baseline"},
	{"host,avx", "'avx': expected +FEATURE or -FEATURE"},
	{"host,baseline", "expected +FEATURE"},
	{"host,-", "no feature is called ''"},
	{"host,-AVX", "no feature is called 'AVX'"},
	{"host,- avx", "no feature is called ' avx'"},
	{"host,+sse3", "no feature is called 'sse3'"},
	{"host,-fpu", "fpu cannot be changed"},
	{"baseline,+ht", "ht cannot be changed"},
	{"host,-avx,+avx", "avx is both asked for and taken away"},
	{"baseline,+avx512f,-xsave", "both asked for and taken away"},
};

START_TEST(bad)
{
	err_clear(&err);
	ck_assert_int_eq(cpu_model_parse(bad_models[_i].text, &model, &err), -EINVAL);
	ck_assert_msg(strstr(err.msg, bad_models[_i].part) != NULL, "'%s' is not in '%s'",
		      bad_models[_i].part, err.msg);
}
END_TEST

START_TEST(too_long)
{
	char text[CPU_MODEL_TEXT + 1];

	memset(text, 'x', sizeof(text));
	text[CPU_MODEL_TEXT] = '\0';
	ck_assert_int_eq(cpu_model_parse(text, &model, &err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.msg, "at most 511"));
}
END_TEST

START_TEST(host_is_all)
{
	struct kvm_cpuid2 *t = guest_of("host"), *h = host();

	ck_assert(cpuid_equal(t, h));
	free(t);
	t = guest_of("host,+avx2");
	ck_assert(cpuid_equal(t, h));
	free(t);
	free(h);
}
END_TEST

START_TEST(less)
{
	struct kvm_cpuid2 *t = guest_of("host,-avx512f");

	ck_assert(!has(t, "avx512f") && !has(t, "avx512bw") && !has(t, "avx512vbmi") &&
		  !has(t, "avx512_fp16"));
	ck_assert(has(t, "avx2") && has(t, "xsave") && has(t, "pku"));
	ck_assert_uint_eq(cpuid_find(t, 0xd, 0)->eax, 0x207);
	ck_assert_uint_eq(cpuid_find(t, 0xd, 0)->ecx,
			  0xa88); /* PKRU is the last one now as before */
	ck_assert_uint_eq(cpuid_find(t, 0xd, 5)->eax, 0);
	ck_assert_uint_eq(cpuid_find(t, 0xa, 0)->eax, 0x08300802);
	free(t);
	t = guest_of("host,-avx,-pku");
	ck_assert(!has(t, "avx") && !has(t, "avx2") && !has(t, "avx512vl") && !has(t, "fma"));
	ck_assert_uint_eq(cpuid_find(t, 0xd, 0)->eax, 3);
	ck_assert_uint_eq(cpuid_find(t, 0xd, 0)->ecx, 576);
	free(t);
	t = guest_of("host,-xsave");
	ck_assert(!has(t, "xsaveopt") && !has(t, "avx"));
	ck_assert_uint_eq(cpuid_find(t, 0xd, 0)->eax, 0);
	free(t);
	t = guest_of("host,-mmx"); /* gone from AMD's copy, too */
	ck_assert_uint_eq(cpuid_find(t, 0x80000001, 0)->edx >> 23 & 1, 0);
	ck_assert_uint_eq(cpuid_find(t, 0x80000001, 0)->edx >> 24 & 1, 1);
	free(t);
}
END_TEST

START_TEST(baseline)
{
	static const char *const in[] = {"fpu",   "cx16",   "sse4_2", "popcnt",     "lahf_lm",
					 "lm",    "nx",     "x2apic", "tsc_adjust", "syscall",
					 "ssse3", "sse4_1", "pni",    "hypervisor", "ht"};
	static const char *const out[] = {"avx",   "xsave", "rdrand", "smep", "bmi1",     "abm",
					  "sse4a", "vmx",   "clzero", "fsrm", "spec_ctrl"};
	struct kvm_cpuid2 *t = guest_of("baseline");

	for (size_t i = 0; i < sizeof(in) / sizeof(in[0]); i++)
		ck_assert_msg(has(t, in[i]), "%s", in[i]);
	for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++)
		ck_assert_msg(!has(t, out[i]), "%s", out[i]);
	ck_assert_uint_eq(cpuid_find(t, 1, 0)->eax, 0x00b00f21);
	ck_assert_uint_eq(cpuid_find(t, 7, 0)->ebx, 2); /* nothing without a name either */
	ck_assert_uint_eq(cpuid_find(t, 7, 1)->ecx, 0);
	ck_assert_uint_eq(cpuid_find(t, 0xa, 0)->eax, 0);
	ck_assert_uint_eq(cpuid_find(t, 0xd, 0)->eax, 0);
	ck_assert_uint_eq(cpuid_find(t, CPUID_KVM_FEATURES, 0)->eax, 0x01000009);
	free(t);
	t = guest_of("baseline,+avx2,-cx16");
	ck_assert(has(t, "avx2") && has(t, "avx") && has(t, "xsave") && !has(t, "cx16"));
	ck_assert(!has(t, "fma") && !has(t, "xsaveopt") && !has(t, "avx512f"));
	ck_assert_uint_eq(cpuid_find(t, 0xd, 0)->eax, 7);
	ck_assert_uint_eq(cpuid_find(t, 0xd, 0)->ecx, 0x340);
	free(t);
}
END_TEST

START_TEST(judged)
{
	struct cpu_feature_set shown;
	struct kvm_cpuid2 *t = guest_of("host,-avx512f"), *all = host();
	char text[200];

	ck_assert_int_eq(cpu_model_judge(&model, t, &shown, &err), 0);
	ck_assert_uint_eq(cpu_features_text(&shown, text, sizeof(text)), 0);
	ck_assert_int_eq(cpu_model_judge(&model, all, &shown, &err), 0);
	ck_assert_uint_gt(cpu_features_text(&shown, text, sizeof(text)), 5);
	ck_assert_int_eq(strncmp(text, "avx512f ", 8), 0);
	free(t);
	t = guest_of("host,+amx_tile");
	cpuid_find(t, 7, 0)->edx &= ~(1u << 24);
	ck_assert_int_eq(cpu_model_judge(&model, t, &shown, &err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.msg, "no guest can have amx_tile here"));
	free(t);
	t = guest_of("baseline");
	cpuid_find(t, 1, 0)->ecx &= ~(1u << 23);
	err_clear(&err);
	ck_assert_int_eq(cpu_model_judge(&model, t, &shown, &err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.msg, "--cpu baseline: no guest can have popcnt here"));
	free(t);
	free(all);
}
END_TEST

static void refused(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *ours,
		    const char *side, const char *text)
{
	ck_assert_int_eq(cpu_model_parse(side, &model, NULL), 0);
	err_clear(&err);
	ck_assert_int_eq(cpuid_check(theirs, ours, &model, &err), -EINVAL);
	ck_assert_msg(strstr(err.msg, text) != NULL, "'%s' is not in '%s'", text, err.msg);
}

START_TEST(fits)
{
	struct kvm_cpuid2 *all = host(), *t;

	t = guest_of("baseline");
	ck_assert_int_eq(cpuid_check(t, all, &model, &err), 0); /* fewer go anywhere */
	ck_assert_int_eq(cpuid_check(t, t, &model, &err), 0);
	refused(all, t, "baseline",
		"which this side does not give to its guest: it was started "
		"with --cpu baseline");
	free(t);
	t = guest_of("host,-avx512f");
	refused(all, t, "host", "the guest uses avx512f avx512dq");
	refused(all, t, "host",
		"which this host's KVM does not offer: start it with --cpu "
		"host,-avx512f or --cpu baseline");
	refused(all, t, "host,-avx512f", "started with --cpu host,-avx512f");
	free(t);
	t = guest_of("host,-cx16,-rdpid");
	refused(all, t, "host",
		"the guest uses cx16 rdpid, which this host's KVM does not offer: "
		"start it with --cpu host,-cx16,-rdpid or --cpu baseline");
	free(t);
	t = host();
	cpuid_find(t, 7, 1)->ecx &= ~1u;
	refused(all, t, "host", "uses a feature without a name (CPUID leaf 0x7.1 ECX, bit 0)");
	refused(all, t, "host", "start it with --cpu baseline,");
	free(t);
	t = host();
	cpuid_find(t, 0xd, 9)->ebx = 0x340; /* as on AMD's processors */
	refused(all, t, "host",
		"part 9 of the guest's XSAVE area has 8 bytes at 2688, on this host "
		"8 at 832");
	free(t);
	t = host();
	cpuid_find(t, 0xa, 0)->eax++;
	refused(all, t, "host", "performance counters that differ");
	free(t);
	free(all);
}
END_TEST

SUITE("cpu-model", table, places, texts, EACH(good, good_models), EACH(bad, bad_models), too_long,
      host_is_all, less, baseline, judged, fits)
