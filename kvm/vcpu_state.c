/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/vcpu_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "base/clock.h"
#include "kvm/vcpu_msrs.h"
#include "kvm/vcpu_regs.h"

#define LAPIC_TIMER_COUNT 0x380 /* TMICT: where it begins to count down */

_Static_assert(sizeof(struct kvm_lapic_state) == VCPU_LAPIC_BYTES, "size of the LAPIC page");
_Static_assert(KVM_MAX_XCRS == VCPU_XCRS_ROOM, "room for extended control registers");

static struct kvm_device_attr tsc_offset_attr(uint64_t *offset)
{
	return (struct kvm_device_attr){
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
}

static int save_tsc(struct vcpu *v, struct tsc_state *s, struct err *e)
{
	struct kvm_device_attr attr = tsc_offset_attr(&s->offset);
	int khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);

	if (khz <= 0)
		return vcpu_fail(v, "read", "TSC frequency", e);
	s->khz = (uint32_t)khz;
	s->host_khz = v->host_tsc_khz;
	s->offset = 0;
	s->has_offset = !ioctl(v->fd, KVM_GET_DEVICE_ATTR, &attr);
	s->deadline = 0;
	if (v->vm->caps.tsc_deadline)
		(void)vcpu_msr_get(v, MSR_TSC_DEADLINE, &s->deadline);
	s->real_ns = clock_real_ns();
	if (vcpu_msr_get(v, MSR_TSC, &s->value))
		return err_set(e, EIO, "cannot read vCPU %u's time stamp counter", v->index);
	return 0;
}

int vcpu_state_save(struct vcpu *v, struct vcpu_state *s, struct err *e)
{
	struct kvm_mp_state mp;
	int rc;

	/*
	 * First the run state: asking for it makes KVM act on an INIT or SIPI that waits in the
	 * LAPIC, which changes registers.
	 */
	if (ioctl(v->fd, KVM_GET_MP_STATE, &mp))
		return vcpu_fail(v, "read", "run state", e);
	s->mp_state = mp.mp_state;
	rc = cpuid_to_state(v->cpuid, s->cpuid, &s->n_cpuid, e);
	if (!rc)
		rc = vcpu_events_save(v, &s->events, e);
	if (!rc)
		rc = vcpu_regs_save(v, &s->regs, e);
	if (!rc)
		rc = vcpu_sregs_save(v, &s->sregs, e);
	if (!rc)
		rc = vcpu_fpu_save(v, s, e);
	if (!rc)
		rc = vcpu_debug_save(v, &s->debug, e);
	if (!rc)
		rc = vcpu_msrs_save(v, s, e);
	if (!rc)
		rc = save_tsc(v, &s->tsc, e);
	if (rc)
		return rc;
	if (ioctl(v->fd, KVM_GET_LAPIC, s->lapic))
		return vcpu_fail(v, "read", "interrupt controller", e);
	return 0;
}

/* Give the vCPU the CPUID that the guest was started with. */
static int load_cpuid(struct vcpu *v, const struct vcpu_state *s, struct err *e)
{
	struct kvm_cpuid2 *t = cpuid_from_state(s->cpuid, s->n_cpuid);
	int rc;

	if (!t)
		return err_set(e, ENOMEM, "out of memory for CPUID");
	rc = cpuid_equal(t, v->cpuid) ? 0 : vcpu_cpuid_set(v, t, e);
	free(t);
	return rc;
}

static int cannot_scale(const struct vcpu *v, uint32_t khz, struct err *e)
{
	return err_set(e, EINVAL,
		       "the guest's time stamp counter runs at %u kHz, this host's at %u kHz, and "
		       "its processor cannot scale it",
		       khz, v->host_tsc_khz);
}

int vcpu_tsc_check(const struct vcpu *v, uint32_t khz, struct err *e)
{
	if (khz < VCPU_TSC_KHZ_MIN || khz > VCPU_TSC_KHZ_MAX)
		return err_set(e, EINVAL, "no time stamp counter runs at %u kHz", khz);
	/* Without scaling KVM would take a faster TSC too, and let it run behind and catch up. */
	if (tsc_is_scaled(khz, v->host_tsc_khz) && !v->vm->caps.tsc_control)
		return cannot_scale(v, khz, e);
	return 0;
}

static int load_tsc_khz(struct vcpu *v, const struct tsc_state *s, struct err *e)
{
	int rc;

	if (s->khz == v->tsc_khz)
		return 0;
	rc = vcpu_tsc_check(v, s->khz, e);
	if (rc)
		return rc;
	if (!ioctl(v->fd, KVM_SET_TSC_KHZ, (unsigned long)s->khz))
		v->tsc_khz = s->khz;
	else if (tsc_is_scaled(s->khz, v->host_tsc_khz))
		return cannot_scale(v, s->khz, e);
	return 0; /* or close enough to count as equal, as KVM itself sees it */
}

