/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target for the queue walk. The input is a hostile driver: a few bytes choose the queue, the
 * rest is what lies in guest RAM, and it changes between two pops as well.
 *
 * `make fuzz` builds and runs it; see CONTRIBUTING.md.
 */
#include <stdlib.h>
#include <string.h>

#include "mem/mem.h"
#include "virtio/queue.h"

#define RAM_BYTES (1ull << 20)
#define AREA      0x1000u /* the input is laid out from here, over and over */
#define HEADER    8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct mem *ram(void)
{
	static struct mem *m;

	if (!m && mem_create(&m, MEM_ANON, RAM_BYTES, NULL))
		abort();
	return m;
}

static void lay_out(struct mem *m, const uint8_t *data, size_t len, uint8_t salt)
{
	uint8_t *at = mem_host(m, AREA, 4 * 4096);

	for (size_t i = 0; i < 4 * 4096ull; i++)
		at[i] = (uint8_t)(data[i % len] ^ (i >= len ? salt : 0));
}

/* What the walk promises of a chain it has let through. */
static void check_chain(const struct mem *m, const struct vq *q, const struct vq_chain *c)
{
	uint64_t out = 0, in = 0;

	if (c->head >= q->st.size || (unsigned)c->n_out + c->n_in > q->st.size ||
	    !(c->n_out + c->n_in))
		abort();
	for (unsigned i = 0; i < (unsigned)c->n_out + c->n_in; i++) {
		if (!c->iov[i].iov_len ||
		    mem_host(m, c->gpa[i], c->iov[i].iov_len) != c->iov[i].iov_base)
			abort();
		*(i < c->n_out ? &out : &in) += c->iov[i].iov_len;
	}
	if (out != c->out_bytes || in != c->in_bytes)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct vq_chain chain;
	struct mem *m = ram();
	struct vq q;
	uint8_t bytes[256];

	if (len <= HEADER)
		return 0;
	lay_out(m, data + HEADER, len - HEADER, data[5]);
	vq_init(&q, m, 64);
	q.st.size = (uint16_t)(1u << (data[0] % 8));
	q.st.desc_gpa = AREA + 16u * data[1];
	q.st.avail_gpa = AREA + 2u * data[2];
	q.st.used_gpa = AREA + 4u * data[3];
	if (vq_enable(&q, data[4] & 1, data[4] & 2))
		return 0;
	/* Start where the driver's index is, or a little before. */
	q.st.next_avail = q.st.next_used = (uint16_t)(data[6] | data[7] << 8);
	for (unsigned i = 0; i < 200; i++) {
		if (vq_pop(&q, &chain) != 1)
			break;
		check_chain(m, &q, &chain);
		if (vq_in_flight(&q) > q.st.size)
			abort();
		(void)vq_read(&chain, data[5], bytes, sizeof(bytes));
		(void)vq_write(&chain, data[5], bytes, sizeof(bytes));
		if (data[4] & 4 && i % 5 == 4)
			vq_rewind(&q, 1);
		else if (!(data[4] & 8) || i % 3)
			vq_push(&q, &chain, chain.in_bytes);
		(void)vq_wants_interrupt(&q);
	}
	return 0;
}
