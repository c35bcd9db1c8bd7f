/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/cpu_model.h"

#include <errno.h>
#include <string.h>

#include <linux/kvm.h>

#include "kvm/cpuid.h"

#define XSAVE_LEGACY_BYTES 576 /* x87, SSE and the header */
#define XSAVE_COMPONENTS   63

/* ---- parsing ---- */

/* Everything that is built on what is in the set, directly or not. */
static void close_downwards(struct cpu_feature_set *s)
{
	unsigned n;
	const struct cpu_feature *t = cpu_features(&n);
	bool more = true;

	while (more) {
		more = false;
		for (unsigned i = 0; i < n; i++) {
			if (cpu_feature_in(s, i) || !t[i].needs ||
			    !cpu_feature_in(s, (unsigned)cpu_feature_by_name(t[i].needs)))
				continue;
			cpu_feature_add(s, i);
			more = true;
		}
	}
}

static void add_with_needs(struct cpu_feature_set *s, int i)
{
	unsigned n;
	const struct cpu_feature *t = cpu_features(&n);

	for (; i >= 0; i = t[i].needs ? cpu_feature_by_name(t[i].needs) : -1)
		cpu_feature_add(s, (unsigned)i);
}

static int parse_change(struct cpu_model *m, const char *word, struct err *e)
{
	unsigned n;
	const struct cpu_feature *t = cpu_features(&n);
	int i;

	if (*word != '+' && *word != '-')
		return err_set(e, EINVAL, "'%s': expected +FEATURE or -FEATURE", word);
	i = cpu_feature_by_name(word + 1);
	if (i < 0)
		return err_set(e, EINVAL,
			       "no feature is called '%s' ('--cpu help' lists their names)",
			       word + 1);
	if (t[i].flags & CPU_FEATURE_OWN)
		return err_set(e, EINVAL, "%s cannot be changed: ferry itself decides about it",
			       t[i].name);
	if (*word == '+')
		add_with_needs(&m->plus, i);
	else
		cpu_feature_add(&m->minus, (unsigned)i);
	return 0;
}

static int check_both_ways(const struct cpu_model *m, struct err *e)
{
	unsigned n;
	const struct cpu_feature *t = cpu_features(&n);

	for (unsigned i = 0; i < n; i++) {
		if (cpu_feature_in(&m->plus, i) && cpu_feature_in(&m->minus, i))
			return err_set(e, EINVAL,
				       "%s is both asked for and taken away (directly, or by a "
				       "feature that is built on it)",
				       t[i].name);
	}
	return 0;
}

int cpu_model_parse(const char *text, struct cpu_model *out, struct err *e)
{
	char copy[CPU_MODEL_TEXT], *save = NULL, *word;
	int rc = 0;

	memset(out, 0, sizeof(*out));
	if (strlen(text) >= sizeof(copy))
		return err_set(e, EINVAL, "at most %zu characters are possible", sizeof(copy) - 1);
	memcpy(copy, text, strlen(text) + 1);
	memcpy(out->text, text, strlen(text) + 1);
	word = strtok_r(copy, ",", &save);
	if (!word || (strcmp(word, "host") != 0 && strcmp(word, "baseline") != 0))
		return err_set(e, EINVAL,
			       "expected host or baseline, then ,-FEATURE and ,+FEATURE as needed "
			       "('--cpu help' lists names)");
	out->baseline = !strcmp(word, "baseline");
	while (!rc && (word = strtok_r(NULL, ",", &save)))
		rc = parse_change(out, word, e);
	close_downwards(&out->minus);
	return rc ? rc : check_both_ways(out, e);
}

const char *cpu_model_text(const struct cpu_model *m)
{
	return m->text[0] ? m->text : "host";
}

void cpu_model_help(FILE *to)
{
	unsigned n, column = 0;
	const struct cpu_feature *t = cpu_features(&n);

	(void)fprintf(to, "Models:\n"
			  "  host      all that KVM supports here (default)\n"
			  "  baseline  x86-64-v2, for guests that move between unequal hosts\n\n"
			  "Features, to add as ,+NAME or take away as ,-NAME (* of baseline, = "
			  "cannot be changed):\n");
	for (unsigned i = 0; i < n; i++) {
		const char *mark = t[i].flags & CPU_FEATURE_OWN    ? "="
				   : t[i].flags & CPU_FEATURE_BASE ? "*"
								   : "";
		unsigned len = (unsigned)(strlen(t[i].name) + strlen(mark) + 2);

		if (column + len > 78)
			column = (unsigned)(fputc('\n', to), 0);
		(void)fprintf(to, "%s%s%s", column ? " " : "  ", t[i].name, mark);
		column += len;
	}
	(void)fputc('\n', to);
}

/* ---- a guest's table ---- */

bool cpu_model_hides(const struct cpu_model *m, unsigned i)
{
	unsigned n;
	const struct cpu_feature *t = cpu_features(&n);

	if (cpu_feature_in(&m->minus, i))
		return true;
	return m->baseline && !(t[i].flags & (CPU_FEATURE_BASE | CPU_FEATURE_OWN)) &&
	       !cpu_feature_in(&m->plus, i);
}

static bool hides_name(const struct cpu_model *m, const char *name)
{
	return cpu_model_hides(m, (unsigned)cpu_feature_by_name(name));
}

