#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Edit a Linux 6.1 source tree so that its kernel also runs on a KVM that emulates ring 0.

    quirks.py TREE

Such a KVM (software shadow paging, no VMX or SVM) runs ring 3 natively and emulates ring 0, where it
lacks some instructions. The edits below avoid those, or what is very slow there, and one mends ACPI in
a kernel without PCI. They do no harm on hardware KVM. Each must find its place exactly as often as it says: a source that looks
different is an error, and then the tree is left alone.
"""

import os
import re
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

# (file, pattern, how often, replacement, why)
EDITS = [
    ("arch/x86/kernel/idt.c",
     r"(early_pf_idts\[\] = \{\s*INTG\(X86_TRAP_PF,\s*)asm_exc_page_fault(\))", 1,
     r"\1ferry_page_fault\2",
     "SYSCALL in ring 3 arrives as a page fault: see syscall_fault.S."),
    ("arch/x86/kernel/idt.c",
     r"(#include <asm/hw_irq\.h>\n)", 1,
     r"\1\nasmlinkage void ferry_page_fault(void);\n",
     "The declaration for the edit above."),
    ("arch/x86/entry/Makefile",
     r"(obj-y\s*\+= common\.o\n)", 1,
     r"\1obj-y += ferry_syscall_fault.o\n",
     "Build syscall_fault.S."),
    ("arch/x86/kernel/alternative.c",
     r"(void __init alternative_instructions\(void\)\s*\{[^}]*?\n\t)int3_selftest\(\);", 1,
     r"\1if (0)\n\t\tint3_selftest();",
     "INT3 in ring 0 is not emulated, and this test of it is all there is without jump labels."),
    ("arch/x86/kernel/fpu/core.c",
     r'(void fpu__drop\(.*?)"1: fwait\\n"', 1,
     r'\1"1: nop\\n"',
     "FWAIT in ring 0 is not emulated. It only swallows a pending exception of an x87 state that "
     "is thrown away on the next line; loading the next state does not look for one."),
    ("arch/x86/kernel/reboot.c",
     r'(idt_invalidate\(\);\s*__asm__ __volatile__\(")int3("\);)', 1,
     r"\1ud2\2",
     "The triple fault that resets the machine: any exception does, INT3 is not emulated."),
    ("arch/x86/kernel/setup.c",
     r"(\tearly_cpu_init\(\);\n.*?)"
     r"(#ifdef CONFIG_CMDLINE_BOOL\n#ifdef CONFIG_CMDLINE_OVERRIDE\n.*?#endif\n#endif\n)", 1,
     r"\2\1",
     "The built-in command line is joined before the processor's features are settled, since it names "
     "those to leave alone."),
    ("kernel/Kconfig.hz",
     r"default 100 if HZ_100", 1,
     "default 32 if HZ_100",
     "A tick costs 1 to 2 ms of emulation. A hundred a second leave nothing for anything else on a "
     "host that is busy."),
    ("drivers/acpi/acpica/evhandler.c",
     r"(acpi_gbl_default_address_spaces\[[^=]*= \{[^}]*?)(\tACPI_ADR_SPACE_PCI_CONFIG,\n)", 1,
     r"\1#ifdef ACPI_PCI_CONFIGURED\n\2#endif\n",
     "Without CONFIG_PCI there is no handler for this space, and because of that ACPI gives up before "
     "it has loaded the DSDT. (The array then ends in a 0: a space that is there already.)"),
    ("include/linux/init.h",
     r"(#define __init\s+__section\(\"\.init\.text\"\) )__cold ", 1,
     r"\1",
     "gcc optimizes cold functions for size and clears memory by an inline `rep stosb`, a byte at a "
     "time where it is emulated: 1.4 ms a page."),
    ("include/linux/init.h",
     r"(#define __meminit\s+__section\(\"\.meminit\.text\"\) )__cold ", 1,
     r"\1",
     "The same."),
]
FILES = [("syscall_fault.S", "arch/x86/entry/ferry_syscall_fault.S")]


def edit(texts, tree, name, pattern, times, replacement):
    if name not in texts:
        with open(os.path.join(tree, name), encoding="utf-8") as file:
            texts[name] = file.read()
    texts[name], found = re.subn(pattern, replacement, texts[name], flags=re.S)
    if found != times:
        sys.exit(f"quirks.py: {name}: found {found} place(s) for an edit, expected {times}; the "
                 f"kernel source is not the one this was written for. Pattern:\n    {pattern}")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: quirks.py TREE")
    tree = sys.argv[1]
    texts = {}
    try:
        for name, pattern, times, replacement, _ in EDITS:
            edit(texts, tree, name, pattern, times, replacement)
        for name, text in texts.items():
            with open(os.path.join(tree, name), "w", encoding="utf-8") as file:
                file.write(text)
        for source, target in FILES:
            shutil.copyfile(os.path.join(HERE, source), os.path.join(tree, target))
    except OSError as error:
        sys.exit(f"quirks.py: {error}")


if __name__ == "__main__":
    main()
