/* SPDX-License-Identifier: Apache-2.0 */
/* State of vCPUs and VM: out of KVM, through bytes, into a fresh VM, and what is refused. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "kvm/vcpu_state.h"
#include "kvm/vm_state.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"

#define LAPIC_LVT_TIMER 0x320
#define LAPIC_SVR       0xf0
#define LAPIC_INITIAL   0x380
#define LAPIC_CURRENT   0x390
#define LAPIC_DIVIDE    0x3e0

static struct vmtest a, b;
static struct vcpu_exit ex;
static struct err e;
static struct vcpu_state st, st2;
static const struct tsc_shift no_shift;

/* mov dx,0x10; 1: in eax,dx; add eax,1; out dx,eax; jmp 1b */
static const uint8_t inout_code[] = {0x66, 0xba, 0x10, 0x00, 0xed, 0x83,
				     0xc0, 0x01, 0xef, 0xeb, 0xf9};

#define OK(call) ck_assert_msg(!(call), "%s", e.msg)

/* VM a has run a little and stands still with nothing half done. */
static void open_both(void)
{
	uint32_t v = 1;

	e = (struct err)ERR_INIT;
	vmtest_open(&a, VMTEST_MEM, 1, false);
	vmtest_open(&b, VMTEST_MEM, 1, false);
	VMTEST_CODE(&a, inout_code);
	vmtest_run(&a, &ex, VCPU_EXIT_IO);
	memcpy(ex.io.data, &v, sizeof(v));
	vcpu_set_immediate_exit(a.vcpus[0], true);
	vmtest_run(&a, &ex, VCPU_EXIT_INTERRUPTED);
	vcpu_set_immediate_exit(a.vcpus[0], false);
}

static void close_both(void)
{
	vmtest_close(&a);
	vmtest_close(&b);
}

/* Time goes on: what cannot be equal a moment later. */
static void strip_time(struct vcpu_state *s)
{
	s->tsc = (struct tsc_state){.khz = s->tsc.khz, .deadline = s->tsc.deadline};
	memset(s->lapic + LAPIC_CURRENT, 0, 4);
}

static void encode(struct wbuf *w, const struct field_table *table, const void *data)
{
	wbuf_init(w, ORDER_LITTLE, 1u << 20);
	fields_encode(w, table, data);
	ck_assert_int_eq(wbuf_error(w), 0);
}

static void expect_equal(const struct vcpu_state *x, const struct vcpu_state *y)
{
	static struct vcpu_state u, v;
	struct wbuf p, q;

	u = *x;
	v = *y;
	strip_time(&u);
	strip_time(&v);
	for (uint32_t i = 0; i < u.n_msrs && i < v.n_msrs; i++)
		ck_assert_msg(
			u.msrs[i].index == v.msrs[i].index && u.msrs[i].value == v.msrs[i].value,
			"MSR 0x%x: 0x%llx, then 0x%llx", u.msrs[i].index,
			(unsigned long long)u.msrs[i].value, (unsigned long long)v.msrs[i].value);
	encode(&p, &vcpu_state_table, &u);
	encode(&q, &vcpu_state_table, &v);
	ck_assert_uint_eq(p.len, q.len);
	for (size_t i = 0; i < p.len; i++)
		ck_assert_msg(p.data[i] == q.data[i], "byte %zu of %zu differs", i, p.len);
	wbuf_free(&p);
	wbuf_free(&q);
}

static struct msr_state *find_msr(struct vcpu_state *s, uint32_t index)
{
	for (uint32_t i = 0; i < s->n_msrs; i++) {
		if (s->msrs[i].index == index)
			return &s->msrs[i];
	}
	return NULL;
}

static void put_lapic(struct vcpu_state *s, unsigned reg, uint32_t v)
{
	memcpy(s->lapic + reg, &v, sizeof(v));
}

static uint32_t get_lapic(const struct vcpu_state *s, unsigned reg)
{
	uint32_t v;

	memcpy(&v, s->lapic + reg, sizeof(v));
	return v;
}

static void set_msr(struct vcpu_state *s, uint32_t index, uint64_t value)
{
	struct msr_state *m = find_msr(s, index);

	if (m) /* not every KVM has every one */
		m->value = value;
}

