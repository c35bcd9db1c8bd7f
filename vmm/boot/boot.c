/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/boot/boot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/boot/load.h"
#include "vmm/boot/mptable.h"

unsigned load_memory_map(const struct mem *m, struct load_range *map)
{
	unsigned n = 0;

	map[n++] = (struct load_range){.gpa = 0, .len = LOAD_BASE_END, .type = LOAD_RAM};
	map[n++] = (struct load_range){
		.gpa = LOAD_BASE_END, .len = LOAD_EXT_START - LOAD_BASE_END, .type = LOAD_RESERVED};
	for (unsigned i = 0; i < m->n_blocks && n < LOAD_MAP_MAX; i++) {
		const struct mem_block *b = &m->blocks[i];
		uint64_t skip = b->gpa < LOAD_EXT_START ? LOAD_EXT_START - b->gpa : 0;

		if (b->size_bytes > skip)
			map[n++] = (struct load_range){.gpa = b->gpa + skip,
						       .len = b->size_bytes - skip,
						       .type = LOAD_RAM};
	}
	return n;
}

uint64_t load_low_end(const struct mem *m)
{
	return mem_run(m, 0);
}

int load_initrd(struct load *l, struct err *e)
{
	uint64_t end = load_low_end(l->m);
	struct image img;
	int rc;

	if (!l->initrd)
		return 0;
	if (l->initrd_end && l->initrd_end < end)
		end = l->initrd_end;
	rc = image_open(&img, "initrd", l->initrd, e);
	if (rc)
		return rc;
	/* Whole pages: nothing else lands in its last one. The file's size is no sum to overflow.
	 */
	rc = img.size_bytes > l->m->size_bytes
		     ? -ENOMEM
		     : places_take_high(&l->places, LOAD_EXT_START, end,
					(img.size_bytes + MEM_PAGE_BYTES - 1) &
						~(MEM_PAGE_BYTES - 1),
					MEM_PAGE_BYTES, &l->initrd_gpa);
	if (rc)
		rc = err_set(e, ENOMEM,
			     "initrd '%s' (%llu KiB) does not fit: give the guest more memory than "
			     "%llu MiB",
			     l->initrd, (unsigned long long)(img.size_bytes + 1023) >> 10,
			     (unsigned long long)l->m->size_bytes >> 20);
	else
		rc = image_load(&img, l->m, 0, img.size_bytes, l->initrd_gpa, img.size_bytes,
				"its content", e);
	l->initrd_bytes = img.size_bytes;
	image_close(&img);
	return rc;
}

int load_tables(struct load *l, struct err *e)
{
	int rc = 0;

	if (!l->acpi.n_cpus)
		return 0;
	if (!places_take(&l->places, ACPI_GPA, ACPI_BYTES)) {
		rc = acpi_write(l->m, &l->acpi, e);
		l->rsdp_gpa = ACPI_GPA;
	}
	if (!rc && !places_take(&l->places, MPTABLE_GPA, MPTABLE_BYTES))
		rc = mptable_write(l->m, l->acpi.n_cpus, e);
	return rc;
}

int load_place_info(struct load *l, uint64_t len, uint64_t align, uint64_t *gpa, struct err *e)
{
	int rc = places_take_low(&l->places, LOAD_INFO_FIRST, LOAD_INFO_LAST, len, align, gpa);

	if (rc)
		rc = places_take_low(&l->places, LOAD_EXT_START, load_low_end(l->m), len, align,
				     gpa);
	if (rc)
		return err_set(e, ENOMEM,
			       "no room for the boot information beside %s '%s': give the guest "
			       "more memory than %llu MiB",
			       l->kernel.what, l->kernel.path,
			       (unsigned long long)l->m->size_bytes >> 20);
	return 0;
}

int load_put_info(struct load *l, uint64_t gpa, const struct wbuf *info, struct err *e)
{
	int rc = wbuf_error(info);

	if (!rc)
		rc = mem_write(l->m, gpa, info->data, info->len);
	if (rc)
		return err_sys(e, -rc, "cannot write the boot information");
	return 0;
}

