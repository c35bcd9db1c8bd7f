/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/heartbeat.h"

#include <string.h>

#include "base/cond.h"
#include "migration/wire.h"

static void say_alive(struct mig_beat *b)
{
	struct wire_writer w;

	wire_alive(&w);
	mig_chan_send_aside(b->chan, w.header, sizeof(w.header));
}

/* Has anything come since the last look? Under the lock. */
static void listen_to(struct mig_beat *b)
{
	uint64_t now = clock_mono_ns(), signs = mig_chan_signs(b->chan);
	bool stood_still = now - b->looked_ns > 3 * MIG_BEAT_PERIOD_NS, silent;

	if (signs != b->signs || stood_still)
		b->heard_ns = now;
	b->signs = signs;
	b->looked_ns = now;
	silent = now - b->heard_ns >= MIG_BEAT_SILENT_NS;
	if (silent && !b->patient)
		mig_chan_cut(b->chan, MIG_BEAT_SILENT_NS);
	if (silent != b->silent && b->patient && b->tell)
		b->tell(b->ctx, silent);
	b->silent = silent && b->patient;
}

static void *beat(void *arg)
{
	struct mig_beat *b = arg;

	pthread_mutex_lock(&b->lock);
	while (!b->quit) {
		uint64_t at_ns = clock_mono_ns() + MIG_BEAT_PERIOD_NS;

		while (!b->quit && !thread_cond_wait(&b->changed, &b->lock, at_ns))
			;
		if (b->quit)
			break;
		if (mig_chan_sent(b->chan) == b->sent_bytes)
			say_alive(b);
		b->sent_bytes = mig_chan_sent(b->chan);
		listen_to(b);
	}
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

int mig_beat_start(struct mig_beat *b, struct mig_chan *chan, mig_beat_fn *tell, void *ctx,
		   struct err *e)
{
	int rc;

	*b = (struct mig_beat){.chan = chan,
			       .tell = tell,
			       .ctx = ctx,
			       .signs = mig_chan_signs(chan),
			       .heard_ns = clock_mono_ns(),
			       .looked_ns = clock_mono_ns(),
			       .sent_bytes = mig_chan_sent(chan)};
	(void)pthread_mutex_init(&b->lock, NULL);
	thread_cond_init(&b->changed);
	rc = pthread_create(&b->thread, NULL, beat, b);
	if (rc) {
		(void)pthread_cond_destroy(&b->changed);
		(void)pthread_mutex_destroy(&b->lock);
		return err_sys(e, rc, "cannot start the heartbeat");
	}
	(void)pthread_setname_np(b->thread, "mig-beat");
	mig_chan_set_user_timeout(chan, MIG_BEAT_USER_TIMEOUT_MS);
	b->started = true;
	return 0;
}

void mig_beat_patient(struct mig_beat *b, bool patient)
{
	pthread_mutex_lock(&b->lock);
	b->patient = patient;
	if (!patient)
		b->heard_ns = clock_mono_ns();
	pthread_mutex_unlock(&b->lock);
}

void mig_beat_stop(struct mig_beat *b)
{
	if (!b->started)
		return;
	pthread_mutex_lock(&b->lock);
	b->quit = true;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
	(void)pthread_join(b->thread, NULL);
	(void)pthread_cond_destroy(&b->changed);
	(void)pthread_mutex_destroy(&b->lock);
	b->started = false;
}
