/* SPDX-License-Identifier: Apache-2.0 */
/* What `ferry migrate` shows, out of query-migrate's answers. Pure functions. */
#ifndef VMM_CLI_PROGRESS_H
#define VMM_CLI_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* The members of query-migrate that the command looks at; 0 where one is missing. */
struct progress {
	char status[32];
	const char *error; /* borrowed from the answer; NULL if there is none */
	const char *token;
	uint64_t total_ns, setup_ms, downtime_ns, predicted_ns, predicted_at_switch_ns, limit_ns;
	uint64_t ram_total, remaining, transferred, normal_pages, zero_pages, page_bytes;
	uint64_t dirty_bytes_s, bytes_s;
	uint64_t least_ns, rehearsals, rehearsal_ns;
	const json_t *phases, *planned; /* of the downtime; borrowed, NULL if missing */
	uint64_t passes, syncs, switchovers_called_off;
	uint64_t stall_ns; /* taken from the guest by slowing it down */
	char slowed[64];   /* who is slowed down now: "vCPU 1 slowed to 40 %"; "" for nobody */
};

void progress_read(struct progress *p, const json_t *answer);
/* No longer under way. */
bool progress_ended(const struct progress *p);
/* The guest writes at least as fast as it is sent, after the first pass. */
bool progress_stuck(const struct progress *p);
/* The limit is below what a switchover without a single page would take. */
bool progress_below_least(const struct progress *p);
/* One line for people, without a newline: of its parts those that have room, the first ones. */
void progress_save_line(const struct progress *p, char *out, size_t out_bytes);
void progress_line(const struct progress *p, char *out, size_t out_bytes);
/* The table at the end of a completed migration or save. */
void progress_summary(const struct progress *p, FILE *to);

#endif
