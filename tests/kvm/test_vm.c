/* SPDX-License-Identifier: Apache-2.0 */
/* A VM of KVM: what can go wrong opening it, exits and how they are decoded, CPUID, many vCPUs. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "kvm/cpuid.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"

#define PORT 0x10

static struct vmtest t;
static struct vcpu_exit ex;

/* mov dx,0x10; 1: in eax,dx; add eax,1; out dx,eax; jmp 1b */
static const uint8_t inout_code[] = {0x66, 0xba, 0x10, 0x00, 0xed, 0x83,
				     0xc0, 0x01, 0xef, 0xeb, 0xf9};

START_TEST(port_io)
{
	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	VMTEST_CODE(&t, inout_code);
	for (uint32_t i = 0; i < 1000; i += 7) {
		uint32_t got;

		vmtest_run(&t, &ex, VCPU_EXIT_IO);
		ck_assert(!ex.io.out);
		ck_assert_uint_eq(ex.io.port, PORT);
		ck_assert_uint_eq(ex.io.size, 4);
		ck_assert_uint_eq(ex.io.count, 1);
		memcpy(ex.io.data, &i, sizeof(i));
		vmtest_run(&t, &ex, VCPU_EXIT_IO);
		ck_assert(ex.io.out);
		memcpy(&got, ex.io.data, sizeof(got));
		ck_assert_uint_eq(got, i + 1);
	}
	vmtest_close(&t);
}
END_TEST

/*
 * cld; mov dx,0x12; mov esi,0x20000; mov ecx,5; rep outsb; mov edi,0x20100; mov ecx,3; rep insw;
 * mov eax,[0x20100]; out dx,eax; 1: hlt; jmp 1b
 */
static const uint8_t string_code[] = {0xfc, 0x66, 0xba, 0x12, 0x00, 0xbe, 0x00, 0x00, 0x02, 0x00,
				      0xb9, 0x05, 0x00, 0x00, 0x00, 0xf3, 0x6e, 0xbf, 0x00, 0x01,
				      0x02, 0x00, 0xb9, 0x03, 0x00, 0x00, 0x00, 0x66, 0xf3, 0x6d,
				      0xa1, 0x00, 0x01, 0x02, 0x00, 0xef, 0xf4, 0xeb, 0xfd};

/* KVM may give a string access in one exit or in several; the bytes must come all and in order. */
START_TEST(string_io)
{
	char sent[8] = "";
	uint16_t words[3];
	size_t n = 0, w = 0;
	uint32_t got;

	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	ck_assert_int_eq(mem_write(t.mem, 0x20000, "ferry", 5), 0);
	VMTEST_CODE(&t, string_code);
	while (n < 5) {
		vmtest_run(&t, &ex, VCPU_EXIT_IO);
		ck_assert(ex.io.out);
		ck_assert_uint_eq(ex.io.size, 1);
		ck_assert_uint_le(ex.io.count, 5 - n);
		memcpy(sent + n, ex.io.data, ex.io.count);
		n += ex.io.count;
	}
	ck_assert_str_eq(sent, "ferry");
	while (w < 3) {
		vmtest_run(&t, &ex, VCPU_EXIT_IO);
		ck_assert(!ex.io.out);
		ck_assert_uint_eq(ex.io.size, 2);
		for (uint32_t i = 0; i < ex.io.count; i++, w++) {
			uint16_t v = (uint16_t)(0x1111 * (w + 1));

			memcpy((uint8_t *)ex.io.data + 2 * i, &v, sizeof(v));
		}
	}
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	memcpy(&got, ex.io.data, sizeof(got));
	ck_assert_uint_eq(got, 0x22221111);
	ck_assert_int_eq(mem_read(t.mem, 0x20100, words, sizeof(words)), 0);
	ck_assert_uint_eq(words[2], 0x3333);
	vmtest_close(&t);
}
END_TEST

/* mov eax,[0xd0000000]; mov [0xd0000004],eax; mov dx,0x10; out dx,eax; 1: hlt; jmp 1b */
static const uint8_t mmio_code[] = {0xa1, 0x00, 0x00, 0x00, 0xd0, 0xa3, 0x04, 0x00, 0x00,
				    0xd0, 0x66, 0xba, 0x10, 0x00, 0xef, 0xf4, 0xeb, 0xfd};

