/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start of the writer, and the workers' loop.
 */
#include "guest/writer/writer.h"

#include <stddef.h>

#include "guest/lib/clock.h"
#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/say.h"
#include "guest/lib/smp.h"
#include "guest/lib/user.h"

/* How often vCPU 0 looks for a command: seldom, as each look costs a way to ring 0 and an exit. */
#define POLL_US 10000
/* The longest time without a look for an order. */
#define SPIN_US 1000
/* Writes that a worker was kept from are made up for, but no more than these. */
#define ARREARS_US 100000
/* With blackout=off: writes due sooner than this are done together. */
#define NAP_US 1000

GUEST_NAME("writer");
GUEST_NOTE_64;

struct config config;
struct worker *workers;
struct orders orders;

static uint32_t ready_workers;

static const char *const patterns[] = {"seq", "uniform", "hot", NULL};
static const char *const fills[] = {"random", "text", "zero", NULL};
static const char *const blackouts[] = {"spin", "off", NULL};

void worker_obey(struct worker *w)
{
	uint32_t seq = __atomic_load_n(&orders.seq, __ATOMIC_ACQUIRE);
	enum order order = orders.order;

	if (seq == w->order_seen)
		return;
	if (order == ORDER_VERIFY || order == ORDER_STOP)
		part_verify(w);
	if (order == ORDER_RESET)
		gaps_reset(&w->gaps);
	__atomic_store_n(&w->order_seen, seq, __ATOMIC_RELEASE);
	if (order == ORDER_STOP && w->cpu)
		user_stop();
}

static bool order_is_out(const struct worker *w)
{
	return __atomic_load_n(&orders.seq, __ATOMIC_RELAXED) != w->order_seen;
}

/* Read the clock until the TSC is `until`. */
static void spin(struct worker *w, uint64_t until)
{
	uint64_t loops = 0;

	/* Counted here and stored at the end: the worker's page shall not be dirty all the time. */
	do
		loops++;
	while (gaps_tick(&w->gaps) < until && !order_is_out(w));
	w->loops += loops;
}

static bool may_write(const struct worker *w)
{
	return w->writing && !__atomic_load_n(&orders.paused, __ATOMIC_RELAXED);
}

/* Write what is due. */
static void write_some(struct worker *w, uint64_t now)
{
	uint64_t arrears = config.us_ticks * ARREARS_US;

	if (!w->interval_ticks) {
		part_write(w);
		return;
	}
	while ((int64_t)(now - w->due_tsc) >= 0 && !order_is_out(w)) {
		/* In here too: who is always behind does not come out. */
		if (now - w->due_tsc > arrears)
			w->due_tsc = now - arrears;
		part_write(w);
		w->due_tsc += w->interval_ticks;
		now = gaps_tick(&w->gaps);
	}
}

/* Nothing to do before `until` (0: before an order comes). */
static void pass_time(struct worker *w, uint64_t now, uint64_t until)
{
	uint64_t step = config.us_ticks * SPIN_US, nap = config.us_ticks * NAP_US;

	if (config.blackout == BLACKOUT_SPIN) {
		spin(w, until && until - now < step ? until : now + step);
		return;
	}
	if (until && until - now < nap)
		until = now + nap;
	user_halt(until);
	w->loops++;
}

static void check_time(uint64_t now)
{
	if (config.time_s && clock_us(now - orders.start_tsc) >= config.time_s * 1000000)
		command_quit();
}

static _Noreturn void work(struct worker *w)
{
	uint64_t poll_tsc = 0;

	w->due_tsc = orders.start_tsc;
	for (;;) {
		uint64_t now = gaps_tick(&w->gaps), until = 0;

		worker_obey(w);
		if (!w->cpu && now >= poll_tsc) {
			command_poll();
			check_time(now);
			now = rdtsc();
			poll_tsc = now + config.us_ticks * POLL_US;
		}
		if (may_write(w)) {
			write_some(w, now);
			if (!w->interval_ticks)
				continue;
			until = w->due_tsc;
			now = w->gaps.last_tsc;
		}
		if (!w->cpu && (!until || poll_tsc < until))
			until = poll_tsc;
		if (!until || (int64_t)(until - now) > 0)
			pass_time(w, now, until);
	}
}

