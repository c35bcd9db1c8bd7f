/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/file_io.h"

#include <errno.h>
#include <inttypes.h>
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define RING_ENTRIES 64
#define EXTENTS      MIG_FILE_LANES

#define BACKGROUND_NICE 10

struct op {
	unsigned extent; /* index into the worker's extents */
	uint64_t file_offset;
	uint8_t *at;
	unsigned len;
};

struct slot {
	struct mig_file_extent x;
	unsigned in_flight; /* operations */
	bool used;
};

struct shared {
	const struct mig_file_job *job;
	_Atomic uint64_t next;
	uint64_t first_of_block[MEM_MAX_BLOCKS + 1]; /* extents, numbered over all blocks */
	atomic_bool failed;
	pthread_mutex_t lock; /* guards what follows */
	int error;
	struct err message;
};

struct mig_file_worker {
	struct shared *shared;
	unsigned index;
	pthread_t thread;
	struct io_uring ring;
	struct slot slots[EXTENTS];
	unsigned current; /* slot that is being submitted */
	struct op ops[RING_ENTRIES];
	unsigned free_ops[RING_ENTRIES], n_free;
	unsigned unsubmitted;
};

static int explain(const struct mig_file_job *job, const struct op *op, int rc, struct err *e)
{
	if (job->write)
		return err_sys(e, -rc, "cannot write the pages (at byte %" PRIu64 ")",
			       op->file_offset);
	if (rc == -ENODATA)
		return err_set(e, ENODATA, "the file ends among the pages (at byte %" PRIu64 ")",
			       op->file_offset);
	return err_sys(e, -rc, "cannot read the pages (at byte %" PRIu64 ")", op->file_offset);
}

