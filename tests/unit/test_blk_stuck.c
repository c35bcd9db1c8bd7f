/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk whose read does not end in time: what is still in use is not freed. The disk is a file of
 * a file system (FUSE) that this test serves, and whose read it holds.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fuse.h>

#include "base/clock.h"
#include "tests/support/suite.h"
#include "tests/unit/support/blk_fixture.h"

#define CONTENT       'x'
#define READ_BYTES    65536
#define LIVES_SECONDS 40 /* for a test that fails with its read held: no signal ends it then */

/*
 * The server is a process of its own: nothing would end one that waits for itself. It mounts, and
 * serves, in a mount namespace that it shares with this test alone.
 */
struct server {
	int fd;          /* the server's: /dev/fuse */
	int told[2];     /* to the test: 0 or errno once it is mounted, then 0 for each held read */
	int released[2]; /* a read is held until its other end is closed */
};

static void tell(struct server *s, int what)
{
	if (write(s->told[1], &what, sizeof(what)) != sizeof(what))
		_exit(1);
}

static int hear(struct server *s)
{
	int what;

	ck_assert_int_eq(read(s->told[0], &what, sizeof(what)), sizeof(what));
	return what;
}

static void answer(struct server *s, uint64_t request, const void *data, size_t len)
{
	uint8_t out[sizeof(struct fuse_out_header) + READ_BYTES];
	const struct fuse_out_header h = {.len = (uint32_t)(sizeof(h) + len), .unique = request};

	memcpy(out, &h, sizeof(h));
	if (len)
		memcpy(out + sizeof(h), data, len);
	(void)!write(s->fd, out, h.len);
}

static void answer_init(struct server *s, uint64_t request, const struct fuse_init_in *in)
{
	const struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
					  .minor = in->minor < FUSE_KERNEL_MINOR_VERSION
							   ? in->minor
							   : FUSE_KERNEL_MINOR_VERSION,
					  .max_readahead = 4096,
					  .max_write = 65536,
					  .max_background = 8};

	answer(s, request, &out, sizeof(out));
}

static void answer_attr(struct server *s, uint64_t request)
{
	const struct fuse_attr_out out = {
		.attr_valid = 1000,
		.attr = {.ino = 1, .size = SECTORS * 512, .mode = S_IFREG | 0600, .nlink = 1}};

	answer(s, request, &out, sizeof(out));
}

static void answer_read(struct server *s, uint64_t request, const struct fuse_read_in *in)
{
	uint8_t content[READ_BYTES];
	char byte;

	tell(s, 0);
	(void)!read(s->released[0], &byte, 1);
	memset(content, CONTENT, sizeof(content));
	answer(s, request, content, in->size < sizeof(content) ? in->size : sizeof(content));
}

static void serve(struct server *s)
{
	const struct fuse_open_out opened = {.fh = 1};
	static union {
		struct fuse_in_header head;
		uint8_t bytes[1 << 20];
	} in;
	const void *body = in.bytes + sizeof(in.head);

	while (read(s->fd, in.bytes, sizeof(in.bytes)) >= (ssize_t)sizeof(in.head)) {
		switch (in.head.opcode) {
		case FUSE_INIT:
			answer_init(s, in.head.unique, body);
			break;
		case FUSE_GETATTR:
			answer_attr(s, in.head.unique);
			break;
		case FUSE_OPEN:
			answer(s, in.head.unique, &opened, sizeof(opened));
			break;
		case FUSE_READ:
			answer_read(s, in.head.unique, body);
			break;
		default:
			answer(s, in.head.unique, NULL, 0);
		}
	}
}

static void be_server(struct server *s)
{
	char options[80];

	(void)alarm(LIVES_SECONDS);
	(void)close(s->released[1]);
	s->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		tell(s, errno);
	(void)snprintf(options, sizeof(options), "fd=%d,rootmode=100600,user_id=0,group_id=0",
		       s->fd);
	if (s->fd >= 0) {
		tell(s, mount("ferry-test", disk_path, "fuse", MS_NOSUID | MS_NODEV, options)
				? errno
				: 0);
		serve(s);
	}
	_exit(0);
}

/* Put the served file in the place of the disk's. 0 or the errno of a system that cannot do it. */
static int start_server(struct server *s)
{
	pid_t pid;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return errno;
	ck_assert_int_eq(pipe2(s->told, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(s->released, O_CLOEXEC), 0);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (!pid)
		be_server(s);
	return hear(s);
}

START_TEST(stuck_read_keeps_its_memory)
{
	const struct vdrv_part parts[] = {{HDR, 16, false}, {DATA, 4096, true}, {STATUS, 1, true}};
	volatile uint8_t *data;
	struct server server;
	int rc = start_server(&server);

	if (rc) {
		printf("SKIP no file system can be mounted here: %s\n", strerror(rc));
		return;
	}
	blk_remake();
	vdrv_start(&dv, EVENT_IDX, 1);
	data = vdrv_ram(&dv, DATA, 4096);
	blk_header(HDR, VIRTIO_BLK_T_IN, 8);
	vdrv_add(&dv, 0, parts, 3);
	vdrv_kick(&dv, 0);
	vdrv_run(&dv);
	ck_assert_int_eq(hear(&server), 0);

	ck_assert_int_eq(blk_free(disk, clock_mono_ns() + 20 * NS_PER_MS), -ETIMEDOUT);
	/* The read ends after all, and finds the guest's RAM. */
	(void)close(server.released[1]);
	for (int i = 0; i < 10000 && data[4095] != CONTENT; i++)
		(void)usleep(1000);
	ck_assert_uint_eq(data[0], CONTENT);
	ck_assert_uint_eq(data[4095], CONTENT);
	/* At rest by now. */
	ck_assert_int_eq(blk_free(disk, clock_mono_ns() + 10 * NS_PER_SEC), 0);
	disk = NULL;
}
END_TEST

SUITE_WITH("blk stuck", blk_setup, blk_teardown, stuck_read_keeps_its_memory)
