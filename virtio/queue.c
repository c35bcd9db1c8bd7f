/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/queue.h"

#include <errno.h>
#include <string.h>

#include <linux/virtio_ring.h>

#define DESC_BYTES  16u
#define ELEM_BYTES  8u
#define RING_OFFSET 4u /* of ring[] in both rings, after flags and idx */
#define IDX_OFFSET  2u

static const struct field vq_fields[] = {
	FIELD(struct vq_state, size, FIELD_U16),      FIELD(struct vq_state, ready, FIELD_U8),
	FIELD(struct vq_state, desc_gpa, FIELD_U64),  FIELD(struct vq_state, avail_gpa, FIELD_U64),
	FIELD(struct vq_state, used_gpa, FIELD_U64),  FIELD(struct vq_state, next_avail, FIELD_U16),
	FIELD(struct vq_state, next_used, FIELD_U16),
};
FIELD_TABLE(vq_table, "virtqueue", 1, vq_fields);

/* --- the areas; both rings are at least 2-aligned, and both sides are little-endian --- */

static uint16_t load16(const uint8_t *at, int order)
{
	const uint16_t *p = (const uint16_t *)(const void *)at;

	return order == __ATOMIC_ACQUIRE ? __atomic_load_n(p, __ATOMIC_ACQUIRE)
					 : __atomic_load_n(p, __ATOMIC_RELAXED);
}

static uint16_t avail_idx(const struct vq *q)
{
	/* Acquire: the ring's entries and the descriptors were written before the index. */
	return load16(q->avail + IDX_OFFSET, __ATOMIC_ACQUIRE);
}

static uint16_t avail_entry(const struct vq *q, uint16_t i)
{
	return load16(q->avail + RING_OFFSET + 2 * (size_t)(i & (q->st.size - 1u)),
		      __ATOMIC_RELAXED);
}

static uint64_t avail_bytes(uint16_t size)
{
	return RING_OFFSET + 2u * (uint64_t)size + 2u;
}

static uint64_t used_bytes(uint16_t size)
{
	return RING_OFFSET + (uint64_t)ELEM_BYTES * size + 2u;
}

static void store_used16(struct vq *q, uint64_t offset, uint16_t value)
{
	/* Release: what the value tells of was written before. */
	__atomic_store_n((uint16_t *)(void *)(q->used + offset), value, __ATOMIC_RELEASE);
	mem_mark(q->mem, q->st.used_gpa + offset, sizeof(value));
}

/* A descriptor as it was at this moment: the guest may change it while we look. */
static struct vring_desc copy_desc(const uint8_t *table, uint32_t i)
{
	struct vring_desc d;

	memcpy(&d, table + (size_t)i * DESC_BYTES, sizeof(d));
	__asm__ volatile("" ::: "memory"); /* d is the copy; it is never read again from there */
	return d;
}

/* --- life --- */

void vq_init(struct vq *q, struct mem *mem, uint16_t max_size)
{
	*q = (struct vq){.mem = mem, .max_size = max_size};
	vq_reset(q);
}

void vq_reset(struct vq *q)
{
	vq_disable(q);
	q->st = (struct vq_state){.size = q->max_size};
	q->why = NULL;
}

static const char *check_areas(const struct vq_state *st, const struct mem *mem, uint16_t max_size)
{
	if (!st->size || st->size > max_size || st->size & (st->size - 1))
		return "its size is no power of two, or too large";
	if (st->desc_gpa % 16 || st->avail_gpa % 2 || st->used_gpa % 4)
		return "one of its areas is not aligned";
	if (!mem_host(mem, st->desc_gpa, (uint64_t)st->size * DESC_BYTES))
		return "its descriptor table is not in RAM";
	if (!mem_host(mem, st->avail_gpa, avail_bytes(st->size)))
		return "its available ring is not in RAM";
	if (!mem_host(mem, st->used_gpa, used_bytes(st->size)))
		return "its used ring is not in RAM";
	return NULL;
}

int vq_enable(struct vq *q, bool event_idx, bool indirect)
{
	q->why = check_areas(&q->st, q->mem, q->max_size);
	if (q->why)
		return -EINVAL;
	q->desc = mem_host(q->mem, q->st.desc_gpa, (uint64_t)q->st.size * DESC_BYTES);
	q->avail = mem_host(q->mem, q->st.avail_gpa, avail_bytes(q->st.size));
	q->used = mem_host(q->mem, q->st.used_gpa, used_bytes(q->st.size));
	q->event_idx = event_idx;
	q->indirect = indirect;
	q->told_used = q->st.next_used;
	q->st.ready = 1;
	return 0;
}

