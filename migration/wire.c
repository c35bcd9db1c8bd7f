/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"

static const char *const type_names[WIRE_TYPES] = {
	[WIRE_HELLO] = "hello",       [WIRE_WELCOME] = "welcome",     [WIRE_PAGES] = "pages",
	[WIRE_PASS] = "pass",         [WIRE_SECTION] = "section",     [WIRE_END] = "end",
	[WIRE_READY] = "ready",       [WIRE_COMMIT] = "commit",       [WIRE_RUNNING] = "running",
	[WIRE_FAIL] = "fail",         [WIRE_ABORT] = "abort",         [WIRE_PASSED] = "passed",
	[WIRE_REHEARSE] = "rehearse", [WIRE_REHEARSED] = "rehearsed", [WIRE_AGAIN] = "again",
	[WIRE_ALIVE] = "alive",       [WIRE_CHANNEL] = "channel",
};

#define NO_NUMBER 0xffffffffu

const char *wire_type_name(unsigned type)
{
	return type < WIRE_TYPES && type_names[type] ? type_names[type] : "unknown";
}

void wire_header(struct wire_writer *w, enum wire_type type, const struct wbuf *meta,
		 uint32_t data_bytes)
{
	uint8_t *h = w->header;
	size_t meta_bytes = meta ? meta->len : 0;

	store_int(h, ORDER_LITTLE, WIRE_MAGIC, 4);
	store_int(h + 4, ORDER_LITTLE, type, 2);
	store_int(h + 6, ORDER_LITTLE, WIRE_MANDATORY, 2);
	store_int(h + 8, ORDER_LITTLE, w->seq++, 4);
	store_int(h + 12, ORDER_LITTLE, meta_bytes, 4);
	store_int(h + 16, ORDER_LITTLE, data_bytes, 4);
	store_int(h + 20, ORDER_LITTLE, crc32c(meta_bytes ? meta->data : h, meta_bytes), 4);
	store_int(h + 24, ORDER_LITTLE, crc32c(h, 24), 4);
}

void wire_alive(struct wire_writer *w)
{
	w->seq = NO_NUMBER;
	wire_header(w, WIRE_ALIVE, NULL, 0);
}

int wire_send(struct wire_writer *w, struct mig_chan *c, enum wire_type type,
	      const struct wbuf *meta, struct err *e)
{
	struct iovec iov[2] = {{.iov_base = w->header, .iov_len = WIRE_HEADER_BYTES}};
	int rc = meta ? wbuf_error(meta) : 0;

	/* The header and meta of a send under way must stay as they are. */
	if (!rc)
		rc = mig_chan_send_end(c, e);
	if (rc)
		return err_sys(e, -rc, "cannot build the %s message", wire_type_name(type));
	if (meta)
		iov[1] = (struct iovec){.iov_base = meta->data, .iov_len = meta->len};
	wire_header(w, type, meta, 0);
	rc = mig_chan_send_begin(c, iov, 2, e);
	return rc ? rc : mig_chan_send_end(c, e);
}

void wire_reader_free(struct wire_reader *r)
{
	free(r->meta_data);
	*r = (struct wire_reader){0};
}

int wire_parse_header(struct wire_reader *r, const uint8_t *p, struct wire_frame *f,
		      uint32_t *meta_crc, struct err *e)
{
	struct rbuf b;
	uint32_t seq;

	rbuf_init(&b, ORDER_LITTLE, p, WIRE_HEADER_BYTES);
	if (get_u32(&b) != WIRE_MAGIC)
		return err_set(e, EPROTO,
			       r->seq ? "the stream is damaged: no frame where one "
					"should begin"
				      : "the other side does not speak ferry's "
					"migration protocol");
	f->type = get_u16(&b);
	f->flags = get_u16(&b);
	seq = get_u32(&b);
	f->meta_bytes = get_u32(&b);
	f->data_bytes = get_u32(&b);
	*meta_crc = get_u32(&b);
	if (get_u32(&b) != crc32c(p, WIRE_HEADER_BYTES - 4))
		return err_set(e, EBADMSG, "the stream is damaged: wrong checksum of a frame");
	/* Sent by another thread than the one that numbers, and of no weight: lost or doubled. */
	if (f->type == WIRE_ALIVE && (seq != NO_NUMBER || f->meta_bytes))
		return err_set(e, EPROTO, "malformed alive message");
	if (f->type != WIRE_ALIVE && seq != r->seq++)
		return err_set(e, EPROTO, "the stream is damaged: frame %u where %u should be", seq,
			       r->seq - 1);
	if (f->meta_bytes > WIRE_META_MAX || f->data_bytes > WIRE_DATA_MAX ||
	    (f->data_bytes && f->type != WIRE_PAGES))
		return err_set(e, EPROTO, "%s frame of %u + %u bytes: more than allowed",
			       wire_type_name(f->type), f->meta_bytes, f->data_bytes);
	return 0;
}

