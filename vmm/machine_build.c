/* SPDX-License-Identifier: Apache-2.0 */
/* Building the machine, taking it apart, and what its vCPUs exit for. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "kvm/recover.h"
#include "virtio/mmio.h"
#include "vmm/boot/boot.h"
#include "vmm/machine_impl.h"
#include "vmm/thread.h"

#define EXIT_TRIPLE_FAULT   3
#define EXIT_INTERNAL_ERROR 4

static void set_irq(void *ctx, unsigned gsi, bool level)
{
	struct machine *m = ctx;

	(void)vm_irq_line(m->vm, gsi, level);
}

static void on_reset(void *ctx)
{
	machine_guest_ended(ctx, END_RESET, 0, "the guest asked for a reset");
}

static void on_power_off(void *ctx)
{
	machine_guest_ended(ctx, END_SHUTDOWN, 0, "the guest powered off");
}

static void on_debug_exit(void *ctx, uint32_t value)
{
	/* Exit statuses have 8 bits; say the one that will be seen. */
	int status = (int)((value << 1 | 1) & 0xff);
	char text[80];

	(void)snprintf(text, sizeof(text), "the guest ended with debug exit value %u", value);
	machine_guest_ended(ctx, END_DEBUG_EXIT, status, text);
}

static void on_quit(void *ctx)
{
	struct machine *m = ctx;

	if (m->on_event)
		m->on_event(m->event_ctx, MACHINE_EVENT_QUIT);
}

static void on_balloon(void *ctx, uint64_t actual_bytes)
{
	struct machine *m = ctx;

	(void)actual_bytes;
	if (m->on_event)
		m->on_event(m->event_ctx, MACHINE_EVENT_BALLOON);
}

static void do_io(struct machine *m, const struct vcpu_exit *exit)
{
	uint8_t *at = exit->io.data;

	for (uint32_t i = 0; i < exit->io.count; i++, at += exit->io.size)
		io_bus_access(&m->bus, exit->io.out, exit->io.port, exit->io.size, at);
}

bool machine_on_exit(void *ctx, struct vcpu *v, const struct vcpu_exit *exit)
{
	struct machine *m = ctx;
	char text[sizeof(m->end.text)];
	struct err e = ERR_INIT;

	switch (exit->kind) {
	case VCPU_EXIT_IO:
		do_io(m, exit);
		return true;
	case VCPU_EXIT_MMIO:
		mmio_bus_access(&m->mmio, exit->mmio.write, exit->mmio.gpa, exit->mmio.len,
				exit->mmio.data);
		return true;
	case VCPU_EXIT_INTERRUPTED:
		return true;
	case VCPU_EXIT_RING_FULL:
		if (!dirty_ring_full(&m->ring, v->index, &e))
			return true;
		machine_guest_ended(m, END_INTERNAL_ERROR, EXIT_INTERNAL_ERROR, e.msg);
		return false;
	case VCPU_EXIT_SHUTDOWN:
		on_power_off(m);
		return false;
	case VCPU_EXIT_RESET:
		on_reset(m);
		return false;
	case VCPU_EXIT_TRIPLE_FAULT:
		vcpu_describe_exit(v, exit, text, sizeof(text));
		machine_guest_ended(m, END_TRIPLE_FAULT, EXIT_TRIPLE_FAULT, text);
		return false;
	case VCPU_EXIT_EMULATION:
		if (vcpu_recover(v))
			return true;
		break;
	case VCPU_EXIT_ERROR:
		break;
	}
	vcpu_describe_exit(v, exit, text, sizeof(text));
	machine_guest_ended(m, END_INTERNAL_ERROR, EXIT_INTERNAL_ERROR, text);
	return false;
}

static int check_config(const struct machine_config *cfg, struct err *e)
{
	if (cfg->n_cpus < 1 || cfg->n_cpus > MACHINE_MAX_CPUS)
		return err_set(e, EINVAL, "--cpus: a guest has 1 to %d vCPUs, not %u",
			       MACHINE_MAX_CPUS, cfg->n_cpus);
	if (!cfg->kernel && !cfg->incoming)
		return err_set(e, EINVAL, "nothing to run: give --kernel FILE, or --incoming URI");
	return 0;
}

