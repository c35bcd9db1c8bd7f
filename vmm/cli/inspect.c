/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "mem/bits.h"
#include "migration/file.h"
#include "vmm/cli/cli.h"
#include "vmm/section_tables.h"

#define OUT_MAX (64u << 20)
#define THREADS 2

struct inspect_options {
	bool json, verify, fields;
};

static int set_fields(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct inspect_options *)out)->fields = true;
	return 0;
}

static int set_json(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct inspect_options *)out)->json = true;
	return 0;
}

static int set_verify(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct inspect_options *)out)->verify = true;
	return 0;
}

static const struct opt inspect_table[] = {
	{"fields", NULL, "each device's fields by name, too", set_fields},
	{"json", NULL, "one JSON object, with all of it", set_json},
	{"verify", NULL, "read all of the file and check every byte", set_verify},
	{NULL, NULL, NULL, NULL},
};

struct output {
	struct wbuf text;
	bool json, fields;
	unsigned n_sections;
};

static uint64_t present(const struct mig_file *f, unsigned b)
{
	return bits_count(f->present[b], bits_words(f->layout.blocks[b].n_pages));
}

/* Runs of pages that are not there. */
static uint64_t holes(const struct mig_file *f, unsigned b)
{
	uint64_t n_pages = f->layout.blocks[b].n_pages, n = 0, p = 0;

	for (;;) {
		p = bits_next_clear(f->present[b], n_pages, p);
		if (p >= n_pages)
			return n;
		n++;
		p = bits_next_set(f->present[b], n_pages, p);
	}
}

/* A name of bytes that anybody may have written: nothing of it reaches a terminal raw. */
static void guest_name(const struct mig_file *f, char out[MIG_FILE_NAME_BYTES + 1])
{
	uint32_t n = f->guest.name_len;

	for (uint32_t i = 0; i < n; i++) {
		uint8_t c = f->guest.name[i];

		out[i] = c > ' ' && c < 0x7f && c != '"' && c != '\\' ? (char)c : '?';
	}
	out[n] = '\0';
}

static void head_json(const struct mig_file *f, struct wbuf *w)
{
	char name[MIG_FILE_NAME_BYTES + 1];

	guest_name(f, name);
	put_fmt(w,
		"{\"version\":%u,\"machine\":\"%s\",\"capabilities\":[\"%s\"],\"file_bytes\":"
		"%" PRIu64 ",\"page_size\":%llu,\"name\":\"%s\",\"cpus\":%u,\"was_running\":%s,"
		"\"saved_real_ns\":%" PRIu64 ",\"hot_extents\":%" PRIu64 ",\"blocks\":[",
		MIG_FILE_VERSION, MIG_FILE_MACHINE, MIG_FILE_CAPABILITY, f->file_bytes,
		MEM_PAGE_BYTES, name, f->guest.n_cpus, f->guest.was_running ? "true" : "false",
		f->guest.saved_real_ns, mig_file_n_hot(f));
	for (unsigned i = 0; i < f->layout.n_blocks; i++) {
		const struct mig_file_block *b = &f->layout.blocks[i];

		put_fmt(w,
			"%s{\"name\":\"%s\",\"gpa\":%" PRIu64 ",\"bytes\":%" PRIu64
			",\"pages\":%" PRIu64 ",\"present\":%" PRIu64 ",\"holes\":%" PRIu64
			",\"bitmap_offset\":%" PRIu64 ",\"pages_offset\":%" PRIu64 "}",
			i ? "," : "", b->name, f->guest.blocks[i].gpa, b->size_bytes, b->n_pages,
			present(f, i), holes(f, i), b->bitmap_offset, b->pages_offset);
	}
	put_fmt(w, "],\"sections\":[");
}

