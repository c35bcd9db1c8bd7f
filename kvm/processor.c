/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/processor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/kvm.h>

#include "base/log.h"
#include "kvm/vcpu_msrs.h"

#define P(m) FIELD(struct processor_state, m, FIELD_U32)

static const struct field processor_fields[] = {
	P(n_cpuid),
	FIELD_SUB_VAR(struct processor_state, cpuid, n_cpuid, &vcpu_cpuid_table),
	P(tsc_khz),
	P(n_msrs),
	FIELD_SUB_VAR(struct processor_state, msrs, n_msrs, &vcpu_msr_table),
};
FIELD_TABLE(processor_table, "processor", 1, processor_fields);

int processor_read(struct vcpu *v, struct processor_state *s, struct err *e)
{
	struct vcpu_state *all = calloc(1, sizeof(*all));
	int rc = all ? vcpu_msrs_read(v, all, e) : err_set(e, ENOMEM, "out of memory");

	if (!rc)
		rc = cpuid_to_state(v->cpuid, s->cpuid, &s->n_cpuid, e);
	if (!rc) {
		s->tsc_khz = v->tsc_khz;
		s->n_msrs = all->n_msrs;
		memcpy(s->msrs, all->msrs, all->n_msrs * sizeof(s->msrs[0]));
	}
	free(all);
	return rc;
}

/* The guest has read its CPUID long ago; programs that start later may find more. */
static void note_more(const struct kvm_cpuid2 *theirs, const struct kvm_cpuid2 *given)
{
	struct cpu_feature_set a, b;
	char text[300];

	cpu_features_of(theirs, &a);
	cpu_features_of(given, &b);
	for (unsigned i = 0; i < CPU_FEATURES_MAX / 64; i++)
		b.bits[i] &= ~a.bits[i];
	if (cpu_features_text(&b, text, sizeof(text)))
		log_warn("this host's KVM shows the guest features that it did not have before: %s",
			 text);
}

static int admit_cpuid(struct vcpu *v, const struct kvm_cpuid2 *theirs, struct err *e)
{
	const struct kvm_cpuid_entry2 *first = cpuid_find(theirs, 1, 0);
	int rc;

	if (!first || first->ebx >> 24 != v->index)
		return err_set(e, EINVAL, "the guest's CPUID is damaged: it is not vCPU %u's",
			       v->index);
	/* Against what a guest that starts here is given: this side's --cpu counts. */
	rc = cpuid_check(theirs, v->cpuid_own, &v->vm->model, e);
	if (rc || cpuid_equal(theirs, v->cpuid))
		return rc;
	rc = vcpu_cpuid_set(v, theirs, e);
	if (!rc)
		rc = cpuid_check(theirs, v->cpuid, &v->vm->model, e);
	if (!rc)
		note_more(theirs, v->cpuid);
	return rc;
}

int processor_admit(struct vcpu *v, struct processor_state *s, struct err *e)
{
	struct kvm_cpuid2 *theirs = cpuid_from_state(s->cpuid, s->n_cpuid);
	const struct kvm_cpuid_entry2 *seven;
	bool has_capabilities;
	int rc;

	if (!theirs)
		return err_set(e, ENOMEM, "out of memory for CPUID");
	seven = cpuid_find(theirs, 7, 0);
	has_capabilities = seven && (seven->edx >> 29 & 1);
	rc = admit_cpuid(v, theirs, e);
	free(theirs);
	if (!rc)
		rc = vcpu_tsc_check(v, s->tsc_khz, e);
	if (!rc)
		rc = vcpu_msrs_check(v, s->msrs, s->n_msrs, has_capabilities, e);
	if (!rc)
		rc = cpuid_to_state(v->cpuid, s->cpuid, &s->n_cpuid, e);
	return rc;
}
