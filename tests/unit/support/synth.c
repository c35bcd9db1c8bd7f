/* SPDX-License-Identifier: Apache-2.0 */
/* The machine: its callbacks, its state, and who owns the guest. */
#include "tests/unit/support/synth.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mem/bits.h"
#include "tests/unit/support/synth_writer.h"

/* ---- state outside RAM ---- */

static const struct field cpu_fields[] = {
	FIELD_ARRAY(struct synth_cpu, regs, FIELD_U64),
	FIELD(struct synth_cpu, mode, FIELD_U32),
	FIELD(struct synth_cpu, halted, FIELD_U8),
};
static FIELD_TABLE(cpu_table, "cpu", 3, cpu_fields);

static const struct field entry_fields[] = {
	FIELD(struct synth_entry, addr, FIELD_U64),
	FIELD(struct synth_entry, len, FIELD_U16),
};
static FIELD_TABLE(entry_table, "entry", 1, entry_fields);

static const struct field device_fields[] = {
	FIELD(struct synth_device, n_entries, FIELD_U32),
	FIELD_SUB_VAR(struct synth_device, entries, n_entries, &entry_table),
	FIELD(struct synth_device, status, FIELD_U16),
	FIELD_RAW(struct synth_device, config),
};
static FIELD_TABLE(device_table, "device", 1, device_fields);

static const struct field clock_fields[] = {
	FIELD(struct synth_clock, ticks, FIELD_U64),
};
static FIELD_TABLE(clock_table, "clock", 7, clock_fields);

static const struct field model_fields[] = {
	FIELD(struct synth_model, n_features, FIELD_U32),
	{"features", FIELD_U16, offsetof(struct synth_model, features), sizeof(uint16_t), 32,
	 offsetof(struct synth_model, n_features), NULL},
};
static FIELD_TABLE(model_table, "model", 5, model_fields);

static void add_sections(struct synth *s)
{
	s->early[0] = (struct mig_section){0, &model_table, &s->state.model};
	s->sections[0] = (struct mig_section){0, &cpu_table, &s->state.cpus[0]};
	s->sections[1] = (struct mig_section){1, &cpu_table, &s->state.cpus[1]};
	s->sections[2] = (struct mig_section){0, &device_table, &s->state.device};
	s->sections[3] = (struct mig_section){0, &clock_table, &s->state.clock};
}

static void fill_state(struct synth *s)
{
	uint64_t r = s->cfg.seed * 2654435761u + atomic_load(&s->writes);
	struct synth_state *st = &s->state;

	for (unsigned i = 0; i < 2; i++) {
		for (unsigned k = 0; k < 8; k++)
			st->cpus[i].regs[k] = synth_random(&r);
		st->cpus[i].mode = (uint32_t)synth_random(&r);
		st->cpus[i].halted = i == 1;
	}
	st->device.n_entries = (uint32_t)(synth_random(&r) % 17);
	for (unsigned i = 0; i < st->device.n_entries; i++) {
		st->device.entries[i].addr = synth_random(&r);
		st->device.entries[i].len = (uint16_t)synth_random(&r);
	}
	st->device.status = (uint16_t)synth_random(&r);
	for (unsigned i = 0; i < sizeof(st->device.config); i++)
		st->device.config[i] = (uint8_t)synth_random(&r);
	st->clock.ticks = atomic_load(&s->writes);
}

/* ---- counting, delays, faults ---- */

static const char *const call_names[SYNTH_CALLS] = {
	[SYNTH_ADMIT] = "admit",       [SYNTH_START] = "start",
	[SYNTH_HARVEST] = "harvest",   [SYNTH_PROTECT] = "protect",
	[SYNTH_STOP] = "stop",         [SYNTH_PAUSE] = "pause",
	[SYNTH_RESUME] = "resume",     [SYNTH_STAY] = "stay",
	[SYNTH_COLLECT] = "collect",   [SYNTH_GIVEN_AWAY] = "given_away",
	[SYNTH_APPLY] = "apply",       [SYNTH_TAKEN_OVER] = "taken_over",
	[SYNTH_REHEARSE] = "rehearse", [SYNTH_REHEARSE_APPLY] = "rehearse_apply",
};

