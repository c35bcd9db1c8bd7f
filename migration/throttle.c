/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/throttle.h"

#include <math.h>

#include "mem/mem.h"

/* Time constants of the averages. */
#define RISE_S 0.3
#define FALL_S 1.0
#define WIRE_S 1.0
#define FADE_S 3.0
/* Between what is allowed: below, nothing is gained; above, an error of a few percent is too much.
 */
#define ALLOWED_MIN 0.05
#define ALLOWED_MAX 0.9
#define ALLOWED     0.25 /* without a given time */
/* Without a given time: the demand, of what the wire carries, at which slowing begins and ends. */
#define OUTRUN_ON  0.9
#define OUTRUN_OFF 0.6
#define LEFT_MIN_S 0.5
/* Less than 1 in so many pages that nobody has written is what the looking itself makes. */
#define LOOSE_MIN 8
/* How far a share may move in one step. */
#define DOWN_MAX 0.6
#define UP_MAX   1.3

static double seconds(uint64_t ns)
{
	return (double)ns / (double)NS_PER_SEC;
}

/* The weight of a new value after so long: 1 - e^(-dt/tau), near enough. */
static double weight(double dt_s, double tau_s)
{
	return dt_s / (dt_s + tau_s);
}

static void follow(double *value, double to, double dt_s)
{
	*value += (to - *value) * weight(dt_s, to > *value ? RISE_S : FALL_S);
}

void mig_throttle_begin(struct mig_throttle *t, unsigned n_cpus, const struct mig_throttle_view *v)
{
	*t = (struct mig_throttle){.aim = t->aim,
				   .n_cpus = n_cpus,
				   .begin_ns = v->now_ns,
				   .last_ns = v->now_ns,
				   .last_new_pages = v->new_pages,
				   .last_host_pages = v->host_pages,
				   .wire = (double)v->wire_bytes_s / (double)MEM_PAGE_BYTES};
	for (unsigned i = 0; i < n_cpus; i++)
		t->cpus[i] = (struct mig_throttle_cpu){.last = v->cpus[i], .share = MIG_SHARE_FULL};
}

/* ---- who writes how much ---- */

struct delta {
	double writes, run_s, stall_s;
};

static uint64_t grown(uint64_t from, uint64_t to)
{
	return to > from ? to - from : 0;
}

static struct delta delta_of(const struct mig_cpu_sample *a, const struct mig_cpu_sample *b)
{
	return (struct delta){.writes = (double)grown(a->writes, b->writes),
			      .run_s = seconds(grown(a->run_ns, b->run_ns)),
			      .stall_s = seconds(grown(a->stall_ns, b->stall_ns))};
}

/* Put the new pages down to the vCPUs: by their writes, and what these leave over by their time. */
static void attribute(struct mig_throttle *t, const struct delta *d, double new_pages, double dt_s,
		      double *pages)
{
	double writes = 0, run_s = 0, loose, factor, fade = weight(dt_s, FADE_S);

	for (unsigned i = 0; i < t->n_cpus; i++) {
		writes += d[i].writes;
		run_s += d[i].run_s;
	}
	/* The log is read before the counts, and what is written in between is in the next one. */
	loose = new_pages > writes + t->ahead ? new_pages - writes - t->ahead : 0;
	t->ahead = writes > new_pages ? writes - new_pages : 0;
	/* Pages that were read for the first time are counted too. */
	factor = writes > new_pages ? new_pages / writes : 1;
	t->loose += (loose - t->loose) * fade;
	t->dirtied += (new_pages - t->dirtied) * fade;
	if (t->loose * LOOSE_MIN < t->dirtied || run_s <= 0)
		loose = 0;
	for (unsigned i = 0; i < t->n_cpus; i++) {
		pages[i] = d[i].writes * factor;
		if (loose > 0)
			pages[i] += loose * d[i].run_s / run_s;
	}
}

void mig_throttle_skip(struct mig_throttle *t, const struct mig_throttle_view *v)
{
	for (unsigned i = 0; i < t->n_cpus; i++)
		t->cpus[i].last = v->cpus[i];
	t->last_ns = v->now_ns;
	t->last_new_pages = v->new_pages;
	t->last_host_pages = v->host_pages;
}

