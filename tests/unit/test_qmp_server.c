/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket on a real UNIX socket, with a table of commands made for it. */
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "vmm/ctl/path.h"
#include "vmm/ctl/server.h"

#define HELLO "{\"execute\": \"qmp_capabilities\"}\n"
#define STEPS 200

static unsigned calls;
static char dir[] = "/tmp/ferry-test-XXXXXX";
static struct ctl_socket sock;
static struct loop *loop;
static struct ctl_server *server;
static struct qmp_table table;

static int run_count(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	(void)ctx, (void)args, (void)ret, (void)e;
	calls++;
	return 0;
}

/* A command that makes an event for everybody, its own client included. */
static int run_shout(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	(void)ctx, (void)args, (void)ret, (void)e;
	for (int i = 0; i < 5000; i++)
		ctl_server_event(server, "SHOUT", NULL);
	return 0;
}

static const struct qmp_command commands[] = {
	{.name = "count", .run = run_count},
	{.name = "shout", .run = run_shout},
};

static void setup(void)
{
	char path[CTL_PATH_BYTES];
	struct err e = ERR_INIT;

	calls = 0;
	strcpy(dir, "/tmp/ferry-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	ck_assert_msg(!ctl_listen(&sock, path, "vm", &e), "%s", e.msg);
	ck_assert_int_eq(loop_new(&loop), 0);
	table = (struct qmp_table){commands, 2, NULL};
	ck_assert_int_eq(ctl_server_new(&server, loop, sock.fd, &table, &e), 0);
}

static void teardown(void)
{
	ctl_server_free(server);
	loop_free(loop);
	ctl_unlink(&sock);
	ck_assert_int_eq(rmdir(dir), 0);
}

static int dial(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, sock.path);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

static void steps(int n)
{
	while (n--)
		ck_assert_int_eq(loop_step(loop, 0), 0);
}

static void say(int fd, const char *text)
{
	ck_assert_int_eq((int)send(fd, text, strlen(text), MSG_NOSIGNAL), (int)strlen(text));
}

/* Let the server work and read all there is. Returns the bytes, -1 once the end has been seen. */
static long hear(int fd, char *buf, size_t room)
{
	size_t len = 0;

	for (int i = 0; i < STEPS; i++) {
		ssize_t n;

		steps(1);
		n = recv(fd, buf + len, room - 1 - len, 0);
		if (n == 0 || (n < 0 && errno == ECONNRESET)) {
			buf[len] = '\0';
			return len ? (long)len : -1;
		}
		if (n > 0)
			len += (size_t)n;
	}
	buf[len] = '\0';
	return (long)len;
}

static unsigned count_of(const char *text, const char *what)
{
	unsigned n = 0;

	for (const char *p = text; (p = strstr(p, what)); p++)
		n++;
	return n;
}

START_TEST(talks)
{
	char buf[4096];
	struct stat st;
	int fd = dial();

	ck_assert_int_eq(stat(sock.path, &st), 0);
	ck_assert_int_eq(st.st_mode & 0777, 0600);
	ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
	ck_assert_ptr_nonnull(strstr(buf, "\"QMP\""));
	say(fd, HELLO "{\"execute\": \"count\"}\n{\"execute\": \"count\"}\n{\"exec");
	ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
	ck_assert_uint_eq(count_of(buf, "\"return\""), 3);
	say(fd, "ute\": \"count\"}\n");
	ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
	ck_assert_uint_eq(calls, 3);
	(void)close(fd);
	steps(5);
}
END_TEST

START_TEST(half_close)
{
	char buf[4096];
	int fd = dial();

	say(fd, HELLO "{\"execute\": \"count\"}\n{\"execute\": \"count\"}");
	(void)shutdown(fd, SHUT_WR);
	ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
	ck_assert_uint_eq(count_of(buf, "\"return\""), 3);
	ck_assert_int_eq(hear(fd, buf, sizeof(buf)), -1);
	(void)close(fd);
}
END_TEST

/* Commands of a client that is gone when they are read are carried out. */
START_TEST(gone_at_once)
{
	int fd = dial();

	say(fd, HELLO "{\"execute\": \"count\"}\n");
	(void)close(fd);
	steps(10);
	ck_assert_uint_eq(calls, 1);
}
END_TEST

START_TEST(too_many)
{
	int fds[CTL_MAX_CLIENTS], fd;
	char buf[4096];

	for (int i = 0; i < CTL_MAX_CLIENTS; i++) {
		fds[i] = dial();
		steps(3);
	}
	fd = dial();
	ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
	ck_assert_ptr_nonnull(strstr(buf, "too many clients"));
	(void)close(fd);
	(void)close(fds[3]);
	steps(3);
	fds[3] = dial();
	ck_assert_int_gt(hear(fds[3], buf, sizeof(buf)), 0);
	ck_assert_ptr_nonnull(strstr(buf, "QMP"));
	for (int i = 0; i < CTL_MAX_CLIENTS; i++)
		(void)close(fds[i]);
}
END_TEST

/* The server's view of a moment that passes. */
static void pass_ns(uint64_t ns)
{
	(void)usleep((unsigned)(ns / 1000) + 10000);
}

/* Clients that have never said a word do not lock out those that have something to say. */
START_TEST(forgotten_make_way)
{
	int fds[CTL_MAX_CLIENTS], fd;
	char buf[4096];

	for (int i = 0; i < CTL_MAX_CLIENTS; i++) {
		fds[i] = dial();
		steps(3);
	}
	say(fds[0], HELLO); /* the oldest, but it has negotiated */
	steps(3);
	pass_ns(CTL_GRACE_NS);
	for (int i = 1; i <= 3; i++) {
		fd = dial();
		say(fd, HELLO "{\"execute\": \"count\"}\n");
		ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
		ck_assert_uint_eq(count_of(buf, "\"return\""), 2);
		(void)hear(fds[i], buf, sizeof(buf)); /* the greeting */
		ck_assert_int_eq(hear(fds[i], buf, sizeof(buf)), -1);
		(void)close(fds[i]);
		fds[i] = fd;
	}
	for (int i = 0; i < CTL_MAX_CLIENTS; i++)
		(void)close(fds[i]);
}
END_TEST

/* A client that takes nothing is dropped when its queue is full; the others do not notice. */
START_TEST(slow_client)
{
	char buf[4096];
	int slow = dial(), good = dial(), n;
	unsigned seen = 0;

	say(slow, HELLO);
	say(good, HELLO);
	ck_assert_int_gt(hear(good, buf, sizeof(buf)), 0);
	for (n = 0; n < 40000; n++) {
		struct pollfd p = {.fd = slow, .events = 0};

		ctl_server_event(server, "TICK", NULL);
		ck_assert_int_gt((int)recv(good, buf, sizeof(buf), 0), 0);
		seen++;
		if (poll(&p, 1, 0) > 0 && (p.revents & POLLHUP))
			break;
	}
	ck_assert_int_lt(n, 40000);
	ck_assert_uint_gt(seen, 1000);
	(void)close(slow);
	(void)close(good);
}
END_TEST

/* One that sends commands and reads no replies is not read from, and is not dropped either. */
START_TEST(lazy_reader)
{
	static const char line[] = "{\"execute\": \"query-commands\"}\n";
	int fd = dial(), sent = 0, replies = 0;
	char buf[65536];

	say(fd, HELLO);
	for (int i = 0; i < 20000 && sent < 20000; i++) {
		if (send(fd, line, sizeof(line) - 1, MSG_NOSIGNAL) == sizeof(line) - 1)
			sent++;
		else
			break;
		steps(2);
	}
	ck_assert_int_gt(sent, 1000);
	for (int i = 0; i < 100000 && replies < sent; i++) {
		ssize_t n = recv(fd, buf, sizeof(buf) - 1, 0);

		ck_assert_int_ne((int)n, 0);
		if (n > 0) {
			for (ssize_t k = 0; k < n; k++)
				replies += buf[k] == '\n';
		}
		steps(1);
	}
	ck_assert_int_ge(replies, sent);
	(void)close(fd);
}
END_TEST

/* The client whose command makes the events is dropped as well, but not while it is being served.
 */
START_TEST(dropped_in_command)
{
	int fd = dial(), other = dial();
	char buf[1024];

	say(other, HELLO);
	say(fd, HELLO "{\"execute\": \"shout\"}\n{\"execute\": \"count\"}\n");
	steps(20);
	ck_assert_uint_eq(calls, 0);
	while (recv(fd, buf, sizeof(buf), 0) > 0)
		;
	ck_assert_int_eq((int)recv(fd, buf, sizeof(buf), 0), 0);
	(void)close(fd);
	(void)close(other);
}
END_TEST

START_TEST(oversized_line)
{
	char *line = malloc(QMP_LINE_MAX + 10), buf[4096];
	int fd = dial();

	memset(line, 'x', QMP_LINE_MAX + 10);
	say(fd, HELLO);
	for (size_t at = 0; at < QMP_LINE_MAX + 10;) {
		ssize_t n = send(fd, line + at, QMP_LINE_MAX + 10 - at, MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			break;
		if (n > 0)
			at += (size_t)n;
		steps(5);
	}
	ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
	ck_assert_ptr_nonnull(strstr(buf, "64 KiB"));
	ck_assert_int_eq(hear(fd, buf, sizeof(buf)), -1);
	(void)close(fd);
	free(line);
}
END_TEST

/* Without descriptors the loop does not spin on a client that cannot be taken. */
START_TEST(no_descriptors)
{
	struct rlimit old, few;
	char buf[1024];
	int fd = dial(), probe = dup(0);

	(void)close(probe);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = (rlim_t)probe;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
	ck_assert_ptr_nonnull(strstr(buf, "too many clients"));
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
	(void)close(fd);
	fd = dial();
	ck_assert_int_gt(hear(fd, buf, sizeof(buf)), 0);
	ck_assert_ptr_nonnull(strstr(buf, "QMP"));
	(void)close(fd);
}
END_TEST

SUITE_WITH("qmp server", setup, teardown, talks, half_close, gone_at_once, too_many,
	   forgotten_make_way, slow_client, lazy_reader, dropped_in_command, oversized_line,
	   no_descriptors)
