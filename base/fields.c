/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fields.h"

#include <errno.h>
#include <string.h>

size_t fields_count(const struct field *f, const void *data)
{
	uint32_t count;

	if (f->count_offset == FIELD_COUNT_FIXED)
		return f->room;
	memcpy(&count, (const uint8_t *)data + f->count_offset, sizeof(count));
	return count;
}

static void encode_element(struct wbuf *w, const struct field *f, const uint8_t *at)
{
	uint16_t v16;
	uint32_t v32;
	uint64_t v64;

	switch (f->type) {
	case FIELD_U8:
		put_u8(w, *at);
		break;
	case FIELD_U16:
		memcpy(&v16, at, sizeof(v16));
		put_u16(w, v16);
		break;
	case FIELD_U32:
		memcpy(&v32, at, sizeof(v32));
		put_u32(w, v32);
		break;
	case FIELD_U64:
		memcpy(&v64, at, sizeof(v64));
		put_u64(w, v64);
		break;
	case FIELD_STRUCT:
		fields_encode(w, f->sub, at);
		break;
	case FIELD_BYTES:
		break; /* written whole by the caller */
	}
}

void fields_encode(struct wbuf *w, const struct field_table *t, const void *data)
{
	for (size_t i = 0; i < t->n_fields; i++) {
		const struct field *f = &t->fields[i];
		const uint8_t *at = (const uint8_t *)data + f->offset;
		size_t count = fields_count(f, data);

		if (count > f->room) {
			if (!w->error)
				w->error = -EMSGSIZE;
			return;
		}
		if (f->type == FIELD_BYTES) {
			put_bytes(w, at, count);
			continue;
		}
		for (size_t k = 0; k < count; k++)
			encode_element(w, f, at + k * f->stride);
	}
}

static int decode_element(struct rbuf *r, const struct field *f, uint8_t *at, struct err *e)
{
	uint16_t v16;
	uint32_t v32;
	uint64_t v64;

	switch (f->type) {
	case FIELD_U8:
		*at = get_u8(r);
		break;
	case FIELD_U16:
		v16 = get_u16(r);
		memcpy(at, &v16, sizeof(v16));
		break;
	case FIELD_U32:
		v32 = get_u32(r);
		memcpy(at, &v32, sizeof(v32));
		break;
	case FIELD_U64:
		v64 = get_u64(r);
		memcpy(at, &v64, sizeof(v64));
		break;
	case FIELD_STRUCT:
		return fields_decode(r, f->sub, at, e);
	case FIELD_BYTES:
		break;
	}
	return 0;
}

static int decode_field(struct rbuf *r, const struct field_table *t, const struct field *f,
			uint8_t *data, struct err *e)
{
	uint8_t *at = data + f->offset;
	size_t count = fields_count(f, data);

	if (count > f->room)
		return err_set(e, EINVAL, "%s.%s: %zu elements, at most %zu are possible", t->name,
			       f->name, count, f->room);
	if (f->type == FIELD_BYTES) {
		const void *bytes = get_bytes(r, count);

		if (bytes && count)
			memcpy(at, bytes, count);
	} else {
		for (size_t k = 0; k < count && !r->bad; k++) {
			int rc = decode_element(r, f, at + k * f->stride, e);

			if (rc)
				return rc;
		}
	}
	if (r->bad)
		return err_set(e, EINVAL, "%s.%s: the data ends inside this field", t->name,
			       f->name);
	return 0;
}

int fields_decode(struct rbuf *r, const struct field_table *t, void *data, struct err *e)
{
	for (size_t i = 0; i < t->n_fields; i++) {
		int rc = decode_field(r, t, &t->fields[i], data, e);

		if (rc)
			return rc;
	}
	return 0;
}
