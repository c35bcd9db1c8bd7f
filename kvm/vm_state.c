/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/vm_state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "base/clock.h"

_Static_assert(KVM_IOAPIC_NUM_PINS == IOAPIC_PINS, "pins of the IOAPIC");

#define F(s, m, t) FIELD(struct s, m, FIELD_##t)

static const struct field pic_fields[] = {
	F(pic_state, last_irr, U8),
	F(pic_state, irr, U8),
	F(pic_state, imr, U8),
	F(pic_state, isr, U8),
	F(pic_state, priority_add, U8),
	F(pic_state, irq_base, U8),
	F(pic_state, read_reg_select, U8),
	F(pic_state, poll, U8),
	F(pic_state, special_mask, U8),
	F(pic_state, init_state, U8),
	F(pic_state, auto_eoi, U8),
	F(pic_state, rotate_on_auto_eoi, U8),
	F(pic_state, special_fully_nested_mode, U8),
	F(pic_state, init4, U8),
	F(pic_state, elcr, U8),
	F(pic_state, elcr_mask, U8),
};
static FIELD_TABLE(pic_table, "pic", 1, pic_fields);

static const struct field ioapic_fields[] = {
	F(ioapic_state, base_address, U64),
	F(ioapic_state, ioregsel, U32),
	F(ioapic_state, id, U32),
	F(ioapic_state, irr, U32),
	FIELD_ARRAY(struct ioapic_state, redirtbl, FIELD_U64),
};
static FIELD_TABLE(ioapic_table, "ioapic", 1, ioapic_fields);

static const struct field irq_fields[] = {
	FIELD_SUB(struct irq_state, master, &pic_table),
	FIELD_SUB(struct irq_state, slave, &pic_table),
	FIELD_SUB(struct irq_state, ioapic, &ioapic_table),
};
FIELD_TABLE(vm_irq_table, "irqchip", 1, irq_fields);

static const struct field pit_channel_fields[] = {
	F(pit_channel_state, count, U32),
	F(pit_channel_state, latched_count, U16),
	F(pit_channel_state, count_latched, U8),
	F(pit_channel_state, status_latched, U8),
	F(pit_channel_state, status, U8),
	F(pit_channel_state, read_state, U8),
	F(pit_channel_state, write_state, U8),
	F(pit_channel_state, write_latch, U8),
	F(pit_channel_state, rw_mode, U8),
	F(pit_channel_state, mode, U8),
	F(pit_channel_state, bcd, U8),
	F(pit_channel_state, gate, U8),
	F(pit_channel_state, count_load_time, U64),
};
static FIELD_TABLE(pit_channel_table, "pit channel", 1, pit_channel_fields);

static const struct field pit_fields[] = {
	FIELD_SUB_ARRAY(struct pit_state, channels, &pit_channel_table),
	F(pit_state, flags, U32),
};
FIELD_TABLE(vm_pit_table, "pit", 1, pit_fields);

static const struct field clock_fields[] = {
	F(clock_state, clock_ns, U64),      F(clock_state, flags, U32),
	F(clock_state, realtime_ns, U64),   F(clock_state, host_tsc, U64),
	F(clock_state, saved_real_ns, U64),
};
FIELD_TABLE(vm_clock_table, "clock", 1, clock_fields);

/* Members of equal names on both sides: from *from to *to, whichever of them is KVM's. */
/* clang-format off */
#define COPY(f) to->f = from->f;
#define PIC_MEMBERS										\
	COPY(last_irr) COPY(irr) COPY(imr) COPY(isr) COPY(priority_add) COPY(irq_base)		\
	COPY(read_reg_select) COPY(poll) COPY(special_mask) COPY(init_state) COPY(auto_eoi)	\
	COPY(rotate_on_auto_eoi) COPY(special_fully_nested_mode) COPY(init4) COPY(elcr)		\
	COPY(elcr_mask)
#define PIT_MEMBERS										\
	COPY(count) COPY(latched_count) COPY(count_latched) COPY(status_latched) COPY(status)	\
	COPY(read_state) COPY(write_state) COPY(write_latch) COPY(rw_mode) COPY(mode)		\
	COPY(bcd) COPY(gate)
/* clang-format on */

static int pic_save(struct vm *vm, uint32_t id, struct pic_state *to, struct err *e)
{
	struct kvm_irqchip chip = {.chip_id = id};
	const struct kvm_pic_state *from = &chip.chip.pic;

	if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip))
		return err_sys(e, errno, "cannot read the interrupt controllers");
	PIC_MEMBERS
	return 0;
}

static int pic_load(struct vm *vm, uint32_t id, const struct pic_state *from, struct err *e)
{
	struct kvm_irqchip chip = {.chip_id = id};
	struct kvm_pic_state *to = &chip.chip.pic;

	PIC_MEMBERS
	if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip))
		return err_sys(e, errno, "cannot set the interrupt controllers");
	return 0;
}

