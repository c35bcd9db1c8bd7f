/* SPDX-License-Identifier: Apache-2.0 */
/* Compressed pages: what arrives, when it is done, and what a hostile or broken source gets. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "mem/page.h"
#include "migration/squeeze.h"
#include "tests/unit/support/stream.h"

/* ---- whole migrations ---- */

static void up(struct pair *p, uint64_t ram_bytes, uint64_t seed, unsigned channels)
{
	pair_up(p, ram_bytes, seed);
	p->src->channels = channels;
	p->src->compress = true;
}

/* A slow link, pages that get small: fewer bytes go than there are, by far. */
START_TEST(slow_link)
{
	for (unsigned channels = 1; channels <= 4; channels += 3) {
		struct mig_status st;
		struct pair p;

		up(&p, 8 * PAIR_MIB, 10 + channels, channels);
		for (uint64_t page = 0; page < 2000; page++)
			synth_store(p.src, page, page + 1);
		synth_send(p.src, synth_uri(p.dst), 4 << 20, 2000);
		st = pair_completes(&p);
		ck_assert_uint_gt(st.compressed_from_bytes, 500 * MEM_PAGE_BYTES);
		ck_assert_uint_lt(st.compressed_to_bytes, st.compressed_from_bytes / 4);
		ck_assert_uint_lt(st.transferred_bytes, 1500 * MEM_PAGE_BYTES);
		pair_down(&p);
	}
}
END_TEST

/* Random pages do not get smaller: none is sent compressed. */
START_TEST(incompressible)
{
	struct mig_status st;
	struct pair p;

	up(&p, 8 * PAIR_MIB, 20, 2);
	synth_fill(p.src, 0, 2048);
	pair_send(&p, 2000);
	st = pair_completes(&p);
	ck_assert_uint_eq(st.compressed_from_bytes, 0);
	ck_assert_uint_eq(st.normal_pages, 2048);
	pair_down(&p);
}
END_TEST

/* Pages of both kinds, written all the time, compressed and plain in turns. */
static void race(unsigned channels, uint64_t seed, uint64_t bandwidth)
{
	struct pair p;

	up(&p, 4 * PAIR_MIB, seed, channels);
	synth_fill(p.src, 0, 300);
	for (uint64_t page = 300; page < 900; page++)
		synth_store(p.src, page, page);
	synth_start_writer(p.src, 1, 1000, 4000);
	synth_send(p.src, synth_uri(p.dst), bandwidth, 1);
	ck_assert(watch_wait_pass(&p.src->watch, 4, SYNTH_WAIT_MS));
	pair_set_params(&p, 0, 4000);
	(void)pair_completes(&p);
	pair_down(&p);
}

START_TEST(racing_writer)
{
	race(1, 30, 16 << 20);
	race(4, 31, 16 << 20);
	race(4, 32, 0);
}
END_TEST

/* ---- when it is worth it ---- */

/* Have chunks go by at so many nanoseconds a plain byte; how many of the last 100 were compressed.
 */
static unsigned decide(struct mig_squeeze *z, const void *data, double plain_ns, double packed_ns)
{
	static uint8_t out[WIRE_DATA_MAX];
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = WIRE_DATA_MAX};
	unsigned n = 0;

	for (unsigned i = 0; i < 200; i++) {
		bool packed =
			mig_squeeze_wanted(z) && mig_squeeze_run(z, &iov, 1, WIRE_DATA_MAX, out);

		mig_squeeze_sent(z, WIRE_DATA_MAX, packed,
				 (uint64_t)((packed ? packed_ns : plain_ns) * WIRE_DATA_MAX));
		n += i >= 100 && packed;
	}
	return n;
}

