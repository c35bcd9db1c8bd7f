/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the synthetic machine: what synth.c and its writers share. */
#ifndef TESTS_UNIT_SUPPORT_SYNTH_WRITER_H
#define TESTS_UNIT_SUPPORT_SYNTH_WRITER_H

#include <stdint.h>

struct synth;

/* xorshift64*: the same sequence for the same state, which must not be 0 for long. */
static inline uint64_t synth_random(uint64_t *state)
{
	uint64_t x = *state ? *state : 0x9e3779b97f4a7c15ull;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * 0x2545f4914f6cdd1dull;
}

void synth_writers_end(struct synth *s);

#endif
