/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The migration stream's frames and messages (docs/migration-stream.md has every byte).
 *
 * A frame is a 28-byte header, `meta` bytes that a CRC covers, and for WIRE_PAGES the raw bytes of
 * the pages. Lengths are checked against the type's bound before anything is allocated or read, the
 * header's CRC before any field is used, the meta's CRC before it is parsed.
 *
 * Threads: pure functions, or one thread per struct.
 */
#ifndef MIGRATION_WIRE_H
#define MIGRATION_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/codec.h"
#include "base/err.h"
#include "mem/mem.h"
#include "migration/chan.h"

#define WIRE_MAGIC        0x79727246u /* "Frry" */
#define WIRE_HEADER_BYTES 28
#define WIRE_VERSION      1
#define WIRE_META_MAX     (1u << 20)

#define WIRE_CHUNK_PAGES  256 /* pages with bytes in one WIRE_PAGES frame, at most */
#define WIRE_CHUNK_RUNS   512 /* runs in one, at most */
#define WIRE_DATA_MAX     (WIRE_CHUNK_PAGES * (uint32_t)MEM_PAGE_BYTES)
#define WIRE_TEXT_MAX     400
#define WIRE_SKIP_MAX     64 /* unknown optional frames in a row */
#define WIRE_NAME_BYTES   65
#define WIRE_MAX_SECTIONS 1024
#define WIRE_MAX_EARLY    16
#define WIRE_CHANNELS_MAX 16

/* HELLO's features: what the source will use. D refuses one that it does not know. */
#define WIRE_FEATURE_CHANNELS 1u /* more than one connection */
#define WIRE_FEATURE_ZSTD     2u /* PAGES may be compressed */
#define WIRE_FEATURE_DIGEST   4u /* END has a digest of RAM, which D compares */
#define WIRE_FEATURES         (WIRE_FEATURE_CHANNELS | WIRE_FEATURE_ZSTD | WIRE_FEATURE_DIGEST)

#define WIRE_PAGES_ZSTD 0x80u /* in the block's byte: the data are one zstd frame */

enum wire_type {
	WIRE_HELLO = 1, /* S>D what will be moved */
	WIRE_WELCOME,   /* D>S agreed */
	WIRE_PAGES,     /* S>D runs of pages, then their bytes */
	WIRE_PASS,      /* S>D a pass ended here: say when you have come to it */
	WIRE_SECTION,   /* S>D one piece of state */
	WIRE_END,       /* S>D that was everything */
	WIRE_READY,     /* D>S everything is here and loaded */
	WIRE_COMMIT,    /* S>D the guest is yours: the commit point */
	WIRE_RUNNING,   /* D>S it is taken over */
	WIRE_FAIL,      /* D>S cannot go on, with the reason; nothing was taken over */
	WIRE_ABORT,     /* S>D the source keeps its guest, with the reason */
	WIRE_PASSED,    /* D>S everything up to that pass's end is in memory */
	WIRE_REHEARSE,  /* S>D the sections were a rehearsal: load them to see how long it takes */
	WIRE_REHEARSED, /* D>S so long */
	WIRE_AGAIN,     /* S>D after END: called off, the guest goes on here and more pages come */
	WIRE_ALIVE,     /* both ways, any time, without a number: still here */
	WIRE_CHANNEL,   /* S>D first on another connection: which migration's, and which one */
	WIRE_TYPES
};

/* A receiver that does not know a frame's type refuses it if this is set, skips it otherwise. */
#define WIRE_MANDATORY 1u

struct wire_frame {
	uint16_t type, flags;
	uint32_t meta_bytes, data_bytes;
};

struct wire_writer {
	uint32_t seq;
	uint8_t header[WIRE_HEADER_BYTES];
};

struct wire_reader {
	uint32_t seq;
	struct rbuf meta; /* of the last frame received */
	uint8_t *meta_data;
	size_t meta_room;
};

const char *wire_type_name(unsigned type);

/* The next frame's header into w->header; data_bytes follow the meta. */
void wire_header(struct wire_writer *w, enum wire_type type, const struct wbuf *meta,
		 uint32_t data_bytes);
/* An ALIVE frame, whole: it is out of the numbering, so w is for its bytes alone. */
void wire_alive(struct wire_writer *w);
/* Send a frame without data and wait until it is out. A NULL meta is empty. */
int wire_send(struct wire_writer *w, struct mig_chan *c, enum wire_type type,
	      const struct wbuf *meta, struct err *e);

void wire_reader_free(struct wire_reader *r);
/*
 * Receive the next frame's header and meta (then in r->meta, valid until the next call). Its data,
 * if any, is next in the channel. Unknown optional frames are skipped, and ALIVE frames.
 */
