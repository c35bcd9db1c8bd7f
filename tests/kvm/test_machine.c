/* SPDX-License-Identifier: Apache-2.0 */
/* The machine: how guests end, which changes of the run state are allowed, pausing, moving. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/codec.h"
#include "kvm/vcpu_state.h"
#include "mem/bits.h"
#include "tests/kvm/support/vmtest.h"
#include "tests/support/suite.h"
#include "vmm/cpu.h"
#include "vmm/devices_impl.h"
#include "vmm/machine.h"
#include "vmm/machine_impl.h"

static struct err e;
static atomic_uint events[3]; /* by enum machine_event_kind */

#define OK(call) ck_assert_msg(!(call), "%s", e.msg)

static void on_event(void *ctx, enum machine_event_kind kind)
{
	(void)ctx;
	atomic_fetch_add(&events[kind], 1);
}

static uint32_t dirty_ring; /* what create() asks for */

static struct machine *create(const char *kernel, unsigned n_cpus)
{
	const struct machine_config cfg = {
		.name = "test",
		.mem_bytes = VMTEST_MEM,
		.n_cpus = n_cpus,
		.dirty_ring = dirty_ring,
		.kernel = kernel,
		.serial = "none",
		.debug_exit = true,
		.kvm_fd = -1,
		.incoming = !kernel,
		.on_event = on_event,
		.devices = {.rng = true},
	};
	struct machine *m = NULL;

	e = (struct err)ERR_INIT;
	for (unsigned i = 0; i < 3; i++)
		atomic_store(&events[i], 0);
	OK(machine_create(&m, &cfg, &e));
	return m;
}

static struct machine *create_code(const void *code, size_t bytes, unsigned n_cpus)
{
	char path[] = VMTEST_KERNEL_PATH;
	struct machine *m;

	vmtest_kernel(path, code, bytes);
	m = create(path, n_cpus);
	(void)unlink(path);
	return m;
}

static void wait_state(struct machine *m, enum run_state want)
{
	uint64_t end = clock_mono_ns() + 10 * NS_PER_SEC;

	while (machine_state(m) != want && clock_mono_ns() < end)
		(void)usleep(1000);
	ck_assert_str_eq(machine_state_name(machine_state(m)), machine_state_name(want));
}

/* --- ends --- */

/* mov dx,0xf4; mov al,5; out dx,al; 1: hlt; jmp 1b */
static const uint8_t exit_code[] = {0x66, 0xba, 0xf4, 0x00, 0xb0, 0x05, 0xee, 0xf4, 0xeb, 0xfd};
/* mov al,0xfe; out 0x64,al; 1: hlt; jmp 1b */
static const uint8_t reset_code[] = {0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd};
/* lidt [0x20000] (a limit of 0); ud2 */
static const uint8_t triple_code[] = {0x0f, 0x01, 0x1d, 0x00, 0x00, 0x02, 0x00, 0x0f, 0x0b};
/* crc32 eax,[0xd0000000] */
static const uint8_t bad_code[] = {0xf2, 0x0f, 0x38, 0xf1, 0x05, 0x00, 0x00, 0x00, 0xd0};
/* 1: inc ebx; jmp 1b */
static const uint8_t spin_code[] = {0x43, 0xeb, 0xfd};

static const struct {
	const uint8_t *code;
	size_t bytes;
	enum end_kind kind;
	int status;
	enum run_state state;
	const char *words;
} ends[] = {
	{exit_code, sizeof(exit_code), END_DEBUG_EXIT, 11, RUN_SHUTDOWN, "value 5"},
	{reset_code, sizeof(reset_code), END_RESET, 0, RUN_SHUTDOWN, "reset"},
	{triple_code, sizeof(triple_code), END_TRIPLE_FAULT, 3, RUN_SHUTDOWN, "triple fault"},
	{bad_code, sizeof(bad_code), END_INTERNAL_ERROR, 4, RUN_INTERNAL_ERROR, "f2 0f 38 f1"},
};

START_TEST(guest_ends)
{
	struct machine_end end;
	struct machine *m;

	NEED_KVM();
	m = create_code(ends[_i].code, ends[_i].bytes, 2);
	ck_assert_int_eq(machine_state(m), RUN_PRELAUNCH);
	machine_end(m, &end);
	ck_assert_int_eq(end.kind, END_NONE);
	OK(machine_resume(m, &e));
	wait_state(m, ends[_i].state);
	machine_end(m, &end);
	ck_assert_int_eq(end.kind, ends[_i].kind);
	ck_assert_int_eq(end.exit_status, ends[_i].status);
	ck_assert_ptr_nonnull(strstr(end.text, ends[_i].words));
	/* It can be looked at and stays as it is. */
	ck_assert_int_eq(machine_resume(m, &e), -EPERM);
	ck_assert_ptr_nonnull(strstr(e.msg, ends[_i].words));
	ck_assert_int_eq(machine_pause(m, NULL), -EPERM);
	ck_assert_int_eq(machine_state(m), ends[_i].state);
	ck_assert_int_gt(machine_cpu_tid(m, 1), 0);
	machine_free(m);
	ck_assert_uint_eq(events[MACHINE_EVENT_END], 1);
	ck_assert_uint_eq(events[MACHINE_EVENT_RESUME], 1);
}
END_TEST

