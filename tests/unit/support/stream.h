/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams that are made up frame by frame, with right numbers and checksums and any content, on
 * top of a recorded one. Check assertions inside: the test's thread only.
 */
#ifndef TESTS_UNIT_SUPPORT_STREAM_H
#define TESTS_UNIT_SUPPORT_STREAM_H

#include "tests/unit/support/replay.h"

#define STREAM_RAM_PAGES 256 /* of the recorded guest */
#define STREAM_SECTIONS  4

#define ZERO_RUN(n) ((n) | 1u << 31) /* a run's page count: these are zero */

struct stream {
	struct replay *r;
	struct wbuf out, meta;
	uint32_t seq;
	uint64_t marks; /* on other connections, for stream_end() */
};

void stream_begin(struct stream *s, struct replay *r);
void stream_free(struct stream *s);
/* What stands in s->meta becomes a frame, with so many bytes of data (zeroes). */
void stream_frame(struct stream *s, uint16_t type, uint32_t data_bytes);
/* Put the meta of the recorded frame of this type, the n-th, into s->meta. */
void stream_copy_meta(struct stream *s, uint16_t type, unsigned n);

/* Whole frames as they were recorded: hello and the early section after it, that, the others. */
void stream_hello(struct stream *s);
void stream_early(struct stream *s);
void stream_section(struct stream *s, unsigned n);

/* A pages message: its head, then runs. */
void stream_pages(struct stream *s, uint8_t block, uint16_t n_runs, uint16_t n_sums);
void stream_run(struct stream *s, uint64_t first, uint32_t n);
/* A frame that says that all of RAM is zero. */
void stream_all_zero(struct stream *s);
void stream_end(struct stream *s, uint64_t normal, uint64_t zero, uint32_t n, uint8_t running);

/*
 * Play it; it must fail with `text`, nothing may be loaded, and a good stream must load afterwards.
 * Frees the stream.
 */
void stream_refused(struct stream *s, const char *text);

#endif
