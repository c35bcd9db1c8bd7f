# SPDX-License-Identifier: Apache-2.0
"""What the figures were taken on."""

import os
import platform
import re


def _read(path, otherwise=""):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return otherwise


def _chosen(text):
    """The word in brackets: how sysfs says which of several is on."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else text


def kvm_module():
    """Which KVM this is: the modules beside kvm itself."""
    names = [n for n in ("kvm_intel", "kvm_amd", "kvm_pvm") if os.path.isdir(f"/sys/module/{n}")]
    flags = re.search(r"^flags\s*:(.*)$", _read("/proc/cpuinfo"), re.M)
    has = [f for f in ("vmx", "svm", "hypervisor") if flags and f in flags[1].split()]
    return (", ".join(names) or "unknown") + (f" (CPU flags: {', '.join(has)})" if has
                                              else " (no hardware virtualization)")


def describe():
    """Rows for people: name -> text."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.M)
    memory = re.search(r"^MemTotal:\s*(\d+)", _read("/proc/meminfo"), re.M)
    rows = {
        "processor": cpu[1] if cpu else platform.machine(),
        "usable cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(memory[1]) / (1 << 20):.1f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "KVM": kvm_module(),
        "transparent huge pages": _chosen(_read("/sys/kernel/mm/transparent_hugepage/enabled",
                                                "unknown")),
        "clock": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                       "unknown"),
        "TCP congestion control": _read("/proc/sys/net/ipv4/tcp_congestion_control", "unknown"),
        "frequency governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
                                    "not visible"),
    }
    return rows


def load():
    return "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg())
