/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/vcpu_msrs.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "base/log.h"

#define MSR_HYPERV_FIRST      0x40000000u
#define MSR_HYPERV_LAST       0x400001ffu
#define MSR_WALL_OLD          0x11u
#define MSR_WALL_NEW          0x4b564d00u
#define MSR_MCG_CAP           0x179u
#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_MC0_CTL           0x400u
#define MCE_BANKS_MAX         32
#define MCE_PER_BANK          4 /* CTL, STATUS, ADDR, MISC */

static const uint32_t mtrrs[] = {
	0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206,
	0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d,
	0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268, 0x269,
	0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, MSR_MTRR_DEFAULT,
};

/* KVM's head with room for the entries behind it. */
#define MSR_BATCH(name, n)                                                                  \
	union name {                                                                        \
		struct kvm_msrs m;                                                          \
		uint8_t room[sizeof(struct kvm_msrs) + (n) * sizeof(struct kvm_msr_entry)]; \
	}

MSR_BATCH(msr_batch, VM_MSRS_MAX);
MSR_BATCH(msr_one, 1);

bool vcpu_msr_is_state(uint32_t index)
{
	if (index >= MSR_HYPERV_FIRST && index <= MSR_HYPERV_LAST)
		return false;
	return index != MSR_WALL_OLD && index != MSR_WALL_NEW && index != MSR_TSC &&
	       index != MSR_TSC_DEADLINE;
}

int vcpu_msr_get(struct vcpu *v, uint32_t index, uint64_t *value)
{
	union msr_one one = {.room = {0}};

	one.m.nmsrs = 1;
	one.m.entries[0].index = index;
	if (ioctl(v->fd, KVM_GET_MSRS, &one) != 1)
		return -EIO;
	*value = one.m.entries[0].data;
	return 0;
}

int vcpu_msr_set(struct vcpu *v, uint32_t index, uint64_t value)
{
	union msr_one one = {.room = {0}};

	one.m.nmsrs = 1;
	one.m.entries[0].index = index;
	one.m.entries[0].data = value;
	return ioctl(v->fd, KVM_SET_MSRS, &one) == 1 ? 0 : -EIO;
}

/* Read up to n MSRs. Returns how many came before the first that KVM will not read, or -errno. */
static int read_batch(struct vcpu *v, const uint32_t *list, uint32_t n, struct vcpu_state *s)
{
	union msr_batch b;
	int got;

	b.m.nmsrs = n;
	b.m.pad = 0;
	for (uint32_t i = 0; i < n; i++)
		b.m.entries[i] = (struct kvm_msr_entry){.index = list[i]};
	got = ioctl(v->fd, KVM_GET_MSRS, &b);
	if (got < 0)
		return -errno;
	for (int i = 0; i < got; i++)
		s->msrs[s->n_msrs++] =
			(struct msr_state){b.m.entries[i].index, b.m.entries[i].data};
	return got;
}

static bool in_list(const struct vm *vm, uint32_t index)
{
	for (uint32_t i = 0; i < vm->n_msrs; i++) {
		if (vm->msrs[i] == index)
			return true;
	}
	return false;
}

/* A group that KVM has as a whole or not at all. */
static int save_group(struct vcpu *v, const uint32_t *list, uint32_t n, struct vcpu_state *s)
{
	uint32_t before = s->n_msrs;
	int got;

	if (n == 0 || n > VM_MSRS_MAX - s->n_msrs || in_list(v->vm, list[n - 1]))
		return 0;
	got = read_batch(v, list, n, s);
	if (got < 0)
		return got;
	if ((uint32_t)got < n)
		s->n_msrs = before;
	return 0;
}

static int save_mce_banks(struct vcpu *v, struct vcpu_state *s)
{
	uint32_t list[MCE_BANKS_MAX * MCE_PER_BANK];
	uint64_t cap = 0;
	uint32_t banks, n = 0;

	if (vcpu_msr_get(v, MSR_MCG_CAP, &cap))
		return 0;
	banks = (uint32_t)(cap & 0xff);
	if (banks > MCE_BANKS_MAX)
		banks = MCE_BANKS_MAX;
	for (; n < banks * MCE_PER_BANK; n++)
		list[n] = MSR_MC0_CTL + n;
	return save_group(v, list, n, s);
}

static void report_unread(struct vcpu *v, const struct vcpu_state *s)
{
	char text[256];
	size_t len = 0;

	if (!s->n_unread || __atomic_exchange_n(&v->vm->unread_reported, true, __ATOMIC_RELAXED))
		return;
	text[0] = '\0';
	for (uint32_t i = 0; i < s->n_unread && len < sizeof(text) - 16; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, " 0x%x", s->unread[i]);
	log_warn("KVM lists these MSRs but does not read them; they are not moved:%s", text);
}

