/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stores: memory, or a file or disk, filled with pages of 4 KiB. A page's content follows from its
 * store, its number and its generation, and looks random, so that it cannot be compressed and every
 * lost, doubled or misplaced write shows. The generations that the pages ought to have are kept
 * apart; `churn` rewrites random pages with the next one.
 *
 * A store's lock guards its pages and generations. The list belongs to the main thread; a store's
 * writer ends before the store does.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define PAGE_BYTES  4096u
#define PAGE_WORDS  (PAGE_BYTES / 8)
#define STORES_MAX  16
#define MIB_MAX     (1 << 20)
#define CHUNK_PAGES 256u /* of a file at once */

struct store {
	unsigned id; /* 0 = no store */
	uint64_t pages;
	uint32_t *generation; /* [pages] */
	uint64_t *memory;     /* NULL = a file */
	int fd;               /* of the file */
	pthread_mutex_t lock;
	bool churns;  /* a writer thread exists */
	int64_t rate; /* of its pages a second; 0 = end */
	uint64_t written;
	sem_t ended; /* posted by the writer */
};

static struct store stores[STORES_MAX];
static unsigned last_id;

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static void make_page(uint64_t *to, const struct store *s, uint64_t page, uint32_t generation)
{
	uint64_t x = mix(((uint64_t)s->id << 48) + (page << 8)) ^ mix(generation + 1);

	to[0] = page;
	to[1] = generation;
	for (unsigned i = 2; i < PAGE_WORDS; i++) {
		x += 0x9e3779b97f4a7c15u;
		to[i] = x ^ x >> 29 ^ x << 17;
	}
}

