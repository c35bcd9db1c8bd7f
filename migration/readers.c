/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/readers.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/cond.h"
#include "migration/heartbeat.h"

#define IDLE_TIMEOUT_NS (30 * NS_PER_SEC)

int mig_readers_init(struct mig_readers *p, struct mig_incoming *in, struct mig_chan *chan,
		     void (*on_frame)(void *ctx), void *ctx, struct err *e)
{
	int rc;

	memset(p, 0, sizeof(*p));
	rc = mig_stop_init(&p->failed);
	if (rc)
		return err_sys(e, -rc, "cannot prepare to receive");
	(void)pthread_mutex_init(&p->lock, NULL);
	thread_cond_init(&p->changed);
	p->in = in;
	p->on_frame = on_frame;
	p->ctx = ctx;
	p->list[0].chan = chan;
	p->n = 1;
	return 0;
}

void mig_readers_add(struct mig_readers *p, unsigned index, struct mig_chan *chan,
		     const struct wire_reader *wire)
{
	pthread_mutex_lock(&p->lock);
	p->list[index] = (struct mig_reader){.all = p, .index = index, .chan = chan, .wire = *wire};
	if (p->rc)
		mig_chan_abort(chan);
	mig_chan_set_user_timeout(chan, MIG_BEAT_USER_TIMEOUT_MS);
	pthread_mutex_unlock(&p->lock);
}

/* Under the lock: all connections but the first end. */
static void break_others(struct mig_readers *p)
{
	for (unsigned i = 1; i < WIRE_CHANNELS_MAX; i++) {
		if (p->list[i].chan)
			mig_chan_abort(p->list[i].chan);
	}
	pthread_cond_broadcast(&p->changed);
}

static void fail(struct mig_readers *p, int rc, const struct err *e)
{
	pthread_mutex_lock(&p->lock);
	if (!p->rc) {
		p->rc = rc;
		p->err = *e;
	}
	/* While it is closed nothing is due from here, and the guest may be taken over without. */
	if (!p->closed) {
		break_others(p);
		mig_stop_set(&p->failed);
	}
	pthread_mutex_unlock(&p->lock);
}

/* Under the lock: should whoever waits give up? */
static bool over(const struct mig_readers *p)
{
	return p->ended || (p->rc && !p->closed);
}

/* ---- a connection's thread ---- */

/* Wait until this reader may write RAM, which it may until leave(). False: give up. */
static bool enter(struct mig_reader *r)
{
	struct mig_readers *p = r->all;
	bool may;

	pthread_mutex_lock(&p->lock);
	while (p->closed && !over(p))
		(void)pthread_cond_wait(&p->changed, &p->lock);
	may = !over(p);
	p->busy[r->index] = may;
	pthread_mutex_unlock(&p->lock);
	return may;
}

static void leave(struct mig_reader *r)
{
	pthread_mutex_lock(&r->all->lock);
	r->all->busy[r->index] = false;
	pthread_mutex_unlock(&r->all->lock);
}

static int take_pages(struct mig_reader *r, const struct wire_frame *f, struct err *e)
{
	int rc;

	if (!enter(r))
		return -ECANCELED;
	rc = mig_incoming_pages(r->all->in, &r->inlet, r->chan, &r->wire.meta, f->data_bytes, e);
	leave(r);
	r->all->on_frame(r->all->ctx);
	return rc;
}

static int take_frame(struct mig_reader *r, struct err *e)
{
	struct wire_frame f;
	uint64_t number;
	int rc;

	/* It may well have nothing to carry for long: the first connection is the one that tells.
	 */
	mig_chan_set_idle_timeout(r->chan, 0);
	rc = wire_recv(&r->wire, r->chan, &f, e);
	mig_chan_set_idle_timeout(r->chan, IDLE_TIMEOUT_NS);
	if (rc)
		return rc;
	switch (f.type) {
	case WIRE_PAGES:
		return take_pages(r, &f, e);
	case WIRE_PASS:
		rc = wire_get_one_u64(&r->wire.meta, "pass", &number, e);
		return rc ? rc : mig_readers_mark(r->all, r->index, number, e);
	default:
		return err_set(e, EPROTO, "a %s message on another connection than the first",
			       wire_type_name(f.type));
	}
}

static void *run(void *arg)
{
	struct mig_reader *r = arg;
	struct err e = ERR_INIT;
	int rc;

	do
		rc = take_frame(r, &e);
	while (!rc);
	err_prefix(&e, "connection %u", r->index);
	fail(r->all, rc, &e);
	return NULL;
}

/* ---- the coordinator ---- */

int mig_readers_start(struct mig_readers *p, unsigned n, struct err *e)
{
	p->n = n;
	for (unsigned i = 1; i < n; i++) {
		struct mig_reader *r = &p->list[i];
		char name[16];
		int rc = pthread_create(&r->thread, NULL, run, r);

		if (rc)
			return err_sys(e, rc, "cannot start a thread for connection %u", i);
		r->started = true;
		(void)snprintf(name, sizeof(name), "mig-recv-%u", i);
		(void)pthread_setname_np(r->thread, name);
	}
	return 0;
}

