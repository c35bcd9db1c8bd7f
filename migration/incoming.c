/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/incoming.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "base/clock.h"
#include "mem/bits.h"
#include "mem/digest.h"
#include "mem/page.h"

int mig_incoming_init(struct mig_incoming *in, struct mem *mem, const struct mig_machine *machine,
		      struct err *e)
{
	*in = (struct mig_incoming){.mem = mem, .machine = machine};
	in->section_seen = calloc(machine->n_sections + 1, sizeof(bool));
	if (!in->section_seen)
		goto out_of_memory;
	for (unsigned i = 0; i < mem->n_blocks; i++) {
		uint64_t words = bits_words(mem->blocks[i].n_pages);

		in->arrived[i] = calloc(words, sizeof(uint64_t));
		in->suspect[i] = calloc(words, sizeof(uint64_t));
		if (!in->arrived[i] || !in->suspect[i])
			goto out_of_memory;
	}
	return 0;
out_of_memory:
	mig_incoming_free(in);
	return err_set(e, ENOMEM, "out of memory for the record of arrived pages");
}

void mig_incoming_free(struct mig_incoming *in)
{
	for (unsigned i = 0; i < MEM_MAX_BLOCKS; i++) {
		free(in->arrived[i]);
		free(in->suspect[i]);
		in->arrived[i] = in->suspect[i] = NULL;
	}
	free(in->section_seen);
	in->section_seen = NULL;
}

/* Its place in the list, or n. */
static unsigned find_section(const struct mig_section *list, unsigned n, const char *name,
			     uint32_t instance)
{
	unsigned i = 0;

	while (i < n && (list[i].instance != instance || strcmp(list[i].table->name, name) != 0))
		i++;
	return i;
}

static int check_blocks(const struct mem *m, const struct wire_hello *h, struct err *e)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < h->n_blocks; i++)
		bytes += h->blocks[i].size_bytes;
	if (bytes != m->size_bytes)
		return err_set(
			e, EINVAL,
			"the source's guest has %llu KiB of memory, this one %llu KiB: start "
			"the destination with the same --mem",
			(unsigned long long)(bytes >> 10),
			(unsigned long long)(m->size_bytes >> 10));
	if (h->n_blocks != m->n_blocks)
		return err_set(e, EINVAL,
			       "the source's memory is laid out in %u blocks, this one's "
			       "in %u",
			       h->n_blocks, m->n_blocks);
	for (uint32_t i = 0; i < h->n_blocks; i++) {
		const struct mem_block *b = &m->blocks[i];

		if (strcmp(h->blocks[i].name, b->name) || h->blocks[i].gpa != b->gpa ||
		    h->blocks[i].size_bytes != b->size_bytes)
			return err_set(e, EINVAL,
				       "the source's memory is laid out differently: block %u is "
				       "'%s', here '%s'",
				       i, h->blocks[i].name, b->name);
	}
	return 0;
}

int mig_incoming_check_hello(const struct mig_incoming *in, const struct wire_hello *h,
			     struct err *e)
{
	const struct mig_machine *m = in->machine;
	int rc;

	if (h->page_bytes != MEM_PAGE_BYTES)
		return err_set(e, EINVAL, "the source has pages of %u bytes, this side of %llu",
			       h->page_bytes, MEM_PAGE_BYTES);
	rc = check_blocks(in->mem, h, e);
	if (rc)
		return rc;
	if (h->n_cpus != in->machine->n_cpus)
		return err_set(
			e, EINVAL,
			"the source's guest has %u vCPUs, this one %u: start the destination "
			"with the same --cpus",
			h->n_cpus, in->machine->n_cpus);
	for (uint32_t i = 0; i < h->n_sections; i++) {
		const struct wire_section_id *id = &h->sections[i];
		unsigned k = find_section(m->sections, m->n_sections, id->name, id->instance);

		if (k == m->n_sections)
			return err_set(e, EINVAL,
				       "the source's guest has a device that this one has not: "
				       "'%s' number %u",
				       id->name, id->instance);
		if (m->sections[k].table->version != id->version)
			return err_set(e, EINVAL,
				       "the state of '%s' has version %u, this side "
				       "knows %u",
				       id->name, id->version, m->sections[k].table->version);
	}
	if (h->n_sections != in->machine->n_sections)
		return err_set(
			e, EINVAL,
			"the source's guest has %u pieces of device state, this one %u: start "
			"the destination with the same devices",
			h->n_sections, in->machine->n_sections);
	if (h->n_early != m->n_early)
		return err_set(e, EINVAL,
			       "the source describes its guest in %u early sections, this side in "
			       "%u: they are different versions of ferry",
			       h->n_early, m->n_early);
	return 0;
}