static int file_io(int fd, bool out, void *data, size_t bytes, uint64_t offset)
{
	uint8_t *at = data;

	while (bytes) {
		ssize_t n = out ? pwrite(fd, at, bytes, (off_t)offset)
				: pread(fd, at, bytes, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? errno : ENODATA;
		at += n;
		offset += (uint64_t)n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* Page-aligned, as O_DIRECT wants it. */
static uint64_t *new_buffer(uint64_t pages)
{
	void *at = NULL;

	return posix_memalign(&at, PAGE_BYTES, pages * PAGE_BYTES) ? NULL : at;
}

/* All pages of generation 0. Returns 0 or errno. */
static int write_all(struct store *s)
{
	uint64_t *buffer;
	int rc = 0;

	if (s->memory) {
		for (uint64_t i = 0; i < s->pages; i++)
			make_page(s->memory + i * PAGE_WORDS, s, i, 0);
		return 0;
	}
	buffer = new_buffer(CHUNK_PAGES);
	if (!buffer)
		return ENOMEM;
	for (uint64_t first = 0; first < s->pages && !rc; first += CHUNK_PAGES) {
		uint64_t n = s->pages - first < CHUNK_PAGES ? s->pages - first : CHUNK_PAGES;

		for (uint64_t i = 0; i < n; i++)
			make_page(buffer + i * PAGE_WORDS, s, first + i, 0);
		rc = file_io(s->fd, true, buffer, n * PAGE_BYTES, first * PAGE_BYTES);
	}
	free(buffer);
	return !rc && fsync(s->fd) ? errno : rc;
}

/* Under the lock. */
static int rewrite_page(struct store *s, uint64_t page, uint64_t *buffer)
{
	uint32_t generation = s->generation[page] + 1;
	int rc = 0;

	make_page(s->memory ? s->memory + page * PAGE_WORDS : buffer, s, page, generation);
	if (!s->memory)
		rc = file_io(s->fd, true, buffer, PAGE_BYTES, page * PAGE_BYTES);
	if (!rc) {
		s->generation[page] = generation;
		s->written++;
	}
	return rc;
}

/* A writer works in steps of 10 ms, so that it keeps its rate over a second and ends soon. */
static void *writer(void *arg)
{
	const struct timespec step = {.tv_nsec = 10000000};
	uint64_t *buffer = new_buffer(1), x = now_ns(), begun = x, done = 0;
	struct store *s = arg;
	int64_t rate;
	int rc = buffer ? 0 : ENOMEM;

	while (!rc && (rate = __atomic_load_n(&s->rate, __ATOMIC_RELAXED)) > 0) {
		uint64_t due = (now_ns() - begun) / 1000 * (uint64_t)rate / 1000000;

		for (unsigned i = 0; done < due && i < 1000 && !rc; i++, done++) {
			pthread_mutex_lock(&s->lock);
			x = mix(x + done);
			rc = rewrite_page(s, x % s->pages, buffer);
			pthread_mutex_unlock(&s->lock);
		}
		if (done >= due)
			(void)nanosleep(&step, NULL);
	}
	if (rc)
		say("churn FAILED id=%u: %s", s->id, strerror(rc));
	free(buffer);
	(void)sem_post(&s->ended);
	return NULL;
}

static void end_writer(struct store *s)
{
	if (!s->churns)
		return;
	__atomic_store_n(&s->rate, 0, __ATOMIC_RELAXED);
	while (sem_wait(&s->ended))
		;
	s->churns = false;
}

static void drop(struct store *s)
{
	end_writer(s);
	if (s->memory)
		(void)munmap(s->memory, s->pages * PAGE_BYTES);
	else if (s->fd >= 0)
		(void)close(s->fd);
	free(s->generation);
	s->id = 0;
}

static struct store *find(int64_t id)
{
	for (int i = 0; i < STORES_MAX; i++) {
		if (stores[i].id == id)
			return &stores[i];
	}
	return NULL;
}

/* A store without pages yet, or NULL after having said why. */
static struct store *begin(const struct words *c, const char *mib_text)
{
	int64_t mib = number(mib_text, MIB_MAX);
	struct store *s = find(0);

	if (mib < 1 || !s) {
		say_failed(c, s ? "expected a number of MiB" : "all stores are in use");
		return NULL;
	}
	*s = (struct store){.pages = (uint64_t)mib << 8, .fd = -1};
	s->generation = calloc(s->pages, sizeof(*s->generation));
	if (!s->generation) {
		say_failed(c, "out of memory");
		return NULL;
	}
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)sem_init(&s->ended, 0, 0);
	s->id = ++last_id;
	return s;
}

static void finish(const struct words *c, struct store *s, int rc, uint64_t begun)
{
	if (!rc)
		rc = write_all(s);
	if (rc) {
		say_failed(c, "%s", strerror(rc));
		drop(s);
		return;
	}
	say_ok(c, "id=%u pages=%llu ms=%llu", s->id, (unsigned long long)s->pages,
	       (unsigned long long)((now_ns() - begun) / 1000000));
}

void do_fill(const struct words *c)
{
	struct store *s = begin(c, c->w[1]);
	uint64_t begun = now_ns();
	void *at;

	if (!s)
		return;
	at = mmap(NULL, s->pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED) {
		finish(c, s, errno, begun);
		return;
	}
	s->memory = at;
	(void)madvise(at, s->pages * PAGE_BYTES, MADV_HUGEPAGE); /* page faults are slow */
	finish(c, s, 0, begun);
}

void do_file(const struct words *c)
{
	struct store *s = begin(c, c->w[2]);
	uint64_t begun = now_ns();

	if (!s)
		return;
	/* Past the page cache, where there is one to pass. */
	s->fd = open(c->w[1], O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	if (s->fd < 0)
		s->fd = open(c->w[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	finish(c, s, s->fd < 0 ? errno : 0, begun);
}

void do_churn(const struct words *c)
{
	int64_t id = number(c->w[1], UINT32_MAX), rate = number(c->w[2], 1000000);
	struct store *s = id > 0 ? find(id) : NULL;

	if (!s || rate < 0) {
		say_failed(c, s ? "expected a number of pages a second" : "no such store");
		return;
	}
	end_writer(s);
	s->rate = rate;
	if (rate) {
		s->churns = spawn(writer, s);
		if (!s->churns) {
			say_failed(c, "no thread");
			return;
		}
	}
	pthread_mutex_lock(&s->lock);
	say_ok(c, "id=%u written=%llu", s->id, (unsigned long long)s->written);
	pthread_mutex_unlock(&s->lock);
}

/* The first page that is wrong, or s->pages; *rc is 0 or errno. Under the lock. */
static uint64_t first_bad(struct store *s, uint64_t *want, uint64_t *buffer, int *rc)
{
	for (uint64_t first = 0; first < s->pages; first += CHUNK_PAGES) {
		uint64_t n = s->pages - first < CHUNK_PAGES ? s->pages - first : CHUNK_PAGES;
		const uint64_t *have = s->memory ? s->memory + first * PAGE_WORDS : buffer;

		*rc = s->memory ? 0
				: file_io(s->fd, false, buffer, n * PAGE_BYTES, first * PAGE_BYTES);
		if (*rc)
			return first;
		for (uint64_t i = 0; i < n; i++) {
			make_page(want, s, first + i, s->generation[first + i]);
			if (memcmp(want, have + i * PAGE_WORDS, PAGE_BYTES)) {
				const uint64_t *bad = have + i * PAGE_WORDS;

				say("check | page %llu of store %u has number %llu generation "
				    "%llu, "
				    "expected generation %u",
				    (unsigned long long)(first + i), s->id,
				    (unsigned long long)bad[0], (unsigned long long)bad[1],
				    s->generation[first + i]);
				return first + i;
			}
		}
	}
	return s->pages;
}

void do_check(const struct words *c)
{
	uint64_t *want = new_buffer(1), *buffer = new_buffer(CHUNK_PAGES);
	uint64_t pages = 0, written = 0, begun = now_ns();
	unsigned n = 0;

	for (int i = 0; i < STORES_MAX && want && buffer; i++) {
		struct store *s = &stores[i];
		uint64_t bad;
		int rc = 0;

		if (!s->id)
			continue;
		pthread_mutex_lock(&s->lock);
		bad = first_bad(s, want, buffer, &rc);
		n++;
		pages += s->pages;
		written += s->written;
		pthread_mutex_unlock(&s->lock);
		if (bad < s->pages) {
			say_failed(c, "id=%u page=%llu: %s", s->id, (unsigned long long)bad,
				   rc ? strerror(rc) : "its content is wrong");
			goto out;
		}
	}
	if (!want || !buffer)
		say_failed(c, "out of memory");
	else
		say_ok(c, "stores=%u pages=%llu written=%llu ms=%llu", n, (unsigned long long)pages,
		       (unsigned long long)written,
		       (unsigned long long)((now_ns() - begun) / 1000000));
out:
	free(want);
	free(buffer);
}

void do_free(const struct words *c)
{
	bool all = !strcmp(c->w[1], "all");
	int64_t id = number(c->w[1], UINT32_MAX);
	unsigned n = 0;

	for (int i = 0; i < STORES_MAX; i++) {
		if (stores[i].id && (all || stores[i].id == id)) {
			drop(&stores[i]);
			n++;
		}
	}
	if (n || all)
		say_ok(c, "stores=%u", n);
	else
		say_failed(c, "no such store");
}
