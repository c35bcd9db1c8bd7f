/* SPDX-License-Identifier: Apache-2.0 */
/* The brake on a vCPU's thread, and the count of its writes. */
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "kvm/dirty_log.h"
#include "kvm/vcpu_stats.h"
#include "mem/bits.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"
#include "vmm/cpu.h"
#include "vmm/cpu_slice.h"

static struct err e;

#define OK(call) ck_assert_msg(!(call), "%s", e.msg)

/* 1: inc ebx; jmp 1b */
static const uint8_t spin_code[] = {0x43, 0xeb, 0xfd};
/* 1: hlt; jmp 1b */
static const uint8_t halt_code[] = {0xf4, 0xeb, 0xfd};

static bool on_exit_none(void *ctx, struct vcpu *v, const struct vcpu_exit *exit)
{
	(void)ctx, (void)v, (void)exit;
	return true;
}

struct slowed {
	struct vmtest t;
	struct cpu *cpu;
};

static void slowed_up(struct slowed *s, const void *code, size_t bytes)
{
	e = (struct err)ERR_INIT;
	vmtest_open(&s->t, VMTEST_MEM, 1, false);
	vmtest_code(&s->t, code, bytes);
	OK(cpu_create(&s->cpu, s->t.vcpus[0], on_exit_none, NULL, &e));
}

static void slowed_down(struct slowed *s)
{
	ck_assert(cpu_free(s->cpu, clock_mono_ns() + 10 * NS_PER_SEC));
	vmtest_close(&s->t);
}

/* What the thread did while the clock went on until it had used or waited for so much. */
static struct cpu_time watch(struct slowed *s, uint64_t ns)
{
	struct cpu_time a = cpu_time(s->cpu), b = a;
	uint64_t end_ns = clock_mono_ns() + 20 * NS_PER_SEC;

	while (b.run_ns - a.run_ns + b.stall_ns - a.stall_ns < ns && clock_mono_ns() < end_ns) {
		(void)usleep(10000);
		b = cpu_time(s->cpu);
	}
	return (struct cpu_time){b.run_ns - a.run_ns, b.stall_ns - a.stall_ns};
}

static void stop(struct slowed *s)
{
	cpu_request_stop(s->cpu);
	OK(cpu_wait_stopped(s->cpu, clock_mono_ns() + 10 * NS_PER_SEC, &e));
}

/* A quarter, a twentieth, all of the time; changed while it runs. */
START_TEST(takes_its_share)
{
	static const unsigned shares[] = {SHARE_FULL, 250, 50, 500, SHARE_FULL};
	struct slowed s;

	NEED_KVM();
	slowed_up(&s, spin_code, sizeof(spin_code));
	cpu_request_run(s.cpu);
	for (unsigned i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
		struct cpu_time t;
		double share;

		cpu_set_share(s.cpu, shares[i]);
		(void)watch(&s, 50 * NS_PER_MS); /* the slice that is under way */
		t = watch(&s, 500 * NS_PER_MS);
		share = (double)t.run_ns / (double)(t.run_ns + t.stall_ns) * SHARE_FULL;
		ck_assert_double_gt(share, shares[i] * 0.5);
		ck_assert_double_lt(share, shares[i] * 2);
		if (shares[i] == SHARE_FULL)
			ck_assert_uint_eq(t.stall_ns, 0);
	}
	stop(&s);
	slowed_down(&s);
}
END_TEST

/* Stopping, running and ending it, again and again, while it is slowed as far as can be. */
START_TEST(stops_at_once)
{
	struct slowed s;

	NEED_KVM();
	slowed_up(&s, spin_code, sizeof(spin_code));
	cpu_set_share(s.cpu, SHARE_MIN);
	for (unsigned i = 0; i < 100; i++) {
		cpu_request_run(s.cpu);
		if (i % 3)
			(void)usleep(1000 * (i % 7));
		stop(&s);
	}
	cpu_request_run(s.cpu);
	(void)watch(&s, 50 * NS_PER_MS);
	slowed_down(&s); /* ends the thread in the middle of it */
}
END_TEST

/* Who does nothing is not made to wait. */
START_TEST(idle)
{
	struct cpu_time t;
	struct slowed s;

	NEED_KVM();
	slowed_up(&s, halt_code, sizeof(halt_code));
	cpu_set_share(s.cpu, 500);
	cpu_request_run(s.cpu);
	(void)usleep(300000);
	t = cpu_time(s.cpu);
	ck_assert_uint_lt(t.stall_ns, 100 * NS_PER_MS);
	stop(&s);
	slowed_down(&s);
}
END_TEST

START_TEST(arithmetic)
{
	ck_assert_uint_eq(slice_run_ns(250), SLICE_NS / 4);
	ck_assert_uint_eq(slice_stall_ns(250, SLICE_NS / 4), SLICE_NS / 4 * 3);
	ck_assert_uint_eq(slice_stall_ns(SHARE_FULL, SLICE_NS), 0);
	ck_assert_uint_eq(slice_stall_ns(500, 0), 0);
	for (unsigned share = 0; share <= SHARE_FULL; share++)
		ck_assert_uint_lt(slice_stall_ns(share, UINT64_MAX),
				  share < 50 ? 51 * NS_PER_MS : SLICE_NS);
}
END_TEST

/*
 * Write one byte in each of 256 pages from 1 MiB up, then halt:
 * mov edi,0x100000; mov ecx,256; 1: mov byte [edi],1; add edi,4096; dec ecx; jnz 1b;
 * mov dx,0xf4; out dx,al
 */
static const uint8_t write_code[] = {0xbf, 0x00, 0x00, 0x10, 0x00, 0xb9, 0x00, 0x01, 0x00,
				     0x00, 0xc6, 0x07, 0x01, 0x81, 0xc7, 0x00, 0x10, 0x00,
				     0x00, 0x49, 0x75, 0xf4, 0x66, 0xba, 0xf4, 0x00, 0xee};

START_TEST(counts_writes)
{
	uint64_t mask[VMTEST_MEM / MEM_PAGE_BYTES / 64], before, after;
	struct vcpu_stats stats;
	struct vcpu_exit exit;
	struct dirty_log log;
	struct vmtest t;

	NEED_KVM();
	e = (struct err)ERR_INIT;
	vmtest_open(&t, VMTEST_MEM, 1, false);
	if (vcpu_stats_open(&stats, t.vcpus[0])) {
		(void)printf("SKIP this KVM has no statistics of a vCPU's faults\n");
		vmtest_close(&t);
		return;
	}
	VMTEST_CODE(&t, write_code);
	dirty_log_init(&log, t.vm);
	OK(dirty_log_start(&log, &e));
	memset(mask, 0xff, sizeof(mask));
	OK(dirty_log_protect(&log, 0, 0, mask, sizeof(mask) / sizeof(mask[0]), &e));
	ck_assert_int_eq(vcpu_stats_faults(&stats, &before), 0);
	vmtest_run(&t, &exit, VCPU_EXIT_IO);
	ck_assert_int_eq(vcpu_stats_faults(&stats, &after), 0);
	if (after - before < 64)
		(void)printf("SKIP this KVM does not count the writes of this code\n");
	else
		ck_assert_uint_ge(after - before, 256);
	ck_assert_uint_lt(after - before, 256 + 100);
	dirty_log_stop(&log);
	vcpu_stats_close(&stats);
	ck_assert_int_lt(vcpu_stats_faults(&stats, &after), 0);
	vmtest_close(&t);
}
END_TEST

SUITE("slice", takes_its_share, stops_at_once, idle, arithmetic, counts_writes)
