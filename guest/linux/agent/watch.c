/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clock as user space sees it. While `blackout` watches, a thread reads the clock all the time
 * and keeps the longest gap between two readings: the time in which this guest did not run.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>

#include "agent.h"

static struct {
	bool runs; /* the main thread's */
	bool stop;
	uint64_t longest_ns;
	sem_t ended;
} watch;

static void *watcher(void *arg)
{
	uint64_t before = now_ns();

	while (!__atomic_load_n(&watch.stop, __ATOMIC_RELAXED)) {
		uint64_t now = now_ns();

		if (now - before > __atomic_load_n(&watch.longest_ns, __ATOMIC_RELAXED))
			__atomic_store_n(&watch.longest_ns, now - before, __ATOMIC_RELAXED);
		before = now;
	}
	(void)sem_post(&watch.ended);
	return arg;
}

static void end_watch(void)
{
	if (!watch.runs)
		return;
	__atomic_store_n(&watch.stop, true, __ATOMIC_RELAXED);
	while (sem_wait(&watch.ended))
		;
	watch.runs = false;
}

void do_blackout(const struct words *c)
{
	uint64_t longest_ns = __atomic_load_n(&watch.longest_ns, __ATOMIC_RELAXED);

	if (!strcmp(c->w[1], "start")) {
		end_watch();
		watch.stop = false;
		longest_ns = watch.longest_ns = 0;
		(void)sem_init(&watch.ended, 0, 0);
		watch.runs = spawn(watcher, NULL);
		if (!watch.runs) {
			say_failed(c, "no thread");
			return;
		}
	} else if (!strcmp(c->w[1], "stop")) {
		end_watch();
	} else if (strcmp(c->w[1], "read")) {
		say_failed(c, "expected start, read or stop");
		return;
	}
	say_ok(c, "max_us=%llu", (unsigned long long)(longest_ns / 1000));
}

void do_uptime(const struct words *c)
{
	struct timespec real;

	(void)clock_gettime(CLOCK_REALTIME, &real);
	say_ok(c, "ms=%llu real_ms=%llu", (unsigned long long)(now_ns() / 1000000),
	       (unsigned long long)real.tv_sec * 1000 + (unsigned long long)real.tv_nsec / 1000000);
}

static void *where(void *arg)
{
	*(int *)arg = sched_getcpu();
	return NULL;
}

/* Run a thread on each CPU, one after the other. */
void do_cpus(const struct words *c)
{
	int n = get_nprocs();

	for (int i = 0; i < n; i++) {
		pthread_attr_t attr;
		pthread_t thread;
		cpu_set_t one;
		int at = -1, rc;

		CPU_ZERO(&one);
		CPU_SET((size_t)i, &one);
		(void)pthread_attr_init(&attr);
		(void)pthread_attr_setaffinity_np(&attr, sizeof(one), &one);
		rc = pthread_create(&thread, &attr, where, &at);
		if (!rc)
			(void)pthread_join(thread, NULL);
		(void)pthread_attr_destroy(&attr);
		if (rc || at != i) {
			say_failed(c, "cpu %d: %s", i, rc ? strerror(rc) : "ran elsewhere");
			return;
		}
	}
	say_ok(c, "online=%d configured=%d", n, get_nprocs_conf());
}
