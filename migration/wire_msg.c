/* SPDX-License-Identifier: Apache-2.0 */
/* The messages with structure: hello, pages, end. */
#include <errno.h>
#include <string.h>

#include "base/crc32c.h"
#include "migration/wire.h"

#define RUN_ZERO (1u << 31) /* in a run's page count */

void wire_put_hello(struct wbuf *w, const struct wire_hello *h)
{
	put_u16(w, h->version_min);
	put_u16(w, h->version_max);
	put_u64(w, h->features);
	put_u32(w, h->page_bytes);
	put_u32(w, h->n_cpus);
	put_u64(w, h->token_hash);
	put_str8(w, h->guest_name);
	put_u8(w, (uint8_t)h->n_blocks);
	for (uint32_t i = 0; i < h->n_blocks; i++) {
		put_str8(w, h->blocks[i].name);
		put_u64(w, h->blocks[i].gpa);
		put_u64(w, h->blocks[i].size_bytes);
	}
	put_u16(w, (uint16_t)h->n_sections);
	for (uint32_t i = 0; i < h->n_sections; i++) {
		put_str8(w, h->sections[i].name);
		put_u32(w, h->sections[i].instance);
		put_u32(w, h->sections[i].version);
	}
	put_u16(w, (uint16_t)h->n_early);
	if (h->features & WIRE_FEATURE_CHANNELS)
		put_u8(w, h->n_channels);
}

int wire_get_hello(struct rbuf *r, struct wire_hello *h, struct err *e)
{
	h->version_min = get_u16(r);
	h->version_max = get_u16(r);
	if (!r->bad && (h->version_min > WIRE_VERSION || h->version_max < WIRE_VERSION))
		return err_set(e, EPROTONOSUPPORT,
			       "the source speaks versions %u to %u of the migration stream, this "
			       "side speaks %u",
			       h->version_min, h->version_max, WIRE_VERSION);
	h->features = get_u64(r);
	/* Before the rest is looked at, which may be laid out differently. */
	if (!r->bad && h->features & ~(uint64_t)WIRE_FEATURES)
		return err_set(e, EPROTONOSUPPORT,
			       "the source needs features (0x%llx) that this version does not know",
			       (unsigned long long)(h->features & ~(uint64_t)WIRE_FEATURES));
	h->page_bytes = get_u32(r);
	h->n_cpus = get_u32(r);
	h->token_hash = get_u64(r);
	get_str8(r, h->guest_name, sizeof(h->guest_name));
	h->n_blocks = get_u8(r);
	if (h->n_blocks > MEM_MAX_BLOCKS)
		return err_set(e, EPROTO, "the source has %u RAM blocks, at most %u are possible",
			       h->n_blocks, MEM_MAX_BLOCKS);
	for (uint32_t i = 0; i < h->n_blocks; i++) {
		get_str8(r, h->blocks[i].name, sizeof(h->blocks[i].name));
		h->blocks[i].gpa = get_u64(r);
		h->blocks[i].size_bytes = get_u64(r);
	}
	h->n_sections = get_u16(r);
	if (h->n_sections > WIRE_MAX_SECTIONS)
		return err_set(e, EPROTO,
			       "the source announces %u sections, at most %u are "
			       "possible",
			       h->n_sections, WIRE_MAX_SECTIONS);
	for (uint32_t i = 0; i < h->n_sections; i++) {
		get_str8(r, h->sections[i].name, sizeof(h->sections[i].name));
		h->sections[i].instance = get_u32(r);
		h->sections[i].version = get_u32(r);
	}
	h->n_early = get_u16(r);
	if (h->n_early > WIRE_MAX_EARLY)
		return err_set(e, EPROTO,
			       "the source announces %u early sections, at most %u are possible",
			       h->n_early, WIRE_MAX_EARLY);
	h->n_channels = h->features & WIRE_FEATURE_CHANNELS ? get_u8(r) : 1;
	if (h->features & WIRE_FEATURE_CHANNELS && !r->bad &&
	    (h->n_channels < 2 || h->n_channels > WIRE_CHANNELS_MAX))
		return err_set(e, EPROTO, "the source wants %u connections, 2 to %u are possible",
			       h->n_channels, WIRE_CHANNELS_MAX);
	return rbuf_done(r) ? 0 : err_set(e, EPROTO, "malformed hello message");
}

void wire_put_welcome(struct wbuf *w, const struct wire_welcome *m)
{
	put_u16(w, m->version);
	put_u64(w, m->features);
	if (m->features & WIRE_FEATURE_CHANNELS) {
		put_u64(w, m->session);
		put_u8(w, m->n_channels);
	}
}

int wire_get_welcome(struct rbuf *r, const struct wire_hello *asked, struct wire_welcome *m,
		     struct err *e)
{
	*m = (struct wire_welcome){.version = get_u16(r), .n_channels = 1};
	if (m->version != WIRE_VERSION)
		return err_set(e, EPROTO, "the destination chose a version that was not offered");
	m->features = get_u64(r);
	if (m->features != asked->features)
		return err_set(e, EPROTO, "the destination wants features that were not offered");
	if (m->features & WIRE_FEATURE_CHANNELS) {
		m->session = get_u64(r);
		m->n_channels = get_u8(r);
	}
	if (!rbuf_done(r) || !m->n_channels || m->n_channels > asked->n_channels)
		return err_set(e, EPROTO, "malformed welcome message");
	return 0;
}

