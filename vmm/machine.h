/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine: one VM with its RAM, vCPUs and devices, and what state it is in.
 *
 * Threads: one per vCPU (owns its vCPU's descriptor), one I/O thread (device back-ends). The
 * functions here may be called from any thread but those; changes of the run state are serialised
 * by the machine's lock. machine_pause() and machine_resume() wait for the vCPUs' acknowledgement,
 * with a bound. The event callback runs in whatever thread the event happened in, holds no lock,
 * and must neither block nor call back into the machine.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kvm/cpu_model.h"
#include "mem/mem.h"
#include "migration/machine.h"
#include "vmm/devices.h"

#define MACHINE_MAX_CPUS 64
/* Powers of two between these. */
#define MACHINE_RING_MIN 256
#define MACHINE_RING_MAX 65536

struct machine;

/* What the VM is doing, in QMP's words (machine_state_name()). */
enum run_state {
	RUN_PRELAUNCH, /* built, never ran: waits for machine_resume() */
	RUN_RUNNING,
	RUN_PAUSED,         /* by the user */
	RUN_INMIGRATE,      /* waits for a guest to arrive */
	RUN_FINISH_MIGRATE, /* paused by the switchover of a migration */
	RUN_POSTMIGRATE,    /* the guest runs elsewhere: never runs here again */
	RUN_SHUTDOWN,       /* the guest ended by itself: see machine_end() */
	RUN_INTERNAL_ERROR, /* KVM gave up on the guest: inspectable, never runs again */
};

const char *machine_state_name(enum run_state s);

/* How a guest ended. */
enum end_kind {
	END_NONE,
	END_SHUTDOWN, /* it powered off */
	END_RESET,    /* it asked for a reset (i8042, port 0xcf9, ACPI): ends the VM */
	END_TRIPLE_FAULT,
	END_DEBUG_EXIT,     /* isa-debug-exit: status (value << 1) | 1 */
	END_INTERNAL_ERROR, /* KVM cannot emulate an instruction, bad state, failed entry */
};

struct machine_end {
	enum end_kind kind;
	int exit_status; /* of the process: 0 shutdown and reset, 3 triple fault, 4 internal error
			  */
	char text[512];  /* for people: what happened, where (RIP, mode, instruction bytes) */
};

enum machine_event_kind {
	MACHINE_EVENT_STOP,    /* vCPUs stopped */
	MACHINE_EVENT_RESUME,  /* vCPUs run */
	MACHINE_EVENT_END,     /* the guest ended (machine_end()) */
	MACHINE_EVENT_BUTTON,  /* the power button was pressed (machine_power_button()) */
	MACHINE_EVENT_BALLOON, /* the guest's balloon has another size */
	MACHINE_EVENT_QUIT, /* the user typed Ctrl-A x; the guest goes on until somebody ends it */
};

typedef void machine_event_fn(void *ctx, enum machine_event_kind kind);

struct machine_config {
	const char *name;
	uint64_t mem_bytes;
	enum mem_backend mem_backend;
	unsigned n_cpus;
	uint32_t dirty_ring; /* entries of each vCPU's ring (MACHINE_RING_*); 0: KVM's dirty log */
	const struct cpu_model *cpu; /* NULL = host */
	const char *kernel;          /* NULL for an incoming guest */
	const char *initrd;          /* NULL = none */
	const char *cmdline;         /* NULL = "" */
	const char *serial;          /* stdio, file:PATH, pty, unix:PATH, none */
	struct devices_config devices;
	bool virtio_cmdline; /* tell any kernel of the devices on its command line, not just Linux
			      */
	bool debug_exit;     /* isa-debug-exit at port 0xf4 */
	int kvm_fd;          /* an open /dev/kvm (ours from now on), or -1: open it here */
	bool incoming;       /* start in RUN_INMIGRATE instead of loading a kernel */
	machine_event_fn *on_event;
	void *event_ctx;
};

/*
 * Build the VM: KVM, RAM, vCPUs and their threads, devices; load the kernel and set the boot state
 * unless incoming. Nothing runs yet. Every message names the option to change.
 */
int machine_create(struct machine **out, const struct machine_config *cfg, struct err *e);
/* Stops everything, joins the threads, frees. NULL is fine. */
void machine_free(struct machine *m);

/*
 * Let the vCPUs run (from prelaunch or paused); stop them (from running). A call that finds the
 * machine already so is a success. -EPERM with the reason in any other state ("the guest has been
 * handed over to ...").
 */
int machine_resume(struct machine *m, struct err *e);
int machine_pause(struct machine *m, struct err *e);
/*
 * Press the power button. What the guest makes of it is its own business, and a paused one notices
 * when it runs on. -EPERM with the reason if there is no guest here, or it is being handed over.
 */
int machine_power_button(struct machine *m, struct err *e);

enum run_state machine_state(struct machine *m);
/* How the guest ended; kind END_NONE while it has not. */
void machine_end(struct machine *m, struct machine_end *out);

struct mem *machine_mem(struct machine *m);
unsigned machine_n_cpus(const struct machine *m);
/* Kernel thread id of a vCPU's thread. */
int machine_cpu_tid(const struct machine *m, unsigned cpu);
/* The model that guests which start here are given; constant. */
const struct cpu_model *machine_cpu_model(const struct machine *m);
/* What the guest really sees: KVM may not hide all that the model does. */
void machine_cpu_features(struct machine *m, struct cpu_feature_set *out);
/* Where the serial port is, for people and programs ("pty:/dev/pts/3", "unix:/run/x"). Owned by m.
 */
const char *machine_serial_name(const struct machine *m);

/* The virtio devices. Life and state are the machine's own business. */
struct devices *machine_devices(struct machine *m);

/*
 * What the guest's balloon should leave it, in bytes. -ENODEV without a balloon; -EPERM with the
 * reason where no guest is that could hear of it (it is being handed over, say).
 */
int machine_balloon_target(struct machine *m, uint64_t bytes, struct err *e);

/* The views that the migration engine works with; valid as long as the machine. */
struct mig_machine machine_migration_view(struct machine *m);
struct mig_dirty_source machine_dirty_source(struct machine *m);
struct mig_cpu_source machine_cpu_source(struct machine *m);

/*
 * With dirty rings: how many pages a vCPU was the first to write after they were protected, since
 * the machine was made, as of the last sync. False without them: who wrote is not known. Any
 * thread.
 */
bool machine_dirty_pages(const struct machine *m, unsigned cpu, uint64_t *pages);

#define MACHINE_FREE_SOURCES 1
/* Who tells of free pages (migration/free_pages.h). Returns how many there are. */
unsigned machine_free_sources(struct machine *m,
			      struct mig_free_source sources[MACHINE_FREE_SOURCES]);

#endif
