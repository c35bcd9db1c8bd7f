/* SPDX-License-Identifier: Apache-2.0 */
/* What the migration engine sees of the machine: its state as sections. */
#include <errno.h>
#include <stdlib.h>

#include "vmm/machine_impl.h"

static void add_section(struct machine_sections *s, uint32_t instance,
			const struct field_table *table, void *data)
{
	s->list[s->n++] = (struct mig_section){.instance = instance, .table = table, .data = data};
}

int machine_sections_init(struct machine *m, struct err *e)
{
	struct machine_sections *s = &m->sections;

	s->cpus = calloc(m->n_cpus, sizeof(*s->cpus));
	s->inputs = calloc(MACHINE_INPUTS, sizeof(*s->inputs));
	if (!s->cpus || !s->inputs)
		return err_set(e, ENOMEM, "out of memory");
	for (unsigned i = 0; i < m->n_cpus; i++)
		add_section(s, i, &vcpu_state_table, &s->cpus[i]);
	add_section(s, 0, &vm_irq_table, &s->irq);
	add_section(s, 0, &vm_pit_table, &s->pit);
	add_section(s, 0, &vm_clock_table, &s->clock);
	add_section(s, 0, &serial_table, &s->serial);
	add_section(s, 0, &cmos_table, &s->cmos);
	add_section(s, 0, &reset_table, &s->reset);
	add_section(s, 0, &acpi_pm_table, &s->acpi_pm);
	s->input_of[0] = serial_chardev(m->serial);
	s->input_of[1] = devices_console_chardev(m->devices);
	for (unsigned i = 0; i < MACHINE_INPUTS; i++) {
		if (s->input_of[i])
			add_section(s, i, &chardev_table, &s->inputs[i]);
	}
	for (unsigned i = 0; i < devices_count(m->devices); i++) {
		const struct field_table *table;
		uint32_t instance;
		void *state;

		devices_section(m->devices, i, &instance, &table, &state);
		add_section(s, instance, table, state);
	}
	s->early[0] = (struct mig_section){.table = &processor_table, .data = &s->processor};
	return processor_read(m->vcpus[0], &s->processor, e);
}

void machine_sections_free(struct machine *m)
{
	free(m->sections.cpus);
	free(m->sections.inputs);
}

/* Have every vCPU's thread do its part at the same time, and wait for all of them. */
static int call_all(struct machine *m, cpu_call_fn *fn, struct err *e)
{
	uint64_t deadline = clock_mono_ns() + MACHINE_WAIT_NS;
	unsigned n = 0;
	int rc = 0;

	for (; n < m->n_cpus && !rc; n++)
		rc = cpu_call(m->cpus[n], fn, &m->sections, e);
	if (rc)
		n--;
	for (unsigned i = 0; i < n; i++) {
		int one = cpu_wait_call(m->cpus[i], deadline, e);

		if (!rc)
			rc = one;
	}
	return rc;
}

static int save_vcpu(void *arg, struct vcpu *v, struct err *e)
{
	struct machine_sections *s = arg;

	return vcpu_state_save(v, &s->cpus[v->index], e);
}

static int load_vcpu(void *arg, struct vcpu *v, struct err *e)
{
	struct machine_sections *s = arg;

	return vcpu_state_load(v, &s->cpus[v->index], &s->shift, e);
}

static int view_pause(void *ctx, bool *was_running, struct err *e)
{
	return machine_stop(ctx, RUN_FINISH_MIGRATE, was_running, e);
}

static int view_resume(void *ctx, struct err *e)
{
	struct machine *m = ctx;
	enum run_state to;

	pthread_mutex_lock(&m->lock);
	to = m->before_migration;
	pthread_mutex_unlock(&m->lock);
	return machine_go(m, RUN_FINISH_MIGRATE, to, e);
}