void vq_disable(struct vq *q)
{
	q->st.ready = 0;
	/* A queue that is enabled again begins at the start of its rings. */
	q->st.next_avail = q->st.next_used = 0;
	q->desc = q->avail = NULL;
	q->used = NULL;
}

/* --- the walk --- */

struct walk {
	struct vq *q;
	struct vq_chain *c;
	const uint8_t *table; /* the queue's own, or an indirect one */
	uint32_t entries;
	uint32_t seen; /* descriptors that carry bytes */
	bool in_indirect;
};

static int bad(struct vq *q, const char *why)
{
	q->why = why;
	return -EBADMSG;
}

static int enter_indirect(struct walk *w, const struct vring_desc *d)
{
	struct vq *q = w->q;

	if (!q->indirect)
		return bad(q, "an indirect table, which was not negotiated");
	if (w->in_indirect)
		return bad(q, "an indirect table inside an indirect table");
	if (d->flags & VRING_DESC_F_NEXT)
		return bad(q, "an indirect table that is not the end of its chain");
	if (!d->len || d->len % DESC_BYTES || d->len / DESC_BYTES > q->st.size)
		return bad(q, "an indirect table of an impossible size");
	w->table = mem_host(q->mem, d->addr, d->len);
	if (!w->table)
		return bad(q, "an indirect table outside RAM");
	w->entries = d->len / DESC_BYTES;
	w->in_indirect = true;
	return 0;
}

static int add_part(struct walk *w, const struct vring_desc *d)
{
	struct vq_chain *c = w->c;
	uint32_t n = w->seen;
	void *at;

	if (n >= w->q->st.size)
		return bad(w->q, "a chain with more descriptors than the queue, or a loop");
	if (!d->len)
		return bad(w->q, "a descriptor of no bytes");
	at = mem_host(w->q->mem, d->addr, d->len);
	if (!at)
		return bad(w->q, "a buffer outside RAM");
	if (d->flags & VRING_DESC_F_WRITE) {
		c->n_in++;
		c->in_bytes += d->len;
	} else {
		if (c->n_in)
			return bad(w->q, "a part to read after a part to write");
		c->n_out++;
		c->out_bytes += d->len;
	}
	c->iov[n] = (struct iovec){.iov_base = at, .iov_len = d->len};
	c->gpa[n] = d->addr;
	w->seen++;
	return 0;
}

static int walk_chain(struct vq *q, uint16_t head, struct vq_chain *c)
{
	struct walk w = {.q = q, .c = c, .table = q->desc, .entries = q->st.size};
	uint32_t i = head;

	c->head = head;
	c->n_out = c->n_in = 0;
	c->out_bytes = c->in_bytes = 0;
	for (;;) {
		struct vring_desc d;
		int rc;

		if (i >= w.entries)
			return bad(q, "a descriptor past the end of its table");
		d = copy_desc(w.table, i);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			rc = enter_indirect(&w, &d);
			i = 0;
			if (rc)
				return rc;
			continue;
		}
		rc = add_part(&w, &d);
		if (rc)
			return rc;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		i = d.next;
	}
}

/* Is there an entry to take? -EBADMSG if the index cannot be. */
static int available(struct vq *q)
{
	uint16_t n = (uint16_t)(avail_idx(q) - q->st.next_avail);

	if (n > q->st.size)
		return bad(q, "an available index that jumped");
	return n != 0;
}

int vq_pop(struct vq *q, struct vq_chain *c)
{
	uint16_t head;
	int rc;

	if (!q->st.ready)
		return 0;
	rc = available(q);
	if (rc == 0 && q->event_idx) {
		/*
		 * Ask to be notified of the next one, then look again: a driver that added one
		 * before it could see the request did not notify.
		 */
		store_used16(q, used_bytes(q->st.size) - 2, q->st.next_avail);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		rc = available(q);
	}
	if (rc <= 0)
		return rc;
	if (vq_in_flight(q) >= q->st.size)
		return bad(q, "more chains at once than the queue has entries");
	head = avail_entry(q, q->st.next_avail);
	if (head >= q->st.size)
		return bad(q, "an available entry past the descriptor table");
	rc = walk_chain(q, head, c);
	if (rc)
		return rc;
	q->st.next_avail++;
	return 1;
}