static int build_vm(struct machine *m, const struct machine_config *cfg, int *kvm_fd, struct err *e)
{
	const struct vm_config vm_cfg = {
		.kvm_fd = *kvm_fd, .model = cfg->cpu, .dirty_ring_entries = cfg->dirty_ring};
	int rc = mem_create(&m->mem, cfg->mem_backend, cfg->mem_bytes, e);

	if (rc) {
		err_prefix(e, "--mem");
		return rc;
	}
	*kvm_fd = -1; /* the VM's from here on, whatever happens */
	rc = vm_create(&m->vm, &vm_cfg, m->mem, e);
	for (unsigned i = 0; !rc && i < cfg->n_cpus; i++) {
		rc = vcpu_create(&m->vcpus[i], m->vm, i, cfg->n_cpus, e);
		if (!rc) /* without them a migration knows less of who writes */
			(void)vcpu_stats_open(&m->stats[i], m->vcpus[i]);
	}
	if (rc)
		return rc;
	machine_note_features(m, m->vcpus[0]);
	dirty_log_init(&m->log, m->vm);
	return dirty_ring_init(&m->ring, m->vm, m->vcpus, cfg->n_cpus, e);
}

static int build_devices(struct machine *m, const struct machine_config *cfg, struct err *e)
{
	const struct serial_config serial = {
		.bus = &m->bus,
		.irq = {.set = set_irq, .ctx = m, .gsi = SERIAL_GSI},
		.loop = m->loop,
		.backend = cfg->serial,
		.on_quit = on_quit,
		.ctx = m,
	};
	const struct reset_config reset = {
		.bus = &m->bus,
		.debug_exit = cfg->debug_exit,
		.on_reset = on_reset,
		.on_debug_exit = on_debug_exit,
		.ctx = m,
	};
	const struct acpi_pm_config acpi_pm = {
		.bus = &m->bus,
		.irq = {.set = set_irq, .ctx = m, .gsi = ACPI_PM_GSI},
		.on_power_off = on_power_off,
		.ctx = m,
	};
	const struct devices_host host = {
		.vm = m->vm,
		.mem = m->mem,
		.loop = m->loop,
		.bus = &m->mmio,
		.on_balloon = on_balloon,
		.on_quit = on_quit,
		.ctx = m,
	};
	int rc = serial_new(&m->serial, &serial, e);

	if (rc) {
		err_prefix(e, "--serial");
		return rc;
	}
	rc = cmos_new(&m->cmos, &m->bus, m->mem->size_bytes, e);
	if (!rc)
		rc = reset_new(&m->reset, &reset, e);
	if (!rc)
		rc = acpi_pm_new(&m->acpi_pm, &acpi_pm, e);
	if (!rc)
		rc = devices_new(&m->devices, &cfg->devices, &host, e);
	return rc;
}

static int enter_at(struct vcpu *v, const struct boot_entry *entry, struct err *e)
{
	const struct vcpu_boot64 boot64 = {.rip = entry->rip,
					   .rsi = entry->esi,
					   .cr3 = entry->cr3,
					   .gdt = entry->gdt,
					   .gdt_bytes = (uint16_t)entry->gdt_bytes};

	if (entry->mode == BOOT_LONG64)
		return vcpu_set_boot64(v, &boot64, e);
	return vcpu_set_boot(v, entry->rip, entry->eax, entry->ebx, e);
}

static int load_kernel(struct machine *m, const struct machine_config *cfg, struct err *e)
{
	char device_args[DEVICES_CMDLINE_BYTES];
	struct acpi_mmio mmio[DEVICES_MAX];
	const struct boot_config boot = {.kernel = cfg->kernel,
					 .initrd = cfg->initrd,
					 .cmdline = cfg->cmdline,
					 .linux_args = device_args,
					 .linux_args_for_all = cfg->virtio_cmdline,
					 .mmio = mmio,
					 .n_mmio = devices_count(m->devices),
					 .n_cpus = cfg->n_cpus};
	struct boot_entry entry;
	int rc;

	for (unsigned i = 0; i < boot.n_mmio; i++) {
		struct device_info info;

		devices_info(m->devices, i, &info);
		mmio[i] = (struct acpi_mmio){.base = (uint32_t)info.gpa,
					     .size = VDEV_MMIO_BYTES,
					     .gsi = info.gsi,
					     .edge = true};
	}
	devices_cmdline(m->devices, device_args);
	rc = boot_load(m->mem, &boot, &entry, e);
	return rc ? rc : enter_at(m->vcpus[0], &entry, e);
}

static void io_main(void *arg)
{
	struct machine *m = arg;
	int rc = loop_run(m->loop);

	if (rc)
		log_warn("the I/O thread ended: %s; devices no longer take input", strerror(-rc));
}

