/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source that knows the protocol and means harm: frames with right checksums and impossible
 * contents. Each is refused in words, nothing is taken over, and the next source is served.
 */
#include <check.h>
#include <string.h>

#include "tests/unit/support/stream.h"

static struct replay r;

static struct stream after_hello(void)
{
	struct stream s;

	stream_begin(&s, &r);
	stream_hello(&s);
	return s;
}

static void header(const struct raw_header *h, const char *text)
{
	struct stream s = after_hello();

	raw_put_header(&s.out, h);
	put_bytes(&s.out, "some more bytes that nobody should look at", 40);
	stream_refused(&s, text);
}

START_TEST(headers)
{
	struct raw_header h = {.magic = WIRE_MAGIC, .seq = 2, .type = WIRE_PASS, .flags = 1};

	replay_up(&r);
	h.meta_bytes = WIRE_META_MAX + 1;
	header(&h, "pass frame of 1048577 + 0 bytes: more than allowed");
	h.meta_bytes = ~0u;
	header(&h, "more than allowed");
	h.type = WIRE_PAGES;
	h.data_bytes = ~0u;
	header(&h, "more than allowed");
	h.meta_bytes = 10;
	header(&h, "more than allowed");
	h.data_bytes = WIRE_DATA_MAX + 1;
	header(&h, "pages frame of 10 + 1048577 bytes: more than allowed");
	h.type = WIRE_SECTION;
	h.data_bytes = 1;
	header(&h, "more than allowed");
	h.data_bytes = 0;
	h.seq = 0;
	header(&h, "frame 0 where 2 should be");
	h.seq = 2;
	h.magic = 0;
	header(&h, "no frame where one should begin");
	h.magic = WIRE_MAGIC;
	h.type = 999;
	h.meta_bytes = 0;
	header(&h, "a message (type 999) that this version does not know");
	h.type = 0;
	header(&h, "a message (type 0) that this version does not know");
	h.flags = 0;
	h.type = 999;
	h.meta_bytes = WIRE_META_MAX;
	header(&h, "closed the connection");
	replay_down(&r);
}
END_TEST

/* The recorded hello with some bytes changed, cut, or added. */
static void bent_hello(size_t at, const void *bytes, size_t n, long grow, const char *text)
{
	struct stream s;

	stream_begin(&s, &r);
	stream_copy_meta(&s, WIRE_HELLO, 0);
	memcpy(s.meta.data + at, bytes, n);
	if (grow > 0)
		put_bytes(&s.meta, "xxxxxxxx", (size_t)grow);
	else
		s.meta.len -= (size_t)-grow;
	stream_frame(&s, WIRE_HELLO, 0);
	stream_refused(&s, text);
}

START_TEST(hellos)
{
	/* Offsets: docs of the stream; the guest's name is "synthetic". */
	const size_t name = 28, n_blocks = name + 1 + 9, block = n_blocks + 1;
	const size_t size = block + 1 + 7 + 8, n_sections = size + 8;
	size_t len;

	replay_up(&r);
	len = r.frames[0].f.meta_bytes;
	bent_hello(0, "\0\0\0\0", 4, 0, "speaks versions 0 to 0");
	bent_hello(0, "\2\0\7\0", 4, 0, "speaks versions 2 to 7");
	bent_hello(4, "\1\0\0\0\0\0\0\x80", 8, 0, "needs features (0x8000000000000000)");
	bent_hello(12, "\0\x40\0\0", 4, 0, "pages of 16384 bytes");
	bent_hello(16, "\xff\xff\xff\xff", 4, 0, "4294967295 vCPUs");
	bent_hello(name, "\xff", 1, 0, "malformed hello");
	bent_hello(name + 3, "\0", 1, 0, "malformed hello");
	bent_hello(n_blocks, "\xff", 1, 0, "255 RAM blocks");
	bent_hello(n_blocks, "\0", 1, 0, "29191 sections, at most 1024");
	bent_hello(block, "\x20", 1, 0, "malformed hello");
	bent_hello(block + 2, "o", 1, 0, "block 0 is 'rom.low', here 'ram.low'");
	bent_hello(size - 8, "\0\0\0\0\1", 5, 0, "laid out differently");
	bent_hello(size, "\0\0\0\0\0\0\0\x80", 8, 0, "KiB of memory");
	bent_hello(n_sections, "\xff\xff", 2, 0, "65535 sections, at most 1024");
	bent_hello(n_sections, "\0\4", 2, 0, "malformed hello");
	bent_hello(n_sections, "\3\0", 2, 0, "early sections, at most 16 are possible");
	bent_hello(len - 2, "\x11\0", 2, 0, "17 early sections, at most 16 are possible");
	bent_hello(len - 2, "\0\0", 2, 0, "in 0 early sections, this side in 1");
	bent_hello(0, "", 0, 1, "malformed hello");
	for (size_t cut = 5; cut <= len; cut += 3)
		bent_hello(0, "", 0, -(long)cut, "");
	replay_down(&r);
}
END_TEST