START_TEST(decisions)
{
	static uint8_t soft[WIRE_DATA_MAX];
	struct mig_squeeze *z;

	for (unsigned i = 0; i < sizeof(soft); i++)
		soft[i] = (uint8_t)(i / 4096);
	ck_assert_int_eq(mig_squeeze_new(&z), 0);
	/* A wire that is slower than any processor; then one that is faster. */
	ck_assert_uint_ge(decide(z, soft, 1000, 100), 80);
	mig_squeeze_free(z);
	ck_assert_int_eq(mig_squeeze_new(&z), 0);
	ck_assert_uint_le(decide(z, soft, 0.0001, 1), 20);
	mig_squeeze_free(z);
	/* It looked good, and is not. */
	ck_assert_int_eq(mig_squeeze_new(&z), 0);
	ck_assert_uint_le(decide(z, soft, 1000, 2000), 60);
	mig_squeeze_free(z);
}
END_TEST

/* ---- a source that means harm ---- */

static struct replay r;
static uint8_t pages[4 * 4096], packed[5 * 4096];

static struct stream begin(bool announced)
{
	struct stream s;

	stream_begin(&s, &r);
	stream_copy_meta(&s, WIRE_HELLO, 0);
	if (announced)
		s.meta.data[4] |= WIRE_FEATURE_ZSTD;
	stream_frame(&s, WIRE_HELLO, 0);
	stream_early(&s);
	stream_all_zero(&s);
	return s;
}

/* Two runs of two pages, in so many bytes of data. */
static void put_packed(struct stream *s, const void *data, size_t bytes)
{
	stream_pages(s, WIRE_PAGES_ZSTD, 2, 4);
	stream_run(s, 3, 2);
	stream_run(s, 7, 2);
	for (unsigned i = 0; i < 4; i++)
		put_u32(&s->meta, page_sum(pages + i * 4096));
	raw_put_frame(&s->out, &s->seq, WIRE_PAGES, &s->meta, data, (uint32_t)bytes);
	wbuf_reset(&s->meta);
}

static void harm(const void *data, size_t bytes, const char *text)
{
	struct stream s = begin(true);

	put_packed(&s, data, bytes);
	stream_refused(&s, text);
}

START_TEST(hostile)
{
	size_t size;
	struct stream s;
	void *much;

	replay_up(&r);
	for (unsigned i = 0; i < sizeof(pages); i++)
		pages[i] = (uint8_t)(i / 100 + 1);
	size = ZSTD_compress(packed, sizeof(packed), pages, sizeof(pages), 1);
	ck_assert(!ZSTD_isError(size));
	s = begin(false);
	put_packed(&s, packed, size);
	stream_refused(&s, "compressed pages were not announced");
	harm(packed, size - 1, "compressed pages were damaged");
	harm(packed, 1, "compressed pages were damaged");
	harm(packed, 0, "malformed pages message");
	harm(packed, sizeof(pages), "malformed pages message");
	for (size_t at = 0; at < size; at += 7) {
		packed[at] ^= 0x55;
		/* What still can be unpacked has wrong pages, and no newer ones come. */
		s = begin(true);
		put_packed(&s, packed, size);
		for (unsigned i = 0; i < STREAM_SECTIONS; i++)
			stream_section(&s, i);
		stream_end(&s, 4, STREAM_RAM_PAGES, STREAM_SECTIONS, 1);
		stream_refused(&s, "damaged on the way");
		packed[at] ^= 0x55;
	}
	/* More and less than the frame says. */
	size = ZSTD_compress(packed, sizeof(packed), pages, sizeof(pages) - 1, 1);
	harm(packed, size, "compressed pages were damaged");
	memset(packed, 0, sizeof(packed));
	much = calloc(1, 100 << 20);
	ck_assert_ptr_nonnull(much);
	size = ZSTD_compress(packed, sizeof(packed), much, 100 << 20, 1);
	free(much);
	ck_assert_uint_lt(size, sizeof(pages));
	harm(packed, size, "compressed pages were damaged");
	replay_down(&r);
}
END_TEST

PAIR_SUITE("compress", slow_link, incompressible, racing_writer, decisions, hostile)
