/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/sync.h"

#include <errno.h>
#include <string.h>

#include "base/cond.h"

/* One harvest. Called without the lock, in the worker. */
static int harvest(struct mig_sync *s, struct err *e, struct mig_sync_figures *f)
{
	uint64_t begin_ns = clock_mono_ns(), end_ns, since_ns;
	uint64_t before = mig_bitmap_added(s->bitmap);
	int rc = s->source->harvest(s->source->ctx, s->bitmap, e);

	if (rc)
		return rc;
	end_ns = clock_mono_ns();
	since_ns = end_ns - s->last_end_ns;
	s->last_end_ns = end_ns;
	f->syncs++;
	f->end_ns = end_ns;
	f->last_ns = end_ns - begin_ns;
	f->total_ns += f->last_ns;
	f->last_new_pages = mig_bitmap_added(s->bitmap) - before;
	if (since_ns >= NS_PER_MS)
		f->dirty_pages_per_s = f->last_new_pages * NS_PER_SEC / since_ns;
	return 0;
}

/* Wait for work. True: sync now; false: quit. Called with the lock held. */
static bool wait_for_work(struct mig_sync *s, bool *background)
{
	for (;;) {
		uint64_t due;

		*background = false;
		if (s->quit)
			return false;
		if (s->asked != s->answered)
			return true;
		if (!s->watch_from_ns) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		due = s->watch_from_ns + s->background_ns;
		if (clock_mono_ns() >= due) {
			*background = true;
			s->watch_from_ns = due;
			return true;
		}
		(void)thread_cond_wait(&s->changed, &s->lock, due);
	}
}

static void *worker(void *arg)
{
	struct mig_sync *s = arg;
	bool background;

	pthread_mutex_lock(&s->lock);
	while (wait_for_work(s, &background)) {
		uint64_t asked = s->asked;
		struct mig_sync_figures f = s->figures;
		struct err message = ERR_INIT;
		int rc;

		pthread_mutex_unlock(&s->lock);
		rc = harvest(s, &message, &f);
		f.background_syncs += background;
		pthread_mutex_lock(&s->lock);
		if (rc && !s->error) {
			s->error = rc;
			s->message = message;
			s->watch_from_ns = 0;
		}
		s->figures = f;
		s->answered = asked;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int mig_sync_start(struct mig_sync *s, const struct mig_dirty_source *source,
		   struct mig_bitmap *bitmap, uint64_t background_ns, struct err *e)
{
	int rc;

	*s = (struct mig_sync){.source = source,
			       .bitmap = bitmap,
			       .background_ns = background_ns,
			       .last_end_ns = clock_mono_ns()};
	(void)pthread_mutex_init(&s->lock, NULL);
	thread_cond_init(&s->changed);
	rc = pthread_create(&s->thread, NULL, worker, s);
	if (rc) {
		(void)pthread_cond_destroy(&s->changed);
		(void)pthread_mutex_destroy(&s->lock);
		return err_sys(e, rc, "cannot start the sync worker");
	}
	(void)pthread_setname_np(s->thread, "mig-sync");
	return 0;
}

void mig_sync_stop(struct mig_sync *s)
{
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	(void)pthread_join(s->thread, NULL);
	(void)pthread_cond_destroy(&s->changed);
	(void)pthread_mutex_destroy(&s->lock);
}

int mig_sync_now(struct mig_sync *s, struct err *e)
{
	uint64_t mine;
	int rc;

	pthread_mutex_lock(&s->lock);
	mine = ++s->asked;
	pthread_cond_broadcast(&s->changed);
	while (s->answered < mine && !s->error)
		pthread_cond_wait(&s->changed, &s->lock);
	rc = s->error;
	if (rc)
		(void)err_set(e, -rc, "%s", s->message.msg);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void mig_sync_iteration(struct mig_sync *s, bool watch)
{
	pthread_mutex_lock(&s->lock);
	s->watch_from_ns = watch ? clock_mono_ns() : 0;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

struct mig_sync_figures mig_sync_figures(struct mig_sync *s)
{
	struct mig_sync_figures f;

	pthread_mutex_lock(&s->lock);
	f = s->figures;
	pthread_mutex_unlock(&s->lock);
	return f;
}