static void head_text(const struct mig_file *f, struct wbuf *w)
{
	time_t at = (time_t)(f->guest.saved_real_ns / NS_PER_SEC);
	char name[MIG_FILE_NAME_BYTES + 1], when[64] = "?", size[32];
	struct tm tm;

	guest_name(f, name);
	if (localtime_r(&at, &tm))
		(void)strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
	put_fmt(w, "format     stream version %u, %s (%s)\n", MIG_FILE_VERSION, MIG_FILE_MACHINE,
		MIG_FILE_CAPABILITY);
	put_fmt(w, "guest      %s, %u vCPU%s, %s when it was saved\n", name, f->guest.n_cpus,
		f->guest.n_cpus == 1 ? "" : "s", f->guest.was_running ? "running" : "paused");
	put_fmt(w, "saved      %s\n", when);
	put_fmt(w, "file       %s (%" PRIu64 " bytes)\n",
		size_text(f->file_bytes, size, sizeof(size)), f->file_bytes);
	if (f->hot)
		put_fmt(w, "hot        %llu MiB were written to while the guest was saved\n",
			mig_file_n_hot(f) * MIG_FILE_EXTENT_PAGES * MEM_PAGE_BYTES >> 20);
	for (unsigned i = 0; i < f->layout.n_blocks; i++) {
		const struct mig_file_block *b = &f->layout.blocks[i];

		put_fmt(w,
			"block      %s, %s at 0x%" PRIx64 ": %" PRIu64 " pages, %" PRIu64
			" of them present, %" PRIu64 " holes, at byte %" PRIu64 "\n",
			b->name, size_text(b->size_bytes, size, sizeof(size)),
			f->guest.blocks[i].gpa, b->n_pages, present(f, i), holes(f, i),
			b->pages_offset);
	}
}

static int put_section(void *ctx, const char *name, uint32_t instance, uint32_t version,
		       struct rbuf *r, struct err *e)
{
	const struct field_table *t = section_table(name);
	struct output *out = ctx;
	size_t bytes = rbuf_left(r);
	void *data;
	int rc;

	if (!t)
		return err_set(e, EINVAL, "this ferry knows no such device");
	if (version != t->version)
		return err_set(e, EINVAL, "its version is %u, this ferry knows %u", version,
			       t->version);
	data = calloc(1, fields_struct_bytes(t));
	rc = data ? fields_decode(r, t, data, e) : err_set(e, ENOMEM, "out of memory");
	if (!rc && out->json) {
		put_fmt(&out->text, "%s{\"name\":\"%s\",\"instance\":%u,\"version\":%u,\"fields\":",
			out->n_sections ? "," : "", name, instance, version);
		fields_json(&out->text, t, data);
		put_fmt(&out->text, "}");
	} else if (!rc) {
		put_fmt(&out->text, "section    %s %u, version %u, %zu bytes\n", name, instance,
			version, bytes);
		if (out->fields)
			fields_text(&out->text, t, data, "  ");
	}
	out->n_sections++;
	free(data);
	return rc;
}

static int inspect(const char *path, const struct inspect_options *o, struct output *out,
		   struct err *e)
{
	const struct mig_file_load how = {.n_threads = THREADS};
	struct mig_file *f;
	int rc = mig_file_open(&f, path, e);

	if (rc)
		return rc;
	if (o->json)
		head_json(f, &out->text);
	else
		head_text(f, &out->text);
	rc = mig_file_sections(f, put_section, out, e);
	if (!rc && o->verify)
		rc = mig_file_verify(f, &how, e);
	mig_file_close(f);
	if (rc)
		return rc;
	if (o->json)
		put_fmt(&out->text, "],\"verified\":%s}\n", o->verify ? "true" : "false");
	else if (o->verify)
		put_fmt(&out->text, "verified   every byte is as it was written\n");
	rc = wbuf_error(&out->text);
	return rc ? err_sys(e, -rc, "cannot show the file") : 0;
}

int cli_inspect(int argc, char *const *argv)
{
	struct inspect_options o = {0};
	struct opts_args args;
	struct err e = ERR_INIT;
	int rc, status = cli_parse("inspect", inspect_table, argc, argv, 1, &o, &args);
	struct output out;

	if (status >= 0)
		return status;
	wbuf_init(&out.text, ORDER_BIG, OUT_MAX);
	out.json = o.json;
	out.fields = o.fields;
	out.n_sections = 0;
	rc = inspect(args.arg[0], &o, &out, &e);
	if (!rc)
		(void)fwrite(out.text.data, 1, out.text.len, stdout);
	wbuf_free(&out.text);
	return rc ? cli_failed(&e) : cli_finish(EXIT_OK);
}