/* --- run states --- */

START_TEST(pause_and_resume)
{
	struct machine *m;

	NEED_KVM();
	m = create_code(spin_code, sizeof(spin_code), 4);
	OK(machine_pause(m, &e)); /* does not run yet: so it is */
	ck_assert_int_eq(machine_state(m), RUN_PRELAUNCH);
	for (int i = 0; i < 50; i++) {
		OK(machine_resume(m, &e));
		OK(machine_resume(m, &e));
		ck_assert_int_eq(machine_state(m), RUN_RUNNING);
		OK(machine_pause(m, &e));
		OK(machine_pause(m, &e));
		ck_assert_int_eq(machine_state(m), RUN_PAUSED);
	}
	OK(machine_resume(m, &e));
	machine_free(m);
	ck_assert_uint_eq(events[MACHINE_EVENT_STOP], 50);
	ck_assert_uint_eq(events[MACHINE_EVENT_RESUME], 51);
	machine_free(NULL);
}
END_TEST

static struct machine *ending;

static int end_and_hang(struct vdev *d, struct err *err)
{
	(void)d;
	machine_guest_ended(ending, END_SHUTDOWN, 0, "just now");
	return err_set(err, ETIMEDOUT, "stuck");
}

/* The guest ends while a device does not come to rest: nothing goes on with it. */
START_TEST(end_while_pausing)
{
	struct vdev_ops wrong;
	struct vdev *rng;

	NEED_KVM();
	ending = create_code(spin_code, sizeof(spin_code), 1);
	rng = ending->devices->list[0].vdev;
	wrong = *rng->ops;
	wrong.quiesce = end_and_hang;
	OK(machine_resume(ending, &e));
	ck_assert(!rng->is_paused);
	rng->ops = &wrong;
	ck_assert_int_eq(machine_pause(ending, &e), -ETIMEDOUT);
	ck_assert_int_eq(machine_state(ending), RUN_SHUTDOWN);
	ck_assert(rng->is_paused);
	machine_free(ending);
}
END_TEST

START_TEST(incoming_waits)
{
	struct machine *m;

	NEED_KVM();
	m = create(NULL, 1);
	ck_assert_int_eq(machine_state(m), RUN_INMIGRATE);
	ck_assert_int_eq(machine_resume(m, &e), -EPERM);
	ck_assert_ptr_nonnull(strstr(e.msg, "no guest has arrived"));
	ck_assert_int_eq(machine_pause(m, NULL), -EPERM);
	machine_free(m);
}
END_TEST

START_TEST(bad_configs)
{
	struct machine_config cfg = {.mem_bytes = VMTEST_MEM, .kvm_fd = -1, .kernel = "/dev/null"};
	struct machine *m = NULL;

	NEED_KVM();
	for (unsigned n = 0; n < 66; n += 65) {
		cfg.n_cpus = n;
		e = (struct err)ERR_INIT;
		ck_assert_int_eq(machine_create(&m, &cfg, &e), -EINVAL);
		ck_assert_ptr_nonnull(strstr(e.msg, "--cpus"));
	}
	cfg.n_cpus = 1;
	cfg.mem_bytes = 4097;
	e = (struct err)ERR_INIT;
	ck_assert_int_lt(machine_create(&m, &cfg, &e), 0);
	ck_assert_ptr_nonnull(strstr(e.msg, "--mem"));
	cfg.mem_bytes = VMTEST_MEM;
	e = (struct err)ERR_INIT;
	ck_assert_int_lt(machine_create(&m, &cfg, &e), 0);
	ck_assert_ptr_nonnull(strstr(e.msg, "/dev/null"));
	cfg.serial = "nonsense";
	e = (struct err)ERR_INIT;
	ck_assert_int_lt(machine_create(&m, &cfg, &e), 0);
	ck_assert_ptr_nonnull(strstr(e.msg, "--serial"));
	cfg.kernel = NULL;
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(machine_create(&m, &cfg, &e), -EINVAL);
	ck_assert_ptr_nonnull(strstr(e.msg, "--kernel"));
	ck_assert_ptr_null(m);
}
END_TEST

