/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port on standard input and output: pipes, files, nothing, a terminal. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "tests/unit/support/serial_fixture.h"
#include "vmm/dev/chardev.h"

/* In a child whose standard input and output are these (-1: closed). It never returns. */
static void stdio_child(int in_fd, int out_fd, void (*body)(void))
{
	/* First, so that the loop's own descriptors do not become 0 and 1. */
	(void)loop_new(&sf.loop);
	(void)close(0);
	(void)close(1);
	if (in_fd >= 0)
		(void)dup2(in_fd, 0);
	if (out_fd >= 0)
		(void)dup2(out_fd, 1);
	if (try_open("stdio"))
		_exit(9);
	serial_resume(sf.serial);
	body();
	serial_free(sf.serial);
	loop_free(sf.loop);
	_exit(0);
}

static int max_idle = 100;

/* Send input back in upper case until nothing comes for a while or the user quits. */
static void echo_upper(void)
{
	uart_out(FCR, FIFO_ON);
	for (int idle = 0; idle < max_idle && !sf.quits; idle++) {
		(void)loop_step(sf.loop, 5);
		while (uart_in(LSR) & 1) {
			uart_out(DATA, uart_in(DATA) & 0xdf);
			idle = 0;
		}
	}
}

static void expect_exit(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

static void read_exactly(int fd, const char *text)
{
	char got[256] = "";
	size_t n = 0;

	while (n < strlen(text)) {
		ssize_t k = read(fd, got + n, strlen(text) - n);

		ck_assert_int_gt(k, 0);
		n += (size_t)k;
	}
	ck_assert_str_eq(got, text);
}

START_TEST(stdio_pipes)
{
	char rest[64] = "";
	int to[2], from[2];
	pid_t pid;

	ck_assert_int_eq(pipe2(to, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(from, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		(void)close(to[1]);
		stdio_child(to[0], from[1], echo_upper);
	}
	/* More than a FIFO at once; Ctrl-A means nothing where no terminal is. */
	ck_assert_int_eq(write(to[1], "the quick brown fox\x01xjumps", 26), 26);
	(void)close(to[1]);
	read_exactly(from[0], "THE");
	expect_exit(pid);
	ck_assert_int_eq(fcntl(from[1], F_GETFL) & O_NONBLOCK, 0);
	(void)close(from[1]);
	ck_assert_int_eq(read(from[0], rest, sizeof(rest)), 23);
	ck_assert_int_eq(memcmp(rest, "\0QUICK\0BROWN\0FOX\x01XJUMPS", 23), 0);
}
END_TEST

START_TEST(stdio_regular_files)
{
	char got[2048] = "";
	int in_fd, out_fd;
	pid_t pid;

	out_fd = open(sf.file_path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	for (int i = 0; i < 100; i++)
		ck_assert_int_eq(write(out_fd, "abcdefghij", 10), 10);
	in_fd = open(sf.file_path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(unlink(sf.file_path), 0);
	out_fd = open(sf.file_path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	pid = fork();
	if (pid == 0)
		stdio_child(in_fd, out_fd, echo_upper);
	expect_exit(pid);
	ck_assert_int_eq(pread(out_fd, got, sizeof(got), 0), 1000);
	ck_assert_int_eq(memcmp(got + 990, "ABCDEFGHIJ", 10), 0);
}
END_TEST

static void write_only(void)
{
	send_text("hello");
	for (int i = 0; i < 20; i++)
		(void)loop_step(sf.loop, 1);
	if (!(uart_in(LSR) & THRE))
		_exit(8);
}

START_TEST(stdio_closed)
{
	int fds[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	pid_t pid;

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	(void)close(fds[0]);
	pid = fork();
	if (pid == 0)
		stdio_child(null, fds[1], write_only); /* a pipe without a reader */
	expect_exit(pid);
	pid = fork();
	if (pid == 0)
		stdio_child(null, null, write_only);
	expect_exit(pid);
	pid = fork();
	if (pid == 0)
		stdio_child(-1, -1, write_only);
	expect_exit(pid);
}
END_TEST

static struct termios wait_until_raw(int slave)
{
	struct termios t;

	do {
		(void)usleep(1000);
		ck_assert_int_eq(tcgetattr(slave, &t), 0);
	} while (t.c_lflag & ICANON);
	return t;
}

START_TEST(stdio_terminal)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave;
	struct termios before, during, after;
	char name[64];
	pid_t pid;

	max_idle = 10000; /* the user quits */
	ck_assert_int_eq(grantpt(master), 0);
	ck_assert_int_eq(unlockpt(master), 0);
	ck_assert_int_eq(ptsname_r(master, name, sizeof(name)), 0);
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_eq(tcgetattr(slave, &before), 0);
	pid = fork();
	if (pid == 0) {
		(void)setsid();
		(void)ioctl(slave, TIOCSCTTY, 0);
		stdio_child(slave, slave, echo_upper);
	}
	during = wait_until_raw(slave);
	ck_assert_uint_eq(during.c_lflag & (ECHO | ISIG), 0);
	ck_assert_int_eq(write(master, "a\x03\x01\x01z", 5), 5);
	read_exactly(master, "A\x03\x01Z");
	ck_assert_int_eq(write(master, "\x01x", 2), 2);
	expect_exit(pid);
	ck_assert_int_eq(tcgetattr(slave, &after), 0);
	ck_assert_uint_eq(after.c_lflag, before.c_lflag);
	ck_assert_uint_eq(after.c_iflag, before.c_iflag);
	ck_assert_int_eq(fcntl(slave, F_GETFL) & O_NONBLOCK, 0);
}
END_TEST

#define TYPED_BYTES (CHARDEV_INPUT_BYTES + 1000)

/* The guest takes nothing until the user has quit; then it gets what was typed ahead, in order. */
static void read_after_quit(void)
{
	size_t n = 0;

	while (!sf.quits)
		(void)loop_step(sf.loop, 1000);
	do
		(void)loop_step(sf.loop, 0);
	while (uart_in(LSR) & 1 && uart_in(DATA) == 'a' + n++ % 26);
	uart_out(DATA, n >= CHARDEV_INPUT_BYTES && n < TYPED_BYTES ? 'y' : 'n');
}

START_TEST(terminal_is_always_read)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave;
	static char many[TYPED_BYTES];
	char name[64];
	pid_t pid;

	for (size_t i = 0; i < sizeof(many); i++)
		many[i] = (char)('a' + i % 26);
	ck_assert_int_eq(grantpt(master) | unlockpt(master), 0);
	ck_assert_int_eq(ptsname_r(master, name, sizeof(name)), 0);
	slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	pid = fork();
	if (pid == 0) {
		(void)setsid();
		(void)ioctl(slave, TIOCSCTTY, 0);
		stdio_child(slave, slave, read_after_quit);
	}
	wait_until_raw(slave);
	for (size_t at = 0; at < sizeof(many);) {
		ssize_t n = write(master, many + at, sizeof(many) - at);

		ck_assert_int_gt(n, 0);
		at += (size_t)n;
	}
	ck_assert_int_eq(write(master, "\x01x", 2), 2);
	read_exactly(master, "y");
	expect_exit(pid);
}
END_TEST

SUITE_WITH("chardev stdio", serial_setup, serial_teardown, stdio_pipes, stdio_regular_files,
	   stdio_closed, stdio_terminal, terminal_is_always_read)
