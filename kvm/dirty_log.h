/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's dirty log: which pages the guest's vCPUs wrote.
 *
 * Manual mode (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2): reading the log changes nothing, and pages are
 * protected again only by dirty_log_protect(). With INITIALLY_SET every page counts as dirty from
 * the start and nothing has to be protected when the log is switched on.
 * Plain mode (older KVM): reading a slot's log empties it and protects its pages again, at once, so
 * dirty_log_protect() has nothing to do. Users see the same rule in both: a page that was written
 * is in what dirty_log_read() gives until it is protected, or has been given once already.
 *
 * Host writes are not in KVM's log; mem's host marks hold them.
 *
 * Threads: start, stop and read from one thread at a time; protect from any, also while a read or
 * another protect is under way.
 */
#ifndef KVM_DIRTY_LOG_H
#define KVM_DIRTY_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kvm/vm.h"

#define DIRTY_LOG_CALL_WORDS 4096 /* 1 GiB of RAM */

struct dirty_log {
	struct vm *vm;
	bool manual;
	/* reader's */
	uint64_t *bitmap; /* room for the largest slot; NULL while stopped */
	/* atomic */
	uint64_t read_calls;
	uint64_t clear_calls, clear_pages; /* pages asked for, not how many were really dirty */
};

void dirty_log_init(struct dirty_log *log, struct vm *vm);

/* Begin to log all slots. On failure everything is as before. */
int dirty_log_start(struct dirty_log *log, struct err *e);
/* End it; idempotent. */
void dirty_log_stop(struct dirty_log *log);

/* What dirty_log_read() gives: bit i of words[] is the block's page first_page + i, i < n_pages. */
struct dirty_log_part {
	unsigned block;
	uint64_t first_page, n_pages;
	const uint64_t *words;
};

/*
 * One slot's bitmap (slots are numbered from 0 to log->vm->n_slots) as KVM has it now. The words
 * are the log's own and hold until the next read; bits past n_pages have no meaning.
 */
int dirty_log_read(struct dirty_log *log, unsigned slot, struct dirty_log_part *out, struct err *e);

/*
 * Forget that pages were written, and have their next write logged: those whose bits are set in
 * mask[0..n_words), bit 0 being page 64 * first_word of the block. Pages whose bit is clear keep
 * their state. Bits past the block's end are ignored. -EINVAL for words that lie outside the block.
 * One call to KVM for each slot that has a bit set, whatever lies between the bits and wherever in
 * a word of the mask the slot begins (one more for every DIRTY_LOG_CALL_WORDS of a slot that does
 * not begin with a word).
 */
int dirty_log_protect(struct dirty_log *log, unsigned block, uint64_t first_word,
		      const uint64_t *mask, uint64_t n_words, struct err *e);

#endif