/* Of what has no name, baseline shows nothing. */
static void clear_unnamed(struct kvm_cpuid2 *t)
{
	const struct cpuid_feature_word *words;
	size_t n = cpuid_feature_words(&words);

	for (size_t i = 0; i < n; i++) {
		const struct cpuid_feature_word *w = &words[i];
		struct kvm_cpuid_entry2 *en = cpuid_find(t, w->function, w->index);

		/* Components of the XSAVE area are apart; KVM's own features are the same all over.
		 */
		if (!en || w->function == 0xd || w->function == CPUID_KVM_FEATURES)
			continue;
		for (unsigned r = CPUID_EAX; r <= CPUID_EDX; r++) {
			for (unsigned bit = 0; bit < 32; bit++) {
				if ((w->mask[r] >> bit & 1) &&
				    cpu_feature_by_bit(w->function, w->index, r, bit) < 0)
					*cpuid_reg(en, r) &= ~(1u << bit);
			}
		}
	}
}

static void clear_leaf(struct kvm_cpuid2 *t, uint32_t function)
{
	for (uint32_t i = 0; i < t->nent; i++) {
		struct kvm_cpuid_entry2 *en = &t->entries[i];

		if (en->function == function)
			en->eax = en->ebx = en->ecx = en->edx = 0;
	}
}

static void reduce_components(const struct cpu_model *m, struct kvm_cpuid2 *t)
{
	struct kvm_cpuid_entry2 *all = cpuid_find(t, 0xd, 0);
	uint32_t bytes = XSAVE_LEGACY_BYTES;

	if (!all)
		return;
	if (hides_name(m, "xsave")) {
		clear_leaf(t, 0xd);
		return;
	}
	for (unsigned c = 2; c < XSAVE_COMPONENTS; c++) {
		struct kvm_cpuid_entry2 *en = cpuid_find(t, 0xd, c);
		uint32_t *mask = c < 32 ? &all->eax : &all->edx, bit = 1u << (c % 32);
		int feature = cpu_feature_of_xsave(c);
		bool hidden = feature < 0 ? m->baseline : cpu_model_hides(m, (unsigned)feature);

		if (hidden) {
			struct kvm_cpuid_entry2 *supervisor = cpuid_find(t, 0xd, 1);

			*mask &= ~bit;
			if (supervisor)
				*(c < 32 ? &supervisor->ecx : &supervisor->edx) &= ~bit;
			if (en)
				en->eax = en->ebx = en->ecx = en->edx = 0;
		} else if (en && (*mask & bit) && en->eax + en->ebx > bytes) {
			bytes = en->eax + en->ebx;
		}
	}
	all->ecx = bytes;
}

static void reduce_bits(const struct cpu_model *m, struct kvm_cpuid2 *t)
{
	unsigned n;
	const struct cpu_feature *f = cpu_features(&n);
	struct kvm_cpuid_entry2 *copy = cpuid_find(t, 0x80000001, 0);

	for (unsigned i = 0; i < n; i++) {
		struct kvm_cpuid_entry2 *en = cpuid_find(t, f[i].function, f[i].index);

		if (!cpu_model_hides(m, i))
			continue;
		if (en)
			*cpuid_reg(en, f[i].reg) &= ~(1u << f[i].bit);
		/* AMD's second place for it. */
		if (copy && f[i].function == 0x1 && f[i].reg == CPUID_EDX &&
		    cpu_feature_by_bit(0x80000001, 0, CPUID_EDX, f[i].bit) == (int)i)
			copy->edx &= ~(1u << f[i].bit);
	}
}

void cpu_model_apply(const struct cpu_model *m, struct kvm_cpuid2 *t)
{
	static const struct cpu_feature_set none;

	if (!m->baseline && !memcmp(&m->minus, &none, sizeof(none)))
		return;
	reduce_bits(m, t);
	reduce_components(m, t);
	if (!m->baseline)
		return;
	clear_unnamed(t);
	clear_leaf(t, 0xa);        /* performance counters */
	clear_leaf(t, 0x80000022); /* AMD's */
}

int cpu_model_judge(const struct cpu_model *m, const struct kvm_cpuid2 *given,
		    struct cpu_feature_set *shown, struct err *e)
{
	unsigned n;
	const struct cpu_feature *t = cpu_features(&n);
	struct cpu_feature_set has, missing = {{0}};
	char text[200];

	memset(shown, 0, sizeof(*shown));
	cpu_features_of(given, &has);
	for (unsigned i = 0; i < n; i++) {
		bool wanted = cpu_feature_in(&m->plus, i) ||
			      (m->baseline && (t[i].flags & CPU_FEATURE_BASE) &&
			       !(t[i].flags & CPU_FEATURE_OWN) && !cpu_feature_in(&m->minus, i));

		if (wanted && !cpu_feature_in(&has, i))
			cpu_feature_add(&missing, i);
		if (cpu_model_hides(m, i) && cpu_feature_in(&has, i))
			cpu_feature_add(shown, i);
	}
	if (!cpu_features_text(&missing, text, sizeof(text)))
		return 0;
	return err_set(e, EINVAL,
		       "--cpu %s: no guest can have %s here: this host's KVM does not "
		       "offer it, or ferry does not move its state",
		       cpu_model_text(m), text);
}
