/* SPDX-License-Identifier: Apache-2.0 */
/* Tables of fields: what they encode, and that no bytes decode to anything out of bounds. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fields.h"
#include "tests/support/suite.h"

struct inner {
	uint16_t a;
	uint8_t b;
};

struct outer {
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	uint32_t words[3];
	uint8_t raw[5];
	uint32_t n_bytes;
	uint8_t bytes[6];
	struct inner one;
	struct inner two[2];
	uint32_t n_many;
	struct inner many[4];
	uint32_t untouched; /* has no field */
};

static const struct field inner_fields[] = {
	FIELD(struct inner, a, FIELD_U16),
	FIELD(struct inner, b, FIELD_U8),
};
static FIELD_TABLE(inner_table, "inner", 1, inner_fields);

static const struct field outer_fields[] = {
	FIELD(struct outer, u8, FIELD_U8),
	FIELD(struct outer, u16, FIELD_U16),
	FIELD(struct outer, u32, FIELD_U32),
	FIELD(struct outer, u64, FIELD_U64),
	FIELD_ARRAY(struct outer, words, FIELD_U32),
	FIELD_RAW(struct outer, raw),
	FIELD(struct outer, n_bytes, FIELD_U32),
	FIELD_RAW_VAR(struct outer, bytes, n_bytes),
	FIELD_SUB(struct outer, one, &inner_table),
	FIELD_SUB_ARRAY(struct outer, two, &inner_table),
	FIELD(struct outer, n_many, FIELD_U32),
	FIELD_SUB_VAR(struct outer, many, n_many, &inner_table),
};
static FIELD_TABLE(outer_table, "outer", 1, outer_fields);

static const struct outer sample = {
	.u8 = 1,
	.u16 = 0x203,
	.u32 = 0x4050607,
	.u64 = 0x8090a0b0c0d0e0f,
	.words = {1, 2, 3},
	.raw = {9, 8, 7, 6, 5},
	.n_bytes = 2,
	.bytes = {0xaa, 0xbb, 0xcc},
	.one = {.a = 0x1111, .b = 0x22},
	.two = {{.a = 3, .b = 4}, {.a = 5, .b = 6}},
	.n_many = 1,
	.many = {{.a = 0x7777, .b = 0x88}, {.a = 0x9999, .b = 0x99}},
	.untouched = 0xdead,
};

/* The same, byte by byte. */
static const uint8_t sample_bytes[] = {
	1,    3,    2,    7,   6,    5,    4,                   /* u8 u16 u32 */
	0xf,  0xe,  0xd,  0xc, 0xb,  0xa,  9,    8,             /* u64 */
	1,    0,    0,    0,   2,    0,    0,    0, 3, 0, 0, 0, /* words */
	9,    8,    7,    6,   5,                               /* raw */
	2,    0,    0,    0,   0xaa, 0xbb,                      /* bytes */
	0x11, 0x11, 0x22,                                       /* one */
	3,    0,    4,    5,   0,    6,                         /* two */
	1,    0,    0,    0,   0x77, 0x77, 0x88,                /* many */
};

START_TEST(encodes_in_order)
{
	struct wbuf w;

	wbuf_init(&w, ORDER_LITTLE, 1000);
	fields_encode(&w, &outer_table, &sample);
	ck_assert_int_eq(wbuf_error(&w), 0);
	ck_assert_uint_eq(w.len, sizeof(sample_bytes));
	ck_assert_int_eq(memcmp(w.data, sample_bytes, sizeof(sample_bytes)), 0);
	wbuf_free(&w);
}
END_TEST

START_TEST(decodes_the_same)
{
	struct outer got = {.untouched = 0xbeef};
	struct rbuf r;

	rbuf_init(&r, ORDER_LITTLE, sample_bytes, sizeof(sample_bytes));
	ck_assert_int_eq(fields_decode(&r, &outer_table, &got, NULL), 0);
	ck_assert(rbuf_done(&r));
	ck_assert_uint_eq(got.u64, sample.u64);
	ck_assert_uint_eq(got.words[2], 3);
	ck_assert_uint_eq(got.bytes[1], 0xbb);
	ck_assert_uint_eq(got.bytes[2], 0); /* not among the two */
	ck_assert_uint_eq(got.two[1].b, 6);
	ck_assert_uint_eq(got.many[0].a, 0x7777);
	ck_assert_uint_eq(got.many[1].a, 0);
	ck_assert_uint_eq(got.untouched, 0xbeef);
}
END_TEST

