/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract between the test guests and the host.
 *
 * A guest speaks lines of ASCII over the 16550 at GUEST_SERIAL_PORT. Every line begins with the
 * guest's name and a colon ("writer: ..."), then a word or two, then `key=value` pairs separated by
 * single spaces, and ends with '\n'. Values hold no spaces; numbers are decimal unless written with
 * 0x. The first line, "NAME: start", is sent by the first instructions that the guest executes. A
 * guest that finds anything wrong, itself included, sends a line with the word FAILED.
 *
 * The host sends single bytes, the commands below. A guest looks at its input about every 10 ms and
 * answers each command before it looks for the next, so a host that waits for the answer never
 * overruns the UART. Space, CR and LF are ignored; to any other byte the writer answers
 * "writer: error command=0xHH", the others nothing.
 *
 * Guests that end do so by one byte written to GUEST_EXIT_PORT: 0 if all is well, 1 if anything
 * FAILED. Where nothing answers there, every vCPU halts for ever.
 *
 * Command line, for every guest: cpus=N (vCPUs to start, 1 to GUEST_CPUS_MAX; APIC ids are 0 to
 * N-1), tsc_khz=N (TSC frequency; without it the guest finds it by kvmclock or the PIT), apic=x
 * (stay in xAPIC mode where x2APIC exists). Sizes take the suffixes K, M and G.
 *
 * What the writer says, S being what `s` and the others answer:
 *
 *      writer: ready cpus=N pages=N size=BYTES rate=N|none pattern=P fill=F blackout=B tsc_khz=N
 *                    fill_us=N                 (one line; after the fill)
 *   v  writer: verify ok pages=N writes=N t_us=N
 *      writer: verify FAILED page=N have_gen=N want_gen=N bad=N why=W pages=N writes=N t_us=N
 *   s  writer: status t_us=N writes=N loops=N paused=0|1
 *   w  writer: work cpu=N writes=N loops=N       one a vCPU, then "writer: work end"
 *   b  writer: blackout cpu=N max_us=N gaps=N io_us=N back=N longest=L hist=H
 *                                                one a vCPU, then "writer: blackout end"
 *   r  writer: blackout reset t_us=N
 *   p  writer: paused t_us=N writes=N
 *   c  writer: running t_us=N
 *   q  the answers to v and b, then "writer: done ok" or "writer: done FAILED", then the exit byte;
 *      the same when the run time is over
 *
 * t_us counts from the moment the workers started. `why` is one of magic, page, gen, sum, zero (a
 * page never written isn't all zeroes) and count (every page is whole, but the generations do not
 * add up to the number of writes). In the blackout lines a gap is the time between two successive
 * readings of the TSC of at least 1 us; gaps counts them, max_us is the longest; L lists up to
 * GUEST_LONGEST gaps, longest first, each LENGTH@START in us; H has GUEST_HIST_BUCKETS counts:
 * bucket i holds the gaps from 2^i to 2^(i+1) us, the last one all from 2^24 us (16.8 s) up. io_us
 * is the time spent in the guest's own serial I/O, which is in no gap; back counts readings that
 * went backwards. With blackout=off there are no cpu lines.
 *
 * The other guests, in short (guest/README.md has the table):
 *
 *   smp:   "smp: cpus=N ok"; v "smp: verify ok rounds=N passes=N halts=N"
 *   timer: "timer: ready mode=M hz=N tsc_khz=N"; s and v
 *          "timer: ticks lapic=N pit=N t_us=N kvmclock_us=N max_gap_us=N back=N"
 *   fpu:   "fpu: ready cpus=N avx=0|1 avx512=0|1"; v "fpu: verify ok rounds=N avx=N avx512=N"
 *   echo:  "echo: ready"; each line comes back as "echo: LINE"; the line "quit" ends it
 *   idle:  "idle: ready"      crash: "crash: about to HOW"
 *   balloon:
 *      "balloon: ready mode=M pages=N free=N rate=N churn=N fill_us=N"
 *      s "balloon: status t_us=N writes=N free=N lent=N rounds=N hints=N ended=N done=N broken=N
 *      stats=N": pages that are free and that are hinted and not taken back; rounds seen, hints
 *      given, end marks sent, rounds that the host was done with; times that the device gave up;
 *      statistics that were asked for
 *      v "balloon: verify ok pages=N free=N writes=N"
 *      f "balloon: free gpa=N bytes=N", one a run of free pages, then "balloon: free end"
 *   q      ends balloon, smp, timer and fpu with "NAME: done ok" or "NAME: done FAILED"
 */
#ifndef FERRY_GUEST_ABI_H
#define FERRY_GUEST_ABI_H

#include <stdint.h>

#define GUEST_SERIAL_PORT 0x3f8
#define GUEST_SERIAL_IRQ  4
#define GUEST_EXIT_PORT   0xf4
#define GUEST_CPUS_MAX    64

/* No line of a guest is longer, its '\n' included. */
#define GUEST_LINE_MAX 2048

#define GUEST_CMD_VERIFY   'v'
#define GUEST_CMD_STATUS   's'
#define GUEST_CMD_WORK     'w'
#define GUEST_CMD_BLACKOUT 'b'
#define GUEST_CMD_RESET    'r'
#define GUEST_CMD_PAUSE    'p'
#define GUEST_CMD_CONTINUE 'c'
#define GUEST_CMD_FREE     'f'
#define GUEST_CMD_QUIT     'q'

/* What goes to GUEST_EXIT_PORT; the VMM's exit status is (value << 1) | 1. */
#define GUEST_EXIT_OK     0
#define GUEST_EXIT_FAILED 1

#define GUEST_HIST_BUCKETS 25
#define GUEST_LONGEST      8

/*
 * A page of the writer's region: this header, then the body. `page` counts from the region's start,
 * `gen` from 1 (the fill) or, with fill=zero, from 1 for the first write. A page of generation 0 is
 * all zeroes. The body depends on page and gen alone (and on fill=).
 */
#define GUEST_PAGE_BYTES 4096
#define GUEST_PAGE_WORDS (GUEST_PAGE_BYTES / 8)
#define GUEST_PAGE_MAGIC 0x6170207972726566ULL /* "ferry pa" in memory */

struct guest_page {
	uint64_t magic;
	uint64_t page;
	uint64_t gen;
	uint64_t sum; /* guest_page_sum() */
	uint64_t body[GUEST_PAGE_WORDS - 4];
};

/* The checksum of a page: every word but `sum` itself. Four lanes, for speed. */
static inline uint64_t guest_page_sum(const struct guest_page *p)
{
	const uint64_t k = 0x9fb21c651e98df25ULL;
	uint64_t a = p->magic, b = p->page, c = p->gen, d = k;

	for (unsigned int i = 0; i < GUEST_PAGE_WORDS - 4; i += 4) {
		a = (a ^ p->body[i]) * k;
		a ^= a >> 32;
		b = (b ^ p->body[i + 1]) * k;
		b ^= b >> 32;
		c = (c ^ p->body[i + 2]) * k;
		c ^= c >> 32;
		d = (d ^ p->body[i + 3]) * k;
		d ^= d >> 32;
	}
	a = (a ^ (b << 1 | b >> 63)) * k;
	a ^= a >> 29;
	a = (a ^ (c << 2 | c >> 62)) * k;
	a ^= a >> 29;
	a = (a ^ (d << 3 | d >> 61)) * k;
	return a ^ a >> 29;
}

_Static_assert(sizeof(struct guest_page) == GUEST_PAGE_BYTES, "a page is a page");

#endif
