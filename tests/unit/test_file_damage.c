/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of saved guests that are cut off, damaged, or made up: found, with words, before a guest
 * runs, and never a crash. FERRY_FLIPS says how many bits are flipped (300 if it is not set).
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/support/pair.h"
#include "tests/unit/support/saved.h"
#include "tests/unit/support/synth_writer.h"

#define RAM      SAVED_MIB
#define TAIL     (2 * SAVED_MIB)
#define FLIPS    300
#define HEAD_END 160 /* of the fields before the bitmap, and some more */

static void up(struct saved *s, uint8_t **data, size_t *bytes)
{
	saved_up(s, RAM, 21);
	synth_fill(s->src, 2, 60);
	synth_fill(s->src, 200, 3);
	s->cfg.go_on = true;
	ck_assert_msg(saved_save(s) == MIG_COMPLETED, "%s", s->status.error);
	*data = saved_read(s->path, bytes);
	ck_assert_uint_gt(*bytes, TAIL);
}

static void down(struct saved *s, uint8_t *data)
{
	free(data);
	saved_down(s);
}

static void put(const struct saved *s, size_t at, const uint8_t *from, size_t n)
{
	int fd = open(s->path, O_WRONLY);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, from, n, (off_t)at), (ssize_t)n);
	(void)close(fd);
}

static size_t pick(uint64_t *r, size_t bytes)
{
	uint64_t at = synth_random(r);

	switch (synth_random(r) % 4) {
	case 0:
		return at % HEAD_END;
	case 1:
		return TAIL + at % (bytes - TAIL);
	default:
		return at % bytes;
	}
}

/* Damage is found, or (in the place of a page that is not there) changes nothing. */
START_TEST(flipped_bits)
{
	const char *wish = getenv("FERRY_FLIPS");
	unsigned n = wish ? (unsigned)atoi(wish) : FLIPS;
	unsigned harmless = 0;
	uint64_t r = 1;
	uint8_t *data;
	size_t bytes;
	struct saved s;

	up(&s, &data, &bytes);
	for (unsigned i = 0; i < n; i++) {
		size_t at = pick(&r, bytes);
		uint8_t byte = (uint8_t)(data[at] ^ 1u << synth_random(&r) % 8);
		bool in_ram = at >= RAM && at < TAIL;
		struct err e = ERR_INIT;

		put(&s, at, &byte, 1);
		ck_assert_msg(saved_verify(s.path, &e) < 0, "a bit at %zu was not found", at);
		ck_assert_msg(e.msg[0], "no words for a bit at %zu", at);
		if (i % 4 == 0 && saved_restore(&s, RAM) == MIG_COMPLETED) {
			ck_assert_msg(in_ram, "a bit of the state at %zu was taken", at);
			ck_assert_ptr_null(saved_compare(&s));
			harmless++;
		}
		put(&s, at, data + at, 1);
	}
	ck_assert_int_eq(saved_verify(s.path, NULL), 0);
	ck_assert_uint_lt(harmless, n / 4);
	down(&s, data);
}
END_TEST

START_TEST(cut_off)
{
	uint64_t r = 2;
	uint8_t *data;
	size_t bytes;
	struct saved s;

	up(&s, &data, &bytes);
	for (size_t i = 0; i < HEAD_END + 300; i++) {
		size_t at = i < HEAD_END ? i : pick(&r, bytes);
		struct err e = ERR_INIT;

		/* From the other end every time: the file itself is the shorter one. */
		ck_assert_int_eq(truncate(s.path, (off_t)at), 0);
		ck_assert_msg(saved_verify(s.path, &e) < 0, "the end at %zu was not found", at);
		ck_assert_msg(strstr(e.msg, "at byte") || strstr(e.msg, "cut off"), "%s", e.msg);
		saved_write(s.path, data, bytes);
	}
	/* Longer than it should be is no better. */
	ck_assert_int_eq(truncate(s.path, (off_t)bytes + 1), 0);
	ck_assert_int_lt(saved_verify(s.path, NULL), 0);
	down(&s, data);
}
END_TEST

