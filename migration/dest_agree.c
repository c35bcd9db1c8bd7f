/* SPDX-License-Identifier: Apache-2.0 */
/* The beginning of an attempt: hello, welcome, the source's other connections. */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/clock.h"
#include "migration/dest_state.h"

/* What the source says of the guest before any RAM: can it live here? */
static int receive_early(struct mig_dest *d, uint32_t n, struct err *e)
{
	const struct mig_machine *m = &d->cfg.machine;
	struct wire_frame f;

	for (uint32_t i = 0; i < n; i++) {
		int rc = wire_recv(&d->reader, d->chan, &f, e);

		if (!rc && f.type == WIRE_ABORT)
			rc = mig_dest_aborted(d, e);
		if (!rc && f.type != WIRE_SECTION)
			rc = err_set(e, EPROTO, "a %s message where an early section was due",
				     wire_type_name(f.type));
		if (!rc)
			rc = mig_incoming_early(&d->in, &d->reader.meta, e);
		if (rc)
			return rc;
	}
	return m->admit ? m->admit(m->ctx, e) : 0;
}

int mig_dest_hello(struct mig_dest *d, struct wire_welcome *welcome, struct err *e)
{
	struct wire_hello *h = calloc(1, sizeof(*h));
	struct wire_frame f;
	int rc = h ? wire_recv(&d->reader, d->chan, &f, e) : err_set(e, ENOMEM, "out of memory");

	if (!rc && f.type == WIRE_ABORT)
		rc = mig_dest_aborted(d, e); /* cancelled before it had begun */
	if (!rc && f.type != WIRE_HELLO)
		rc = err_set(e, EPROTO, "the stream begins with a %s message",
			     wire_type_name(f.type));
	if (!rc)
		rc = wire_get_hello(&d->reader.meta, h, e);
	if (!rc)
		rc = mig_incoming_check_hello(&d->in, h, e);
	if (!rc)
		rc = receive_early(d, h->n_early, e);
	if (!rc) {
		d->in.zstd = h->features & WIRE_FEATURE_ZSTD;
		d->in.digest = h->features & WIRE_FEATURE_DIGEST;
		*welcome = (struct wire_welcome){.version = WIRE_VERSION,
						 .features = h->features,
						 .n_channels = h->n_channels};
		/* Only now: a stranger must not wipe out what is known of an earlier attempt. */
		pthread_mutex_lock(&d->lock);
		d->token_hash = h->token_hash;
		d->begin_ns = clock_mono_ns();
		d->status = (struct mig_status){.state = d->status.state,
						.page_bytes = MEM_PAGE_BYTES,
						.ram_total_bytes = d->cfg.mem->size_bytes};
		pthread_mutex_unlock(&d->lock);
	}
	free(h);
	return rc;
}

/* The source has ended a connection: did it say why before, on the first? */
static int goodbye(struct mig_dest *d, struct err *e)
{
	struct err none = ERR_INIT;
	struct wire_frame f;

	if (!mig_chan_readable(d->chan))
		return -ECONNRESET;
	if (wire_recv(&d->reader, d->chan, &f, &none) || f.type != WIRE_ABORT)
		return -ECONNRESET;
	err_clear(e);
	return mig_dest_aborted(d, e);
}

int mig_dest_welcome(struct mig_dest *d, struct wire_welcome *m, struct err *e)
{
	struct wbuf meta;
	int rc;

	if (m->n_channels > 1 &&
	    getrandom(&m->session, sizeof(m->session), 0) != sizeof(m->session))
		return err_sys(e, errno, "cannot make up a session's number");
	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	wire_put_welcome(&meta, m);
	rc = wire_send(&d->writer, d->chan, WIRE_WELCOME, &meta, e);
	wbuf_free(&meta);
	return rc;
}

/* The source's other connections, if it wants more than one, come now. */
int mig_dest_gather(struct mig_dest *d, const struct wire_welcome *m, struct err *e)
{
	int rc;

	if (m->n_channels < 2)
		return 0;
	mig_dest_state(d, MIG_ACTIVE, NULL);
	rc = mig_join(&d->readers, d->listen_fd, m->session, m->n_channels, &d->waiting, &d->stop,
		      e);
	if (rc == -ECONNRESET)
		return goodbye(d, e);
	if (!rc)
		rc = mig_readers_start(&d->readers, m->n_channels, e);
	/* All there: the source waits for it. */
	return rc ? rc : mig_dest_send_u64(d, WIRE_PASSED, 0, e);
}
