/* SPDX-License-Identifier: Apache-2.0 */
/* The destination as an object: where it listens, who is served next, what its owner decides. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "migration/dest_state.h"
#include "migration/door.h"

static void close_listener(struct mig_dest *d)
{
	int fd;

	while ((fd = mig_waiting_next(&d->waiting)) >= 0)
		(void)close(fd);
	if (d->listen_fd < 0)
		return;
	(void)close(d->listen_fd);
	if (d->uri.kind == MIG_URI_UNIX)
		(void)unlink(d->uri.path);
}

/* Looking a name up is nothing that the owner waits for. True: nobody can come. */
static bool listen_at_name(struct mig_dest *d)
{
	struct err e = ERR_INIT;
	int rc = mig_uri_listen(&d->uri, &d->stop, &d->listen_fd, d->name, &e);

	if (rc) {
		d->listen_fd = -1;
		if (!mig_stop_is_set(&d->stop))
			mig_dest_state(d, MIG_FAILED, &e);
		return true;
	}
	pthread_mutex_lock(&d->lock);
	d->listening = true;
	pthread_mutex_unlock(&d->lock);
	mig_dest_state(d, MIG_NONE, NULL);
	return false;
}

static void *coordinator(void *arg)
{
	struct mig_dest *d = arg;
	bool here = d->listen_fd < 0 && listen_at_name(d);

	while (!here && !mig_stop_is_set(&d->stop)) {
		int fd = mig_door_next(&d->waiting, d->listen_fd, d->name, &d->stop);

		if (fd >= 0)
			here = mig_dest_serve(d, fd);
	}
	close_listener(d);
	return NULL;
}

/* ---- the owner's side ---- */

int mig_dest_start(struct mig_dest **out, const struct mig_dest_config *cfg, struct err *e)
{
	struct mig_dest *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return err_set(e, ENOMEM, "out of memory");
	rc = mig_uri_parse(cfg->uri, &d->uri, e);
	if (!rc && mig_uri_has_name(&d->uri)) {
		d->listen_fd = -1;
		d->status.state = MIG_SETUP;
	} else if (!rc) {
		rc = mig_uri_listen(&d->uri, NULL, &d->listen_fd, d->name, e);
		d->listening = !rc;
	}
	if (rc) {
		free(d);
		return rc;
	}
	d->cfg = *cfg;
	(void)pthread_mutex_init(&d->lock, NULL);
	(void)pthread_cond_init(&d->decided, NULL);
	rc = mig_stop_init(&d->stop);
	if (!rc)
		rc = -pthread_create(&d->thread, NULL, coordinator, d);
	if (rc) {
		mig_stop_free(&d->stop);
		close_listener(d);
		(void)pthread_cond_destroy(&d->decided);
		(void)pthread_mutex_destroy(&d->lock);
		free(d);
		return err_sys(e, -rc, "cannot start the migration thread");
	}
	(void)pthread_setname_np(d->thread, "mig-dest");
	*out = d;
	return 0;
}

const char *mig_dest_uri(struct mig_dest *d)
{
	bool listening;

	pthread_mutex_lock(&d->lock);
	listening = d->listening;
	pthread_mutex_unlock(&d->lock);
	return listening ? d->name : d->cfg.uri;
}

bool mig_dest_nowhere(struct mig_dest *d)
{
	bool nowhere;

	pthread_mutex_lock(&d->lock);
	nowhere = !d->listening && d->status.state == MIG_FAILED;
	pthread_mutex_unlock(&d->lock);
	return nowhere;
}

void mig_dest_status(struct mig_dest *d, struct mig_status *out)
{
	pthread_mutex_lock(&d->lock);
	*out = d->status;
	pthread_mutex_unlock(&d->lock);
}

static int decide(struct mig_dest *d, const uint64_t *token, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&d->lock);
	if (d->status.state != MIG_UNDECIDED) {
		rc = err_set(e, EINVAL, "no handover is undecided here");
	} else if (token && wire_token_hash(*token) != d->token_hash) {
		rc = err_set(e, EPERM, "this is not the token of the source");
	} else {
		d->decision = true;
		pthread_cond_broadcast(&d->decided);
	}
	pthread_mutex_unlock(&d->lock);
	return rc;
}

int mig_dest_decide(struct mig_dest *d, uint64_t token, struct err *e)
{
	return decide(d, &token, e);
}

int mig_dest_decide_forced(struct mig_dest *d, struct err *e)
{
	return decide(d, NULL, e);
}

void mig_dest_join(struct mig_dest *d)
{
	if (!d->joined)
		(void)pthread_join(d->thread, NULL);
	d->joined = true;
}

void mig_dest_free(struct mig_dest *d)
{
	if (!d)
		return;
	mig_stop_set(&d->stop);
	pthread_mutex_lock(&d->lock);
	d->quit = true;
	pthread_cond_broadcast(&d->decided);
	if (d->chan)
		mig_chan_abort(d->chan);
	if (d->reading)
		mig_readers_abort(&d->readers);
	pthread_mutex_unlock(&d->lock);
	mig_dest_join(d);
	wire_reader_free(&d->reader);
	mig_stop_free(&d->stop);
	(void)pthread_cond_destroy(&d->decided);
	(void)pthread_mutex_destroy(&d->lock);
	free(d);
}