static void measure(struct mig_throttle *t, const struct mig_throttle_view *v, double dt_s)
{
	struct delta d[MIG_CPUS_MAX];
	double pages[MIG_CPUS_MAX];
	uint64_t new_pages = grown(t->last_new_pages, v->new_pages);
	uint64_t host_pages = grown(t->last_host_pages, v->host_pages);

	for (unsigned i = 0; i < t->n_cpus; i++)
		d[i] = delta_of(&t->cpus[i].last, &v->cpus[i]);
	attribute(t, d, (double)grown(host_pages, new_pages), dt_s, pages);
	for (unsigned i = 0; i < t->n_cpus; i++) {
		struct mig_throttle_cpu *c = &t->cpus[i];
		double rate = pages[i] / dt_s, ran = 1;

		if (d[i].run_s > 0 && d[i].stall_s > 0)
			ran = d[i].run_s / (d[i].run_s + d[i].stall_s);
		follow(&c->rate, rate, dt_s);
		follow(&c->demand, rate / ran, dt_s);
	}
	mig_throttle_skip(t, v);
}

/* ---- who may write how much ---- */

static double allowed_pages_s(const struct mig_throttle *t, const struct mig_throttle_view *v)
{
	double wire = t->wire, allowed, left_s;
	/* Half of what fits: to come near to all of it takes for ever. */
	double over = (double)grown(v->fit_bytes / 2, v->rest_bytes) / (double)MEM_PAGE_BYTES;

	if (!t->aim.converge_ns)
		return wire * ALLOWED;
	left_s = seconds(t->aim.converge_ns) - seconds(grown(t->begin_ns, v->now_ns));
	if (left_s < LEFT_MIN_S)
		left_s = LEFT_MIN_S;
	allowed = wire - over / left_s;
	if (allowed < wire * ALLOWED_MIN)
		return wire * ALLOWED_MIN;
	return allowed > wire * ALLOWED_MAX ? wire * ALLOWED_MAX : allowed;
}

/*
 * Is it worth slowing anybody? While the guest makes fewer pages dirty than are sent, the rest
 * shrinks for nothing; from there on a slow guest is the cheaper for it the slower it is.
 */
static bool outruns(struct mig_throttle *t)
{
	double demand = 0;

	for (unsigned i = 0; i < t->n_cpus; i++)
		demand += t->cpus[i].demand;
	t->outrun = demand > t->wire * (t->outrun ? OUTRUN_OFF : OUTRUN_ON);
	return t->outrun;
}

/* The level at which the demands, cut off there, add up to `allowed`. */
static double fair_level(const struct mig_throttle *t, double allowed)
{
	double level = 0, left = allowed;
	unsigned n = t->n_cpus;
	bool done[MIG_CPUS_MAX] = {false};

	/* Whoever demands less than an equal part of what is left is served; the others divide it.
	 */
	for (bool again = true; again && n;) {
		again = false;
		level = left / n;
		for (unsigned i = 0; i < t->n_cpus; i++) {
			if (done[i] || t->cpus[i].demand > level)
				continue;
			done[i] = again = true;
			left -= t->cpus[i].demand;
			n--;
		}
	}
	return n ? level : allowed;
}

static unsigned clamp_share(const struct mig_throttle *t, double share)
{
	if (share >= MIG_SHARE_FULL)
		return MIG_SHARE_FULL;
	return share < t->aim.min_share ? t->aim.min_share : (unsigned)share;
}

static void set_shares(struct mig_throttle *t, double level)
{
	for (unsigned i = 0; i < t->n_cpus; i++) {
		struct mig_throttle_cpu *c = &t->cpus[i];
		double want = MIG_SHARE_FULL;

		if (c->demand > level)
			want *= level / c->demand;
		if (want < c->share * DOWN_MAX)
			want = c->share * DOWN_MAX;
		if (want > c->share * UP_MAX + 1)
			want = c->share * UP_MAX + 1;
		c->share = clamp_share(t, want);
	}
}

void mig_throttle_step(struct mig_throttle *t, const struct mig_throttle_view *v)
{
	double dt_s = seconds(grown(t->last_ns, v->now_ns)), level, wire;

	if (dt_s <= 0)
		return;
	measure(t, v, dt_s);
	wire = (double)v->wire_bytes_s / (double)MEM_PAGE_BYTES;
	t->wire += (wire - t->wire) * weight(dt_s, WIRE_S);
	if (t->aim.cpu_limit_pages_s)
		level = (double)t->aim.cpu_limit_pages_s;
	else if (t->aim.converge_ns || outruns(t))
		level = fair_level(t, allowed_pages_s(t, v));
	else
		level = INFINITY;
	set_shares(t, level);
}

bool mig_throttle_needed(struct mig_throttle_trigger *t, uint64_t sent_bytes, uint64_t left_bytes,
			 uint64_t percent)
{
	if ((double)left_bytes * 100 > (double)sent_bytes * (double)percent)
		t->strikes++;
	else
		t->strikes = 0;
	return t->strikes >= 2;
}
