# SPDX-License-Identifier: Apache-2.0
#
# make help lists the targets. Everything that is built lands below $(BUILD), so one tree holds as
# many builds as wanted:
#
#	make -j2
#	make -j2 CC=clang BUILD=build/clang
#	make OPT='-O0 -g3' BUILD=build/debug
#
# What a packager may set: CC, OPT, CPPFLAGS, CFLAGS, LDFLAGS, DESTDIR, PREFIX, WERROR= (empty: let
# warnings be warnings). A change of any flag rebuilds what depends on it.

VERSION	:= 0.1.0
BUILD	?= build
# `make clean` removes directories in it that are named like the sources' own.
ifneq ($(filter / $(CURDIR) $(addprefix $(CURDIR)/,tests guest docs scripts vmm),$(abspath $(BUILD)) \
	$(realpath $(BUILD)))$(if $(strip $(BUILD)),,empty),)
$(error BUILD must name a directory of its own, like build/debug, not '$(BUILD)')
endif
PREFIX	?= /usr/local
ifeq ($(origin CC),default)
CC	:= gcc
endif
OPT	?= -O2 -g
WERROR	?= -Werror
SAN	?=
PYTHON	?= python3

# Goals that need neither a compiler nor a library.
LIGHT_GOALS := clean help format format-check include-check
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
comma	:= ,

# --- what there is ----------------------------------------------------------------------------------

ROOMS	:= base mem kvm migration virtio vmm
SRCS	:= $(sort $(wildcard $(ROOMS:%=%/*.c) vmm/*/*.c))
OBJS	:= $(SRCS:%.c=$(BUILD)/%.o)
MAIN_O	:= $(BUILD)/vmm/main.o
LIB_O	:= $(filter-out $(MAIN_O),$(OBJS))
LIB	:= $(BUILD)/libferry.a
FERRY_BIN := $(BUILD)/ferry

# A test is one C file; what the tests of one directory share lies in its support/, what all share in
# tests/support/.
test_srcs = $(sort $(wildcard tests/$(1)/test_*.c))
support_o = $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard tests/support/*.c tests/$(1)/support/*.c)))
UNIT_BINS := $(patsubst %.c,$(BUILD)/%,$(call test_srcs,unit))
KVM_BINS  := $(patsubst %.c,$(BUILD)/%,$(call test_srcs,kvm))
BENCH_CHANNELS := $(BUILD)/tests/bench/channels/channels
UNIT_PY	  := $(sort $(wildcard tests/tools/test_*.py tests/unit/test_*.py))
KVM_PY	  := $(sort $(wildcard tests/kvm/test_*.py))
BENCH_O	  := $(patsubst %.c,$(BUILD)/%.o,$(sort $(wildcard tests/bench/*.c)))
TEST_O	  := $(sort $(addsuffix .o,$(UNIT_BINS) $(KVM_BINS) $(BENCH_CHANNELS)) $(call support_o,unit) \
	$(call support_o,kvm) $(BENCH_O))

HDRS	:= $(sort $(wildcard $(ROOMS:%=%/*.h) vmm/*/*.h guest/*.h guest/*/*.h tests/*/*.h tests/*/support/*.h))
C_FILES	:= $(SRCS) $(HDRS) $(sort $(wildcard guest/*.c guest/*/*.c tests/*/*.c tests/*/support/*.c tests/bench/*/*.c))

# --- flags ------------------------------------------------------------------------------------------

PKGS	:= liburing jansson libcap-ng libxxhash libzstd
ifneq ($(filter-out $(LIGHT_GOALS),$(or $(MAKECMDGOALS),all)),)
ifneq ($(shell pkg-config --exists $(PKGS) && echo yes),yes)
$(error Libraries are missing ($(PKGS)). scripts/deps installs them)
endif
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS))
LIBS	   := $(shell pkg-config --libs $(PKGS))
TEST_LIBS  := $(shell pkg-config --libs check 2>/dev/null || echo -lcheck)
endif