static int start_threads(struct machine *m, struct err *e)
{
	int rc = thread_start(&m->io_thread, "io", io_main, m);

	if (rc)
		return err_sys(e, -rc, "cannot start the I/O thread");
	m->has_io_thread = true;
	for (unsigned i = 0; i < m->n_cpus && !rc; i++)
		rc = cpu_create(&m->cpus[i], m->vcpus[i], machine_on_exit, m, e);
	return rc;
}

static int build(struct machine *m, const struct machine_config *cfg, int *kvm_fd, struct err *e)
{
	int rc = check_config(cfg, e);

	if (rc)
		return rc;
	m->n_cpus = cfg->n_cpus;
	m->state = cfg->incoming ? RUN_INMIGRATE : RUN_PRELAUNCH;
	m->on_event = cfg->on_event;
	m->event_ctx = cfg->event_ctx;
	m->name = strdup(cfg->name ? cfg->name : "");
	if (!m->name || loop_new(&m->loop))
		return err_set(e, ENOMEM, "out of memory or file descriptors");
	rc = build_vm(m, cfg, kvm_fd, e);
	if (!rc)
		rc = build_devices(m, cfg, e);
	if (!rc)
		rc = machine_sections_init(m, e);
	if (!rc && !cfg->incoming)
		rc = load_kernel(m, cfg, e);
	if (!rc)
		rc = start_threads(m, e);
	return rc;
}

int machine_create(struct machine **out, const struct machine_config *cfg, struct err *e)
{
	struct machine *m = calloc(1, sizeof(*m));
	int kvm_fd = cfg->kvm_fd, rc;

	if (m) {
		(void)pthread_mutex_init(&m->op, NULL);
		(void)pthread_mutex_init(&m->lock, NULL);
		rc = build(m, cfg, &kvm_fd, e);
	} else {
		rc = err_set(e, ENOMEM, "out of memory");
	}
	if (rc) {
		if (kvm_fd >= 0)
			(void)close(kvm_fd);
		machine_free(m);
		return rc;
	}
	*out = m;
	return 0;
}

static bool end_threads(struct machine *m)
{
	uint64_t deadline = clock_mono_ns() + MACHINE_WAIT_NS;

	/*
	 * From here on no guest ends any more: a vCPU or the I/O thread that is just about to say
	 * so would reach for vCPUs that are being freed.
	 */
	pthread_mutex_lock(&m->lock);
	m->state = RUN_SHUTDOWN;
	pthread_mutex_unlock(&m->lock);
	/* All at once, so that none waits for another. */
	for (unsigned i = 0; i < m->n_cpus; i++) {
		if (m->cpus[i])
			cpu_request_stop(m->cpus[i]);
	}
	for (unsigned i = 0; i < m->n_cpus; i++) {
		if (!cpu_free(m->cpus[i], deadline)) {
			log_warn("vCPU %u does not stop; its memory stays in use", i);
			return false;
		}
	}
	if (m->has_io_thread) {
		loop_quit(m->loop);
		if (thread_join(&m->io_thread, deadline)) {
			log_warn("the I/O thread does not stop");
			return false;
		}
	}
	return true;
}

void machine_free(struct machine *m)
{
	bool ram_in_use;

	if (!m)
		return;
	if (!end_threads(m)) {
		if (m->serial)
			serial_restore_terminal(m->serial);
		if (m->devices)
			devices_restore_terminal(m->devices);
		return; /* a thread may still use any of it */
	}
	ram_in_use = devices_free(m->devices) != 0;
	serial_free(m->serial);
	acpi_pm_free(m->acpi_pm);
	reset_free(m->reset);
	cmos_free(m->cmos);
	loop_free(m->loop);
	dirty_log_stop(&m->log);
	dirty_ring_free(&m->ring);
	for (unsigned i = 0; i < m->n_cpus && m->vcpus[i]; i++) {
		vcpu_stats_close(&m->stats[i]);
		vcpu_free(m->vcpus[i]);
	}
	vm_free(m->vm);
	/* What a disk still reads into must not become anybody else's memory. */
	if (ram_in_use)
		log_warn("a disk does not end its work; the guest's memory stays in use");
	else
		mem_free(m->mem);
	machine_sections_free(m);
	(void)pthread_mutex_destroy(&m->lock);
	(void)pthread_mutex_destroy(&m->op);
	free(m->name);
	free(m);
}
