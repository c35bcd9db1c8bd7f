/* SPDX-License-Identifier: Apache-2.0 */
/* Frames and messages: their exact bytes, there and back, cut short, and with absurd contents. */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/crc32c.h"
#include "tests/unit/support/pair.h"
#include "tests/unit/support/raw.h"
#include "tests/unit/support/synth_writer.h"

static struct wbuf new_meta(void)
{
	struct wbuf w;

	wbuf_init(&w, ORDER_LITTLE, WIRE_META_MAX);
	return w;
}

static struct rbuf reader_of(const struct wbuf *w, size_t len)
{
	struct rbuf r;

	rbuf_init(&r, ORDER_LITTLE, w->data, len);
	return r;
}

/* ---- frames ---- */

START_TEST(header_bytes)
{
	static const uint8_t expected[20] = {'F', 'r', 'r', 'y', 4, 0, 1, 0, 0x2a, 0,
					     0,   0,   3,   0,   0, 0, 0, 0, 0,    0};
	struct wire_writer w = {.seq = 42};
	struct wire_reader r = {.seq = 42};
	struct wbuf meta = new_meta();
	struct err e = ERR_INIT;
	struct wire_frame f;
	uint32_t crc;

	put_bytes(&meta, "abc", 3);
	wire_header(&w, WIRE_PASS, &meta, 0);
	ck_assert(!memcmp(w.header, expected, sizeof(expected)));
	ck_assert_uint_eq(w.seq, 43);
	ck_assert_int_eq(wire_parse_header(&r, w.header, &f, &crc, &e), 0);
	ck_assert_uint_eq(f.type, WIRE_PASS);
	ck_assert_uint_eq(f.flags, WIRE_MANDATORY);
	ck_assert_uint_eq(f.meta_bytes, 3);
	ck_assert_uint_eq(f.data_bytes, 0);
	ck_assert_uint_eq(crc, crc32c("abc", 3));
	/* The same once more is the wrong number now. */
	ck_assert_int_eq(wire_parse_header(&r, w.header, &f, &crc, &e), -EPROTO);
	wbuf_free(&meta);
}
END_TEST

START_TEST(header_bits)
{
	struct wire_writer w = {0};
	struct wire_frame f;
	uint32_t crc;

	wire_header(&w, WIRE_PAGES, NULL, 4096);
	for (unsigned bit = 0; bit < WIRE_HEADER_BYTES * 8; bit++) {
		struct wire_reader r = {0};
		uint8_t bent[WIRE_HEADER_BYTES];

		memcpy(bent, w.header, sizeof(bent));
		bent[bit / 8] ^= (uint8_t)(1u << bit % 8);
		ck_assert_int_lt(wire_parse_header(&r, bent, &f, &crc, NULL), 0);
	}
}
END_TEST

START_TEST(names)
{
	ck_assert_str_eq(wire_type_name(WIRE_HELLO), "hello");
	ck_assert_str_eq(wire_type_name(WIRE_ABORT), "abort");
	for (unsigned i = 1; i < WIRE_TYPES; i++)
		ck_assert_str_ne(wire_type_name(i), "unknown");
	ck_assert_str_eq(wire_type_name(0), "unknown");
	ck_assert_str_eq(wire_type_name(WIRE_TYPES), "unknown");
	ck_assert_str_eq(wire_type_name(~0u), "unknown");
}
END_TEST

