/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes come back: every connection to a TCP port, and terminals like /dev/hvc0, have a thread that
 * owns the descriptor and copies what it reads to where it came from.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "agent.h"

static void *copy(void *arg)
{
	int fd = (int)(intptr_t)arg;
	uint8_t data[4096];
	ssize_t n;

	while ((n = read(fd, data, sizeof(data))) > 0) {
		for (ssize_t at = 0, out; at < n; at += out) {
			out = write(fd, data + at, (size_t)(n - at));
			if (out <= 0) {
				(void)close(fd);
				return NULL;
			}
		}
	}
	(void)close(fd);
	return NULL;
}

static void *accept_all(void *arg)
{
	int listener = (int)(intptr_t)arg, fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0 || errno == EINTR) {
		if (fd >= 0 && !spawn(copy, (void *)(intptr_t)fd))
			(void)close(fd);
	}
	(void)close(listener);
	return NULL;
}

static int listen_on(uint16_t tcp_port)
{
	const struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(tcp_port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (const void *)&any, sizeof(any)) || listen(fd, 8)) {
		(void)close(fd);
		return -1;
	}
	return fd;
}

static int open_terminal(const char *path)
{
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios t;

	if (fd >= 0 && !tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		(void)tcsetattr(fd, TCSANOW, &t);
	}
	return fd;
}

void do_echo(const struct words *c)
{
	int64_t tcp_port = number(c->w[1], 65535);
	bool tcp = tcp_port > 0;
	int fd = tcp ? listen_on((uint16_t)tcp_port) : open_terminal(c->w[1]);

	if (fd < 0) {
		say_failed(c, "%s: %s", c->w[1], strerror(errno));
		return;
	}
	if (!spawn(tcp ? accept_all : copy, (void *)(intptr_t)fd)) {
		(void)close(fd);
		say_failed(c, "no thread");
		return;
	}
	say_ok(c, "at=%s", c->w[1]);
}