static int view_stay(void *ctx, struct err *e)
{
	struct machine *m = ctx;
	enum run_state to;

	pthread_mutex_lock(&m->lock);
	to = m->before_migration == RUN_PRELAUNCH ? RUN_PRELAUNCH : RUN_PAUSED;
	pthread_mutex_unlock(&m->lock);
	return machine_go(m, RUN_FINISH_MIGRATE, to, e);
}

static const char *view_fate(void *ctx)
{
	switch (machine_state(ctx)) {
	case RUN_RUNNING:
		return "the guest keeps running here";
	case RUN_PRELAUNCH:
	case RUN_PAUSED:
		return "the guest stays paused here";
	case RUN_FINISH_MIGRATE:
		return "the guest could not be resumed here, it is paused";
	default:
		return "the guest has ended";
	}
}

/* The order is explained in kvm/vm_state.h. Under `op`. */
static int collect(struct machine *m, struct err *e)
{
	struct machine_sections *s = &m->sections;
	int rc = vm_pit_save(m->vm, &s->pit, e);

	if (!rc)
		rc = vm_irq_save(m->vm, &s->irq, e);
	if (!rc)
		rc = call_all(m, save_vcpu, e);
	if (!rc)
		rc = vm_clock_save(m->vm, &s->clock, e);
	if (!rc) {
		serial_save(m->serial, &s->serial);
		cmos_save(m->cmos, &s->cmos);
		reset_save(m->reset, &s->reset);
		acpi_pm_save(m->acpi_pm, &s->acpi_pm);
		devices_save(m->devices);
		for (unsigned i = 0; i < MACHINE_INPUTS; i++) {
			if (s->input_of[i])
				chardev_save(s->input_of[i], &s->inputs[i]);
		}
	}
	return rc;
}

static int view_collect(void *ctx, struct err *e)
{
	struct machine *m = ctx;
	int rc;

	pthread_mutex_lock(&m->op);
	rc = collect(m, e);
	pthread_mutex_unlock(&m->op);
	return rc;
}

static int view_rehearse(void *ctx, struct mig_rehearsal *out, struct err *e)
{
	struct machine *m = ctx;
	uint64_t begin_ns = clock_mono_ns(), paused_ns, collected_ns;
	bool held;
	int rc = machine_hold(m, &held, e);

	if (rc)
		return rc;
	paused_ns = clock_mono_ns();
	rc = collect(m, e);
	collected_ns = clock_mono_ns();
	machine_let_go(m, held);
	if (held)
		machine_wait_running(m);
	*out = (struct mig_rehearsal){.pause_ns = paused_ns - begin_ns,
				      .collect_ns = collected_ns - paused_ns,
				      .resume_ns = clock_mono_ns() - collected_ns};
	return rc;
}

static void view_given_away(void *ctx)
{
	/* Refused only if the machine is being freed: then it does not run here either. */
	(void)machine_go(ctx, RUN_FINISH_MIGRATE, RUN_POSTMIGRATE, NULL);
}

static int admit_vcpu(void *arg, struct vcpu *v, struct err *e)
{
	struct machine *m = arg;
	int rc = processor_admit(v, &m->sections.processor, e);

	machine_note_features(m, v);
	return rc;
}

static int view_admit(void *ctx, struct err *e)
{
	struct machine *m = ctx;
	int rc;

	if (machine_state(m) != RUN_INMIGRATE)
		return err_set(e, EPERM, "this machine does not wait for a guest");
	pthread_mutex_lock(&m->op);
	rc = cpu_call(m->cpus[0], admit_vcpu, m, e);
	if (!rc)
		rc = cpu_wait_call(m->cpus[0], clock_mono_ns() + MACHINE_WAIT_NS, e);
	pthread_mutex_unlock(&m->op);
	return rc;
}

