/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/cpu_features.h"

#include <stdio.h>
#include <string.h>

#include <linux/kvm.h>

#define BASE CPU_FEATURE_BASE
#define OWN  CPU_FEATURE_OWN

/* Leaf 0x80000001 EDX repeats these bits of leaf 1 EDX on AMD's processors. */
#define AMD_COPY 0x0183f3ffu

/* The formatter would break the rows. */
/* clang-format off */
static const struct cpu_feature table[] = {
	/* leaf 0x1, EDX */
	{"fpu", NULL, 0x1, 0, CPUID_EDX, 0, BASE | OWN},
	{"vme", NULL, 0x1, 0, CPUID_EDX, 1, BASE},
	{"de", NULL, 0x1, 0, CPUID_EDX, 2, BASE},
	{"pse", NULL, 0x1, 0, CPUID_EDX, 3, BASE},
	{"tsc", NULL, 0x1, 0, CPUID_EDX, 4, BASE | OWN},
	{"msr", NULL, 0x1, 0, CPUID_EDX, 5, BASE | OWN},
	{"pae", NULL, 0x1, 0, CPUID_EDX, 6, BASE},
	{"mce", NULL, 0x1, 0, CPUID_EDX, 7, BASE},
	{"cx8", NULL, 0x1, 0, CPUID_EDX, 8, BASE},
	{"apic", NULL, 0x1, 0, CPUID_EDX, 9, BASE | OWN},
	{"sep", NULL, 0x1, 0, CPUID_EDX, 11, BASE},
	{"mtrr", NULL, 0x1, 0, CPUID_EDX, 12, BASE},
	{"pge", NULL, 0x1, 0, CPUID_EDX, 13, BASE},
	{"mca", NULL, 0x1, 0, CPUID_EDX, 14, BASE},
	{"cmov", NULL, 0x1, 0, CPUID_EDX, 15, BASE},
	{"pat", NULL, 0x1, 0, CPUID_EDX, 16, BASE},
	{"pse36", NULL, 0x1, 0, CPUID_EDX, 17, BASE},
	{"pn", NULL, 0x1, 0, CPUID_EDX, 18, 0},
	{"clflush", NULL, 0x1, 0, CPUID_EDX, 19, BASE},
	{"dts", NULL, 0x1, 0, CPUID_EDX, 21, 0},
	{"acpi", NULL, 0x1, 0, CPUID_EDX, 22, 0},
	{"mmx", NULL, 0x1, 0, CPUID_EDX, 23, BASE},
	{"fxsr", NULL, 0x1, 0, CPUID_EDX, 24, BASE},
	{"sse", "fxsr", 0x1, 0, CPUID_EDX, 25, BASE},
	{"sse2", "sse", 0x1, 0, CPUID_EDX, 26, BASE},
	{"ss", NULL, 0x1, 0, CPUID_EDX, 27, 0},
	{"ht", NULL, 0x1, 0, CPUID_EDX, 28, BASE | OWN},
	{"tm", NULL, 0x1, 0, CPUID_EDX, 29, 0},
	{"pbe", NULL, 0x1, 0, CPUID_EDX, 31, 0},
	/* leaf 0x1, ECX */
	{"pni", "sse2", 0x1, 0, CPUID_ECX, 0, BASE},
	{"pclmulqdq", "sse2", 0x1, 0, CPUID_ECX, 1, 0},
	{"dtes64", NULL, 0x1, 0, CPUID_ECX, 2, 0},
	{"monitor", NULL, 0x1, 0, CPUID_ECX, 3, 0},
	{"ds_cpl", NULL, 0x1, 0, CPUID_ECX, 4, 0},
	{"vmx", NULL, 0x1, 0, CPUID_ECX, 5, 0},
	{"smx", NULL, 0x1, 0, CPUID_ECX, 6, 0},
	{"est", NULL, 0x1, 0, CPUID_ECX, 7, 0},
	{"tm2", NULL, 0x1, 0, CPUID_ECX, 8, 0},
	{"ssse3", "pni", 0x1, 0, CPUID_ECX, 9, BASE},
	{"cid", NULL, 0x1, 0, CPUID_ECX, 10, 0},
	{"sdbg", NULL, 0x1, 0, CPUID_ECX, 11, 0},
	{"fma", "avx", 0x1, 0, CPUID_ECX, 12, 0},
	{"cx16", NULL, 0x1, 0, CPUID_ECX, 13, BASE},
	{"xtpr", NULL, 0x1, 0, CPUID_ECX, 14, 0},
	{"pdcm", NULL, 0x1, 0, CPUID_ECX, 15, 0},
	{"pcid", NULL, 0x1, 0, CPUID_ECX, 17, 0},
	{"dca", NULL, 0x1, 0, CPUID_ECX, 18, 0},
	{"sse4_1", "ssse3", 0x1, 0, CPUID_ECX, 19, BASE},
	{"sse4_2", "sse4_1", 0x1, 0, CPUID_ECX, 20, BASE},
	{"x2apic", NULL, 0x1, 0, CPUID_ECX, 21, BASE},
	{"movbe", NULL, 0x1, 0, CPUID_ECX, 22, 0},
	{"popcnt", NULL, 0x1, 0, CPUID_ECX, 23, BASE},
	{"tsc_deadline_timer", NULL, 0x1, 0, CPUID_ECX, 24, BASE},
	{"aes", "sse2", 0x1, 0, CPUID_ECX, 25, 0},
	{"xsave", NULL, 0x1, 0, CPUID_ECX, 26, 0},
	{"avx", "xsave", 0x1, 0, CPUID_ECX, 28, 0},
	{"f16c", "avx", 0x1, 0, CPUID_ECX, 29, 0},
	{"rdrand", NULL, 0x1, 0, CPUID_ECX, 30, 0},
	{"hypervisor", NULL, 0x1, 0, CPUID_ECX, 31, BASE},
	/* leaf 0x6, EAX */
	{"arat", NULL, 0x6, 0, CPUID_EAX, 2, BASE},
	/* leaf 0x7.0, EBX */
	{"fsgsbase", NULL, 0x7, 0, CPUID_EBX, 0, 0},
	{"tsc_adjust", NULL, 0x7, 0, CPUID_EBX, 1, BASE},
	{"sgx", NULL, 0x7, 0, CPUID_EBX, 2, 0},
	{"bmi1", NULL, 0x7, 0, CPUID_EBX, 3, 0},
	{"hle", NULL, 0x7, 0, CPUID_EBX, 4, 0},
	{"avx2", "avx", 0x7, 0, CPUID_EBX, 5, 0},
	{"smep", NULL, 0x7, 0, CPUID_EBX, 7, 0},
	{"bmi2", NULL, 0x7, 0, CPUID_EBX, 8, 0},
	{"erms", NULL, 0x7, 0, CPUID_EBX, 9, 0},
	{"invpcid", "pcid", 0x7, 0, CPUID_EBX, 10, 0},
	{"rtm", NULL, 0x7, 0, CPUID_EBX, 11, 0},
	{"cqm", NULL, 0x7, 0, CPUID_EBX, 12, 0},
	{"mpx", "xsave", 0x7, 0, CPUID_EBX, 14, 0},
	{"rdt_a", NULL, 0x7, 0, CPUID_EBX, 15, 0},
	{"avx512f", "avx2", 0x7, 0, CPUID_EBX, 16, 0},
	{"avx512dq", "avx512f", 0x7, 0, CPUID_EBX, 17, 0},
	{"rdseed", NULL, 0x7, 0, CPUID_EBX, 18, 0},
	{"adx", NULL, 0x7, 0, CPUID_EBX, 19, 0},
	{"smap", NULL, 0x7, 0, CPUID_EBX, 20, 0},
	{"avx512ifma", "avx512f", 0x7, 0, CPUID_EBX, 21, 0},
	{"clflushopt", NULL, 0x7, 0, CPUID_EBX, 23, 0},
	{"clwb", NULL, 0x7, 0, CPUID_EBX, 24, 0},
	{"intel_pt", NULL, 0x7, 0, CPUID_EBX, 25, 0},
	{"avx512pf", "avx512f", 0x7, 0, CPUID_EBX, 26, 0},
	{"avx512er", "avx512f", 0x7, 0, CPUID_EBX, 27, 0},
	{"avx512cd", "avx512f", 0x7, 0, CPUID_EBX, 28, 0},
	{"sha_ni", "sse2", 0x7, 0, CPUID_EBX, 29, 0},
	{"avx512bw", "avx512f", 0x7, 0, CPUID_EBX, 30, 0},
	{"avx512vl", "avx512f", 0x7, 0, CPUID_EBX, 31, 0},
	/* leaf 0x7.0, ECX */
	{"avx512vbmi", "avx512bw", 0x7, 0, CPUID_ECX, 1, 0},
	{"umip", NULL, 0x7, 0, CPUID_ECX, 2, 0},
	{"pku", "xsave", 0x7, 0, CPUID_ECX, 3, 0},
	{"waitpkg", NULL, 0x7, 0, CPUID_ECX, 5, 0},
	{"avx512_vbmi2", "avx512f", 0x7, 0, CPUID_ECX, 6, 0},
	{"shstk", "xsaves", 0x7, 0, CPUID_ECX, 7, 0},
	{"gfni", "sse2", 0x7, 0, CPUID_ECX, 8, 0},
	{"vaes", "avx", 0x7, 0, CPUID_ECX, 9, 0},
	{"vpclmulqdq", "avx", 0x7, 0, CPUID_ECX, 10, 0},
	{"avx512_vnni", "avx512f", 0x7, 0, CPUID_ECX, 11, 0},
	{"avx512_bitalg", "avx512f", 0x7, 0, CPUID_ECX, 12, 0},
	{"tme", NULL, 0x7, 0, CPUID_ECX, 13, 0},
	{"avx512_vpopcntdq", "avx512f", 0x7, 0, CPUID_ECX, 14, 0},
	{"la57", NULL, 0x7, 0, CPUID_ECX, 16, 0},
	{"rdpid", NULL, 0x7, 0, CPUID_ECX, 22, 0},
	{"bus_lock_detect", NULL, 0x7, 0, CPUID_ECX, 24, 0},
	{"cldemote", NULL, 0x7, 0, CPUID_ECX, 25, 0},
	{"movdiri", NULL, 0x7, 0, CPUID_ECX, 27, 0},
	{"movdir64b", NULL, 0x7, 0, CPUID_ECX, 28, 0},
	{"enqcmd", NULL, 0x7, 0, CPUID_ECX, 29, 0},
	{"sgx_lc", NULL, 0x7, 0, CPUID_ECX, 30, 0},
	/* leaf 0x7.0, EDX */
	{"avx512_4vnniw", "avx512f", 0x7, 0, CPUID_EDX, 2, 0},
	{"avx512_4fmaps", "avx512f", 0x7, 0, CPUID_EDX, 3, 0},
	{"fsrm", NULL, 0x7, 0, CPUID_EDX, 4, 0},
	{"avx512_vp2intersect", "avx512f", 0x7, 0, CPUID_EDX, 8, 0},
	{"md_clear", NULL, 0x7, 0, CPUID_EDX, 10, 0},
	{"serialize", NULL, 0x7, 0, CPUID_EDX, 14, 0},
	{"tsxldtrk", "rtm", 0x7, 0, CPUID_EDX, 16, 0},
	{"pconfig", NULL, 0x7, 0, CPUID_EDX, 18, 0},
	{"arch_lbr", NULL, 0x7, 0, CPUID_EDX, 19, 0},
	{"ibt", "xsaves", 0x7, 0, CPUID_EDX, 20, 0},
	{"amx_bf16", "amx_tile", 0x7, 0, CPUID_EDX, 22, 0},
	{"avx512_fp16", "avx512bw", 0x7, 0, CPUID_EDX, 23, 0},
	{"amx_tile", "xsave", 0x7, 0, CPUID_EDX, 24, 0},
	{"amx_int8", "amx_tile", 0x7, 0, CPUID_EDX, 25, 0},
	{"spec_ctrl", NULL, 0x7, 0, CPUID_EDX, 26, 0},
	{"intel_stibp", NULL, 0x7, 0, CPUID_EDX, 27, 0},
	{"flush_l1d", NULL, 0x7, 0, CPUID_EDX, 28, 0},
	{"arch_capabilities", NULL, 0x7, 0, CPUID_EDX, 29, 0},
	{"core_capabilities", NULL, 0x7, 0, CPUID_EDX, 30, 0},
	{"spec_ctrl_ssbd", NULL, 0x7, 0, CPUID_EDX, 31, 0},
	/* leaf 0x7.1, EAX */
	{"sha512", "avx2", 0x7, 1, CPUID_EAX, 0, 0},
	{"sm3", "avx", 0x7, 1, CPUID_EAX, 1, 0},
	{"sm4", "avx2", 0x7, 1, CPUID_EAX, 2, 0},
	{"avx_vnni", "avx2", 0x7, 1, CPUID_EAX, 4, 0},
	{"avx512_bf16", "avx512f", 0x7, 1, CPUID_EAX, 5, 0},
	{"cmpccxadd", NULL, 0x7, 1, CPUID_EAX, 7, 0},
	{"fzrm", NULL, 0x7, 1, CPUID_EAX, 10, 0},
	{"fsrs", NULL, 0x7, 1, CPUID_EAX, 11, 0},
	{"fsrc", NULL, 0x7, 1, CPUID_EAX, 12, 0},
	{"fred", NULL, 0x7, 1, CPUID_EAX, 17, 0},
	{"lkgs", NULL, 0x7, 1, CPUID_EAX, 18, 0},
	{"wrmsrns", NULL, 0x7, 1, CPUID_EAX, 19, 0},
	{"amx_fp16", "amx_tile", 0x7, 1, CPUID_EAX, 21, 0},
	{"avx_ifma", "avx2", 0x7, 1, CPUID_EAX, 23, 0},
	{"lam", NULL, 0x7, 1, CPUID_EAX, 26, 0},
	/* leaf 0x7.1, EDX */
	{"avx_vnni_int8", "avx2", 0x7, 1, CPUID_EDX, 4, 0},
	{"avx_ne_convert", "avx2", 0x7, 1, CPUID_EDX, 5, 0},
	{"amx_complex", "amx_tile", 0x7, 1, CPUID_EDX, 8, 0},
	{"avx_vnni_int16", "avx2", 0x7, 1, CPUID_EDX, 10, 0},
	{"prefetchiti", NULL, 0x7, 1, CPUID_EDX, 14, 0},
	/* leaf 0x7.2, EDX */
	{"intel_psfd", NULL, 0x7, 2, CPUID_EDX, 0, 0},
	{"ipred_ctrl", NULL, 0x7, 2, CPUID_EDX, 1, 0},
	{"rrsba_ctrl", NULL, 0x7, 2, CPUID_EDX, 2, 0},
	{"ddpd_u", NULL, 0x7, 2, CPUID_EDX, 3, 0},
	{"bhi_ctrl", NULL, 0x7, 2, CPUID_EDX, 4, 0},
	{"mcdt_no", NULL, 0x7, 2, CPUID_EDX, 5, 0},
	/* leaf 0xd.1, EAX */
	{"xsaveopt", "xsave", 0xd, 1, CPUID_EAX, 0, 0},
	{"xsavec", "xsave", 0xd, 1, CPUID_EAX, 1, 0},
	{"xgetbv1", "xsave", 0xd, 1, CPUID_EAX, 2, 0},
	{"xsaves", "xsavec", 0xd, 1, CPUID_EAX, 3, 0},
	{"xfd", "xsave", 0xd, 1, CPUID_EAX, 4, 0},
	/* leaf 0x80000001, EDX */
	{"syscall", NULL, 0x80000001, 0, CPUID_EDX, 11, BASE},
	{"mp", NULL, 0x80000001, 0, CPUID_EDX, 19, 0},
	{"nx", NULL, 0x80000001, 0, CPUID_EDX, 20, BASE},
	{"mmxext", "mmx", 0x80000001, 0, CPUID_EDX, 22, 0},
	{"fxsr_opt", "fxsr", 0x80000001, 0, CPUID_EDX, 25, 0},
	{"pdpe1gb", NULL, 0x80000001, 0, CPUID_EDX, 26, 0},
	{"rdtscp", NULL, 0x80000001, 0, CPUID_EDX, 27, 0},
	{"lm", NULL, 0x80000001, 0, CPUID_EDX, 29, BASE},
	{"3dnowext", "3dnow", 0x80000001, 0, CPUID_EDX, 30, 0},
	{"3dnow", "mmx", 0x80000001, 0, CPUID_EDX, 31, 0},
	/* leaf 0x80000001, ECX */
	{"lahf_lm", NULL, 0x80000001, 0, CPUID_ECX, 0, BASE},
	{"cmp_legacy", NULL, 0x80000001, 0, CPUID_ECX, 1, BASE | OWN},
	{"svm", NULL, 0x80000001, 0, CPUID_ECX, 2, 0},
	{"extapic", NULL, 0x80000001, 0, CPUID_ECX, 3, 0},
	{"cr8_legacy", NULL, 0x80000001, 0, CPUID_ECX, 4, 0},
	{"abm", NULL, 0x80000001, 0, CPUID_ECX, 5, 0},
	{"sse4a", "pni", 0x80000001, 0, CPUID_ECX, 6, 0},
	{"misalignsse", "sse", 0x80000001, 0, CPUID_ECX, 7, 0},
	{"3dnowprefetch", NULL, 0x80000001, 0, CPUID_ECX, 8, 0},
	{"osvw", NULL, 0x80000001, 0, CPUID_ECX, 9, 0},
	{"ibs", NULL, 0x80000001, 0, CPUID_ECX, 10, 0},
	{"xop", "avx", 0x80000001, 0, CPUID_ECX, 11, 0},
	{"skinit", NULL, 0x80000001, 0, CPUID_ECX, 12, 0},
	{"wdt", NULL, 0x80000001, 0, CPUID_ECX, 13, 0},
	{"lwp", "xsave", 0x80000001, 0, CPUID_ECX, 15, 0},
	{"fma4", "avx", 0x80000001, 0, CPUID_ECX, 16, 0},
	{"tce", NULL, 0x80000001, 0, CPUID_ECX, 17, 0},
	{"nodeid_msr", NULL, 0x80000001, 0, CPUID_ECX, 19, 0},
	{"tbm", NULL, 0x80000001, 0, CPUID_ECX, 21, 0},
	{"topoext", NULL, 0x80000001, 0, CPUID_ECX, 22, 0},
	{"perfctr_core", NULL, 0x80000001, 0, CPUID_ECX, 23, 0},
	{"perfctr_nb", NULL, 0x80000001, 0, CPUID_ECX, 24, 0},
	{"bpext", NULL, 0x80000001, 0, CPUID_ECX, 26, 0},
	{"ptsc", NULL, 0x80000001, 0, CPUID_ECX, 27, 0},
	{"perfctr_llc", NULL, 0x80000001, 0, CPUID_ECX, 28, 0},
	{"mwaitx", NULL, 0x80000001, 0, CPUID_ECX, 29, 0},
	/* leaf 0x80000007, EDX */
	{"nonstop_tsc", NULL, 0x80000007, 0, CPUID_EDX, 8, 0},
	/* leaf 0x80000008, EBX */
	{"clzero", NULL, 0x80000008, 0, CPUID_EBX, 0, 0},
	{"irperf", NULL, 0x80000008, 0, CPUID_EBX, 1, 0},
	{"xsaveerptr", NULL, 0x80000008, 0, CPUID_EBX, 2, 0},
	{"rdpru", NULL, 0x80000008, 0, CPUID_EBX, 4, 0},
	{"wbnoinvd", NULL, 0x80000008, 0, CPUID_EBX, 9, 0},
	{"amd_ibpb", NULL, 0x80000008, 0, CPUID_EBX, 12, 0},
	{"amd_ibrs", NULL, 0x80000008, 0, CPUID_EBX, 14, 0},
	{"amd_stibp", NULL, 0x80000008, 0, CPUID_EBX, 15, 0},
	{"amd_stibp_always_on", NULL, 0x80000008, 0, CPUID_EBX, 17, 0},
	{"amd_ssbd", NULL, 0x80000008, 0, CPUID_EBX, 24, 0},
	{"virt_ssbd", NULL, 0x80000008, 0, CPUID_EBX, 25, 0},
	{"amd_ssb_no", NULL, 0x80000008, 0, CPUID_EBX, 26, 0},
	{"cppc", NULL, 0x80000008, 0, CPUID_EBX, 27, 0},
	{"amd_psfd", NULL, 0x80000008, 0, CPUID_EBX, 28, 0},
	{"btc_no", NULL, 0x80000008, 0, CPUID_EBX, 29, 0},
	{"amd_ibpb_ret", NULL, 0x80000008, 0, CPUID_EBX, 30, 0},
	/* leaf 0x80000021, EAX */
	{"no_nested_data_bp", NULL, 0x80000021, 0, CPUID_EAX, 0, 0},
	{"fsgs_non_serializing", NULL, 0x80000021, 0, CPUID_EAX, 1, 0},
	{"lfence_rdtsc", NULL, 0x80000021, 0, CPUID_EAX, 2, 0},
	{"null_sel_clr_base", NULL, 0x80000021, 0, CPUID_EAX, 6, 0},
	{"autoibrs", NULL, 0x80000021, 0, CPUID_EAX, 8, 0},
	{"no_smm_ctl_msr", NULL, 0x80000021, 0, CPUID_EAX, 9, 0},
	{"prefetchi", NULL, 0x80000021, 0, CPUID_EAX, 20, 0},
	{"sbpb", NULL, 0x80000021, 0, CPUID_EAX, 27, 0},
	{"ibpb_brtype", NULL, 0x80000021, 0, CPUID_EAX, 28, 0},
	{"srso_no", NULL, 0x80000021, 0, CPUID_EAX, 29, 0},
};
/* clang-format on */

