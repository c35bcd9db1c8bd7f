/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/further.h"

#include "base/clock.h"

#define WORTH_NS   (2 * NS_PER_MS) /* a shorter rest is not worth a pass */
#define HALVED_MAX 9               /* from 300 ms to less than one */
#define TIME_SHARE 5               /* of the time that it took to fit */
#define LEAST_GAIN 20              /* a twentieth of the rest: less may be chance */

void mig_further_begin(struct mig_further *f, uint64_t now_ns)
{
	*f = (struct mig_further){.begin_ns = now_ns};
}

bool mig_further_wanted(struct mig_further *f, uint64_t before, uint64_t left, uint64_t rest_ns,
			bool slowed, uint64_t now_ns)
{
	/* Only the first time counts: who stops fitting again gets no more of it. */
	if (!f->until_ns)
		f->until_ns = now_ns + (now_ns - f->begin_ns) / TIME_SHARE;
	if (rest_ns <= WORTH_NS || left >= before)
		return false;
	if (left <= before / 2)
		return f->halved++ < HALVED_MAX;
	return !slowed && now_ns < f->until_ns && before - left >= before / LEAST_GAIN;
}
