/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/dirty_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "mem/bits.h"

/* KVM counts the pages of one call in 32 bits; calls begin and end at multiples of 64 pages. */
#define CLEAR_WORDS_MAX (1ull << 24)

void dirty_log_init(struct dirty_log *log, struct vm *vm)
{
	*log = (struct dirty_log){
		.vm = vm,
		.manual = vm->caps.dirty_manual & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
	};
}

int dirty_log_start(struct dirty_log *log, struct err *e)
{
	uint64_t words = 0;
	int rc;

	for (unsigned i = 0; i < log->vm->n_slots; i++) {
		if (bits_words(log->vm->slots[i].n_pages) > words)
			words = bits_words(log->vm->slots[i].n_pages);
	}
	free(log->bitmap);
	log->bitmap = malloc(words * sizeof(*log->bitmap));
	if (!log->bitmap)
		return err_set(e, ENOMEM, "out of memory for the dirty log");
	/* Touched now, and not within the first sync. */
	memset(log->bitmap, 0, words * sizeof(*log->bitmap));
	rc = vm_log_all(log->vm, true, e);
	if (rc) {
		free(log->bitmap);
		log->bitmap = NULL;
	}
	return rc;
}

void dirty_log_stop(struct dirty_log *log)
{
	if (!log->bitmap)
		return;
	/* A log that cannot be switched off costs speed, nothing else. */
	(void)vm_log_all(log->vm, false, NULL);
	free(log->bitmap);
	log->bitmap = NULL;
}

int dirty_log_read(struct dirty_log *log, unsigned slot, struct dirty_log_part *out, struct err *e)
{
	struct kvm_dirty_log get = {.slot = slot, .dirty_bitmap = log->bitmap};
	const struct vm_slot *s = &log->vm->slots[slot];

	if (slot >= log->vm->n_slots || !log->bitmap)
		return err_set(e, EINVAL, "no dirty log of memory slot %u is kept", slot);
	if (ioctl(log->vm->fd, KVM_GET_DIRTY_LOG, &get))
		return err_sys(e, errno, "cannot read KVM's dirty log of %s",
			       log->vm->mem->blocks[s->block].name);
	__atomic_fetch_add(&log->read_calls, 1, __ATOMIC_RELAXED);
	*out = (struct dirty_log_part){.block = s->block,
				       .first_page = s->first_page,
				       .n_pages = s->n_pages,
				       .words = log->bitmap};
	return 0;
}

/* One call to KVM, for words of a slot. Only the last may end at its end inside of a word. */
static int clear_words(struct dirty_log *log, unsigned slot, uint64_t first_word,
		       const uint64_t *mask, uint64_t n_words, struct err *e)
{
	const struct vm_slot *s = &log->vm->slots[slot];
	uint64_t first = first_word * 64, pages = n_words * 64;
	struct kvm_clear_dirty_log clear = {.slot = slot, .first_page = first};

	if (pages > s->n_pages - first)
		pages = s->n_pages - first;
	clear.num_pages = (uint32_t)pages;
	clear.dirty_bitmap = (void *)(uintptr_t)mask;
	if (ioctl(log->vm->fd, KVM_CLEAR_DIRTY_LOG, &clear))
		return err_sys(e, errno, "cannot protect pages of %s",
			       log->vm->mem->blocks[s->block].name);
	__atomic_fetch_add(&log->clear_calls, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&log->clear_pages, bits_count(mask, n_words), __ATOMIC_RELAXED);
	return 0;
}

/* As few words as hold all the bits, in as few calls as KVM takes. */
static int clear_trimmed(struct dirty_log *log, unsigned slot, uint64_t first_word,
			 const uint64_t *mask, uint64_t n_words, struct err *e)
{
	uint64_t skip = bits_next_word(mask, n_words, 0);
	int rc = 0;

	while (n_words > skip && !mask[n_words - 1])
		n_words--;
	for (uint64_t n; skip < n_words && !rc; skip += n) {
		n = n_words - skip < CLEAR_WORDS_MAX ? n_words - skip : CLEAR_WORDS_MAX;
		rc = clear_words(log, slot, first_word + skip, mask + skip, n, e);
	}
	return rc;
}

