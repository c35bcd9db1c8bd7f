/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/file_format.h"

#include <inttypes.h>
#include <string.h>

#include "mem/bits.h"

/* "configuration": what the reader finds in front of everything else */
#define CAPS_SECTION "configuration/capabilities"
#define CAPS_VERSION 1u

static const struct field range_fields[] = {
	FIELD(struct mig_file_range, gpa, FIELD_U64),
};
static FIELD_TABLE(range_table, "range", 1, range_fields);

static const struct field guest_fields[] = {
	FIELD(struct mig_file_guest, name_len, FIELD_U32),
	FIELD_RAW_VAR(struct mig_file_guest, name, name_len),
	FIELD(struct mig_file_guest, n_cpus, FIELD_U32),
	FIELD(struct mig_file_guest, was_running, FIELD_U8),
	FIELD(struct mig_file_guest, saved_real_ns, FIELD_U64),
	FIELD(struct mig_file_guest, n_blocks, FIELD_U32),
	FIELD_SUB_VAR(struct mig_file_guest, blocks, n_blocks, &range_table),
};
FIELD_TABLE(mig_file_guest_table, "guest", 1, guest_fields);

static void put_stream_head(struct wbuf *w, const struct mig_file_layout *l)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < l->n_blocks; i++)
		total += l->blocks[i].size_bytes;
	put_u32(w, MIG_FILE_MAGIC);
	put_u32(w, MIG_FILE_VERSION);
	put_u8(w, MIG_FILE_CONFIGURATION);
	put_u32(w, (uint32_t)strlen(MIG_FILE_MACHINE));
	put_bytes(w, MIG_FILE_MACHINE, strlen(MIG_FILE_MACHINE));
	put_u8(w, MIG_FILE_SUBSECTION);
	put_str8(w, CAPS_SECTION);
	put_u32(w, CAPS_VERSION);
	put_u32(w, 1);
	put_str8(w, MIG_FILE_CAPABILITY);
	put_u8(w, MIG_FILE_SECTION_START);
	put_u32(w, MIG_FILE_ID_RAM);
	put_str8(w, "ram");
	put_u32(w, 0);
	put_u32(w, MIG_FILE_RAM_VERSION);
	put_u64(w, total | MIG_FILE_RAM_SIZE);
}

void mig_file_put_head(struct wbuf *w, const struct mig_file_layout *l, unsigned b)
{
	const struct mig_file_block *at = &l->blocks[b];

	if (!b)
		put_stream_head(w, l);
	put_str8(w, at->name);
	put_u64(w, at->size_bytes);
	put_u32(w, MIG_FILE_MAP_VERSION);
	put_u64(w, MEM_PAGE_BYTES);
	put_u64(w, at->bitmap_offset);
	put_u64(w, at->pages_offset);
}

void mig_file_layout(struct mig_file_layout *l, const struct mem *mem)
{
	uint64_t at = 0;
	struct wbuf w;

	*l = (struct mig_file_layout){.n_blocks = mem->n_blocks};
	for (unsigned i = 0; i < l->n_blocks; i++) {
		memcpy(l->blocks[i].name, mem->blocks[i].name, sizeof(l->blocks[i].name));
		l->blocks[i].size_bytes = mem->blocks[i].size_bytes;
		l->blocks[i].n_pages = mem->blocks[i].n_pages;
	}
	wbuf_init(&w, ORDER_BIG, MIG_FILE_ALIGN_BYTES);
	for (unsigned i = 0; i < l->n_blocks; i++) {
		struct mig_file_block *b = &l->blocks[i];
		uint64_t end;

		/* The head's length does not depend on what is in it. */
		wbuf_reset(&w);
		mig_file_put_head(&w, l, i);
		b->start = at;
		b->bitmap_offset = at + w.len;
		b->bitmap_bytes = bits_words(b->n_pages) * sizeof(uint64_t);
		end = b->bitmap_offset + b->bitmap_bytes;
		b->pages_offset = (end + MIG_FILE_ALIGN_BYTES - 1) & ~(MIG_FILE_ALIGN_BYTES - 1);
		at = b->pages_offset + b->size_bytes;
	}
	l->tail_offset = at;
	wbuf_free(&w);
}