#define N_FEATURES (sizeof(table) / sizeof(table[0]))

_Static_assert(N_FEATURES < CPU_FEATURES_MAX, "room in a set of features");

/* Components of the XSAVE area beyond x87 and SSE. */
static const struct {
	unsigned first, last;
	const char *feature;
} components[] = {
	{2, 2, "avx"}, {3, 4, "mpx"},     {5, 7, "avx512f"},    {8, 8, "intel_pt"},
	{9, 9, "pku"}, {11, 12, "shstk"}, {15, 15, "arch_lbr"}, {17, 18, "amx_tile"},
};

const struct cpu_feature *cpu_features(unsigned *n)
{
	*n = N_FEATURES;
	return table;
}

int cpu_feature_by_name(const char *name)
{
	for (unsigned i = 0; i < N_FEATURES; i++) {
		if (!strcmp(table[i].name, name))
			return (int)i;
	}
	return -1;
}

int cpu_feature_by_bit(uint32_t function, uint32_t index, enum cpuid_reg reg, unsigned bit)
{
	if (function == 0x80000001 && reg == CPUID_EDX && (AMD_COPY >> bit & 1))
		function = 0x1;
	for (unsigned i = 0; i < N_FEATURES; i++) {
		const struct cpu_feature *f = &table[i];

		if (f->function == function && f->index == index && f->reg == reg && f->bit == bit)
			return (int)i;
	}
	return -1;
}