/* A state with something in every part that can hold something. */
static void fill_state(struct vcpu_state *s)
{
	uint64_t *regs = (uint64_t *)&s->regs;
	uint64_t bv = s->n_xcrs ? s->xcrs[0].value : 3;

	for (unsigned i = 0; i < 16; i++)
		regs[i] = 0x1111111111111111ull * (i + 1);
	s->regs.rflags = 0x202 | 0xcd5; /* every arithmetic flag */
	s->sregs.cr2 = 0x123456789ab;
	s->sregs.fs.base = 0x7000;
	s->sregs.idt = (struct dtable_state){0x5000, 0xfff};
	s->debug = (struct debug_state){
		.db = {0x1000, 0x2000, 0x3000, 0x4000}, .dr6 = 0xffff0ff1, .dr7 = 0x455};
	/* x87 and SSE registers in the legacy area, the rest where CPUID leaf 0xd says. */
	for (unsigned i = 32; i < 416; i++)
		s->xsave[i] = i % 16 < 10 || i >= 160 ? (uint8_t)(i * 7) : 0;
	if (s->xcrs[0].value & 4) {
		for (unsigned i = 576; i < 576 + 256; i++)
			s->xsave[i] = (uint8_t)(i * 3);
		bv = 7;
	} else {
		bv = 3;
	}
	memcpy(s->xsave + 512, &bv, sizeof(bv));
	set_msr(s, 0x174, 0x10);                    /* SYSENTER_CS */
	set_msr(s, 0x175, 0xffff888000001000);      /* SYSENTER_ESP */
	set_msr(s, 0x176, 0xffffffff81000000);      /* SYSENTER_EIP */
	set_msr(s, 0xc0000081, 0x0023001000000000); /* STAR */
	set_msr(s, 0xc0000082, 0xffffffff81000040); /* LSTAR */
	set_msr(s, 0xc0000084, 0x47700);            /* SFMASK */
	set_msr(s, 0xc0000102, 0xffff888000002000); /* KERNEL_GS_BASE */
	set_msr(s, 0x277, 0x0007010600070106);      /* PAT */
	set_msr(s, 0x200, 0x06);                    /* MTRR_PHYSBASE0 */
	set_msr(s, 0x250, 0x0606060606060606);      /* MTRR_FIX64K */
	set_msr(s, 0x400, ~0ull);                   /* MC0_CTL */
	set_msr(s, 0x12, 0x300001); /* kvmclock page, by its old and its new number */
	set_msr(s, 0x4b564d01, 0x300001);
	put_lapic(s, LAPIC_SVR, 0x1ff);
	put_lapic(s, LAPIC_LVT_TIMER, 0x10000 | 0x20000 | 0x40); /* masked, periodic */
	put_lapic(s, LAPIC_DIVIDE, 0xb);
	put_lapic(s, LAPIC_INITIAL, 0x70000000);
	put_lapic(s, LAPIC_CURRENT, 0x60000000);
	s->events.nmi_masked = 1;
}

START_TEST(round_trip)
{
	NEED_KVM();
	open_both();
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	ck_assert_uint_gt(st.n_msrs, 10);
	ck_assert_uint_eq(st.regs.rax, 1); /* the pending IN has been completed */
	fill_state(&st);
	OK(vcpu_state_check(&st, b.vcpus[0], &e));
	OK(vcpu_state_load(b.vcpus[0], &st, &no_shift, &e));
	OK(vcpu_state_save(b.vcpus[0], &st2, &e));
	expect_equal(&st, &st2);
	close_both();
}
END_TEST

/* Bytes that KVM itself gave, through the codec and twice into the same vCPU. */
START_TEST(through_bytes)
{
	struct wbuf w;
	struct rbuf r;

	NEED_KVM();
	open_both();
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	encode(&w, &vcpu_state_table, &st);
	for (int turn = 0; turn < 2; turn++) {
		memset(&st2, 0x55, sizeof(st2));
		rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
		OK(fields_decode(&r, &vcpu_state_table, &st2, &e));
		ck_assert(rbuf_done(&r));
		OK(vcpu_state_check(&st2, b.vcpus[0], &e));
		OK(vcpu_state_load(b.vcpus[0], &st2, &no_shift, &e));
	}
	OK(vcpu_state_save(b.vcpus[0], &st2, &e));
	expect_equal(&st, &st2);
	for (size_t cut = 0; cut < w.len; cut++) {
		uint8_t *part = malloc(cut + 1); /* exact size, for the address sanitizer */

		memcpy(part, w.data, cut);
		rbuf_init(&r, ORDER_LITTLE, part, cut);
		ck_assert_int_eq(fields_decode(&r, &vcpu_state_table, &st2, NULL), -EINVAL);
		free(part);
	}
	wbuf_free(&w);
	close_both();
}
END_TEST