int vcpu_msrs_read(struct vcpu *v, struct vcpu_state *s, struct err *e)
{
	const uint32_t *list = v->vm->msrs;
	uint32_t n = v->vm->n_msrs, at = 0;
	int rc;

	s->n_msrs = s->n_unread = 0;
	while (at < n) {
		int got = read_batch(v, list + at, n - at, s);

		if (got < 0)
			return err_sys(e, -got, "cannot read vCPU %u's MSRs", v->index);
		at += (uint32_t)got;
		if (at < n)
			s->unread[s->n_unread++] = list[at++];
	}
	rc = save_group(v, mtrrs, sizeof(mtrrs) / sizeof(mtrrs[0]), s);
	if (!rc)
		rc = save_mce_banks(v, s);
	return rc ? err_sys(e, -rc, "cannot read vCPU %u's MSRs", v->index) : 0;
}

int vcpu_msrs_save(struct vcpu *v, struct vcpu_state *s, struct err *e)
{
	int rc = vcpu_msrs_read(v, s, e);

	if (!rc)
		report_unread(v, s);
	return rc;
}

static int unknown(const struct vcpu *v, const struct msr_state *m, struct err *e)
{
	return err_set(e, EINVAL,
		       "KVM here does not know MSR 0x%x, which is 0x%" PRIx64
		       " on the guest's vCPU %u",
		       m->index, m->value, v->index);
}

static int refused(struct vcpu *v, const struct msr_state *m, struct err *e)
{
	uint64_t here = 0;
	int rc = vcpu_msr_get(v, m->index, &here);

	if ((rc && !m->value) || (!rc && here == m->value))
		return 0;
	if (rc)
		return unknown(v, m, e);
	return err_set(e, EINVAL,
		       "KVM here refuses the value 0x%" PRIx64
		       " of MSR 0x%x on vCPU %u (it is 0x%" PRIx64 " here)",
		       m->value, m->index, v->index, here);
}

/*
 * What the processor says it is safe from. KVM takes any value, but a guest that leaves out a
 * mitigation because of a bit that this host lacks would not be safe here.
 */
static int check_capabilities(struct vcpu *v, const struct msr_state *m, struct err *e)
{
	uint64_t here = 0;

	if (vcpu_msr_get(v, MSR_ARCH_CAPABILITIES, &here) || !(m->value & ~here))
		return 0;
	return err_set(e, EINVAL,
		       "the guest counts on hardware protections that this host lacks (MSR 0x10a "
		       "is 0x%" PRIx64 " there, 0x%" PRIx64 " here): start it with --cpu "
		       "host,-arch_capabilities or baseline, and it can move here",
		       m->value, here);
}

int vcpu_msrs_check(struct vcpu *v, const struct msr_state *list, uint32_t n, bool has_capabilities,
		    struct err *e)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct msr_state *m = &list[i];
		uint64_t here;
		int rc = 0;

		if (!vcpu_msr_is_state(m->index))
			return err_set(e, EINVAL, "MSR 0x%x is not part of a vCPU's state",
				       m->index);
		if (m->index == MSR_ARCH_CAPABILITIES)
			rc = has_capabilities ? check_capabilities(v, m, e) : 0;
		else if (m->value && vcpu_msr_get(v, m->index, &here))
			rc = unknown(v, m, e);
		if (rc)
			return rc;
	}
	return 0;
}

/* Does the guest's CPUID tell it of MSR_ARCH_CAPABILITIES? */
static bool sees_capabilities(const struct vcpu_state *s)
{
	for (uint32_t i = 0; i < s->n_cpuid; i++) {
		if (s->cpuid[i].function == 7 && s->cpuid[i].index == 0)
			return s->cpuid[i].edx >> 29 & 1;
	}
	return false;
}

int vcpu_msrs_load(struct vcpu *v, const struct vcpu_state *s, struct err *e)
{
	union msr_batch b;
	uint32_t at = 0;
	int rc = 0;

	for (uint32_t i = 0; i < s->n_msrs && !rc; i++) {
		if (s->msrs[i].index == MSR_ARCH_CAPABILITIES && sees_capabilities(s))
			rc = check_capabilities(v, &s->msrs[i], e);
	}
	if (rc)
		return rc;

	while (at < s->n_msrs) {
		int set;

		b.m.nmsrs = s->n_msrs - at;
		b.m.pad = 0;
		for (uint32_t i = 0; i < s->n_msrs - at; i++)
			b.m.entries[i] = (struct kvm_msr_entry){.index = s->msrs[at + i].index,
								.data = s->msrs[at + i].value};
		set = ioctl(v->fd, KVM_SET_MSRS, &b);
		if (set < 0)
			return err_sys(e, errno, "cannot set vCPU %u's MSRs", v->index);
		at += (uint32_t)set;
		if (at < s->n_msrs) {
			rc = refused(v, &s->msrs[at++], e);
			if (rc)
				return rc;
		}
	}
	return 0;
}
