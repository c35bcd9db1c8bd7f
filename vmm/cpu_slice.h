/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU that may use only a part of the time: it runs for a moment, then its thread stays out of
 * KVM_RUN for as long as its share asks for, again and again, a hundred times a second; less often
 * where the share is below 5 % and the moment took longer than it should (a wait is 50 ms at most).
 *
 * How long it stays out follows from the processor time that it used, not from the clock: a vCPU
 * that halts most of the time, or that the host did not let run, is not made to wait for that.
 *
 * The moment ends by a timer of the thread's own, which sends the thread the signal that gets it
 * out of the guest. It is repeated until slice_end(), as a signal that comes when the thread is on
 * its way into KVM_RUN interrupts nothing.
 *
 * Threads: the vCPU's own, which also calls slice_init() and slice_free(); but slice_run_ns() and
 * slice_stall_ns() are pure functions.
 */
#ifndef VMM_CPU_SLICE_H
#define VMM_CPU_SLICE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "base/clock.h"

#define SLICE_NS   (10 * NS_PER_MS) /* a moment and the wait after it */
#define SHARE_FULL 1000             /* in thousandths */
#define SHARE_MIN  10

struct slice {
	int signal;
	bool has_timer;
	timer_t timer;
	bool armed;
	uint64_t begin_cpu_ns;
};

void slice_init(struct slice *s, int signal);
void slice_free(struct slice *s);

/* The moment begins. A share of SHARE_FULL has no end. */
void slice_begin(struct slice *s, unsigned share);
/* It is over. Returns the processor time that it took; 0 if none had begun. */
uint64_t slice_end(struct slice *s);

/* How long a moment is, and how long the wait after a moment that used so much. */
uint64_t slice_run_ns(unsigned share);
uint64_t slice_stall_ns(unsigned share, uint64_t used_ns);

#endif