void mig_inlet_free(struct mig_inlet *inlet)
{
	(void)ZSTD_freeDCtx(inlet->unpacker);
	free(inlet->packed);
	free(inlet->plain);
	inlet->unpacker = NULL;
	inlet->packed = inlet->plain = NULL;
}

static int prepare_unpacking(struct mig_inlet *inlet, struct err *e)
{
	if (inlet->unpacker)
		return 0;
	inlet->packed = malloc(WIRE_DATA_MAX);
	inlet->plain = malloc(WIRE_DATA_MAX);
	if (inlet->packed && inlet->plain)
		inlet->unpacker = ZSTD_createDCtx();
	return inlet->unpacker ? 0 : err_set(e, ENOMEM, "out of memory for compressed pages");
}

/* Compressed pages into their places. They must be as many as the frame says, to the byte. */
static int recv_packed(struct mig_inlet *inlet, struct mig_chan *c, const struct iovec *iov,
		       unsigned n, uint32_t data_bytes, struct err *e)
{
	size_t plain_bytes = inlet->pages.n_sums * MEM_PAGE_BYTES, got;
	const uint8_t *at;
	int rc = prepare_unpacking(inlet, e);

	if (!rc)
		rc = mig_chan_recv(c, inlet->packed, data_bytes, e);
	if (rc)
		return rc;
	at = n == 1 ? iov[0].iov_base : inlet->plain;
	got = ZSTD_decompressDCtx(inlet->unpacker, (void *)(uintptr_t)at, plain_bytes,
				  inlet->packed, data_bytes);
	if (ZSTD_isError(got) || got != plain_bytes)
		return err_set(e, EBADMSG, "compressed pages were damaged on the way");
	for (unsigned i = 0; n > 1 && i < n; at += iov[i++].iov_len)
		memcpy(iov[i].iov_base, at, iov[i].iov_len);
	return 0;
}

/* These pages of a word have come; which of them for the first time. */
static uint64_t set_arrived(struct mig_incoming *in, unsigned block, uint64_t word, uint64_t bits)
{
	uint64_t *at = &in->arrived[block][word], old = __atomic_load_n(at, __ATOMIC_RELAXED);

	if ((old & bits) == bits)
		return 0;
	old = __atomic_fetch_or(at, bits, __ATOMIC_RELAXED);
	__atomic_fetch_add(&in->n_arrived, (uint64_t)__builtin_popcountll(bits & ~old),
			   __ATOMIC_RELAXED);
	return bits & ~old;
}

/* Of these pages of a word, those in `bad` do not match their checksum, the others do. */
static void set_suspect(struct mig_incoming *in, unsigned block, uint64_t word, uint64_t bits,
			uint64_t bad)
{
	uint64_t *at = &in->suspect[block][word], old = __atomic_load_n(at, __ATOMIC_RELAXED);

	if ((old & bits) == bad)
		return;
	old = __atomic_fetch_or(at, bad, __ATOMIC_RELAXED);
	__atomic_fetch_add(&in->n_suspect, (uint64_t)__builtin_popcountll(bad & ~old),
			   __ATOMIC_RELAXED);
	old = __atomic_fetch_and(at, ~(bits & ~bad), __ATOMIC_RELAXED);
	__atomic_fetch_sub(&in->n_suspect, (uint64_t)__builtin_popcountll(old & bits & ~bad),
			   __ATOMIC_RELAXED);
}

