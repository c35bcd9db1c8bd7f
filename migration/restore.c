/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/restore.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define PAUSE_TRIES 6 /* each may take seconds */

struct mig_restore {
	/* constant after start */
	struct mig_restore_config cfg;
	pthread_t thread;
	bool joined; /* the owner's */
	uint64_t begin_ns;
	struct mig_stop stop;
	struct mig_file_progress progress;
	/* guarded by lock */
	pthread_mutex_t lock;
	struct mig_status status;
	bool ended;
	/* the coordinator's own */
	struct mig_file *file;
	bool touched; /* RAM may hold something */
	bool ours;    /* the guest has been taken over */
};

static void set_state(struct mig_restore *r, enum mig_state state)
{
	struct mig_event ev = {.kind = MIG_EVENT_STATE, .state = state};

	pthread_mutex_lock(&r->lock);
	r->status.state = state;
	pthread_mutex_unlock(&r->lock);
	if (r->cfg.on_event)
		r->cfg.on_event(r->cfg.event_ctx, &ev);
}

/* ---- does it fit? ---- */

static int check_shape(const struct mig_file *f, const struct mem *mem,
		       const struct mig_machine *machine, struct err *e)
{
	uint64_t saved = 0;

	for (unsigned i = 0; i < f->layout.n_blocks; i++)
		saved += f->layout.blocks[i].size_bytes;
	if (saved != mem->size_bytes)
		return err_set(e, EINVAL,
			       "%s: the saved guest has %" PRIu64 " KiB of RAM, this one %" PRIu64
			       ": use --mem %" PRIu64 "K",
			       f->path, saved >> 10, mem->size_bytes >> 10, saved >> 10);
	if (f->guest.n_cpus != machine->n_cpus)
		return err_set(e, EINVAL,
			       "%s: the saved guest has %u vCPUs, this one %u: use --cpus %u",
			       f->path, f->guest.n_cpus, machine->n_cpus, f->guest.n_cpus);
	if (f->layout.n_blocks != mem->n_blocks)
		return err_set(e, EINVAL, "%s: the saved guest has %u blocks of RAM, this one %u",
			       f->path, f->layout.n_blocks, mem->n_blocks);
	for (unsigned i = 0; i < mem->n_blocks; i++) {
		const struct mig_file_block *saved_block = &f->layout.blocks[i];
		const struct mem_block *b = &mem->blocks[i];

		if (strcmp(b->name, saved_block->name) != 0 ||
		    b->size_bytes != saved_block->size_bytes || b->gpa != f->guest.blocks[i].gpa)
			return err_set(e, EINVAL,
				       "%s: the saved guest's RAM lies elsewhere: %s has %" PRIu64
				       " bytes at 0x%" PRIx64 ", %s here %" PRIu64
				       " bytes at 0x%" PRIx64,
				       f->path, saved_block->name, saved_block->size_bytes,
				       f->guest.blocks[i].gpa, b->name, b->size_bytes, b->gpa);
	}
	return 0;
}

struct decoding {
	const struct mig_machine *machine;
	bool *seen; /* early ones first */
};

static unsigned n_sections(const struct mig_machine *m)
{
	return m->n_early + m->n_sections;
}

static const struct mig_section *section(const struct mig_machine *m, unsigned i)
{
	return i < m->n_early ? &m->early[i] : &m->sections[i - m->n_early];
}

static int decode_section(void *ctx, const char *name, uint32_t instance, uint32_t version,
			  struct rbuf *r, struct err *e)
{
	struct decoding *d = ctx;

	for (unsigned i = 0; i < n_sections(d->machine); i++) {
		const struct mig_section *s = section(d->machine, i);

		if (strcmp(s->table->name, name) != 0 || s->instance != instance)
			continue;
		if (s->table->version != version)
			return err_set(e, EINVAL, "its version is %u, this ferry knows %u", version,
				       s->table->version);
		if (d->seen[i])
			return err_set(e, EINVAL, "it comes twice");
		d->seen[i] = true;
		return fields_decode(r, s->table, s->data, e);
	}
	return err_set(e, EINVAL,
		       "the saved guest has a device that this one has not: give the options that "
		       "it was run with");
}

int mig_restore_sections(const struct mig_file *f, const struct mem *mem,
			 const struct mig_machine *machine, struct err *e)
{
	struct decoding d = {.machine = machine};
	int rc = check_shape(f, mem, machine, e);

	if (rc)
		return rc;
	d.seen = calloc(n_sections(machine) + 1, sizeof(*d.seen));
	if (!d.seen)
		return err_set(e, ENOMEM, "out of memory");
	rc = mig_file_sections(f, decode_section, &d, e);
	for (unsigned i = 0; i < n_sections(machine) && !rc; i++) {
		if (!d.seen[i])
			rc = err_set(e, EINVAL,
				     "%s: the saved guest has no '%s' number %u, this one has: "
				     "give the options that it was run with",
				     f->path, section(machine, i)->table->name,
				     section(machine, i)->instance);
	}
	free(d.seen);
	if (!rc && machine->admit) {
		rc = machine->admit(machine->ctx, e);
		if (rc)
			err_prefix(e, "%s", f->path);
	}
	return rc;
}

/* ---- the life of a restore ---- */

