/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/uri.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "migration/lookup.h"

#define LISTEN_BACKLOG    32 /* the connections of one migration come all at once */
#define LISTEN_LOOKUP_NS  (5 * NS_PER_SEC)
#define PEER_DEAD_MS      5000u /* unacknowledged data for so long: the peer is gone */
#define KEEPALIVE_IDLE_S  2
#define KEEPALIVE_EVERY_S 1

static int copy_text(char *to, size_t room, const char *from, size_t len)
{
	if (len >= room)
		return -EINVAL;
	memcpy(to, from, len);
	to[len] = '\0';
	return 0;
}

static int parse_tcp(const char *rest, const char *text, struct mig_uri *out, struct err *e)
{
	const char *colon = strrchr(rest, ':');
	const char *host = rest, *host_end = colon;
	char *end;
	unsigned long port;

	if (!colon) {
		colon = rest - 1;
		host_end = rest;
	}
	if (host_end > host && *host == '[' && host_end[-1] == ']') {
		host++;
		host_end--;
	}
	errno = 0;
	port = strtoul(colon + 1, &end, 10);
	if (colon[1] < '0' || colon[1] > '9' || *end || errno || port > 65535)
		return err_set(e, EINVAL, "'%.200s': the port must be a number from 0 to 65535",
			       text);
	if (copy_text(out->host, sizeof(out->host), host, (size_t)(host_end - host)))
		return err_set(e, EINVAL, "'%.60s...': the host name is too long", text);
	(void)snprintf(out->port, sizeof(out->port), "%lu", port);
	out->kind = MIG_URI_TCP;
	return 0;
}

int mig_uri_parse(const char *text, struct mig_uri *out, struct err *e)
{
	memset(out, 0, sizeof(*out));
	if (!strncmp(text, "tcp:", 4))
		return parse_tcp(text + 4, text, out, e);
	if (!strncmp(text, "unix:", 5)) {
		out->kind = MIG_URI_UNIX;
		if (!text[5] || copy_text(out->path, sizeof(out->path), text + 5, strlen(text + 5)))
			return err_set(e, EINVAL, "'%.200s': the path must have 1 to %zu bytes",
				       text, sizeof(out->path) - 1);
		return 0;
	}
	return err_set(e, EINVAL,
		       "'%.200s' is no migration address: use tcp:HOST:PORT or unix:PATH", text);
}

void mig_socket_tune(int fd)
{
	int on = 1, idle = KEEPALIVE_IDLE_S, every = KEEPALIVE_EVERY_S;
	unsigned dead_ms = PEER_DEAD_MS;

	/* On a UNIX socket these fail, and nothing is lost by it. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
}

/* One address: 0 and *fd, or -errno. */
static int connect_one(const struct sockaddr *sa, socklen_t len, struct mig_stop *stop,
		       uint64_t timeout_ns, int *fd)
{
	int s = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc, so_error = 0;
	socklen_t so_len = sizeof(so_error);

	if (s < 0)
		return -errno;
	rc = connect(s, sa, len) ? -errno : 0;
	if (rc == -EINPROGRESS) {
		rc = mig_stop_wait(stop, s, POLLOUT, timeout_ns);
		if (!rc && !getsockopt(s, SOL_SOCKET, SO_ERROR, &so_error, &so_len))
			rc = -so_error;
	}
	if (rc) {
		(void)close(s);
		return rc;
	}
	*fd = s;
	return 0;
}

static const char *host_of(const struct mig_uri *u)
{
	return u->host[0] ? u->host : "127.0.0.1";
}

static struct sockaddr_un unix_address(const struct mig_uri *u)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};

	memcpy(sa.sun_path, u->path, sizeof(sa.sun_path));
	return sa;
}

static int no_connection(int rc, const struct mig_uri *u, struct err *e)
{
	if (rc == -ECANCELED)
		return err_set(e, ECANCELED, "cancelled");
	if (u->kind == MIG_URI_UNIX)
		return err_sys(e, -rc, "cannot connect to %s", u->path);
	return err_sys(e, -rc, "cannot connect to %s:%s", host_of(u), u->port);
}