START_TEST(moved_guest_goes_on)
{
	uint32_t got;

	NEED_KVM();
	open_both();
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	ck_assert_int_eq(mem_write(b.mem, CODE_GPA, inout_code, sizeof(inout_code)), 0);
	OK(vcpu_state_load(b.vcpus[0], &st, &no_shift, &e));
	vmtest_run(&b, &ex, VCPU_EXIT_IO);
	ck_assert(ex.io.out);
	memcpy(&got, ex.io.data, sizeof(got));
	ck_assert_uint_eq(got, 2);
	close_both();
}
END_TEST

START_TEST(lapic_timer_keeps_ticking)
{
	uint32_t count;

	NEED_KVM();
	open_both();
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	put_lapic(&st, LAPIC_SVR, 0x1ff);
	put_lapic(&st, LAPIC_LVT_TIMER, 0x10000 | 0x40); /* masked one-shot: about 2 s */
	put_lapic(&st, LAPIC_DIVIDE, 0xb);
	put_lapic(&st, LAPIC_INITIAL, 0x78000000);
	put_lapic(&st, LAPIC_CURRENT, 0x70000000);
	OK(vcpu_state_load(a.vcpus[0], &st, &no_shift, &e));
	(void)usleep(20000);
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	count = get_lapic(&st, LAPIC_CURRENT);
	ck_assert_uint_lt(count, 0x70000000);
	ck_assert_uint_gt(count, 0x10000000);
	OK(vcpu_state_load(b.vcpus[0], &st, &no_shift, &e));
	(void)usleep(20000);
	OK(vcpu_state_save(b.vcpus[0], &st2, &e));
	ck_assert_uint_lt(get_lapic(&st2, LAPIC_CURRENT), count);
	ck_assert_uint_gt(get_lapic(&st2, LAPIC_CURRENT), 0);
	close_both();
}
END_TEST

START_TEST(deadline_timer_is_moved)
{
	NEED_KVM();
	open_both();
	if (!a.vm->caps.tsc_deadline) {
		(void)printf("SKIP deadline_timer_is_moved: KVM has no TSC-deadline timer\n");
		close_both();
		return;
	}
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	put_lapic(&st, LAPIC_SVR, 0x1ff);
	put_lapic(&st, LAPIC_LVT_TIMER, 0x40000 | 0x40); /* deadline mode */
	put_lapic(&st, LAPIC_INITIAL, 0);
	st.tsc.deadline = st.tsc.value + 100ull * st.tsc.khz * 1000; /* in 100 s */
	OK(vcpu_state_load(b.vcpus[0], &st, &no_shift, &e));
	OK(vcpu_state_save(b.vcpus[0], &st2, &e));
	ck_assert_uint_eq(st2.tsc.deadline, st.tsc.deadline);
	close_both();
}
END_TEST

START_TEST(msr_refusals)
{
	struct msr_state extra;

	NEED_KVM();
	open_both();
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	extra = (struct msr_state){0xdead, 0}; /* there is no such MSR, and it says nothing */
	st.msrs[st.n_msrs++] = extra;
	OK(vcpu_state_load(b.vcpus[0], &st, &no_shift, &e));
	st.msrs[st.n_msrs - 1].value = 7;
	ck_assert_int_eq(vcpu_state_load(b.vcpus[0], &st, &no_shift, &e), -EINVAL);
	ck_assert_ptr_nonnull(strstr(e.msg, "0xdead"));
	e = (struct err)ERR_INIT;
	/* MTRRcap cannot be written: fine with the value that it has, else not. */
	st.msrs[st.n_msrs - 1] = (struct msr_state){0xfe, 0x508};
	if (vcpu_state_load(b.vcpus[0], &st, &no_shift, &e) == 0) {
		st.msrs[st.n_msrs - 1].value = 0x123;
		ck_assert_int_eq(vcpu_state_load(b.vcpus[0], &st, &no_shift, &e), -EINVAL);
	}
	ck_assert_ptr_nonnull(strstr(e.msg, "0xfe"));
	close_both();
}
END_TEST