/* Pages of zeroes. RAM that nothing arrived in yet is zero, and stays untouched. */
static void take_zeroes(struct mig_incoming *in, unsigned block, const struct wire_run *run)
{
	uint64_t end = run->first_page + run->n_pages;

	for (uint64_t w = run->first_page / 64; w * 64 < end; w++) {
		uint64_t bits = bits_word_mask(w, run->first_page, run->n_pages);
		uint64_t again = bits & ~set_arrived(in, block, w, bits);

		set_suspect(in, block, w, bits, 0);
		for (; again; again &= again - 1) {
			uint64_t page = w * 64 + (uint64_t)__builtin_ctzll(again);
			uint8_t *at = in->mem->blocks[block].hva + page * MEM_PAGE_BYTES;

			if (!page_is_zero(at))
				memset(at, 0, MEM_PAGE_BYTES);
		}
	}
	__atomic_fetch_add(&in->zero_pages, run->n_pages, __ATOMIC_RELAXED);
}

static void check_run(struct mig_incoming *in, unsigned block, const struct wire_run *run,
		      const uint32_t *sums)
{
	const uint8_t *at = in->mem->blocks[block].hva + run->first_page * MEM_PAGE_BYTES;
	uint64_t page = run->first_page, end = page + run->n_pages;

	while (page < end) {
		uint64_t w = page / 64, bad = 0;

		for (; page < end && page / 64 == w; page++, at += MEM_PAGE_BYTES)
			bad |= (uint64_t)(page_sum(at) != *sums++) << (page % 64);
		(void)set_arrived(in, block, w, bits_word_mask(w, run->first_page, run->n_pages));
		set_suspect(in, block, w, bits_word_mask(w, run->first_page, run->n_pages), bad);
	}
	__atomic_fetch_add(&in->normal_pages, run->n_pages, __ATOMIC_RELAXED);
}

int mig_incoming_pages(struct mig_incoming *in, struct mig_inlet *inlet, struct mig_chan *c,
		       struct rbuf *meta, uint32_t data_bytes, struct err *e)
{
	struct wire_pages *p = &inlet->pages;
	struct iovec iov[WIRE_CHUNK_PAGES];
	const uint32_t *sums = p->sums;
	unsigned n = 0;
	int rc = wire_get_pages(meta, in->mem, data_bytes, p, e);

	if (rc)
		return rc;
	for (uint32_t i = 0; i < p->n_runs; i++) {
		const struct wire_run *run = &p->runs[i];

		if (run->zero)
			continue;
		iov[n++] = (struct iovec){.iov_base = in->mem->blocks[p->block].hva +
						      run->first_page * MEM_PAGE_BYTES,
					  .iov_len = run->n_pages * MEM_PAGE_BYTES};
	}
	if (n)
		__atomic_store_n(&in->touched, true, __ATOMIC_RELAXED);
	if (p->zstd)
		rc = in->zstd ? recv_packed(inlet, c, iov, n, data_bytes, e)
			      : err_set(e, EPROTO, "compressed pages were not announced");
	else if (n)
		rc = mig_chan_recvv(c, iov, n, e);
	if (rc)
		return rc;
	for (uint32_t i = 0; i < p->n_runs; i++) {
		const struct wire_run *run = &p->runs[i];

		if (run->zero) {
			take_zeroes(in, p->block, run);
		} else {
			check_run(in, p->block, run, sums);
			sums += run->n_pages;
		}
	}
	return 0;
}

static int take_section(const struct mig_section *list, unsigned n, bool *seen, struct rbuf *meta,
			struct err *e)
{
	char name[MEM_BLOCK_NAME_LEN];
	uint32_t instance, version;
	unsigned i;
	int rc;

