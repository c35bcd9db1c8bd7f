/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/dirty_log.h"

#include <errno.h>
#include <stdlib.h>
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
	const struct mem *mem = log->vm->mem;
	uint64_t words = 0;
	int rc;

	for (unsigned i = 0; i < mem->n_blocks; i++) {
		if (bits_words(mem->blocks[i].n_pages) > words)
			words = bits_words(mem->blocks[i].n_pages);
	}
	free(log->bitmap);
	log->bitmap = calloc(words, sizeof(*log->bitmap));
	if (!log->bitmap)
		return err_set(e, ENOMEM, "out of memory for the dirty log");
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

int dirty_log_read(struct dirty_log *log, unsigned block, const uint64_t **words, struct err *e)
{
	struct kvm_dirty_log get = {.slot = block, .dirty_bitmap = log->bitmap};
	uint64_t n_pages;

	if (block >= log->vm->mem->n_blocks || !log->bitmap)
		return err_set(e, EINVAL, "no dirty log of memory block %u is kept", block);
	if (ioctl(log->vm->fd, KVM_GET_DIRTY_LOG, &get))
		return err_sys(e, errno, "cannot read KVM's dirty log of %s",
			       log->vm->mem->blocks[block].name);
	/* With INITIALLY_SET KVM also sets bits that no page belongs to. */
	n_pages = log->vm->mem->blocks[block].n_pages;
	if (n_pages % 64)
		log->bitmap[n_pages / 64] &= (1ull << (n_pages % 64)) - 1;
	*words = log->bitmap;
	return 0;
}

/* One call to KVM. Only the last may end at the slot's end instead of a multiple of 64 pages. */
static int clear_words(struct dirty_log *log, unsigned block, uint64_t first_word,
		       const uint64_t *mask, uint64_t n_words, struct err *e)
{
	const struct mem_block *b = &log->vm->mem->blocks[block];
	uint64_t first = first_word * 64, pages = n_words * 64;
	struct kvm_clear_dirty_log clear = {.slot = block, .first_page = first};

	if (pages > b->n_pages - first)
		pages = b->n_pages - first;
	clear.num_pages = (uint32_t)pages;
	clear.dirty_bitmap = (void *)(uintptr_t)mask;
	if (ioctl(log->vm->fd, KVM_CLEAR_DIRTY_LOG, &clear))
		return err_sys(e, errno, "cannot protect pages of %s", b->name);
	__atomic_fetch_add(&log->clear_calls, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&log->clear_pages, bits_count(mask, n_words), __ATOMIC_RELAXED);
	return 0;
}

int dirty_log_protect(struct dirty_log *log, unsigned block, uint64_t first_word,
		      const uint64_t *mask, uint64_t n_words, struct err *e)
{
	const struct mem *mem = log->vm->mem;
	uint64_t words;
	int rc = 0;

	if (block >= mem->n_blocks)
		return err_set(e, EINVAL, "there is no memory block %u", block);
	words = bits_words(mem->blocks[block].n_pages);
	if (first_word > words || n_words > words - first_word)
		return err_set(e, EINVAL, "pages to protect lie outside %s",
			       mem->blocks[block].name);
	if (!log->manual)
		return 0; /* reading the log has protected them */
	while (n_words && !mask[n_words - 1])
		n_words--;
	while (n_words && !*mask) {
		mask++;
		first_word++;
		n_words--;
	}
	for (uint64_t n; n_words && !rc; mask += n, first_word += n, n_words -= n) {
		n = n_words < CLEAR_WORDS_MAX ? n_words : CLEAR_WORDS_MAX;
		rc = clear_words(log, block, first_word, mask, n, e);
	}
	return rc;
}
