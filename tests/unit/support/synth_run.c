/* SPDX-License-Identifier: Apache-2.0 */
/* The writers, and running migrations between two synthetic machines. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/support/raw.h"
#include "tests/unit/support/synth.h"
#include "tests/unit/support/synth_writer.h"

#define WORDS_PER_PAGE (MEM_PAGE_BYTES / sizeof(uint64_t))
#define BURST          16 /* writes between two pauses for breath */

/* ---- RAM ---- */

uint64_t synth_n_pages(const struct synth *s)
{
	return s->mem->size_bytes / MEM_PAGE_BYTES;
}

static unsigned find_block(const struct synth *s, uint64_t *page)
{
	unsigned b = 0;

	while (*page >= s->mem->blocks[b].n_pages)
		*page -= s->mem->blocks[b++].n_pages;
	return b;
}

uint8_t *synth_page(const struct synth *s, uint64_t page)
{
	unsigned b = find_block(s, &page);

	return s->mem->blocks[b].hva + page * MEM_PAGE_BYTES;
}

void synth_fill(struct synth *s, uint64_t first, uint64_t n)
{
	uint64_t r = s->cfg.seed ^ first << 32;

	for (uint64_t page = first; page < first + n; page++) {
		uint64_t *at = (uint64_t *)(void *)synth_page(s, page);

		for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
			at[i] = synth_random(&r);
	}
}

/* ---- the guest ---- */

/* As a store instruction would: not torn, and unordered with whoever reads the page meanwhile. */
static void store(uint64_t *at, uint64_t v)
{
	__atomic_store_n(at, v, __ATOMIC_RELAXED);
}

static void write_page(struct synth *s, uint64_t page, uint64_t *r)
{
	uint64_t in_block = page, v = synth_random(r);
	unsigned b = find_block(s, &in_block);
	uint64_t *at = (uint64_t *)(void *)synth_page(s, page);

	if (bitset_or(&s->log[b], in_block / 64, 1ull << (in_block % 64)))
		atomic_fetch_add(&s->cpu_writes, 1);
	if (v % 8 == 0) { /* back to zero */
		for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
			store(&at[i], 0);
	} else if (v % 8 == 1) {
		for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
			store(&at[i], v + i);
	} else { /* a few words here and there */
		for (unsigned i = 0; i < 1 + v % 4; i++)
			store(&at[synth_random(r) % WORDS_PER_PAGE], v);
	}
}

void synth_store(struct synth *s, uint64_t page, uint64_t value)
{
	uint64_t in_block = page;
	unsigned b = find_block(s, &in_block);
	uint64_t *at = (uint64_t *)(void *)synth_page(s, page);

	pthread_mutex_lock(&s->lock);
	if (s->running) {
		(void)bitset_or(&s->log[b], in_block / 64, 1ull << (in_block % 64));
		for (unsigned i = 0; i < WORDS_PER_PAGE; i++)
			store(&at[i], value);
	}
	pthread_mutex_unlock(&s->lock);
}

static void breathe(uint64_t writes_per_s)
{
	uint64_t ns = writes_per_s ? BURST * NS_PER_SEC / writes_per_s : 20 * NS_PER_US;
	struct timespec ts = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};

	(void)nanosleep(&ts, NULL);
}

/* After a burst that took so long: wait as the share says. */
static void heed_share(struct synth *s, uint64_t ran_ns)
{
	unsigned share = atomic_load(&s->shares[0]);
	uint64_t ns = ran_ns * (MIG_SHARE_FULL - share) / share;
	struct timespec ts = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};

	atomic_fetch_add(&s->cpu_run_ns, ran_ns);
	if (ns)
		(void)nanosleep(&ts, NULL);
	atomic_fetch_add(&s->cpu_stall_ns, ns);
}

static void *writer(void *arg)
{
	struct synth *s = arg;
	uint64_t r = s->cfg.seed + 1;
	bool quit = false;

	while (!quit) {
		uint64_t begin_ns = clock_mono_ns();

		for (unsigned i = 0; i < BURST && !quit; i++) {
			pthread_mutex_lock(&s->lock);
			while (!s->running && !s->quit)
				(void)pthread_cond_wait(&s->changed, &s->lock);
			quit = s->quit;
			if (!quit) {
				write_page(s, s->first_page + synth_random(&r) % s->n_pages, &r);
				atomic_fetch_add(&s->writes, 1);
			}
			pthread_mutex_unlock(&s->lock);
		}
		if (!quit)
			breathe(s->writes_per_s);
		heed_share(s, clock_mono_ns() - begin_ns);
	}
	return NULL;
}

