# SPDX-License-Identifier: Apache-2.0
#
# The test guests, for the top Makefile to include: builds $(BUILD)/guest/NAME.elf for every NAME in
# GUESTS; GUEST_ELFS lists them. GUEST_CC (gcc or clang) may differ from CC; the flags are the
# guests' own, since they are freestanding and run integer code alone in ring 0.

BUILD	  ?= build
GUEST_CC  ?= $(CC)
OBJCOPY	  ?= objcopy

GUEST_DIR := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
GUEST_OUT  = $(BUILD)/guest

GUESTS	    := writer smp timer fpu idle crash echo mboot balloon
# Wrapped as ELF32, though the code is the same: Multiboot wants it, and a PVH loader must know both.
GUESTS_ELF32 := idle mboot
GUEST_ELFS   = $(GUESTS:%=$(GUEST_OUT)/%.elf)

# Sources of a guest where they aren't just NAME.c, and those that all have.
GUEST_SRCS_writer := writer/main.c writer/page.c writer/blackout.c writer/command.c
GUEST_SRCS_balloon := balloon/main.c balloon/pages.c balloon/hints.c
GUEST_SRCS_fpu	  := fpu.c fpu_regs.S
GUEST_SRCS_lib	  := lib/start.S lib/trap.S lib/trap.c lib/boot.c lib/ram.c lib/smp.c lib/lapic.c \
		     lib/pic.c lib/clock.c lib/serial.c lib/say.c lib/cmdline.c lib/vio.c lib/string.c

guest_srcs = $(or $(GUEST_SRCS_$(1)),$(1).c)
guest_objs = $(patsubst %,$(GUEST_OUT)/obj/%.o,$(call guest_srcs,$(1)))

GUEST_OBJS := $(sort $(foreach g,$(GUESTS) lib,$(call guest_objs,$(g))))

GUEST_CFLAGS := -std=gnu11 -O2 -g -m64 -march=x86-64 -mgeneral-regs-only -mno-red-zone \
		-ffreestanding -fno-stack-protector -fno-pic -fno-pie -fno-common \
		-fno-asynchronous-unwind-tables -fcf-protection=none -fno-omit-frame-pointer \
		-fno-strict-aliasing -Wall -Wextra -Wshadow -Wconversion -Werror \
		-I$(GUEST_DIR)/..
GUEST_LDFLAGS := -m64 -nostdlib -static -Wl,-T,$(GUEST_DIR)/lib/guest.ld \
		 -Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-z,noexecstack

guest_compile = $(GUEST_CC) $(GUEST_CFLAGS)
guest_link    = $(GUEST_CC) $(GUEST_LDFLAGS)

# Rewritten only when the commands change: what was built by others is then out of date.
.PHONY: guest-force
guest-force:
$(GUEST_OUT)/.flags: guest-force
	@mkdir -p $(@D)
	@echo '$(guest_compile) // $(guest_link)' | cmp -s - $@ || \
		echo '$(guest_compile) // $(guest_link)' >$@

$(GUEST_OBJS): $(GUEST_OUT)/obj/%.o: $(GUEST_DIR)/% $(GUEST_OUT)/.flags
	@echo "  CC      $<"
	@mkdir -p $(@D)
	@$(guest_compile) -MMD -MP -c -o $@ $<

define guest_rule
$(GUEST_OUT)/$(1).elf64: $(call guest_objs,$(1)) $(call guest_objs,lib) $(GUEST_DIR)/lib/guest.ld
	@echo "  LINK    $$@"
	@$$(guest_link) -o $$@ $$(filter %.o,$$^)
endef
$(foreach g,$(GUESTS),$(eval $(call guest_rule,$(g))))

# Debug information stays in NAME.elf64.
$(GUEST_ELFS): $(GUEST_OUT)/%.elf: $(GUEST_OUT)/%.elf64
	@$(OBJCOPY) --strip-debug $(if $(filter $*,$(GUESTS_ELF32)),-O elf32-i386) $< $@

.SECONDARY: $(GUESTS:%=$(GUEST_OUT)/%.elf64) $(GUEST_OBJS)

-include $(GUEST_OBJS:.o=.d)