static int ioapic_save(struct vm *vm, struct ioapic_state *s, struct err *e)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	const struct kvm_ioapic_state *io = &chip.chip.ioapic;

	if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip))
		return err_sys(e, errno, "cannot read the IOAPIC");
	s->base_address = io->base_address;
	s->ioregsel = io->ioregsel;
	s->id = io->id;
	s->irr = io->irr;
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		s->redirtbl[i] = io->redirtbl[i].bits;
	return 0;
}

static int ioapic_load(struct vm *vm, const struct ioapic_state *s, struct err *e)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_ioapic_state *io = &chip.chip.ioapic;

	io->base_address = s->base_address;
	io->ioregsel = s->ioregsel;
	io->id = s->id;
	io->irr = s->irr;
	for (unsigned i = 0; i < IOAPIC_PINS; i++)
		io->redirtbl[i].bits = s->redirtbl[i];
	if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip))
		return err_sys(e, errno, "cannot set the IOAPIC");
	return 0;
}

int vm_irq_save(struct vm *vm, struct irq_state *s, struct err *e)
{
	int rc = pic_save(vm, KVM_IRQCHIP_PIC_MASTER, &s->master, e);

	if (!rc)
		rc = pic_save(vm, KVM_IRQCHIP_PIC_SLAVE, &s->slave, e);
	if (!rc)
		rc = ioapic_save(vm, &s->ioapic, e);
	return rc;
}

static int check_pic(const struct pic_state *s, struct err *e)
{
	if (s->priority_add > 7 || s->init_state > 3)
		return err_set(e, EINVAL, "the state of the interrupt controllers is damaged");
	return 0;
}

int vm_irq_check(const struct irq_state *s, struct err *e)
{
	if (s->ioapic.base_address != 0xfec00000)
		return err_set(e, EINVAL,
			       "the state of the IOAPIC is damaged: its address is 0x%" PRIx64,
			       s->ioapic.base_address);
	if (s->ioapic.irr >> IOAPIC_PINS)
		return err_set(e, EINVAL,
			       "the state of the IOAPIC is damaged: its requests are 0x%x",
			       s->ioapic.irr);
	return check_pic(&s->master, e) ? -EINVAL : check_pic(&s->slave, e);
}

int vm_irq_load(struct vm *vm, const struct irq_state *s, struct err *e)
{
	int rc = pic_load(vm, KVM_IRQCHIP_PIC_MASTER, &s->master, e);

	if (!rc)
		rc = pic_load(vm, KVM_IRQCHIP_PIC_SLAVE, &s->slave, e);
	if (!rc)
		rc = ioapic_load(vm, &s->ioapic, e);
	return rc;
}

int vm_pit_save(struct vm *vm, struct pit_state *s, struct err *e)
{
	struct kvm_pit_state2 pit = {0};

	if (ioctl(vm->fd, KVM_GET_PIT2, &pit))
		return err_sys(e, errno, "cannot read the interval timer");
	s->flags = pit.flags;
	for (unsigned i = 0; i < 3; i++) {
		struct pit_channel_state *to = &s->channels[i];
		const struct kvm_pit_channel_state *from = &pit.channels[i];

		PIT_MEMBERS
		to->count_load_time = (uint64_t)from->count_load_time;
	}
	return 0;
}

/* The mode of a channel that nobody has programmed since the reset. */
#define PIT_MODE_NONE 0xff

int vm_pit_check(const struct pit_state *s, struct err *e)
{
	for (unsigned i = 0; i < 3; i++) {
		const struct pit_channel_state *c = &s->channels[i];

		if (c->count > 65536 || (c->mode > 7 && c->mode != PIT_MODE_NONE) || c->bcd > 1 ||
		    c->gate > 1 || c->rw_mode > 4 || c->read_state > 4 || c->write_state > 4)
			return err_set(e, EINVAL,
				       "the state of the interval timer is damaged (channel %u)",
				       i);
	}
	if (s->flags & ~(uint32_t)(KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON))
		return err_set(e, EINVAL, "the state of the interval timer is damaged (flags 0x%x)",
			       s->flags);
	return 0;
}

int vm_pit_load(struct vm *vm, const struct pit_state *s, struct err *e)
{
	struct kvm_pit_state2 pit = {.flags = s->flags};

	for (unsigned i = 0; i < 3; i++) {
		struct kvm_pit_channel_state *to = &pit.channels[i];
		const struct pit_channel_state *from = &s->channels[i];

		PIT_MEMBERS
		to->count_load_time = (int64_t)from->count_load_time;
	}
	if (ioctl(vm->fd, KVM_SET_PIT2, &pit))
		return err_sys(e, errno, "cannot set the interval timer");
	return 0;
}

int vm_pit_quiet(struct vm *vm, struct err *e)
{
	struct pit_state none = {0};

	for (unsigned i = 0; i < 3; i++)
		none.channels[i].mode = PIT_MODE_NONE;
	return vm_pit_load(vm, &none, e);
}