/* ---- the tail ---- */

static unsigned n_sections(const struct mig_machine *m)
{
	return m->n_early + m->n_sections;
}

static const struct mig_section *section(const struct mig_machine *m, unsigned i)
{
	return i < m->n_early ? &m->early[i] : &m->sections[i - m->n_early];
}

static void put_footer(struct wbuf *w, uint32_t id)
{
	put_u8(w, MIG_FILE_FOOTER);
	put_u32(w, id);
}

static void put_section_head(struct wbuf *w, uint32_t id, const char *name, uint32_t instance,
			     uint32_t version)
{
	put_u8(w, MIG_FILE_SECTION_FULL);
	put_u32(w, id);
	put_str8(w, name);
	put_u32(w, instance);
	put_u32(w, version);
}

static void put_section(struct wbuf *w, uint32_t id, const struct mig_section *s)
{
	put_section_head(w, id, s->table->name, s->instance, s->table->version);
	fields_encode(w, s->table, s->data);
	put_footer(w, id);
}

static void put_sums(struct wbuf *w, const struct mig_file_layout *l, uint64_t *const *sums)
{
	put_section_head(w, MIG_FILE_ID_SUMS, "sums", 0, 1);
	put_u32(w, MIG_FILE_EXTENT_PAGES);
	put_u64(w, mig_file_all_extents(l));
	for (unsigned b = 0; b < l->n_blocks; b++)
		for (uint64_t i = 0; i < mig_file_n_extents(&l->blocks[b]); i++)
			put_u64(w, sums[b][i]);
	put_footer(w, MIG_FILE_ID_SUMS);
}

static void put_hot(struct wbuf *w, const struct mig_file_layout *l, const uint8_t *hot)
{
	uint64_t n = mig_file_all_extents(l);

	put_section_head(w, MIG_FILE_ID_DEVICES, "hot", 0, 1);
	put_u64(w, n);
	put_bytes(w, hot, (n + 7) / 8);
	put_footer(w, MIG_FILE_ID_DEVICES);
}

/* ---- the description ---- */

static void describe_configuration(struct wbuf *w)
{
	put_fmt(w, "{\"page_size\":%llu,\"configuration\":{\"vmsd_name\":\"configuration\",",
		MEM_PAGE_BYTES);
	put_fmt(w,
		"\"version\":1,\"fields\":[{\"name\":\"len\",\"type\":\"uint32\",\"size\":4},"
		"{\"name\":\"name\",\"type\":\"buffer\",\"size\":%zu}],",
		strlen(MIG_FILE_MACHINE));
	put_fmt(w,
		"\"subsections\":[{\"vmsd_name\":\"" CAPS_SECTION "\",\"version\":%u,\"fields\":["
		"{\"name\":\"caps_count\",\"type\":\"uint32\",\"size\":4},"
		"{\"name\":\"capabilities\",\"type\":\"capability\",\"size\":%zu}]}]},",
		CAPS_VERSION, 1 + strlen(MIG_FILE_CAPABILITY));
}

static void describe_section(struct wbuf *w, const struct mig_section *s)
{
	put_fmt(w,
		"{\"name\":\"%s\",\"instance_id\":%" PRIu32 ",\"vmsd_name\":\"%s\","
		"\"version\":%" PRIu32 ",\"fields\":[",
		s->table->name, s->instance, s->table->name, s->table->version);
	fields_describe(w, s->table, s->data);
	put_fmt(w, "]}");
}