# Code that a sanitizer has rewritten gives warnings of its own, which say nothing about the source.
WARN	:= -Wall -Wextra $(if $(SAN),,-Wshadow -Wconversion $(WERROR))
HARDEN	:= -fstack-protector-strong -fPIE
# The sanitizers bring their own checks, and glibc's need the optimizer.
ifeq ($(SAN)$(filter -O0,$(OPT)),)
HARDEN	+= -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
endif
ifneq ($(SAN),)
SANFLAGS := -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif

FERRY_CPPFLAGS := -D_GNU_SOURCE -I. -DFERRY_VERSION='"$(VERSION)"' $(PKG_CFLAGS) $(CPPFLAGS)
FERRY_CFLAGS   := -std=gnu11 $(OPT) $(WARN) -pthread $(HARDEN) $(SANFLAGS) $(CFLAGS)
FERRY_LDFLAGS  := -pthread -pie -Wl,-z,relro,-z,now $(SANFLAGS) $(LDFLAGS)
COMPILE	       := $(CC) $(FERRY_CPPFLAGS) $(FERRY_CFLAGS)

# --- ferry ------------------------------------------------------------------------------------------

.PHONY: all
all: $(FERRY_BIN) $(BUILD)/bench guests compile_commands.json	## ferry, its test guests, compile_commands.json

$(FERRY_BIN): $(MAIN_O) $(LIB)
	@echo "  LINK    $@"
	@$(CC) $(FERRY_LDFLAGS) -o $@ $^ $(LIBS)

# Where `ferry bench` looks for its program.
$(BUILD)/bench: FORCE
	@mkdir -p $(@D) && ln -sfn $(CURDIR)/scripts/bench $@

$(LIB): $(LIB_O) $(BUILD)/.sources
	@echo "  AR      $@"
	@rm -f $@ && $(AR) rcs $@ $(LIB_O)

$(OBJS) $(TEST_O): $(BUILD)/%.o: %.c $(BUILD)/.flags
	@echo "  CC      $<"
	@mkdir -p $(@D)
	@$(COMPILE) -MMD -MP -c -o $@ $<

-include $(OBJS:.o=.d) $(TEST_O:.o=.d)

# A stamp is rewritten only when its text changes: what was built with other flags, or from other
# files, is then out of date.
.PHONY: FORCE
FORCE:
stamp = mkdir -p $(@D) && printf '%s\n' '$(subst ','\'',$(1))' | cmp -s - $@ || \
	printf '%s\n' '$(subst ','\'',$(1))' >$@