static void say_ready(uint64_t fill_us)
{
	say("%n: ready cpus=%u pages=%U size=%U ", config.cpus, config.region.nr_pages,
	    config.region.nr_pages * GUEST_PAGE_BYTES);
	if (config.writing)
		say("rate=%U", config.rate);
	else
		say("rate=none");
	say(" pattern=%s fill=%s blackout=%s tsc_khz=%u fill_us=%U\n", patterns[config.pattern],
	    fills[config.fill], blackouts[config.blackout], clock_tsc_khz(), fill_us);
}

/* vCPU 0 waits until all parts are filled, says so, and starts the clock of all. */
static void start_together(uint64_t boot_tsc)
{
	while (__atomic_load_n(&ready_workers, __ATOMIC_ACQUIRE) != config.cpus)
		cpu_relax();
	say_ready(clock_us(rdtsc() - boot_tsc));
	__atomic_store_n(&orders.start_tsc, rdtsc(), __ATOMIC_RELEASE);
	user_wake_all();
}

/* In ring 3, on every vCPU. */
static void worker_main(unsigned int cpu)
{
	struct worker *w = &workers[cpu];
	uint64_t boot_tsc = rdtsc();

	part_fill(w);
	__atomic_add_fetch(&ready_workers, 1, __ATOMIC_RELEASE);
	if (!cpu)
		start_together(boot_tsc);
	while (!__atomic_load_n(&orders.start_tsc, __ATOMIC_ACQUIRE))
		user_halt(0);
	gaps_reset(&w->gaps);
	work(w);
}

static void init_worker(unsigned int cpu)
{
	struct worker *w = &workers[cpu];
	uint64_t pages = config.region.nr_pages, cpus = config.cpus, writers = config.writers;
	bool writes = config.writing && cpu >= cpus - writers;
	uint64_t share = 0;

	if (writes)
		share = config.rate / writers + (cpus - 1 - cpu < config.rate % writers);
	*w = (struct worker){.cpu = cpu, .random = cpu};
	w->first_page = pages * cpu / cpus;
	w->nr_pages = pages * (cpu + 1) / cpus - w->first_page;
	w->writing = writes && w->nr_pages && (share || !config.rate);
	if (share)
		w->interval_ticks = clock_ticks(1000000) / share;
}

static void read_config(void)
{
	char rate[8];

	config.cpus = smp_cpus();
	config.pattern = cmdline_choice("pattern", patterns);
	config.fill = cmdline_choice("fill", fills);
	config.blackout = cmdline_choice("blackout", blackouts);
	config.time_s = cmdline_number("time", 0);
	config.us_ticks = clock_ticks(1) + 1;
	config.hot_percent = (unsigned int)cmdline_number("hot", 10);
	if (config.hot_percent > 100)
		die("bad value of hot=");

	config.writers = (unsigned int)cmdline_number("writers", config.cpus);
	if (!config.writers || config.writers > config.cpus)
		die("bad value of writers=");
	cmdline_get("rate", rate, sizeof(rate));
	config.writing = rate[0] != '-' && !string_equal(rate, "none");
	if (config.writing)
		config.rate = cmdline_number("rate", 1000);
}

void guest_main(void)
{
	uint64_t bytes = cmdline_number("size", 64 << 20);

	read_config();
	workers = ram_alloc(config.cpus * sizeof(struct worker));
	config.gens = ram_alloc(bytes / GUEST_PAGE_BYTES * sizeof(uint32_t));
	ram_take(&config.region, bytes);
	if (!bytes || config.region.nr_pages != bytes / GUEST_PAGE_BYTES) {
		say("%n: FAILED no room for size=%U, only for %U\n", bytes,
		    config.region.nr_pages * GUEST_PAGE_BYTES);
		guest_exit(GUEST_EXIT_FAILED);
	}
	for (unsigned int cpu = 0; cpu < config.cpus; cpu++)
		init_worker(cpu);
	smp_run(NULL, worker_main);
}
