/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/boot/elf.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"

#define MAX_HEADERS    1024 /* program headers; a kernel has about ten */
#define MAX_NOTE_BYTES (1u << 20)

#define XEN_NOTE_OWNER        "Xen"
#define XEN_NOTE_PHYS32_ENTRY 18
#define LINUX_NOTE_OWNER      "Linux"

/* A program header, whatever the class. */
struct phdr {
	uint32_t type;
	uint64_t offset, vaddr, paddr, file_bytes, memory_bytes, align;
};

struct phdr_table {
	uint64_t offset;
	unsigned n;
};

static int broken(const struct image *img, struct err *e, const char *why)
{
	return err_set(e, ENOEXEC, "%s '%s' is broken: %s", img->what, img->path, why);
}

static int not_for_us(const struct image *img, struct err *e, const char *why)
{
	return err_set(e, ENOEXEC, "cannot boot %s '%s': %s", img->what, img->path, why);
}

bool elf_is(const uint8_t *head, size_t len)
{
	return len >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG);
}

/* An address or offset: as wide as the class. */
static uint64_t get_word(struct rbuf *r, bool is64)
{
	return is64 ? get_u64(r) : get_u32(r);
}

static int check_ident(const struct image *img, const uint8_t *ident, struct err *e)
{
	if (ident[EI_CLASS] != ELFCLASS32 && ident[EI_CLASS] != ELFCLASS64)
		return broken(img, e, "its ELF header is of no known class");
	if (ident[EI_DATA] != ELFDATA2LSB)
		return not_for_us(img, e, "it is not for a little-endian machine");
	if (ident[EI_VERSION] != EV_CURRENT)
		return broken(img, e, "its ELF header is of no known version");
	return 0;
}

static int check_header(const struct image *img, const struct elf *elf, unsigned type,
			unsigned machine, unsigned entry_bytes, unsigned n_headers, struct err *e)
{
	size_t want = elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (machine != EM_386 && machine != EM_X86_64)
		return not_for_us(img, e, "it is not for an x86 machine");
	if (type != ET_EXEC && type != ET_DYN)
		return not_for_us(img, e, "it is an ELF file, but no executable");
	if (!n_headers)
		return not_for_us(img, e, "it has no program headers, so nothing to load");
	if (entry_bytes != want)
		return broken(img, e, "its program headers have a wrong size");
	if (n_headers > MAX_HEADERS)
		return not_for_us(img, e, "it has too many program headers");
	return 0;
}

static int parse_header(const struct image *img, struct elf *out, struct phdr_table *table,
			struct err *e)
{
	uint8_t bytes[sizeof(Elf64_Ehdr)] = {0};
	unsigned type, machine, entry_bytes;
	struct rbuf r;
	int rc;

	rc = image_read(img, 0, bytes, sizeof(Elf32_Ehdr), "its ELF header", e);
	if (!rc)
		rc = check_ident(img, bytes, e);
	if (rc)
		return rc;
	out->is64 = bytes[EI_CLASS] == ELFCLASS64;
	if (out->is64) {
		rc = image_read(img, 0, bytes, sizeof(bytes), "its ELF header", e);
		if (rc)
			return rc;
	}
	rbuf_init(&r, ORDER_LITTLE, bytes, sizeof(bytes));
	(void)get_bytes(&r, EI_NIDENT);
	type = get_u16(&r);
	machine = get_u16(&r);
	(void)get_u32(&r); /* e_version */
	out->entry = get_word(&r, out->is64);
	table->offset = get_word(&r, out->is64);
	(void)get_word(&r, out->is64); /* e_shoff */
	(void)get_u32(&r);             /* e_flags */
	(void)get_u16(&r);             /* e_ehsize */
	entry_bytes = get_u16(&r);
	table->n = get_u16(&r);
	return check_header(img, out, type, machine, entry_bytes, table->n, e);
}

static struct phdr get_phdr(struct rbuf *r, bool is64)
{
	struct phdr p = {.type = get_u32(r)};

	if (is64)
		(void)get_u32(r); /* p_flags */
	p.offset = get_word(r, is64);
	p.vaddr = get_word(r, is64);
	p.paddr = get_word(r, is64);
	p.file_bytes = get_word(r, is64);
	p.memory_bytes = get_word(r, is64);
	if (!is64)
		(void)get_u32(r);
	p.align = get_word(r, is64);
	return p;
}

static int add_segment(const struct image *img, struct elf *out, const struct phdr *p,
		       struct err *e)
{
	if (p->file_bytes > p->memory_bytes)
		return broken(img, e, "a segment has more bytes in the file than in memory");
	if (p->offset > img->size_bytes || p->file_bytes > img->size_bytes - p->offset)
		return broken(img, e, "a segment reaches beyond the end of the file");
	if (p->memory_bytes > UINT64_MAX - p->paddr)
		return broken(img, e, "a segment reaches beyond the end of the address space");
	if (!p->memory_bytes)
		return 0;
	if (out->n_segments == ELF_MAX_SEGMENTS)
		return not_for_us(img, e, "it has too many segments to load");
	out->segments[out->n_segments++] = (struct elf_segment){
		.offset = p->offset,
		.file_bytes = p->file_bytes,
		.vaddr = p->vaddr,
		.paddr = p->paddr,
		.memory_bytes = p->memory_bytes,
	};
	return 0;
}

