/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte codec: the only way bytes of a stream, a file or a peer become values and back.
 *
 * A writer grows (up to a bound that its owner sets) and has a sticky error: after the first
 * failure every put is a no-op and wbuf_error() says so, so that an encoder checks once at its end.
 * A reader walks a fixed piece of memory and has the same kind of error: a get past the end gives
 * zeroes and marks the reader bad; rbuf_done() is the one check a decoder needs ("no error, and
 * nothing left over").
 *
 * Integers are little-endian or big-endian, chosen per buffer.
 * Threads: a buffer belongs to one thread at a time.
 */
#ifndef BASE_CODEC_H
#define BASE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum byte_order { ORDER_LITTLE, ORDER_BIG };

/* `bytes` (1 to 8) bytes of v to at. */
void store_int(uint8_t *at, enum byte_order order, uint64_t v, unsigned bytes);

struct wbuf {
	uint8_t *data;
	size_t len, cap, max;
	enum byte_order order;
	int error; /* 0, -ENOMEM, or -EMSGSIZE past max */
};

/* Start an empty writer that refuses to grow past max bytes. No allocation yet. */
void wbuf_init(struct wbuf *w, enum byte_order order, size_t max);
void wbuf_free(struct wbuf *w);
/* Forget the content (and the error), keep the memory. */
void wbuf_reset(struct wbuf *w);
int wbuf_error(const struct wbuf *w);

void put_u8(struct wbuf *w, uint8_t v);
void put_u16(struct wbuf *w, uint16_t v);
void put_u32(struct wbuf *w, uint32_t v);
void put_u64(struct wbuf *w, uint64_t v);
void put_bytes(struct wbuf *w, const void *p, size_t len);
/* u8 length and the bytes, no NUL. A text longer than 255 bytes is an error (-EMSGSIZE). */
void put_str8(struct wbuf *w, const char *text);
/* Text without its NUL, at most 511 bytes at a time (a longer one is an error, -EMSGSIZE). */
void put_fmt(struct wbuf *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Overwrite a u32 at an offset that has been written before (a length known only later). */
void put_u32_at(struct wbuf *w, size_t offset, uint32_t v);

struct rbuf {
	const uint8_t *data;
	size_t len, pos;
	enum byte_order order;
	bool bad;
};

void rbuf_init(struct rbuf *r, enum byte_order order, const void *data, size_t len);
size_t rbuf_left(const struct rbuf *r);
/* No error so far and every byte consumed? */
bool rbuf_done(const struct rbuf *r);

uint8_t get_u8(struct rbuf *r);
uint16_t get_u16(struct rbuf *r);
uint32_t get_u32(struct rbuf *r);
uint64_t get_u64(struct rbuf *r);
/* A pointer into the buffer, NULL (and bad) if fewer than len bytes are left. */
const void *get_bytes(struct rbuf *r, size_t len);
/* u8 length and text into out (NUL-terminated). Bad if it does not fit or holds a NUL. */
void get_str8(struct rbuf *r, char *out, size_t out_bytes);

#endif