static struct mig_chan *chan_pair(int *other)
{
	struct err e = ERR_INIT;
	struct mig_chan *c;
	int fd[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	ck_assert_int_eq(mig_chan_open(&c, fd[0], "the peer", 10 * NS_PER_SEC, &e), 0);
	*other = fd[1];
	return c;
}

START_TEST(there_and_back)
{
	struct wire_writer w = {0};
	struct wire_reader r = {0};
	struct wbuf meta = new_meta();
	struct err e = ERR_INIT;
	struct mig_chan *a, *b;
	struct wire_frame f;
	int fd[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	ck_assert_int_eq(mig_chan_open(&a, fd[0], "a", 10 * NS_PER_SEC, &e), 0);
	ck_assert_int_eq(mig_chan_open(&b, fd[1], "b", 10 * NS_PER_SEC, &e), 0);
	/* Growing and shrinking again, with none at all between. */
	for (unsigned i = 0; i < 100; i++) {
		size_t len = i * 131 % 5000;

		wbuf_reset(&meta);
		for (size_t k = 0; k < len; k++)
			put_u8(&meta, (uint8_t)(k * i));
		ck_assert_int_eq(wire_send(&w, a, WIRE_SECTION, i % 7 ? &meta : NULL, &e), 0);
		ck_assert_int_eq(wire_recv(&r, b, &f, &e), 0);
		ck_assert_uint_eq(f.type, WIRE_SECTION);
		ck_assert_uint_eq(f.meta_bytes, i % 7 ? len : 0);
		ck_assert_uint_eq(rbuf_left(&r.meta), f.meta_bytes);
		ck_assert(!f.meta_bytes || !memcmp(r.meta.data, meta.data, len));
	}
	/* A writer's error is not sent. */
	wbuf_reset(&meta);
	meta.error = -EMSGSIZE;
	ck_assert_int_eq(wire_send(&w, a, WIRE_SECTION, &meta, &e), -EMSGSIZE);
	ck_assert_ptr_nonnull(strstr(e.msg, "cannot build the section message"));
	ck_assert(!mig_chan_readable(b));
	wire_reader_free(&r);
	wbuf_free(&meta);
	mig_chan_close(a);
	mig_chan_close(b);
}
END_TEST

/* What wire_recv() makes of these bytes. */
static int receive(const struct wbuf *bytes, struct wire_frame *f, struct err *e)
{
	struct wire_reader r = {0};
	int fd, rc;
	struct mig_chan *c = chan_pair(&fd);

	raw_send(fd, bytes->data, bytes->len);
	(void)close(fd);
	rc = wire_recv(&r, c, f, e);
	wire_reader_free(&r);
	mig_chan_close(c);
	return rc;
}

START_TEST(bad_frames)
{
	struct wbuf meta = new_meta(), out = new_meta();
	struct err e = ERR_INIT;
	struct wire_frame f;
	uint32_t seq = 0;

	put_bytes(&meta, "0123456789", 10);
	raw_put_frame(&out, &seq, WIRE_FAIL, &meta, NULL, 0);
	for (size_t cut = 0; cut < out.len; cut++) {
		struct wbuf part = out;

		part.len = cut;
		ck_assert_int_eq(receive(&part, &f, &e), -ECONNRESET);
		err_clear(&e);
	}
	ck_assert_int_eq(receive(&out, &f, &e), 0);
	for (size_t at = 0; at < out.len; at++) {
		out.data[at] ^= 0x40;
		ck_assert_int_lt(receive(&out, &f, &e), 0);
		err_clear(&e);
		out.data[at] ^= 0x40;
	}
	wbuf_free(&meta);
	wbuf_free(&out);
}
END_TEST

/* ---- messages ---- */

static uint64_t seed = 4;

static uint64_t any(void)
{
	return synth_random(&seed);
}

static void any_text(char *out, size_t room)
{
	size_t len = any() % room;

	for (size_t i = 0; i < len; i++)
		out[i] = (char)(1 + any() % 255);
	out[len] = '\0';
}

static void any_hello(struct wire_hello *h)
{
	memset(h, 0, sizeof(*h));
	h->version_min = 1;
	h->version_max = (uint16_t)(1 + any() % 5);
	h->features = any() & WIRE_FEATURES;
	h->n_channels = 1;
	if (h->features & WIRE_FEATURE_CHANNELS)
		h->n_channels = (uint8_t)(2 + any() % (WIRE_CHANNELS_MAX - 1));
	h->page_bytes = (uint32_t)any();
	h->n_cpus = (uint32_t)any();
	h->token_hash = any();
	any_text(h->guest_name, sizeof(h->guest_name));
	h->n_blocks = (uint32_t)(any() % (MEM_MAX_BLOCKS + 1));
	for (unsigned i = 0; i < h->n_blocks; i++) {
		any_text(h->blocks[i].name, sizeof(h->blocks[i].name));
		h->blocks[i].gpa = any();
		h->blocks[i].size_bytes = any();
	}
	h->n_sections = (uint32_t)(any() % 20);
	for (unsigned i = 0; i < h->n_sections; i++) {
		any_text(h->sections[i].name, sizeof(h->sections[i].name));
		h->sections[i].instance = (uint32_t)any();
		h->sections[i].version = (uint32_t)any();
	}
}

static void same_hello(const struct wire_hello *a, const struct wire_hello *b)
{
	ck_assert_uint_eq(a->version_max, b->version_max);
	ck_assert_uint_eq(a->features, b->features);
	ck_assert_uint_eq(a->n_channels, b->n_channels);
	ck_assert_uint_eq(a->page_bytes, b->page_bytes);
	ck_assert_uint_eq(a->n_cpus, b->n_cpus);
	ck_assert_uint_eq(a->token_hash, b->token_hash);
	ck_assert_str_eq(a->guest_name, b->guest_name);
	ck_assert_uint_eq(a->n_blocks, b->n_blocks);
	for (unsigned i = 0; i < a->n_blocks; i++) {
		ck_assert_str_eq(a->blocks[i].name, b->blocks[i].name);
		ck_assert_uint_eq(a->blocks[i].gpa, b->blocks[i].gpa);
		ck_assert_uint_eq(a->blocks[i].size_bytes, b->blocks[i].size_bytes);
	}
	ck_assert_uint_eq(a->n_sections, b->n_sections);
	for (unsigned i = 0; i < a->n_sections; i++) {
		ck_assert_str_eq(a->sections[i].name, b->sections[i].name);
		ck_assert_uint_eq(a->sections[i].instance, b->sections[i].instance);
		ck_assert_uint_eq(a->sections[i].version, b->sections[i].version);
	}
}

START_TEST(hello)
{
	static struct wire_hello h, back;
	struct wbuf w = new_meta();

	for (unsigned i = 0; i < 200; i++) {
		struct err e = ERR_INIT;
		struct rbuf r;

		any_hello(&h);
		wbuf_reset(&w);
		wire_put_hello(&w, &h);
		ck_assert_int_eq(wbuf_error(&w), 0);
		r = reader_of(&w, w.len);
		ck_assert_msg(!wire_get_hello(&r, &back, &e), "%s", e.msg);
		same_hello(&h, &back);
		for (size_t cut = 0; cut < w.len; cut++) {
			r = reader_of(&w, cut);
			ck_assert_int_lt(wire_get_hello(&r, &back, NULL), 0);
		}
	}
	/* The largest that is allowed fits a frame. */
	h.n_sections = WIRE_MAX_SECTIONS;
	for (unsigned i = 0; i < WIRE_MAX_SECTIONS; i++) {
		memset(h.sections[i].name, 'n', MEM_BLOCK_NAME_LEN - 1);
		h.sections[i].name[MEM_BLOCK_NAME_LEN - 1] = '\0';
	}
	wbuf_reset(&w);
	wire_put_hello(&w, &h);
	ck_assert_int_eq(wbuf_error(&w), 0);
	wbuf_free(&w);
}
END_TEST

/* Random bytes never do more than fail. */
START_TEST(noise)
{
	static struct wire_hello h;
	static struct wire_pages p;
	struct err none = ERR_INIT;
	struct wbuf w = new_meta();
	struct mem *m;

	ck_assert_int_eq(mem_create(&m, MEM_ANON, 4 * PAIR_MIB, &none), 0);
	for (unsigned i = 0; i < 20000; i++) {
		struct rbuf r;

		wbuf_reset(&w);
		if (i % 2)
			put_u32(&w, 0x10001); /* versions that are understood */
		else
			put_u8(&w, 0); /* a block that there is */
		for (uint64_t n = any() % 100; n; n--)
			put_u8(&w, (uint8_t)(any() & any() & any()));
		r = reader_of(&w, w.len);
		(void)wire_get_hello(&r, &h, NULL);
		r = reader_of(&w, w.len);
		if (!wire_get_pages(&r, m, 0, &p, NULL))
			ck_assert_uint_eq(p.n_sums, 0);
	}
	mem_free(m);
	wbuf_free(&w);
}
END_TEST

START_TEST(pages)
{
	static struct wire_pages p, back;
	struct err e = ERR_INIT;
	struct wbuf w = new_meta();
	struct mem *m;

	ck_assert_int_eq(mem_create(&m, MEM_ANON, 4 * PAIR_MIB, &e), 0);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t next = 0;
		uint32_t normal = 0, room = i % 10 ? 60 : 1; /* pages left out between two runs */
		struct rbuf r;

		for (p.n_runs = 0; p.n_runs < WIRE_CHUNK_RUNS && next < 1000; p.n_runs++) {
			struct wire_run *run = &p.runs[p.n_runs];

			run->first_page = next + any() % room;
			run->n_pages = 1 + (uint32_t)(any() % (i % 10 ? 20 : 2));
			run->zero = any() % 2 || normal + run->n_pages > WIRE_CHUNK_PAGES;
			normal += run->zero ? 0 : run->n_pages;
			next = run->first_page + run->n_pages;
		}
		if (next > 1024) { /* the last one ends behind the block: drop it */
			p.n_runs--;
			normal -= p.runs[p.n_runs].zero ? 0 : p.runs[p.n_runs].n_pages;
		}
		p.n_sums = normal;
		for (uint32_t k = 0; k < normal; k++)
			p.sums[k] = (uint32_t)any();
		wbuf_reset(&w);
		wire_put_pages(&w, &p);
		r = reader_of(&w, w.len);
		ck_assert_msg(!wire_get_pages(&r, m, normal * 4096, &back, &e), "%s", e.msg);
		ck_assert_uint_eq(back.n_runs, p.n_runs);
		for (uint32_t k = 0; k < p.n_runs; k++) {
			ck_assert_uint_eq(back.runs[k].first_page, p.runs[k].first_page);
			ck_assert_uint_eq(back.runs[k].n_pages, p.runs[k].n_pages);
			ck_assert_int_eq(back.runs[k].zero, p.runs[k].zero);
		}
		ck_assert(!memcmp(back.sums, p.sums, normal * sizeof(p.sums[0])));
		r = reader_of(&w, w.len);
		ck_assert_int_lt(wire_get_pages(&r, m, normal * 4096 + 1, &back, NULL), 0);
		for (size_t cut = 0; cut < w.len; cut += 1 + cut / 50) {
			r = reader_of(&w, cut);
			ck_assert_int_lt(wire_get_pages(&r, m, normal * 4096, &back, NULL), 0);
		}
	}
	mem_free(m);
	wbuf_free(&w);
}
END_TEST

START_TEST(small_messages)
{
	struct wire_end end = {1ull << 60, 7, 9, 1, 3, 11, 13}, back;
	char text[WIRE_TEXT_MAX + 1], lengthy[1000];
	struct wbuf w = new_meta();
	struct rbuf r;
	uint64_t v;

	wire_put_end(&w, &end);
	ck_assert_uint_eq(w.len, 41);
	r = reader_of(&w, 41);
	ck_assert_int_eq(wire_get_end(&r, &back, NULL), 0);
	ck_assert_uint_eq(back.normal_pages, end.normal_pages);
	ck_assert_uint_eq(back.zero_pages, 7);
	ck_assert_uint_eq(back.n_sections, 9);
	ck_assert_uint_eq(back.was_running, 1);
	ck_assert_uint_eq(back.number, 3);
	r = reader_of(&w, 24);
	ck_assert_int_eq(wire_get_end(&r, &back, NULL), -EPROTO);
	r = reader_of(&w, 8);
	ck_assert_int_eq(wire_get_one_u64(&r, "pass", &v, NULL), 0);
	ck_assert_uint_eq(v, 1ull << 60);
	r = reader_of(&w, 7);
	ck_assert_int_eq(wire_get_one_u64(&r, "pass", &v, NULL), -EPROTO);
	r = reader_of(&w, 9);
	ck_assert_int_eq(wire_get_one_u64(&r, "pass", &v, NULL), -EPROTO);
	/* Texts are bounded on the way out and on the way in, and made printable. */
	memset(lengthy, 'x', sizeof(lengthy));
	lengthy[sizeof(lengthy) - 1] = '\0';
	wbuf_reset(&w);
	wire_put_text(&w, lengthy);
	ck_assert_uint_eq(w.len, WIRE_TEXT_MAX);
	put_bytes(&w, lengthy, 500);
	r = reader_of(&w, w.len);
	wire_get_text(&r, text);
	ck_assert_uint_eq(strlen(text), WIRE_TEXT_MAX);
	wbuf_reset(&w);
	put_bytes(&w, "a\0b\x1b\n\xff~", 7);
	r = reader_of(&w, 7);
	wire_get_text(&r, text);
	ck_assert_str_eq(text, "a?b???~");
	r = reader_of(&w, 0);
	wire_get_text(&r, text);
	ck_assert_str_eq(text, "");
	wbuf_free(&w);
}
END_TEST

START_TEST(tokens)
{
	ck_assert_uint_eq(wire_token_hash(1), wire_token_hash(1));
	for (uint64_t i = 0; i < 1000; i++) {
		uint64_t token = any();

		ck_assert_uint_ne(wire_token_hash(token), token);
		ck_assert_uint_ne(wire_token_hash(token), wire_token_hash(token ^ 1ull << i % 64));
	}
}
END_TEST

PAIR_SUITE("wire", header_bytes, header_bits, names, there_and_back, bad_frames, hello, noise,
	   pages, small_messages, tokens)
