/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a VM outside its vCPUs: interrupt controllers, PIT, clock.
 *
 * Time goes on while a guest is moved. A source saves its kvmclock together with the wall clock and
 * the host's TSC of the same instant. The destination sets the clock advanced by the wall clock's
 * difference (KVM does that itself where both sides know KVM_CLOCK_REALTIME), reads it back with
 * its own TSC, and moves each vCPU's TSC offset by the time that the clock advanced: the method of
 * the kernel's Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_OFFSET. Both hosts' wall
 * clocks should agree; a destination that is behind loses the difference, time never goes back.
 *
 * Order when saving: vm_irq_save() and vm_pit_save() before the vCPUs (an interrupt that moves from
 * the IOAPIC to a LAPIC meanwhile is then seen at least once), vm_clock_save() any time. When
 * loading: vm_clock_load(), the vCPUs, vm_irq_load() (the IOAPIC hands what is pending to LAPICs
 * that must not be overwritten later), vm_pit_load() (it starts to tick).
 *
 * Threads: one at a time, all vCPUs stopped.
 */
#ifndef KVM_VM_STATE_H
#define KVM_VM_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "kvm/vm.h"

#define IOAPIC_PINS 24

/* An 8259A, in KVM's terms (struct kvm_pic_state). */
struct pic_state {
	uint8_t last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll;
	uint8_t special_mask, init_state, auto_eoi, rotate_on_auto_eoi;
	uint8_t special_fully_nested_mode, init4, elcr, elcr_mask;
};

struct ioapic_state {
	uint64_t base_address;
	uint32_t ioregsel, id, irr;
	uint64_t redirtbl[IOAPIC_PINS];
};

struct irq_state {
	struct pic_state master, slave;
	struct ioapic_state ioapic;
};

struct pit_channel_state {
	uint32_t count;
	uint16_t latched_count;
	uint8_t count_latched, status_latched, status, read_state, write_state, write_latch;
	uint8_t rw_mode, mode, bcd, gate;
	uint64_t count_load_time;
};

struct pit_state {
	struct pit_channel_state channels[3];
	uint32_t flags;
};

struct clock_state {
	uint64_t clock_ns;      /* kvmclock */
	uint32_t flags;         /* KVM's: which of the next two are valid */
	uint64_t realtime_ns;   /* wall clock at that instant, by KVM */
	uint64_t host_tsc;      /* at that instant */
	uint64_t saved_real_ns; /* wall clock, read by us next to it: the fall-back */
};

/* What moving the clock did, for the vCPUs' TSC offsets. */
struct tsc_shift {
	bool valid; /* false: one side's KVM told no host TSC; offsets cannot be moved */
	uint64_t clock_src_ns, clock_dst_ns; /* kvmclock at the two instants ... */
	uint64_t host_tsc_src, host_tsc_dst; /* ... and the hosts' TSCs */
};

extern const struct field_table vm_irq_table;
extern const struct field_table vm_pit_table;
extern const struct field_table vm_clock_table;

int vm_irq_save(struct vm *vm, struct irq_state *s, struct err *e);
int vm_irq_check(const struct irq_state *s, struct err *e);
int vm_irq_load(struct vm *vm, const struct irq_state *s, struct err *e);

int vm_pit_save(struct vm *vm, struct pit_state *s, struct err *e);
int vm_pit_check(const struct pit_state *s, struct err *e);
int vm_pit_load(struct vm *vm, const struct pit_state *s, struct err *e);
/* Nothing ticks any more, until the next vm_pit_load(). */
int vm_pit_quiet(struct vm *vm, struct err *e);

int vm_clock_save(struct vm *vm, struct clock_state *s, struct err *e);
int vm_clock_check(const struct clock_state *s, struct err *e);
int vm_clock_load(struct vm *vm, const struct clock_state *s, struct tsc_shift *shift,
		  struct err *e);

/*
 * Does KVM scale the TSC for a guest of this frequency? It takes 250 millionths for no difference.
 */
bool tsc_is_scaled(uint32_t guest_khz, uint32_t host_khz);

/*
 * The TSC offset to set at the destination. src_khz and dst_khz are the hosts' TSC frequencies,
 * guest_khz the guest's; host TSCs are scaled by guest_khz over the host's where these differ.
 */
uint64_t tsc_offset_moved(uint64_t offset_src, const struct tsc_shift *shift, uint32_t guest_khz,
			  uint32_t src_khz, uint32_t dst_khz);

#endif
