/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/stream.h"

#include <check.h>
#include <string.h>

void stream_begin(struct stream *s, struct replay *r)
{
	s->r = r;
	s->seq = 0;
	s->marks = 0;
	wbuf_init(&s->out, ORDER_LITTLE, 8u << 20);
	wbuf_init(&s->meta, ORDER_LITTLE, 2u << 20);
}

void stream_free(struct stream *s)
{
	wbuf_free(&s->out);
	wbuf_free(&s->meta);
}

void stream_frame(struct stream *s, uint16_t type, uint32_t data_bytes)
{
	static const uint8_t zeroes[2 * WIRE_DATA_MAX];

	raw_put_frame(&s->out, &s->seq, type, &s->meta, zeroes, data_bytes);
	wbuf_reset(&s->meta);
}

void stream_copy_meta(struct stream *s, uint16_t type, unsigned n)
{
	for (unsigned i = 0; i < s->r->n_frames; i++) {
		const struct raw_frame *f = &s->r->frames[i];

		if (f->f.type == type && !n--) {
			put_bytes(&s->meta, s->r->to_dest.data + f->at + WIRE_HEADER_BYTES,
				  f->f.meta_bytes);
			return;
		}
	}
	ck_abort_msg("no such frame");
}

void stream_hello(struct stream *s)
{
	stream_copy_meta(s, WIRE_HELLO, 0);
	stream_frame(s, WIRE_HELLO, 0);
	stream_early(s);
}

void stream_early(struct stream *s)
{
	stream_copy_meta(s, WIRE_SECTION, 0);
	stream_frame(s, WIRE_SECTION, 0);
}

void stream_section(struct stream *s, unsigned n)
{
	stream_copy_meta(s, WIRE_SECTION, 1 + n);
	stream_frame(s, WIRE_SECTION, 0);
}

void stream_run(struct stream *s, uint64_t first, uint32_t n)
{
	put_u64(&s->meta, first);
	put_u32(&s->meta, n);
}

void stream_pages(struct stream *s, uint8_t block, uint16_t n_runs, uint16_t n_sums)
{
	put_u8(&s->meta, block);
	put_u16(&s->meta, n_runs);
	put_u16(&s->meta, n_sums);
}

void stream_all_zero(struct stream *s)
{
	stream_pages(s, 0, 1, 0);
	stream_run(s, 0, ZERO_RUN(STREAM_RAM_PAGES));
	stream_frame(s, WIRE_PAGES, 0);
}

void stream_end(struct stream *s, uint64_t normal, uint64_t zero, uint32_t n, uint8_t running)
{
	put_u64(&s->meta, normal);
	put_u64(&s->meta, zero);
	put_u32(&s->meta, n);
	put_u8(&s->meta, running);
	put_u32(&s->meta, 1);
	put_u64(&s->meta, s->marks);
	put_u64(&s->meta, 0);
	stream_frame(s, WIRE_END, 0);
}

void stream_refused(struct stream *s, const char *text)
{
	struct synth *dst = s->r->p.dst;
	enum mig_state state;

	ck_assert_int_eq(wbuf_error(&s->out), 0);
	state = replay_play(s->r, s->out.data, s->out.len);
	ck_assert_msg(state == MIG_FAILED || state == MIG_NONE, "%s: %s", text,
		      mig_state_name(state));
	ck_assert_msg(strstr(s->r->reason, text) != NULL, "'%s' is not in '%s'", text,
		      s->r->reason);
	ck_assert_uint_eq(atomic_load(&dst->calls[SYNTH_APPLY]), 0);
	replay_still_good(s->r);
	stream_free(s);
}
