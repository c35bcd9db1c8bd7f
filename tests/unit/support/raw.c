/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/raw.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/crc32c.h"

int raw_listen(char uri[64])
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, len) || listen(fd, 8) ||
	    getsockname(fd, (struct sockaddr *)&sa, &len))
		abort();
	(void)snprintf(uri, 64, "tcp:127.0.0.1:%u", ntohs(sa.sin_port));
	return fd;
}

int raw_connect(const char *uri)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	bool is_unix = !strncmp(uri, "unix:", 5);
	struct timeval patience = {.tv_sec = 10};
	int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc;

	if (is_unix) {
		(void)snprintf(un.sun_path, sizeof(un.sun_path), "%s", uri + 5);
		rc = connect(fd, (struct sockaddr *)&un, sizeof(un));
	} else {
		in.sin_port = htons((uint16_t)atoi(strrchr(uri, ':') + 1));
		rc = connect(fd, (struct sockaddr *)&in, sizeof(in));
	}
	if (rc) {
		(void)close(fd);
		return -1;
	}
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	return fd;
}

void raw_send(int fd, const void *data, size_t len)
{
	const uint8_t *at = data;

	while (len) {
		ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		at += n;
		len -= (size_t)n;
	}
}

size_t raw_recv(int fd, void *data, size_t room)
{
	size_t got = 0;

	while (got < room) {
		ssize_t n = recv(fd, (uint8_t *)data + got, room - got, 0);

		if (n <= 0)
			break;
		got += (size_t)n;
	}
	return got;
}

bool raw_ended(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char dropped[4096];

	while (poll(&p, 1, timeout_ms) > 0) {
		if (recv(fd, dropped, sizeof(dropped), MSG_DONTWAIT) <= 0)
			return true;
	}
	return false;
}

static void *server(void *arg)
{
	struct raw_server *s = arg;
	uint8_t buf[4096];
	size_t got = 0;
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return NULL;
	while (got < s->read_bytes) {
		size_t want = s->read_bytes - got;
		size_t n = raw_recv(fd, buf, want < sizeof(buf) ? want : sizeof(buf));

		if (!n)
			break;
		got += n;
	}
	raw_send(fd, s->answer, s->answer_bytes);
	while (!s->close_at_once && raw_recv(fd, buf, sizeof(buf)))
		;
	(void)close(fd);
	return NULL;
}

void raw_serve(struct raw_server *s)
{
	s->listen_fd = raw_listen(s->uri);
	if (pthread_create(&s->thread, NULL, server, s))
		abort();
}

void raw_server_end(struct raw_server *s)
{
	(void)shutdown(s->listen_fd, SHUT_RDWR);
	(void)pthread_join(s->thread, NULL);
	(void)close(s->listen_fd);
}

unsigned raw_frames(const uint8_t *data, size_t len, struct raw_frame *frames, unsigned max)
{
	struct wire_reader r = {0};
	struct err e = ERR_INIT;
	uint32_t crc;
	unsigned n = 0;

	for (size_t at = 0; n < max && len - at >= WIRE_HEADER_BYTES;) {
		struct wire_frame *f = &frames[n].f;

		if (wire_parse_header(&r, data + at, f, &crc, &e))
			break;
		if (len - at - WIRE_HEADER_BYTES < f->meta_bytes + f->data_bytes)
			break;
		frames[n++].at = at;
		at += WIRE_HEADER_BYTES + f->meta_bytes + f->data_bytes;
	}
	return n;
}

bool raw_in_page(const struct raw_frame *frames, unsigned n, size_t at)
{
	for (unsigned i = 0; i < n; i++) {
		size_t begin = frames[i].at + WIRE_HEADER_BYTES + frames[i].f.meta_bytes;

		if (at >= begin && at < begin + frames[i].f.data_bytes)
			return true;
	}
	return false;
}

void raw_put_header(struct wbuf *w, const struct raw_header *h)
{
	size_t at = w->len;

	put_u32(w, h->magic);
	put_u16(w, h->type);
	put_u16(w, h->flags);
	put_u32(w, h->seq);
	put_u32(w, h->meta_bytes);
	put_u32(w, h->data_bytes);
	put_u32(w, h->meta_crc);
	put_u32(w, w->error ? 0 : crc32c(w->data + at, WIRE_HEADER_BYTES - 4));
}

void raw_put_frame(struct wbuf *w, uint32_t *seq, uint16_t type, const struct wbuf *meta,
		   const void *data, uint32_t data_bytes)
{
	static const uint8_t nothing;
	struct raw_header h = {.magic = WIRE_MAGIC,
			       .type = type,
			       .flags = WIRE_MANDATORY,
			       .seq = (*seq)++,
			       .meta_bytes = meta ? (uint32_t)meta->len : 0,
			       .data_bytes = data_bytes};

	h.meta_crc = crc32c(h.meta_bytes ? meta->data : &nothing, h.meta_bytes);
	raw_put_header(w, &h);
	if (h.meta_bytes)
		put_bytes(w, meta->data, meta->len);
	put_bytes(w, data, data_bytes);
}