static void describe_sums(struct wbuf *w, const struct mig_file_layout *l)
{
	put_fmt(w, ",{\"name\":\"sums\",\"instance_id\":0,\"vmsd_name\":\"sums\",\"version\":1,"
		   "\"fields\":[{\"name\":\"extent_pages\",\"type\":\"uint32\",\"size\":4},");
	put_fmt(w,
		"{\"name\":\"n_sums\",\"type\":\"uint64\",\"size\":8},"
		"{\"name\":\"sums\",\"type\":\"buffer\",\"size\":%" PRIu64 "}]}",
		mig_file_all_extents(l) * 8);
}

static void describe_hot(struct wbuf *w, const struct mig_file_layout *l)
{
	put_fmt(w,
		",{\"name\":\"hot\",\"instance_id\":0,\"vmsd_name\":\"hot\",\"version\":1,"
		"\"fields\":[{\"name\":\"n_extents\",\"type\":\"uint64\",\"size\":8},"
		"{\"name\":\"hot\",\"type\":\"buffer\",\"size\":%" PRIu64 "}]}",
		(mig_file_all_extents(l) + 7) / 8);
}

/*
 * Readers look for the first '{' after the file's last NUL. That NUL is a byte of the length in
 * front of the text, so none of the bytes behind it may be a '{' (0x7b).
 */
static bool misleads(uint64_t len)
{
	for (unsigned shift = 0; shift < 32 && (len >> shift & 0xff); shift += 8)
		if ((len >> shift & 0xff) == '{')
			return true;
	return false;
}

static void put_description(struct wbuf *w, const struct mig_file_layout *l,
			    const struct mig_section *guest, bool hot, const struct mig_machine *m)
{
	static const char last[] = "],\"checksum\":\"";
	const uint64_t rest = strlen(last) + MIG_FILE_CHECKSUM_CHARS + strlen(MIG_FILE_END);
	struct wbuf text;

	wbuf_init(&text, ORDER_BIG, MIG_FILE_JSON_MAX);
	describe_configuration(&text);
	put_fmt(&text, "\"devices\":[");
	describe_section(&text, guest);
	describe_sums(&text, l);
	if (hot)
		describe_hot(&text, l);
	for (unsigned i = 0; i < n_sections(m); i++) {
		put_fmt(&text, ",");
		describe_section(&text, section(m, i));
	}
	while (misleads(text.len + rest))
		put_u8(&text, ' ');
	put_fmt(&text, "%s", last);
	put_u8(w, MIG_FILE_EOF);
	put_u8(w, MIG_FILE_DESCRIPTION);
	put_u32(w, (uint32_t)(text.len + rest - strlen(last)));
	put_bytes(w, text.data, text.len);
	if (wbuf_error(&text) && !w->error)
		w->error = wbuf_error(&text);
	wbuf_free(&text);
}

void mig_file_put_tail(struct wbuf *w, const struct mig_file_layout *l,
		       const struct mig_file_guest *guest, uint64_t *const *sums,
		       const uint8_t *hot, const struct mig_machine *machine)
{
	uint32_t id = MIG_FILE_ID_DEVICES;
	struct mig_file_guest copy = *guest;
	const struct mig_section first = {.table = &mig_file_guest_table, .data = &copy};

	put_u64(w, MIG_FILE_RAM_EOS);
	put_footer(w, MIG_FILE_ID_RAM);
	put_u8(w, MIG_FILE_SECTION_END);
	put_u32(w, MIG_FILE_ID_RAM);
	put_u64(w, MIG_FILE_RAM_EOS);
	put_footer(w, MIG_FILE_ID_RAM);
	put_section(w, MIG_FILE_ID_GUEST, &first);
	put_sums(w, l, sums);
	if (hot) {
		put_hot(w, l, hot);
		id++;
	}
	for (unsigned i = 0; i < n_sections(machine); i++)
		put_section(w, id + i, section(machine, i));
	put_description(w, l, &first, hot != NULL, machine);
}