/*
 * Bytes that somebody has thought up, with the right checksum: whatever they say, both ends of it
 * are a message or a guest of the right shape. The sanitizers look on.
 */
START_TEST(made_up)
{
	static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
	uint64_t r = 3;
	uint8_t *data, *copy;
	size_t bytes;
	struct saved s;

	up(&s, &data, &bytes);
	copy = malloc(bytes);
	ck_assert_ptr_nonnull(copy);
	for (unsigned i = 0; i < HEAD_END + 400; i++) {
		size_t at = i < HEAD_END ? i : TAIL + synth_random(&r) % (bytes - TAIL - 20);
		size_t n = synth_random(&r) % 9;
		struct err e = ERR_INIT;
		int rc;

		memcpy(copy, data, bytes);
		memset(copy + at, values[synth_random(&r) % sizeof(values)], n < 1 ? 1 : n);
		saved_resum(copy, bytes, RAM);
		put(&s, 0, copy, HEAD_END + 16);
		put(&s, TAIL, copy + TAIL, bytes - TAIL);
		rc = saved_verify(s.path, &e);
		ck_assert_msg(!rc || e.msg[0], "no words for byte %zu", at);
		if (i % 8 == 0 && saved_restore(&s, RAM) != MIG_COMPLETED)
			ck_assert_uint_gt(strlen(s.status.error), 0);
	}
	free(copy);
	down(&s, data);
}
END_TEST

struct field_case {
	size_t at, len;
	uint8_t bytes[8];
	const char *says;
};

/* Each field that says where something is, with something absurd in it. */
START_TEST(absurd_fields)
{
	/* Behind the block's name, which ends the stream's header. */
	static const struct field_case cases[] = {
		{0, 8, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xf0, 0}, "a size of"},
		{0, 8, {0, 0, 0, 0, 0, 0x08, 0, 0}, NULL},
		{0, 8, {0, 0, 0, 0, 0, 0x10, 0, 1}, "a size of"},
		{8, 4, {0, 0, 0, 2}, "the map's version is 2"},
		{12, 8, {0, 0, 0, 0, 0, 0, 0x20, 0}, "pages of 8192 bytes"},
		{20, 8, {0, 0, 0, 0, 0, 0x10, 0, 0}, "the bitmap is said to be at"},
		{28, 8, {0, 0, 0, 0, 0, 0, 0, 0}, "the pages are said to begin at"},
		{28, 8, {0, 0, 0, 0, 0, 0x10, 0x10, 0}, "the pages are said to begin at"},
		{28, 8, {0, 0, 0, 0, 0, 0x20, 0, 0}, "its pages end behind the end of the file"},
		{28,
		 8,
		 {0x7f, 0xff, 0xff, 0xff, 0xff, 0xf0, 0, 0},
		 "the pages are said to begin at"},
	};
	static const char name[] = "ram.low";
	uint8_t *data, *copy, *found;
	size_t bytes;
	struct saved s;

	up(&s, &data, &bytes);
	copy = malloc(bytes);
	ck_assert_ptr_nonnull(copy);
	found = memmem(data, 4096, name, strlen(name));
	ck_assert_ptr_nonnull(found);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct field_case *c = &cases[i];
		size_t at = (size_t)(found - data) + strlen(name) + c->at;
		char where[32];
		struct err e = ERR_INIT;

		memcpy(copy, data, bytes);
		memcpy(copy + at, c->bytes, c->len);
		saved_resum(copy, bytes, RAM);
		saved_write(s.path, copy, bytes);
		ck_assert_int_lt(saved_verify(s.path, &e), 0);
		(void)snprintf(where, sizeof(where), "(at byte %zu)", at);
		if (c->says)
			ck_assert_msg(strstr(e.msg, c->says) && strstr(e.msg, where), "%zu: %s", i,
				      e.msg);
	}
	free(copy);
	down(&s, data);
}
END_TEST

PAIR_SUITE("file_damage", flipped_bits, cut_off, made_up, absurd_fields)
