/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/pair.h"

#include <check.h>
#include <string.h>

static void up(struct pair *p, const struct synth_config *cfg)
{
	synth_guest_init(&p->guest);
	p->src = synth_source(&p->guest, cfg);
	p->dst = synth_dest(&p->guest, cfg);
	synth_listen(p->dst, "tcp:127.0.0.1:0");
}

void pair_up(struct pair *p, uint64_t ram_bytes, uint64_t seed)
{
	up(p,
	   &(struct synth_config){.ram_bytes = ram_bytes, .seed = seed, .initially_set = seed % 2});
}

void pair_up_rehearsing(struct pair *p, uint64_t ram_bytes, uint64_t seed)
{
	up(p, &(struct synth_config){.ram_bytes = ram_bytes,
				     .seed = seed,
				     .rehearses = true,
				     .initially_set = seed % 2});
}

void pair_down(struct pair *p)
{
	synth_free(p->src);
	synth_free(p->dst);
}

void pair_send(struct pair *p, uint64_t limit_ms)
{
	synth_send(p->src, synth_uri(p->dst), 0, limit_ms);
}

void pair_set_params(struct pair *p, uint64_t bandwidth, uint64_t limit_ms)
{
	struct mig_params params;

	mig_params_default(&params);
	params.max_bandwidth_bytes_s = bandwidth;
	params.downtime_limit_ms = limit_ms;
	mig_source_set_params(p->src->source, &params);
}

static void check_figures(const struct pair *p, const struct mig_status *st)
{
	uint64_t pages = synth_n_pages(p->src);

	ck_assert_uint_eq(st->page_bytes, MEM_PAGE_BYTES);
	ck_assert_uint_eq(st->ram_total_bytes, pages * MEM_PAGE_BYTES);
	ck_assert_uint_ge(st->normal_pages + st->zero_pages, pages);
	ck_assert_uint_gt(st->transferred_bytes + st->compressed_from_bytes,
			  st->normal_pages * MEM_PAGE_BYTES + st->compressed_to_bytes);
	ck_assert_uint_eq(st->precopy_bytes + st->downtime_bytes, st->transferred_bytes);
	ck_assert_uint_eq(st->remaining_bytes, 0);
	ck_assert_uint_ge(st->passes, 1);
	/* One after each pass, and one in the pause. */
	ck_assert_uint_gt(st->syncs, st->passes);
	ck_assert_uint_eq(st->syncs, atomic_load(&p->src->calls[SYNTH_HARVEST]));
	ck_assert_uint_eq(st->protect_calls, atomic_load(&p->src->calls[SYNTH_PROTECT]));
	ck_assert_uint_eq(st->protect_pages, atomic_load(&p->src->protected_pages));
	ck_assert_uint_ge(st->protect_pages, st->normal_pages + st->zero_pages);
	ck_assert_uint_gt(st->downtime_ns, 0);
	ck_assert_uint_gt(st->setup_ns, 0);
	ck_assert_uint_ge(st->total_ns, st->setup_ns + st->downtime_ns);
	ck_assert_uint_eq(atomic_load(&p->src->calls[SYNTH_STOP]), 1);
}

/* If it did not: why, or how far it has come. */
static void expect_end(enum mig_state is, enum mig_state want, const struct mig_status *st)
{
	ck_assert_msg(
		is == want,
		"%s: %s (%s, %llu passes, %llu called off, %llu bytes left, %llu ms predicted)",
		mig_state_name(is), st->error, mig_state_name(st->state),
		(unsigned long long)st->passes, (unsigned long long)st->switchovers_called_off,
		(unsigned long long)st->remaining_bytes,
		(unsigned long long)(st->predicted_downtime_ns / NS_PER_MS));
}

struct mig_status pair_completes(struct pair *p)
{
	enum mig_state end = synth_wait_end(p->src);
	struct mig_status st = synth_status(p->src), there;
	const char *wrong;

	expect_end(end, MIG_COMPLETED, &st);
	ck_assert(synth_wait(p->dst, WATCH(MIG_COMPLETED)));
	wrong = synth_check_owner(p->src, end);
	ck_assert_msg(!wrong, "%s", wrong);
	wrong = synth_compare(p->src, p->dst);
	ck_assert_msg(!wrong, "%s", wrong);
	if (atomic_load(&p->src->calls[SYNTH_START]) == 1)
		check_figures(p, &st);
	there = synth_status(p->dst);
	ck_assert_uint_eq(there.normal_pages, st.normal_pages);
	ck_assert_uint_eq(there.zero_pages, st.zero_pages);
	ck_assert_uint_eq(there.transferred_bytes, st.transferred_bytes);
	return st;
}

void pair_keeps(struct pair *p, enum mig_state end, const char *text)
{
	enum mig_state is = synth_wait_end(p->src);
	struct mig_status st = synth_status(p->src);
	const char *wrong;

	expect_end(is, end, &st);
	ck_assert_msg(strstr(st.error, text) != NULL, "'%s' is not in '%s'", text, st.error);
	wrong = synth_check_owner(p->src, is);
	ck_assert_msg(!wrong, "%s", wrong);
	ck_assert_uint_eq(atomic_load(&p->src->calls[SYNTH_STOP]),
			  atomic_load(&p->src->calls[SYNTH_START]));
	if (p->src->has_writer && p->guest.runs_at_source)
		ck_assert_msg(synth_alive(p->src), "the guest does not run any more");
}

void pair_again(struct pair *p)
{
	for (unsigned i = 0; i < SYNTH_CALLS; i++) {
		atomic_store(&p->src->delay_ns[i], 0);
		atomic_store(&p->dst->delay_ns[i], 0);
		atomic_store(&p->src->fail_at[i], 0);
		atomic_store(&p->dst->fail_at[i], 0);
	}
	pair_send(p, 2000);
	(void)pair_completes(p);
}