int wire_recv(struct wire_reader *r, struct mig_chan *c, struct wire_frame *f, struct err *e);
/* The same, but an ALIVE frame is received like any other: what is there is not waited behind. */
int wire_recv_any(struct wire_reader *r, struct mig_chan *c, struct wire_frame *f, struct err *e);
/* The header alone, of a frame whose 28 bytes are at p. */
int wire_parse_header(struct wire_reader *r, const uint8_t *p, struct wire_frame *f,
		      uint32_t *meta_crc, struct err *e);

/* ---- messages ---- */

struct wire_block {
	char name[MEM_BLOCK_NAME_LEN];
	uint64_t gpa, size_bytes;
};

struct wire_section_id {
	char name[MEM_BLOCK_NAME_LEN];
	uint32_t instance, version;
};

struct wire_hello {
	uint16_t version_min, version_max;
	uint64_t features; /* WIRE_FEATURE_*; an unknown one is refused */
	uint32_t page_bytes, n_cpus;
	uint64_t token_hash; /* wire_token_hash() of the commit token */
	char guest_name[WIRE_NAME_BYTES];
	uint32_t n_blocks;
	struct wire_block blocks[MEM_MAX_BLOCKS];
	uint32_t n_sections;
	struct wire_section_id sections[WIRE_MAX_SECTIONS];
	uint32_t n_early;   /* sections that follow at once; the others come last of all */
	uint8_t n_channels; /* wanted; 1 without WIRE_FEATURE_CHANNELS */
};

void wire_put_hello(struct wbuf *w, const struct wire_hello *h);
int wire_get_hello(struct rbuf *r, struct wire_hello *h, struct err *e);

struct wire_welcome {
	uint16_t version;
	uint64_t features; /* those of HELLO */
	uint64_t session; /* with WIRE_FEATURE_CHANNELS: proves that a connection is the source's */
	uint8_t n_channels; /* granted, at most what was wanted; 1 without the feature */
};

void wire_put_welcome(struct wbuf *w, const struct wire_welcome *m);
/* Checks it against what was asked for. */
int wire_get_welcome(struct rbuf *r, const struct wire_hello *asked, struct wire_welcome *m,
		     struct err *e);

/* The whole CHANNEL frame: the first bytes of another connection. */
#define WIRE_CHANNEL_BYTES (WIRE_HEADER_BYTES + 9)

struct wire_channel {
	uint64_t session;
	uint8_t index; /* 1 and up; the first connection is number 0 */
};

void wire_put_channel(struct wbuf *w, const struct wire_channel *m);
/* From the frame's bytes; r is the connection's reader, which goes on behind them. */
int wire_parse_channel(struct wire_reader *r, const uint8_t frame[WIRE_CHANNEL_BYTES],
		       struct wire_channel *m, struct err *e);

struct wire_run {
	uint64_t first_page; /* of the block */
	uint32_t n_pages;
	bool zero; /* no bytes and no sums follow */
};

struct wire_pages {
	uint8_t block;
	bool zstd;               /* the data are compressed */
	uint32_t n_runs, n_sums; /* sums: one per page with bytes, in order */
	struct wire_run runs[WIRE_CHUNK_RUNS];
	uint32_t sums[WIRE_CHUNK_PAGES];
};

void wire_put_pages(struct wbuf *w, const struct wire_pages *p);
/*
 * Checks everything about it: the block exists, runs lie inside it in ascending order without
 * overlap, and the pages with bytes are as many as sums and data_bytes say.
 */
int wire_get_pages(struct rbuf *r, const struct mem *m, uint32_t data_bytes, struct wire_pages *p,
		   struct err *e);

#define MIG_DIGEST_THREADS 4

struct wire_end {
	uint64_t normal_pages, zero_pages; /* sent in all, repeats included */
	uint32_t n_sections;
	uint8_t was_running;
	uint32_t number; /* of this END, from 1: READY says which one it answers */
	uint64_t marks;  /* on each connection but the first, up to here; 0 if there are none */
	uint64_t digest; /* mem_digest() with WIRE_FEATURE_DIGEST, else 0 */
};

void wire_put_end(struct wbuf *w, const struct wire_end *m);
int wire_get_end(struct rbuf *r, struct wire_end *m, struct err *e);

/* READY and REHEARSED: what D took, in ns. */
struct wire_loaded {
	uint32_t number; /* of the END; 0 in REHEARSED */
	uint64_t decode_ns, load_ns;
};

void wire_put_loaded(struct wbuf *w, const struct wire_loaded *m);
int wire_get_loaded(struct rbuf *r, struct wire_loaded *m, struct err *e);

/* u64 messages: PASS and PASSED (number), COMMIT (token), RUNNING (start ns). */
int wire_get_one_u64(struct rbuf *r, const char *name, uint64_t *v, struct err *e);

/* FAIL and ABORT: a reason. What comes from the peer is made printable. */
void wire_put_text(struct wbuf *w, const char *text);
void wire_get_text(struct rbuf *r, char text[WIRE_TEXT_MAX + 1]);

/* Against mistakes, not malice: who has the hash can compute the token. */
uint64_t wire_token_hash(uint64_t token);

#endif