void wire_put_channel(struct wbuf *w, const struct wire_channel *m)
{
	put_u64(w, m->session);
	put_u8(w, m->index);
}

int wire_parse_channel(struct wire_reader *r, const uint8_t frame[WIRE_CHANNEL_BYTES],
		       struct wire_channel *m, struct err *e)
{
	const uint8_t *meta = frame + WIRE_HEADER_BYTES;
	const size_t meta_bytes = WIRE_CHANNEL_BYTES - WIRE_HEADER_BYTES;
	struct wire_frame f;
	struct rbuf b;
	uint32_t crc;
	int rc = wire_parse_header(r, frame, &f, &crc, e);

	if (rc)
		return rc;
	if (f.type != WIRE_CHANNEL || f.meta_bytes != meta_bytes || f.data_bytes)
		return err_set(e, EPROTO, "it begins with a %s message", wire_type_name(f.type));
	if (crc32c(meta, meta_bytes) != crc)
		return err_set(e, EBADMSG, "the stream is damaged: wrong checksum in a %s frame",
			       wire_type_name(f.type));
	rbuf_init(&b, ORDER_LITTLE, meta, meta_bytes);
	m->session = get_u64(&b);
	m->index = get_u8(&b);
	return 0;
}

void wire_put_pages(struct wbuf *w, const struct wire_pages *p)
{
	put_u8(w, p->block | (p->zstd ? WIRE_PAGES_ZSTD : 0));
	put_u16(w, (uint16_t)p->n_runs);
	put_u16(w, (uint16_t)p->n_sums);
	for (uint32_t i = 0; i < p->n_runs; i++) {
		put_u64(w, p->runs[i].first_page);
		put_u32(w, p->runs[i].n_pages | (p->runs[i].zero ? RUN_ZERO : 0));
	}
	for (uint32_t i = 0; i < p->n_sums; i++)
		put_u32(w, p->sums[i]);
}

int wire_get_pages(struct rbuf *r, const struct mem *m, uint32_t data_bytes, struct wire_pages *p,
		   struct err *e)
{
	uint64_t normal = 0, next = 0;

	p->block = get_u8(r);
	p->zstd = p->block & WIRE_PAGES_ZSTD;
	p->block &= (uint8_t)~WIRE_PAGES_ZSTD;
	p->n_runs = get_u16(r);
	p->n_sums = get_u16(r);
	if (r->bad || p->block >= m->n_blocks || !p->n_runs || p->n_runs > WIRE_CHUNK_RUNS ||
	    p->n_sums > WIRE_CHUNK_PAGES)
		return err_set(e, EPROTO, "malformed pages message");
	for (uint32_t i = 0; i < p->n_runs; i++) {
		struct wire_run *run = &p->runs[i];
		uint64_t n_pages = m->blocks[p->block].n_pages;

		run->first_page = get_u64(r);
		run->n_pages = get_u32(r);
		run->zero = run->n_pages & RUN_ZERO;
		run->n_pages &= ~RUN_ZERO;
		if (!run->n_pages || run->first_page >= n_pages ||
		    run->n_pages > n_pages - run->first_page)
			return err_set(e, EPROTO, "the source sent pages outside of %s",
				       m->blocks[p->block].name);
		/* No page twice: a small frame must not cause work without end. */
		if (run->first_page < next)
			return err_set(e, EPROTO, "malformed pages message: runs out of order");
		next = run->first_page + run->n_pages;
		normal += run->zero ? 0 : run->n_pages;
	}
	for (uint32_t i = 0; i < p->n_sums; i++)
		p->sums[i] = get_u32(r);
	/* What is compressed is smaller, or it would not be. */
	if (!rbuf_done(r) || normal != p->n_sums ||
	    (p->zstd ? !data_bytes || normal * MEM_PAGE_BYTES <= data_bytes
		     : normal * MEM_PAGE_BYTES != data_bytes))
		return err_set(e, EPROTO, "malformed pages message");
	return 0;
}

void wire_put_end(struct wbuf *w, const struct wire_end *m)
{
	put_u64(w, m->normal_pages);
	put_u64(w, m->zero_pages);
	put_u32(w, m->n_sections);
	put_u8(w, m->was_running);
	put_u32(w, m->number);
	put_u64(w, m->marks);
	put_u64(w, m->digest);
}

int wire_get_end(struct rbuf *r, struct wire_end *m, struct err *e)
{
	m->normal_pages = get_u64(r);
	m->zero_pages = get_u64(r);
	m->n_sections = get_u32(r);
	m->was_running = get_u8(r);
	m->number = get_u32(r);
	m->marks = get_u64(r);
	m->digest = get_u64(r);
	if (!rbuf_done(r) || m->was_running > 1 || !m->number)
		return err_set(e, EPROTO, "malformed end message");
	return 0;
}

void wire_put_loaded(struct wbuf *w, const struct wire_loaded *m)
{
	put_u32(w, m->number);
	put_u64(w, m->decode_ns);
	put_u64(w, m->load_ns);
}

int wire_get_loaded(struct rbuf *r, struct wire_loaded *m, struct err *e)
{
	m->number = get_u32(r);
	m->decode_ns = get_u64(r);
	m->load_ns = get_u64(r);
	return rbuf_done(r) ? 0 : err_set(e, EPROTO, "malformed ready message");
}
