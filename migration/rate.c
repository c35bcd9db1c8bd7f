/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/rate.h"

#include "base/clock.h"

#define WINDOW_NS   (50 * NS_PER_MS)
#define BURST_NS    (8 * NS_PER_MS)   /* made up for at once */
#define DEBT_NS     (500 * NS_PER_MS) /* made up for a little at a time ... */
#define BRISKER     1.01              /* ... namely so */
#define NEVER_NS    (1ull << 60)      /* 36 years; sums of a few of them still fit */
#define FIRST_GUESS (100ull << 20)    /* bytes/s before anything was measured: gigabit Ethernet */
#define BUSY_BYTES  4096u             /* waiting: pages do, and not only a mark */
#define THIN        (5ull << 20)      /* bytes/s: whoever sends pages without a wait sends more */
#define DOUBT       8                 /* one part in so many: what a pass may add to an estimate */

static uint64_t per_second(uint64_t bytes, uint64_t ns)
{
	return (uint64_t)((double)bytes * (double)NS_PER_SEC / (double)ns);
}

void mig_rate_resume(struct mig_rate *r, uint64_t now_ns)
{
	if (!r->running_since)
		r->running_since = now_ns;
}

void mig_rate_pause(struct mig_rate *r, uint64_t now_ns)
{
	if (r->running_since)
		r->window_ns += now_ns - r->running_since;
	r->running_since = 0;
}

void mig_rate_skip(struct mig_rate *r, uint64_t bytes)
{
	r->window_bytes += bytes;
}

/* Does this say how fast the wire is, or how little there was to send? */
static bool tells(const struct mig_rate *r, uint64_t sample)
{
	return r->busy || sample >= THIN;
}

/* A wire that carries so much is at least as fast, whatever there was to send. */
static bool counts(const struct mig_rate *r, uint64_t sample)
{
	return tells(r, sample) || sample >= mig_rate_bytes_s(r);
}

void mig_rate_update(struct mig_rate *r, uint64_t on_wire_bytes, uint64_t waiting_bytes,
		     uint64_t now_ns)
{
	uint64_t bytes = on_wire_bytes > r->window_bytes ? on_wire_bytes - r->window_bytes : 0;
	uint64_t sample;

	mig_rate_pause(r, now_ns);
	mig_rate_resume(r, now_ns);
	r->busy |= waiting_bytes >= BUSY_BYTES;
	if (!bytes || !r->window_ns)
		return;
	sample = per_second(bytes, r->window_ns);
	if (r->window_ns < WINDOW_NS) {
		if (!r->measured && counts(r, sample))
			r->bytes_s = sample;
		return;
	}
	if (counts(r, sample)) {
		r->bytes_s = r->measured ? (r->bytes_s + sample) / 2 : sample;
		r->measured = true;
	}
	r->told |= tells(r, sample);
	r->thin |= !tells(r, sample);
	r->window_bytes = on_wire_bytes;
	r->window_ns = 0;
	r->busy = false;
}

void mig_rate_pass(struct mig_rate *r)
{
	/* Up to what it would be if nothing had ever been measured. */
	if (r->thin && !r->told && r->bytes_s && r->bytes_s < FIRST_GUESS)
		r->bytes_s += r->bytes_s / DOUBT + 1;
	r->told = r->thin = false;
}

uint64_t mig_rate_bytes_s(const struct mig_rate *r)
{
	return r->bytes_s ? r->bytes_s : FIRST_GUESS;
}

uint64_t mig_rate_time_ns(const struct mig_rate *r, uint64_t bytes)
{
	double ns = (double)bytes * (double)NS_PER_SEC / (double)mig_rate_bytes_s(r);

	return ns < (double)NEVER_NS ? (uint64_t)ns : NEVER_NS;
}

/* The later of a point of time and the present less so much, which is not saved up for. */
static uint64_t not_before(uint64_t at_ns, uint64_t now_ns, uint64_t slack_ns)
{
	return at_ns + slack_ns < now_ns ? now_ns - slack_ns : at_ns;
}

uint64_t mig_limit_wait_ns(struct mig_limit *l, uint64_t bytes, uint64_t bytes_s, uint64_t now_ns)
{
	uint64_t at_ns;
	double ns;

	if (!bytes_s)
		return 0;
	ns = (double)bytes * (double)NS_PER_SEC / (double)bytes_s;
	l->free_at_ns = l->free_at_ns ? not_before(l->free_at_ns, now_ns, DEBT_NS) : now_ns;
	l->brisk_at_ns = not_before(l->brisk_at_ns, now_ns, BURST_NS);
	at_ns = l->free_at_ns > l->brisk_at_ns ? l->free_at_ns : l->brisk_at_ns;
	l->free_at_ns += (uint64_t)ns;
	l->brisk_at_ns += (uint64_t)(ns / BRISKER);
	return at_ns > now_ns ? at_ns - now_ns : 0;
}
