# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What scripts that start guests do first; to be sourced from the root of the tree.

export PYTHONDONTWRITEBYTECODE=1

# Ends with what to do unless guests can be started here.
require_kvm() {
	if [ ! -e /dev/kvm ]; then
		cat >&2 <<-'END'
		There is no /dev/kvm here, so no guest can be started. What to do:
		  - on a machine of your own: switch on virtualization (VT-x, AMD-V) in the firmware's
		    set-up, then load the module: modprobe kvm_intel, or modprobe kvm_amd;
		  - in a virtual machine: let its host offer nested virtualization;
		  - in a container: hand the device in, e.g. with --device /dev/kvm.
		END
		exit 1
	elif ! (: <>/dev/kvm) 2>/dev/null; then
		cat >&2 <<-END
		/dev/kvm is here, but $(id -un) may not open it. What to do: as root,
		  adduser $(id -un) kvm
		and log in again.
		END
		exit 1
	fi
}

# Installs what is missing and builds ferry and its guests into build/.
build_ferry() {
	scripts/deps
	make --no-print-directory -j"$(nproc)" BUILD=build all
	export FERRY=$PWD/build/ferry FERRY_GUESTS=$PWD/build/guest
}