/* The kernel did a part only: the rest here and now. */
static int do_rest(const struct mig_file_job *job, const struct op *op, unsigned done)
{
	while (done < op->len) {
		off_t off = (off_t)(op->file_offset + done);
		size_t len = op->len - done;
		ssize_t n = job->write ? pwrite(job->fd, op->at + done, len, off)
				       : pread(job->fd, op->at + done, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return job->write ? -ENOSPC : -ENODATA;
		done += (unsigned)n;
	}
	return 0;
}

static int finish_slot(struct mig_file_worker *w, struct slot *s, struct err *e)
{
	const struct mig_file_job *job = w->shared->job;

	s->used = false;
	return job->finish ? job->finish(job->ctx, &s->x, e) : 0;
}

/* One operation is done. After an error only the books are kept. */
static int complete(struct mig_file_worker *w, struct io_uring_cqe *cqe, bool ok, struct err *e)
{
	unsigned index = (unsigned)io_uring_cqe_get_data64(cqe);
	const struct mig_file_job *job = w->shared->job;
	struct op *op = &w->ops[index];
	struct slot *s = &w->slots[op->extent];
	int res = cqe->res, rc = 0;

	io_uring_cqe_seen(&w->ring, cqe);
	if (res == -EAGAIN || res == -EINTR)
		res = 0;
	if (ok && res >= 0 && (unsigned)res < op->len)
		rc = do_rest(job, op, (unsigned)res);
	else if (ok && res < 0)
		rc = res;
	if (rc)
		rc = explain(job, op, rc, e);
	w->free_ops[w->n_free++] = index;
	s->in_flight--;
	/* The slot at hand may get more. */
	if (ok && !rc && !s->in_flight && s != &w->slots[w->current])
		rc = finish_slot(w, s, e);
	return rc;
}

static int flush(struct mig_file_worker *w, unsigned wait, struct err *e)
{
	int rc = 0;

	while (w->unsubmitted || wait) {
		rc = io_uring_submit_and_wait(&w->ring, wait);
		if (rc == -EINTR || rc == -EAGAIN)
			continue;
		if (rc < 0)
			return err_sys(e, -rc, "io_uring failed");
		w->unsubmitted -= (unsigned)rc < w->unsubmitted ? (unsigned)rc : w->unsubmitted;
		wait = 0;
	}
	return 0;
}

/* Take what is done; wait for at least one if `wait`. */
static int reap(struct mig_file_worker *w, bool wait, struct err *e)
{
	struct io_uring_cqe *cqe;
	int rc = flush(w, wait, e);

	while (!rc && !io_uring_peek_cqe(&w->ring, &cqe))
		rc = complete(w, cqe, true, e);
	return rc;
}

int mig_file_submit(struct mig_file_worker *w, uint64_t first, uint64_t n, void *at, struct err *e)
{
	const struct mig_file_job *job = w->shared->job;
	const struct mig_file_block *b = &job->layout->blocks[w->slots[w->current].x.block];
	struct io_uring_sqe *sqe;
	struct op *op;
	unsigned index;

	while (!w->n_free) {
		int rc = reap(w, true, e);

		if (rc)
			return rc;
	}
	index = w->free_ops[--w->n_free];
	op = &w->ops[index];
	*op = (struct op){.extent = w->current,
			  .file_offset = mig_file_page_offset(b, first),
			  .at = at,
			  .len = (unsigned)(n * MEM_PAGE_BYTES)};
	sqe = io_uring_get_sqe(&w->ring); /* as many as operations */
	if (job->write)
		io_uring_prep_write(sqe, job->fd, op->at, op->len, op->file_offset);
	else
		io_uring_prep_read(sqe, job->fd, op->at, op->len, op->file_offset);
	io_uring_sqe_set_data64(sqe, index);
	w->slots[w->current].in_flight++;
	w->unsubmitted++;
	return 0;
}

/* False: there is no other. */
static bool next_extent(struct shared *s, struct mig_file_extent *x)
{
	const struct mig_file_layout *l = s->job->layout;
	uint64_t i = atomic_fetch_add(&s->next, 1);
	unsigned b = 0;

	if (i >= s->first_of_block[l->n_blocks])
		return false;
	while (i >= s->first_of_block[b + 1])
		b++;
	x->block = b;
	x->number = i;
	x->first = (i - s->first_of_block[b]) * MIG_FILE_EXTENT_PAGES;
	x->n = l->blocks[b].n_pages - x->first;
	if (x->n > MIG_FILE_EXTENT_PAGES)
		x->n = MIG_FILE_EXTENT_PAGES;
	return true;
}

static int free_slot(struct mig_file_worker *w, struct err *e)
{
	for (;;) {
		for (unsigned i = 0; i < EXTENTS; i++) {
			if (!w->slots[i].used) {
				w->current = i;
				return 0;
			}
		}
		w->current = EXTENTS; /* none: all may finish */
		if (reap(w, true, e))
			return -EIO;
	}
}

static int do_extents(struct mig_file_worker *w, struct err *e)
{
	const struct mig_file_job *job = w->shared->job;
	int rc = 0;

	while (!rc && !atomic_load(&w->shared->failed)) {
		struct slot *s;

		if (job->stop && mig_stop_is_set(job->stop))
			return err_set(e, ECANCELED, "cancelled");
		rc = free_slot(w, e);
		if (rc)
			return rc;
		s = &w->slots[w->current];
		if (!next_extent(w->shared, &s->x))
			break;
		s->used = true;
		s->x.lane = w->index * EXTENTS + w->current;
		rc = job->begin(job->ctx, w, &s->x, e);
		if (!rc)
			rc = reap(w, false, e);
		w->current = EXTENTS;
		if (!rc && s->used && !s->in_flight)
			rc = finish_slot(w, s, e);
	}
	w->current = EXTENTS;
	while (!rc && w->n_free < RING_ENTRIES)
		rc = reap(w, true, e);
	return rc;
}

/*
 * After an error: the kernel must let go of guest RAM before anybody else touches it. What it has
 * not been given yet it does not get.
 */
static void settle(struct mig_file_worker *w)
{
	struct io_uring_cqe *cqe;

	w->current = EXTENTS;
	while (w->n_free + w->unsubmitted < RING_ENTRIES) {
		int rc = io_uring_wait_cqe(&w->ring, &cqe);

		if (rc == -EINTR)
			continue;
		if (rc)
			return; /* the ring is broken: its end waits for what is in flight */
		(void)complete(w, cqe, false, NULL);
	}
}

static void *work(void *arg)
{
	struct mig_file_worker *w = arg;
	struct shared *s = w->shared;
	struct err e = ERR_INIT;
	int rc;

	if (s->job->background)
		(void)setpriority(PRIO_PROCESS, (id_t)gettid(), BACKGROUND_NICE);
	rc = do_extents(w, &e);
	if (rc)
		settle(w);
	if (rc) {
		pthread_mutex_lock(&s->lock);
		if (!s->error) {
			s->error = e.code ? -e.code : rc;
			s->message = e;
		}
		pthread_mutex_unlock(&s->lock);
		atomic_store(&s->failed, true);
	}
	return NULL;
}

static int start_worker(struct mig_file_worker *w, unsigned index, struct shared *s, struct err *e)
{
	int rc = io_uring_queue_init(RING_ENTRIES, &w->ring, 0);

	if (rc)
		return err_sys(e, -rc, "cannot set up io_uring%s",
			       rc == -EPERM || rc == -ENOSYS ? " (is kernel.io_uring_disabled set?)"
							     : "");
	w->shared = s;
	w->index = index;
	w->current = EXTENTS;
	for (unsigned i = 0; i < RING_ENTRIES; i++)
		w->free_ops[w->n_free++] = i;
	rc = pthread_create(&w->thread, NULL, work, w);
	if (rc) {
		io_uring_queue_exit(&w->ring);
		return err_sys(e, rc, "cannot start a thread");
	}
	(void)pthread_setname_np(w->thread, "mig-file");
	return 0;
}

int mig_file_run(const struct mig_file_job *job, struct err *e)
{
	struct mig_file_worker *workers = calloc(job->n_threads, sizeof(*workers));
	struct shared s = {.job = job};
	unsigned n = 0;
	int rc = 0;

	if (!workers)
		return err_set(e, ENOMEM, "out of memory");
	(void)pthread_mutex_init(&s.lock, NULL);
	for (unsigned b = 0; b <= job->layout->n_blocks; b++)
		s.first_of_block[b] = mig_file_extent_number(job->layout, b, 0);
	for (; n < job->n_threads && !rc; n += !rc)
		rc = start_worker(&workers[n], n, &s, e);
	if (rc)
		atomic_store(&s.failed, true);
	for (unsigned i = 0; i < n; i++) {
		(void)pthread_join(workers[i].thread, NULL);
		io_uring_queue_exit(&workers[i].ring);
	}
	if (!rc && s.error)
		rc = err_set(e, -s.error, "%s", s.message.msg);
	(void)pthread_mutex_destroy(&s.lock);
	free(workers);
	return rc;
}
