/* SPDX-License-Identifier: Apache-2.0 */
/* What the machine is doing: run states, and how they change. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/machine_impl.h"

#define TO(s) (1u << RUN_##s)

/*
 * From each state, where may it go? The arrows to SHUTDOWN and INTERNAL_ERROR from states in which
 * nothing runs belong to a vCPU whose last exit ended the guest while it was being stopped.
 */
static const struct {
	const char *name;
	unsigned may_become;
	const char *why_not; /* it does not run and nothing can make it */
} states[] = {
	[RUN_PRELAUNCH] = {"prelaunch", TO(RUNNING) | TO(FINISH_MIGRATE),
			   "the guest has not been started yet"},
	[RUN_RUNNING] = {"running",
			 TO(PAUSED) | TO(FINISH_MIGRATE) | TO(SHUTDOWN) | TO(INTERNAL_ERROR),
			 "the guest is running"},
	[RUN_PAUSED] = {"paused",
			TO(RUNNING) | TO(FINISH_MIGRATE) | TO(SHUTDOWN) | TO(INTERNAL_ERROR),
			"the guest is paused"},
	[RUN_INMIGRATE] = {"inmigrate", TO(RUNNING) | TO(PAUSED), "no guest has arrived here yet"},
	[RUN_FINISH_MIGRATE] = {"finish-migrate",
				TO(PRELAUNCH) | TO(RUNNING) | TO(PAUSED) | TO(POSTMIGRATE) |
					TO(SHUTDOWN) | TO(INTERNAL_ERROR),
				"a migration or a save holds it; 'ferry cancel' gives it back"},
	[RUN_POSTMIGRATE] = {"postmigrate", 0, "the guest has been handed over to another host"},
	[RUN_SHUTDOWN] = {"shutdown", 0, "the guest has ended"},
	[RUN_INTERNAL_ERROR] = {"internal-error", 0, "the guest has ended by an error"},
};

const char *machine_state_name(enum run_state s)
{
	return states[s].name;
}

static bool may_become(enum run_state from, enum run_state to)
{
	return states[from].may_become >> to & 1;
}

static void emit(struct machine *m, enum machine_event_kind kind)
{
	if (m->on_event)
		m->on_event(m->event_ctx, kind);
}

/* Under the lock. */
static int refuse(const struct machine *m, const char *what, struct err *e)
{
	if (m->end.kind != END_NONE)
		return err_set(e, EPERM, "cannot %s: the guest has ended (%s)", what, m->end.text);
	return err_set(e, EPERM, "cannot %s: %s", what, states[m->state].why_not);
}

/* Under the lock. */
static void run_all(struct machine *m)
{
	for (unsigned i = 0; i < m->n_cpus; i++)
		cpu_request_run(m->cpus[i]);
}

/* Under the lock. */
static void stop_all(struct machine *m)
{
	for (unsigned i = 0; i < m->n_cpus; i++)
		cpu_request_stop(m->cpus[i]);
}

static int wait_all_stopped(struct machine *m, struct err *e)
{
	uint64_t deadline = clock_mono_ns() + MACHINE_WAIT_NS;

	for (unsigned i = 0; i < m->n_cpus; i++) {
		if (cpu_wait_stopped(m->cpus[i], deadline, NULL))
			return err_set(e, ETIMEDOUT, "vCPU %u did not stop within %llu s", i,
				       (unsigned long long)(MACHINE_WAIT_NS / NS_PER_SEC));
	}
	return 0;
}

