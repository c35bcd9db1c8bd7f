/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host names, where the only name server is one that the test plays: in namespaces of its own, with
 * files of its own for /etc/resolv.conf and /etc/nsswitch.conf.
 */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "migration/lookup.h"
#include "migration/uri.h"
#include "tests/support/suite.h"
#include "tests/unit/support/pair.h"

#define QUERY_BYTES 512
#define DNS_HEADER  12
#define WAIT_NS     (20 * NS_PER_SEC)

static int server;

/* Put a file of these words in a path's place. Without that file nothing is there to replace. */
static bool replace(const char *path, const char *text)
{
	char name[] = "/tmp/ferry-lookup-XXXXXX";
	int fd = mkstemp(name);
	bool ok;

	if (fd < 0)
		return false;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	ok = ok && (!mount(name, path, NULL, MS_BIND, NULL) || errno == ENOENT);
	(void)close(fd);
	(void)unlink(name);
	return ok;
}

static bool loopback_up(void)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && !ioctl(fd, SIOCSIFFLAGS, &r);

	if (fd >= 0)
		(void)close(fd);
	return ok;
}

/* The test's process was forked for it alone. */
static bool isolate(void)
{
	const struct sockaddr_in sa = {.sin_family = AF_INET,
				       .sin_port = htons(53),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval wait = {.tv_sec = (time_t)(WAIT_NS / NS_PER_SEC)};

	if (unshare(CLONE_NEWNS | CLONE_NEWNET) &&
	    unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET))
		return false;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || !loopback_up() ||
	    !replace("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:60 attempts:1\n") ||
	    !replace("/etc/nsswitch.conf", "hosts: dns\n"))
		return false;
	server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return server >= 0 && !bind(server, (const struct sockaddr *)&sa, sizeof(sa)) &&
	       !setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
}

static bool isolated(void)
{
	if (isolate())
		return true;
	puts("SKIP namespaces are not to be had here");
	return false;
}

/* 127.0.0.1 to a question for an IPv4 address, nothing to any other. */
static void answer(const uint8_t *query, size_t n, const struct sockaddr_in *to)
{
	static const uint8_t record[] = {0xc0, DNS_HEADER, 0, 1, 0,   1, 0, 0,
					 0,    60,         0, 4, 127, 0, 0, 1};
	uint8_t reply[QUERY_BYTES + sizeof(record)];
	size_t end = DNS_HEADER;

	while (end < n && query[end])
		end += query[end] + 1u;
	end += 5; /* the root, a type, a class */
	ck_assert_uint_le(end, n);
	memset(reply, 0, DNS_HEADER);
	memcpy(reply, query, 2);
	memcpy(reply + DNS_HEADER, query + DNS_HEADER, end - DNS_HEADER);
	reply[2] = 0x81; /* an answer */
	reply[3] = 0x80;
	reply[5] = 1; /* one question */
	if (query[end - 3] == 1) {
		reply[7] = 1; /* one answer */
		memcpy(reply + end, record, sizeof(record));
		end += sizeof(record);
	}
	ck_assert_int_eq(sendto(server, reply, end, 0, (const struct sockaddr *)to, sizeof(*to)),
			 (ssize_t)end);
}

/* Take a question; false: a datagram too short for one, which means that all is over. */
static bool serve_one(bool answering)
{
	uint8_t query[QUERY_BYTES];
	struct sockaddr_in from;
	socklen_t len = sizeof(from);
	ssize_t n = recvfrom(server, query, sizeof(query), 0, (struct sockaddr *)&from, &len);

	ck_assert_msg(n > 0, "nobody asks the name server");
	if (n > DNS_HEADER && answering)
		answer(query, (size_t)n, &from);
	return n > DNS_HEADER;
}

static void *serve(void *arg)
{
	(void)arg;
	while (serve_one(true))
		;
	return NULL;
}

