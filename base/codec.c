/* SPDX-License-Identifier: Apache-2.0 */
#include "base/codec.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void wbuf_init(struct wbuf *w, enum byte_order order, size_t max)
{
	*w = (struct wbuf){.order = order, .max = max};
}

void wbuf_free(struct wbuf *w)
{
	free(w->data);
	*w = (struct wbuf){.order = w->order, .max = w->max};
}

void wbuf_reset(struct wbuf *w)
{
	w->len = 0;
	w->error = 0;
}

int wbuf_error(const struct wbuf *w)
{
	return w->error;
}

/* Room for len more bytes: a pointer to them, or NULL (len is 0, or the error is set). */
static uint8_t *wbuf_more(struct wbuf *w, size_t len)
{
	uint8_t *at;

	if (w->error || !len)
		return NULL;
	if (len > w->max - w->len) {
		w->error = -EMSGSIZE;
		return NULL;
	}
	if (w->len + len > w->cap) {
		size_t cap = w->cap ? w->cap * 2 : 256;
		uint8_t *data;

		while (cap < w->len + len)
			cap *= 2;
		data = realloc(w->data, cap);
		if (!data) {
			w->error = -ENOMEM;
			return NULL;
		}
		w->data = data;
		w->cap = cap;
	}
	at = w->data + w->len;
	w->len += len;
	return at;
}

void store_int(uint8_t *at, enum byte_order order, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++) {
		unsigned shift = 8 * (order == ORDER_LITTLE ? i : bytes - 1 - i);

		at[i] = (uint8_t)(v >> shift);
	}
}

static void put_int(struct wbuf *w, uint64_t v, unsigned bytes)
{
	uint8_t *at = wbuf_more(w, bytes);

	if (at)
		store_int(at, w->order, v, bytes);
}

void put_u8(struct wbuf *w, uint8_t v)
{
	put_int(w, v, 1);
}

void put_u16(struct wbuf *w, uint16_t v)
{
	put_int(w, v, 2);
}

void put_u32(struct wbuf *w, uint32_t v)
{
	put_int(w, v, 4);
}

void put_u64(struct wbuf *w, uint64_t v)
{
	put_int(w, v, 8);
}

void put_bytes(struct wbuf *w, const void *p, size_t len)
{
	uint8_t *at = wbuf_more(w, len);

	if (at)
		memcpy(at, p, len);
}

void put_str8(struct wbuf *w, const char *text)
{
	size_t len = strlen(text);

	if (len > UINT8_MAX) {
		if (!w->error)
			w->error = -EMSGSIZE;
		return;
	}
	put_u8(w, (uint8_t)len);
	put_bytes(w, text, len);
}

void put_fmt(struct wbuf *w, const char *fmt, ...)
{
	char text[512];
	va_list args;
	int len;

	va_start(args, fmt);
	len = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (len >= 0 && (size_t)len < sizeof(text))
		put_bytes(w, text, (size_t)len);
	else if (!w->error)
		w->error = -EMSGSIZE;
}

void put_u32_at(struct wbuf *w, size_t offset, uint32_t v)
{
	if (!w->error && offset <= w->len && w->len - offset >= 4)
		store_int(w->data + offset, w->order, v, 4);
}

void rbuf_init(struct rbuf *r, enum byte_order order, const void *data, size_t len)
{
	*r = (struct rbuf){.data = data, .len = len, .order = order};
}

size_t rbuf_left(const struct rbuf *r)
{
	return r->len - r->pos;
}

bool rbuf_done(const struct rbuf *r)
{
	return !r->bad && r->pos == r->len;
}

const void *get_bytes(struct rbuf *r, size_t len)
{
	const uint8_t *at;

	if (r->bad || len > rbuf_left(r)) {
		r->bad = true;
		return NULL;
	}
	if (!r->data)
		return ""; /* nothing of nothing */
	at = r->data + r->pos;
	r->pos += len;
	return at;
}

static uint64_t get_int(struct rbuf *r, unsigned bytes)
{
	const uint8_t *at = get_bytes(r, bytes);
	uint64_t v = 0;

	if (!at)
		return 0;
	for (unsigned i = 0; i < bytes; i++)
		v = v << 8 | at[r->order == ORDER_LITTLE ? bytes - 1 - i : i];
	return v;
}

uint8_t get_u8(struct rbuf *r)
{
	return (uint8_t)get_int(r, 1);
}

uint16_t get_u16(struct rbuf *r)
{
	return (uint16_t)get_int(r, 2);
}

uint32_t get_u32(struct rbuf *r)
{
	return (uint32_t)get_int(r, 4);
}

uint64_t get_u64(struct rbuf *r)
{
	return get_int(r, 8);
}

void get_str8(struct rbuf *r, char *out, size_t out_bytes)
{
	size_t len = get_u8(r);
	const char *at = get_bytes(r, len);

	out[0] = '\0';
	if (!at)
		return;
	if (len >= out_bytes || memchr(at, '\0', len)) {
		r->bad = true;
		return;
	}
	memcpy(out, at, len);
	out[len] = '\0';
}