int cpu_feature_of_xsave(unsigned component)
{
	for (size_t i = 0; i < sizeof(components) / sizeof(components[0]); i++) {
		if (component >= components[i].first && component <= components[i].last)
			return cpu_feature_by_name(components[i].feature);
	}
	return -1;
}

struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid2 *t, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < t->nent; i++) {
		const struct kvm_cpuid_entry2 *en = &t->entries[i];

		if (en->function != function)
			continue;
		if ((en->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) && en->index != index)
			continue;
		return (struct kvm_cpuid_entry2 *)en;
	}
	return NULL;
}

uint32_t *cpuid_reg(struct kvm_cpuid_entry2 *en, enum cpuid_reg reg)
{
	uint32_t *const regs[] = {&en->eax, &en->ebx, &en->ecx, &en->edx};

	return regs[reg];
}

void cpu_features_of(const struct kvm_cpuid2 *t, struct cpu_feature_set *out)
{
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < N_FEATURES; i++) {
		struct kvm_cpuid_entry2 *en = cpuid_find(t, table[i].function, table[i].index);

		if (en && (*cpuid_reg(en, table[i].reg) >> table[i].bit & 1))
			cpu_feature_add(out, i);
	}
}

unsigned cpu_features_text(const struct cpu_feature_set *s, char *text, size_t text_bytes)
{
	const size_t tail = sizeof(" and 255 more");
	unsigned n = 0, shown = 0;
	size_t len = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < N_FEATURES; i++) {
		if (!cpu_feature_in(s, i))
			continue;
		/* Once one did not fit, none is shown any more. */
		if (shown == n++ && len + strlen(table[i].name) + 1 + tail < text_bytes) {
			len += (size_t)snprintf(text + len, text_bytes - len, "%s%s",
						len ? " " : "", table[i].name);
			shown++;
		}
	}
	if (shown < n)
		(void)snprintf(text + len, text_bytes - len, " and %u more", n - shown);
	return n;
}
