/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which processor a guest is given: a named model, plus and minus features by name.
 *
 *	host		everything that KVM supports here and whose state ferry moves
 *	baseline	x86-64-v2 and what every KVM emulates, and nothing else: no XSAVE, no
 *counters, no vendor's own. Guests of it move between unequal hosts
 *
 * "MODEL,-name,+name...". Taking a feature away takes those away that are built on it, adding one
 * adds what it is built on. KVM has the last word: some give a guest more than it was asked for,
 * so what a guest really sees is read back (vcpu.h).
 *
 * Pure functions; any thread.
 */
#ifndef KVM_CPU_MODEL_H
#define KVM_CPU_MODEL_H

#include <stdio.h>

#include "base/err.h"
#include "kvm/cpu_features.h"

#define CPU_MODEL_TEXT 512

/* All zero is "host". */
struct cpu_model {
	bool baseline;
	struct cpu_feature_set plus, minus; /* with what follows from each; disjoint */
	char text[CPU_MODEL_TEXT];          /* as it was given; "" = host */
};

/* -EINVAL with what is wrong: an unknown model or name, one that cannot be changed, both ways. */
int cpu_model_parse(const char *text, struct cpu_model *out, struct err *e);
const char *cpu_model_text(const struct cpu_model *m);
/* Models and names for people. */
void cpu_model_help(FILE *to);

/* Does it withhold feature i if the host has it? */
bool cpu_model_hides(const struct cpu_model *m, unsigned i);

/* Reduce the table of "host" (cpuid_for_vcpu()) to the model. */
void cpu_model_apply(const struct cpu_model *m, struct kvm_cpuid2 *t);

/*
 * KVM was asked for a table of the model and gave this one. -EINVAL naming features of the model
 * that are missing. *shown: those that it hides and that the guest sees all the same.
 */
int cpu_model_judge(const struct cpu_model *m, const struct kvm_cpuid2 *given,
		    struct cpu_feature_set *shown, struct err *e);

#endif
