/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/saved.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#define SUM_AT(bytes) ((bytes)-18) /* 16 digits, a quote, a brace */

void saved_up(struct saved *s, uint64_t ram_bytes, uint64_t seed)
{
	const struct synth_config cfg = {.ram_bytes = ram_bytes, .seed = seed};

	*s = (struct saved){.dst = NULL};
	(void)snprintf(s->dir, sizeof(s->dir), "/tmp/ferry-saved-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(s->dir));
	(void)snprintf(s->path, sizeof(s->path), "%s/guest", s->dir);
	synth_guest_init(&s->guest);
	s->src = synth_source(&s->guest, &cfg);
	s->cfg = (struct mig_save_config){.path = s->path,
					  .guest_name = "a \"guest\"",
					  .mem = s->src->mem,
					  .machine = s->src->machine,
					  .params = {.n_threads = 2},
					  .on_event = watch_event,
					  .event_ctx = &s->src->watch};
}

void saved_down(struct saved *s)
{
	char command[128];

	synth_free(s->src);
	synth_free(s->dst);
	(void)snprintf(command, sizeof(command), "rm -rf %s", s->dir);
	ck_assert_int_eq(system(command), 0);
}

enum mig_state saved_save(struct saved *s)
{
	struct mig_save *save;
	struct err e = ERR_INIT;

	watch_reset(&s->src->watch);
	ck_assert_msg(!mig_save_start(&save, &s->cfg, &e), "%s", e.msg);
	ck_assert(watch_wait(&s->src->watch, WATCH_ENDED, SYNTH_WAIT_MS));
	ck_assert(mig_save_ended(save));
	mig_save_status(save, &s->status);
	mig_save_free(save);
	return s->status.state;
}

enum mig_state saved_restore(struct saved *s, uint64_t ram_bytes)
{
	const struct synth_config cfg = {.ram_bytes = ram_bytes};
	struct mig_restore *restore;
	struct err e = ERR_INIT;

	synth_free(s->dst);
	synth_guest_init(&s->back);
	s->back.no_source = true;
	s->dst = synth_dest(&s->back, &cfg);
	atomic_store(&s->dst->fail_at[SYNTH_PAUSE], s->pause_fails);
	ck_assert_msg(
		!mig_restore_start(&restore,
				   &(struct mig_restore_config){
					   .path = s->path,
					   .mem = s->dst->mem,
					   .machine = s->dst->machine,
					   .params = {.n_threads = 2, .on_demand = s->on_demand},
					   .on_event = watch_event,
					   .event_ctx = &s->dst->watch},
				   &e),
		"%s", e.msg);
	ck_assert(watch_wait(&s->dst->watch, WATCH_ENDED, SYNTH_WAIT_MS));
	mig_restore_status(restore, &s->status);
	mig_restore_free(restore);
	ck_assert_msg(!s->back.violation, "%s", s->back.violation);
	/* On demand the end comes later. */
	if (!s->on_demand || s->status.state == MIG_COMPLETED)
		ck_assert_int_eq(s->back.taken_over, s->status.state == MIG_COMPLETED);
	return s->status.state;
}

const char *saved_compare(const struct saved *s)
{
	if (!s->back.taken_over)
		return "nobody took the guest over";
	return synth_compare(s->src, s->dst);
}

uint8_t *saved_read(const char *path, size_t *bytes)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	struct stat st;

	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fstat(fileno(file), &st), 0);
	*bytes = (size_t)st.st_size;
	data = malloc(*bytes);
	ck_assert_ptr_nonnull(data);
	ck_assert_uint_eq(fread(data, 1, *bytes, file), *bytes);
	(void)fclose(file);
	return data;
}

void saved_write(const char *path, const uint8_t *data, size_t bytes)
{
	FILE *file = fopen(path, "wb");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(data, 1, bytes, file), bytes);
	ck_assert_int_eq(fclose(file), 0);
}

void saved_resum(uint8_t *data, size_t bytes, uint64_t ram_bytes)
{
	XXH3_state_t *sum = XXH3_createState();
	uint64_t tail = SAVED_MIB + ram_bytes;
	char digits[17];

	(void)XXH3_64bits_reset(sum);
	(void)XXH3_64bits_update(sum, data, SAVED_MIB);
	(void)XXH3_64bits_update(sum, data + tail, SUM_AT(bytes) - tail);
	(void)snprintf(digits, sizeof(digits), "%016" PRIx64, (uint64_t)XXH3_64bits_digest(sum));
	memcpy(data + SUM_AT(bytes), digits, 16);
	(void)XXH3_freeState(sum);
}

static int skip(void *ctx, const char *name, uint32_t instance, uint32_t version, struct rbuf *r,
		struct err *e)
{
	struct synth *s = ctx;

	(void)version;
	if (!strcmp(s->early[0].table->name, name))
		return fields_decode(r, s->early[0].table, s->early[0].data, e);
	for (unsigned i = 0; i < SYNTH_SECTIONS; i++) {
		if (!strcmp(s->sections[i].table->name, name) &&
		    s->sections[i].instance == instance)
			return fields_decode(r, s->sections[i].table, s->sections[i].data, e);
	}
	return err_set(e, 22, "unknown");
}

int saved_verify(const char *path, struct err *e)
{
	const struct synth_config cfg = {.ram_bytes = SAVED_MIB};
	const struct mig_file_load how = {.n_threads = 2};
	struct synth_guest guest;
	struct synth *s;
	struct mig_file *f;
	int rc = mig_file_open(&f, path, e);

	if (rc)
		return rc;
	synth_guest_init(&guest);
	s = synth_dest(&guest, &cfg);
	rc = mig_file_sections(f, skip, s, e);
	if (!rc)
		rc = mig_file_verify(f, &how, e);
	synth_free(s);
	mig_file_close(f);
	return rc;
}

unsigned saved_n_files(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	(void)closedir(d);
	return n - 2;
}