void vq_rewind(struct vq *q, uint16_t n)
{
	q->st.next_avail = (uint16_t)(q->st.next_avail - n);
}

/* --- giving back --- */

static void mark_written(struct vq *q, const struct vq_chain *c, uint64_t written)
{
	unsigned end = (unsigned)c->n_out + c->n_in;

	for (unsigned i = c->n_out; i < end && written; i++) {
		uint64_t n = c->iov[i].iov_len < written ? c->iov[i].iov_len : written;

		mem_mark(q->mem, c->gpa[i], n);
		written -= n;
	}
}

/* next_used counts what was put; the driver sees it when the ring's own index follows. */
void vq_put(struct vq *q, const struct vq_chain *c, uint64_t written)
{
	uint64_t offset =
		RING_OFFSET + (uint64_t)ELEM_BYTES * (q->st.next_used & (q->st.size - 1u));
	struct vring_used_elem elem = {
		.id = c->head,
		.len = written > UINT32_MAX ? UINT32_MAX : (uint32_t)written,
	};

	mark_written(q, c, written);
	if (!q->st.ready)
		return;
	memcpy(q->used + offset, &elem, sizeof(elem));
	mem_mark(q->mem, q->st.used_gpa + offset, sizeof(elem));
	q->st.next_used++;
}

void vq_publish(struct vq *q)
{
	if (q->st.ready)
		store_used16(q, IDX_OFFSET, q->st.next_used);
}

void vq_push(struct vq *q, const struct vq_chain *c, uint64_t written)
{
	vq_put(q, c, written);
	vq_publish(q);
}

bool vq_wants_interrupt(struct vq *q)
{
	uint16_t old = q->told_used, now = q->st.next_used;

	if (!q->st.ready || old == now)
		return false;
	q->told_used = now;
	/* The driver sets its wish and then looks at the index; we set the index, then look. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (q->event_idx)
		return vring_need_event(
			load16(q->avail + avail_bytes(q->st.size) - 2, __ATOMIC_RELAXED), now, old);
	return !(load16(q->avail, __ATOMIC_RELAXED) & VRING_AVAIL_F_NO_INTERRUPT);
}

/* --- bytes of a chain --- */

static size_t copy(const struct iovec *iov, unsigned n, uint64_t offset, void *mine, size_t len,
		   bool to_guest)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t part = iov[i].iov_len, at;

		if (offset >= part) {
			offset -= part;
			continue;
		}
		at = (size_t)offset;
		part -= at;
		offset = 0;
		if (part > len - done)
			part = len - done;
		if (to_guest)
			memcpy((uint8_t *)iov[i].iov_base + at, (uint8_t *)mine + done, part);
		else
			memcpy((uint8_t *)mine + done, (uint8_t *)iov[i].iov_base + at, part);
		done += part;
	}
	return done;
}

size_t vq_read(const struct vq_chain *c, uint64_t offset, void *to, size_t len)
{
	size_t n = copy(c->iov, c->n_out, offset, to, len, false);

	__asm__ volatile("" ::: "memory"); /* what was judged is the copy */
	return n;
}

size_t vq_write(const struct vq_chain *c, uint64_t offset, const void *from, size_t len)
{
	return copy(c->iov + c->n_out, c->n_in, offset, (void *)(uintptr_t)from, len, true);
}

/* --- state --- */

int vq_check(const struct vq_state *st, struct mem *mem, uint16_t max_size, struct err *e)
{
	const char *why;

	if (st->ready > 1)
		return err_set(e, EINVAL, "a queue is neither ready nor not (%u)", st->ready);
	if (!st->ready && (st->next_avail || st->next_used))
		return err_set(e, EINVAL, "a queue that is not ready has been used");
	if (st->next_avail != st->next_used)
		return err_set(e, EINVAL, "a queue has %u requests in flight",
			       (uint16_t)(st->next_avail - st->next_used));
	why = st->ready ? check_areas(st, mem, max_size) : NULL;
	if (why)
		return err_set(e, EINVAL, "a queue cannot be: %s", why);
	return 0;
}

void vq_load(struct vq *q, const struct vq_state *st, bool event_idx, bool indirect)
{
	vq_reset(q);
	q->st = *st;
	if (!st->ready || vq_enable(q, event_idx, indirect))
		q->st.ready = 0;
}
