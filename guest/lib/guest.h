/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every guest is made of: its name, its boot note and guest_main().
 *
 * The start-up code says "NAME: start", enters long mode with the first 4 GiB identity-mapped in
 * 2 MiB pages (open to ring 3), reads the boot information, sets up traps, the LAPIC and the clock,
 * and calls guest_main() on vCPU 0, in ring 0, interrupts off.
 */
#ifndef FERRY_GUEST_GUEST_H
#define FERRY_GUEST_GUEST_H

extern const char guest_name[];
extern const char guest_banner[];

/* The guest's own part; must not return. */
_Noreturn void guest_main(void);

#define GUEST_NAME(name)                \
	const char guest_name[] = name; \
	const char guest_banner[] = name ": start\n"

/*
 * The PVH entry note, type 18 (PHYS32_ENTRY) of owner "Xen". Loaders meet descriptors of 4 and of 8
 * bytes in the field, so some guests have the one and some the other. The empty note behind the
 * short one makes it safe for a loader that always reads 8 bytes.
 */
#define GUEST_NOTE_64                                       \
	asm(".pushsection .note.pvh, \"a\", @note\n"        \
	    ".long 4, 8, 18\n.asciz \"Xen\"\n.quad start\n" \
	    ".popsection")
#define GUEST_NOTE_32                                       \
	asm(".pushsection .note.pvh, \"a\", @note\n"        \
	    ".long 4, 4, 18\n.asciz \"Xen\"\n.long start\n" \
	    ".long 0, 0, 0\n"                               \
	    ".popsection")

#endif
