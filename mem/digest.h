/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A digest of all RAM: equal memories have equal digests, whatever their backing; two that differ
 * in any page have different ones but for a chance of 1 in 2^64. Pages of zeroes count as nothing,
 * so holes are passed over. It finds damage, and is no defence against malice.
 *
 * Threads: from any thread, while nobody writes RAM. It starts helpers of its own.
 */
#ifndef MEM_DIGEST_H
#define MEM_DIGEST_H

#include "mem/mem.h"

/* With up to n_threads threads (the caller's among them); fewer where none can be made. */
uint64_t mem_digest(const struct mem *m, unsigned n_threads);

#endif
