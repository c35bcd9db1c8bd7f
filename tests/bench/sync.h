/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the sync benchmark share. One thread. */
#ifndef TESTS_BENCH_SYNC_H
#define TESTS_BENCH_SYNC_H

#include <stdint.h>

#define GIB_PAGES (1ull << 18)

/* Milliseconds of processor time since begin_ns (of CLOCK_THREAD_CPUTIME_ID). */
double bench_ms(uint64_t begin_ns);
uint64_t bench_now_ns(void);
double bench_median(double *samples, unsigned n);

/* The figures of KVM's own calls, on slots of so much RAM in all. Returns an exit status. */
int bench_kvm(uint64_t gib);

#endif
