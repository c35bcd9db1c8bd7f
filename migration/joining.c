/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/joining.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "migration/uri.h"

#define JOIN_TIMEOUT_NS (5 * NS_PER_SEC)
#define FAREWELL_NS     NS_PER_SEC       /* to read why it was sent away */
#define PEEK_NS         (10 * NS_PER_MS) /* when half a frame is looked at again */
#define GUESTS_MAX      MIG_WAITING_MAX

/* Somebody at the door. */
struct guest {
	int fd;
	bool sent_away;    /* what it still says is dropped, ... */
	uint64_t until_ns; /* ... until then */
	bool begun;        /* it has not sent a whole frame yet */
	bool is_source;    /* it waits for the next attempt */
};

struct door {
	struct mig_readers *readers;
	uint64_t session;
	unsigned n, joined;
	unsigned n_guests;
	struct guest guests[GUESTS_MAX]; /* oldest first */
};

static void remove_guest(struct door *d, unsigned i)
{
	d->n_guests--;
	memmove(&d->guests[i], &d->guests[i + 1], (d->n_guests - i) * sizeof(d->guests[0]));
}

static void drop_guest(struct door *d, unsigned i)
{
	(void)close(d->guests[i].fd);
	remove_guest(d, i);
}

/* Say why, and let it read that before the connection is closed. */
static void send_away(struct guest *g, const struct err *why)
{
	struct wire_writer w = {0};
	struct wbuf meta, out;

	wbuf_init(&meta, ORDER_LITTLE, WIRE_META_MAX);
	wbuf_init(&out, ORDER_LITTLE, WIRE_META_MAX);
	wire_put_text(&meta, why->msg);
	wire_header(&w, WIRE_FAIL, &meta, 0);
	put_bytes(&out, w.header, WIRE_HEADER_BYTES);
	put_bytes(&out, meta.data, meta.len);
	if (!wbuf_error(&out))
		(void)!send(g->fd, out.data, out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	(void)shutdown(g->fd, SHUT_WR);
	wbuf_free(&meta);
	wbuf_free(&out);
	g->sent_away = true;
	g->until_ns = clock_mono_ns() + FAREWELL_NS;
}

/* Its frame is complete: is it one of ours? */
static int check_guest(const struct door *d, const uint8_t *frame, struct wire_reader *r,
		       struct wire_channel *m, struct err *e)
{
	int rc = wire_parse_channel(r, frame, m, e);

	if (rc)
		err_prefix(e, "another guest is arriving here");
	if (!rc && m->session != d->session)
		rc = err_set(e, EPERM, "another guest is arriving here");
	if (!rc && (!m->index || m->index >= d->n))
		rc = err_set(e, EPROTO, "there is no connection %u", m->index);
	if (!rc && d->readers->list[m->index].chan)
		rc = err_set(e, EPROTO, "connection %u is there already", m->index);
	return rc;
}

/* Does it begin as another source does? */
static bool is_source(const uint8_t *frame)
{
	struct wire_reader r = {0};
	struct err none = ERR_INIT;
	struct wire_frame f;
	uint32_t crc;

	return !wire_parse_header(&r, frame, &f, &crc, &none) && f.type == WIRE_HELLO;
}

/* It has sent as much as a CHANNEL frame has. */
static void look_at_guest(struct door *d, unsigned i, uint8_t *frame)
{
	struct guest *g = &d->guests[i];
	struct wire_reader r = {0};
	struct wire_channel m;
	struct err e = ERR_INIT;
	struct mig_chan *chan;

	g->begun = false;
	g->is_source = is_source(frame);
	if (g->is_source)
		return;
	if (check_guest(d, frame, &r, &m, &e)) {
		send_away(g, &e);
		return;
	}
	/* Not a byte more: what follows is the reader's. */
	(void)!recv(g->fd, frame, WIRE_CHANNEL_BYTES, MSG_DONTWAIT);
	if (!mig_chan_open(&chan, g->fd, "the source", 0, &e)) {
		mig_chan_had_received(chan, WIRE_CHANNEL_BYTES);
		mig_readers_add(d->readers, m.index, chan, &r);
		d->joined++;
	} else {
		log_warn("a connection of the source's cannot be served: %s", e.msg);
	}
	remove_guest(d, i); /* its socket is the channel's, or closed */
}

/* Something to read, or the end. */
static void hear_guest(struct door *d, unsigned i)
{
	struct guest *g = &d->guests[i];
	uint8_t bytes[4096];
	ssize_t n;

	if (g->sent_away)
		n = recv(g->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	else
		n = recv(g->fd, bytes, WIRE_CHANNEL_BYTES, MSG_DONTWAIT | MSG_PEEK);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		drop_guest(d, i);
	else if (n == WIRE_CHANNEL_BYTES && !g->sent_away)
		look_at_guest(d, i, bytes);
	else
		g->begun = !g->sent_away;
}

static void let_in(struct door *d, int listen_fd, struct mig_stop *stop)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0) {
		/* Out of descriptors, perhaps: it stays readable, so do not spin. */
		(void)mig_stop_wait(stop, -1, 0, 100 * NS_PER_MS);
		return;
	}
	mig_socket_tune(fd);
	if (d->n_guests == GUESTS_MAX)
		drop_guest(d, 0);
	d->guests[d->n_guests++] = (struct guest){.fd = fd};
}