START_TEST(both_orders)
{
	struct outer got = {0};
	struct wbuf w;
	struct rbuf r;

	wbuf_init(&w, ORDER_BIG, 1000);
	fields_encode(&w, &outer_table, &sample);
	ck_assert_int_ne(memcmp(w.data, sample_bytes, sizeof(sample_bytes)), 0);
	rbuf_init(&r, ORDER_BIG, w.data, w.len);
	ck_assert_int_eq(fields_decode(&r, &outer_table, &got, NULL), 0);
	ck_assert_uint_eq(got.u32, sample.u32);
	ck_assert_uint_eq(got.n_bytes, 2);
	wbuf_free(&w);
}
END_TEST

START_TEST(ends_early)
{
	for (size_t len = 0; len < sizeof(sample_bytes); len++) {
		struct err e = ERR_INIT;
		struct outer got = {0};
		struct rbuf r;
		uint8_t *copy = malloc(len + !len); /* for the sanitizer to watch its end */

		memcpy(copy, sample_bytes, len);
		rbuf_init(&r, ORDER_LITTLE, copy, len);
		ck_assert_int_eq(fields_decode(&r, &outer_table, &got, &e), -EINVAL);
		ck_assert_ptr_nonnull(strstr(e.msg, "ends inside this field"));
		free(copy);
	}
}
END_TEST

static void expect_count_refused(size_t offset, const char *field)
{
	static const uint32_t counts[] = {7, 0x100, 0x10000, 0x80000000, 0xffffffff};

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		uint8_t bytes[sizeof(sample_bytes)];
		struct err e = ERR_INIT;
		struct outer got = {0};
		struct rbuf r;

		memcpy(bytes, sample_bytes, sizeof(bytes));
		for (unsigned k = 0; k < 4; k++)
			bytes[offset + k] = (uint8_t)(counts[i] >> (8 * k));
		rbuf_init(&r, ORDER_LITTLE, bytes, sizeof(bytes));
		ck_assert_int_eq(fields_decode(&r, &outer_table, &got, &e), -EINVAL);
		ck_assert_msg(strstr(e.msg, field) != NULL, "%s", e.msg);
	}
}

START_TEST(count_above_room)
{
	struct outer bad = sample;
	struct wbuf w;

	expect_count_refused(32, "outer.bytes");
	expect_count_refused(sizeof(sample_bytes) - 7, "outer.many");
	/* Nor is such a thing encoded. */
	bad.n_many = 5;
	wbuf_init(&w, ORDER_LITTLE, 1000);
	fields_encode(&w, &outer_table, &bad);
	ck_assert_int_eq(wbuf_error(&w), -EMSGSIZE);
	wbuf_free(&w);
}
END_TEST

START_TEST(any_bytes_are_survived)
{
	unsigned seed = 1;

	for (int i = 0; i < 20000; i++) {
		uint8_t bytes[sizeof(sample_bytes)];
		struct outer got = {0};
		struct rbuf r;

		memcpy(bytes, sample_bytes, sizeof(bytes));
		for (int k = 0; k < 3; k++)
			bytes[(size_t)rand_r(&seed) % sizeof(bytes)] = (uint8_t)rand_r(&seed);
		rbuf_init(&r, ORDER_LITTLE, bytes, sizeof(bytes));
		if (!fields_decode(&r, &outer_table, &got, NULL)) {
			ck_assert_uint_le(got.n_bytes, sizeof(got.bytes));
			ck_assert_uint_le(got.n_many, 4);
		}
	}
}
END_TEST

SUITE("fields", encodes_in_order, decodes_the_same, both_orders, ends_early, count_above_room,
      any_bytes_are_survived)
