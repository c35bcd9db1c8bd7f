/* SPDX-License-Identifier: Apache-2.0 */
/* The queue walk, against drivers that follow the rules and drivers that break each of them. */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "mem/bits.h"
#include "tests/support/suite.h"
#include "tests/unit/support/vdriver.h"
#include "virtio/queue.h"

#include <linux/virtio_ring.h>

#define SIZE      16
#define RAM       (4ull << 20)
#define DESC_GPA  0x10000ull
#define AVAIL_GPA 0x11000ull
#define USED_GPA  0x12000ull
#define BUF_GPA   0x20000ull
#define TABLE_GPA 0x30000ull

static struct mem *mem;
static struct vq q;
static struct vq_chain chain;
static struct vring_desc *desc;
static uint16_t *avail, *used;

static void *ram(uint64_t gpa)
{
	void *at = mem_host(mem, gpa, 1);

	ck_assert_ptr_nonnull(at);
	return at;
}

static void enable(bool event_idx, bool indirect)
{
	q.st.size = SIZE;
	q.st.desc_gpa = DESC_GPA;
	q.st.avail_gpa = AVAIL_GPA;
	q.st.used_gpa = USED_GPA;
	ck_assert_int_eq(vq_enable(&q, event_idx, indirect), 0);
}

static void setup(void)
{
	ck_assert_int_eq(mem_create(&mem, MEM_ANON, RAM, NULL), 0);
	desc = ram(DESC_GPA);
	avail = ram(AVAIL_GPA);
	used = ram(USED_GPA);
	vq_init(&q, mem, SIZE);
	enable(true, true);
}

static void teardown(void)
{
	mem_free(mem);
}

static struct vring_desc d(uint64_t gpa, uint32_t len, unsigned flags, unsigned next)
{
	return (struct vring_desc){gpa, len, (uint16_t)flags, (uint16_t)next};
}

static void expose(uint16_t head)
{
	avail[2 + avail[1] % SIZE] = head;
	avail[1]++;
}

static void clear_marks(void)
{
	for (uint64_t w = 0; w < bits_words(RAM / MEM_PAGE_BYTES); w++)
		(void)mem_marks_take(mem, 0, w);
}

static bool marked(uint64_t gpa)
{
	return mem->blocks[0].marks.words[gpa / MEM_PAGE_BYTES / 64] >>
		       (gpa / MEM_PAGE_BYTES % 64) &
	       1;
}

/* Popping fails by this rule, and changes nothing: it fails the same way again. */
static void expect_bad(const char *part)
{
	struct vq_state before = q.st;

	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(vq_pop(&q, &chain), -EBADMSG);
		ck_assert_msg(strstr(q.why, part) != NULL, "'%s' lacks '%s'", q.why, part);
		ck_assert_int_eq(memcmp(&before, &q.st, sizeof(before)), 0);
	}
}

START_TEST(chain_of_both_kinds)
{
	desc[3] = d(BUF_GPA, 16, VRING_DESC_F_NEXT, 7);
	desc[7] = d(BUF_GPA + 0x1000, 100, VRING_DESC_F_NEXT, 1);
	desc[1] = d(BUF_GPA + 0x2000, 10, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	desc[2] = d(BUF_GPA + 0x3000, 20, VRING_DESC_F_WRITE, 9);
	ck_assert_int_eq(vq_pop(&q, &chain), 0);
	expose(3);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	ck_assert_uint_eq(chain.head, 3);
	ck_assert_uint_eq(chain.n_out, 2);
	ck_assert_uint_eq(chain.n_in, 2);
	ck_assert_uint_eq(chain.out_bytes, 116);
	ck_assert_uint_eq(chain.in_bytes, 30);
	ck_assert_ptr_eq(chain.iov[2].iov_base, ram(BUF_GPA + 0x2000));
	ck_assert_uint_eq(vq_in_flight(&q), 1);
	ck_assert_int_eq(vq_pop(&q, &chain), 0);
}
END_TEST

START_TEST(copies_cross_parts)
{
	uint8_t bytes[64], got[64];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + 1);
	desc[0] = d(BUF_GPA, 5, VRING_DESC_F_NEXT, 1);
	desc[1] = d(BUF_GPA + 0x100, 7, VRING_DESC_F_NEXT, 2);
	desc[2] = d(BUF_GPA + 0x200, 3, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 3);
	desc[3] = d(BUF_GPA + 0x300, 9, VRING_DESC_F_WRITE, 0);
	memcpy(ram(BUF_GPA), bytes, 5);
	memcpy(ram(BUF_GPA + 0x100), bytes + 5, 7);
	expose(0);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	ck_assert_uint_eq(vq_read(&chain, 0, got, sizeof(got)), 12);
	ck_assert_mem_eq(got, bytes, 12);
	ck_assert_uint_eq(vq_read(&chain, 4, got, 3), 3);
	ck_assert_mem_eq(got, bytes + 4, 3);
	ck_assert_uint_eq(vq_read(&chain, 12, got, 3), 0);
	ck_assert_uint_eq(vq_read(&chain, UINT64_MAX, got, 3), 0);
	ck_assert_uint_eq(vq_write(&chain, 2, bytes, sizeof(bytes)), 10);
	ck_assert_mem_eq((uint8_t *)ram(BUF_GPA + 0x200) + 2, bytes, 1);
	ck_assert_mem_eq(ram(BUF_GPA + 0x300), bytes + 1, 9);
}
END_TEST

