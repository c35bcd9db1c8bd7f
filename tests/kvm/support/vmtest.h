/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests on a real /dev/kvm share: small VMs with a few bytes of 32-bit code in them. */
#ifndef TESTS_KVM_SUPPORT_VMTEST_H
#define TESTS_KVM_SUPPORT_VMTEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <check.h>

#include "kvm/vcpu.h"
#include "kvm/vm.h"
#include "mem/mem.h"

#define CODE_GPA   0x10000u
#define VMTEST_MEM (4ull << 20)

/* Is there a /dev/kvm that we may use? If not, says that the test is skipped. */
bool vmtest_have_kvm(void);
#define NEED_KVM()                      \
	do {                            \
		if (!vmtest_have_kvm()) \
			return;         \
	} while (0)

struct vmtest {
	struct mem *mem;
	struct vm *vm;
	unsigned n_cpus;
	struct vcpu *vcpus[64];
};

/* Fails the test when anything fails. */
void vmtest_open(struct vmtest *t, uint64_t mem_bytes, unsigned n_cpus, bool plain_log);
void vmtest_open_as(struct vmtest *t, uint64_t mem_bytes, unsigned n_cpus,
		    const struct vm_config *cfg);
void vmtest_close(struct vmtest *t);
/* Put code at CODE_GPA and have vCPU 0 begin there, in flat 32-bit protected mode. */
void vmtest_code(struct vmtest *t, const void *code, size_t bytes);
#define VMTEST_CODE(t, code) vmtest_code(t, code, sizeof(code))

/* Run vCPU 0 until its next exit, which must be of this kind. */
void vmtest_run(struct vmtest *t, struct vcpu_exit *exit, enum vcpu_exit_kind kind);

/*
 * Wait until the running guest has twice added to the number at gpa: it has written all of its
 * pages since it was asked for, and is at it again.
 */
void vmtest_await_loops(const struct vmtest *t, uint64_t gpa);

/*
 * Write an ELF image that boots by PVH and holds nothing but the code. *path is a template for
 * mkstemp(); the caller removes the file.
 */
void vmtest_kernel(char *path, const void *code, size_t bytes);
#define VMTEST_KERNEL_PATH "/tmp/ferry-test-XXXXXX"

#endif
