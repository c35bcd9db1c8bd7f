/* SPDX-License-Identifier: Apache-2.0 */
/* The byte codec; with it the checksum and the errors, which need little. */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "base/codec.h"
#include "base/crc32c.h"
#include "base/err.h"
#include "tests/support/suite.h"

static void put_all(struct wbuf *w)
{
	put_u8(w, 0x12);
	put_u16(w, 0x3456);
	put_u32(w, 0x789abcde);
	put_u64(w, 0x0123456789abcdef);
	put_bytes(w, "xyz", 3);
	put_str8(w, "name");
	put_str8(w, "");
}

static void expect_all(struct rbuf *r)
{
	char text[8];

	ck_assert_uint_eq(get_u8(r), 0x12);
	ck_assert_uint_eq(get_u16(r), 0x3456);
	ck_assert_uint_eq(get_u32(r), 0x789abcde);
	ck_assert_uint_eq(get_u64(r), 0x0123456789abcdef);
	ck_assert_int_eq(memcmp(get_bytes(r, 3), "xyz", 3), 0);
	get_str8(r, text, sizeof(text));
	ck_assert_str_eq(text, "name");
	get_str8(r, text, sizeof(text));
	ck_assert_str_eq(text, "");
	ck_assert(rbuf_done(r));
}

START_TEST(both_orders)
{
	struct wbuf w;
	struct rbuf r;

	wbuf_init(&w, ORDER_LITTLE, 100);
	put_all(&w);
	ck_assert_int_eq(memcmp(w.data, "\x12\x56\x34\xde\xbc\x9a\x78\xef\xcd", 9), 0);
	rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
	expect_all(&r);
	wbuf_free(&w);

	wbuf_init(&w, ORDER_BIG, 100);
	put_all(&w);
	ck_assert_int_eq(memcmp(w.data, "\x12\x34\x56\x78\x9a\xbc\xde\x01\x23", 9), 0);
	rbuf_init(&r, ORDER_BIG, w.data, w.len);
	expect_all(&r);
	wbuf_free(&w);
}
END_TEST

START_TEST(writer_bound)
{
	struct wbuf w;

	wbuf_init(&w, ORDER_LITTLE, 10);
	put_u64(&w, 1);
	put_u16(&w, 2);
	ck_assert_int_eq(wbuf_error(&w), 0);
	put_u8(&w, 3);
	ck_assert_int_eq(wbuf_error(&w), -EMSGSIZE);
	ck_assert_uint_eq(w.len, 10);
	wbuf_reset(&w);
	put_u32(&w, 4);
	ck_assert_int_eq(wbuf_error(&w), 0);
	put_u64(&w, 5);
	put_u8(&w, 6); /* would fit, but the error is there */
	ck_assert_int_eq(wbuf_error(&w), -EMSGSIZE);
	ck_assert_uint_eq(w.len, 4);
	wbuf_free(&w);

	wbuf_init(&w, ORDER_LITTLE, 0);
	put_bytes(&w, "", 0);
	ck_assert_int_eq(wbuf_error(&w), 0);
	put_bytes(&w, "x", SIZE_MAX);
	ck_assert_int_eq(wbuf_error(&w), -EMSGSIZE);
	wbuf_free(&w);
}
END_TEST

START_TEST(writer_grows)
{
	struct wbuf w;
	struct rbuf r;

	wbuf_init(&w, ORDER_BIG, 1 << 20);
	for (uint32_t i = 0; i < 100000; i++)
		put_u32(&w, i);
	ck_assert_int_eq(wbuf_error(&w), 0);
	ck_assert_uint_eq(w.len, 400000);
	rbuf_init(&r, ORDER_BIG, w.data, w.len);
	for (uint32_t i = 0; i < 100000; i++)
		ck_assert_uint_eq(get_u32(&r), i);
	ck_assert(rbuf_done(&r));
	wbuf_free(&w);
}
END_TEST

START_TEST(writer_texts)
{
	char text[258];
	struct wbuf w;

	memset(text, 't', sizeof(text));
	text[255] = '\0';
	wbuf_init(&w, ORDER_LITTLE, 1000);
	put_str8(&w, text);
	ck_assert_int_eq(wbuf_error(&w), 0);
	ck_assert_uint_eq(w.len, 256);
	text[255] = 't';
	text[256] = '\0';
	put_str8(&w, text);
	ck_assert_int_eq(wbuf_error(&w), -EMSGSIZE);
	ck_assert_uint_eq(w.len, 256);
	wbuf_free(&w);
}
END_TEST

