/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Booted by Multiboot 1 as ELF32: says what the loader told, and leaves.
 *
 *   mboot: magic ok                                       (or FAILED magic=0x...)
 *   mboot: cmdline=TEXT                                   (to the end of the line)
 *   mboot: module=N size=BYTES bytes=0xNN,0xNN,...        one a module, its first 8 bytes
 *   mboot: memory entries=N ram_kib=N lower_kib=N upper_kib=N
 *   mboot: done ok
 */
#include "guest/abi.h"
#include "guest/lib/boot.h"
#include "guest/lib/guest.h"
#include "guest/lib/say.h"

#define FIRST_BYTES 8

GUEST_NAME("mboot");

#define HEADER_MAGIC 0x1badb002u
#define HEADER_FLAGS 0x00000003u /* modules on page boundaries, memory map wanted */

__attribute__((section(".multiboot"), used)) static const uint32_t header[3] = {
	HEADER_MAGIC,
	HEADER_FLAGS,
	0u - (HEADER_MAGIC + HEADER_FLAGS),
};

static void say_module(unsigned int i, const struct boot_range *m)
{
	const uint8_t *byte = (const uint8_t *)(uintptr_t)m->start;

	say("%n: module=%u size=%U bytes=", i, m->bytes);
	for (unsigned int n = 0; n < FIRST_BYTES && n < m->bytes; n++)
		say("%s%x", n ? "," : "", byte[n]);
	say("\n");
}

void guest_main(void)
{
	const struct boot_info *b = boot_info();
	uint64_t ram_bytes = 0;

	if (b->magic != MULTIBOOT_MAGIC) {
		say("%n: FAILED magic=%x\n", b->magic);
		guest_exit(GUEST_EXIT_FAILED);
	}
	say("%n: magic ok\n");
	say("%n: cmdline=%s\n", b->cmdline);
	for (unsigned int i = 0; i < b->nr_modules; i++)
		say_module(i, &b->modules[i]);
	for (unsigned int i = 0; i < b->nr_ram; i++)
		ram_bytes += b->ram[i].bytes;
	say("%n: memory entries=%u ram_kib=%U lower_kib=%U upper_kib=%U\n", b->nr_ram,
	    ram_bytes / 1024, b->mem_lower_kib, b->mem_upper_kib);
	say("%n: done ok\n");
	guest_exit(GUEST_EXIT_OK);
}
