/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A synthetic machine: what the migration engine moves in tests that have no /dev/kvm.
 *
 * RAM is real (mem_create); the "guest" is a thread that writes random pages, and a second thread
 * writes as host code does, through mem_write(). The dirty log is modelled after write protection:
 * a guest's write sets the page's log bit and changes its bytes under one lock, and protect()
 * clears bits under the same lock, so a write after protect() is always logged, and none falls
 * between the two. Every callback is counted, may be slow, and may be told to fail.
 *
 * A struct synth_guest is shared by the two machines of a migration and watches over the one rule
 * that matters: at no time do both run the guest, or own it. The first rule that is broken is kept
 * in words.
 *
 * Threads: the test's thread, but for the callbacks, which the engine calls from its own.
 */
#ifndef TESTS_UNIT_SUPPORT_SYNTH_H
#define TESTS_UNIT_SUPPORT_SYNTH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "mem/mem.h"
#include "migration/migration.h"
#include "tests/unit/support/watch.h"

#define SYNTH_WAIT_MS 20000 /* longer than anything takes, even under a sanitizer */

enum synth_call {
	SYNTH_ADMIT,
	SYNTH_START,
	SYNTH_HARVEST,
	SYNTH_PROTECT,
	SYNTH_STOP,
	SYNTH_PAUSE,
	SYNTH_RESUME,
	SYNTH_STAY,
	SYNTH_COLLECT,
	SYNTH_GIVEN_AWAY,
	SYNTH_APPLY,
	SYNTH_TAKEN_OVER,
	SYNTH_REHEARSE,       /* takes as long as PAUSE, COLLECT and RESUME */
	SYNTH_REHEARSE_APPLY, /* as long as APPLY */
	SYNTH_CALLS
};

struct synth_guest {
	pthread_mutex_t lock;
	bool runs_at_source, runs_at_dest, given_away, taken_over;
	bool no_source;                  /* a raw client plays the source */
	_Atomic(const char *) violation; /* the first rule that was broken */
};

/* State outside RAM. */
struct synth_cpu {
	uint64_t regs[8];
	uint32_t mode;
	uint8_t halted;
};

struct synth_entry {
	uint64_t addr;
	uint16_t len;
};

struct synth_device {
	uint32_t n_entries;
	struct synth_entry entries[16];
	uint16_t status;
	uint8_t config[24];
};

struct synth_clock {
	uint64_t ticks;
};

/* Constant, and sent before anything else. */
struct synth_model {
	uint32_t n_features;
	uint16_t features[32];
};

struct synth_state {
	struct synth_model model;
	struct synth_cpu cpus[2];
	struct synth_device device;
	struct synth_clock clock;
};

#define SYNTH_SECTIONS 4

struct synth_config {
	uint64_t ram_bytes;
	enum mem_backend backend;
	uint64_t seed;
	bool rehearses;     /* rehearsals of the switchover are possible */
	bool initially_set; /* the log says "dirty" of every page when it begins, as KVM's may */
};

struct synth {
	struct synth_config cfg;
	struct synth_guest *guest;
	bool is_dest;
	struct mem *mem;
	struct mig_machine machine;
	struct mig_dirty_source dirty;
	struct mig_section sections[SYNTH_SECTIONS];
	struct mig_section early[1];
	unsigned n_features;      /* how many a guest may have here */
	struct synth_state state; /* what the sections describe */
	/* counters and faults, one per callback */
	atomic_uint calls[SYNTH_CALLS];
	atomic_uint fail_at[SYNTH_CALLS]; /* the call that fails, counted from 1; 0 = none */
	_Atomic uint64_t delay_ns[SYNTH_CALLS];
	atomic_uint protected_pages;
	/* guarded by lock: the guest stops under it, and writes under it */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool quit, running, was_running, logging;
	struct bitset log[MEM_MAX_BLOCKS];
	/* the same for the host's writer */
	pthread_mutex_t host_lock;
	bool host_running;
	/* writers */
	pthread_t writer, host_writer;
	bool has_writer, has_host_writer;
	uint64_t writes_per_s; /* 0 = flat out */
	uint64_t first_page, n_pages, host_first_page, host_n_pages;
	/* vCPU 0 is the writer and heeds its share; vCPU 1 does not write */
	struct mig_cpu_source cpus;
	atomic_uint shares[2], lowest_shares[2];
	_Atomic uint64_t cpu_writes, cpu_run_ns, cpu_stall_ns;
	_Atomic uint64_t writes, host_writes;
	/* the engine's side */
	struct watch watch;
	/* for synth_send() */
	const struct mig_free_source *free_sources;
	unsigned n_free_sources;
	bool hold;         /* the same: pause before the switchover */
	unsigned channels; /* 0: one */
	bool compress;
	bool verify;
	struct mig_source *source;
	struct mig_dest *dest;
};

void synth_guest_init(struct synth_guest *g);

/* A machine with its RAM zero and the guest running (source) or not there yet (destination). */
struct synth *synth_source(struct synth_guest *g, const struct synth_config *cfg);
struct synth *synth_dest(struct synth_guest *g, const struct synth_config *cfg);
/* Ends writers and migration too. NULL is fine. */
void synth_free(struct synth *s);

/* Bytes that no other page has, in n pages from `first` (numbered over all blocks). */
void synth_fill(struct synth *s, uint64_t first, uint64_t n);
uint8_t *synth_page(const struct synth *s, uint64_t page);
/* The guest itself writes all words of a page, logged like any write of it. If it runs. */
void synth_store(struct synth *s, uint64_t page, uint64_t value);
uint64_t synth_n_pages(const struct synth *s);

/* Pages of [first, first+n) are written from now on while the guest runs. The host's too. */
void synth_start_writer(struct synth *s, uint64_t first, uint64_t n, uint64_t writes_per_s);
void synth_start_host_writer(struct synth *s, uint64_t first, uint64_t n);
/* Stop the guest by hand, so that the engine finds it paused. */
void synth_stop_guest(struct synth *s);
/* Does the guest go on writing? */
bool synth_alive(struct synth *s);

/* mig_dest_start() and mig_source_start(), which must not fail. They replace an ended one. */
void synth_listen(struct synth *dst, const char *uri);
void synth_send(struct synth *src, const char *uri, uint64_t bandwidth, uint64_t limit_ms);
void synth_send_params(struct synth *src, const char *uri, const struct mig_params *params);
/* The destination's address. */
const char *synth_uri(const struct synth *dst);

/* Wait until the migration is in one of the states (WATCH(MIG_x) | ...); false after a long time.
 */
bool synth_wait(struct synth *s, unsigned states);
/* Wait for the source's end; which one it was. */
enum mig_state synth_wait_end(struct synth *src);
struct mig_status synth_status(struct synth *s);
/*
 * Wait until the destination is through with the sources that have connected so far; the state it
 * is in then. Somebody whom it turns away at the door makes no event: another one knocks and waits
 * for its turn.
 */
enum mig_state synth_settle(struct synth *dst);

/* NULL, or what differs. Neither guest may run. */
const char *synth_compare(const struct synth *a, const struct synth *b);
/*
 * Did no rule break, and is the guest where this end of the source's says? NULL or what is wrong.
 * When it is MIG_COMPLETED the destination must have said so too.
 */
const char *synth_check_owner(struct synth *src, enum mig_state end);

/*
 * The program's warnings are of no interest from here on, unless $FERRY_TEST_VERBOSE is set. Nothing
 * changes in a build with sanitizers, whose reports are.
 */
void synth_quiet(void);

#endif