static void out_of_turn(uint16_t type, const char *text)
{
	struct stream s = after_hello();

	put_u64(&s.meta, 1);
	stream_frame(&s, type, 0);
	stream_refused(&s, text);
}

START_TEST(out_of_order)
{
	struct stream s;

	replay_up(&r);
	out_of_turn(WIRE_HELLO, "a hello message in the middle of the memory");
	out_of_turn(WIRE_WELCOME, "a welcome message in the middle");
	out_of_turn(WIRE_READY, "a ready message in the middle");
	out_of_turn(WIRE_COMMIT, "a commit message in the middle");
	out_of_turn(WIRE_RUNNING, "a running message in the middle");
	out_of_turn(WIRE_FAIL, "a fail message in the middle");
	out_of_turn(WIRE_ABORT, "the source gave up: ");
	stream_begin(&s, &r);
	stream_all_zero(&s);
	stream_refused(&s, "the stream begins with a pages message");
	stream_begin(&s, &r);
	put_u64(&s.meta, 0);
	stream_frame(&s, WIRE_COMMIT, 0);
	stream_refused(&s, "the stream begins with a commit message");
	s = after_hello();
	wire_put_text(&s.meta, "no \x1b[31mmore\n");
	stream_frame(&s, WIRE_ABORT, 0);
	stream_refused(&s, "the source gave up: no ?[31mmore?");
	/* Marks count up from 1. */
	s = after_hello();
	put_u64(&s.meta, ~0ull);
	stream_frame(&s, WIRE_PASS, 0);
	stream_refused(&s, "pass 18446744073709551615 ends where 1 should");
	s = after_hello();
	put_u64(&s.meta, 1);
	stream_frame(&s, WIRE_PASS, 0);
	put_u64(&s.meta, 1);
	stream_frame(&s, WIRE_PASS, 0);
	stream_refused(&s, "pass 1 ends where 2 should");
	s = after_hello();
	put_u8(&s.meta, 1);
	stream_frame(&s, WIRE_PASS, 0);
	stream_refused(&s, "malformed pass message");
	s = after_hello();
	stream_frame(&s, WIRE_PASS, 0);
	stream_refused(&s, "malformed pass message");
	replay_down(&r);
}
END_TEST

static void run(uint8_t block, uint64_t first, uint32_t n, uint16_t sums, uint32_t data_bytes,
		const char *text)
{
	struct stream s = after_hello();

	stream_pages(&s, block, 1, sums);
	stream_run(&s, first, n);
	for (unsigned i = 0; i < sums; i++)
		put_u32(&s.meta, 0);
	stream_frame(&s, WIRE_PAGES, data_bytes);
	stream_refused(&s, text);
}