	get_str8(meta, name, sizeof(name));
	instance = get_u32(meta);
	version = get_u32(meta);
	if (meta->bad)
		return err_set(e, EPROTO, "malformed section");
	i = find_section(list, n, name, instance);
	if (i == n || list[i].table->version != version || seen[i])
		return err_set(e, EPROTO,
			       "state section '%s' %u (version %u) was not announced, or "
			       "comes twice",
			       name, instance, version);
	rc = fields_decode(meta, list[i].table, list[i].data, e);
	if (rc)
		return rc;
	if (!rbuf_done(meta))
		return err_set(e, EPROTO, "state section '%s' %u is %zu bytes too long", name,
			       instance, rbuf_left(meta));
	seen[i] = true;
	return 0;
}

int mig_incoming_early(struct mig_incoming *in, struct rbuf *meta, struct err *e)
{
	return take_section(in->machine->early, in->machine->n_early, in->early_seen, meta, e);
}

int mig_incoming_section(struct mig_incoming *in, struct rbuf *meta, struct err *e)
{
	uint64_t begin_ns = clock_mono_ns();
	int rc = take_section(in->machine->sections, in->machine->n_sections, in->section_seen,
			      meta, e);

	if (!rc)
		in->n_sections_seen++;
	in->decode_ns += clock_mono_ns() - begin_ns;
	return rc;
}

int mig_incoming_rehearsal(const struct mig_incoming *in, struct err *e)
{
	if (in->n_sections_seen != in->machine->n_sections ||
	    in->n_arrived != in->mem->size_bytes >> MEM_PAGE_SHIFT)
		return err_set(e, EPROTO,
			       "a rehearsal of %u sections, of %u, with %llu pages of memory",
			       in->n_sections_seen, in->machine->n_sections,
			       (unsigned long long)in->n_arrived);
	return 0;
}

void mig_incoming_again(struct mig_incoming *in)
{
	for (unsigned i = 0; i < in->machine->n_sections; i++)
		in->section_seen[i] = false;
	in->n_sections_seen = 0;
	in->decode_ns = 0;
}

int mig_incoming_complete(const struct mig_incoming *in, const struct wire_end *end, struct err *e)
{
	uint64_t total = in->mem->size_bytes >> MEM_PAGE_SHIFT;

	if (end->normal_pages != in->normal_pages || end->zero_pages != in->zero_pages ||
	    in->n_arrived != total)
		return err_set(
			e, EPROTO,
			"memory is incomplete: %llu of %llu pages came, in %llu copies where "
			"%llu were sent",
			(unsigned long long)in->n_arrived, (unsigned long long)total,
			(unsigned long long)(in->normal_pages + in->zero_pages),
			(unsigned long long)(end->normal_pages + end->zero_pages));
	if (in->n_suspect)
		return err_set(e, EBADMSG, "%llu pages of memory were damaged on the way",
			       (unsigned long long)in->n_suspect);
	if (end->n_sections != in->n_sections_seen ||
	    in->n_sections_seen != in->machine->n_sections)
		return err_set(e, EPROTO, "state is incomplete: %u sections came of %u",
			       in->n_sections_seen, in->machine->n_sections);
	return 0;
}

int mig_incoming_digest(const struct mig_incoming *in, uint64_t want, struct err *e)
{
	uint64_t got;

	if (!in->digest)
		return 0;
	got = mem_digest(in->mem, MIG_DIGEST_THREADS);
	if (got == want)
		return 0;
	return err_set(
		e, EIO,
		"the memory that arrived is not the source's: its digest is %016llx there and "
		"%016llx here",
		(unsigned long long)want, (unsigned long long)got);
}

void mig_incoming_rehearse_digest(struct mig_incoming *in, uint64_t *ns)
{
	uint64_t begin_ns = clock_mono_ns();

	if (in->digest && !in->digest_ns) {
		(void)mem_digest(in->mem, MIG_DIGEST_THREADS);
		in->digest_ns = clock_mono_ns() - begin_ns + 1;
	}
	*ns = in->digest_ns;
}