int mig_uri_connect(const struct mig_uri *u, struct mig_stop *stop, uint64_t timeout_ns, int *fd,
		    struct err *e)
{
	struct sockaddr_un sun = unix_address(u);
	struct addrinfo *list = NULL;
	int rc;

	if (u->kind == MIG_URI_UNIX) {
		rc = connect_one((struct sockaddr *)&sun, sizeof(sun), stop, timeout_ns, fd);
		return rc ? no_connection(rc, u, e) : 0;
	}
	rc = mig_lookup(host_of(u), u->port, 0, stop, timeout_ns, &list, e);
	if (rc)
		return rc;
	rc = -EHOSTUNREACH;
	for (struct addrinfo *a = list; a && rc && rc != -ECANCELED; a = a->ai_next)
		rc = connect_one(a->ai_addr, a->ai_addrlen, stop, timeout_ns, fd);
	freeaddrinfo(list);
	if (rc)
		return no_connection(rc, u, e);
	mig_socket_tune(*fd);
	return 0;
}

/* Does anybody answer at this UNIX socket? */
static bool unix_alive(const struct sockaddr_un *sun)
{
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool alive;

	if (s < 0)
		return true; /* cannot tell: be careful */
	alive = !connect(s, (const struct sockaddr *)sun, sizeof(*sun)) || errno == EAGAIN;
	(void)close(s);
	return alive;
}

static int listen_unix(const struct mig_uri *u, int *fd, struct err *e)
{
	struct sockaddr_un sun = unix_address(u);
	struct stat st;
	int s;

	if (!lstat(u->path, &st) && S_ISSOCK(st.st_mode)) {
		if (unix_alive(&sun))
			return err_set(e, EADDRINUSE, "cannot listen at %s: it is in use", u->path);
		(void)unlink(u->path);
	}
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0)
		return err_sys(e, errno, "cannot listen at %s", u->path);
	/* Mode before bind(): the path never exists with a wider one. */
	if (fchmod(s, 0600) || bind(s, (struct sockaddr *)&sun, sizeof(sun)) ||
	    listen(s, LISTEN_BACKLOG)) {
		int rc = err_sys(e, errno, "cannot listen at %s", u->path);

		(void)close(s);
		return rc;
	}
	*fd = s;
	return 0;
}

bool mig_uri_has_name(const struct mig_uri *u)
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST};
	struct addrinfo *list = NULL;

	if (u->kind != MIG_URI_TCP)
		return false;
	if (getaddrinfo(host_of(u), NULL, &hints, &list))
		return true;
	freeaddrinfo(list);
	return false;
}

static int listen_tcp(const struct mig_uri *u, struct mig_stop *stop, int *fd, struct err *e)
{
	struct addrinfo *list = NULL;
	int on = 1, s, rc;

	rc = mig_lookup(host_of(u), u->port, AI_PASSIVE, stop, LISTEN_LOOKUP_NS, &list, e);
	if (rc)
		return rc;
	s = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    bind(s, list->ai_addr, list->ai_addrlen) || listen(s, LISTEN_BACKLOG)) {
		rc = err_sys(e, errno, "cannot listen at %s:%s", host_of(u), u->port);
		if (s >= 0)
			(void)close(s);
	} else {
		*fd = s;
	}
	freeaddrinfo(list);
	return rc;
}

int mig_uri_listen(const struct mig_uri *u, struct mig_stop *stop, int *fd,
		   char name[MIG_URI_BYTES], struct err *e)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	char host[NI_MAXHOST], port[NI_MAXSERV];
	int rc;

	if (u->kind == MIG_URI_UNIX) {
		(void)snprintf(name, MIG_URI_BYTES, "unix:%s", u->path);
		return listen_unix(u, fd, e);
	}
	rc = listen_tcp(u, stop, fd, e);
	if (rc)
		return rc;
	if (getsockname(*fd, (struct sockaddr *)&sa, &len) ||
	    getnameinfo((struct sockaddr *)&sa, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV)) {
		(void)close(*fd);
		return err_set(e, EIO, "cannot tell the address that is listened at");
	}
	(void)snprintf(name, MIG_URI_BYTES, strchr(host, ':') ? "tcp:[%.250s]:%s" : "tcp:%.250s:%s",
		       host, port);
	return 0;
}
