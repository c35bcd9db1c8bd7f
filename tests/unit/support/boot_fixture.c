/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/boot_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct boot_fixture bf;

static void put_word(struct wbuf *w, bool is32, uint64_t v)
{
	if (is32)
		put_u32(w, (uint32_t)v);
	else
		put_u64(w, v);
}

static void put_phdr(struct wbuf *w, bool is32, uint32_t type, uint64_t offset, uint64_t vaddr,
		     uint64_t paddr, uint64_t file_bytes, uint64_t memory_bytes, uint64_t align)
{
	put_u32(w, type);
	if (!is32)
		put_u32(w, 7);
	put_word(w, is32, offset);
	put_word(w, is32, vaddr);
	put_word(w, is32, paddr);
	put_word(w, is32, file_bytes);
	put_word(w, is32, memory_bytes);
	if (is32)
		put_u32(w, 7);
	put_word(w, is32, align);
}

static void put_ehdr(struct wbuf *w, const struct shape *s, uint64_t elf_entry)
{
	put_bytes(w, "\177ELF", 4);
	put_u8(w, s->is32 ? 1 : 2);
	put_u8(w, 1);
	put_u8(w, 1);
	put_bytes(w, "\0\0\0\0\0\0\0\0\0", 9);
	put_u16(w, 2);
	put_u16(w, s->is32 ? 3 : 62);
	put_u32(w, 1);
	put_word(w, s->is32, elf_entry);
	put_word(w, s->is32, s->is32 ? 52 : 64);
	put_word(w, s->is32, 0);
	put_u32(w, 0);
	put_u16(w, s->is32 ? 52 : 64);
	put_u16(w, s->is32 ? 32 : 56);
	put_u16(w, 2);
	put_u16(w, 0);
	put_u16(w, 0);
	put_u16(w, 0);
}

static void put_note(struct wbuf *w, const char *owner, uint32_t type, uint64_t value,
		     unsigned bytes, unsigned align)
{
	size_t start = w->len;

	put_u32(w, (uint32_t)strlen(owner) + 1);
	put_u32(w, bytes);
	put_u32(w, type);
	put_bytes(w, owner, strlen(owner) + 1);
	while ((w->len - start) % align)
		put_u8(w, 0);
	for (unsigned i = 0; i < bytes; i++, value >>= 8)
		put_u8(w, (uint8_t)value);
	while ((w->len - start) % align)
		put_u8(w, 0);
}

void make_elf(struct wbuf *w, const struct shape *s)
{
	uint32_t paddr = s->paddr ? s->paddr : LOAD_ADDR;
	uint32_t start = s->entry ? s->entry : paddr + 4;
	uint64_t vaddr = (s->is32 ? 0xc0000000ull : 0xffffffff80000000ull) + paddr;
	size_t notes = s->is32 ? 52 + 2 * 32 : 64 + 2 * 56;
	unsigned align = s->note_align ? s->note_align : 4;
	size_t code_bytes = CODE_LEN + (s->multiboot ? 15 : 0), note_bytes;
	struct wbuf n;

	wbuf_init(&n, ORDER_LITTLE, 4096);
	put_note(&n, "GNU", 18, 0x1234, 4, align);
	put_note(&n, "Xen", 5, 0x1234, 8, align);
	if (s->is_linux)
		put_note(&n, "Linux", 0x100, 0, 1, align);
	if (s->desc_bytes != ~0u)
		put_note(&n, "Xen", 18, start, s->desc_bytes ? s->desc_bytes : 4, align);
	note_bytes = (n.len + 3) & ~3ull;

	wbuf_init(w, ORDER_LITTLE, 65536);
	put_ehdr(w, s, vaddr + 4);
	put_phdr(w, s->is32, 4, notes, 0, 0, n.len, n.len, align);
	put_phdr(w, s->is32, 1, notes + note_bytes, vaddr, paddr, code_bytes,
		 s->memory_bytes ? s->memory_bytes : code_bytes + BSS_BYTES, 4096);
	ck_assert_uint_eq(w->len, notes);
	put_bytes(w, n.data, n.len);
	while (w->len < notes + note_bytes)
		put_u8(w, 0);
	wbuf_free(&n);
	put_bytes(w, CODE, CODE_LEN);
	if (s->multiboot) {
		while (w->len % 4)
			put_u8(w, 0);
		put_u32(w, 0x1badb002);
		put_u32(w, s->multiboot_flags);
		put_u32(w, -(0x1badb002u + s->multiboot_flags));
		while (w->len < notes + note_bytes + code_bytes)
			put_u8(w, 0);
	}
	ck_assert_int_eq(wbuf_error(w), 0);
}

void write_file(const char *path, const void *data, size_t len)
{
	/* Not O_TRUNC: some file systems then write to the disk at close(). */
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_eq(write(fd, data, len), (ssize_t)len);
	ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
	ck_assert_int_eq(close(fd), 0);
}

int boot_with(const char *image, const char *module, const char *cmdline)
{
	const struct boot_config cfg = {.kernel = image, .initrd = module, .cmdline = cmdline};
	int rc;

	err_clear(&bf.err);
	rc = boot_load(bf.m, &cfg, &bf.entry, &bf.err);
	ck_assert_int_eq(bf.err.code, -rc);
	ck_assert(rc == 0 || bf.err.msg[0]);
	return rc;
}

int boot_elf(const struct shape *s)
{
	struct wbuf w;

	make_elf(&w, s);
	write_file(bf.kernel, w.data, w.len);
	wbuf_free(&w);
	return boot_with(bf.kernel, NULL, "a=1 b=2");
}

void new_mem(uint64_t bytes)
{
	mem_free(bf.m);
	ck_assert_int_eq(mem_create(&bf.m, MEM_ANON, bytes, NULL), 0);
}

void boot_setup(void)
{
	(void)snprintf(bf.kernel, sizeof(bf.kernel), "/tmp/test_boot_kernel.XXXXXX");
	(void)snprintf(bf.initrd, sizeof(bf.initrd), "/tmp/test_boot_initrd.XXXXXX");
	(void)close(mkstemp(bf.kernel));
	(void)close(mkstemp(bf.initrd));
	new_mem(16 * MIB);
}

void boot_teardown(void)
{
	mem_free(bf.m);
	(void)unlink(bf.kernel);
	(void)unlink(bf.initrd);
}

uint32_t ram_u32(uint64_t gpa)
{
	uint32_t v;

	ck_assert_int_eq(mem_read(bf.m, gpa, &v, sizeof(v)), 0);
	return v;
}

uint64_t ram_u64(uint64_t gpa)
{
	return ram_u32(gpa) | (uint64_t)ram_u32(gpa + 4) << 32;
}

const char *ram_text(uint64_t gpa)
{
	ck_assert_ptr_nonnull(memchr(mem_host(bf.m, gpa, 16), 0, mem_run(bf.m, gpa)));
	return mem_host(bf.m, gpa, 1);
}

void expect_message(int rc, int want, const char *part)
{
	ck_assert_int_eq(rc, want);
	ck_assert_msg(strstr(bf.err.msg, part) != NULL, "'%s' is not in '%s'", part, bf.err.msg);
	ck_assert_msg(strstr(bf.err.msg, bf.kernel) != NULL, "no path in '%s'", bf.err.msg);
}