START_TEST(pages)
{
	const uint32_t page = (uint32_t)MEM_PAGE_BYTES;
	struct stream s;

	replay_up(&r);
	run(1, 0, 1, 1, page, "malformed pages message");
	run(255, 0, 1, 1, page, "malformed pages message");
	run(0, STREAM_RAM_PAGES, 1, 1, page, "pages outside of ram.low");
	run(0, STREAM_RAM_PAGES - 1, 2, 2, 2 * page, "pages outside of ram.low");
	run(0, 0, STREAM_RAM_PAGES + 1, 256, WIRE_DATA_MAX, "pages outside of ram.low");
	run(0, ~0ull, 1, 1, page, "pages outside of ram.low");
	run(0, 1ull << 52, 1, 1, page, "pages outside of ram.low");
	run(0, ~0ull, 2, 2, 2 * page, "pages outside of ram.low");
	run(0, 1, ZERO_RUN(STREAM_RAM_PAGES), 0, 0, "pages outside of ram.low");
	run(0, 1, ZERO_RUN(~0u), 0, 0, "pages outside of ram.low");
	run(0, 1, ZERO_RUN(0), 0, 0, "pages outside of ram.low");
	run(0, 1, 0, 0, 0, "pages outside of ram.low");
	run(0, 0, 2, 1, page, "malformed pages message");
	run(0, 0, 2, 1, 2 * page, "malformed pages message");
	run(0, 0, 1, 1, 2 * page, "malformed pages message");
	run(0, 0, 1, 1, 1, "malformed pages message");
	run(0, 0, 1, 1, 0, "malformed pages message");
	run(0, 0, ZERO_RUN(1), 0, page, "malformed pages message");
	run(0, 0, ZERO_RUN(1), 1, page, "malformed pages message");
	run(0, 0, 256, 257, WIRE_DATA_MAX, "malformed pages message");
	/* The same pages again and again in one frame. */
	s = after_hello();
	stream_pages(&s, 0, WIRE_CHUNK_RUNS, 0);
	for (unsigned i = 0; i < WIRE_CHUNK_RUNS; i++)
		stream_run(&s, 0, ZERO_RUN(STREAM_RAM_PAGES));
	stream_frame(&s, WIRE_PAGES, 0);
	stream_refused(&s, "runs out of order");
	s = after_hello();
	stream_pages(&s, 0, 2, 0);
	stream_run(&s, 5, ZERO_RUN(2));
	stream_run(&s, 4, ZERO_RUN(1));
	stream_frame(&s, WIRE_PAGES, 0);
	stream_refused(&s, "runs out of order");
	/* Counts without their elements. */
	s = after_hello();
	stream_pages(&s, 0, 0, 0);
	stream_frame(&s, WIRE_PAGES, 0);
	stream_refused(&s, "malformed pages message");
	s = after_hello();
	stream_pages(&s, 0, 0xffff, 0xffff);
	stream_frame(&s, WIRE_PAGES, WIRE_DATA_MAX);
	stream_refused(&s, "malformed pages message");
	s = after_hello();
	stream_pages(&s, 0, 512, 256);
	stream_frame(&s, WIRE_PAGES, WIRE_DATA_MAX);
	stream_refused(&s, "");
	s = after_hello();
	stream_frame(&s, WIRE_PAGES, WIRE_DATA_MAX);
	stream_refused(&s, "malformed pages message");
	/* A wrong sum, and nothing newer: damage. */
	s = after_hello();
	stream_all_zero(&s);
	stream_pages(&s, 0, 1, 1);
	stream_run(&s, 7, 1);
	put_u32(&s.meta, 0x12345678);
	stream_frame(&s, WIRE_PAGES, page);
	for (unsigned i = 0; i < STREAM_SECTIONS; i++)
		stream_section(&s, i);
	stream_end(&s, 1, STREAM_RAM_PAGES, STREAM_SECTIONS, 1);
	stream_refused(&s, "1 pages of memory were damaged on the way");
	replay_down(&r);
}
END_TEST

PAIR_SUITE("engine-hostile", headers, hellos, out_of_order, pages)
