/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compressing chunks of pages with zstd, and knowing when that is worth it.
 *
 * A chunk is worth it while that makes the migration shorter: when compressing it and sending what
 * comes out, of which the slower counts, is clearly quicker than sending it as it is. All three are
 * measured: the time and the ratio of compressing in this sender, and how long plain chunks take on
 * the way, waits for the wire and for max-bandwidth included. While one way is in use the other is
 * tried now and then.
 *
 * The guest may be writing the pages meanwhile, which no compressor is made for: they are copied
 * first. What the copy has and the checksum has not is what a page that is written has anyway.
 *
 * Threads: one sender's.
 */
#ifndef MIGRATION_SQUEEZE_H
#define MIGRATION_SQUEEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct mig_squeeze;

/* -ENOMEM. */
int mig_squeeze_new(struct mig_squeeze **out);
void mig_squeeze_free(struct mig_squeeze *z);

/* Should the next chunk be compressed? */
bool mig_squeeze_wanted(struct mig_squeeze *z);
/*
 * Compress these pieces, `bytes` in all (at most WIRE_DATA_MAX), to out. Returns how many bytes
 * came out, 0 if they would not be fewer.
 */
size_t mig_squeeze_run(struct mig_squeeze *z, const struct iovec *iov, unsigned n, size_t bytes,
		       void *out);
/*
 * A chunk is on its way, compressed or not; it took so long since the one before. With plain_bytes
 * 0 that time says nothing.
 */
void mig_squeeze_sent(struct mig_squeeze *z, size_t plain_bytes, bool compressed, uint64_t took_ns);

#endif