/* Take the new state and say which one it was; -EPERM if the table has no such arrow. */
static int change(struct machine *m, enum run_state to, enum run_state *old, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	*old = m->state;
	if (may_become(m->state, to)) {
		m->state = to;
		if (to == RUN_FINISH_MIGRATE)
			m->before_migration = *old;
		if (*old == RUN_RUNNING)
			stop_all(m);
	} else if (m->state != to || to == RUN_FINISH_MIGRATE) {
		rc = refuse(m, to == RUN_PAUSED ? "pause" : "move the guest", e);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

/* The vCPUs or a device would not stop: back to where we were, unless the guest ended meanwhile. */
static void undo_stop(struct machine *m, enum run_state tried)
{
	bool runs;

	pthread_mutex_lock(&m->lock);
	runs = m->state == tried;
	if (runs) {
		m->state = RUN_RUNNING;
		run_all(m);
	}
	pthread_mutex_unlock(&m->lock);
	if (runs)
		return;
	serial_pause(m->serial);
	devices_halt(m->devices);
}

int machine_stop(struct machine *m, enum run_state to, bool *was_running, struct err *e)
{
	enum run_state old;
	int rc;

	pthread_mutex_lock(&m->op);
	rc = change(m, to, &old, e);
	if (!rc && old == RUN_RUNNING) {
		rc = wait_all_stopped(m, e);
		if (!rc)
			rc = devices_pause(m->devices, e);
		if (rc)
			undo_stop(m, to);
		else
			serial_pause(m->serial);
	}
	if (!rc) {
		/* The last thing a vCPU did may have been to end the guest. */
		pthread_mutex_lock(&m->lock);
		if (m->state != to)
			rc = refuse(m, to == RUN_PAUSED ? "pause" : "move the guest", e);
		pthread_mutex_unlock(&m->lock);
	}
	pthread_mutex_unlock(&m->op);
	if (was_running)
		*was_running = old == RUN_RUNNING;
	if (!rc && old == RUN_RUNNING)
		emit(m, MACHINE_EVENT_STOP);
	return rc;
}

int machine_hold(struct machine *m, bool *held, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&m->op);
	pthread_mutex_lock(&m->lock);
	*held = m->state == RUN_RUNNING;
	if (*held)
		stop_all(m);
	else if (m->state != RUN_PRELAUNCH && m->state != RUN_PAUSED)
		rc = refuse(m, "move the guest", e);
	pthread_mutex_unlock(&m->lock);
	if (!rc && *held) {
		rc = wait_all_stopped(m, e);
		if (!rc)
			rc = devices_pause(m->devices, e);
		if (rc)
			undo_stop(m, RUN_RUNNING);
		else
			serial_pause(m->serial);
	}
	if (rc)
		pthread_mutex_unlock(&m->op);
	return rc;
}

void machine_let_go(struct machine *m, bool held)
{
	if (held) {
		pthread_mutex_lock(&m->lock);
		/* The last thing a vCPU did may have been to end the guest. */
		held = m->state == RUN_RUNNING;
		pthread_mutex_unlock(&m->lock);
	}
	if (held) {
		serial_resume(m->serial);
		devices_resume(m->devices);
		undo_stop(m, RUN_RUNNING);
	}
	pthread_mutex_unlock(&m->op);
}

void machine_wait_running(struct machine *m)
{
	(void)cpu_wait_running(m->cpus[0], clock_mono_ns() + NS_PER_SEC);
}

/*
 * Before vCPUs run. Devices that are resumed write to RAM, so not while anybody else has a claim on
 * it: only if the state allows to run, which nobody but a guest's end changes while `op` is held.
 */
static bool wake_devices(struct machine *m, enum run_state from)
{
	bool may;

	pthread_mutex_lock(&m->lock);
	may = m->state == from && may_become(from, RUN_RUNNING);
	pthread_mutex_unlock(&m->lock);
	if (!may)
		return false;
	serial_resume(m->serial);
	devices_resume(m->devices);
	if (m->arrived)
		devices_announce(m->devices);
	m->arrived = false;
	return true;
}

int machine_go(struct machine *m, enum run_state from, enum run_state to, struct err *e)
{
	bool changed = false, awake;
	int rc = 0;

	pthread_mutex_lock(&m->op);
	awake = to == RUN_RUNNING && wake_devices(m, from);
	pthread_mutex_lock(&m->lock);
	if (m->state == from && may_become(from, to)) {
		m->state = to;
		if (to == RUN_RUNNING)
			run_all(m);
		changed = true;
	} else if (m->state != to) {
		rc = refuse(m, to == RUN_RUNNING ? "run the guest" : "go on", e);
	}
	pthread_mutex_unlock(&m->lock);
	if (rc && awake) {
		serial_pause(m->serial);
		(void)devices_pause(m->devices, NULL);
	}
	pthread_mutex_unlock(&m->op);
	if (changed && to == RUN_RUNNING)
		emit(m, MACHINE_EVENT_RESUME);
	return rc;
}

int machine_resume(struct machine *m, struct err *e)
{
	enum run_state state = machine_state(m);

	if (state == RUN_RUNNING)
		return 0;
	/* Only a migration runs a guest that is being moved or awaited. */
	if (state != RUN_PRELAUNCH && state != RUN_PAUSED) {
		int rc;

		pthread_mutex_lock(&m->lock);
		rc = refuse(m, "run the guest", e);
		pthread_mutex_unlock(&m->lock);
		return rc;
	}
	return machine_go(m, state, RUN_RUNNING, e);
}

int machine_pause(struct machine *m, struct err *e)
{
	enum run_state state = machine_state(m);

	if (state == RUN_PAUSED || state == RUN_PRELAUNCH)
		return 0;
	if (state != RUN_RUNNING) {
		int rc;

		pthread_mutex_lock(&m->lock);
		rc = refuse(m, "pause the guest", e);
		pthread_mutex_unlock(&m->lock);
		return rc;
	}
	return machine_stop(m, RUN_PAUSED, NULL, e);
}

int machine_power_button(struct machine *m, struct err *e)
{
	int rc = 0;

	/* A press between the saving of the state and the handover would be lost. */
	pthread_mutex_lock(&m->op);
	pthread_mutex_lock(&m->lock);
	if (m->state == RUN_PRELAUNCH || m->state == RUN_RUNNING || m->state == RUN_PAUSED)
		acpi_pm_press(m->acpi_pm);
	else
		rc = refuse(m, "press the power button", e);
	pthread_mutex_unlock(&m->lock);
	pthread_mutex_unlock(&m->op);
	if (!rc)
		emit(m, MACHINE_EVENT_BUTTON);
	return rc;
}

int machine_balloon_target(struct machine *m, uint64_t bytes, struct err *e)
{
	struct balloon *b = devices_balloon(m->devices);
	int rc;

	if (!b)
		return err_set(e, ENODEV, "the guest has no balloon: start it with --balloon");
	/* As above: a target that is set when the state has been saved would be lost. */
	pthread_mutex_lock(&m->op);
	pthread_mutex_lock(&m->lock);
	if (m->state == RUN_PRELAUNCH || m->state == RUN_RUNNING || m->state == RUN_PAUSED)
		rc = balloon_set_target(b, bytes);
	else
		rc = refuse(m, "set the balloon", e);
	pthread_mutex_unlock(&m->lock);
	pthread_mutex_unlock(&m->op);
	/* Without a driver (yet, or while the guest stands still) the target is kept for it. */
	return rc == -ENODEV ? 0 : rc;
}

void machine_guest_ended(struct machine *m, enum end_kind kind, int exit_status, const char *text)
{
	enum run_state to = kind == END_INTERNAL_ERROR ? RUN_INTERNAL_ERROR : RUN_SHUTDOWN;
	bool first;

	pthread_mutex_lock(&m->lock);
	first = m->end.kind == END_NONE && may_become(m->state, to);
	if (first) {
		m->state = to;
		m->end.kind = kind;
		m->end.exit_status = exit_status;
		(void)snprintf(m->end.text, sizeof(m->end.text), "%s", text);
		stop_all(m);
	}
	pthread_mutex_unlock(&m->lock);
	if (first)
		emit(m, MACHINE_EVENT_END);
}

enum run_state machine_state(struct machine *m)
{
	enum run_state s;

	pthread_mutex_lock(&m->lock);
	s = m->state;
	pthread_mutex_unlock(&m->lock);
	return s;
}

void machine_end(struct machine *m, struct machine_end *out)
{
	pthread_mutex_lock(&m->lock);
	*out = m->end;
	pthread_mutex_unlock(&m->lock);
}

struct mem *machine_mem(struct machine *m)
{
	return m->mem;
}

unsigned machine_n_cpus(const struct machine *m)
{
	return m->n_cpus;
}

int machine_cpu_tid(const struct machine *m, unsigned cpu)
{
	return cpu_tid(m->cpus[cpu]);
}

const struct cpu_model *machine_cpu_model(const struct machine *m)
{
	return &m->vm->model;
}

void machine_note_features(struct machine *m, const struct vcpu *v)
{
	struct cpu_feature_set features;

	cpu_features_of(v->cpuid, &features);
	pthread_mutex_lock(&m->lock);
	m->features = features;
	pthread_mutex_unlock(&m->lock);
}

void machine_cpu_features(struct machine *m, struct cpu_feature_set *out)
{
	pthread_mutex_lock(&m->lock);
	*out = m->features;
	pthread_mutex_unlock(&m->lock);
}

struct devices *machine_devices(struct machine *m)
{
	return m->devices;
}

const char *machine_serial_name(const struct machine *m)
{
	return serial_backend_name(m->serial);
}