static void serve_end(pthread_t thread)
{
	struct sockaddr_in sa;
	socklen_t len = sizeof(sa);

	ck_assert_int_eq(getsockname(server, (struct sockaddr *)&sa, &len), 0);
	ck_assert_int_eq(sendto(server, "x", 1, 0, (struct sockaddr *)&sa, len), 1);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

/* ---- a connection that is wanted meanwhile ---- */

struct wish {
	struct mig_stop stop;
	struct mig_uri uri;
	struct err e;
	int rc, fd;
};

static void *connecting(void *arg)
{
	struct wish *w = arg;

	w->rc = mig_uri_connect(&w->uri, &w->stop, WAIT_NS, &w->fd, &w->e);
	return NULL;
}

static void wish_for(struct wish *w, const char *uri, pthread_t *thread)
{
	*w = (struct wish){.e = ERR_INIT};
	ck_assert_int_eq(mig_stop_init(&w->stop), 0);
	ck_assert_int_eq(mig_uri_parse(uri, &w->uri, &w->e), 0);
	ck_assert_int_eq(pthread_create(thread, NULL, connecting, w), 0);
}

START_TEST(cancelled)
{
	pthread_t thread;
	struct wish w;

	if (!isolated())
		return;
	wish_for(&w, "tcp:elsewhere.test:4444", &thread);
	/* From here on the look-up waits for this server, which says nothing. */
	ck_assert(serve_one(false));
	mig_stop_set(&w.stop);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_eq(w.rc, -ECANCELED);
	ck_assert_ptr_nonnull(strstr(w.e.msg, "cannot look up the host 'elsewhere.test'"));
	mig_stop_free(&w.stop);
}
END_TEST

START_TEST(in_time)
{
	struct addrinfo *list = NULL;
	struct err e = ERR_INIT;

	if (!isolated())
		return;
	ck_assert_int_eq(mig_lookup("elsewhere.test", "1", AI_PASSIVE, NULL, NS_PER_MS, &list, &e),
			 -ETIMEDOUT);
	ck_assert_ptr_null(list);
	ck_assert_str_eq(e.msg, "no name server said in time where the host 'elsewhere.test' is: "
				"try its address");
	/* An address needs no server, and no time. */
	ck_assert_int_eq(mig_lookup("127.0.0.1", "1", 0, NULL, 0, &list, &e), 0);
	freeaddrinfo(list);
}
END_TEST

START_TEST(answered)
{
	char name[MIG_URI_BYTES], by_name[MIG_URI_BYTES];
	struct err e = ERR_INIT;
	pthread_t servant, thread;
	struct mig_uri u;
	struct wish w;
	int fd;

	if (!isolated())
		return;
	ck_assert_int_eq(pthread_create(&servant, NULL, serve, NULL), 0);
	ck_assert_int_eq(mig_uri_parse("tcp:here.test:0", &u, &e), 0);
	ck_assert_msg(!mig_uri_listen(&u, NULL, &fd, name, &e), "%s", e.msg);
	(void)snprintf(by_name, sizeof(by_name), "tcp:here.test:%s", strrchr(name, ':') + 1);
	wish_for(&w, by_name, &thread);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_msg(!w.rc, "%s: %s", by_name, w.e.msg);
	(void)close(w.fd);
	(void)close(fd);
	mig_stop_free(&w.stop);
	wish_for(&w, by_name, &thread);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_eq(w.rc, -ECONNREFUSED);
	ck_assert_ptr_nonnull(strstr(w.e.msg, "cannot connect to here.test:"));
	mig_stop_free(&w.stop);
	serve_end(servant);
}
END_TEST

/* ---- migrations ---- */

START_TEST(migration_cancelled)
{
	struct pair p;

	if (!isolated())
		return;
	pair_up(&p, PAIR_MIB, 51);
	synth_start_writer(p.src, 0, 64, 1000);
	synth_send(p.src, "tcp:elsewhere.test:4444", 0, 300);
	ck_assert(serve_one(false));
	mig_source_cancel(p.src->source);
	pair_keeps(&p, MIG_CANCELLED, "the guest keeps running here");
	pair_again(&p);
	pair_down(&p);
}
END_TEST

/* Whoever has a destination listen at a name goes on at once, and may change his mind. */
START_TEST(dest_looks_up)
{
	struct pair p;

	if (!isolated())
		return;
	pair_up(&p, PAIR_MIB, 52);
	synth_listen(p.dst, "tcp:here.test:0");
	ck_assert_int_eq(synth_status(p.dst).state, MIG_SETUP);
	ck_assert_str_eq(synth_uri(p.dst), "tcp:here.test:0");
	ck_assert(serve_one(false));
	mig_dest_free(p.dst->dest);
	p.dst->dest = NULL;
	ck_assert(!watch_wait(&p.dst->watch, WATCH(MIG_FAILED) | WATCH(MIG_NONE), 0));
	pair_down(&p);
}
END_TEST

START_TEST(dest_has_looked_up)
{
	pthread_t servant;
	char taken[64];
	struct pair p;

	if (!isolated())
		return;
	pair_up(&p, PAIR_MIB, 53);
	ck_assert_int_eq(pthread_create(&servant, NULL, serve, NULL), 0);
	synth_listen(p.dst, "tcp:here.test:0");
	ck_assert(synth_wait(p.dst, WATCH(MIG_NONE)));
	ck_assert_ptr_nonnull(strstr(synth_uri(p.dst), "tcp:127.0.0.1:"));
	pair_send(&p, 2000);
	(void)pair_completes(&p);
	pair_down(&p);
	/* Where one cannot listen nobody comes. */
	pair_up(&p, PAIR_MIB, 54);
	(void)snprintf(taken, sizeof(taken), "tcp:here.test:%s",
		       strrchr(synth_uri(p.dst), ':') + 1);
	synth_listen(p.src, taken);
	ck_assert(synth_wait(p.src, WATCH(MIG_FAILED)));
	ck_assert(mig_dest_nowhere(p.src->dest));
	ck_assert(!mig_dest_nowhere(p.dst->dest));
	mig_dest_join(p.src->dest);
	pair_down(&p);
	serve_end(servant);
}
END_TEST

SUITE("lookup", cancelled, in_time, answered, migration_cancelled, dest_looks_up,
      dest_has_looked_up)
