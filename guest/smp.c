/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every vCPU, in ring 3, waits for its turn, takes the token, counts, and hands on the token's next
 * number. A vCPU that waits long halts, and is woken by an IPI, so that 64 vCPUs get round on few
 * CPUs, and so that a lost IPI or a lost write shows: the token stands still, or is wrong.
 */
#include <stdbool.h>
#include <stddef.h>

#include "guest/abi.h"
#include "guest/lib/clock.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/say.h"
#include "guest/lib/smp.h"
#include "guest/lib/user.h"

#define SPIN_US     20
#define POLL_US     10000
#define STALL_POLLS 1000 /* looks without any progress: a migration pauses all, this too */
#define ID_CHECKS   256  /* passes between two looks at the APIC id */

GUEST_NAME("smp");
GUEST_NOTE_64;

/* Of one vCPU, on a page of its own. */
struct __attribute__((aligned(4096))) player {
	uint64_t passes, halts;
	bool halted;
	bool bad;
	uint64_t have, want;
	const char *why;
};

static struct player players[GUEST_CPUS_MAX];
static unsigned int cpus;
static uint64_t token; /* the turn: vCPU token % cpus plays */
static uint32_t ready;

static uint64_t read_token(void)
{
	return __atomic_load_n(&token, __ATOMIC_SEQ_CST);
}

/* The first thing wrong stays; the vCPU plays no more, so that nothing is overwritten. */
static _Noreturn void fail(struct player *p, const char *why, uint64_t have, uint64_t want)
{
	p->why = why;
	p->have = have;
	p->want = want;
	__atomic_store_n(&p->bad, true, __ATOMIC_RELEASE);
	user_stop();
}

static const struct player *first_bad(void)
{
	for (unsigned int cpu = 0; cpu < cpus; cpu++)
		if (__atomic_load_n(&players[cpu].bad, __ATOMIC_ACQUIRE))
			return &players[cpu];
	return NULL;
}

static void say_failure(const struct player *p)
{
	say("%n: FAILED cpu=%u why=%s have=%U want=%U\n", (uint32_t)(p - players), p->why, p->have,
	    p->want);
}

static _Noreturn void leave(bool ok)
{
	say("%n: done %s\n", ok ? "ok" : "FAILED");
	guest_exit(ok ? GUEST_EXIT_OK : GUEST_EXIT_FAILED);
}

/* Every vCPU has passed on the token as often as vCPU 0, give or take one. */
static bool verify(void)
{
	uint64_t now = read_token(), passes = 0, halts = 0;

	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		uint64_t n = __atomic_load_n(&players[cpu].passes, __ATOMIC_SEQ_CST);
		uint64_t want = now / cpus;

		/* Meanwhile the token goes on: at least `want`, at most what it is by now. */
		if (n < want || n > read_token() / cpus + 1) {
			say("%n: verify FAILED cpu=%u passes=%U want=%U\n", cpu, n, want);
			return false;
		}
		passes += n;
		halts += players[cpu].halts;
	}
	say("%n: verify ok rounds=%U passes=%U halts=%U\n", now / cpus, passes, halts);
	return true;
}

static void look_for_stall(void)
{
	static uint64_t seen;
	static unsigned int polls;

	if (read_token() != seen) {
		seen = read_token();
		polls = 0;
	} else if (++polls == STALL_POLLS) {
		say("%n: FAILED stalled token=%U cpu=%u\n", seen, (uint32_t)(seen % cpus));
		leave(false);
	}
}

/* vCPU 0, every POLL_US. */
static void poll(void)
{
	static uint64_t due_tsc;

	if (rdtsc() < due_tsc)
		return;
	if (first_bad()) {
		say_failure(first_bad());
		leave(false);
	}
	look_for_stall();
	switch (user_getc()) {
	case GUEST_CMD_VERIFY:
	case GUEST_CMD_STATUS:
		if (!verify())
			leave(false);
		break;
	case GUEST_CMD_QUIT:
		leave(verify());
	default:
		break;
	}
	due_tsc = rdtsc() + clock_ticks(POLL_US);
}

static void wait_turn(struct player *p, unsigned int cpu, uint64_t turn)
{
	uint64_t spin_until = rdtsc() + clock_ticks(SPIN_US);

	while (read_token() != turn) {
		if (!cpu)
			poll();
		if (rdtsc() < spin_until) {
			cpu_relax();
			continue;
		}
		/* Either this sees the new token, or the other sees that this halts. */
		__atomic_store_n(&p->halted, true, __ATOMIC_SEQ_CST);
		if (read_token() != turn) {
			p->halts++;
			user_halt(cpu ? 0 : rdtsc() + clock_ticks(POLL_US));
		}
		__atomic_store_n(&p->halted, false, __ATOMIC_SEQ_CST);
	}
}

static void pass_on(uint64_t turn)
{
	unsigned int next = (unsigned int)((turn + 1) % cpus);

	__atomic_store_n(&token, turn + 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&players[next].halted, __ATOMIC_SEQ_CST))
		user_wake(next);
}

static void check_id(struct player *p, unsigned int cpu)
{
	unsigned int id = user_apic_id();

	if (id != cpu)
		fail(p, "apic_id", id, cpu);
}

/* In ring 3, on every vCPU. */
static void play(unsigned int cpu)
{
	struct player *p = &players[cpu];

	check_id(p, cpu);
	__atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
	if (!cpu) {
		while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) != cpus && !first_bad())
			cpu_relax();
		if (!first_bad())
			say("%n: cpus=%u ok\n", cpus);
	}
	for (uint64_t turn = cpu;; turn += cpus) {
		wait_turn(p, cpu, turn);
		if (p->passes != turn / cpus)
			fail(p, "count", p->passes, turn / cpus);
		p->passes++;
		if (p->passes % ID_CHECKS == 0)
			check_id(p, cpu);
		if (!cpu)
			poll();
		pass_on(turn);
		if (read_token() <= turn)
			fail(p, "token", read_token(), turn + 1);
	}
}

void guest_main(void)
{
	cpus = smp_cpus();
	smp_run(NULL, play);
}