/* A device's thread: stops with the guest, writes through mem_write(). */
static void *host_writer(void *arg)
{
	struct synth *s = arg;
	uint64_t r = s->cfg.seed + 2;
	bool quit = false;

	while (!quit) {
		uint64_t page = s->host_first_page + synth_random(&r) % s->host_n_pages;
		unsigned b = find_block(s, &page);
		uint64_t gpa = s->mem->blocks[b].gpa + page * MEM_PAGE_BYTES;
		uint8_t data[200];

		memset(data, (int)(synth_random(&r) % 4), sizeof(data));
		pthread_mutex_lock(&s->host_lock);
		/* Sometimes across a page's end. */
		if (s->host_running && page + 1 < s->host_first_page + s->host_n_pages) {
			(void)mem_write(s->mem, gpa + synth_random(&r) % MEM_PAGE_BYTES, data,
					sizeof(data));
			atomic_fetch_add(&s->host_writes, 1);
		}
		pthread_mutex_unlock(&s->host_lock);
		breathe(0);
		pthread_mutex_lock(&s->lock);
		quit = s->quit;
		pthread_mutex_unlock(&s->lock);
	}
	return NULL;
}

void synth_start_writer(struct synth *s, uint64_t first, uint64_t n, uint64_t writes_per_s)
{
	s->first_page = first;
	s->n_pages = n;
	s->writes_per_s = writes_per_s;
	s->has_writer = !pthread_create(&s->writer, NULL, writer, s);
}

void synth_start_host_writer(struct synth *s, uint64_t first, uint64_t n)
{
	s->host_first_page = first;
	s->host_n_pages = n;
	s->has_host_writer = !pthread_create(&s->host_writer, NULL, host_writer, s);
}

void synth_writers_end(struct synth *s)
{
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (s->has_writer)
		(void)pthread_join(s->writer, NULL);
	if (s->has_host_writer)
		(void)pthread_join(s->host_writer, NULL);
}

bool synth_alive(struct synth *s)
{
	uint64_t before = atomic_load(&s->writes), end = clock_mono_ns() + 10 * NS_PER_SEC;

	while (atomic_load(&s->writes) == before && clock_mono_ns() < end)
		breathe(0);
	return atomic_load(&s->writes) != before;
}

/* ---- migrations ---- */

static void must(int rc, const struct err *e)
{
	if (!rc)
		return;
	(void)fprintf(stderr, "a migration cannot be started: %s\n", e->msg);
	abort();
}

void synth_listen(struct synth *dst, const char *uri)
{
	struct mig_dest_config cfg = {.uri = uri,
				      .mem = dst->mem,
				      .machine = dst->machine,
				      .on_event = watch_event,
				      .event_ctx = &dst->watch};
	struct err e = ERR_INIT;

	mig_dest_free(dst->dest);
	dst->dest = NULL;
	watch_reset(&dst->watch);
	(void)mem_discard(dst->mem, &e);
	must(mig_dest_start(&dst->dest, &cfg, &e), &e);
}

void synth_send(struct synth *src, const char *uri, uint64_t bandwidth, uint64_t limit_ms)
{
	struct mig_params p;

	mig_params_default(&p);
	p.max_bandwidth_bytes_s = bandwidth;
	p.downtime_limit_ms = limit_ms;
	p.pause_before_switchover = src->hold;
	p.compress = src->compress;
	p.verify = src->verify;
	p.channels = src->channels;
	synth_send_params(src, uri, &p);
}

void synth_send_params(struct synth *src, const char *uri, const struct mig_params *params)
{
	struct mig_source_config cfg = {.uri = uri,
					.guest_name = "synthetic",
					.mem = src->mem,
					.dirty = src->dirty,
					.machine = src->machine,
					.free_sources = src->free_sources,
					.n_free_sources = src->n_free_sources,
					.cpus = src->cpus,
					.params = *params,
					.on_event = watch_event,
					.event_ctx = &src->watch};
	struct err e = ERR_INIT;

	mig_source_free(src->source);
	src->source = NULL;
	watch_reset(&src->watch);
	must(mig_source_start(&src->source, &cfg, &e), &e);
}

const char *synth_uri(const struct synth *dst)
{
	return mig_dest_uri(dst->dest);
}

bool synth_wait(struct synth *s, unsigned states)
{
	return watch_wait(&s->watch, states, SYNTH_WAIT_MS);
}

struct mig_status synth_status(struct synth *s)
{
	struct mig_status st;

