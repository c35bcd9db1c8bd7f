/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two synthetic machines, a guest in one of them, and what must hold between them. The checks are
 * Check assertions: call them from the test's thread only.
 */
#ifndef TESTS_UNIT_SUPPORT_PAIR_H
#define TESTS_UNIT_SUPPORT_PAIR_H

#include "tests/support/suite.h"
#include "tests/unit/support/synth.h"

#define PAIR_MIB (1ull << 20)

struct pair {
	struct synth_guest guest;
	struct synth *src, *dst;
};

/* The destination listens at a free TCP port. */
void pair_up(struct pair *p, uint64_t ram_bytes, uint64_t seed);
/* The same with machines that can rehearse. */
void pair_up_rehearsing(struct pair *p, uint64_t ram_bytes, uint64_t seed);
void pair_down(struct pair *p);

/* Send with no bandwidth limit and this downtime limit to the destination. */
void pair_send(struct pair *p, uint64_t limit_ms);
void pair_set_params(struct pair *p, uint64_t bandwidth, uint64_t limit_ms);

/* The migration under way must end well: one owner, everything equal. Its last status. */
struct mig_status pair_completes(struct pair *p);
/* It must end in this state with `text` in its message, and the guest as it was at the source. */
void pair_keeps(struct pair *p, enum mig_state end, const char *text);
/* After pair_keeps(): the same destination takes a second attempt. */
void pair_again(struct pair *p);

/* A suite without the log's lines. */
#define PAIR_SUITE(name, ...) SUITE_WITH(name, synth_quiet, NULL, __VA_ARGS__)

#endif