/* One spoiled member at a time. */
#define SPOIL(stmt)                                                                      \
	do {                                                                             \
		st2 = st;                                                                \
		stmt;                                                                    \
		e = (struct err)ERR_INIT;                                                \
		ck_assert_msg(vcpu_state_check(&st2, b.vcpus[0], &e) == -EINVAL, #stmt); \
		ck_assert_msg(e.msg[0], #stmt " without a message");                     \
	} while (0)

START_TEST(check_refuses)
{
	NEED_KVM();
	open_both();
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	OK(vcpu_state_check(&st, b.vcpus[0], &e));
	SPOIL(st2.n_cpuid = 0);
	SPOIL(st2.n_cpuid = CPUID_ENTRIES_MAX + 1);
	SPOIL(for (uint32_t i = 0; i < st2.n_cpuid; i++) if (st2.cpuid[i].function == 1)
		      st2.cpuid[i]
			      .ebx ^= 1u << 24);
	SPOIL(for (uint32_t i = 0; i < st2.n_cpuid; i++) if (st2.cpuid[i].function == 1)
		      st2.cpuid[i]
			      .ecx |= 1u << 5);
	SPOIL(st2.xsave_bytes = 0);
	SPOIL(st2.xsave_bytes = 575);
	SPOIL(st2.xsave_bytes = VCPU_XSAVE_ROOM + 1);
	SPOIL(st2.xsave_bytes = UINT32_MAX);
	SPOIL(st2.xsave_bytes = b.vm->caps.xsave_bytes + 1; st2.xsave[b.vm->caps.xsave_bytes] = 1);
	SPOIL(st2.xsave[512 + 7] = 0x40);
	SPOIL(st2.xsave[520] = 1);
	SPOIL(st2.xsave[575] = 1);
	SPOIL(st2.n_xcrs = VCPU_XCRS_ROOM + 1);
	SPOIL(st2.n_xcrs = 1; st2.xcrs[0].value = 0);
	SPOIL(st2.n_xcrs = 1; st2.xcrs[0].value = 1 | 1ull << 62);
	SPOIL(st2.n_xcrs = 1; st2.xcrs[0].index = 1);
	SPOIL(st2.n_msrs = VM_MSRS_MAX + 1);
	SPOIL(st2.msrs[0].index = 0x4b564d00); /* would have KVM write guest memory */
	SPOIL(st2.msrs[0].index = 0x10);
	SPOIL(st2.regs.rflags |= 1ull << 40);
	SPOIL(st2.sregs.flags = 2);
	SPOIL(st2.sregs.cr8 = 16);
	SPOIL(st2.sregs.cs.type = 16);
	SPOIL(st2.sregs.ss.dpl = 4);
	SPOIL(st2.sregs.tr.present = 2);
	SPOIL(st2.debug.dr7 = 1ull << 32);
	SPOIL(st2.debug.flags = 1);
	SPOIL(st2.events.exception_nr = 32);
	SPOIL(st2.events.exception_pending = 2);
	SPOIL(st2.events.flags = 0x40);
	SPOIL(st2.events.smi_smm = 1);
	SPOIL(st2.mp_state = 5);
	SPOIL(st2.mp_state = UINT32_MAX);
	SPOIL(st2.tsc.khz = 0);
	SPOIL(st2.tsc.khz = UINT32_MAX);
	SPOIL(st2.tsc.host_khz = 0);
	SPOIL(st2.tsc.has_offset = 2);
	close_both();
}
END_TEST

/* What passes the check may still be refused by KVM: an error with words, never a crash. */
START_TEST(random_damage)
{
	struct wbuf w;
	struct rbuf r;
	unsigned seed = 1;

	NEED_KVM();
	open_both();
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	encode(&w, &vcpu_state_table, &st);
	for (int i = 0; i < 3000; i++) {
		size_t at = (size_t)rand_r(&seed) % w.len;
		uint8_t old = w.data[at];

		w.data[at] ^= (uint8_t)(1u << rand_r(&seed) % 8);
		rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
		e = (struct err)ERR_INIT;
		if (!fields_decode(&r, &vcpu_state_table, &st2, &e) && rbuf_done(&r) &&
		    !vcpu_state_check(&st2, b.vcpus[0], &e) &&
		    vcpu_state_load(b.vcpus[0], &st2, &no_shift, &e))
			ck_assert_msg(e.msg[0], "byte %zu: refused without words", at);
		w.data[at] = old;
	}
	wbuf_free(&w);
	/* And after all that a good one goes in. */
	e = (struct err)ERR_INIT;
	OK(vcpu_state_load(b.vcpus[0], &st, &no_shift, &e));
	close_both();
}
END_TEST

START_TEST(irq_and_pit)
{
	struct irq_state irq, irq2;
	struct pit_state pit, pit2;
	struct wbuf p, q;

	NEED_KVM();
	open_both();
	OK(vm_irq_save(a.vm, &irq, &e));
	OK(vm_irq_check(&irq, &e));
	irq.master.irq_base = 0x20;
	irq.master.imr = 0xfb;
	irq.slave.irq_base = 0x28;
	irq.slave.imr = 0xff;
	irq.ioapic.id = 1;
	irq.ioapic.ioregsel = 0x10;
	irq.ioapic.redirtbl[4] = 0x10034;             /* masked */
	irq.ioapic.redirtbl[23] = 0x010000000001a045; /* masked, level */
	OK(vm_irq_load(b.vm, &irq, &e));
	OK(vm_irq_save(b.vm, &irq2, &e));
	encode(&p, &vm_irq_table, &irq);
	encode(&q, &vm_irq_table, &irq2);
	ck_assert_uint_eq(p.len, q.len);
	ck_assert_mem_eq(p.data, q.data, p.len);
	irq2.ioapic.base_address = 0x1000;
	ck_assert_int_eq(vm_irq_check(&irq2, &e), -EINVAL);

	e = (struct err)ERR_INIT;
	OK(vm_pit_save(a.vm, &pit, &e));
	OK(vm_pit_check(&pit, &e));
	pit.channels[0].count = 11932;
	pit.channels[0].mode = 2;
	pit.channels[0].rw_mode = 3;
	pit.channels[2].count = 1000;
	OK(vm_pit_check(&pit, &e));
	OK(vm_pit_load(b.vm, &pit, &e));
	OK(vm_pit_save(b.vm, &pit2, &e));
	ck_assert_uint_eq(pit2.channels[0].count, 11932);
	ck_assert_uint_eq(pit2.channels[0].mode, 2);
	ck_assert_uint_eq(pit2.channels[2].count, 1000);
	pit.channels[1].count = 70000;
	ck_assert_int_eq(vm_pit_check(&pit, &e), -EINVAL);
	wbuf_free(&p);
	wbuf_free(&q);
	close_both();
}
END_TEST

/* A clock arrives with the time that went by on the way, by KVM's means and by ours. */
START_TEST(clock_goes_on)
{
	struct clock_state saved, now;
	struct tsc_shift shift;

	NEED_KVM();
	for (int fallback = 0; fallback < 2; fallback++) {
		uint64_t gone;

		open_both();
		OK(vm_clock_save(a.vm, &saved, &e));
		OK(vm_clock_check(&saved, &e));
		saved.clock_ns += 1000 * NS_PER_SEC;
		if (fallback)
			saved.flags = 0;
		(void)usleep(50000);
		OK(vm_clock_load(b.vm, &saved, &shift, &e));
		OK(vm_clock_save(b.vm, &now, &e));
		gone = now.clock_ns - saved.clock_ns;
		ck_assert_uint_ge(gone, 49 * NS_PER_MS);
		ck_assert_uint_le(gone, now.saved_real_ns - saved.saved_real_ns + NS_PER_MS);
		if (fallback)
			ck_assert(!shift.valid);
		/* A source whose clock is ahead of ours: no step back. */
		saved.realtime_ns += 3600 * NS_PER_SEC;
		saved.saved_real_ns += 3600 * NS_PER_SEC;
		OK(vm_clock_load(b.vm, &saved, &shift, &e));
		OK(vm_clock_save(b.vm, &now, &e));
		ck_assert_uint_ge(now.clock_ns, saved.clock_ns);
		ck_assert_uint_le(now.clock_ns, saved.clock_ns + NS_PER_SEC);
		saved.clock_ns = UINT64_MAX;
		ck_assert_int_eq(vm_clock_check(&saved, &e), -EINVAL);
		close_both();
	}
}
END_TEST

START_TEST(tsc_arithmetic)
{
	const uint32_t khz = 2000000; /* 2 cycles a ns */
	struct tsc_shift s = {.valid = true,
			      .clock_src_ns = 1000,
			      .clock_dst_ns = 1000 + 500,
			      .host_tsc_src = 7000000,
			      .host_tsc_dst = 300};
	uint64_t offset = tsc_offset_moved(50, &s, khz, khz, khz);
	uint32_t twice = khz * 2;

	/* Guest TSC: 7000050 at the source, 500 ns = 1000 cycles later at the destination. */
	ck_assert_uint_eq(300 + offset, 7000050 + 1000);
	/* 200 millionths faster is the same processor; the guest counts host cycles. */
	offset = tsc_offset_moved(50, &s, khz, khz, khz + 400);
	ck_assert_uint_eq(300 + offset, 7000050 + 1000);
	ck_assert(!tsc_is_scaled(khz, khz + 400));
	ck_assert(tsc_is_scaled(khz, khz + 600));
	/* A destination of twice the frequency counts two cycles for one of the guest's. */
	offset = tsc_offset_moved(50, &s, khz, khz, twice);
	ck_assert_uint_eq(300 / 2 + offset, 7000050 + 1000);
	/* ... and a source of twice the frequency did. */
	offset = tsc_offset_moved(50, &s, khz, twice, khz);
	ck_assert_uint_eq(300 + offset, 7000000 / 2 + 50 + 1000);
	/* Offsets are negative as a rule. */
	offset = tsc_offset_moved(-(uint64_t)6999000, &s, khz, khz, khz);
	ck_assert_uint_eq(300 + offset, 1000 + 1000);
	/* Time never goes back. */
	s.clock_dst_ns = 10;
	offset = tsc_offset_moved(50, &s, khz, khz, khz);
	ck_assert_uint_eq(300 + offset, 7000050);
	/* A year on the way does not overflow. */
	s.clock_dst_ns = s.clock_src_ns + 365ull * 86400 * NS_PER_SEC;
	offset = tsc_offset_moved(50, &s, khz, khz, khz);
	ck_assert_uint_eq(300 + offset, 7000050 + 2 * 365ull * 86400 * NS_PER_SEC);
}
END_TEST

/* Where the guest's TSC is moved by KVM, or cannot be moved at all, it does not go back. */
START_TEST(tsc_does_not_go_back)
{
	struct clock_state clock;
	struct tsc_shift shift;

	NEED_KVM();
	open_both();
	OK(vm_clock_save(a.vm, &clock, &e));
	OK(vcpu_state_save(a.vcpus[0], &st, &e));
	(void)usleep(20000);
	OK(vm_clock_load(b.vm, &clock, &shift, &e));
	OK(vcpu_state_load(b.vcpus[0], &st, &shift, &e));
	OK(vcpu_state_save(b.vcpus[0], &st2, &e));
	ck_assert_uint_ge(st2.tsc.value - st.tsc.value, 19ull * st.tsc.khz);
	ck_assert_uint_le(st2.tsc.value - st.tsc.value, 5000ull * st.tsc.khz);
	st.tsc.khz = st.tsc.khz / 2;
	if (!b.vm->caps.tsc_control) {
		ck_assert_int_eq(vcpu_state_load(b.vcpus[0], &st, &shift, &e), -EINVAL);
		ck_assert_ptr_nonnull(strstr(e.msg, "kHz"));
	}
	close_both();
}
END_TEST

SUITE("state", round_trip, through_bytes, moved_guest_goes_on, lapic_timer_keeps_ticking,
      deadline_timer_is_moved, msr_refusals, check_refuses, random_damage, irq_and_pit,
      clock_goes_on, tsc_arithmetic, tsc_does_not_go_back)
