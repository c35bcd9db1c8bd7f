/* SPDX-License-Identifier: Apache-2.0 */
/* FWAIT and INT3 in ring 0: finished by us where KVM cannot emulate them, by the processor
 * elsewhere. */
#include <string.h>

#include "kvm/recover.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"

#define AT(offset) (CODE_GPA + (offset))

/* clang-format off */
static const uint8_t code[] = {
	/* 0x00 */ 0x0f, 0x01, 0x15, 0x98, 0x00, 0x01, 0x00, /* lgdt 0x98 */
	/* 0x07 */ 0x0f, 0x01, 0x1d, 0x9e, 0x00, 0x01, 0x00, /* lidt 0x9e */
	/* 0x0e */ 0xbc, 0x00, 0x00, 0x08, 0x00,             /* mov esp, 0x80000 */
	/* 0x13 */ 0xcc,                                     /* int3 */
	/* 0x14 */ 0xe6, 0x80,                               /* out 0x80, al */
	/* 0x16 */ 0x9b,                                     /* fwait */
	/* 0x17 */ 0xe6, 0x81,                               /* out 0x81, al */
	/* 0x19 */ 0x0f, 0x20, 0xc0,                         /* mov eax, cr0 */
	/* 0x1c */ 0x83, 0xc8, 0x0a,                         /* or eax, TS | MP */
	/* 0x1f */ 0x0f, 0x22, 0xc0,                         /* mov cr0, eax */
	/* 0x22 */ 0x9b,                                     /* fwait: #NM */
	/* #BP; no iret, which not every KVM emulates */
	/* 0x23 */ 0x8b, 0x04, 0x24, 0xe7, 0x82,             /* mov eax, [esp]; out 0x82, eax */
	/* 0x28 */ 0x83, 0xc4, 0x0c, 0xeb, 0xe7,             /* add esp, 12; jmp 0x14 */
	/* #NM */
	/* 0x2d */ 0x8b, 0x04, 0x24, 0xe7, 0x83, 0xf4,       /* mov eax, [esp]; out 0x83, eax; hlt */
	/* 0x33 */ 0x90, 0x90, 0x90, 0x90, 0x90,
	/* 0x38: GDT: two empty, code, data */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0, 0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0,
	/* 0x58: IDT: vectors 0 to 2, 3, 4 to 6, 7 */
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0x23, 0, 0x10, 0, 0, 0x8e, 0x01, 0,
	0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
	0x2d, 0, 0x10, 0, 0, 0x8e, 0x01, 0,
	0x1f, 0, 0x38, 0, 0x01, 0, /* 0x98: for lgdt */
	0x3f, 0, 0x58, 0, 0x01, 0, /* 0x9e: for lidt */
};
/* clang-format on */

static struct vmtest t;
static struct vcpu_exit ex;

/* Run, recovering as the machine does, to an OUT; returns what was put out. */
static uint32_t run_to_out(uint16_t port)
{
	uint32_t value = 0;

	do {
		vcpu_run(t.vcpus[0], &ex);
	} while (ex.kind == VCPU_EXIT_INTERRUPTED ||
		 (ex.kind == VCPU_EXIT_EMULATION && vcpu_recover(t.vcpus[0])));
	if (ex.kind != VCPU_EXIT_IO) {
		char text[512];

		vcpu_describe_exit(t.vcpus[0], &ex, text, sizeof(text));
		ck_abort_msg("no port access, but: %s", text);
	}
	ck_assert(ex.io.out);
	ck_assert_uint_eq(ex.io.port, port);
	memcpy(&value, ex.io.data, ex.io.size);
	return value;
}

START_TEST(ring0_int3_and_fwait)
{
	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	VMTEST_CODE(&t, code);
	ck_assert_uint_eq(run_to_out(0x82), AT(0x14)); /* #BP says: behind the INT3 */
	(void)run_to_out(0x80);                        /* ... and it returned there */
	(void)run_to_out(0x81);                        /* FWAIT was nothing */
	ck_assert_uint_eq(run_to_out(0x83), AT(0x22)); /* #NM says: at the FWAIT */
	vmtest_close(&t);
}
END_TEST

/* crc32 eax,[0xd0000000]: no KVM emulates it. */
static const uint8_t unknown_code[] = {0xf2, 0x0f, 0x38, 0xf1, 0x05, 0x00, 0x00, 0x00, 0xd0};

START_TEST(others_are_left_alone)
{
	char before[512], after[512];

	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	VMTEST_CODE(&t, unknown_code);
	vmtest_run(&t, &ex, VCPU_EXIT_EMULATION);
	vcpu_describe_exit(t.vcpus[0], &ex, before, sizeof(before));
	ck_assert(!vcpu_recover(t.vcpus[0]));
	vcpu_describe_exit(t.vcpus[0], &ex, after, sizeof(after));
	ck_assert_str_eq(before, after);
	vmtest_close(&t);
}
END_TEST

START_TEST(what_an_instruction_does)
{
	static const struct {
		uint8_t bytes[2];
		size_t n;
		uint64_t cr0;
		uint16_t x87_status;
		struct recovery want;
	} cases[] = {
		{{0x9b, 0xcc}, 2, 0x33, 0, {true, 1, -1}},
		{{0x9b}, 1, 0x3b, 0, {true, 0, 7}},      /* TS and MP */
		{{0x9b}, 1, 0x39, 0, {true, 1, -1}},     /* TS alone */
		{{0x9b}, 1, 0x33, 0x80, {true, 0, 16}},  /* pending, NE */
		{{0x9b}, 1, 0x3b, 0x80, {true, 0, 7}},   /* #NM comes first */
		{{0x9b}, 1, 0x13, 0x80, {false, 0, -1}}, /* pending, no NE */
		{{0xcc, 0x9b}, 2, 0x3b, 0x80, {true, 1, 3}},
		{{0xf1, 0xcc}, 2, 0x33, 0, {false, 0, -1}},
		{{0x66, 0xcc}, 2, 0x33, 0, {false, 0, -1}},
		{{0xcc}, 0, 0x33, 0, {false, 0, -1}},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct recovery r =
			recovery_for(cases[i].bytes, cases[i].n, cases[i].cr0, cases[i].x87_status);

		ck_assert_int_eq(r.known, cases[i].want.known);
		ck_assert_uint_eq(r.skip_bytes, cases[i].want.skip_bytes);
		ck_assert_int_eq(r.vector, cases[i].want.vector);
	}
}
END_TEST

SUITE("recover", ring0_int3_and_fwait, others_are_left_alone, what_an_instruction_does)