static int restore(struct mig_restore *r, struct err *e)
{
	const struct mig_machine *m = &r->cfg.machine;
	const struct mig_file_load how = {.n_threads = r->cfg.params.n_threads,
					  .direct = r->cfg.params.direct_io,
					  .stop = &r->stop,
					  .progress = &r->progress};
	int rc = r->file ? 0 : mig_file_open(&r->file, r->cfg.path, e);

	if (!rc)
		rc = mig_restore_sections(r->file, r->cfg.mem, m, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&r->lock);
	r->status.setup_ns = clock_mono_ns() - r->begin_ns;
	pthread_mutex_unlock(&r->lock);
	set_state(r, MIG_ACTIVE);
	r->touched = true;
	rc = r->cfg.params.on_demand ? mig_file_map(r->file, r->cfg.mem, e)
				     : mig_file_load(r->file, r->cfg.mem, &how, e);
	if (rc)
		return rc;
	set_state(r, MIG_DEVICE);
	rc = m->apply(m->ctx, e);
	if (rc) {
		err_prefix(e, "%s: loading the guest's state", r->file->path);
		return rc;
	}
	if (mig_stop_is_set(&r->stop))
		return err_set(e, ECANCELED, "cancelled");
	rc = m->taken_over(m->ctx, r->file->guest.was_running && !r->cfg.paused, e);
	r->ours = !rc;
	return rc;
}

/* The guest runs on what nobody has checked yet. Now is the time to. */
static int fetch(struct mig_restore *r, struct err *e)
{
	const struct mig_machine *m = &r->cfg.machine;
	/* One thread: the processors are the guest's. */
	const struct mig_file_load how = {
		.n_threads = 1, .stop = &r->stop, .progress = &r->progress};
	struct err why = ERR_INIT;
	bool ran;
	int rc, paused = -ECANCELED;

	set_state(r, MIG_POSTCOPY);
	rc = mig_file_prefetch(r->file, r->cfg.mem, &how, e);
	if (!rc || mig_stop_is_set(&r->stop))
		return 0;
	/* vCPUs that wait for a slow disk are asked again, lest the guest run on. */
	for (unsigned i = 0; paused && i < PAUSE_TRIES && !mig_stop_is_set(&r->stop); i++) {
		why = (struct err)ERR_INIT;
		paused = m->pause(m->ctx, &ran, &why);
	}
	if (!paused)
		(void)m->stay(m->ctx, &why);
	if (why.code)
		err_prefix(e, "%s, after", why.msg);
	else
		err_prefix(e, "the guest has been paused, it may have read what is wrong");
	return rc;
}

static void *coordinator(void *arg)
{
	struct mig_restore *r = arg;
	struct err e = ERR_INIT, dirty = ERR_INIT;
	enum mig_state state = MIG_COMPLETED;
	struct mig_status st;
	int rc;

	set_state(r, MIG_SETUP);
	rc = restore(r, &e);
	if (!rc && r->cfg.params.on_demand)
		rc = fetch(r, &e);
	if (rc) {
		state = mig_stop_is_set(&r->stop) ? MIG_CANCELLED : MIG_FAILED;
		if (r->touched && !r->ours && mem_discard(r->cfg.mem, &dirty))
			err_prefix(&e, "%s, after", dirty.msg);
	}
	mig_file_close(r->file);
	r->file = NULL;
	mig_restore_status(r, &st);
	pthread_mutex_lock(&r->lock);
	st.state = state;
	if (rc)
		memcpy(st.error, e.msg, sizeof(st.error));
	r->status = st;
	r->ended = true;
	pthread_mutex_unlock(&r->lock);
	set_state(r, state);
	return NULL;
}

/* ---- the owner's side ---- */

int mig_restore_start(struct mig_restore **out, const struct mig_restore_config *cfg, struct err *e)
{
	struct mig_restore *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return err_set(e, ENOMEM, "out of memory");
	r->cfg = *cfg;
	r->file = cfg->file;
	r->begin_ns = clock_mono_ns();
	r->status.state = MIG_SETUP;
	r->status.page_bytes = MEM_PAGE_BYTES;
	r->status.ram_total_bytes = cfg->mem->size_bytes;
	r->status.remaining_bytes = cfg->mem->size_bytes;
	(void)pthread_mutex_init(&r->lock, NULL);
	rc = mig_stop_init(&r->stop);
	if (!rc)
		rc = -pthread_create(&r->thread, NULL, coordinator, r);
	if (rc) {
		mig_stop_free(&r->stop);
		(void)pthread_mutex_destroy(&r->lock);
		free(r);
		return err_sys(e, -rc, "cannot start the thread that restores the guest");
	}
	(void)pthread_setname_np(r->thread, "mig-restore");
	*out = r;
	return 0;
}

void mig_restore_status(struct mig_restore *r, struct mig_status *out)
{
	pthread_mutex_lock(&r->lock);
	*out = r->status;
	if (!r->ended) {
		const struct mig_file_progress *p = &r->progress;
		uint64_t done = atomic_load(&p->done_pages) * MEM_PAGE_BYTES;

		out->total_ns = clock_mono_ns() - r->begin_ns;
		out->normal_pages = atomic_load(&p->normal_pages);
		out->zero_pages = atomic_load(&p->zero_pages);
		out->transferred_bytes = atomic_load(&p->bytes);
		out->remaining_bytes =
			done < out->ram_total_bytes ? out->ram_total_bytes - done : 0;
	}
	pthread_mutex_unlock(&r->lock);
}

bool mig_restore_ended(struct mig_restore *r)
{
	bool ended;

	pthread_mutex_lock(&r->lock);
	ended = r->ended;
	pthread_mutex_unlock(&r->lock);
	return ended;
}

void mig_restore_join(struct mig_restore *r)
{
	if (!r->joined)
		(void)pthread_join(r->thread, NULL);
	r->joined = true;
}

void mig_restore_free(struct mig_restore *r)
{
	if (!r)
		return;
	mig_stop_set(&r->stop);
	mig_restore_join(r);
	mig_stop_free(&r->stop);
	(void)pthread_mutex_destroy(&r->lock);
	free(r);
}
