/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/balloon_fixture.h"

struct vdrv bv;
struct balloon *bb;
uint64_t told_actual;
unsigned told_changes;

static void on_change(void *ctx, uint64_t actual_bytes)
{
	(void)ctx;
	told_actual = actual_bytes;
	told_changes++;
}

struct balloon *balloon_make(void)
{
	struct balloon_config cfg = {.deflate_on_oom = true,
				     .stats = true,
				     .hinting = true,
				     .reporting = true,
				     .on_change = on_change};
	struct vdev_host host = vdrv_host(&bv);
	struct balloon *n;

	ck_assert_int_eq(balloon_new(&n, &host, &cfg, NULL), 0);
	return n;
}

void balloon_setup(void)
{
	vdrv_setup(&bv);
	bb = balloon_make();
	vdrv_attach(&bv, balloon_vdev(bb));
	vdrv_log_begin();
}

void balloon_teardown(void)
{
	balloon_free(bb);
	vdrv_teardown(&bv);
}

void balloon_move(void)
{
	struct balloon *other = balloon_make();

	vdrv_move(&bv, balloon_vdev(other));
	balloon_free(bb);
	bb = other;
}
