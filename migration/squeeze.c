/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/squeeze.h"

#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

#include "base/clock.h"
#include "mem/page.h"
#include "migration/wire.h"

#define LEVEL       1          /* what keeps up with a network */
#define PROBE_NS    NS_PER_SEC /* how often the way that is not in use is tried */
#define PROBE_COUNT 3   /* chunks of one try; only the last counts, the others ride on what was */
#define PROBE_SHARE 20  /* a try may take a twentieth of the time */
#define WORTH       0.9 /* of the plain time: less is not worth a processor */
#define MIN_BYTES   (4 * 4096u) /* what smaller chunks take says little */

/* A smoothed figure; 0 = not known yet. */
static void learn(double *figure, double sample)
{
	*figure = *figure > 0 ? (*figure * 3 + sample) / 4 : sample;
}

struct mig_squeeze {
	ZSTD_CCtx *ctx;
	uint8_t *copy; /* WIRE_DATA_MAX */
	/* nanoseconds a plain byte: to compress; for a chunk on its way, plain and compressed */
	double squeeze_ns, plain_ns, packed_ns;
	double ratio; /* of compressed to plain bytes */
	bool on;
	unsigned probe;                       /* chunks that are still to be sent the other way */
	uint64_t probe_began_ns, probe_at_ns; /* the next */
};

int mig_squeeze_new(struct mig_squeeze **out)
{
	struct mig_squeeze *z = calloc(1, sizeof(*z));

	if (!z)
		return -ENOMEM;
	z->ctx = ZSTD_createCCtx();
	z->copy = malloc(WIRE_DATA_MAX);
	if (!z->ctx || !z->copy) {
		mig_squeeze_free(z);
		return -ENOMEM;
	}
	*out = z;
	return 0;
}

void mig_squeeze_free(struct mig_squeeze *z)
{
	if (!z)
		return;
	(void)ZSTD_freeCCtx(z->ctx);
	free(z->copy);
	free(z);
}

/* What a compressed byte would take: as fast as it is made, or as it is carried. */
static double predicted(const struct mig_squeeze *z)
{
	double carried = z->ratio * z->plain_ns;

	return z->squeeze_ns > carried ? z->squeeze_ns : carried;
}

static void decide(struct mig_squeeze *z)
{
	double packed = predicted(z);

	if (z->on && z->packed_ns > packed)
		packed = z->packed_ns; /* it is not as good as it looked */
	if (!(z->ratio > 0) || !(z->plain_ns > 0))
		return;
	z->on = packed < z->plain_ns * WORTH;
}

bool mig_squeeze_wanted(struct mig_squeeze *z)
{
	uint64_t now = clock_mono_ns();

	if (!z->probe && now >= z->probe_at_ns) {
		z->probe = PROBE_COUNT;
		z->probe_began_ns = now;
	}
	return z->probe ? !z->on : z->on;
}

size_t mig_squeeze_run(struct mig_squeeze *z, const struct iovec *iov, unsigned n, size_t bytes,
		       void *out)
{
	uint64_t begin_ns = clock_mono_ns();
	size_t at = 0, size;

	for (unsigned i = 0; i < n; i++) {
		page_copy(z->copy + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	size = ZSTD_compressCCtx(z->ctx, out, bytes - 1, z->copy, bytes, LEVEL);
	/* No room is the usual error: the pages do not get smaller. */
	if (ZSTD_isError(size))
		size = 0;
	learn(&z->squeeze_ns, (double)(clock_mono_ns() - begin_ns) / (double)bytes);
	learn(&z->ratio, size ? (double)size / (double)bytes : 1.0);
	return size;
}

void mig_squeeze_sent(struct mig_squeeze *z, size_t plain_bytes, bool compressed, uint64_t took_ns)
{
	if (plain_bytes >= MIN_BYTES && z->probe <= 1)
		learn(compressed ? &z->packed_ns : &z->plain_ns,
		      (double)took_ns / (double)plain_bytes);
	if (z->probe && !--z->probe) {
		uint64_t now = clock_mono_ns(), took = now - z->probe_began_ns;

		z->probe_at_ns = now + PROBE_NS;
		if (took > PROBE_NS / PROBE_SHARE)
			z->probe_at_ns = now + took * PROBE_SHARE;
	}
	if (!z->probe)
		decide(z);
}