START_TEST(mmio)
{
	uint32_t v = 0x12345678, got;

	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	VMTEST_CODE(&t, mmio_code);
	vmtest_run(&t, &ex, VCPU_EXIT_MMIO);
	ck_assert(!ex.mmio.write);
	ck_assert_uint_eq(ex.mmio.gpa, 0xd0000000);
	ck_assert_uint_eq(ex.mmio.len, 4);
	memcpy(ex.mmio.data, &v, sizeof(v));
	vmtest_run(&t, &ex, VCPU_EXIT_MMIO);
	ck_assert(ex.mmio.write);
	ck_assert_uint_eq(ex.mmio.gpa, 0xd0000004);
	memcpy(&got, ex.mmio.data, sizeof(got));
	ck_assert_uint_eq(got, v);
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	vmtest_close(&t);
}
END_TEST

/* crc32 eax,[0xd0000000]: its operand is no RAM, so every KVM has to emulate it, and none can. */
static const uint8_t bad_code[] = {0xf2, 0x0f, 0x38, 0xf1, 0x05, 0x00,
				   0x00, 0x00, 0xd0, 0xf4, 0xeb, 0xfd};

START_TEST(emulation_failure_is_described)
{
	char text[512];

	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	VMTEST_CODE(&t, bad_code);
	vmtest_run(&t, &ex, VCPU_EXIT_EMULATION);
	vcpu_describe_exit(t.vcpus[0], &ex, text, sizeof(text));
	ck_assert_ptr_nonnull(strstr(text, "suberror 1"));
	ck_assert_ptr_nonnull(strstr(text, "f2 0f 38 f1 05"));
	ck_assert_ptr_nonnull(strstr(text, "vCPU 0 at RIP 0x10000,"));
	ck_assert_ptr_nonnull(strstr(text, "32-bit protected mode, CPL 0"));
	ck_assert_ptr_nonnull(strstr(text, "CR0 0x"));
	for (size_t room = 0; room < 64; room++) { /* never past the room that it is given */
		char small[64];

		memset(small, '#', sizeof(small));
		vcpu_describe_exit(t.vcpus[0], &ex, small, room);
		if (room < sizeof(small))
			ck_assert_int_eq(small[room], '#');
	}
	vmtest_close(&t);
}
END_TEST

/* lidt [0x20000] (a limit of 0); ud2 */
static const uint8_t triple_code[] = {0x0f, 0x01, 0x1d, 0x00, 0x00, 0x02, 0x00, 0x0f, 0x0b};

START_TEST(triple_fault)
{
	char text[512];

	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	VMTEST_CODE(&t, triple_code);
	vmtest_run(&t, &ex, VCPU_EXIT_TRIPLE_FAULT);
	vcpu_describe_exit(t.vcpus[0], &ex, text, sizeof(text));
	ck_assert_ptr_nonnull(strstr(text, "triple fault on vCPU 0"));
	vmtest_close(&t);
}
END_TEST

START_TEST(immediate_exit_completes_io)
{
	uint32_t v = 41, got;

	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	VMTEST_CODE(&t, inout_code);
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	memcpy(ex.io.data, &v, sizeof(v));
	vcpu_set_immediate_exit(t.vcpus[0], true);
	vmtest_run(&t, &ex, VCPU_EXIT_INTERRUPTED);
	vmtest_run(&t, &ex, VCPU_EXIT_INTERRUPTED);
	vcpu_set_immediate_exit(t.vcpus[0], false);
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	ck_assert(ex.io.out);
	memcpy(&got, ex.io.data, sizeof(got));
	ck_assert_uint_eq(got, 42);
	vmtest_close(&t);
}
END_TEST

START_TEST(sixty_four_vcpus)
{
	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 64, false);
	VMTEST_CODE(&t, inout_code);
	vmtest_run(&t, &ex, VCPU_EXIT_IO);
	vmtest_close(&t);
}
END_TEST

START_TEST(no_such_device)
{
	const struct vm_config cfg = {.kvm_fd = open("/dev/null", O_RDWR | O_CLOEXEC)};
	struct err e = ERR_INIT;
	struct mem *mem;
	struct vm *vm = NULL;

	ck_assert_int_eq(mem_create(&mem, MEM_ANON, VMTEST_MEM, &e), 0);
	ck_assert_int_lt(vm_create(&vm, &cfg, mem, &e), 0);
	ck_assert_ptr_nonnull(strstr(e.msg, "no KVM device"));
	ck_assert_ptr_null(vm);
	ck_assert_int_eq(fcntl(cfg.kvm_fd, F_GETFD), -1); /* ours to close, also on failure */
	mem_free(mem);
}
END_TEST

