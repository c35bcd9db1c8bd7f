/* SPDX-License-Identifier: Apache-2.0 */
/* What a rehearsal has loaded into a VM that does not run must not go on by itself. */
#include <check.h>
#include <string.h>
#include <unistd.h>

#include "kvm/vcpu_state.h"
#include "kvm/vm_state.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"

#define LAPIC_SVR       0xf0
#define LAPIC_IRR       0x200
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_INITIAL   0x380
#define LAPIC_CURRENT   0x390
#define LAPIC_DIVIDE    0x3e0

#define OK(call) ck_assert_msg(!(call), "%s", e.msg)

static struct err e = ERR_INIT;
static struct vmtest a;
static struct vcpu_state st, st2;
static const struct tsc_shift no_shift;

static uint32_t get_lapic(const struct vcpu_state *s, unsigned reg)
{
	uint32_t v;

	memcpy(&v, s->lapic + reg, sizeof(v));
	return v;
}

static void put_lapic(struct vcpu_state *s, unsigned reg, uint32_t v)
{
	memcpy(s->lapic + reg, &v, sizeof(v));
}

/* After a rehearsal nothing of it goes on: no count, no interrupt, whatever was armed. */
START_TEST(quiet_after_rehearsal)
{
	struct irq_state irq;
	struct pit_state pit;

	NEED_KVM();
	vmtest_open(&a, VMTEST_MEM, 1, false);
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	put_lapic(&st, LAPIC_SVR, 0x1ff);
	put_lapic(&st, LAPIC_LVT_TIMER, 0x20040); /* periodic, about 1 ms */
	put_lapic(&st, LAPIC_DIVIDE, 0xb);
	put_lapic(&st, LAPIC_INITIAL, 1000000);
	put_lapic(&st, LAPIC_CURRENT, 1000000);
	OK(vcpu_state_load(a.vcpus[0], &st, &no_shift, &e));
	OK(vm_irq_save(a.vm, &irq, &e));
	irq.ioapic.redirtbl[0] = 0x30; /* the PIT's, to LAPIC 0 */
	irq.ioapic.redirtbl[2] = 0x30;
	OK(vm_irq_load(a.vm, &irq, &e));
	OK(vm_pit_save(a.vm, &pit, &e));
	pit.channels[0].count = 1193; /* 1 ms */
	pit.channels[0].mode = 2;
	pit.channels[0].rw_mode = 3;
	OK(vm_pit_load(a.vm, &pit, &e));
	/* It does tick: its interrupt waits in the LAPIC. */
	(void)usleep(20000);
	OK(vcpu_state_save(a.vcpus[0], &st2, &e));
	ck_assert_uint_ne(get_lapic(&st2, LAPIC_IRR + 0x10) & 1u << 16, 0);

	OK(vm_pit_quiet(a.vm, &e));
	OK(vcpu_state_quiet(a.vcpus[0], &e));
	/* As the next load has it: the LAPIC first, then nothing may come into it any more. */
	put_lapic(&st, LAPIC_INITIAL, 0);
	put_lapic(&st, LAPIC_IRR + 0x10, 0);
	put_lapic(&st, LAPIC_IRR + 0x20, 0);
	OK(vcpu_state_load(a.vcpus[0], &st, &no_shift, &e));
	(void)usleep(20000);
	OK(vcpu_state_save(a.vcpus[0], &st2, &e));
	for (unsigned i = 0; i < 8; i++)
		ck_assert_uint_eq(get_lapic(&st2, LAPIC_IRR + 0x10 * i), 0);
	ck_assert_uint_eq(get_lapic(&st2, LAPIC_CURRENT), 0);
	vmtest_close(&a);
}
END_TEST

SUITE("quiet", quiet_after_rehearsal)
