/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State as tables of fields.
 *
 * A device's or a vCPU's state is a plain C struct and one constant table that names its members.
 * The table alone encodes, decodes and describes it: there is no second list that could drift.
 *
 *   struct pit { uint32_t n; struct chan chan[3]; };
 *   static const struct field pit_fields[] = {
 *           FIELD(struct pit, n, FIELD_U32),
 *           FIELD_SUB(struct pit, chan, 3, chan_table), ...
 *
 * An array may have a count that varies: `count_offset` names a uint32_t member that an *earlier*
 * field of the same table carries; the decoder refuses a count above the array's room before it
 * reads one element. Integers keep their member's width in memory and on the wire.
 *
 * Threads: pure functions on the caller's data.
 */
#ifndef BASE_FIELDS_H
#define BASE_FIELDS_H

#include "base/codec.h"
#include "base/err.h"

enum field_type { FIELD_U8, FIELD_U16, FIELD_U32, FIELD_U64, FIELD_BYTES, FIELD_STRUCT };

#define FIELD_COUNT_FIXED SIZE_MAX

struct field_table;

struct field {
	const char *name;
	enum field_type type;
	size_t offset;       /* of the member in the struct */
	size_t stride;       /* bytes of one element in memory */
	size_t room;         /* elements the member can hold; 1 for a scalar */
	size_t count_offset; /* of the uint32_t that says how many are used, or FIELD_COUNT_FIXED */
	const struct field_table *sub; /* FIELD_STRUCT only */
};

struct field_table {
	const char *name; /* of the section or struct, e.g. "vcpu" */
	uint32_t version;
	const struct field *fields;
	size_t n_fields;
};

#define FIELD_SIZEOF(s, m) sizeof(((s *)0)->m)

/* The formatter would take the initializers for blocks. */
/* clang-format off */
/* One integer. `t` must match the member's width (checked at compile time where it is used). */
#define FIELD(s, m, t)                                                                             \
	{#m, t, offsetof(s, m), FIELD_SIZEOF(s, m), 1, FIELD_COUNT_FIXED, NULL}
/* An array of integers of fixed length. */
#define FIELD_ARRAY(s, m, t)                                                                       \
	{#m, t, offsetof(s, m), FIELD_SIZEOF(s, m[0]),                                             \
	 FIELD_SIZEOF(s, m) / FIELD_SIZEOF(s, m[0]), FIELD_COUNT_FIXED, NULL}
/* Raw bytes, all of the member or the first `count` of them. */
#define FIELD_RAW(s, m)                                                                            \
	{#m, FIELD_BYTES, offsetof(s, m), 1, FIELD_SIZEOF(s, m), FIELD_COUNT_FIXED, NULL}
#define FIELD_RAW_VAR(s, m, count)                                                                 \
	{#m, FIELD_BYTES, offsetof(s, m), 1, FIELD_SIZEOF(s, m), offsetof(s, count), NULL}
/* One struct, an array of them, an array with a count member. */
#define FIELD_SUB(s, m, table)                                                                     \
	{#m, FIELD_STRUCT, offsetof(s, m), FIELD_SIZEOF(s, m), 1, FIELD_COUNT_FIXED, table}
#define FIELD_SUB_ARRAY(s, m, table)                                                               \
	{#m, FIELD_STRUCT, offsetof(s, m), FIELD_SIZEOF(s, m[0]),                                  \
	 FIELD_SIZEOF(s, m) / FIELD_SIZEOF(s, m[0]), FIELD_COUNT_FIXED, table}
#define FIELD_SUB_VAR(s, m, count, table)                                                          \
	{#m, FIELD_STRUCT, offsetof(s, m), FIELD_SIZEOF(s, m[0]),                                  \
	 FIELD_SIZEOF(s, m) / FIELD_SIZEOF(s, m[0]), offsetof(s, count), table}
/* clang-format on */

#define FIELD_TABLE(var, label, ver, list) \
	const struct field_table var = {label, ver, list, sizeof(list) / sizeof((list)[0])}

/* Append the struct's fields in table order. The writer's sticky error tells of failure. */
void fields_encode(struct wbuf *w, const struct field_table *t, const void *data);

/*
 * Read the same back into *data (members without a field stay as they are). -EINVAL with the name
 * of the field if the bytes end early or a count exceeds its room; *data may then be half-filled
 * and must not be used. Bytes after the last field are the caller's to judge.
 */
int fields_decode(struct rbuf *r, const struct field_table *t, void *data, struct err *e);

/*
 * What follows is for structs that a decoder has filled, or that fields_encode() has taken: no
 * count in them exceeds its room.
 */

/* How many elements of this field of *data are used. */
size_t fields_count(const struct field *f, const void *data);
/* Room for one struct of this table, as far as its fields reach. */
size_t fields_struct_bytes(const struct field_table *t);
/* How many bytes fields_encode() writes for *data. */
uint64_t fields_encoded_bytes(const struct field_table *t, const void *data);

/*
 * The layout of *data as fields_encode() writes it: the JSON members of a list of fields (without
 * its brackets) in the way of docs/saved-file.md, with name, type, size, array_len.
 */
void fields_describe(struct wbuf *w, const struct field_table *t, const void *data);
/* The values as a JSON object; raw bytes in hexadecimal digits. */
void fields_json(struct wbuf *w, const struct field_table *t, const void *data);
/* The values for people, one field a line; each line begins with `path`. */
void fields_text(struct wbuf *w, const struct field_table *t, const void *data, const char *path);

#endif