	if (s->is_dest)
		mig_dest_status(s->dest, &st);
	else
		mig_source_status(s->source, &st);
	return st;
}

enum mig_state synth_wait_end(struct synth *src)
{
	if (!synth_wait(src, WATCH_ENDED) || !mig_source_ended(src->source))
		return MIG_NONE;
	return synth_status(src).state;
}

enum mig_state synth_settle(struct synth *dst)
{
	uint64_t end_ns = clock_mono_ns() + SYNTH_WAIT_MS * NS_PER_MS;
	int fd = raw_connect(synth_uri(dst));
	bool through = fd < 0;

	if (fd >= 0)
		(void)shutdown(fd, SHUT_WR);
	while (!through && clock_mono_ns() < end_ns)
		through = raw_ended(fd, 1) ||
			  watch_wait(&dst->watch, WATCH(MIG_UNDECIDED) | WATCH(MIG_COMPLETED), 0);
	if (fd >= 0)
		(void)close(fd);
	return through ? synth_status(dst).state : MIG_SETUP;
}

/* By hand, so that the thread sanitizer does not keep notes about gigabytes. */
__attribute__((no_sanitize("thread"))) static uint64_t
first_difference(const uint64_t *a, const uint64_t *b, uint64_t n)
{
	uint64_t i = 0;

	while (i < n && a[i] == b[i])
		i++;
	return i;
}

const char *synth_compare(const struct synth *a, const struct synth *b)
{
	static _Thread_local char text[96];

	for (unsigned i = 0; i < a->mem->n_blocks; i++) {
		const struct mem_block *k = &a->mem->blocks[i];
		uint64_t n = k->size_bytes / sizeof(uint64_t);
		uint64_t at = first_difference((const void *)k->hva,
					       (const void *)b->mem->blocks[i].hva, n);

		if (at < n) {
			(void)snprintf(text, sizeof(text), "%s differs in page %llu at byte %llu",
				       k->name, (unsigned long long)(at / WORDS_PER_PAGE),
				       (unsigned long long)(at % WORDS_PER_PAGE * 8));
			return text;
		}
	}
	if (a->state.model.n_features != b->state.model.n_features ||
	    memcmp(a->state.model.features, b->state.model.features,
		   sizeof(a->state.model.features)))
		return "the model differs";
	if (a->state.clock.ticks != b->state.clock.ticks ||
	    memcmp(a->state.cpus, b->state.cpus, sizeof(a->state.cpus)) ||
	    a->state.device.n_entries != b->state.device.n_entries ||
	    memcmp(a->state.device.entries, b->state.device.entries,
		   a->state.device.n_entries * sizeof(struct synth_entry)) ||
	    a->state.device.status != b->state.device.status ||
	    memcmp(a->state.device.config, b->state.device.config, sizeof(a->state.device.config)))
		return "the state outside RAM differs";
	return NULL;
}

const char *synth_check_owner(struct synth *src, enum mig_state end)
{
	struct synth_guest *g = src->guest;
	bool runs_at_source, runs_at_dest, given_away, taken_over;

	pthread_mutex_lock(&g->lock);
	runs_at_source = g->runs_at_source;
	runs_at_dest = g->runs_at_dest;
	given_away = g->given_away;
	taken_over = g->taken_over;
	pthread_mutex_unlock(&g->lock);
	if (atomic_load(&g->violation))
		return atomic_load(&g->violation);
	if (runs_at_source && runs_at_dest)
		return "both run the guest";
	switch (end) {
	case MIG_COMPLETED:
		return given_away && taken_over ? NULL : "completed without a new owner";
	case MIG_FAILED:
	case MIG_CANCELLED:
		if (given_away || taken_over)
			return "the source kept a guest that has gone";
		return runs_at_source == src->was_running || !atomic_load(&src->calls[SYNTH_PAUSE])
			       ? NULL
			       : "the source does not run the guest it kept";
	case MIG_UNDECIDED:
		return given_away ? NULL : "undecided, but not given away";
	default:
		return "it has not ended";
	}
}

/* In sanitizers' runtimes; absent without them. */
extern void __sanitizer_set_report_fd(void *fd) __attribute__((weak));

void synth_quiet(void)
{
	int null;

	/* Their reports go to standard error, and other places would have to be looked for. */
	if (__sanitizer_set_report_fd || getenv("FERRY_TEST_VERBOSE"))
		return;
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null >= 0) {
		(void)dup2(null, STDERR_FILENO);
		(void)close(null);
	}
}
