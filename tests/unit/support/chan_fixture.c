/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/chan_fixture.h"

#include <check.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/support/raw.h"
#include "tests/unit/support/synth_writer.h"

uint8_t sent[BIG], received[BIG];

void fill(void)
{
	uint64_t r = 77;

	for (size_t i = 0; i < BIG; i += 8) {
		uint64_t v = synth_random(&r);

		memcpy(sent + i, &v, 8);
	}
	memset(received, 0, sizeof(received));
}

void make_sockets(bool tcp, int flags, int fd[2])
{
	char uri[64];
	int lfd;

	flags |= SOCK_CLOEXEC;
	if (!tcp) {
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | flags, 0, fd), 0);
		return;
	}
	lfd = raw_listen(uri);
	fd[0] = raw_connect(uri);
	fd[1] = accept4(lfd, NULL, NULL, flags);
	ck_assert(fd[0] >= 0 && fd[1] >= 0);
	(void)close(lfd);
}

struct mig_chan *open_chan(int fd, uint64_t timeout_ns)
{
	struct err e = ERR_INIT;
	struct mig_chan *c;

	ck_assert_msg(!mig_chan_open(&c, fd, "the peer", timeout_ns, &e), "%s", e.msg);
	return c;
}