/* 64 bits of the mask, from bit `at` on, which may lie before its first and behind its last. */
static uint64_t mask_at(const uint64_t *mask, uint64_t n_words, int64_t at)
{
	int64_t w = at >> 6;
	unsigned shift = (unsigned)(at & 63);
	uint64_t bits = 0;

	if (w >= 0 && (uint64_t)w < n_words)
		bits = mask[w] >> shift;
	if (shift && w + 1 >= 0 && (uint64_t)(w + 1) < n_words)
		bits |= mask[w + 1] << (64 - shift);
	return bits;
}

/* The part of the mask that lies in a slot: pages [first, end) of the slot, first % 64 == 0. */
static int clear_shifted(struct dirty_log *log, unsigned slot, uint64_t first, uint64_t end,
			 const uint64_t *mask, uint64_t n_words, int64_t mask_first, struct err *e)
{
	uint64_t part[DIRTY_LOG_CALL_WORDS];
	int rc = 0;

	for (uint64_t n = 0; first < end && !rc; first += n * 64) {
		n = bits_words(end - first);
		if (n > DIRTY_LOG_CALL_WORDS)
			n = DIRTY_LOG_CALL_WORDS;
		for (uint64_t i = 0; i < n; i++)
			part[i] = mask_at(mask, n_words, (int64_t)(first + i * 64) - mask_first) &
				  bits_word_mask(i, 0, end - first);
		rc = clear_trimmed(log, slot, first / 64, part, n, e);
	}
	return rc;
}

static int protect_slot(struct dirty_log *log, unsigned slot, uint64_t first_word,
			const uint64_t *mask, uint64_t n_words, struct err *e)
{
	const struct vm_slot *s = &log->vm->slots[slot];
	uint64_t first = first_word * 64, end = first + n_words * 64; /* pages of the block */
	uint64_t from, to;                                            /* pages of the slot */
	const uint64_t *part;

	if (end > s->first_page + s->n_pages)
		end = s->first_page + s->n_pages;
	if (first >= end || end <= s->first_page)
		return 0;
	from = first > s->first_page ? first - s->first_page : 0;
	to = end - s->first_page;
	if (s->first_page % 64)
		return clear_shifted(log, slot, from & ~63ull, to, mask, n_words,
				     (int64_t)first - (int64_t)s->first_page, e);
	part = mask + (s->first_page + from - first) / 64;
	n_words = bits_words(to - from);
	/* Bits behind the slot's end, which may be the next slot's, are none of KVM's business. */
	if (part[n_words - 1] & ~bits_word_mask(n_words - 1, 0, to - from))
		return clear_shifted(log, slot, from, to, part, n_words, (int64_t)from, e);
	return clear_trimmed(log, slot, from / 64, part, n_words, e);
}

int dirty_log_protect(struct dirty_log *log, unsigned block, uint64_t first_word,
		      const uint64_t *mask, uint64_t n_words, struct err *e)
{
	const struct vm *vm = log->vm;
	const struct mem *mem = vm->mem;
	uint64_t words;
	int rc = 0;

	if (block >= mem->n_blocks)
		return err_set(e, EINVAL, "there is no memory block %u", block);
	words = bits_words(mem->blocks[block].n_pages);
	if (first_word > words || n_words > words - first_word)
		return err_set(e, EINVAL, "pages to protect lie outside %s",
			       mem->blocks[block].name);
	if (!log->manual || !n_words)
		return 0; /* reading the log has protected them */
	for (unsigned i = vm_slot_at(vm, block, first_word * 64); i < vm->n_slots && !rc; i++) {
		const struct vm_slot *s = &vm->slots[i];

		if (s->block != block || s->first_page >= (first_word + n_words) * 64)
			break;
		rc = protect_slot(log, i, first_word, mask, n_words, e);
	}
	return rc;
}