START_TEST(writer_goes_back)
{
	struct wbuf w;
	struct rbuf r;

	wbuf_init(&w, ORDER_LITTLE, 1000);
	put_u32(&w, 0);
	put_u8(&w, 9);
	put_u32_at(&w, 0, 0x11223344);
	put_u32_at(&w, 2, 0xffffffff); /* reaches beyond: nothing happens */
	put_u32_at(&w, SIZE_MAX, 0xffffffff);
	rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
	ck_assert_uint_eq(get_u32(&r), 0x11223344);
	ck_assert_uint_eq(get_u8(&r), 9);
	ck_assert(rbuf_done(&r));
	wbuf_free(&w);
}
END_TEST

START_TEST(reader_ends)
{
	struct rbuf r;

	rbuf_init(&r, ORDER_LITTLE, "abc", 3);
	ck_assert_uint_eq(get_u32(&r), 0);
	ck_assert(r.bad);
	ck_assert_uint_eq(get_u8(&r), 0); /* the error stays */
	ck_assert(!rbuf_done(&r));

	rbuf_init(&r, ORDER_LITTLE, "abc", 3);
	ck_assert_uint_eq(get_u16(&r), 0x6261);
	ck_assert(!rbuf_done(&r)); /* one byte left over */
	ck_assert_uint_eq(rbuf_left(&r), 1);
	ck_assert_ptr_null(get_bytes(&r, SIZE_MAX));
	ck_assert(r.bad);

	rbuf_init(&r, ORDER_LITTLE, NULL, 0);
	ck_assert(rbuf_done(&r));
	ck_assert_uint_eq(get_u8(&r), 0);
	ck_assert(r.bad);
}
END_TEST

START_TEST(reader_texts)
{
	char text[5] = "old";
	struct rbuf r;

	rbuf_init(&r, ORDER_LITTLE, "\4abcd", 5);
	get_str8(&r, text, sizeof(text));
	ck_assert_str_eq(text, "abcd");
	ck_assert(rbuf_done(&r));
	rbuf_init(&r, ORDER_LITTLE, "\5abcde", 6); /* too long for the buffer */
	get_str8(&r, text, sizeof(text));
	ck_assert_str_eq(text, "");
	ck_assert(r.bad);
	rbuf_init(&r, ORDER_LITTLE, "\3a\0b", 4); /* holds a NUL */
	get_str8(&r, text, sizeof(text));
	ck_assert(r.bad);
	rbuf_init(&r, ORDER_LITTLE, "\3ab", 3); /* ends early */
	get_str8(&r, text, sizeof(text));
	ck_assert_str_eq(text, "");
	ck_assert(r.bad);
}
END_TEST

static uint32_t naive_crc(const uint8_t *p, size_t len)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < len; i++) {
		for (int bit = 0; bit < 8; bit++) {
			bool one = (crc ^ p[i] >> bit) & 1;

			crc = crc >> 1 ^ (one ? 0x82f63b78u : 0);
		}
	}
	return ~crc;
}

START_TEST(crc)
{
	uint8_t data[300];

	ck_assert_uint_eq(crc32c("123456789", 9), 0xe3069283);
	ck_assert_uint_eq(crc32c("", 0), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * i + 7);
	for (size_t from = 0; from < 9; from++) {
		for (size_t len = 0; len + from <= sizeof(data); len++)
			ck_assert_uint_eq(crc32c(data + from, len), naive_crc(data + from, len));
	}
}
END_TEST

START_TEST(errors)
{
	struct err e = ERR_INIT;
	char text[2000];

	ck_assert_int_eq(err_sys(&e, ENOENT, "cannot open '%s'", "x"), -ENOENT);
	ck_assert_str_eq(e.msg, "cannot open 'x': No such file or directory");
	ck_assert_int_eq(err_set(&e, EIO, "later"), -EIO); /* the first one counts */
	ck_assert_int_eq(e.code, ENOENT);
	err_prefix(&e, "step %d", 3);
	ck_assert_str_eq(e.msg, "step 3: cannot open 'x': No such file or directory");
	err_clear(&e);
	err_prefix(&e, "nothing");
	ck_assert_str_eq(e.msg, "");
	ck_assert_int_eq(err_set(NULL, EIO, "nobody listens"), -EIO);
	ck_assert_int_eq(err_sys(NULL, EIO, "nobody listens"), -EIO);
	err_prefix(NULL, "x");
	err_clear(NULL);

	memset(text, 'e', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	ck_assert_int_eq(err_sys(&e, EIO, "%s", text), -EIO);
	ck_assert_uint_eq(strlen(e.msg), ERR_MSG_BYTES - 1);
	err_prefix(&e, "%s", text);
	ck_assert_uint_eq(strlen(e.msg), ERR_MSG_BYTES - 1);
}
END_TEST

SUITE("codec", both_orders, writer_bound, writer_grows, writer_texts, writer_goes_back, reader_ends,
      reader_texts, crc, errors)
