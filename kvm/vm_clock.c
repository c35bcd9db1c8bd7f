/* SPDX-License-Identifier: Apache-2.0 */
/* Time that goes on while a guest is moved; the method is in vm_state.h. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "base/clock.h"
#include "kvm/vm_state.h"

/* KVM takes a frequency within this of the host's for the same and does not scale. */
#define TSC_TOLERANCE_PPM 250

static int get_clock(struct vm *vm, struct kvm_clock_data *data, struct err *e)
{
	*data = (struct kvm_clock_data){0};
	if (ioctl(vm->fd, KVM_GET_CLOCK, data))
		return err_sys(e, errno, "cannot read the VM's clock");
	return 0;
}

int vm_clock_save(struct vm *vm, struct clock_state *s, struct err *e)
{
	struct kvm_clock_data data;
	int rc = get_clock(vm, &data, e);

	if (rc)
		return rc;
	*s = (struct clock_state){
		.clock_ns = data.clock, .flags = data.flags, .saved_real_ns = clock_real_ns()};
	if (data.flags & KVM_CLOCK_REALTIME)
		s->realtime_ns = data.realtime;
	if (data.flags & KVM_CLOCK_HOST_TSC)
		s->host_tsc = data.host_tsc;
	return 0;
}

int vm_clock_check(const struct clock_state *s, struct err *e)
{
	const uint64_t max_ns = 200ull * 365 * 86400 * NS_PER_SEC;

	/* So that no sum of them overflows. */
	if (s->clock_ns > max_ns || s->realtime_ns > max_ns || s->saved_real_ns > max_ns)
		return err_set(e, EINVAL, "the state of the clock is damaged");
	return 0;
}

int vm_clock_load(struct vm *vm, const struct clock_state *s, struct tsc_shift *shift,
		  struct err *e)
{
	struct kvm_clock_data data = {.clock = s->clock_ns};
	uint64_t now = clock_real_ns();
	int rc;

	*shift = (struct tsc_shift){0};
	if (s->flags & vm->caps.clock_flags & KVM_CLOCK_REALTIME) {
		data.flags = KVM_CLOCK_REALTIME;
		data.realtime = s->realtime_ns;
	} else if (now > s->saved_real_ns) {
		data.clock += now - s->saved_real_ns;
	}
	if (ioctl(vm->fd, KVM_SET_CLOCK, &data))
		return err_sys(e, errno, "cannot set the VM's clock");
	rc = get_clock(vm, &data, e);
	if (rc)
		return rc;
	if (s->flags & data.flags & KVM_CLOCK_HOST_TSC)
		*shift = (struct tsc_shift){.valid = true,
					    .clock_src_ns = s->clock_ns,
					    .clock_dst_ns = data.clock,
					    .host_tsc_src = s->host_tsc,
					    .host_tsc_dst = data.host_tsc};
	return 0;
}

bool tsc_is_scaled(uint32_t guest_khz, uint32_t host_khz)
{
	uint64_t slack = (uint64_t)host_khz * TSC_TOLERANCE_PPM / 1000000;
	uint64_t diff = guest_khz > host_khz ? guest_khz - host_khz : host_khz - guest_khz;

	return diff > slack;
}

/* A host's TSC as KVM gives it to the guest before it adds the offset. */
static uint64_t scaled(uint64_t tsc, uint32_t guest_khz, uint32_t host_khz)
{
	if (!tsc_is_scaled(guest_khz, host_khz))
		return tsc;
	return (uint64_t)((unsigned __int128)tsc * guest_khz / host_khz);
}

uint64_t tsc_offset_moved(uint64_t offset_src, const struct tsc_shift *shift, uint32_t guest_khz,
			  uint32_t src_khz, uint32_t dst_khz)
{
	uint64_t gone_ns = shift->clock_dst_ns - shift->clock_src_ns;
	uint64_t guest_tsc;

	/* A clock that went back would be a time of nearly 2^64 ns: then no time has gone by. */
	if (shift->clock_dst_ns < shift->clock_src_ns)
		gone_ns = 0;
	guest_tsc = scaled(shift->host_tsc_src, guest_khz, src_khz) + offset_src;
	guest_tsc += (uint64_t)((unsigned __int128)gone_ns * guest_khz / 1000000);
	return guest_tsc - scaled(shift->host_tsc_dst, guest_khz, dst_khz);
}