static int recv_meta(struct wire_reader *r, struct mig_chan *c, const struct wire_frame *f,
		     uint32_t crc, struct err *e)
{
	int rc;

	if (f->meta_bytes > r->meta_room) {
		uint8_t *data = realloc(r->meta_data, f->meta_bytes);

		if (!data)
			return err_set(e, ENOMEM, "out of memory for a frame");
		r->meta_data = data;
		r->meta_room = f->meta_bytes;
	}
	rc = mig_chan_recv(c, r->meta_data, f->meta_bytes, e);
	if (rc)
		return rc;
	if (crc32c(r->meta_data, f->meta_bytes) != crc)
		return err_set(e, EBADMSG, "the stream is damaged: wrong checksum in a %s frame",
			       wire_type_name(f->type));
	rbuf_init(&r->meta, ORDER_LITTLE, r->meta_data, f->meta_bytes);
	return 0;
}

int wire_recv(struct wire_reader *r, struct mig_chan *c, struct wire_frame *f, struct err *e)
{
	int rc;

	do {
		rc = wire_recv_any(r, c, f, e);
	} while (!rc && f->type == WIRE_ALIVE);
	return rc;
}

int wire_recv_any(struct wire_reader *r, struct mig_chan *c, struct wire_frame *f, struct err *e)
{
	uint8_t header[WIRE_HEADER_BYTES];
	uint32_t crc = 0;
	int rc, skipped = 0;

	do {
		if (skipped++ == WIRE_SKIP_MAX)
			return err_set(e, EPROTO,
				       "the other side sends nothing but messages that "
				       "this version does not know");
		rc = mig_chan_recv(c, header, sizeof(header), e);
		if (!rc)
			rc = wire_parse_header(r, header, f, &crc, e);
		if (!rc)
			rc = recv_meta(r, c, f, crc, e);
		if (rc)
			return rc;
		if ((f->type == 0 || f->type >= WIRE_TYPES) && f->flags & WIRE_MANDATORY)
			return err_set(e, EPROTO,
				       "the other side sent a message (type %u) that this version "
				       "does not know",
				       f->type);
	} while (f->type == 0 || f->type >= WIRE_TYPES);
	return 0;
}

int wire_get_one_u64(struct rbuf *r, const char *name, uint64_t *v, struct err *e)
{
	*v = get_u64(r);
	return rbuf_done(r) ? 0 : err_set(e, EPROTO, "malformed %s message", name);
}

void wire_put_text(struct wbuf *w, const char *text)
{
	put_bytes(w, text, strnlen(text, WIRE_TEXT_MAX));
}

void wire_get_text(struct rbuf *r, char text[WIRE_TEXT_MAX + 1])
{
	size_t len = rbuf_left(r) < WIRE_TEXT_MAX ? rbuf_left(r) : WIRE_TEXT_MAX;
	const char *p = get_bytes(r, len);

	for (size_t i = 0; i < len; i++)
		text[i] = p[i] >= ' ' && p[i] <= '~' ? p[i] : '?';
	text[len] = '\0';
}

uint64_t wire_token_hash(uint64_t token)
{
	/* Two rounds of a 64-bit finaliser: enough against accidents, which is all it is for. */
	for (int i = 0; i < 2; i++) {
		token ^= token >> 33;
		token *= 0xff51afd7ed558ccdull;
		token ^= token >> 29;
		token += 0x9e3779b97f4a7c15ull;
	}
	return token;
}