START_TEST(many_vcpus)
{
	struct machine *m;

	NEED_KVM();
	m = create_code(spin_code, sizeof(spin_code), 64);
	ck_assert_uint_eq(machine_n_cpus(m), 64);
	OK(machine_resume(m, &e));
	OK(machine_pause(m, &e));
	machine_free(m);
}
END_TEST

/* --- pausing in the middle of I/O --- */

/*
 * mov dx,0x10; xor ebx,ebx; 1: in eax,dx; inc ebx; cmp eax,ebx; jne 2f; mov [0x20000],eax; jmp 1b;
 * 2: mov dx,0x11; out dx,eax; 3: hlt; jmp 3b
 */
static const uint8_t seq_code[] = {0x66, 0xba, 0x10, 0x00, 0x31, 0xdb, 0xed, 0x43, 0x39,
				   0xd8, 0x75, 0x07, 0xa3, 0x00, 0x00, 0x02, 0x00, 0xeb,
				   0xf3, 0x66, 0xba, 0x11, 0x00, 0xef, 0xf4, 0xeb, 0xfd};

struct seq {
	uint32_t n; /* numbers given out */
	bool wrong;
	struct vcpu_state state;
};

static bool seq_exit(void *ctx, struct vcpu *v, const struct vcpu_exit *exit)
{
	struct seq *s = ctx;

	(void)v;
	if (exit->kind != VCPU_EXIT_IO || exit->io.out) {
		s->wrong = true;
		return false;
	}
	s->n++;
	memcpy(exit->io.data, &s->n, sizeof(s->n));
	return true;
}

static int seq_save_load(void *arg, struct vcpu *v, struct err *err)
{
	static const struct tsc_shift shift;
	struct seq *s = arg;
	int rc = vcpu_state_save(v, &s->state, err);

	/* The guest has every number that was given to it: none hangs between KVM and us. */
	if (!rc && s->state.regs.rbx != s->n &&
	    !(s->state.regs.rbx == s->n - 1 && s->state.regs.rax == s->n))
		return err_set(err, EIO, "number %u was given, the guest has %llu", s->n,
			       (unsigned long long)s->state.regs.rbx);
	if (!rc)
		rc = vcpu_state_load(v, &s->state, &shift, err);
	return rc;
}

START_TEST(pause_completes_io)
{
	static struct seq s;
	struct vmtest t;
	struct cpu *cpu;

	NEED_KVM();
	e = (struct err)ERR_INIT;
	vmtest_open(&t, VMTEST_MEM, 1, false);
	VMTEST_CODE(&t, seq_code);
	OK(cpu_create(&cpu, t.vcpus[0], seq_exit, &s, &e));
	ck_assert_int_eq(cpu_call(cpu, seq_save_load, &s, &e), 0);
	(void)cpu_wait_call(cpu, clock_mono_ns() + 60 * NS_PER_SEC, NULL);
	for (int i = 0; i < 300; i++) {
		cpu_request_run(cpu);
		(void)usleep((useconds_t)(i * 13 % 700));
		if (i % 7 == 0)
			ck_assert_int_eq(cpu_call(cpu, seq_save_load, &s, NULL), -EBUSY);
		cpu_request_stop(cpu);
		if (i % 5 == 0) { /* a request that is taken back */
			cpu_request_run(cpu);
			cpu_request_stop(cpu);
		}
		OK(cpu_wait_stopped(cpu, clock_mono_ns() + 60 * NS_PER_SEC, &e));
		ck_assert(!s.wrong);
		OK(cpu_call(cpu, seq_save_load, &s, &e));
		OK(cpu_wait_call(cpu, clock_mono_ns() + 60 * NS_PER_SEC, &e));
	}
	ck_assert_uint_gt(s.n, 1000);
	ck_assert(cpu_free(cpu, clock_mono_ns() + 60 * NS_PER_SEC));
	vmtest_close(&t);
}
END_TEST

/* --- moving --- */

/* mov dx,0xf4; 1: mov eax,[0x30000]; test eax,eax; jz 1b; out dx,al; 2: hlt; jmp 2b */
static const uint8_t wait_code[] = {0x66, 0xba, 0xf4, 0x00, 0xa1, 0x00, 0x00, 0x03, 0x00,
				    0x85, 0xc0, 0x74, 0xf7, 0xee, 0xf4, 0xeb, 0xfd};