static const struct kvm_cpuid_entry2 *leaf(const struct kvm_cpuid2 *table, uint32_t function,
					   uint32_t index)
{
	for (uint32_t i = 0; i < table->nent; i++) {
		const struct kvm_cpuid_entry2 *en = &table->entries[i];

		if (en->function == function && en->index == index)
			return en;
	}
	return NULL;
}

/* What KVM is asked for; some KVMs add to it. */
static void check_cpu(const struct vcpu *v, unsigned n_cpus)
{
	struct kvm_cpuid2 *asked = cpuid_for_vcpu(v->vm, v->index, n_cpus);
	const struct kvm_cpuid_entry2 *en = leaf(asked, 1, 0);

	ck_assert_ptr_nonnull(en);
	ck_assert_uint_eq(en->ebx >> 24, v->index);
	ck_assert_uint_ge(en->ebx >> 16 & 0xff, n_cpus);
	ck_assert_uint_eq(en->edx >> 28 & 1, n_cpus > 1);
	ck_assert_uint_eq(en->ecx >> 31, 1);     /* hypervisor */
	ck_assert_uint_eq(en->ecx >> 21 & 1, 1); /* x2APIC */
	ck_assert_uint_eq(en->ecx >> 24 & 1, v->vm->caps.tsc_deadline);
	ck_assert_uint_eq(en->ecx >> 3 & 1, 0); /* MONITOR */
	ck_assert_uint_eq(en->ecx >> 5 & 1, 0); /* VMX */
	en = leaf(asked, 0xb, 0);
	if (en) {
		ck_assert_uint_eq(en->eax, 0);
		ck_assert_uint_eq(en->ebx, 1);
		ck_assert_uint_eq(en->ecx, 0x100);
		ck_assert_uint_eq(en->edx, v->index);
		en = leaf(asked, 0xb, 1);
		ck_assert_uint_ge(1u << en->eax, n_cpus);
		ck_assert_uint_eq(en->ebx, n_cpus);
		ck_assert_uint_eq(en->ecx, 0x201);
		ck_assert_uint_eq(en->edx, v->index);
		en = leaf(asked, 0xb, 2);
		ck_assert_uint_eq(en->ebx, 0);
	}
	en = leaf(asked, 0x40000001, 0);
	ck_assert_ptr_nonnull(en);
	/* kvmclock, and nothing that needs a hypercall or a page that ferry does not move */
	ck_assert_uint_eq(en->eax & ~(1u << 0 | 1u << 1 | 1u << 3 | 1u << 24), 0);
	ck_assert_uint_eq(en->eax >> 3 & 1, 1);
	free(asked);
}

START_TEST(cpuid_topology)
{
	static const unsigned sizes[] = {1, 2, 3, 64};

	NEED_KVM();
	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
		vmtest_open(&t, VMTEST_MEM, sizes[k], false);
		for (unsigned i = 0; i < sizes[k]; i++)
			check_cpu(t.vcpus[i], sizes[k]);
		vmtest_close(&t);
	}
}
END_TEST

START_TEST(cpuid_refuses_missing_features)
{
	struct err e = ERR_INIT;
	struct kvm_cpuid2 *more;

	NEED_KVM();
	vmtest_open(&t, VMTEST_MEM, 1, false);
	ck_assert_int_eq(cpuid_given(t.vcpus[0]->fd, &more, &e), 0);
	ck_assert_int_eq(cpuid_check(more, t.vcpus[0]->cpuid, &t.vm->model, &e), 0);
	for (uint32_t i = 0; i < more->nent; i++) {
		if (more->entries[i].function == 1)
			more->entries[i].ecx |= 1u << 5;
	}
	ck_assert_int_eq(cpuid_check(more, t.vcpus[0]->cpuid, &t.vm->model, &e), -EINVAL);
	ck_assert_ptr_nonnull(strstr(e.msg, "the guest uses vmx, which"));
	/* The other way round is fine: a guest with fewer features goes on with fewer. */
	ck_assert_int_eq(cpuid_check(t.vcpus[0]->cpuid, more, &t.vm->model, NULL), 0);
	free(more);
	vmtest_close(&t);
}
END_TEST

SUITE("vm", port_io, string_io, mmio, emulation_failure_is_described, triple_fault,
      immediate_exit_completes_io, sixty_four_vcpus, no_such_device, cpuid_topology,
      cpuid_refuses_missing_features)