$(BUILD)/.flags: FORCE
	@$(call stamp,$(COMPILE) // $(FERRY_LDFLAGS) $(LIBS) $(TEST_LIBS))
$(BUILD)/.sources: FORCE
	@$(call stamp,$(SRCS))

# --- guests -----------------------------------------------------------------------------------------

-include guest/guest.mk
.PHONY: guests
guests: $(GUEST_ELFS)	## only the test guests

# --- tests ------------------------------------------------------------------------------------------

RUN_TESTS := tests/run-tests $(TEST_FLAGS)
# Most of what unit tests do is wait. Guests have the machine for themselves.
UNIT_JOBS := $(or $(TEST_JOBS),4)
export FERRY_GUESTS := $(abspath $(BUILD))/guest
export PYTHONPATH := $(CURDIR)/scripts/lib
export PYTHONDONTWRITEBYTECODE := 1
export FERRY := $(abspath $(BUILD))/ferry

$(UNIT_BINS): $(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(call support_o,unit) $(LIB)
	@echo "  LINK    $@"
	@$(CC) $(FERRY_LDFLAGS) -o $@ $^ $(LIBS) $(TEST_LIBS)

$(KVM_BINS): $(BUILD)/tests/kvm/%: $(BUILD)/tests/kvm/%.o $(call support_o,kvm) $(LIB)
	@echo "  LINK    $@"
	@$(CC) $(FERRY_LDFLAGS) -o $@ $^ $(LIBS) $(TEST_LIBS)

$(BUILD)/tests/bench/sync: $(BENCH_O) $(LIB)
	@echo "  LINK    $@"
	@$(CC) $(FERRY_LDFLAGS) -o $@ $^ $(LIBS)

.PHONY: tests check check-unit check-model check-kvm check-slow soak asan tsan bench bench-sync
tests: $(UNIT_BINS) $(KVM_BINS) $(BUILD)/tests/bench/sync	## build the tests, run none

check:	## everything below that tests: include-check hdr-check check-unit check-model check-kvm
	@$(MAKE) --no-print-directory include-check hdr-check
	@$(MAKE) --no-print-directory check-unit
	@$(MAKE) --no-print-directory check-model
	@$(MAKE) --no-print-directory check-kvm

check-unit: $(UNIT_BINS) $(FERRY_BIN) $(BUILD)/bench	## tests that need no /dev/kvm
	@$(TEST_WRAP) $(RUN_TESTS) --jobs $(UNIT_JOBS) $(UNIT_BINS) $(UNIT_PY)

check-model:	## the handover as a model, every state of it (spin)
	@tests/model/run

check-kvm: $(KVM_BINS) $(FERRY_BIN) $(BUILD)/bench guests	## tests with real guests (skipped without /dev/kvm)
	@$(TEST_WRAP) $(RUN_TESTS) --jobs $(or $(TEST_JOBS),1) --timeout 600 $(KVM_BINS) $(KVM_PY)

check-slow: $(FERRY_BIN)	## tests that take many minutes: Debian's own kernel
	@$(TEST_WRAP) $(RUN_TESTS) --timeout 600 --need /dev/kvm --timeout 2400 $(sort $(wildcard tests/slow/test_*.py))

SOAK_ROUNDS ?= 200
SOAK_KILLS ?= 300
soak: $(FERRY_BIN) guests	## moves again and again, and deaths at random moments (10 minutes)
	@FERRY_SOAK_ROUNDS=$(SOAK_ROUNDS) FERRY_SOAK_KILLS=$(SOAK_KILLS) tests/kvm/test_soak.py

# $(call sanitized,directory,sanitizers): a build of its own, then both suites against it.
sanitized = rc=0; for suite in check-unit check-kvm; do \
	$(MAKE) --no-print-directory BUILD=$(BUILD)/$(1) SAN=$(2) $$suite || rc=1; done; exit $$rc

asan: export CK_TIMEOUT_MULTIPLIER := 5
asan: export UBSAN_OPTIONS := print_stacktrace=1
asan:	## check-unit and check-kvm with AddressSanitizer and UBSan
	@+$(call sanitized,asan,address$(comma)undefined)

# ThreadSanitizer of gcc 12 does not know the wider address randomization of newer kernels.
tsan: export CK_TIMEOUT_MULTIPLIER := 10
tsan: export TSAN_OPTIONS := halt_on_error=1
tsan:	## check-unit and check-kvm with ThreadSanitizer
	@+TEST_WRAP=$$(setarch -R true 2>/dev/null && echo setarch -R); export TEST_WRAP; \
	$(call sanitized,tsan,thread)

# A build of its own, by clang; the targets share the time.
FUZZ_SECONDS ?= 60
FUZZ_SRCS := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_BINS := $(FUZZ_SRCS:%.c=$(BUILD)/%)
$(FUZZ_BINS): $(BUILD)/tests/fuzz/%: tests/fuzz/%.c $(LIB)
	@echo "  FUZZ    $@"
	@mkdir -p $(@D)
	@$(COMPILE) $(FERRY_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)

.PHONY: fuzz fuzz-run
fuzz:	## hostile guests, files and a hostile migration source, made up by libFuzzer (FUZZ_SECONDS=60 in all)
	@+$(MAKE) --no-print-directory CC=clang BUILD=$(BUILD)/fuzz \
		SAN=fuzzer-no-link$(comma)address$(comma)undefined fuzz-run

fuzz-run: $(FUZZ_BINS)
	@tests/fuzz/run $(FUZZ_SECONDS) $(FUZZ_BINS)

$(BENCH_CHANNELS): $(BENCH_CHANNELS).o $(call support_o,unit) $(LIB)
	@echo "  LINK    $@"
	@$(CC) $(FERRY_LDFLAGS) -o $@ $^ $(LIBS) $(TEST_LIBS)

.PHONY: bench-channels
bench-channels: $(BENCH_CHANNELS)	## several connections beside bare ones (2 GiB free)
	@$(BENCH_CHANNELS)

bench: all	## the figures of docs/benchmarks.md (an hour, as root)
	@$(FERRY) bench published --live

bench-sync: $(BUILD)/tests/bench/sync	## what a sync of 256 GiB and 12 TiB costs (minutes; 11 GiB free)
	@$<

# --- static checks ----------------------------------------------------------------------------------

.PHONY: hdr-check include-check format format-check tidy
hdr-check: $(HDRS:%=$(BUILD)/hdr/%.ok)	## every header compiles alone
	@echo "hdr-check: $(words $(HDRS)) headers compile alone"

hdr_cmd = $(if $(filter guest/%,$<),$(or $(GUEST_CC),$(CC)) $(or $(GUEST_CFLAGS),-I. -ffreestanding),$(COMPILE))
$(HDRS:%=$(BUILD)/hdr/%.ok): $(BUILD)/hdr/%.ok: % $(HDRS) $(BUILD)/.flags
	@mkdir -p $(@D)
	@$(hdr_cmd) -fsyntax-only -include $< -x c /dev/null && touch $@

include-check:	## rooms include only the rooms below them; no file grows too long
	@scripts/check-includes

format:	## clang-format all C files in place
	@clang-format -i $(C_FILES)

format-check:	## say which C files clang-format would change
	@clang-format --dry-run -Werror $(C_FILES)

# One process a file: clang-tidy 14 mixes up what it knows about several.
tidy: $(SRCS:%=$(BUILD)/tidy/%.ok)	## clang-tidy with .clang-tidy
$(SRCS:%=$(BUILD)/tidy/%.ok): $(BUILD)/tidy/%.ok: % $(HDRS) .clang-tidy | compile_commands.json
	@echo "  TIDY    $<"
	@mkdir -p $(@D)
	@clang-tidy --quiet -p $(BUILD) $< 2>/dev/null && touch $@

# --- the rest ---------------------------------------------------------------------------------------

# Tools look for the file in the root, or take -p $(BUILD).
.PHONY: compile_commands.json
compile_commands.json: $(BUILD)/compile_commands.json	## for clangd and clang-tidy
	@test "$(BUILD)" != build || ln -sf build/compile_commands.json $@

$(BUILD)/compile_commands.json: $(BUILD)/.flags $(BUILD)/.sources scripts/lib/compdb
	@scripts/lib/compdb '$(subst ','\'',$(COMPILE))' $(SRCS) $(TEST_O:$(BUILD)/%.o=%.c) >$@.tmp
	@mv $@.tmp $@

.PHONY: install clean help
install: all	## into $(DESTDIR)$(PREFIX)
	install -D -m 755 $(FERRY_BIN) $(DESTDIR)$(PREFIX)/bin/ferry
	install -D -m 644 docs/ferry.1 $(DESTDIR)$(PREFIX)/share/man/man1/ferry.1
	install -d $(DESTDIR)$(PREFIX)/lib/ferry/guests
	$(if $(GUEST_ELFS),install -m 644 $(GUEST_ELFS) $(DESTDIR)$(PREFIX)/lib/ferry/guests)
	install -d $(addprefix $(DESTDIR)$(PREFIX)/libexec/ferry/,bench/scenarios lib)
	install -m 644 scripts/bench/*.py $(DESTDIR)$(PREFIX)/libexec/ferry/bench
	install -m 644 scripts/bench/scenarios/*.toml $(DESTDIR)$(PREFIX)/libexec/ferry/bench/scenarios
	install -m 644 scripts/lib/ferrylab.py $(DESTDIR)$(PREFIX)/libexec/ferry/lib

# Only what was made here goes, whatever directory BUILD names.
clean:	## remove what was built in $(BUILD)
	@rm -rf $(addprefix $(BUILD)/,$(ROOMS) guest tests hdr tidy asan tsan clang bench ferry libferry.a \
		.flags .sources compile_commands.json)
	@rmdir --ignore-fail-on-non-empty $(BUILD) 2>/dev/null || true
	@test "$(BUILD)" != build || rm -f compile_commands.json

help:	## this list
	@awk -F'[:\t#]+' '/^[a-z_.-]+:.*##/ { \
		text = $$0; sub(/.*## /, "", text); printf "  %-22s %s\n", $$1, text }' Makefile