static void copy_sections(const struct mig_machine *from, const struct mig_machine *to)
{
	ck_assert_uint_eq(from->n_sections, to->n_sections);
	for (unsigned i = 0; i < from->n_sections; i++) {
		const struct mig_section *s = &from->sections[i], *d = &to->sections[i];
		struct wbuf w;
		struct rbuf r;

		ck_assert_str_eq(s->table->name, d->table->name);
		ck_assert_uint_eq(s->instance, d->instance);
		wbuf_init(&w, ORDER_LITTLE, 1u << 20);
		fields_encode(&w, s->table, s->data);
		ck_assert_int_eq(wbuf_error(&w), 0);
		rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
		OK(fields_decode(&r, d->table, d->data, &e));
		ck_assert(rbuf_done(&r));
		wbuf_free(&w);
	}
}

/* Nobody is told, no state changes, and it may be done as often as one likes. */
static void rehearse(struct machine *a, struct machine *b, const struct mig_machine *va,
		     const struct mig_machine *vb)
{
	unsigned stops = atomic_load(&events[MACHINE_EVENT_STOP]);
	unsigned resumes = atomic_load(&events[MACHINE_EVENT_RESUME]);
	struct mig_rehearsal r = {0};

	for (unsigned i = 0; i < 5; i++) {
		OK(va->rehearse(va->ctx, &r, &e));
		ck_assert_uint_gt(r.pause_ns, 0);
		ck_assert_uint_gt(r.collect_ns, 0);
		ck_assert_int_eq(machine_state(a), RUN_RUNNING);
		copy_sections(va, vb);
		OK(vb->rehearse_apply(vb->ctx, &e));
		ck_assert_int_eq(machine_state(b), RUN_INMIGRATE);
	}
	/* A paused guest stays so. */
	OK(machine_pause(a, &e));
	OK(va->rehearse(va->ctx, &r, &e));
	ck_assert_int_eq(machine_state(a), RUN_PAUSED);
	OK(machine_resume(a, &e));
	ck_assert_uint_eq(atomic_load(&events[MACHINE_EVENT_STOP]), stops + 1);
	ck_assert_uint_eq(atomic_load(&events[MACHINE_EVENT_RESUME]), resumes + 1);
	ck_assert_int_eq(va->rehearse_apply(va->ctx, NULL), -EPERM);
	ck_assert_int_eq(vb->rehearse(vb->ctx, &r, NULL), -EPERM);
}

START_TEST(move_and_fall_back)
{
	struct machine *a, *b;
	struct mig_machine va, vb;
	struct machine_end end;
	bool was;
	uint32_t go = 9;

	NEED_KVM();
	b = create(NULL, 2);
	a = create_code(wait_code, sizeof(wait_code), 2);
	va = machine_migration_view(a);
	vb = machine_migration_view(b);
	OK(machine_resume(a, &e));
	(void)usleep(10000);
	OK(va.pause(va.ctx, &was, &e));
	ck_assert(was);
	ck_assert_int_eq(machine_state(a), RUN_FINISH_MIGRATE);
	ck_assert_int_eq(machine_resume(a, &e), -EPERM);
	ck_assert_ptr_nonnull(strstr(e.msg, "migration"));
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(va.pause(va.ctx, &was, &e), -EPERM); /* one at a time */
	e = (struct err)ERR_INIT;
	OK(va.collect(va.ctx, &e));
	/* Called off: it runs here as before. */
	OK(va.resume(va.ctx, &e));
	ck_assert_int_eq(machine_state(a), RUN_RUNNING);
	/* Once more, from the user's pause, and called off again: still paused. */
	OK(machine_pause(a, &e));
	OK(va.pause(va.ctx, &was, &e));
	ck_assert(!was);
	OK(va.resume(va.ctx, &e));
	ck_assert_int_eq(machine_state(a), RUN_PAUSED);
	OK(machine_resume(a, &e));
	rehearse(a, b, &va, &vb);

	OK(va.pause(va.ctx, &was, &e));
	OK(va.collect(va.ctx, &e));
	memcpy(machine_mem(b)->blocks[0].hva, machine_mem(a)->blocks[0].hva, VMTEST_MEM);
	copy_sections(&va, &vb);
	/* A spoiled state is refused, the next attempt may still come. */
	((struct vcpu_state *)vb.sections[1].data)->mp_state = 77;
	ck_assert_int_eq(vb.apply(vb.ctx, &e), -EINVAL);
	ck_assert_ptr_nonnull(strstr(e.msg, "vCPU 1"));
	e = (struct err)ERR_INIT;
	copy_sections(&va, &vb);
	OK(vb.apply(vb.ctx, &e));
	ck_assert_int_eq(machine_state(b), RUN_INMIGRATE);
	va.given_away(va.ctx);
	ck_assert_int_eq(machine_state(a), RUN_POSTMIGRATE);
	OK(vb.taken_over(vb.ctx, true, &e));
	ck_assert_int_eq(machine_state(b), RUN_RUNNING);
	ck_assert_int_eq(machine_resume(a, &e), -EPERM);
	ck_assert_ptr_nonnull(strstr(e.msg, "handed over"));
	ck_assert_int_eq(va.resume(va.ctx, NULL), -EPERM);
	ck_assert_int_eq(vb.apply(vb.ctx, NULL), -EPERM);

	/* It really runs there, and only there. */
	OK(mem_write(machine_mem(a), 0x30000, &go, sizeof(go)));
	OK(mem_write(machine_mem(b), 0x30000, &go, sizeof(go)));
	wait_state(b, RUN_SHUTDOWN);
	machine_end(b, &end);
	ck_assert_int_eq(end.exit_status, 19);
	(void)usleep(20000);
	ck_assert_int_eq(machine_state(a), RUN_POSTMIGRATE);
	machine_free(a);
	machine_free(b);
}
END_TEST