static int unknown_kind(const struct load *l, struct err *e)
{
	return err_set(e, ENOEXEC,
		       "cannot boot %s '%s': it has neither a PVH entry note nor a Multiboot "
		       "header, and it is no Linux bzImage",
		       l->kernel.what, l->kernel.path);
}

static int too_long(size_t len, struct err *e)
{
	return err_set(e, E2BIG, "the kernel command line has %zu bytes, at most %d are possible",
		       len, LOAD_CMDLINE_BYTES - 1);
}

/* Does the command line switch ACPI off, and with it what the DSDT says? */
static bool no_acpi(const char *cmdline)
{
	static const char word[] = "acpi=off";
	size_t len = sizeof(word) - 1;

	for (const char *at = cmdline; (at = strstr(at, word)); at += len)
		if ((at == cmdline || at[-1] == ' ') && (!at[len] || at[len] == ' '))
			return true;
	return false;
}

static int add_linux_args(struct load *l, const struct boot_config *cfg, struct err *e)
{
	bool is_linux = l->is_elf ? l->elf.is_linux : linux_is(l);
	bool wanted = cfg->linux_args_for_all || (is_linux && no_acpi(l->cmdline));

	if (!cfg->linux_args || !cfg->linux_args[0] || !wanted)
		return 0;
	if (asprintf(&l->cmdline_own, "%s%s%s", cfg->linux_args, l->cmdline[0] ? " " : "",
		     l->cmdline) < 0) {
		l->cmdline_own = NULL;
		return err_set(e, ENOMEM, "out of memory for the kernel command line");
	}
	l->cmdline = l->cmdline_own;
	return strlen(l->cmdline) < LOAD_CMDLINE_BYTES ? 0 : too_long(strlen(l->cmdline), e);
}

static int load_kernel(struct load *l, const struct boot_config *cfg, struct boot_entry *out,
		       struct err *e)
{
	uint32_t header;
	int rc;

	l->head_bytes =
		l->kernel.size_bytes < LOAD_HEAD_BYTES ? l->kernel.size_bytes : LOAD_HEAD_BYTES;
	rc = image_read(&l->kernel, 0, l->head, l->head_bytes, "its beginning", e);
	if (rc)
		return rc;
	l->is_elf = elf_is(l->head, l->head_bytes);
	if (l->is_elf) {
		rc = elf_parse(&l->kernel, &l->elf, e);
		if (rc)
			return rc;
	}
	rc = add_linux_args(l, cfg, e);
	if (rc)
		return rc;
	if (l->is_elf && l->elf.has_pvh_entry)
		return pvh_load(l, out, e);
	if (!l->is_elf && linux_is(l))
		return linux_load(l, out, e);
	rc = multiboot_find(l, &header, e);
	if (rc == -ENOENT)
		return unknown_kind(l, e);
	return rc ? rc : multiboot_load(l, header, out, e);
}

int boot_load(struct mem *m, const struct boot_config *cfg, struct boot_entry *out, struct err *e)
{
	const char *cmdline = cfg->cmdline ? cfg->cmdline : "";
	struct load *l;
	int rc;

	if (strlen(cmdline) >= LOAD_CMDLINE_BYTES)
		return too_long(strlen(cmdline), e);
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_set(e, ENOMEM, "out of memory for loading the kernel image");
	l->m = m;
	l->cmdline = cmdline;
	l->initrd = cfg->initrd;
	l->acpi = (struct acpi_config){
		.n_cpus = cfg->n_cpus, .mmio = cfg->mmio, .n_mmio = cfg->n_mmio};
	rc = image_open(&l->kernel, "kernel image", cfg->kernel, e);
	if (!rc) {
		rc = load_kernel(l, cfg, out, e);
		image_close(&l->kernel);
	}
	free(l->cmdline_own);
	free(l);
	return rc;
}
