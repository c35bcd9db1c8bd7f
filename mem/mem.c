/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/memfd.h>

#include "base/log.h"
#include "mem/bits.h"

#define HUGE_BYTES (2ull << 20)

static const char *const backend_names[] = {
	[MEM_ANON] = "anon", [MEM_MEMFD] = "memfd", [MEM_HUGETLB] = "hugetlb"};

int mem_backend_parse(const char *text, enum mem_backend *out)
{
	for (unsigned i = 0; i < sizeof(backend_names) / sizeof(backend_names[0]); i++) {
		if (!strcmp(text, backend_names[i])) {
			*out = (enum mem_backend)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *mem_backend_name(enum mem_backend b)
{
	return backend_names[b];
}

/* mmap() aligned to huge pages: ask for more, give back the edges. */
static void *map_aligned(size_t bytes)
{
	size_t total = bytes + HUGE_BYTES;
	uint8_t *base, *at;
	size_t head;

	base = mmap(NULL, total, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return MAP_FAILED;
	head = (size_t)(-(uintptr_t)base & (HUGE_BYTES - 1));
	at = base + head;
	if (head)
		(void)munmap(base, head);
	if (total - head - bytes)
		(void)munmap(at + bytes, total - head - bytes);
	return at;
}

static int map_block(struct mem_block *b, enum mem_backend backend, struct err *e)
{
	unsigned flags = MFD_CLOEXEC | (backend == MEM_HUGETLB ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
	void *at;

	if (backend == MEM_ANON) {
		at = map_aligned(b->size_bytes);
	} else {
		b->fd = memfd_create(b->name, flags);
		if (b->fd < 0 || ftruncate(b->fd, (off_t)b->size_bytes))
			return err_sys(e, errno, "cannot create %llu MiB of %s memory",
				       (unsigned long long)(b->size_bytes >> 20),
				       mem_backend_name(backend));
		/* Huge pages are reserved now: too few must not become a SIGBUS later. */
		at = mmap(NULL, b->size_bytes, PROT_READ | PROT_WRITE,
			  MAP_SHARED | (backend == MEM_HUGETLB ? 0 : MAP_NORESERVE), b->fd, 0);
	}
	if (at == MAP_FAILED)
		return err_sys(e, errno, "cannot map %llu MiB of guest memory (%s)%s",
			       (unsigned long long)(b->size_bytes >> 20), mem_backend_name(backend),
			       backend == MEM_HUGETLB ? "; huge pages must be reserved first, see "
							"/proc/sys/vm/nr_hugepages"
						      : "");
	b->hva = at;
	if (madvise(at, b->size_bytes, MADV_DONTDUMP))
		log_warn("guest memory may end up in a core dump: %s", strerror(errno));
	/* A kernel without transparent huge pages refuses: slower, and nothing else. */
	if (backend == MEM_ANON)
		(void)madvise(at, b->size_bytes, MADV_HUGEPAGE);
	return 0;
}

static int add_block(struct mem *m, const char *name, uint64_t gpa, uint64_t bytes, struct err *e)
{
	struct mem_block *b = &m->blocks[m->n_blocks++];

	*b = (struct mem_block){
		.gpa = gpa, .size_bytes = bytes, .n_pages = bytes >> MEM_PAGE_SHIFT, .fd = -1};
	memcpy(b->name, name, strlen(name) + 1);
	if (bitset_init(&b->marks, b->n_pages))
		return err_set(e, ENOMEM, "out of memory for the dirty marks of %s", name);
	return map_block(b, m->backend, e);
}

int mem_create(struct mem **out, enum mem_backend backend, uint64_t size_bytes, struct err *e)
{
	uint64_t align = backend == MEM_HUGETLB ? HUGE_BYTES : MEM_PAGE_BYTES;
	uint64_t low = size_bytes < MEM_HOLE_START ? size_bytes : MEM_HOLE_START;
	struct mem *m;
	int rc;

	if (size_bytes < MEM_MIN_BYTES || size_bytes > MEM_MAX_BYTES)
		return err_set(e, EINVAL, "guest memory must be between 1 MiB and 16 TiB");
	if (size_bytes % align)
		return err_set(e, EINVAL, "guest memory must be a multiple of %llu KiB (%s)",
			       (unsigned long long)(align >> 10), mem_backend_name(backend));
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_set(e, ENOMEM, "out of memory");
	m->backend = backend;
	m->size_bytes = size_bytes;
	rc = add_block(m, "ram.low", 0, low, e);
	if (!rc && size_bytes > low)
		rc = add_block(m, "ram.high", MEM_HOLE_END, size_bytes - low, e);
	if (rc) {
		mem_free(m);
		return rc;
	}
	*out = m;
	return 0;
}

void mem_free(struct mem *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < m->n_blocks; i++) {
		struct mem_block *b = &m->blocks[i];

		if (b->hva)
			(void)munmap(b->hva, b->size_bytes);
		if (b->fd >= 0)
			(void)close(b->fd);
		bitset_free(&b->marks);
	}
	free(m);
}

int mem_map_file(struct mem *m, unsigned b, uint64_t page, uint64_t n, int fd, uint64_t offset,
		 struct err *e)
{
	struct mem_block *block = &m->blocks[b];
	uint8_t *at = block->hva + page * MEM_PAGE_BYTES;

	if (m->backend != MEM_ANON)
		return err_set(e, ENOTSUP, "only RAM of --mem-backend anon can be a file's");
	block->of_file = true;
	if (mmap(at, n * MEM_PAGE_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset) == MAP_FAILED)
		return err_sys(e, errno, "cannot map the file into guest memory");
	(void)madvise(at, n * MEM_PAGE_BYTES, MADV_DONTDUMP);
	return 0;
}

int mem_give_back(const struct mem_block *b, uint64_t offset, uint64_t len)
{
	int rc;

	/* In shared memory MADV_DONTNEED would only unmap: the file would keep the page. */
	if (b->fd >= 0) {
		rc = fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
			       (off_t)len);
		return rc ? -errno : 0;
	}
	/* And here it would bring back what the file has. */
	if (b->of_file) {
		if (mmap(b->hva + offset, len, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			 0) == MAP_FAILED)
			return -errno;
		rc = madvise(b->hva + offset, len, MADV_DONTDUMP);
		(void)madvise(b->hva + offset, len, MADV_HUGEPAGE);
		return rc ? -errno : 0;
	}
	return madvise(b->hva + offset, len, MADV_DONTNEED) ? -errno : 0;
}

static int discard_block(struct mem_block *b, enum mem_backend backend)
{
	int rc = mem_give_back(b, 0, b->size_bytes);
	void *again;

	b->of_file = b->of_file && rc;
	if (rc || backend != MEM_HUGETLB)
		return rc;
	/* The hole has given up the reservation too; mapping anew takes it again, or fails here. */
	again = mmap(b->hva, b->size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, b->fd,
		     0);
	if (again == MAP_FAILED || madvise(b->hva, b->size_bytes, MADV_DONTDUMP))
		return -errno;
	return 0;
}

int mem_discard(struct mem *m, struct err *e)
{
	for (unsigned i = 0; i < m->n_blocks; i++) {
		int rc = discard_block(&m->blocks[i], m->backend);

		if (rc)
			return err_sys(e, -rc, "cannot clear guest memory");
	}
	return 0;
}

bool mem_hole(const struct mem_block *b, uint64_t page, uint64_t *end_page)
{
	off_t at = (off_t)(page << MEM_PAGE_SHIFT), end;
	off_t data = b->fd < 0 ? -1 : lseek(b->fd, at, SEEK_DATA);

	*end_page = b->n_pages;
	if (b->fd < 0)
		return false;
	if (data < 0)
		return errno == ENXIO; /* no data up to the end; otherwise it cannot be told */
	if (data >= at + (off_t)MEM_PAGE_BYTES) {
		*end_page = (uint64_t)data >> MEM_PAGE_SHIFT;
		return true;
	}
	end = lseek(b->fd, at, SEEK_HOLE);
	if (end > at)
		*end_page = ((uint64_t)end + MEM_PAGE_BYTES - 1) >> MEM_PAGE_SHIFT;
	return false;
}

const struct mem_block *mem_block_at(const struct mem *m, uint64_t gpa)
{
	for (unsigned i = 0; i < m->n_blocks; i++) {
		const struct mem_block *b = &m->blocks[i];

		if (gpa >= b->gpa && gpa - b->gpa < b->size_bytes)
			return b;
	}
	return NULL;
}

uint64_t mem_run(const struct mem *m, uint64_t gpa)
{
	const struct mem_block *b = mem_block_at(m, gpa);

	return b ? b->size_bytes - (gpa - b->gpa) : 0;
}

void *mem_host(const struct mem *m, uint64_t gpa, uint64_t len)
{
	const struct mem_block *b = mem_block_at(m, gpa);

	if (!b || len > b->size_bytes - (gpa - b->gpa))
		return NULL;
	return b->hva + (gpa - b->gpa);
}

int mem_read(const struct mem *m, uint64_t gpa, void *to, uint64_t len)
{
	const void *at = mem_host(m, gpa, len);

	if (!at)
		return -EFAULT;
	if (len)
		memcpy(to, at, len);
	return 0;
}

int mem_write(struct mem *m, uint64_t gpa, const void *from, uint64_t len)
{
	void *at = mem_host(m, gpa, len);

	if (!at)
		return -EFAULT;
	if (len)
		memcpy(at, from, len);
	mem_mark(m, gpa, len);
	return 0;
}

int mem_set(struct mem *m, uint64_t gpa, uint8_t value, uint64_t len)
{
	void *at = mem_host(m, gpa, len);

	if (!at)
		return -EFAULT;
	memset(at, value, len);
	mem_mark(m, gpa, len);
	return 0;
}

void mem_mark(struct mem *m, uint64_t gpa, uint64_t len)
{
	const struct mem_block *b = mem_block_at(m, gpa);
	uint64_t first, last;

	if (!b || !len)
		return;
	if (len > b->size_bytes - (gpa - b->gpa))
		len = b->size_bytes - (gpa - b->gpa);
	first = (gpa - b->gpa) >> MEM_PAGE_SHIFT;
	last = (gpa - b->gpa + len - 1) >> MEM_PAGE_SHIFT;
	/*
	 * Release: the bytes were written before the mark; whoever takes the mark (acquire) and
	 * then reads the page sees them.
	 */
	for (uint64_t w = first / 64; w <= last / 64; w++)
		(void)bitset_or(&b->marks, w, bits_word_mask(w, first, last - first + 1));
}

uint64_t mem_marks_take(struct mem *m, unsigned b, uint64_t word)
{
	return bitset_take(&m->blocks[b].marks, word, ~0ull);
}

uint64_t mem_marks_next(const struct mem *m, unsigned b, uint64_t from)
{
	return bitset_next_word(&m->blocks[b].marks, from);
}
