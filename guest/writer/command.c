/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host asks for, answered by vCPU 0.
 */
#include "guest/writer/writer.h"

#include "guest/lib/clock.h"
#include "guest/lib/cpu.h"
#include "guest/lib/say.h"
#include "guest/lib/user.h"

static uint64_t now_us(void)
{
	return clock_us(rdtsc() - orders.start_tsc);
}

/* Have every worker carry out an order, and wait until all have. */
static void give_order(enum order order)
{
	orders.order = order;
	__atomic_store_n(&orders.seq, orders.seq + 1, __ATOMIC_RELEASE);
	if (config.blackout == BLACKOUT_OFF && config.cpus > 1)
		user_wake_all();
	worker_obey(&workers[0]);
	for (unsigned int cpu = 1; cpu < config.cpus; cpu++)
		while (__atomic_load_n(&workers[cpu].order_seen, __ATOMIC_ACQUIRE) != orders.seq)
			gaps_tick(&workers[0].gaps);
}

static uint64_t all_writes(void)
{
	uint64_t n = 0;

	for (unsigned int cpu = 0; cpu < config.cpus; cpu++)
		n += __atomic_load_n(&workers[cpu].writes, __ATOMIC_RELAXED);
	return n;
}

static uint64_t all_loops(void)
{
	uint64_t n = 0;

	for (unsigned int cpu = 0; cpu < config.cpus; cpu++)
		n += __atomic_load_n(&workers[cpu].loops, __ATOMIC_RELAXED);
	return n;
}

/* Say what the workers found; true if every page is as it was written. */
static bool say_verdict(void)
{
	const struct verdict *first = NULL;
	uint64_t bad = 0;

	for (unsigned int cpu = 0; cpu < config.cpus; cpu++) {
		const struct verdict *v = &workers[cpu].verdict;

		bad += v->bad;
		if (v->why && !first)
			first = v;
	}
	if (first)
		say("%n: verify FAILED page=%U have_gen=%U want_gen=%U bad=%U why=%s", first->page,
		    first->have_gen, first->want_gen, bad, first->why);
	else
		say("%n: verify ok");
	say(" pages=%U writes=%U t_us=%U\n", config.region.nr_pages, all_writes(), now_us());
	return !first;
}

static void say_work(void)
{
	for (unsigned int cpu = 0; cpu < config.cpus; cpu++)
		say("%n: work cpu=%u writes=%U loops=%U\n", cpu, workers[cpu].writes,
		    workers[cpu].loops);
	say("%n: work end\n");
}

/* Under `paused` the workers stay between two pages once they have obeyed any order. */
static void set_paused(bool paused)
{
	__atomic_store_n(&orders.paused, paused, __ATOMIC_RELAXED);
	give_order(ORDER_NONE);
}

void command_quit(void)
{
	bool ok;

	give_order(ORDER_STOP);
	ok = say_verdict();
	gaps_report();
	say("%n: done %s\n", ok ? "ok" : "FAILED");
	guest_exit(ok ? GUEST_EXIT_OK : GUEST_EXIT_FAILED);
}

static void carry_out(uint8_t command)
{
	switch (command) {
	case GUEST_CMD_VERIFY:
		give_order(ORDER_VERIFY);
		say_verdict();
		break;
	case GUEST_CMD_STATUS:
		say("%n: status t_us=%U writes=%U loops=%U paused=%u\n", now_us(), all_writes(),
		    all_loops(), orders.paused);
		break;
	case GUEST_CMD_WORK:
		say_work();
		break;
	case GUEST_CMD_BLACKOUT:
		gaps_report();
		break;
	case GUEST_CMD_RESET:
		give_order(ORDER_RESET);
		say("%n: blackout reset t_us=%U\n", now_us());
		break;
	case GUEST_CMD_PAUSE:
		set_paused(true);
		say("%n: paused t_us=%U writes=%U\n", now_us(), all_writes());
		break;
	case GUEST_CMD_CONTINUE:
		set_paused(false);
		say("%n: running t_us=%U\n", now_us());
		break;
	case GUEST_CMD_QUIT:
		command_quit();
	case ' ':
	case '\r':
	case '\n':
		break;
	default:
		say("%n: error command=%x\n", command);
	}
}

void command_poll(void)
{
	struct gaps *g = &workers[0].gaps;
	int c;

	gaps_tick(g);
	c = user_getc();
	gaps_skip_poll(g);
	if (c >= 0) {
		carry_out((uint8_t)c);
		gaps_skip_output(g);
	}
}