START_TEST(push_marks_what_was_written)
{
	desc[0] = d(BUF_GPA, 4096, VRING_DESC_F_NEXT, 1);
	desc[1] = d(BUF_GPA + 0x1000, 4096, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	desc[2] = d(BUF_GPA + 0x2000, 4096, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 3);
	desc[3] = d(BUF_GPA + 0x3000, 4096, VRING_DESC_F_WRITE, 0);
	expose(0);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	clear_marks();
	vq_put(&q, &chain, 4097);
	ck_assert_uint_eq(used[1], 0);
	ck_assert(!marked(BUF_GPA) && marked(BUF_GPA + 0x1000) && marked(BUF_GPA + 0x2000));
	ck_assert(!marked(BUF_GPA + 0x3000));
	ck_assert(marked(USED_GPA));
	clear_marks();
	vq_publish(&q);
	ck_assert(marked(USED_GPA));
	ck_assert_uint_eq(used[1], 1);
	ck_assert_uint_eq(used[2], 0);
	ck_assert_uint_eq(used[4], 4097);
	ck_assert_uint_eq(vq_in_flight(&q), 0);
}
END_TEST

START_TEST(rewind_untakes)
{
	desc[0] = d(BUF_GPA, 1, 0, 0);
	desc[1] = d(BUF_GPA, 2, 0, 0);
	expose(0);
	expose(1);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	vq_rewind(&q, 2);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	ck_assert_uint_eq(chain.out_bytes, 1);
	ck_assert_uint_eq(vq_in_flight(&q), 1);
}
END_TEST

START_TEST(indices_wrap)
{
	desc[5] = d(BUF_GPA, 8, VRING_DESC_F_WRITE, 0);
	for (unsigned i = 0; i < 70000; i++) {
		expose(5);
		ck_assert_int_eq(vq_pop(&q, &chain), 1);
		vq_push(&q, &chain, 8);
		ck_assert_uint_eq(used[1], (uint16_t)(i + 1));
	}
}
END_TEST

START_TEST(event_index)
{
	desc[0] = d(BUF_GPA, 8, VRING_DESC_F_WRITE, 0);
	/* An empty pop asks for the next one. */
	for (unsigned i = 0; i < 5; i++)
		expose(0);
	for (unsigned i = 0; i < 5; i++) {
		ck_assert_int_eq(vq_pop(&q, &chain), 1);
		vq_push(&q, &chain, 1);
	}
	ck_assert_int_eq(vq_pop(&q, &chain), 0);
	ck_assert_uint_eq(used[2 + 4 * SIZE], 5);
	/* An interrupt when the driver's event index is passed, and only then. */
	avail[2 + SIZE] = 2;
	ck_assert(vq_wants_interrupt(&q));
	avail[2 + SIZE] = 7;
	ck_assert(!vq_wants_interrupt(&q));
	for (unsigned i = 0; i < 4; i++) {
		expose(0);
		ck_assert_int_eq(vq_pop(&q, &chain), 1);
		vq_push(&q, &chain, 1);
		ck_assert_int_eq(vq_wants_interrupt(&q), q.st.next_used == 8);
	}
}
END_TEST

START_TEST(no_event_index)
{
	vq_reset(&q);
	enable(false, false);
	desc[0] = d(BUF_GPA, 8, VRING_DESC_F_WRITE, 0);
	expose(0);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	vq_push(&q, &chain, 1);
	ck_assert(vq_wants_interrupt(&q));
	ck_assert_uint_eq(used[2 + 4 * SIZE], 0);
	avail[0] = VRING_AVAIL_F_NO_INTERRUPT;
	expose(0);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	vq_push(&q, &chain, 1);
	ck_assert(!vq_wants_interrupt(&q));
}
END_TEST

START_TEST(indirect_table)
{
	struct vring_desc *t = ram(TABLE_GPA + 4); /* tables need no alignment */

	desc[2] = d(BUF_GPA, 3, VRING_DESC_F_NEXT, 4);
	/* The write flag of the descriptor that names a table means nothing. */
	desc[4] = d(TABLE_GPA + 4, 48, VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE, 0);
	struct vring_desc parts[] = {d(BUF_GPA, 5, VRING_DESC_F_NEXT, 2), d(0, 0, 0, 0),
				     d(BUF_GPA + 64, 6, VRING_DESC_F_WRITE, 0)};
	memcpy((void *)t, parts, sizeof(parts));
	expose(2);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	ck_assert_uint_eq(chain.n_out, 2);
	ck_assert_uint_eq(chain.n_in, 1);
	ck_assert_uint_eq(chain.out_bytes, 8);
	ck_assert_uint_eq(chain.in_bytes, 6);
	ck_assert_uint_eq(chain.head, 2);
}
END_TEST

START_TEST(bad_loop)
{
	desc[0] = d(BUF_GPA, 1, VRING_DESC_F_NEXT, 1);
	desc[1] = d(BUF_GPA, 1, VRING_DESC_F_NEXT, 0);
	expose(0);
	expect_bad("loop");
}
END_TEST

START_TEST(bad_self_loop)
{
	desc[9] = d(BUF_GPA, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 9);
	expose(9);
	expect_bad("loop");
}
END_TEST

START_TEST(longest_chain)
{
	for (unsigned i = 0; i < SIZE; i++)
		desc[i] = d(BUF_GPA, 1, i + 1 < SIZE ? VRING_DESC_F_NEXT : 0, i + 1);
	expose(0);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	ck_assert_uint_eq(chain.n_out, SIZE);
}
END_TEST

START_TEST(bad_next)
{
	desc[0] = d(BUF_GPA, 1, VRING_DESC_F_NEXT, SIZE);
	expose(0);
	expect_bad("past the end");
}
END_TEST

START_TEST(bad_head)
{
	expose(SIZE);
	expect_bad("available entry");
}
END_TEST

START_TEST(bad_zero_length)
{
	desc[0] = d(BUF_GPA, 0, 0, 0);
	expose(0);
	expect_bad("no bytes");
}
END_TEST

START_TEST(bad_address)
{
	static const struct vring_desc wrong[] = {
		{RAM, 1, 0, 0},
		{RAM - 1, 2, 0, 0},
		{0, UINT32_MAX, 0, 0},
		{UINT64_MAX, 1, 0, 0},
		{UINT64_MAX - 4095, 4097, VRING_DESC_F_WRITE, 0},
		{1ull << 63, 16, 0, 0},
	};

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		memcpy((void *)&desc[0], &wrong[i], sizeof(wrong[i]));
		if (i == 0)
			expose(0);
		expect_bad("outside RAM");
	}
}
END_TEST