static void skip_to(struct rbuf *r, size_t align)
{
	size_t pad = -r->pos & (align - 1);

	(void)get_bytes(r, pad <= rbuf_left(r) ? pad : rbuf_left(r));
}

static bool is_owner(const void *name, uint32_t name_bytes, const char *owner)
{
	return name_bytes == strlen(owner) + 1 && !memcmp(name, owner, name_bytes);
}

/* Look through one segment of notes. What cannot be understood ends it, and is no error. */
static void scan_notes(struct elf *out, struct rbuf *r, size_t align)
{
	while (rbuf_left(r) && !r->bad) {
		uint32_t name_bytes = get_u32(r), desc_bytes = get_u32(r), type = get_u32(r);
		const void *name = get_bytes(r, name_bytes);
		struct rbuf desc;
		const void *at;

		skip_to(r, align);
		at = get_bytes(r, desc_bytes);
		skip_to(r, align);
		if (!name || !at)
			continue;
		if (is_owner(name, name_bytes, LINUX_NOTE_OWNER))
			out->is_linux = true;
		if (out->has_pvh_entry || type != XEN_NOTE_PHYS32_ENTRY ||
		    !is_owner(name, name_bytes, XEN_NOTE_OWNER))
			continue;
		rbuf_init(&desc, ORDER_LITTLE, at, desc_bytes);
		out->pvh_entry = get_word(&desc, desc_bytes == 8);
		out->has_pvh_entry = rbuf_done(&desc);
	}
}

static int parse_notes(const struct image *img, struct elf *out, const struct phdr *p,
		       struct err *e)
{
	struct rbuf r;
	void *bytes;
	int rc;

	if (!p->file_bytes)
		return 0;
	if (p->offset > img->size_bytes || p->file_bytes > img->size_bytes - p->offset)
		return broken(img, e, "its notes reach beyond the end of the file");
	if (p->file_bytes > MAX_NOTE_BYTES)
		return not_for_us(img, e, "its notes are larger than 1 MiB");
	bytes = malloc(p->file_bytes);
	if (!bytes)
		return err_set(e, ENOMEM, "out of memory for the notes of '%s'", img->path);
	rc = image_read(img, p->offset, bytes, p->file_bytes, "its note segment", e);
	if (!rc) {
		rbuf_init(&r, ORDER_LITTLE, bytes, p->file_bytes);
		scan_notes(out, &r, p->align == 8 ? 8 : 4);
	}
	free(bytes);
	return rc;
}

static int parse_phdrs(const struct image *img, struct elf *out, struct rbuf *r, unsigned n,
		       struct err *e)
{
	int rc = 0;

	for (unsigned i = 0; i < n && !rc; i++) {
		struct phdr p = get_phdr(r, out->is64);

		if (p.type == PT_LOAD)
			rc = add_segment(img, out, &p, e);
		else if (p.type == PT_NOTE)
			rc = parse_notes(img, out, &p, e);
	}
	if (!rc && !out->n_segments)
		rc = not_for_us(img, e, "it has no segment to load");
	return rc;
}

int elf_parse(const struct image *img, struct elf *out, struct err *e)
{
	struct phdr_table table;
	struct rbuf r;
	size_t len;
	void *bytes;
	int rc;

	*out = (struct elf){0};
	rc = parse_header(img, out, &table, e);
	if (rc)
		return rc;
	len = table.n * (out->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr));
	bytes = malloc(len);
	if (!bytes)
		return err_set(e, ENOMEM, "out of memory for the headers of '%s'", img->path);
	rc = image_read(img, table.offset, bytes, len, "its program header table", e);
	if (!rc) {
		rbuf_init(&r, ORDER_LITTLE, bytes, len);
		rc = parse_phdrs(img, out, &r, table.n, e);
	}
	free(bytes);
	return rc;
}

int elf_load(const struct image *img, const struct elf *elf, struct mem *m, struct places *p,
	     struct err *e)
{
	for (unsigned i = 0; i < elf->n_segments; i++) {
		const struct elf_segment *s = &elf->segments[i];
		int rc = places_take(p, s->paddr, s->memory_bytes);

		if (rc == -EEXIST)
			return broken(img, e, "two of its segments overlap in memory");
		if (rc)
			return not_for_us(img, e, "it has too many segments to load");
		rc = image_load(img, m, s->offset, s->file_bytes, s->paddr, s->memory_bytes,
				"a segment", e);
		if (rc)
			return rc;
	}
	return 0;
}

bool elf_has_paddr(const struct elf *elf, uint64_t paddr)
{
	for (unsigned i = 0; i < elf->n_segments; i++) {
		const struct elf_segment *s = &elf->segments[i];

		if (paddr >= s->paddr && paddr - s->paddr < s->memory_bytes)
			return true;
	}
	return false;
}

int elf_to_paddr(const struct elf *elf, uint64_t vaddr, uint64_t *paddr)
{
	for (unsigned i = 0; i < elf->n_segments; i++) {
		const struct elf_segment *s = &elf->segments[i];

		if (vaddr >= s->vaddr && vaddr - s->vaddr < s->memory_bytes) {
			*paddr = s->paddr + (vaddr - s->vaddr);
			return 0;
		}
	}
	return -ENOENT;
}
