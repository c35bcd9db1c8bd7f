/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/senders.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/cond.h"

static void fail(struct mig_senders *p, int rc, const struct err *e)
{
	pthread_mutex_lock(&p->lock);
	if (!p->rc) {
		p->rc = rc;
		p->err = *e;
	}
	pthread_mutex_unlock(&p->lock);
	mig_senders_abort(p);
}

/* Wait for the next part. NULL: there is none any more. */
static mig_part_fn *next_part(struct mig_senders *p, uint64_t *done)
{
	mig_part_fn *part;

	pthread_mutex_lock(&p->lock);
	while (!p->quit && p->parts == *done)
		(void)pthread_cond_wait(&p->changed, &p->lock);
	part = p->parts == *done ? NULL : p->part;
	*done = p->parts;
	pthread_mutex_unlock(&p->lock);
	return part;
}

static void *run(void *arg)
{
	struct mig_sender *s = arg;
	struct mig_senders *p = s->all;
	uint64_t done = 0;
	mig_part_fn *part;

	while ((part = next_part(p, &done)) != NULL) {
		struct err e = ERR_INIT;
		int rc = atomic_load(&p->failed) ? 0 : part(s, &e);

		if (rc)
			fail(p, rc, &e);
		pthread_mutex_lock(&p->lock);
		if (!--p->working)
			pthread_cond_broadcast(&p->changed);
		pthread_mutex_unlock(&p->lock);
	}
	return NULL;
}

static int start_thread(struct mig_sender *s, struct err *e)
{
	char name[16];
	int rc = pthread_create(&s->thread, NULL, run, s);

	if (rc)
		return err_sys(e, rc, "cannot start a thread for connection %u", s->index);
	(void)snprintf(name, sizeof(name), "mig-send-%u", s->index);
	(void)pthread_setname_np(s->thread, name);
	return 0;
}

static void init_lock(struct mig_senders *p)
{
	(void)pthread_mutex_init(&p->lock, NULL);
	thread_cond_init(&p->changed);
	mig_cursor_init(&p->cursor);
}

int mig_senders_init(struct mig_senders *p, void *ctx, unsigned n, const struct mem *mem,
		     struct mig_bitmap *bitmap, const struct mig_dirty_source *dirty, struct err *e)
{
	int rc = 0;

	*p = (struct mig_senders){.ctx = ctx};
	p->list = calloc(n, sizeof(*p->list));
	if (!p->list)
		return err_set(e, ENOMEM, "out of memory for %u connections", n);
	init_lock(p);
	for (unsigned i = 0; i < n && !rc; i++) {
		struct mig_sender *s = &p->list[i];

		s->all = p;
		s->index = i;
		s->writer = &s->own_writer;
		mig_pages_init(&s->pages, mem, bitmap, dirty, &p->cursor);
		mig_chunk_init(&s->chunks[0]);
		mig_chunk_init(&s->chunks[1]);
		if (i)
			rc = start_thread(s, e);
		if (!rc)
			p->n = i + 1;
	}
	return rc;
}

int mig_senders_compress(struct mig_senders *p, struct err *e)
{
	for (unsigned i = 0; i < p->n; i++) {
		struct mig_sender *s = &p->list[i];
		int rc = mig_squeeze_new(&s->squeeze);

		for (unsigned k = 0; k < 2 && !rc; k++) {
			s->chunks[k].packed = malloc(WIRE_DATA_MAX);
			rc = s->chunks[k].packed ? 0 : -ENOMEM;
		}
		if (rc)
			return err_set(e, ENOMEM, "out of memory for compressing");
	}
	return 0;
}

void mig_senders_free(struct mig_senders *p)
{
	if (!p->list)
		return;
	mig_senders_abort(p);
	pthread_mutex_lock(&p->lock);
	p->quit = true;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	/* All of them first: one that fails still breaks the others' connections. */
	for (unsigned i = 1; i < p->n; i++)
		(void)pthread_join(p->list[i].thread, NULL);
	for (unsigned i = 0; i < p->n; i++) {
		struct mig_sender *s = &p->list[i];

		if (i)
			mig_chan_close(s->chan);
		mig_chunk_free(&s->chunks[0]);
		mig_chunk_free(&s->chunks[1]);
		mig_squeeze_free(s->squeeze);
	}
	mig_cursor_destroy(&p->cursor);
	(void)pthread_cond_destroy(&p->changed);
	(void)pthread_mutex_destroy(&p->lock);
	free(p->list);
	*p = (struct mig_senders){0};
}

void mig_sender_connected(struct mig_sender *s, struct mig_chan *chan)
{
	struct mig_senders *p = s->all;

	pthread_mutex_lock(&p->lock);
	__atomic_store_n(&s->chan, chan, __ATOMIC_RELEASE);
	if (p->broken)
		mig_chan_abort(chan);
	pthread_mutex_unlock(&p->lock);
}

int mig_senders_watch(const struct mig_senders *p, struct mig_stop *stop, uint64_t timeout_ns,
		      struct err *e)
{
	uint64_t end = clock_mono_ns() + timeout_ns, now;

