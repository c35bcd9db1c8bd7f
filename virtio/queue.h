/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues, the device's side (virtio 1.2, section 2.7).
 *
 * Three areas in guest RAM make a queue of `size` entries (a power of two):
 *
 *   descriptor table  16 bytes each: gpa, length, flags, next
 *   available ring    flags, idx, ring[size], used_event     the driver writes it: "take these"
 *   used ring         flags, idx, ring[size], avail_event    we write it: "done with these"
 *
 * A *chain* is what one entry of the available ring leads to: descriptors linked by `next`, the
 * last of which may instead name a table of more of them (an indirect table). The parts that the
 * device reads come first, the parts that it writes follow.
 *
 * Nothing in those areas is trusted. Every address goes through mem_host(), every descriptor is
 * read once and judged by its copy, a chain has at most `size` descriptors (which is what ends a
 * loop), and what was taken and not given back is at most `size` chains. A driver that breaks a
 * rule gets -EBADMSG from vq_pop() with the rule in q->why, and nothing else happens: the queue is
 * as it was, and its owner stops using it until a reset.
 *
 * Bytes that the host writes, chain and rings alike, are marked dirty (mem_mark()) after they were
 * written; a chain's before the used index moves past it.
 *
 * Threads: none of its own; the owner's lock. The guest writes RAM at any time.
 */
#ifndef VIRTIO_QUEUE_H
#define VIRTIO_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/fields.h"
#include "mem/mem.h"

#define VQ_MAX_SIZE 256 /* entries; so also the descriptors of a chain */

/* What is saved of a queue. Nothing is in flight then, so next_avail equals next_used. */
struct vq_state {
	uint16_t size;
	uint8_t ready;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	uint16_t next_avail; /* free-running, like the ring's own indices */
	uint16_t next_used;
};

extern const struct field_table vq_table;

struct vq {
	struct mem *mem;
	uint16_t max_size;
	struct vq_state st;
	/* what was negotiated; valid while st.ready */
	bool event_idx, indirect;
	/* our addresses of the three areas; NULL unless st.ready */
	const uint8_t *desc, *avail;
	uint8_t *used;
	uint16_t told_used; /* next_used when the driver was last told, or did not want to be */
	const char *why;    /* the rule that was broken last */
};

/* One chain. `iov` holds n_out parts to read, then n_in parts to write; gpa[i] belongs to iov[i].
 */
struct vq_chain {
	uint16_t head;
	uint16_t n_out, n_in;
	uint64_t out_bytes, in_bytes;
	struct iovec iov[VQ_MAX_SIZE];
	uint64_t gpa[VQ_MAX_SIZE];
};

/* max_size is a power of two, at most VQ_MAX_SIZE. */
void vq_init(struct vq *q, struct mem *mem, uint16_t max_size);
/* Back to the state after vq_init(). */
void vq_reset(struct vq *q);

/*
 * Use the areas that q->st names from here on. -EINVAL (reason in q->why) for a size that is no
 * power of two or too large, an address that is not aligned (16, 2 and 4 bytes) or not RAM.
 */
int vq_enable(struct vq *q, bool event_idx, bool indirect);
void vq_disable(struct vq *q);

/*
 * Take the next chain. 1: there is one. 0: none; the driver will notify when it adds one.
 * -EBADMSG: the driver broke a rule. Every chain taken is given back by vq_push(), or by
 * vq_put() and vq_publish(), in any order; or else untaken by vq_rewind().
 */
int vq_pop(struct vq *q, struct vq_chain *c);
/* Untake the last n chains, as if they had not been popped. None of them was put. */
void vq_rewind(struct vq *q, uint16_t n);

/*
 * Give a chain back of whose writable part the first `written` bytes may have changed. The driver
 * sees it at vq_publish(), together with all others put before.
 */
void vq_put(struct vq *q, const struct vq_chain *c, uint64_t written);
void vq_publish(struct vq *q);
void vq_push(struct vq *q, const struct vq_chain *c, uint64_t written);

/* After publishing: does the driver want an interrupt for what it was not told of yet? */
bool vq_wants_interrupt(struct vq *q);

/* Chains taken and not given back. */
static inline uint16_t vq_in_flight(const struct vq *q)
{
	return (uint16_t)(q->st.next_avail - q->st.next_used);
}

/*
 * Copy between plain memory and a chain's parts, from byte `offset` of the readable or writable
 * bytes. Returns the bytes copied: fewer than len where the chain ends. What is written is marked
 * by vq_put().
 */
size_t vq_read(const struct vq_chain *c, uint64_t offset, void *to, size_t len);
size_t vq_write(const struct vq_chain *c, uint64_t offset, const void *from, size_t len);

/* Could a queue of at most max_size entries be in that state? -EINVAL with words if not. */
int vq_check(const struct vq_state *st, struct mem *mem, uint16_t max_size, struct err *e);
/* Take over a state that vq_check() has passed. */
void vq_load(struct vq *q, const struct vq_state *st, bool event_idx, bool indirect);

#endif
