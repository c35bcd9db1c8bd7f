/* SPDX-License-Identifier: Apache-2.0 */
/* Migration addresses: parsing, listening, connecting. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "migration/uri.h"
#include "tests/support/suite.h"
#include "tests/unit/support/raw.h"

static void good_tcp(const char *text, const char *host, const char *port)
{
	struct err e = ERR_INIT;
	struct mig_uri u;

	ck_assert_msg(!mig_uri_parse(text, &u, &e), "%s: %s", text, e.msg);
	ck_assert_int_eq(u.kind, MIG_URI_TCP);
	ck_assert_str_eq(u.host, host);
	ck_assert_str_eq(u.port, port);
}

static void bad(const char *text, const char *words)
{
	struct err e = ERR_INIT;
	struct mig_uri u;

	ck_assert_msg(mig_uri_parse(text, &u, &e) == -EINVAL, "%s is accepted", text);
	ck_assert_msg(strstr(e.msg, words) != NULL, "'%s' is not in '%s'", words, e.msg);
}

START_TEST(parse)
{
	char lengthy[3000];
	struct err e = ERR_INIT;
	struct mig_uri u;

	good_tcp("tcp:localhost:4444", "localhost", "4444");
	good_tcp("tcp:10.0.0.2:0", "10.0.0.2", "0");
	good_tcp("tcp:[::1]:65535", "::1", "65535");
	good_tcp("tcp:[fe80::1%eth0]:1", "fe80::1%eth0", "1");
	good_tcp("tcp:4444", "", "4444");
	good_tcp("tcp::4444", "", "4444");
	good_tcp("tcp:host:00080", "host", "80");
	bad("", "is no migration address: use tcp:HOST:PORT or unix:PATH");
	bad("tcp", "is no migration address");
	bad("rdma:host:1", "is no migration address");
	bad("host:4444", "is no migration address");
	bad("tcp:", "port must be a number");
	bad("tcp:host", "port must be a number");
	bad("tcp:host:", "port must be a number");
	bad("tcp:host:65536", "port must be a number");
	bad("tcp:host:-1", "port must be a number");
	bad("tcp:host:+1", "port must be a number");
	bad("tcp:host: 1", "port must be a number");
	bad("tcp:host:1x", "port must be a number");
	bad("tcp:host:99999999999999999999999", "port must be a number");
	bad("tcp:[::1]", "port must be a number");
	bad("unix:", "the path must have 1 to 107 bytes");
	memset(lengthy, 'a', sizeof(lengthy));
	memcpy(lengthy, "unix:/", 6);
	lengthy[5 + 108] = '\0';
	bad(lengthy, "the path must have 1 to 107 bytes");
	lengthy[5 + 107] = '\0';
	ck_assert_int_eq(mig_uri_parse(lengthy, &u, &e), 0);
	ck_assert_int_eq(u.kind, MIG_URI_UNIX);
	ck_assert_uint_eq(strlen(u.path), 107);
	memset(lengthy, 'a', sizeof(lengthy));
	memcpy(lengthy, "tcp:", 4);
	memcpy(lengthy + sizeof(lengthy) - 5, ":123", 5);
	bad(lengthy, "the host name is too long");
	bad(lengthy + 4, "is no migration address");
}
END_TEST

/* Listen, connect to the name that came back, and say something. */
static void round_trip(const char *text)
{
	struct err e = ERR_INIT;
	char name[MIG_URI_BYTES], byte = 0;
	int lfd, cfd, afd;
	struct mig_stop stop;
	struct mig_uri u;

	ck_assert_int_eq(mig_stop_init(&stop), 0);
	ck_assert_int_eq(mig_uri_parse(text, &u, &e), 0);
	ck_assert_msg(!mig_uri_listen(&u, NULL, &lfd, name, &e), "%s", e.msg);
	ck_assert(fcntl(lfd, F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(lfd, F_GETFD) & FD_CLOEXEC);
	ck_assert_int_eq(mig_uri_parse(name, &u, &e), 0);
	ck_assert_msg(!mig_uri_connect(&u, &stop, NS_PER_SEC, &cfd, &e), "%s: %s", name, e.msg);
	ck_assert(fcntl(cfd, F_GETFL) & O_NONBLOCK);
	ck_assert(fcntl(cfd, F_GETFD) & FD_CLOEXEC);
	afd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(afd, 0);
	ck_assert_int_eq(send(cfd, "x", 1, 0), 1);
	ck_assert_int_eq(recv(afd, &byte, 1, 0), 1);
	ck_assert_int_eq(byte, 'x');
	(void)close(afd);
	(void)close(cfd);
	(void)close(lfd);
	mig_stop_free(&stop);
}

static bool have_ipv6(void)
{
	int fd = open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", O_RDONLY | O_CLOEXEC);
	char off = '1';

	if (fd >= 0) {
		(void)!read(fd, &off, 1);
		(void)close(fd);
	}
	return off == '0';
}

START_TEST(connect_tcp)
{
	round_trip("tcp:127.0.0.1:0");
	round_trip("tcp:0");
	if (have_ipv6())
		round_trip("tcp:[::1]:0");
}
END_TEST

START_TEST(refusals)
{
	struct err e = ERR_INIT;
	char name[MIG_URI_BYTES];
	int fd, other;
	struct mig_stop stop;
	struct mig_uri u;

	ck_assert_int_eq(mig_stop_init(&stop), 0);
	(void)mig_uri_parse("tcp:127.0.0.1:0", &u, &e);
	ck_assert_int_eq(mig_uri_listen(&u, NULL, &fd, name, &e), 0);
	(void)mig_uri_parse(name, &u, &e);
	ck_assert_int_eq(mig_uri_listen(&u, NULL, &other, name, &e), -EADDRINUSE);
	ck_assert_ptr_nonnull(strstr(e.msg, "cannot listen at 127.0.0.1:"));
	ck_assert_ptr_nonnull(strstr(e.msg, "Address already in use"));
	(void)close(fd);
	err_clear(&e);
	ck_assert_int_eq(mig_uri_connect(&u, &stop, NS_PER_SEC, &fd, &e), -ECONNREFUSED);
	ck_assert_ptr_nonnull(strstr(e.msg, "cannot connect to 127.0.0.1:"));
	ck_assert_ptr_nonnull(strstr(e.msg, "Connection refused"));
	err_clear(&e);
	(void)mig_uri_parse("tcp:no..host:1", &u, &e);
	ck_assert_int_lt(mig_uri_connect(&u, &stop, NS_PER_SEC, &fd, &e), 0);
	ck_assert_ptr_nonnull(strstr(e.msg, "cannot find the host 'no..host'"));
	mig_stop_free(&stop);
}
END_TEST

START_TEST(unix_sockets)
{
	char dir[] = "/tmp/test_uri_XXXXXX", text[64], name[MIG_URI_BYTES];
	struct err e = ERR_INIT;
	int fd, other;
	struct mig_stop stop;
	struct mig_uri u;
	struct stat st;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(text, sizeof(text), "unix:%s/s", dir);
	ck_assert_int_eq(mig_stop_init(&stop), 0);
	ck_assert_int_eq(mig_uri_parse(text, &u, &e), 0);
	/* Nobody there. */
	ck_assert_int_eq(mig_uri_connect(&u, &stop, NS_PER_SEC, &fd, &e), -ENOENT);
	err_clear(&e);
	round_trip(text);
	/* What is left of it is stale, and replaced. */
	ck_assert_int_eq(mig_uri_connect(&u, &stop, NS_PER_SEC, &fd, &e), -ECONNREFUSED);
	err_clear(&e);
	ck_assert_int_eq(mig_uri_listen(&u, NULL, &fd, name, &e), 0);
	ck_assert_str_eq(name, text);
	ck_assert_int_eq(stat(u.path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	/* A live one is not. */
	ck_assert_int_eq(mig_uri_listen(&u, NULL, &other, name, &e), -EADDRINUSE);
	ck_assert_ptr_nonnull(strstr(e.msg, "it is in use"));
	(void)close(fd);
	(void)unlink(u.path);
	/* A file that is no socket stays what it is. */
	fd = open(u.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	(void)close(fd);
	err_clear(&e);
	ck_assert_int_eq(mig_uri_listen(&u, NULL, &other, name, &e), -EADDRINUSE);
	ck_assert_int_eq(stat(u.path, &st), 0);
	ck_assert(S_ISREG(st.st_mode));
	(void)unlink(u.path);
	(void)rmdir(dir);
	mig_stop_free(&stop);
}
END_TEST

/* A listener whose queue is full does not answer: the wait ends by time, or by the stop. */
START_TEST(bounded)
{
	uint64_t begin_ns = clock_mono_ns();
	char uri[64];
	int lfd = raw_listen(uri), fds[64], fd, rc = 0;
	struct err e = ERR_INIT;
	struct mig_stop stop;
	struct mig_uri u;
	unsigned n = 0;

	ck_assert_int_eq(listen(lfd, 0), 0);
	ck_assert_int_eq(mig_stop_init(&stop), 0);
	ck_assert_int_eq(mig_uri_parse(uri, &u, &e), 0);
	while (!rc && n < 64) {
		rc = mig_uri_connect(&u, &stop, 50 * NS_PER_MS, &fds[n], &e);
		n += !rc;
	}
	ck_assert_int_eq(rc, -ETIMEDOUT);
	ck_assert_ptr_nonnull(strstr(e.msg, "timed out"));
	mig_stop_set(&stop);
	err_clear(&e);
	ck_assert_int_eq(mig_uri_connect(&u, &stop, 60 * NS_PER_SEC, &fd, &e), -ECANCELED);
	ck_assert_str_eq(e.msg, "cancelled"); /* what the user wanted is no failure to connect */
	ck_assert_uint_lt(clock_mono_ns() - begin_ns, 20 * NS_PER_SEC);
	while (n)
		(void)close(fds[--n]);
	(void)close(lfd);
	mig_stop_free(&stop);
}
END_TEST

SUITE("uri", parse, connect_tcp, refusals, unix_sockets, bounded)