START_TEST(guest_ends_while_it_is_paused)
{
	struct mig_machine v;
	uint32_t go = 1;
	bool was;

	NEED_KVM();
	for (int i = 0; i < 30; i++) {
		struct machine *m = create_code(wait_code, sizeof(wait_code), 1);
		int rc;

		v = machine_migration_view(m);
		OK(machine_resume(m, &e));
		(void)usleep(2000);
		OK(mem_write(machine_mem(m), 0x30000, &go, sizeof(go)));
		(void)usleep((useconds_t)(i * 3));
		rc = v.pause(v.ctx, &was, &e);
		/* Either it was paused before its last instruction, or it has ended: never both. */
		if (!rc) {
			ck_assert_int_eq(machine_state(m), RUN_FINISH_MIGRATE);
			OK(v.resume(v.ctx, &e));
		} else {
			ck_assert_int_eq(rc, -EPERM);
			ck_assert_ptr_nonnull(strstr(e.msg, "has ended"));
		}
		wait_state(m, RUN_SHUTDOWN);
		machine_free(m);
	}
}
END_TEST

/* How the guest's writes are learned makes no difference to the host's. */
START_TEST(dirty_view_merges_host_writes)
{
	struct mig_dirty_source d;
	struct mig_bitmap map;
	struct machine *m;
	uint64_t pages = VMTEST_MEM >> MEM_PAGE_SHIFT, all[VMTEST_MEM >> (MEM_PAGE_SHIFT + 6)];
	uint64_t written;
	uint32_t v = 0;

	NEED_KVM();
	dirty_ring = _i ? 1024 : 0;
	m = create_code(wait_code, sizeof(wait_code), 1);
	d = machine_dirty_source(m);
	memset(all, 0xff, sizeof(all));
	ck_assert_int_eq(mig_bitmap_init(&map, &pages, 1), 0);
	OK(mem_write(machine_mem(m), 50 * MEM_PAGE_BYTES, &v, sizeof(v)));
	OK(d.start(d.ctx, &e));
	OK(d.harvest(d.ctx, &map, &e));
	OK(d.protect(d.ctx, 0, 0, all, pages / 64, &e));
	mig_bitmap_free(&map);
	ck_assert_int_eq(mig_bitmap_init(&map, &pages, 1), 0);
	OK(d.harvest(d.ctx, &map, &e));
	ck_assert_uint_eq(mig_bitmap_count(&map), 0); /* page 50 was written before it began */
	OK(mem_write(machine_mem(m), 70 * MEM_PAGE_BYTES - 2, &v, sizeof(v)));
	OK(d.harvest(d.ctx, &map, &e));
	ck_assert_uint_eq(mig_bitmap_count(&map), 2);
	ck_assert(bits_test(map.blocks[0].words, 69));
	ck_assert(bits_test(map.blocks[0].words, 70));
	if (machine_dirty_pages(m, 0, &written))
		ck_assert_uint_eq(written, 0); /* no vCPU's doing */
	else if (_i)
		(void)printf("SKIP rings: KVM has none\n");
	ck_assert(!machine_dirty_pages(m, 1, &written));
	d.stop(d.ctx);
	d.stop(d.ctx);
	mig_bitmap_free(&map);
	machine_free(m);
}
END_TEST

SUITE("machine", EACH(guest_ends, ends), pause_and_resume, end_while_pausing, incoming_waits,
      bad_configs, many_vcpus, pause_completes_io, move_and_fall_back,
      guest_ends_while_it_is_paused, TIMES(2, dirty_view_merges_host_writes))
