/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of earlier versions, kept in tests/golden: today's destination still takes them. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/unit/support/replay.h"

#define FILE_BYTES_MAX (1u << 20)

static struct replay r;

static size_t read_file(const char *path, uint8_t *to)
{
	FILE *f = fopen(path, "rb");
	size_t n;

	ck_assert_msg(f, "%s is missing (tests run in the source tree's root)", path);
	n = fread(to, 1, FILE_BYTES_MAX, f);
	(void)fclose(f);
	ck_assert_uint_gt(n, 0);
	ck_assert_uint_lt(n, FILE_BYTES_MAX);
	return n;
}

static void write_file(const char *path, const struct wbuf *w)
{
	FILE *f = fopen(path, "wb");

	ck_assert_msg(f, "cannot write %s", path);
	ck_assert_uint_eq(fwrite(w->data, 1, w->len, f), w->len);
	ck_assert_int_eq(fclose(f), 0);
}

/* The guest of the recording is the one that the replay has made up again just now. */
static void still_loads(const char *path)
{
	uint8_t *data = malloc(FILE_BYTES_MAX);
	const char *wrong;
	size_t len;

	ck_assert_ptr_nonnull(data);
	if (getenv("FERRY_GOLDEN_RECORD"))
		write_file(path, &r.to_dest);
	len = read_file(path, data);
	ck_assert_msg(replay_play(&r, data, len) == MIG_COMPLETED, "%s: %s", path, r.reason);
	ck_assert(r.p.guest.taken_over);
	wrong = synth_compare(r.p.src, r.p.dst);
	ck_assert_msg(!wrong, "%s: %s", path, wrong);
	free(data);
	replay_down(&r);
}

START_TEST(version_1)
{
	replay_up(&r);
	still_loads("tests/golden/stream-1.bin");
}
END_TEST

START_TEST(version_1_verified)
{
	replay_up_verified(&r);
	still_loads("tests/golden/stream-1-verified.bin");
}
END_TEST

PAIR_SUITE("golden", version_1, version_1_verified)
