/* SPDX-License-Identifier: Apache-2.0 */
/* What a table says in words: the layout of an encoded struct, and the values in it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fields.h"

#define PATH_BYTES 192

static bool is_array(const struct field *f)
{
	return f->count_offset != FIELD_COUNT_FIXED || f->room != 1;
}

static size_t int_bytes(enum field_type t)
{
	switch (t) {
	case FIELD_U8:
		return 1;
	case FIELD_U16:
		return 2;
	case FIELD_U32:
		return 4;
	case FIELD_U64:
		return 8;
	case FIELD_BYTES:
	case FIELD_STRUCT:
		break;
	}
	return 0;
}

static uint64_t int_value(const struct field *f, const uint8_t *at)
{
	uint16_t v16;
	uint32_t v32;
	uint64_t v64;

	switch (f->type) {
	case FIELD_U16:
		memcpy(&v16, at, sizeof(v16));
		return v16;
	case FIELD_U32:
		memcpy(&v32, at, sizeof(v32));
		return v32;
	case FIELD_U64:
		memcpy(&v64, at, sizeof(v64));
		return v64;
	default:
		return *at;
	}
}

/* Has every element of this struct the same layout, whatever is in it? */
static bool is_uniform(const struct field_table *t)
{
	for (size_t i = 0; i < t->n_fields; i++) {
		const struct field *f = &t->fields[i];

		if (f->count_offset != FIELD_COUNT_FIXED)
			return false;
		if (f->type == FIELD_STRUCT && !is_uniform(f->sub))
			return false;
	}
	return true;
}

size_t fields_struct_bytes(const struct field_table *t)
{
	size_t bytes = 0;

	for (size_t i = 0; i < t->n_fields; i++) {
		const struct field *f = &t->fields[i];
		size_t end = f->offset + f->stride * f->room;

		bytes = end > bytes ? end : bytes;
	}
	return bytes;
}

uint64_t fields_encoded_bytes(const struct field_table *t, const void *data)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < t->n_fields; i++) {
		const struct field *f = &t->fields[i];
		const uint8_t *at = (const uint8_t *)data + f->offset;
		size_t n = fields_count(f, data);

		if (f->type == FIELD_BYTES)
			bytes += n;
		else if (f->type != FIELD_STRUCT)
			bytes += n * int_bytes(f->type);
		for (size_t k = 0; f->type == FIELD_STRUCT && k < n; k++)
			bytes += fields_encoded_bytes(f->sub, at + k * f->stride);
	}
	return bytes;
}

/* ---- layout ---- */

static void describe_list(struct wbuf *w, const struct field_table *t, const void *data);

static void describe_struct(struct wbuf *w, const struct field *f, const uint8_t *at)
{
	put_fmt(w, ",\"type\":\"struct\",\"size\":%" PRIu64 ",\"struct\":{\"vmsd_name\":\"%s\"",
		fields_encoded_bytes(f->sub, at), f->sub->name);
	put_fmt(w, ",\"version\":%" PRIu32 ",\"fields\":[", f->sub->version);
	describe_list(w, f->sub, at);
	put_fmt(w, "]}");
}

/* One member of the list: a field, or one element of an array whose elements differ. */
static void describe_one(struct wbuf *w, const struct field *f, const uint8_t *at, size_t n)
{
	if (f->type == FIELD_STRUCT)
		describe_struct(w, f, at);
	else if (f->type == FIELD_BYTES)
		put_fmt(w, ",\"type\":\"buffer\",\"size\":%zu", n);
	else
		put_fmt(w, ",\"type\":\"uint%zu\",\"size\":%zu", int_bytes(f->type) * 8,
			int_bytes(f->type));
}

static void describe_list(struct wbuf *w, const struct field_table *t, const void *data)
{
	const char *comma = "";

	for (size_t i = 0; i < t->n_fields; i++) {
		const struct field *f = &t->fields[i];
		const uint8_t *at = (const uint8_t *)data + f->offset;
		size_t n = fields_count(f, data);
		bool one_by_one = f->type == FIELD_STRUCT && is_array(f) && !is_uniform(f->sub);

		/* An array of nothing has no bytes, and readers know no such thing. */
		if (!n)
			continue;
		for (size_t k = 0; k < (one_by_one ? n : 1); k++) {
			put_fmt(w, "%s{\"name\":\"%s\"", comma, f->name);
			if (one_by_one)
				put_fmt(w, ",\"index\":%zu", k);
			else if (f->type != FIELD_BYTES && is_array(f))
				put_fmt(w, ",\"array_len\":%zu", n);
			describe_one(w, f, at + k * f->stride, n);
			put_fmt(w, "}");
			comma = ",";
		}
	}
}

void fields_describe(struct wbuf *w, const struct field_table *t, const void *data)
{
	describe_list(w, t, data);
}

/* ---- values ---- */

static void put_hex(struct wbuf *w, const uint8_t *at, size_t n)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		const char two[2] = {digits[at[i] >> 4], digits[at[i] & 15]};

		put_bytes(w, two, 2);
	}
}

static void json_element(struct wbuf *w, const struct field *f, const uint8_t *at)
{
	if (f->type == FIELD_STRUCT)
		fields_json(w, f->sub, at);
	else
		put_fmt(w, "%" PRIu64, int_value(f, at));
}

void fields_json(struct wbuf *w, const struct field_table *t, const void *data)
{
	put_fmt(w, "{");
	for (size_t i = 0; i < t->n_fields; i++) {
		const struct field *f = &t->fields[i];
		const uint8_t *at = (const uint8_t *)data + f->offset;
		size_t n = fields_count(f, data);

		put_fmt(w, "%s\"%s\":", i ? "," : "", f->name);
		if (f->type == FIELD_BYTES) {
			put_fmt(w, "\"");
			put_hex(w, at, n);
			put_fmt(w, "\"");
			continue;
		}
		put_fmt(w, is_array(f) ? "[" : "");
		for (size_t k = 0; k < n; k++) {
			put_fmt(w, k ? "," : "");
			json_element(w, f, at + k * f->stride);
		}
		put_fmt(w, is_array(f) ? "]" : "");
	}
	put_fmt(w, "}");
}

/* Bytes, or an array of integers: all on one line. */
static void text_line(struct wbuf *w, const struct field *f, const char *path, const uint8_t *at,
		      size_t n)
{
	put_fmt(w, "%s%s", path, f->name);
	if (f->type == FIELD_BYTES) {
		put_fmt(w, n ? " " : "");
		put_hex(w, at, n);
	}
	for (size_t k = 0; f->type != FIELD_BYTES && k < n; k++)
		put_fmt(w, " 0x%" PRIx64, int_value(f, at + k * f->stride));
	put_fmt(w, "\n");
}

void fields_text(struct wbuf *w, const struct field_table *t, const void *data, const char *path)
{
	char inner[PATH_BYTES];

	for (size_t i = 0; i < t->n_fields; i++) {
		const struct field *f = &t->fields[i];
		const uint8_t *at = (const uint8_t *)data + f->offset;
		size_t n = fields_count(f, data);

		if (f->type != FIELD_STRUCT)
			text_line(w, f, path, at, n);
		for (size_t k = 0; f->type == FIELD_STRUCT && k < n; k++) {
			if (is_array(f))
				(void)snprintf(inner, sizeof(inner), "%s%s[%zu].", path, f->name,
					       k);
			else
				(void)snprintf(inner, sizeof(inner), "%s%s.", path, f->name);
			fields_text(w, f->sub, at + k * f->stride, inner);
		}
	}
}