/* Whose time is over leaves; half a frame is looked at again. Returns when to do so next. */
static uint64_t look_at_clock(struct door *d, uint64_t end_ns)
{
	uint64_t now = clock_mono_ns(), next = end_ns;

	for (unsigned i = d->n_guests; i-- > 0;) {
		struct guest *g = &d->guests[i];
		uint64_t at = g->begun ? now + PEEK_NS : g->until_ns;

		if (g->sent_away && at <= now) {
			drop_guest(d, i);
			continue;
		}
		if (at && at < next)
			next = at;
		if (g->begun)
			hear_guest(d, i);
	}
	return next;
}

/* Watch the connections that are there. Returns how many. */
static unsigned watch_joined(const struct door *d, struct pollfd *p)
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->n; i++) {
		if (d->readers->list[i].chan)
			p[n++] = (struct pollfd){.fd = mig_chan_fd(d->readers->list[i].chan),
						 .events = POLLRDHUP};
	}
	return n;
}

static int lost(const struct pollfd *p, unsigned n, struct err *e)
{
	for (unsigned i = 0; i < n; i++) {
		if (p[i].revents)
			return err_set(e, ECONNRESET, "the source closed %s",
				       i ? "one of its connections" : "the connection");
	}
	return 0;
}

/* One wait, and what came of it. */
static int step(struct door *d, int listen_fd, struct mig_stop *stop, uint64_t end_ns,
		struct err *e)
{
	struct pollfd p[2 + GUESTS_MAX + WIRE_CHANNELS_MAX] = {{.fd = stop->fd, .events = POLLIN},
							       {.fd = listen_fd, .events = POLLIN}};
	uint64_t next = look_at_clock(d, end_ns), now = clock_mono_ns();
	uint64_t wait = next > now ? next - now : 0;
	struct timespec ts = {.tv_sec = (time_t)(wait / NS_PER_SEC),
			      .tv_nsec = (long)(wait % NS_PER_SEC)};
	unsigned n = d->n_guests, joined;

	if (now >= end_ns)
		return err_set(e, ETIMEDOUT,
			       "%u of the source's %u connections have come within %llu s",
			       d->joined + 1, d->n, JOIN_TIMEOUT_NS / NS_PER_SEC);
	for (unsigned i = 0; i < n; i++) {
		const struct guest *g = &d->guests[i];

		/* What is known to be there already would end every wait at once. */
		p[2 + i] = (struct pollfd){.fd = g->fd,
					   .events = g->begun || g->is_source ? 0 : POLLIN};
	}
	joined = watch_joined(d, p + 2 + n);
	if (ppoll(p, 2 + n + joined, &ts, NULL) < 0)
		return errno == EINTR ? 0 : err_sys(e, errno, "waiting for connections");
	if (mig_stop_is_set(stop))
		return err_set(e, ECANCELED, "cancelled");
	for (unsigned i = n; i-- > 0;) { /* from the end: one that leaves moves those behind it */
		if (p[2 + i].revents)
			hear_guest(d, i);
	}
	if (p[1].revents)
		let_in(d, listen_fd, stop);
	return lost(p + 2 + n, joined, e);
}

int mig_waiting_next(struct mig_waiting *w)
{
	int fd = w->fd[0];

	if (!w->n)
		return -1;
	w->n--;
	memmove(&w->fd[0], &w->fd[1], w->n * sizeof(w->fd[0]));
	return fd;
}

/* Those who have not been sent away come next. */
static void let_wait(struct door *d, struct mig_waiting *w)
{
	while (d->n_guests) {
		if (d->guests[0].sent_away || w->n == MIG_WAITING_MAX) {
			drop_guest(d, 0);
			continue;
		}
		w->fd[w->n++] = d->guests[0].fd;
		remove_guest(d, 0);
	}
}

int mig_join(struct mig_readers *readers, int listen_fd, uint64_t session, unsigned n,
	     struct mig_waiting *waiting, struct mig_stop *stop, struct err *e)
{
	uint64_t end_ns = clock_mono_ns() + JOIN_TIMEOUT_NS;
	struct door d = {.readers = readers, .session = session, .n = n};
	int rc = 0;

	while (!rc && d.joined + 1 < n)
		rc = step(&d, listen_fd, stop, end_ns, e);
	let_wait(&d, waiting);
	return rc;
}
