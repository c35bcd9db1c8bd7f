/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a saved guest: everything but its pages, read and checked. */
#include "migration/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "mem/bits.h"

#define HEAD_MAX 4096 /* what stands before a bitmap is much shorter */

/* A field is wrong: say so with its place in the file. */
__attribute__((format(printf, 4, 5))) static int bad(const struct mig_file *f, uint64_t at,
						     struct err *e, const char *fmt, ...)
{
	char what[256];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	return err_set(e, EINVAL, "%s: %s (at byte %" PRIu64 ")", f->path, what, at);
}

static int read_at(const struct mig_file *f, uint64_t at, void *to, size_t len, struct err *e)
{
	uint8_t *p = to;

	while (len) {
		ssize_t n = pread(f->fd, p, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, errno, "%s: cannot read", f->path);
		if (!n)
			return bad(f, at, e, "the file ends too early");
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* ---- what describes the RAM ---- */

static int get_configuration(struct mig_file *f, struct rbuf *r, struct err *e)
{
	char text[MEM_BLOCK_NAME_LEN];
	const uint8_t *name;
	uint32_t v = get_u32(r);

	if (r->bad || v != MIG_FILE_MAGIC)
		return bad(f, 0, e, "this is no saved guest: it begins with 0x%08x", v);
	v = get_u32(r);
	if (r->bad || v != MIG_FILE_VERSION)
		return bad(f, 4, e, "the stream's version is %u, this ferry reads %u", v,
			   MIG_FILE_VERSION);
	if (get_u8(r) != MIG_FILE_CONFIGURATION)
		return bad(f, 8, e, "the configuration is missing");
	v = get_u32(r);
	name = v <= 64 ? get_bytes(r, v) : NULL;
	if (!name || v != strlen(MIG_FILE_MACHINE) || memcmp(name, MIG_FILE_MACHINE, v) != 0)
		return bad(f, 9, e, "the guest was not saved by ferry: machine type '%.*s'",
			   name ? (int)v : 0, name ? (const char *)name : "");
	if (get_u8(r) != MIG_FILE_SUBSECTION)
		return bad(f, r->pos, e, "the list of capabilities is missing");
	get_str8(r, text, sizeof(text));
	v = get_u32(r);
	if (r->bad || strcmp(text, "configuration/capabilities") != 0 || v != 1)
		return bad(f, r->pos, e, "the list of capabilities is damaged");
	v = get_u32(r);
	get_str8(r, text, sizeof(text));
	if (r->bad || v != 1 || strcmp(text, MIG_FILE_CAPABILITY) != 0)
		return bad(f, r->pos, e,
			   "this ferry reads files with the capability '%s' and no other",
			   MIG_FILE_CAPABILITY);
	return 0;
}

static int get_ram_start(struct mig_file *f, struct rbuf *r, uint64_t *total, struct err *e)
{
	char name[MEM_BLOCK_NAME_LEN];
	uint64_t at = r->pos;
	uint32_t id, instance, version;
	uint8_t type = get_u8(r);

	id = get_u32(r);
	get_str8(r, name, sizeof(name));
	instance = get_u32(r);
	version = get_u32(r);
	if (r->bad || type != MIG_FILE_SECTION_START || id != MIG_FILE_ID_RAM ||
	    strcmp(name, "ram") != 0 || instance)
		return bad(f, at, e, "the section of the RAM is missing");
	if (version != MIG_FILE_RAM_VERSION)
		return bad(f, r->pos - 4, e, "the RAM section's version is %u, this ferry reads %u",
			   version, MIG_FILE_RAM_VERSION);
	*total = get_u64(r);
	if (r->bad || (*total & (MEM_PAGE_BYTES - 1)) != MIG_FILE_RAM_SIZE)
		return bad(f, r->pos - 8, e, "the size of the RAM is missing");
	*total &= ~(MEM_PAGE_BYTES - 1);
	if (*total < MEM_MIN_BYTES || *total > MEM_MAX_BYTES)
		return bad(f, r->pos - 8, e,
			   "the guest has %" PRIu64 " MiB of RAM, which is not possible",
			   *total >> 20);
	return 0;
}

/* Header of one block; `r` begins at the file's byte b->start. */
static int get_block(struct mig_file *f, struct rbuf *r, struct mig_file_block *b, uint64_t left,
		     struct err *e)
{
	uint64_t page_bytes, at, end;
	uint32_t version;

	get_str8(r, b->name, sizeof(b->name));
	b->size_bytes = get_u64(r);
	at = b->start + r->pos;
	version = get_u32(r);
	page_bytes = get_u64(r);
	b->bitmap_offset = get_u64(r);
	b->pages_offset = get_u64(r);
	if (r->bad)
		return bad(f, b->start + r->pos, e, "the header of a block of RAM is cut off");
	if (!b->name[0] ||
	    strspn(b->name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != strlen(b->name))
		return bad(f, b->start, e, "the name of a block of RAM is damaged");
	if (!b->size_bytes || b->size_bytes % MEM_PAGE_BYTES || b->size_bytes > left)
		return bad(f, at - 8, e, "%s: a size of %" PRIu64 " bytes is not possible", b->name,
			   b->size_bytes);
	if (version != MIG_FILE_MAP_VERSION)
		return bad(f, at, e, "%s: the map's version is %u, this ferry reads %u", b->name,
			   version, MIG_FILE_MAP_VERSION);
	if (page_bytes != MEM_PAGE_BYTES)
		return bad(f, at + 4, e, "%s: pages of %" PRIu64 " bytes, this ferry knows %llu",
			   b->name, page_bytes, MEM_PAGE_BYTES);
	b->n_pages = b->size_bytes / MEM_PAGE_BYTES;
	b->bitmap_bytes = bits_words(b->n_pages) * sizeof(uint64_t);
	if (b->bitmap_offset != b->start + r->pos)
		return bad(f, at + 12, e,
			   "%s: the bitmap is said to be at byte %" PRIu64 ", but it follows here",
			   b->name, b->bitmap_offset);
	end = b->bitmap_offset + b->bitmap_bytes;
	if (b->pages_offset < end || b->pages_offset - end > MIG_FILE_GAP_MAX ||
	    b->pages_offset % MIG_FILE_ALIGN_BYTES)
		return bad(f, at + 20, e,
			   "%s: the pages are said to begin at byte %" PRIu64
			   ", which is not behind the bitmap, or not at a MiB",
			   b->name, b->pages_offset);
	if (b->pages_offset > f->file_bytes || b->size_bytes > f->file_bytes - b->pages_offset)
		return bad(f, at + 20, e,
			   "%s: its pages end behind the end of the file, which has %" PRIu64
			   " bytes: it has been cut off",
			   b->name, f->file_bytes);
	return 0;
}

/* The rest of a block's description: the bitmap, and zeroes behind it. Into the checksum with it.
 */
static int read_bitmap(struct mig_file *f, unsigned i, XXH3_state_t *sum, struct err *e)
{
	const struct mig_file_block *b = &f->layout.blocks[i];
	size_t bytes = b->pages_offset - b->start, used;
	uint8_t *all = malloc(bytes);
	int rc = all ? read_at(f, b->start, all, bytes, e) : err_set(e, ENOMEM, "out of memory");

	f->present[i] = rc ? NULL : malloc(b->bitmap_bytes);
	if (!rc && !f->present[i])
		rc = err_set(e, ENOMEM, "out of memory");
	if (!rc) {
		(void)XXH3_64bits_update(sum, all, bytes);
		memcpy(f->present[i], all + (b->bitmap_offset - b->start), b->bitmap_bytes);
		used = b->bitmap_offset - b->start + b->bitmap_bytes;
		/* Nearly a MiB of nothing: not byte by byte, unless one is wrong. */
		if (used < bytes && !all[used] &&
		    !memcmp(all + used, all + used + 1, bytes - used - 1))
			used = bytes;
		for (; used < bytes && !all[used]; used++)
			;
		if (used < bytes)
			rc = bad(f, b->start + used, e,
				 "%s: there must be zeroes between bitmap and pages", b->name);
	}
	free(all);
	if (!rc && bits_next_set(f->present[i], bits_words(b->n_pages) * 64, b->n_pages) !=
			   bits_words(b->n_pages) * 64)
		rc = bad(f, b->bitmap_offset + b->bitmap_bytes - 8, e,
			 "%s: the bitmap has pages behind the end of the RAM", b->name);
	return rc;
}

static int read_blocks(struct mig_file *f, XXH3_state_t *sum, struct err *e)
{
	uint8_t bytes[HEAD_MAX];
	uint64_t left = 0, at = 0;
	int rc = 0;

	do {
		struct mig_file_block *b = &f->layout.blocks[f->layout.n_blocks];
		uint64_t n =
			f->file_bytes - at < sizeof(bytes) ? f->file_bytes - at : sizeof(bytes);
		struct rbuf r;

		if (f->layout.n_blocks == MEM_MAX_BLOCKS)
			return bad(f, at, e, "more than %d blocks of RAM", MEM_MAX_BLOCKS);
		rc = read_at(f, at, bytes, n, e);
		if (rc)
			return rc;
		rbuf_init(&r, ORDER_BIG, bytes, n);
		if (!f->layout.n_blocks)
			rc = get_configuration(f, &r, e);
		if (!rc && !f->layout.n_blocks)
			rc = get_ram_start(f, &r, &left, e);
		b->start = at;
		if (!rc)
			rc = get_block(f, &r, b, left, e);
		if (!rc)
			rc = read_bitmap(f, f->layout.n_blocks, sum, e);
		if (rc)
			return rc;
		f->layout.n_blocks++;
		left -= b->size_bytes;
		at = b->pages_offset + b->size_bytes;
	} while (left);
	f->layout.tail_offset = at;
	return 0;
}

/* ---- the tail ---- */

static int read_tail(struct mig_file *f, XXH3_state_t *sum, struct err *e)
{
	const size_t end = MIG_FILE_CHECKSUM_CHARS + strlen(MIG_FILE_END);
	uint64_t bytes = f->file_bytes - f->layout.tail_offset;
	char text[MIG_FILE_CHECKSUM_CHARS + 1];
	const char *digits;
	int rc;

	if (bytes > MIG_FILE_TAIL_MAX)
		return bad(f, f->layout.tail_offset, e,
			   "%" PRIu64 " bytes of device state, at most %llu are possible", bytes,
			   MIG_FILE_TAIL_MAX);
	if (bytes < end)
		return bad(f, f->file_bytes, e,
			   "the file ends behind the RAM: it has been cut off");
	f->tail_bytes = (size_t)bytes;
	f->tail = malloc(f->tail_bytes);
	rc = f->tail ? read_at(f, f->layout.tail_offset, f->tail, f->tail_bytes, e)
		     : err_set(e, ENOMEM, "out of memory");
	if (rc)
		return rc;
	digits = (const char *)f->tail + f->tail_bytes - end;
	(void)XXH3_64bits_update(sum, f->tail, f->tail_bytes - end);
	(void)snprintf(text, sizeof(text), "%016" PRIx64, (uint64_t)XXH3_64bits_digest(sum));
	if (memcmp(digits + MIG_FILE_CHECKSUM_CHARS, MIG_FILE_END, strlen(MIG_FILE_END)) != 0 ||
	    strspn(digits, "0123456789abcdef") < MIG_FILE_CHECKSUM_CHARS)
		return bad(f, f->file_bytes - end, e,
			   "the file does not end with its checksum: it has been cut off, or was "
			   "never completed");
	if (memcmp(digits, text, MIG_FILE_CHECKSUM_CHARS) != 0)
		return err_set(e, EBADMSG,
			       "%s: the state of the guest is damaged: its checksum is %s, it "
			       "should be %.16s",
			       f->path, text, digits);
	return 0;
}

static uint64_t tail_at(const struct mig_file *f, const struct rbuf *r)
{
	return f->layout.tail_offset + r->pos;
}

static bool get_footer(struct rbuf *r, uint32_t id)
{
	return get_u8(r) == MIG_FILE_FOOTER && get_u32(r) == id && !r->bad;
}

static int get_section_head(const struct mig_file *f, struct rbuf *r, uint32_t want_id,
			    char name[MEM_BLOCK_NAME_LEN], uint32_t *instance, uint32_t *version,
			    struct err *e)
{
	uint64_t at = tail_at(f, r);
	uint8_t type = get_u8(r);
	uint32_t id = get_u32(r);

	get_str8(r, name, MEM_BLOCK_NAME_LEN);
	*instance = get_u32(r);
	*version = get_u32(r);
	if (r->bad || type != MIG_FILE_SECTION_FULL || id != want_id)
		return bad(f, at, e, "section number %u should begin here", want_id);
	return 0;
}

static int get_guest(struct mig_file *f, struct rbuf *r, struct err *e)
{
	char name[MEM_BLOCK_NAME_LEN];
	uint32_t instance, version;
	int rc = get_section_head(f, r, MIG_FILE_ID_GUEST, name, &instance, &version, e);

	if (!rc &&
	    (strcmp(name, "guest") != 0 || instance || version != mig_file_guest_table.version))
		rc = bad(f, tail_at(f, r), e,
			 "the section 'guest' of version %u should be here, it is '%.31s' of "
			 "version %u",
			 mig_file_guest_table.version, name, version);
	if (!rc)
		rc = fields_decode(r, &mig_file_guest_table, &f->guest, e);
	if (rc)
		return rc;
	if (!get_footer(r, MIG_FILE_ID_GUEST))
		return bad(f, tail_at(f, r), e, "the section 'guest' does not end where it should");
	if (f->guest.n_blocks != f->layout.n_blocks)
		return bad(f, tail_at(f, r), e, "guest.n_blocks is %u, but %u are in the file",
			   f->guest.n_blocks, f->layout.n_blocks);
	if (f->guest.was_running > 1)
		return bad(f, tail_at(f, r), e, "guest.was_running is neither 0 nor 1");
	return 0;
}

static int get_sums(struct mig_file *f, struct rbuf *r, struct err *e)
{
	char name[MEM_BLOCK_NAME_LEN];
	uint32_t instance, version, pages;
	uint64_t n;
	int rc = get_section_head(f, r, MIG_FILE_ID_SUMS, name, &instance, &version, e);

	if (rc)
		return rc;
	pages = get_u32(r);
	n = get_u64(r);
	if (strcmp(name, "sums") != 0 || instance || version != 1 ||
	    pages != MIG_FILE_EXTENT_PAGES || n != mig_file_all_extents(&f->layout) || r->bad ||
	    n > rbuf_left(r) / 8)
		return bad(f, tail_at(f, r), e, "the checksums of the RAM are missing or cut off");
	for (unsigned b = 0; b < f->layout.n_blocks; b++) {
		n = mig_file_n_extents(&f->layout.blocks[b]);
		f->sums[b] = malloc(n * sizeof(uint64_t));
		if (!f->sums[b])
			return err_set(e, ENOMEM, "out of memory");
		for (uint64_t i = 0; i < n; i++)
			f->sums[b][i] = get_u64(r);
	}
	if (!get_footer(r, MIG_FILE_ID_SUMS))
		return bad(f, tail_at(f, r), e, "the section 'sums' does not end where it should");
	return 0;
}

/* Is this section next? It may be left out. */
static bool is_next(const struct rbuf *r, const char *want)
{
	struct rbuf look = *r;
	char name[MEM_BLOCK_NAME_LEN];

	(void)get_u8(&look);
	(void)get_u32(&look);
	get_str8(&look, name, sizeof(name));
	return !look.bad && !strcmp(name, want);
}

static int get_hot(struct mig_file *f, struct rbuf *r, struct err *e)
{
	uint64_t n, want = mig_file_all_extents(&f->layout);
	char name[MEM_BLOCK_NAME_LEN];
	uint32_t instance, version;
	int rc;

	f->first_id = MIG_FILE_ID_DEVICES;
	if (!is_next(r, "hot"))
		return 0;
	rc = get_section_head(f, r, f->first_id, name, &instance, &version, e);
	if (rc)
		return rc;
	n = get_u64(r);
	f->hot = get_bytes(r, (want + 7) / 8);
	if (instance || version != 1 || n != want || !f->hot ||
	    (want % 8 && f->hot[want / 8] >> want % 8))
		return bad(f, tail_at(f, r), e,
			   "the section 'hot' is damaged, or not of version 1 and for %" PRIu64
			   " extents",
			   want);
	if (!get_footer(r, f->first_id++))
		return bad(f, tail_at(f, r), e, "the section 'hot' does not end where it should");
	return 0;
}

uint64_t mig_file_n_hot(const struct mig_file *f)
{
	uint64_t n = 0, bytes = (mig_file_all_extents(&f->layout) + 7) / 8;

	for (uint64_t i = 0; f->hot && i < bytes; i++)
		n += (uint64_t)__builtin_popcount(f->hot[i]);
	return n;
}

static int parse_tail(struct mig_file *f, struct err *e)
{
	struct rbuf r;
	int rc;

	rbuf_init(&r, ORDER_BIG, f->tail, f->tail_bytes);
	if (get_u64(&r) != MIG_FILE_RAM_EOS || !get_footer(&r, MIG_FILE_ID_RAM) ||
	    get_u8(&r) != MIG_FILE_SECTION_END || get_u32(&r) != MIG_FILE_ID_RAM ||
	    get_u64(&r) != MIG_FILE_RAM_EOS || !get_footer(&r, MIG_FILE_ID_RAM))
		return bad(f, tail_at(f, &r), e, "the section of the RAM does not end here");
	rc = get_guest(f, &r, e);
	if (!rc)
		rc = get_sums(f, &r, e);
	if (!rc)
		rc = get_hot(f, &r, e);
	f->devices_at = r.pos;
	return rc;
}

/* ---- the owner's side ---- */

static int open_file(struct mig_file *f, const char *path, struct err *e)
{
	size_t len = strlen(path);
	struct stat st;

	(void)snprintf(f->path, sizeof(f->path), "%s",
		       len < sizeof(f->path) ? path : path + len - sizeof(f->path) + 1);
	f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (f->fd < 0)
		return err_sys(e, errno, "cannot open %s", f->path);
	if (fstat(f->fd, &st))
		return err_sys(e, errno, "cannot open %s", f->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "%s: a saved guest is a regular file", f->path);
	f->file_bytes = (uint64_t)st.st_size;
	return 0;
}

int mig_file_open(struct mig_file **out, const char *path, struct err *e)
{
	struct mig_file *f = calloc(1, sizeof(*f));
	XXH3_state_t *sum = XXH3_createState();
	int rc = -ENOMEM;

	if (f)
		f->fd = -1;
	if (f && sum) {
		(void)XXH3_64bits_reset(sum);
		rc = open_file(f, path, e);
		if (!rc)
			rc = read_blocks(f, sum, e);
		if (!rc)
			rc = read_tail(f, sum, e);
		if (!rc)
			rc = parse_tail(f, e);
	} else {
		(void)err_set(e, ENOMEM, "out of memory");
	}
	(void)XXH3_freeState(sum);
	if (rc) {
		mig_file_close(f);
		return rc;
	}
	*out = f;
	return 0;
}

void mig_file_close(struct mig_file *f)
{
	if (!f)
		return;
	for (unsigned b = 0; b < MEM_MAX_BLOCKS; b++) {
		free(f->present[b]);
		free(f->sums[b]);
	}
	free(f->tail);
	if (f->fd >= 0)
		(void)close(f->fd);
	free(f);
}

/* The description is for other readers; that it is as long as it says is all that matters here. */
static int check_end(const struct mig_file *f, struct rbuf *r, struct err *e)
{
	uint64_t at = tail_at(f, r);
	uint32_t len;

	if (get_u8(r) != MIG_FILE_EOF || get_u8(r) != MIG_FILE_DESCRIPTION)
		return bad(f, at, e, "neither another section nor the end of the sections");
	len = get_u32(r);
	if (r->bad || len != rbuf_left(r) || len > MIG_FILE_JSON_MAX || r->data[r->pos] != '{' ||
	    memchr(r->data + r->pos, '\0', len))
		return bad(f, at + 2, e, "the description of the sections is damaged");
	return 0;
}

int mig_file_sections(const struct mig_file *f, mig_file_section_fn *fn, void *ctx, struct err *e)
{
	char name[MEM_BLOCK_NAME_LEN];
	uint32_t instance, version;
	struct rbuf r;

	rbuf_init(&r, ORDER_BIG, f->tail, f->tail_bytes);
	r.pos = f->devices_at;
	for (uint32_t id = f->first_id; rbuf_left(&r) && r.data[r.pos] != MIG_FILE_EOF; id++) {
		int rc = get_section_head(f, &r, id, name, &instance, &version, e);
		uint64_t at = tail_at(f, &r);

		if (!rc) {
			rc = fn(ctx, name, instance, version, &r, e);
			if (rc)
				err_prefix(e, "%s: section '%s' %u (at byte %" PRIu64 ")", f->path,
					   name, instance, at);
		}
		if (rc)
			return rc;
		if (!get_footer(&r, id))
			return bad(f, tail_at(f, &r), e,
				   "section '%s' %u does not end where it should", name, instance);
	}
	return check_end(f, &r, e);
}
