/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kvm/support/vmtest.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool vmtest_have_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		(void)printf("SKIP cannot open /dev/kvm: %s\n", strerror(errno));
		(void)fflush(stdout);
		return false;
	}
	(void)close(fd);
	return true;
}

void vmtest_open(struct vmtest *t, uint64_t mem_bytes, unsigned n_cpus, bool plain_log)
{
	const struct vm_config cfg = {.kvm_fd = -1, .plain_dirty_log = plain_log};

	vmtest_open_as(t, mem_bytes, n_cpus, &cfg);
}

void vmtest_open_as(struct vmtest *t, uint64_t mem_bytes, unsigned n_cpus,
		    const struct vm_config *cfg)
{
	struct err e = ERR_INIT;

	*t = (struct vmtest){.n_cpus = n_cpus};
	ck_assert_msg(!mem_create(&t->mem, MEM_ANON, mem_bytes, &e), "%s", e.msg);
	ck_assert_msg(!vm_create(&t->vm, cfg, t->mem, &e), "%s", e.msg);
	for (unsigned i = 0; i < n_cpus; i++)
		ck_assert_msg(!vcpu_create(&t->vcpus[i], t->vm, i, n_cpus, &e), "%s", e.msg);
}

void vmtest_close(struct vmtest *t)
{
	for (unsigned i = 0; i < t->n_cpus; i++)
		vcpu_free(t->vcpus[i]);
	vm_free(t->vm);
	mem_free(t->mem);
}

void vmtest_code(struct vmtest *t, const void *code, size_t bytes)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(mem_write(t->mem, CODE_GPA, code, bytes), 0);
	ck_assert_msg(!vcpu_set_boot(t->vcpus[0], CODE_GPA, 0, 0, &e), "%s", e.msg);
}

void vmtest_run(struct vmtest *t, struct vcpu_exit *exit, enum vcpu_exit_kind kind)
{
	char text[512] = "";

	vcpu_run(t->vcpus[0], exit);
	if (exit->kind != kind)
		vcpu_describe_exit(t->vcpus[0], exit, text, sizeof(text));
	ck_assert_msg(exit->kind == kind, "exit %d instead of %d: %s", exit->kind, kind, text);
}

void vmtest_kernel(char *path, const void *code, size_t bytes)
{
	struct {
		Elf32_Ehdr eh;
		Elf32_Phdr load, note;
		Elf32_Nhdr nh;
		char owner[4];
		uint32_t entry;
	} img = {
		.eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
		       .e_type = ET_EXEC,
		       .e_machine = EM_386,
		       .e_version = EV_CURRENT,
		       .e_entry = CODE_GPA,
		       .e_phoff = sizeof(Elf32_Ehdr),
		       .e_ehsize = sizeof(Elf32_Ehdr),
		       .e_phentsize = sizeof(Elf32_Phdr),
		       .e_phnum = 2},
		.nh = {.n_namesz = 4, .n_descsz = 4, .n_type = 18},
		.owner = "Xen",
		.entry = CODE_GPA,
	};
	int fd = mkstemp(path);

	img.load = (Elf32_Phdr){.p_type = PT_LOAD,
				.p_offset = sizeof(img),
				.p_vaddr = CODE_GPA,
				.p_paddr = CODE_GPA,
				.p_filesz = (Elf32_Word)bytes,
				.p_memsz = (Elf32_Word)bytes,
				.p_flags = PF_R | PF_X};
	img.note = (Elf32_Phdr){.p_type = PT_NOTE,
				.p_offset = (Elf32_Off)((char *)&img.nh - (char *)&img),
				.p_filesz = sizeof(img.nh) + 8,
				.p_memsz = sizeof(img.nh) + 8,
				.p_align = 4};
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, &img, sizeof(img)), (ssize_t)sizeof(img));
	ck_assert_int_eq(write(fd, code, bytes), (ssize_t)bytes);
	(void)close(fd);
}

__attribute__((no_sanitize("thread"))) void vmtest_await_loops(const struct vmtest *t, uint64_t gpa)
{
	const volatile uint32_t *loops = (const uint32_t *)(t->mem->blocks[0].hva + gpa);
	uint32_t from = *loops;

	/* One that hangs is ended by the suite. */
	while (*loops - from < 2)
		(void)sched_yield();
}
