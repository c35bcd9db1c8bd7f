/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers that look random: the same for the same seed, on every run and every host.
 */
#ifndef FERRY_GUEST_RANDOM_H
#define FERRY_GUEST_RANDOM_H

#include <stdint.h>

/* A one-to-one function that scatters its argument over 64 bits. */
static inline uint64_t random_mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* The next one of a series that visits every 64-bit number. */
static inline uint64_t random_next(uint64_t *state)
{
	return random_mix(*state += 0x9e3779b97f4a7c15ULL);
}

/* A number from 0 to n - 1. */
static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
	return (uint64_t)((unsigned __int128)random_next(state) * n >> 64);
}

#endif