void mig_readers_free(struct mig_readers *p)
{
	if (!p->n)
		return;
	mig_readers_abort(p);
	/* All of them first: one that fails still breaks the others' connections. */
	for (unsigned i = 0; i < WIRE_CHANNELS_MAX; i++) {
		if (p->list[i].started)
			(void)pthread_join(p->list[i].thread, NULL);
	}
	for (unsigned i = 0; i < WIRE_CHANNELS_MAX; i++) {
		struct mig_reader *r = &p->list[i];

		if (i)
			mig_chan_close(r->chan);
		wire_reader_free(&r->wire);
		mig_inlet_free(&r->inlet);
	}
	(void)pthread_cond_destroy(&p->changed);
	(void)pthread_mutex_destroy(&p->lock);
	mig_stop_free(&p->failed);
	memset(p, 0, sizeof(*p));
}

/* The first failure, if there is one. */
static int failure(struct mig_readers *p, struct err *e)
{
	int rc;

	pthread_mutex_lock(&p->lock);
	rc = p->rc;
	if (rc)
		(void)err_set(e, -rc, "%s", p->err.msg);
	pthread_mutex_unlock(&p->lock);
	return rc;
}

int mig_readers_wait(struct mig_readers *p, struct err *e)
{
	struct err mine = ERR_INIT;
	int rc;

	if (p->n < 2)
		return 0; /* the receive itself waits */
	rc = mig_chan_wait_readable(p->list[0].chan, &p->failed, &mine);
	if (rc == -ECANCELED && failure(p, e))
		return -e->code;
	if (rc)
		*e = mine;
	return rc;
}

/* Which connection, from `first` on, has not come to this mark yet; n if none. Under the lock. */
static unsigned behind(const struct mig_readers *p, unsigned first, uint64_t number)
{
	unsigned i = first;

	while (i < p->n && p->marks[i] >= number)
		i++;
	return i;
}

/*
 * The coordinator's wait for the other connections, from `first` on, to come to a mark. Bounded: as
 * long as anything moves they are only slow. Under the lock.
 */
static int await_others(struct mig_readers *p, unsigned first, uint64_t number, struct err *e)
{
	uint64_t bytes = mig_readers_bytes(p);
	uint64_t until = clock_mono_ns() + IDLE_TIMEOUT_NS;

	while (!over(p) && behind(p, first, number) < p->n) {
		if (!thread_cond_wait(&p->changed, &p->lock, until))
			continue;
		if (mig_readers_bytes(p) == bytes)
			return err_set(e, ETIMEDOUT,
				       "connection %u has stalled: nothing for %llu s",
				       behind(p, first, number), IDLE_TIMEOUT_NS / NS_PER_SEC);
		bytes = mig_readers_bytes(p);
		until = clock_mono_ns() + IDLE_TIMEOUT_NS;
	}
	return over(p) ? err_set(e, -p->rc, "%s", p->err.msg) : 0;
}

int mig_readers_mark(struct mig_readers *p, unsigned index, uint64_t number, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&p->lock);
	if (number != p->marks[index] + 1) {
		rc = err_set(e, EPROTO, "pass %llu ends where %llu should",
			     (unsigned long long)number, (unsigned long long)p->marks[index] + 1);
	} else {
		p->marks[index] = number;
		pthread_cond_broadcast(&p->changed);
	}
	if (!rc && !index)
		rc = await_others(p, 0, number, e);
	while (!rc && index && !over(p) && behind(p, 0, number) < p->n)
		(void)pthread_cond_wait(&p->changed, &p->lock);
	if (!rc && over(p))
		rc = err_set(e, -p->rc, "%s", p->err.msg);
	pthread_mutex_unlock(&p->lock);
	return rc;
}

int mig_readers_close(struct mig_readers *p, uint64_t marks, struct err *e)
{
	int rc = 0;

	if (p->n < 2)
		return marks ? err_set(e, EPROTO, "malformed end message") : 0;
	pthread_mutex_lock(&p->lock);
	/* Either the last round went by the first connection alone, or none has gone on behind it.
	 */
	if (marks != p->marks[0] && marks != p->marks[0] + 1)
		rc = err_set(e, EPROTO, "the end comes at pass %llu, not at %llu",
			     (unsigned long long)p->marks[0], (unsigned long long)marks);
	if (!rc)
		rc = await_others(p, 1, marks, e);
	for (unsigned i = 1; i < p->n && !rc; i++) {
		if (p->busy[i])
			rc = err_set(e, EPROTO, "connection %u is not through at the end", i);
	}
	p->closed = !rc;
	pthread_mutex_unlock(&p->lock);
	return rc;
}

int mig_readers_open(struct mig_readers *p, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&p->lock);
	p->closed = false;
	if (p->rc) {
		rc = err_set(e, -p->rc, "%s", p->err.msg);
		break_others(p);
	}
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	return rc;
}

void mig_readers_abort(struct mig_readers *p)
{
	if (!p->n)
		return;
	pthread_mutex_lock(&p->lock);
	if (!p->rc)
		p->rc = err_set(&p->err, ECANCELED, "cancelled");
	p->ended = true;
	break_others(p);
	mig_stop_set(&p->failed);
	pthread_mutex_unlock(&p->lock);
}

uint64_t mig_readers_bytes(const struct mig_readers *p)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < p->n; i++)
		bytes += mig_chan_received(p->list[i].chan);
	return bytes;
}