/* As long as this call takes; returns how long that was. */
static uint64_t take(struct synth *s, enum synth_call call)
{
	uint64_t ns = atomic_load(&s->delay_ns[call]), begin_ns = clock_mono_ns();
	struct timespec ts = {(time_t)(ns / NS_PER_SEC), (long)(ns % NS_PER_SEC)};

	if (ns)
		(void)nanosleep(&ts, NULL);
	return clock_mono_ns() - begin_ns;
}

static int enter(struct synth *s, enum synth_call call, struct err *e)
{
	unsigned n = atomic_fetch_add(&s->calls[call], 1) + 1;

	(void)take(s, call);
	if (n == atomic_load(&s->fail_at[call]))
		return err_set(e, EIO, "synthetic failure of %s", call_names[call]);
	return 0;
}

static void rule(struct synth_guest *g, bool kept, const char *text)
{
	const char *none = NULL;

	if (!kept)
		(void)atomic_compare_exchange_strong(&g->violation, &none, text);
}

void synth_guest_init(struct synth_guest *g)
{
	memset(g, 0, sizeof(*g));
	(void)pthread_mutex_init(&g->lock, NULL);
}

/* ---- the dirty source ---- */

static int log_start(void *ctx, struct err *e)
{
	struct synth *s = ctx;
	int rc = enter(s, SYNTH_START, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	rule(s->guest, !s->logging, "the log was started twice");
	s->logging = true;
	for (unsigned b = 0; b < s->mem->n_blocks; b++) {
		struct bitset *log = &s->log[b];

		for (uint64_t w = 0; (w = bitset_next_word(log, w)) < log->n_words; w++)
			(void)bitset_take(log, w, ~0ull);
		if (s->cfg.initially_set)
			bitset_fill(log);
	}
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* The first word at or after `w` that the guest or the host wrote to. */
static uint64_t next_written(const struct synth *s, unsigned b, uint64_t w)
{
	uint64_t guest = bitset_next_word(&s->log[b], w), host = mem_marks_next(s->mem, b, w);

	return guest < host ? guest : host;
}

static int log_harvest(void *ctx, struct mig_bitmap *into, struct err *e)
{
	struct synth *s = ctx;
	int rc = enter(s, SYNTH_HARVEST, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	rule(s->guest, s->logging, "harvest without a log");
	pthread_mutex_unlock(&s->lock);
	for (unsigned b = 0; b < s->mem->n_blocks; b++) {
		uint64_t n_words = s->log[b].n_words, w = next_written(s, b, 0);

		while (w < n_words) {
			pthread_mutex_lock(&s->lock);
			/* A stretch under one lock, so that the writers get their turns. */
			for (unsigned i = 0; i < 512 && w < n_words; i++) {
				(void)mig_bitmap_or(into, b, w,
						    s->log[b].words[w] |
							    mem_marks_take(s->mem, b, w));
				w = next_written(s, b, w + 1);
			}
			pthread_mutex_unlock(&s->lock);
		}
	}
	return 0;
}

static int log_protect(void *ctx, unsigned block, uint64_t first_word, const uint64_t *mask,
		       uint64_t n_words, struct err *e)
{
	struct synth *s = ctx;
	uint64_t n_pages = s->mem->blocks[block].n_pages;
	int rc = enter(s, SYNTH_PROTECT, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	rule(s->guest, s->logging, "protect without a log");
	rule(s->guest, n_words && first_word + n_words <= bits_words(n_pages),
	     "protect outside of the block");
	for (uint64_t w = 0; w < n_words && first_word + w < bits_words(n_pages); w++) {
		rule(s->guest, !(mask[w] & ~bits_word_mask(first_word + w, 0, n_pages)),
		     "protect of pages behind the block's end");
		(void)bitset_take(&s->log[block], first_word + w, mask[w]);
		atomic_fetch_add(&s->protected_pages, (unsigned)__builtin_popcountll(mask[w]));
	}
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static void log_stop(void *ctx)
{
	struct synth *s = ctx;

	(void)enter(s, SYNTH_STOP, NULL);
	pthread_mutex_lock(&s->lock);
	s->logging = false;
	pthread_mutex_unlock(&s->lock);
}

/* ---- the machine ---- */

/* When this returns, no writer writes until set_running(true). */
static bool set_running(struct synth *s, bool run)
{
	bool was;

	pthread_mutex_lock(&s->lock);
	was = s->running;
	s->running = run;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_lock(&s->host_lock);
	s->host_running = run;
	pthread_mutex_unlock(&s->host_lock);
	return was;
}

static int machine_admit(void *ctx, struct err *e)
{
	struct synth *s = ctx;
	int rc = enter(s, SYNTH_ADMIT, e);

	if (!rc && s->state.model.n_features > s->n_features)
		rc = err_set(e, EINVAL, "the guest uses feature %u, which is not offered here",
			     s->state.model.features[s->n_features]);
	return rc;
}

static int machine_pause(void *ctx, bool *was_running, struct err *e)
{
	struct synth *s = ctx;
	int rc = enter(s, SYNTH_PAUSE, e);

	s->was_running = set_running(s, false);
	*was_running = s->was_running;
	pthread_mutex_lock(&s->guest->lock);
	s->guest->runs_at_source = false;
	pthread_mutex_unlock(&s->guest->lock);
	return rc;
}

static int machine_resume(void *ctx, struct err *e)
{
	struct synth *s = ctx;
	struct synth_guest *g = s->guest;
	int rc = enter(s, SYNTH_RESUME, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&g->lock);
	rule(g, !g->given_away, "the source ran the guest after it was given away");
	rule(g, !g->taken_over, "the source ran the guest after it was taken over");
	g->runs_at_source = s->was_running;
	pthread_mutex_unlock(&g->lock);
	(void)set_running(s, s->was_running);
	return 0;
}

static int machine_stay(void *ctx, struct err *e)
{
	struct synth *s = ctx;
	int rc = enter(s, SYNTH_STAY, e);

	pthread_mutex_lock(&s->lock);
	rule(s->guest, !s->running, "a running guest was told to stay paused");
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static const char *machine_fate(void *ctx)
{
	struct synth *s = ctx;
	bool running;

	pthread_mutex_lock(&s->lock);
	running = s->running;
	pthread_mutex_unlock(&s->lock);
	return running ? "the guest keeps running here" : "the guest stays paused here";
}

static int machine_collect(void *ctx, struct err *e)
{
	struct synth *s = ctx;
	int rc = enter(s, SYNTH_COLLECT, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	rule(s->guest, !s->running, "the state was collected from a running guest");
	pthread_mutex_unlock(&s->lock);
	fill_state(s);
	return 0;
}

static int machine_rehearse(void *ctx, struct mig_rehearsal *out, struct err *e)
{
	struct synth *s = ctx;
	bool was = set_running(s, false);
	int rc = enter(s, SYNTH_REHEARSE, e);

	out->pause_ns = take(s, SYNTH_PAUSE);
	out->collect_ns = take(s, SYNTH_COLLECT);
	fill_state(s);
	out->resume_ns = take(s, SYNTH_RESUME);
	(void)set_running(s, was);
	return rc;
}

static void machine_given_away(void *ctx)
{
	struct synth *s = ctx;
	struct synth_guest *g = s->guest;

	(void)enter(s, SYNTH_GIVEN_AWAY, NULL);
	pthread_mutex_lock(&g->lock);
	rule(g, !g->runs_at_source, "a running guest was given away");
	rule(g, !g->given_away, "the guest was given away twice");
	g->given_away = true;
	pthread_mutex_unlock(&g->lock);
}

static int machine_apply(void *ctx, struct err *e)
{
	struct synth *s = ctx;
	int rc = enter(s, SYNTH_APPLY, e);

	if (rc)
		return rc;
	if (s->state.cpus[1].halted != 1)
		return err_set(e, EINVAL, "the second CPU is in an impossible state");
	return 0;
}

static int machine_rehearse_apply(void *ctx, struct err *e)
{
	struct synth *s = ctx;
	int rc = enter(s, SYNTH_REHEARSE_APPLY, e);

	(void)take(s, SYNTH_APPLY);
	if (!rc && s->state.cpus[1].halted != 1)
		return err_set(e, EINVAL, "the second CPU is in an impossible state");
	return rc;
}

static int machine_taken_over(void *ctx, bool run, struct err *e)
{
	struct synth *s = ctx;
	struct synth_guest *g = s->guest;
	int rc = enter(s, SYNTH_TAKEN_OVER, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&g->lock);
	rule(g, g->given_away || g->no_source, "a guest was taken over that was not given away");
	rule(g, !g->taken_over, "the guest was taken over twice");
	rule(g, !g->runs_at_source, "a guest was taken over that runs at the source");
	rule(g, atomic_load(&s->calls[SYNTH_APPLY]) > 0, "a guest runs without its state");
	g->taken_over = true;
	g->runs_at_dest = run;
	pthread_mutex_unlock(&g->lock);
	return 0;
}

/* ---- the vCPUs ---- */

static void cpus_sample(void *ctx, struct mig_cpu_sample *out, uint64_t *host_pages)
{
	struct synth *s = ctx;

	*host_pages = 0;
	out[0] = (struct mig_cpu_sample){.writes = atomic_load(&s->cpu_writes),
					 .run_ns = atomic_load(&s->cpu_run_ns),
					 .stall_ns = atomic_load(&s->cpu_stall_ns)};
	out[1] = (struct mig_cpu_sample){.run_ns = clock_mono_ns()};
}

static void cpus_set_share(void *ctx, unsigned cpu, unsigned share)
{
	struct synth *s = ctx;

	rule(s->guest, cpu < 2 && share >= MIG_SHARE_MIN && share <= MIG_SHARE_FULL,
	     "an impossible share");
	atomic_store(&s->shares[cpu], share);
	if (share < atomic_load(&s->lowest_shares[cpu]))
		atomic_store(&s->lowest_shares[cpu], share);
}

/* ---- birth and death ---- */

static struct synth *synth_new(struct synth_guest *g, const struct synth_config *cfg)
{
	struct synth *s = calloc(1, sizeof(*s));
	struct err e = ERR_INIT;

	if (!s || mem_create(&s->mem, cfg->backend, cfg->ram_bytes, &e))
		abort();
	s->cfg = *cfg;
	s->guest = g;
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_mutex_init(&s->host_lock, NULL);
	(void)pthread_cond_init(&s->changed, NULL);
	watch_init(&s->watch);
	for (unsigned b = 0; b < s->mem->n_blocks; b++) {
		if (bitset_init(&s->log[b], s->mem->blocks[b].n_pages))
			abort();
	}
	add_sections(s);
	s->n_features = 32;
	s->machine = (struct mig_machine){.ctx = s,
					  .early = s->early,
					  .n_early = 1,
					  .admit = machine_admit,
					  .pause = machine_pause,
					  .resume = machine_resume,
					  .stay = machine_stay,
					  .fate = machine_fate,
					  .collect = machine_collect,
					  .given_away = machine_given_away,
					  .apply = machine_apply,
					  .taken_over = machine_taken_over,
					  .sections = s->sections,
					  .n_sections = SYNTH_SECTIONS,
					  .n_cpus = 2};
	if (cfg->rehearses) {
		s->machine.rehearse = machine_rehearse;
		s->machine.rehearse_apply = machine_rehearse_apply;
	}
	for (unsigned i = 0; i < 2; i++) {
		atomic_init(&s->shares[i], MIG_SHARE_FULL);
		atomic_init(&s->lowest_shares[i], MIG_SHARE_FULL);
	}
	s->cpus = (struct mig_cpu_source){
		.ctx = s, .n_cpus = 2, .sample = cpus_sample, .set_share = cpus_set_share};
	s->dirty = (struct mig_dirty_source){.ctx = s,
					     .start = log_start,
					     .harvest = log_harvest,
					     .protect = log_protect,
					     .stop = log_stop};
	return s;
}

struct synth *synth_source(struct synth_guest *g, const struct synth_config *cfg)
{
	struct synth *s = synth_new(g, cfg);

	s->running = true;
	s->host_running = true;
	s->state.model.n_features = 3;
	for (unsigned i = 0; i < 3; i++)
		s->state.model.features[i] = (uint16_t)(cfg->seed + i);
	g->runs_at_source = true;
	return s;
}

struct synth *synth_dest(struct synth_guest *g, const struct synth_config *cfg)
{
	struct synth *s = synth_new(g, cfg);

	s->is_dest = true;
	return s;
}

void synth_stop_guest(struct synth *s)
{
	(void)set_running(s, false);
	pthread_mutex_lock(&s->guest->lock);
	s->guest->runs_at_source = false;
	pthread_mutex_unlock(&s->guest->lock);
}

void synth_free(struct synth *s)
{
	if (!s)
		return;
	mig_source_free(s->source);
	mig_dest_free(s->dest);
	synth_writers_end(s);
	for (unsigned b = 0; b < MEM_MAX_BLOCKS; b++)
		bitset_free(&s->log[b]);
	mem_free(s->mem);
	watch_free(&s->watch);
	(void)pthread_cond_destroy(&s->changed);
	(void)pthread_mutex_destroy(&s->host_lock);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}