static int load_tsc(struct vcpu *v, const struct tsc_state *s, const struct tsc_shift *shift,
		    struct err *e)
{
	uint64_t offset, now, gone, value;
	struct kvm_device_attr attr = tsc_offset_attr(&offset);
	int rc = load_tsc_khz(v, s, e);

	if (rc)
		return rc;
	if (s->has_offset && shift->valid) {
		offset = tsc_offset_moved(s->offset, shift, s->khz, s->host_khz, v->host_tsc_khz);
		if (!ioctl(v->fd, KVM_SET_DEVICE_ATTR, &attr))
			return 0;
	}
	/*
	 * Without offsets: the value itself, advanced by the wall clock. KVM takes writes that are
	 * close to each other for an attempt to synchronize vCPUs and makes them exactly so.
	 */
	now = clock_real_ns();
	gone = now > s->real_ns ? now - s->real_ns : 0;
	value = s->value + (uint64_t)((unsigned __int128)gone * s->khz / 1000000);
	if (vcpu_msr_set(v, MSR_TSC, value))
		return err_set(e, EIO, "cannot set vCPU %u's time stamp counter", v->index);
	return 0;
}

static int load_timers(struct vcpu *v, const struct vcpu_state *s, struct err *e)
{
	struct kvm_mp_state mp = {.mp_state = s->mp_state};

	if (ioctl(v->fd, KVM_SET_LAPIC, s->lapic))
		return vcpu_fail(v, "set", "interrupt controller", e);
	if (vcpu_events_load(v, &s->events, e))
		return -e->code;
	if (ioctl(v->fd, KVM_SET_MP_STATE, &mp))
		return vcpu_fail(v, "set", "run state", e);
	/* Zero too: an earlier attempt to load may have armed it. */
	if (v->vm->caps.tsc_deadline && vcpu_msr_set(v, MSR_TSC_DEADLINE, s->tsc.deadline))
		return err_set(e, EIO, "cannot set vCPU %u's deadline timer", v->index);
	return 0;
}

/*
 * The order and its reasons:
 *   CPUID	  decides which bits and MSRs KVM accepts at all; only before the first run
 *   sregs	  APIC base first of all: the LAPIC page is read in xAPIC or x2APIC format
 *   regs	  RFLAGS after CR0 and the segments, which decide what its VM bit means
 *   XCRs, XSAVE  XCR0 says which parts of the area are there
 *   debug	  any time
 *   TSC, MSRs	  TSC_ADJUST stands beside a TSC that is right
 *   LAPIC	  its timer is armed relative to the TSC and to what the MSRs set
 *   events	  after the LAPIC, which would recompute what is pending
 *   run state	  after the events, whose SIPI vector belongs to it
 *   deadline	  needs the LAPIC's timer in deadline mode, and the TSC
 */
int vcpu_state_load(struct vcpu *v, const struct vcpu_state *s, const struct tsc_shift *shift,
		    struct err *e)
{
	struct err none = ERR_INIT;
	int rc;

	if (!e)
		e = &none;
	rc = load_cpuid(v, s, e);
	if (!rc)
		rc = vcpu_sregs_load(v, &s->sregs, e);
	if (!rc)
		rc = vcpu_regs_load(v, &s->regs, e);
	if (!rc)
		rc = vcpu_fpu_load(v, s, e);
	if (!rc)
		rc = vcpu_debug_load(v, &s->debug, e);
	if (!rc)
		rc = load_tsc(v, &s->tsc, shift, e);
	if (!rc)
		rc = vcpu_msrs_load(v, s, e);
	if (!rc)
		rc = load_timers(v, s, e);
	return rc;
}

int vcpu_state_quiet(struct vcpu *v, struct err *e)
{
	struct kvm_lapic_state lapic;

	if (ioctl(v->fd, KVM_GET_LAPIC, &lapic))
		return vcpu_fail(v, "read", "interrupt controller", e);
	/* Without an initial count the timer stands still. */
	memset(lapic.regs + LAPIC_TIMER_COUNT, 0, 4);
	if (ioctl(v->fd, KVM_SET_LAPIC, &lapic))
		return vcpu_fail(v, "set", "interrupt controller", e);
	if (v->vm->caps.tsc_deadline && vcpu_msr_set(v, MSR_TSC_DEADLINE, 0))
		return err_set(e, EIO, "cannot set vCPU %u's deadline timer", v->index);
	return 0;
}