static int check_sections(struct machine *m, struct err *e)
{
	struct machine_sections *s = &m->sections;
	int rc = 0;

	for (unsigned i = 0; i < m->n_cpus && !rc; i++)
		rc = vcpu_state_check(&s->cpus[i], m->vcpus[i], e);
	if (!rc)
		rc = vm_irq_check(&s->irq, e);
	if (!rc)
		rc = vm_pit_check(&s->pit, e);
	if (!rc)
		rc = vm_clock_check(&s->clock, e);
	if (!rc)
		rc = serial_check(&s->serial, e);
	if (!rc)
		rc = cmos_check(&s->cmos, e);
	if (!rc)
		rc = reset_check(&s->reset, e);
	if (!rc)
		rc = acpi_pm_check(&s->acpi_pm, e);
	if (!rc)
		rc = devices_check(m->devices, e);
	return rc;
}

static int load_sections(struct machine *m, struct err *e)
{
	struct machine_sections *s = &m->sections;
	/* A load before this one may have left it ticking, into what is being loaded. */
	int rc = vm_pit_quiet(m->vm, e);

	if (!rc)
		rc = vm_clock_load(m->vm, &s->clock, &s->shift, e);
	if (!rc)
		rc = call_all(m, load_vcpu, e);
	if (rc)
		return rc;
	/* These two drive their lines, which the interrupt controllers' state then overrules. */
	serial_load(m->serial, &s->serial);
	acpi_pm_load(m->acpi_pm, &s->acpi_pm);
	cmos_load(m->cmos, &s->cmos);
	reset_load(m->reset, &s->reset);
	devices_load(m->devices);
	for (unsigned i = 0; i < MACHINE_INPUTS; i++) {
		if (s->input_of[i])
			chardev_load(s->input_of[i], &s->inputs[i]);
	}
	rc = vm_irq_load(m->vm, &s->irq, e);
	if (!rc)
		rc = vm_pit_load(m->vm, &s->pit, e);
	return rc;
}

static int quiet_vcpu(void *arg, struct vcpu *v, struct err *e)
{
	(void)arg;
	return vcpu_state_quiet(v, e);
}

/* Timers are what goes on by itself in a guest that does not run. */
static int quiet(struct machine *m, struct err *e)
{
	int rc = vm_pit_quiet(m->vm, e);

	return rc ? rc : call_all(m, quiet_vcpu, e);
}

static int apply(struct machine *m, bool rehearsal, struct err *e)
{
	int rc;

	if (machine_state(m) != RUN_INMIGRATE)
		return err_set(e, EPERM, "this machine does not wait for a guest");
	pthread_mutex_lock(&m->op);
	rc = check_sections(m, e);
	if (!rc)
		rc = load_sections(m, e);
	if (!rc && rehearsal)
		rc = quiet(m, e);
	m->arrived = !rc && !rehearsal;
	pthread_mutex_unlock(&m->op);
	return rc;
}

static int view_apply(void *ctx, struct err *e)
{
	return apply(ctx, false, e);
}

static int view_rehearse_apply(void *ctx, struct err *e)
{
	return apply(ctx, true, e);
}

static int view_taken_over(void *ctx, bool run, struct err *e)
{
	int rc = machine_go(ctx, RUN_INMIGRATE, run ? RUN_RUNNING : RUN_PAUSED, e);

	if (!rc && run)
		machine_wait_running(ctx);
	return rc;
}

struct mig_machine machine_migration_view(struct machine *m)
{
	return (struct mig_machine){
		.ctx = m,
		.early = m->sections.early,
		.n_early = 1,
		.admit = view_admit,
		.pause = view_pause,
		.resume = view_resume,
		.stay = view_stay,
		.fate = view_fate,
		.collect = view_collect,
		.rehearse = view_rehearse,
		.given_away = view_given_away,
		.apply = view_apply,
		.rehearse_apply = view_rehearse_apply,
		.taken_over = view_taken_over,
		.sections = m->sections.list,
		.n_sections = m->sections.n,
		.n_cpus = m->n_cpus,
	};
}
