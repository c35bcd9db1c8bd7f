/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the machine, for the files machine*.c only.
 *
 * Locks, in this order:
 *   op	   one change at a time of whether the guest runs; held while waiting for vCPUs. Never taken
 *	   by vCPU threads or the I/O thread.
 *   lock  the run state and how the guest ended; held for moments. A vCPU thread whose guest ends
 *	   takes it, so nobody waits for a vCPU while holding it.
 * Under `lock` the vCPUs' mailboxes may be used; the devices have locks of their own, taken last.
 */
#ifndef VMM_MACHINE_IMPL_H
#define VMM_MACHINE_IMPL_H

#include <pthread.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/loop.h"
#include "kvm/dirty_log.h"
#include "kvm/processor.h"
#include "kvm/dirty_ring.h"
#include "kvm/vcpu.h"
#include "kvm/vcpu_state.h"
#include "kvm/vcpu_stats.h"
#include "kvm/vm.h"
#include "kvm/vm_state.h"
#include "vmm/cpu.h"
#include "vmm/dev/acpi_pm.h"
#include "vmm/dev/bus.h"
#include "vmm/dev/chardev.h"
#include "vmm/dev/cmos.h"
#include "vmm/dev/mmio_bus.h"
#include "vmm/dev/reset.h"
#include "vmm/dev/serial.h"
#include "vmm/machine.h"
#include "vmm/thread.h"

/* How long a vCPU may take to acknowledge anything. */
#define MACHINE_WAIT_NS (10 * NS_PER_SEC)

/* What waits for the serial port and for the console, each in its back-end. */
#define MACHINE_INPUTS 2
/* irqchip, pit, clock, serial, cmos, reset, acpi-pm; the inputs */
#define MACHINE_VM_SECTIONS (7 + MACHINE_INPUTS)

/* The state outside RAM, as plain numbers: what the migration's sections point at. */
struct machine_sections {
	struct processor_state processor;
	struct vcpu_state *cpus; /* n_cpus */
	struct irq_state irq;
	struct pit_state pit;
	struct clock_state clock;
	struct serial_state serial;
	struct cmos_state cmos;
	struct reset_state reset;
	struct acpi_pm_state acpi_pm;
	struct chardev *input_of[MACHINE_INPUTS]; /* NULL: there is none */
	struct chardev_state *inputs;             /* MACHINE_INPUTS */
	struct tsc_shift shift;                   /* what loading the clock gave, for the vCPUs */
	struct mig_section list[MACHINE_MAX_CPUS + MACHINE_VM_SECTIONS + DEVICES_MAX];
	unsigned n;
	struct mig_section early[1]; /* the processor */
};

struct machine {
	/* constant after machine_create() */
	char *name;
	machine_event_fn *on_event;
	void *event_ctx;
	unsigned n_cpus;
	struct mem *mem;
	struct vm *vm;
	struct vcpu *vcpus[MACHINE_MAX_CPUS];
	struct vcpu_stats stats[MACHINE_MAX_CPUS]; /* those of vcpus[] that are there */
	struct cpu *cpus[MACHINE_MAX_CPUS];
	struct io_bus bus;
	struct mmio_bus mmio;
	struct loop *loop;
	struct thread io_thread;
	bool has_io_thread;
	struct serial *serial;
	struct cmos *cmos;
	struct reset *reset;
	struct acpi_pm *acpi_pm;
	struct devices *devices;

	/* the migration's threads */
	struct dirty_log log;
	struct dirty_ring ring; /* instead of the log if it has entries; vCPU threads too */
	uint64_t host_pages;    /* atomic: that host writes made dirty for a migration, ever */
	struct machine_sections sections;

	pthread_mutex_t op;
	bool arrived;         /* under op: a guest was loaded, and the network has not been told */
	pthread_mutex_t lock; /* guards what follows */
	enum run_state state;
	enum run_state before_migration; /* valid in RUN_FINISH_MIGRATE */
	struct machine_end end;
	struct cpu_feature_set features; /* that the guest sees */
};

/* In a vCPU's thread (cpu_exit_fn); ctx is the machine. */
bool machine_on_exit(void *ctx, struct vcpu *v, const struct vcpu_exit *exit);

/* The guest ended, by itself or by its user: remember how, stop all vCPUs. Any thread; no waiting.
 */
void machine_guest_ended(struct machine *m, enum end_kind kind, int exit_status, const char *text);

/* Stop a guest (to must be RUN_PAUSED or RUN_FINISH_MIGRATE); *was_running may be NULL. */
int machine_stop(struct machine *m, enum run_state to, bool *was_running, struct err *e);
/* From one of the states in which nothing runs to another, or to RUN_RUNNING. */
int machine_go(struct machine *m, enum run_state from, enum run_state to, struct err *e);

/*
 * Stop the guest's vCPUs and devices for a moment in which nobody else changes anything: the run
 * state stays what it is, and no event tells of it. *held: it was running. On success
 * machine_let_go() must follow; `op` is held in between.
 */
int machine_hold(struct machine *m, bool *held, struct err *e);
void machine_let_go(struct machine *m, bool held);
/* Wait until the first vCPU is in the guest, if the guest is to run. */
void machine_wait_running(struct machine *m);

/* vCPU 0 has its CPUID: remember what it tells. Before its thread exists, or in it. */
void machine_note_features(struct machine *m, const struct vcpu *v);

/* Room for the state, the list of sections, and the early ones; vCPUs and devices are there. */
int machine_sections_init(struct machine *m, struct err *e);
void machine_sections_free(struct machine *m);

#endif
