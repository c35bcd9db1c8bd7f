/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon's queues of pages: inflate, deflate, reporting. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <linux/virtio_balloon.h>

#include "base/log.h"
#include "virtio/balloon_impl.h"

/*
 * Page numbers looked at in one buffer. Drivers send 256 at a time; of a longer list the rest is
 * not returned to the host, which harms nobody.
 */
#define PFNS_MAX 1024

void balloon_ignore(struct balloon *b, uint64_t gpa)
{
	b->figures.ignored++;
	if (b->warned)
		return;
	b->warned = true;
	log_warn("virtio-balloon %u: the guest's driver gave an address that is no RAM (0x%llx); "
		 "ignored, as all that follow",
		 b->vdev.host.instance, (unsigned long long)gpa);
}

bool balloon_whole_pages(uint64_t *gpa, uint64_t *len)
{
	uint64_t cut = -*gpa & (MEM_PAGE_BYTES - 1);

	if (*len < cut + MEM_PAGE_BYTES)
		return false;
	*gpa += cut;
	*len = (*len - cut) & ~(MEM_PAGE_BYTES - 1);
	return true;
}

/* Given back in one turn at most: the device's lock is held meanwhile. */
#define REPORT_BYTES (256ull << 20)

/* Return pages to the host. They read as zeroes from here on, and are marked dirty. */
static void release(struct balloon *b, uint64_t gpa, uint64_t len)
{
	struct mem *m = b->vdev.host.mem;
	const struct mem_block *block = mem_block_at(m, gpa);
	int rc;

	if (!block || !mem_host(m, gpa, len)) {
		balloon_ignore(b, gpa);
		return;
	}
	/*
	 * A reserved huge page that is given back loses its reservation: where somebody else takes
	 * it, the guest's next touch would kill us.
	 */
	if (m->backend == MEM_HUGETLB)
		return;
	rc = mem_give_back(block, gpa - block->gpa, len);
	/* Even a failure may have come half-way. */
	mem_mark(m, gpa, len);
	if (!rc)
		b->figures.released_bytes += len;
}

/* --- inflate and deflate: buffers of page numbers --- */

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Neighbours go back in one call: drivers take pages in no order, but often side by side. */
static void release_pfns(struct balloon *b, uint32_t *pfns, size_t n)
{
	struct mem *m = b->vdev.host.mem;
	size_t first = 0;

	qsort(pfns, n, sizeof(*pfns), by_number);
	for (size_t i = 1; i <= n; i++) {
		uint64_t gpa = (uint64_t)pfns[first] << VIRTIO_BALLOON_PFN_SHIFT, len;

		/* More than a page to the block's end: the next page is RAM, too. */
		if (i < n && pfns[i] - pfns[i - 1] <= 1 &&
		    mem_run(m, (uint64_t)pfns[i - 1] << VIRTIO_BALLOON_PFN_SHIFT) > MEM_PAGE_BYTES)
			continue;
		len = ((uint64_t)(pfns[i - 1] - pfns[first]) + 1) << VIRTIO_BALLOON_PFN_SHIFT;
		release(b, gpa, len);
		first = i;
	}
}

int balloon_inflate(struct balloon *b, struct vq *q)
{
	uint32_t pfns[PFNS_MAX];

	for (unsigned i = 0; i < BALLOON_BATCH; i++) {
		int rc = vq_pop(q, &b->chain);
		size_t n;

		if (rc <= 0)
			return rc;
		n = vq_read(&b->chain, 0, pfns, sizeof(pfns)) / sizeof(pfns[0]);
		if (n)
			release_pfns(b, pfns, n);
		vq_push(q, &b->chain, 0);
	}
	return 1;
}

/* Pages come back by being touched: there is nothing to do but to say so. */
int balloon_deflate(struct balloon *b, struct vq *q)
{
	for (unsigned i = 0; i < BALLOON_BATCH; i++) {
		int rc = vq_pop(q, &b->chain);

		if (rc <= 0)
			return rc;
		vq_push(q, &b->chain, 0);
	}
	return 1;
}

/* --- reporting: the free pages are the buffers themselves --- */

int balloon_report(struct balloon *b, struct vq *q)
{
	uint64_t budget = REPORT_BYTES;
	bool keep = vdev_has(&b->vdev, VIRTIO_BALLOON_F_PAGE_POISON) && b->poison_val;

	for (unsigned i = 0; i < BALLOON_BATCH; i++) {
		struct vq_chain *c = &b->chain;
		int rc = vq_pop(q, c);

		if (rc <= 0)
			return rc;
		for (unsigned k = c->n_out; k < (unsigned)c->n_out + c->n_in && !keep; k++) {
			uint64_t gpa = c->gpa[k], len = c->iov[k].iov_len;

			if (!balloon_whole_pages(&gpa, &len)) {
				b->figures.ignored++;
				continue;
			}
			/* A free page that is kept does no harm; a lock held for long does. */
			if (len > budget)
				len = budget;
			if (len)
				release(b, gpa, len);
			budget -= len;
		}
		vq_push(q, c, 0);
		if (!budget)
			return 1;
	}
	return 1;
}