	while ((now = clock_mono_ns()) < end) {
		struct pollfd fds[1 + WIRE_CHANNELS_MAX] = {{.fd = stop->fd, .events = POLLIN}};
		int n;

		for (unsigned i = 0; i < p->n; i++)
			fds[1 + i] = (struct pollfd){.fd = mig_chan_fd(p->list[i].chan),
						     .events = i ? POLLRDHUP : POLLIN};
		n = poll(fds, 1 + p->n, (int)((end - now) / NS_PER_MS + 1));
		if (n < 0 && errno != EINTR)
			return err_sys(e, errno, "waiting for the destination");
		if (mig_stop_is_set(stop))
			return err_set(e, ECANCELED, "cancelled");
		if (n > 0 && fds[1].revents)
			return 0;
		if (n > 0)
			return err_set(e, ECONNRESET,
				       "one of the connections was closed by the other side");
	}
	return err_set(e, ETIMEDOUT, "the destination does not see all connections");
}

void mig_senders_go(struct mig_senders *p, mig_part_fn *part)
{
	if (p->n < 2)
		return;
	pthread_mutex_lock(&p->lock);
	p->part = part;
	p->parts++;
	p->working = p->n - 1;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
}

bool mig_senders_wait(struct mig_senders *p, uint64_t timeout_ns)
{
	uint64_t end = clock_mono_ns() + timeout_ns;
	bool done;

	if (p->n < 2)
		return true;
	pthread_mutex_lock(&p->lock);
	while (p->working && !thread_cond_wait(&p->changed, &p->lock, end))
		;
	done = !p->working;
	pthread_mutex_unlock(&p->lock);
	return done;
}

/* Of several failures the others are consequences: what tells more about the cause? */
static unsigned rank(int rc)
{
	switch (rc) {
	case -ECANCELED:
		return 1;
	case -ECONNRESET:
		return 2;
	case -EREMOTEIO:
		return 3;
	default:
		return rc < 0 ? 4 : 0;
	}
}

int mig_senders_join(struct mig_senders *p, int rc, struct err *e)
{
	if (p->n < 2)
		return rc;
	if (rc < 0)
		mig_senders_abort(p);
	pthread_mutex_lock(&p->lock);
	while (p->working)
		(void)pthread_cond_wait(&p->changed, &p->lock);
	if (rank(p->rc) > rank(rc)) {
		rc = p->rc;
		*e = p->err;
	} else if (rc >= 0 && p->broken) {
		rc = err_set(e, ECANCELED, "cancelled"); /* before they had begun */
	}
	pthread_mutex_unlock(&p->lock);
	return rc;
}

void mig_senders_abort(struct mig_senders *p)
{
	if (!p->list)
		return;
	pthread_mutex_lock(&p->lock);
	p->broken = true;
	atomic_store(&p->failed, true);
	for (unsigned i = 1; i < p->n; i++) {
		if (p->list[i].chan)
			mig_chan_abort(p->list[i].chan);
	}
	pthread_mutex_unlock(&p->lock);
}

/* ---- sums ---- */

/* The connection, which its own thread may be setting at this moment. */
static const struct mig_chan *chan_of(const struct mig_sender *s)
{
	return __atomic_load_n(&s->chan, __ATOMIC_ACQUIRE);
}

static uint64_t read_figure(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

struct mig_sums mig_senders_sums(const struct mig_senders *p)
{
	struct mig_sums sums = {0};

	for (unsigned i = 0; i < p->n; i++) {
		const struct mig_sender *s = &p->list[i];
		const struct mig_chan *c = chan_of(s);

		sums.pending_pages += mig_pages_pending(&s->pages);
		sums.normal_pages += read_figure(&s->sent_normal);
		sums.zero_pages += read_figure(&s->sent_zero);
		sums.data_bytes += read_figure(&s->data_bytes);
		sums.packed_from_bytes += read_figure(&s->packed_from_bytes);
		sums.packed_to_bytes += read_figure(&s->packed_to_bytes);
		sums.protect_calls += read_figure(&s->pages.protect_calls);
		sums.protect_pages += read_figure(&s->pages.protect_pages);
		sums.sent_bytes += c ? mig_chan_sent(c) : 0;
	}
	return sums;
}

static uint64_t sum_of(const struct mig_senders *p, uint64_t (*figure)(const struct mig_chan *c))
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < p->n; i++) {
		const struct mig_chan *c = chan_of(&p->list[i]);

		sum += c ? figure(c) : 0;
	}
	return sum;
}

uint64_t mig_senders_queued_bytes(const struct mig_senders *p)
{
	return sum_of(p, mig_chan_queued);
}

uint64_t mig_senders_unsent_bytes(const struct mig_senders *p)
{
	return sum_of(p, mig_chan_unsent);
}

enum mig_zero_copy_verdict mig_senders_zero_copy(const struct mig_senders *p)
{
	enum mig_zero_copy_verdict most = MIG_ZERO_COPY_UNTRIED;

	for (unsigned i = 0; i < p->n; i++) {
		const struct mig_chan *c = chan_of(&p->list[i]);
		enum mig_zero_copy_verdict v = c ? mig_chan_zero_copy(c) : MIG_ZERO_COPY_UNTRIED;

		if (v > most)
			most = v;
	}
	return most;
}
