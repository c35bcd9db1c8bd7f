/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ctl/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * A read is small beside QMP_OUT_MAX, so that the replies to the commands in one do not fill the
 * queue of a client that sends many at once.
 */
#define READ_BYTES 2048
/* With more than this waiting to be sent, no further commands are read. */
#define OUT_ENOUGH (QMP_OUT_MAX / 4)

struct ctl_client {
	struct ctl_client *next;
	struct ctl_server *server;
	struct qmp_conn *conn;
	int fd;
	uint64_t moved_ns; /* when it last took or gave a byte */
	uint32_t watched;  /* what epoll has been asked for */
	bool busy;         /* in its own handler, which will see to it */
	bool deaf;         /* it takes no more; what it said before is still carried out */
};

struct ctl_server {
	struct loop *loop;
	const struct qmp_table *table;
	int listen_fd;
	int spare_fd; /* given up for a moment to refuse a client when descriptors have run out */
	struct ctl_client *clients;
	unsigned n_clients;
};

static void close_client(struct ctl_client *c)
{
	struct ctl_client **at = &c->server->clients;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->server->n_clients--;
	loop_remove(c->server->loop, c->fd);
	(void)close(c->fd);
	qmp_conn_free(c->conn);
	free(c);
}

/* Send what the socket takes. */
static void flush(struct ctl_client *c)
{
	for (;;) {
		size_t len;
		const char *data = qmp_output(c->conn, &len);
		ssize_t n;

		if (!len)
			return;
		n = c->deaf ? (ssize_t)len : send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0) {
			qmp_sent(c->conn, (size_t)n);
			c->moved_ns = clock_mono_ns();
		} else if (errno == EAGAIN)
			return;
		else if (errno != EINTR)
			c->deaf = true;
	}
}

/* After anything happened: send, close what is to be closed, watch what is to be watched. */
static void settle(struct ctl_client *c)
{
	uint32_t want = 0;
	size_t waiting;

	if (qmp_dropped(c->conn)) {
		close_client(c);
		return;
	}
	flush(c);
	(void)qmp_output(c->conn, &waiting);
	if (qmp_closing(c->conn) && !waiting) {
		close_client(c);
		return;
	}
	if (waiting)
		want |= EPOLLOUT;
	if (!qmp_closing(c->conn) && waiting < OUT_ENOUGH)
		want |= EPOLLIN;
	if (want != c->watched && loop_modify(c->server->loop, c->fd, want)) {
		close_client(c);
		return;
	}
	c->watched = want;
}

/* Take one piece of input. False if the connection is broken. */
static bool receive(struct ctl_client *c)
{
	char data[READ_BYTES];
	ssize_t n = recv(c->fd, data, sizeof(data), MSG_DONTWAIT);

	if (n > 0) {
		c->moved_ns = clock_mono_ns();
		qmp_input(c->conn, data, (size_t)n);
	} else if (n == 0) {
		qmp_input_end(c->conn);
	} else {
		return errno == EAGAIN || errno == EINTR;
	}
	return true;
}

static void on_client(void *ctx, uint32_t events)
{
	struct ctl_client *c = ctx;
	bool alive = true;

	c->busy = true;
	if (events & EPOLLIN)
		alive = receive(c);
	else if (events & (EPOLLHUP | EPOLLERR))
		alive = false; /* nobody left to read what waits */
	c->busy = false;
	if (alive)
		settle(c);
	else
		close_client(c);
}

static void add_client(struct ctl_server *s, int fd)
{
	struct ctl_client *c = calloc(1, sizeof(*c));

	if (!c || qmp_conn_new(&c->conn, s->table)) {
		free(c);
		(void)close(fd);
		return;
	}
	c->server = s;
	c->fd = fd;
	c->moved_ns = clock_mono_ns();
	c->watched = EPOLLIN;
	if (loop_add(s->loop, fd, EPOLLIN, on_client, c)) {
		qmp_conn_free(c->conn);
		free(c);
		(void)close(fd);
		return;
	}
	c->next = s->clients;
	s->clients = c;
	s->n_clients++;
	settle(c); /* sends the greeting */
}

static void refuse(int fd)
{
	static const char text[] = "{\"error\": {\"class\": \"GenericError\", \"desc\": "
				   "\"too many clients are connected: try again later\"}}\n";

	(void)!send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)close(fd);
}

/* Without a free descriptor the caller would stay in the queue, and the loop would spin on it. */
static void refuse_without_descriptor(struct ctl_server *s)
{
	int fd;

	if (s->spare_fd < 0)
		return;
	(void)close(s->spare_fd);
	fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		refuse(fd);
	s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* Close the oldest of the clients that seem to have been forgotten. */
static void make_way(struct ctl_server *s)
{
	struct ctl_client *oldest = NULL;
	uint64_t now_ns = clock_mono_ns();

	for (struct ctl_client *c = s->clients; c; c = c->next) {
		bool active = qmp_negotiated(c->conn) && !qmp_closing(c->conn);

		if (now_ns - c->moved_ns >= (active ? CTL_SILENCE_NS : CTL_GRACE_NS))
			oldest = c; /* the list begins with the newest */
	}
	if (oldest)
		close_client(oldest);
}

static void on_listen(void *ctx, uint32_t events)
{
	struct ctl_server *s = ctx;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		refuse_without_descriptor(s);
	if (fd < 0)
		return;
	if (s->n_clients >= CTL_MAX_CLIENTS)
		make_way(s);
	if (s->n_clients >= CTL_MAX_CLIENTS)
		refuse(fd);
	else
		add_client(s, fd);
}

void ctl_server_event(struct ctl_server *s, const char *name, const json_t *data)
{
	struct ctl_client *c, *next;

	for (c = s->clients; c; c = next) {
		next = c->next;
		qmp_event(c->conn, name, data);
		if (!c->busy)
			settle(c);
	}
}

int ctl_server_new(struct ctl_server **out, struct loop *l, int listen_fd,
		   const struct qmp_table *table, struct err *e)
{
	struct ctl_server *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_sys(e, ENOMEM, "cannot set up the control socket");
	s->loop = l;
	s->table = table;
	s->listen_fd = listen_fd;
	s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	rc = s->spare_fd < 0 ? -errno : loop_add(l, listen_fd, EPOLLIN, on_listen, s);
	if (rc) {
		if (s->spare_fd >= 0)
			(void)close(s->spare_fd);
		free(s);
		return err_sys(e, -rc, "cannot set up the control socket");
	}
	*out = s;
	return 0;
}

void ctl_server_free(struct ctl_server *s)
{
	if (!s)
		return;
	while (s->clients) {
		flush(s->clients);
		close_client(s->clients);
	}
	loop_remove(s->loop, s->listen_fd);
	(void)close(s->listen_fd);
	if (s->spare_fd >= 0)
		(void)close(s->spare_fd);
	free(s);
}
