/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel images made for tests, and guest RAM to load them into. One of it a process; every test
 * begins with boot_setup(): 16 MiB of RAM, an empty kernel file and an empty initrd file.
 */
#ifndef TESTS_UNIT_SUPPORT_BOOT_FIXTURE_H
#define TESTS_UNIT_SUPPORT_BOOT_FIXTURE_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/codec.h"
#include "mem/mem.h"
#include "vmm/boot/boot.h"

#define MIB       (1ull << 20)
#define LOAD_ADDR 0x200000u
#define BSS_BYTES 5000u
#define CODE      "the kernel's code"
#define CODE_LEN  (sizeof(CODE) - 1)

struct boot_fixture {
	char kernel[48], initrd[48]; /* paths */
	struct mem *m;
	struct err err;
	struct boot_entry entry;
};

extern struct boot_fixture bf;

void boot_setup(void);
void boot_teardown(void);
void new_mem(uint64_t bytes);

/* How an ELF is to be built; what is 0 takes the usual value. */
struct shape {
	bool is32;
	bool is_linux;       /* a note of the owner "Linux" */
	unsigned desc_bytes; /* of the entry note: 4 (usual), 8, other; ~0u = no note */
	unsigned note_align;
	uint32_t paddr, entry;
	uint64_t memory_bytes;
	bool multiboot; /* a header without addresses in the code */
	uint32_t multiboot_flags;
};

/* An ELF: header, two program headers (notes, code), notes, the code at the file's end. */
void make_elf(struct wbuf *w, const struct shape *s);
void write_file(const char *path, const void *data, size_t len);

/* boot_load(); an error must have a message. */
int boot_with(const char *image, const char *module, const char *cmdline);
int boot_elf(const struct shape *s);
/* rc is `want`, and the message holds `part` and the kernel's path. */
void expect_message(int rc, int want, const char *part);

uint32_t ram_u32(uint64_t gpa);
uint64_t ram_u64(uint64_t gpa);
const char *ram_text(uint64_t gpa);

#endif
