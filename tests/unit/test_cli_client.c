/* SPDX-License-Identifier: Apache-2.0 */
/* The commands' QMP client against servers that follow a script. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "vmm/cli/client.h"
#include "vmm/ctl/path.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n"
#define SHORT_MS 200 /* where nothing comes */
#define LONG_MS  60000

static char dir[] = "/tmp/ferry-test-XXXXXX";
static struct ctl_socket sock;
static struct err err;

/* What the server does, one letter each: G greets, A answers (to a command that it reads first),
 * E answers after an event and a reply to another id, R refuses, X sends what is no JSON, L sends a
 * line without an end, H answers in small pieces, T answers with what terminals would act on, C
 * closes, S says nothing more. */
static const char *script;

static void put(int fd, const char *text)
{
	(void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
}

/* Read one command; its id. */
static int read_command(int fd)
{
	char line[512], c;
	size_t len = 0;
	char *id;

	while (recv(fd, &c, 1, 0) == 1 && c != '\n')
		if (len < sizeof(line) - 1)
			line[len++] = c;
	line[len] = '\0';
	id = strstr(line, "\"id\":");
	return id ? atoi(id + 5) : 0;
}

static void flood(int fd)
{
	static char block[65536];

	memset(block, 'x', sizeof(block));
	while (send(fd, block, sizeof(block), MSG_NOSIGNAL) > 0)
		;
}

static void step(int fd, char what)
{
	char text[128];
	int id;

	if (what == 'G')
		put(fd, GREETING);
	if (what == 'L')
		flood(fd);
	if (!strchr("AERXHT", what))
		return;
	id = read_command(fd);
	(void)snprintf(text, sizeof(text), "{\"return\": {\"n\": %d}, \"id\": %d}\n", id, id);
	if (what == 'R')
		(void)snprintf(text, sizeof(text),
			       "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}, "
			       "\"id\": %d}\n",
			       id);
	if (what == 'T')
		(void)snprintf(text, sizeof(text),
			       "{\"return\": {\"a\": [\"\\u001b[2Jx\\u007f\\u009b\xc3\xa9\"]}, "
			       "\"id\": %d}\n",
			       id);
	if (what == 'E')
		put(fd, "{\"event\": \"STOP\", \"timestamp\": {}}\n{\"return\": {}, \"id\": 99}\n");
	if (what == 'X') {
		put(fd, "hello\n");
	} else if (what == 'H') {
		for (char *p = text; *p; p++) {
			(void)!send(fd, p, 1, MSG_NOSIGNAL);
			usleep(500);
		}
	} else {
		put(fd, text);
	}
}

static void *serve(void *arg)
{
	int fd = accept(*(int *)arg, NULL, NULL);
	char c;

	if (fd < 0)
		return NULL;
	for (const char *p = script; *p && *p != 'C'; p++)
		step(fd, *p);
	if (!strchr(script, 'C'))
		while (recv(fd, &c, 1, 0) > 0)
			;
	(void)close(fd);
	return NULL;
}

static pthread_t server;
static int listen_copy;

static void start(const char *what)
{
	script = what;
	listen_copy = sock.fd;
	ck_assert_int_eq(pthread_create(&server, NULL, serve, &listen_copy), 0);
}

static void setup(void)
{
	char path[CTL_PATH_BYTES];

	strcpy(dir, "/tmp/ferry-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	err_clear(&err);
	ck_assert_int_eq(ctl_listen(&sock, path, "vm", &err), 0);
	/* The server is a plain thread that waits in accept(). */
	ck_assert_int_eq(fcntl(sock.fd, F_SETFL, 0), 0);
}

static void teardown(void)
{
	(void)close(sock.fd);
	ctl_unlink(&sock);
	ck_assert_int_eq(rmdir(dir), 0);
}

static int connect_client(struct client **c)
{
	return client_open(c, sock.path, LONG_MS, &err);
}

START_TEST(calls)
{
	struct client *c;
	json_t *ret;

	start("GAEHRA");
	ck_assert_msg(!connect_client(&c), "%s", err.msg);
	ck_assert_int_eq(client_pid(c), getpid());
	for (int id = 2; id <= 3; id++) {
		ck_assert_int_eq(client_call(c, "x", json_pack("{s:i}", "a", 1), &ret, &err), 0);
		ck_assert_int_eq((int)json_integer_value(json_object_get(ret, "n")), id);
		json_decref(ret);
	}
	ck_assert_int_eq(client_call(c, "x", NULL, &ret, &err), -EREMOTEIO);
	ck_assert_str_eq(err.msg, "not now");
	ck_assert_int_eq(client_call(c, "x", NULL, NULL, NULL), 0);
	client_close(c);
	pthread_join(server, NULL);
}
END_TEST

static const struct {
	const char *script;
	int code;
	const char *part;
} failing[] = {
	{"S", -ETIMEDOUT, "does not answer"},
	{"C", -ECONNRESET, "closed"},
	{"GS", -ETIMEDOUT, "does not answer"},
	{"GC", -ECONNRESET, "closed"},
	{"A", -ETIMEDOUT, "does not answer"},
	{"GX", -EPROTO, "no JSON"},
	{"L", -EPROTO, "no ferry"},
	{"GR", -EREMOTEIO, "not now"},
};

START_TEST(failures)
{
	int patience_ms = failing[_i].code == -ETIMEDOUT ? SHORT_MS : LONG_MS, rc;
	struct client *c = NULL;

	start(failing[_i].script);
	rc = client_open(&c, sock.path, patience_ms, &err);
	/* Whether a close is seen as an end or as a broken pipe is up to the timing. */
	if (failing[_i].code == -ECONNRESET && rc == -EPIPE)
		rc = -ECONNRESET;
	ck_assert_msg(rc == failing[_i].code, "%s: %d %s", failing[_i].script, rc, err.msg);
	ck_assert_msg(strstr(err.msg, failing[_i].part), "%s", err.msg);
	ck_assert_ptr_null(c);
	/* A server that waits for a command goes on when we are gone. */
	pthread_join(server, NULL);
}
END_TEST

START_TEST(terminals_are_safe)
{
	struct client *c;
	json_t *ret;

	start("GAT");
	ck_assert_msg(!connect_client(&c), "%s", err.msg);
	ck_assert_int_eq(client_call(c, "x", NULL, &ret, &err), 0);
	ck_assert_str_eq(json_string_value(json_array_get(json_object_get(ret, "a"), 0)),
			 "?[2Jx???\xc3\xa9");
	json_decref(ret);
	client_close(c);
	pthread_join(server, NULL);
}
END_TEST

START_TEST(waits_for_the_end)
{
	struct client *c;

	start("GAAC");
	ck_assert_msg(!connect_client(&c), "%s", err.msg);
	ck_assert_int_eq(client_call(c, "x", NULL, NULL, &err), 0);
	ck_assert_int_eq(client_wait_end(c, LONG_MS, &err), 0);
	ck_assert(client_lost(client_call(c, "x", NULL, NULL, NULL)));
	client_close(c);
	pthread_join(server, NULL);

	start("GAAS");
	ck_assert_msg(!connect_client(&c), "%s", err.msg);
	ck_assert_int_eq(client_call(c, "x", NULL, NULL, &err), 0);
	ck_assert_int_eq(client_wait_end(c, SHORT_MS, &err), -ETIMEDOUT);
	ck_assert_ptr_nonnull(strstr(err.msg, "has not ended"));
	client_close(c);
	pthread_join(server, NULL);
}
END_TEST

START_TEST(only_utf8)
{
	ck_assert_int_eq(client_check_text("unix:/tmp/\xc3\xa9", &err), 0);
	ck_assert_int_eq(client_check_text("unix:/tmp/\xff", &err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.msg, "UTF-8"));
}
END_TEST

START_TEST(nobody)
{
	struct client *c;

	(void)shutdown(sock.fd, SHUT_RDWR);
	ck_assert_int_eq(connect_client(&c), -ECONNREFUSED);
	err_clear(&err);
	ck_assert_int_eq(client_open(&c, "/nonexistent/s", LONG_MS, &err), -ENOENT);
	err_clear(&err);
	ck_assert_int_eq(client_open(&c, "bad name", LONG_MS, &err), -EINVAL);
}
END_TEST

SUITE_WITH("client", setup, teardown, calls, EACH(failures, failing), terminals_are_safe,
	   waits_for_the_end, only_utf8, nobody)