START_TEST(bad_order)
{
	desc[0] = d(BUF_GPA, 4, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
	desc[1] = d(BUF_GPA, 4, 0, 0);
	expose(0);
	expect_bad("after a part to write");
}
END_TEST

START_TEST(bad_jump)
{
	desc[0] = d(BUF_GPA, 4, 0, 0);
	avail[1] = SIZE + 1;
	expect_bad("jumped");
	avail[1] = UINT16_MAX;
	expect_bad("jumped");
	avail[1] = SIZE;
	for (unsigned i = 0; i < SIZE; i++) {
		ck_assert_int_eq(vq_pop(&q, &chain), 1);
	}
	/* All taken, none given back: there can be no more. */
	avail[1] = SIZE + 1;
	expect_bad("more chains at once");
	/* Backwards. */
	avail[1] = SIZE - 1;
	expect_bad("jumped");
}
END_TEST

START_TEST(used_ring_is_ours)
{
	/* What the driver writes there is never read. */
	desc[0] = d(BUF_GPA, 4, VRING_DESC_F_WRITE, 0);
	expose(0);
	ck_assert_int_eq(vq_pop(&q, &chain), 1);
	used[1] = 0x7777;
	vq_push(&q, &chain, 4);
	ck_assert_uint_eq(used[1], 1);
}
END_TEST

START_TEST(bad_indirect)
{
	struct vring_desc *t = ram(TABLE_GPA);

	expose(0);
	/* Sizes. */
	desc[0] = d(TABLE_GPA, 0, VRING_DESC_F_INDIRECT, 0);
	expect_bad("impossible size");
	desc[0] = d(TABLE_GPA, 17, VRING_DESC_F_INDIRECT, 0);
	expect_bad("impossible size");
	desc[0] = d(TABLE_GPA, 16 * (SIZE + 1), VRING_DESC_F_INDIRECT, 0);
	expect_bad("impossible size");
	desc[0] = d(TABLE_GPA, 0xfffffff0u, VRING_DESC_F_INDIRECT, 0);
	expect_bad("impossible size");
	/* Places. */
	desc[0] = d(RAM - 16, 32, VRING_DESC_F_INDIRECT, 0);
	expect_bad("table outside RAM");
	desc[0] = d(UINT64_MAX - 15, 32, VRING_DESC_F_INDIRECT, 0);
	expect_bad("table outside RAM");
	desc[0] = d(TABLE_GPA, 32, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
	expect_bad("not the end");
	/* Content. */
	desc[0] = d(TABLE_GPA, 32, VRING_DESC_F_INDIRECT, 0);
	t[0] = d(TABLE_GPA, 32, VRING_DESC_F_INDIRECT, 0);
	expect_bad("inside an indirect table");
	t[0] = d(BUF_GPA, 1, VRING_DESC_F_NEXT, 2);
	expect_bad("past the end");
	t[0] = d(BUF_GPA, 1, VRING_DESC_F_NEXT, 0);
	expect_bad("loop");
	t[0] = d(BUF_GPA, 1, VRING_DESC_F_NEXT, 1);
	t[1] = d(BUF_GPA, 0, 0, 0);
	expect_bad("no bytes");
}
END_TEST

START_TEST(indirect_not_negotiated)
{
	vq_reset(&q);
	enable(true, false);
	desc[0] = d(TABLE_GPA, 16, VRING_DESC_F_INDIRECT, 0);
	expose(0);
	expect_bad("not negotiated");
}
END_TEST

START_TEST(direct_and_indirect_count_together)
{
	struct vring_desc *t = ram(TABLE_GPA);

	desc[0] = d(BUF_GPA, 1, VRING_DESC_F_NEXT, 1);
	desc[1] = d(TABLE_GPA, 16 * SIZE, VRING_DESC_F_INDIRECT, 0);
	for (unsigned i = 0; i < SIZE; i++)
		t[i] = d(BUF_GPA, 1, i + 1 < SIZE ? VRING_DESC_F_NEXT : 0, i + 1);
	expose(0);
	expect_bad("more descriptors than the queue");
}
END_TEST

START_TEST(bad_areas)
{
	static const struct vq_state wrong[] = {
		{.size = 0, .desc_gpa = DESC_GPA, .avail_gpa = AVAIL_GPA, .used_gpa = USED_GPA},
		{.size = 3, .desc_gpa = DESC_GPA, .avail_gpa = AVAIL_GPA, .used_gpa = USED_GPA},
		{.size = 32, .desc_gpa = DESC_GPA, .avail_gpa = AVAIL_GPA, .used_gpa = USED_GPA},
		{.size = 16,
		 .desc_gpa = DESC_GPA + 8,
		 .avail_gpa = AVAIL_GPA,
		 .used_gpa = USED_GPA},
		{.size = 16,
		 .desc_gpa = DESC_GPA,
		 .avail_gpa = AVAIL_GPA + 1,
		 .used_gpa = USED_GPA},
		{.size = 16,
		 .desc_gpa = DESC_GPA,
		 .avail_gpa = AVAIL_GPA,
		 .used_gpa = USED_GPA + 2},
		{.size = 16, .desc_gpa = RAM - 128, .avail_gpa = AVAIL_GPA, .used_gpa = USED_GPA},
		{.size = 16, .desc_gpa = DESC_GPA, .avail_gpa = RAM - 36, .used_gpa = USED_GPA},
		{.size = 16, .desc_gpa = DESC_GPA, .avail_gpa = AVAIL_GPA, .used_gpa = RAM - 132},
		{.size = 16, .desc_gpa = 0ull - 16, .avail_gpa = AVAIL_GPA, .used_gpa = USED_GPA},
		{.size = 16, .desc_gpa = DESC_GPA, .avail_gpa = 0ull - 2, .used_gpa = 0ull - 4},
	};
	struct err e;

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct vq_state st = wrong[i];

		vq_reset(&q);
		q.st = st;
		ck_assert_int_eq(vq_enable(&q, true, true), -EINVAL);
		ck_assert_ptr_nonnull(q.why);
		ck_assert_int_eq(vq_pop(&q, &chain), 0);
		ck_assert(!vq_wants_interrupt(&q));
		/* The same from another host. */
		err_clear(&e);
		st.ready = 1;
		ck_assert_int_eq(vq_check(&st, mem, SIZE, &e), -EINVAL);
		ck_assert_int_ne(e.msg[0], 0);
		/* A queue that is not used may hold any address. */
		st.ready = 0;
		ck_assert_int_eq(vq_check(&st, mem, SIZE, NULL), 0);
	}
}
END_TEST

START_TEST(saved_states_that_cannot_be)
{
	struct vq_state good = q.st, st;

	ck_assert_int_eq(vq_check(&good, mem, SIZE, NULL), 0);
	st = good;
	st.next_avail = 1;
	ck_assert_int_eq(vq_check(&st, mem, SIZE, NULL), -EINVAL);
	st = good;
	st.ready = 2;
	ck_assert_int_eq(vq_check(&st, mem, SIZE, NULL), -EINVAL);
	st = good;
	st.ready = 0;
	st.next_avail = st.next_used = 4;
	ck_assert_int_eq(vq_check(&st, mem, SIZE, NULL), -EINVAL);
}
END_TEST

START_TEST(goes_on_after_load)
{
	struct vq_state st;
	struct vq other;

	desc[0] = d(BUF_GPA, 8, VRING_DESC_F_WRITE, 0);
	for (unsigned i = 0; i < 5; i++) {
		expose(0);
		ck_assert_int_eq(vq_pop(&q, &chain), 1);
		vq_push(&q, &chain, 8);
	}
	desc[1] = d(BUF_GPA, 3, VRING_DESC_F_WRITE, 0);
	expose(1);
	st = q.st;
	ck_assert_int_eq(vq_check(&st, mem, SIZE, NULL), 0);
	vq_init(&other, mem, SIZE);
	vq_load(&other, &st, true, true);
	ck_assert_int_eq(vq_pop(&other, &chain), 1);
	ck_assert_uint_eq(chain.in_bytes, 3);
	vq_push(&other, &chain, 3);
	ck_assert_uint_eq(used[1], 6);
	avail[2 + SIZE] = 5;
	ck_assert(vq_wants_interrupt(&other));
}
END_TEST

SUITE_WITH("vq", setup, teardown, chain_of_both_kinds, copies_cross_parts,
	   push_marks_what_was_written, rewind_untakes, indices_wrap, event_index, no_event_index,
	   indirect_table, bad_loop, bad_self_loop, longest_chain, bad_next, bad_head,
	   bad_zero_length, bad_address, bad_order, bad_jump, used_ring_is_ours, bad_indirect,
	   indirect_not_negotiated, direct_and_indirect_count_together, bad_areas,
	   saved_states_that_cannot_be, goes_on_after_load)
