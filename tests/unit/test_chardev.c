/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port's back-ends, with real descriptors at the other end. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "tests/unit/support/serial_fixture.h"
#include "vmm/dev/chardev.h"

/* --- file --- */

START_TEST(file_gets_output)
{
	char got[32] = "";
	struct stat st;
	int fd;

	open_serial(sf.file_spec);
	send_text("hello\n");
	fd = open(sf.file_path, O_RDONLY); /* it is there at once */
	ck_assert_int_eq(read(fd, got, sizeof(got) - 1), 6);
	ck_assert_str_eq(got, "hello\n");
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777 & ~0644u, 0);
	ck_assert_str_eq(serial_backend_name(sf.serial), sf.file_spec);
	(void)close(fd);
}
END_TEST

START_TEST(full_disk)
{
	open_serial("file:/dev/full");
	for (int i = 0; i < 100000; i++) {
		ck_assert_uint_eq(uart_in(LSR), 0x60);
		uart_out(DATA, 'x');
	}
	pump_loop();
	ck_assert_uint_eq(uart_in(LSR), 0x60);
}
END_TEST

/* A FIFO's reader leaves: output is dropped, and the process lives on. */
START_TEST(fifo_without_reader)
{
	int fd;

	ck_assert_int_eq(mkfifo(sf.file_path, 0600), 0);
	ck_assert_int_eq(try_open(sf.file_spec), -ENXIO);
	fd = open(sf.file_path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	open_serial(sf.file_spec);
	send_text("hello");
	expect_text(fd, "hello");
	(void)fill_ring();
	ck_assert_uint_eq(uart_in(LSR), 0);
	(void)close(fd);
	pump_loop();
	send_text("x");
	ck_assert_uint_eq(uart_in(LSR), 0x60);
}
END_TEST

START_TEST(bad_specs)
{
	static const char *const specs[] = {
		"", "stdin", "file:", "unix:", "none:", "tcp:1:2", "pty:x", "FILE:/tmp/x"};
	char longest[256];
	int fd;

	for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
		ck_assert_int_eq(try_open(specs[i]), -EINVAL);
		ck_assert_ptr_nonnull(strstr(sf.err.msg, "stdio, file:PATH, pty, unix:PATH"));
	}
	ck_assert_int_eq(try_open("file:/no/such/dir/x"), -ENOENT);
	ck_assert_ptr_nonnull(strstr(sf.err.msg, "/no/such/dir/x"));
	ck_assert_int_eq(try_open("file:/tmp"), -EISDIR);
	ck_assert_int_eq(try_open("unix:/no/such/dir/x"), -ENOENT);
	(void)snprintf(longest, sizeof(longest), "unix:/%0110d", 0);
	ck_assert_int_eq(try_open(longest), -ENAMETOOLONG);
	ck_assert_ptr_nonnull(strstr(sf.err.msg, "at most 107"));

	fd = open(sf.sock_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	(void)close(fd);
	ck_assert_int_eq(try_open(sf.sock_spec), -EEXIST);
	ck_assert_int_eq(access(sf.sock_path, F_OK), 0); /* and it is still there */
	sf.serial = NULL;
}
END_TEST

/* --- UNIX socket --- */

START_TEST(socket_life)
{
	struct loop *loop;
	struct serial *first;
	struct stat st;

	open_serial(sf.sock_spec);
	first = sf.serial;
	ck_assert_int_eq(stat(sf.sock_path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);

	ck_assert_int_eq(try_open(sf.sock_spec), -EADDRINUSE);
	ck_assert_ptr_nonnull(strstr(sf.err.msg, "in use"));
	pump_loop(); /* the first has noticed nothing, and still takes a client */
	sf.serial = first;

	serial_free(first);
	ck_assert_int_eq(access(sf.sock_path, F_OK), -1);
	/* What the first may have posted is of no use any more. */
	loop_free(sf.loop);
	ck_assert_int_eq(loop_new(&loop), 0);
	sf.loop = loop;
	sf.serial = NULL;
}
END_TEST

START_TEST(stale_socket_is_removed)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, sf.sock_path, strlen(sf.sock_path) + 1);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	ck_assert_int_eq(try_open(sf.sock_spec), -EADDRINUSE);
	(void)close(fd);
	open_serial(sf.sock_spec);
}
END_TEST

START_TEST(foreign_socket_stays)
{
	int fd;

	open_serial(sf.sock_spec);
	/* Somebody put another file in the place of ours. */
	ck_assert_int_eq(unlink(sf.sock_path), 0);
	fd = open(sf.sock_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	(void)close(fd);
	serial_free(sf.serial);
	sf.serial = NULL;
	ck_assert_int_eq(access(sf.sock_path, F_OK), 0);
}
END_TEST

START_TEST(socket_exchange)
{
	int fd;

	open_serial(sf.sock_spec);
	send_text("early ");
	fd = connect_client();
	pump_loop();
	send_text("late");
	expect_text(fd, "early late");

	uart_out(FCR, 0x81); /* trigger level 8 */
	uart_out(IER, 0x01);
	ck_assert_int_eq(send(fd, "1234567", 7, 0), 7);
	pump_loop();
	ck_assert(sf.irq);
	ck_assert_uint_eq(uart_in(IIR), 0xcc);
	ck_assert_int_eq(send(fd, "8", 1, 0), 1);
	pump_loop();
	ck_assert_uint_eq(uart_in(IIR), 0xc4);
	for (char c = '1'; c <= '8'; c++)
		ck_assert_int_eq(uart_in(DATA), c);
	ck_assert(!sf.irq);
	(void)close(fd);
}
END_TEST

START_TEST(one_client_at_a_time)
{
	int first, second, third;

	open_serial(sf.sock_spec);
	first = connect_client();
	pump_loop();
	second = connect_client();
	ck_assert(closed_by_peer(second));
	send_text("a");
	expect_text(first, "a");
	(void)close(first);
	(void)close(second);
	pump_loop();
	send_text("kept"); /* nobody there */
	third = connect_client();
	expect_text(third, "kept");
	(void)close(third);
}
END_TEST

/* A client that left while its last bytes wait for a slow guest makes way for another. */
START_TEST(gone_client_makes_way)
{
	char many[200];
	int first, second;

	memset(many, 'm', sizeof(many));
	open_serial(sf.sock_spec);
	first = connect_client();
	ck_assert_int_eq(send(first, many, sizeof(many), 0), sizeof(many));
	pump_loop();
	(void)close(first);
	pump_loop();
	second = connect_client();
	pump_loop();
	send_text("hello");
	expect_text(second, "hello");
	(void)close(second);
}
END_TEST

START_TEST(half_closed_client)
{
	int fd, next;

	open_serial(sf.sock_spec);
	fd = connect_client();
	ck_assert_int_eq(send(fd, "q", 1, 0), 1);
	ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
	pump_loop();
	ck_assert_uint_eq(uart_in(DATA), 'q');
	pump_loop();
	send_text("answer");
	expect_text(fd, "answer");
	(void)close(fd);
	pump_loop();
	next = connect_client();
	pump_loop();
	send_text("next");
	expect_text(next, "next");
	(void)close(next);
}
END_TEST

/* Input after the peer's end is not lost because a write to it failed. */
START_TEST(input_outlives_failed_output)
{
	char many[100];
	int fd;

	memset(many, 'm', sizeof(many));
	open_serial(sf.sock_spec);
	uart_out(FCR, FIFO_ON);
	fd = connect_client();
	ck_assert_int_eq(send(fd, many, sizeof(many), 0), sizeof(many));
	pump_loop();
	(void)close(fd);
	send_text("nobody reads this");
	pump_loop();
	for (size_t i = 0; i < sizeof(many); i++) {
		ck_assert_msg(uart_in(LSR) & 1, "only %zu bytes arrived", i);
		ck_assert_uint_eq(uart_in(DATA), 'm');
		pump_loop();
	}
	ck_assert_uint_eq(uart_in(LSR) & 1, 0);
}
END_TEST

START_TEST(full_ring_holds_the_guest)
{
	size_t n;
	int fd;

	open_serial(sf.sock_spec);
	fd = connect_client();
	pump_loop();
	n = fill_ring();
	ck_assert_uint_ge(n, CHARDEV_RING_BYTES - SERIAL_FIFO_BYTES);
	uart_out(IER, 0x02);
	ck_assert(!sf.irq);
	ck_assert_uint_eq(uart_in(LSR), 0);
	pump_loop();
	ck_assert_uint_eq(uart_in(LSR), 0);
	expect_pattern(fd, 0, n);
	ck_assert_uint_eq(uart_in(LSR), 0x60);
	ck_assert(sf.irq);
	ck_assert_uint_eq(uart_in(IIR), 0x02);
	(void)close(fd);
}
END_TEST

START_TEST(full_ring_is_freed_by_hangup)
{
	int fd;

	open_serial(sf.sock_spec);
	fd = connect_client();
	pump_loop();
	(void)fill_ring();
	(void)close(fd);
	pump_loop();
	ck_assert_uint_eq(uart_in(LSR), 0x60);
}
END_TEST

START_TEST(oldest_makes_way_without_client)
{
	size_t n = CHARDEV_RING_BYTES + 5000;
	int fd;

	open_serial(sf.sock_spec);
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_eq(uart_in(LSR), 0x60);
		uart_out(DATA, (uint8_t)(i % 251));
	}
	fd = connect_client();
	expect_pattern(fd, 5000, CHARDEV_RING_BYTES);
	(void)close(fd);
}
END_TEST

/* --- pty --- */

static int open_slave(void)
{
	const char *name = serial_backend_name(sf.serial);
	int fd;

	ck_assert_int_eq(strncmp(name, "pty:/dev/", 9), 0);
	fd = open(name + 4, O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	return fd;
}

/* The pty's client is looked for from time to time. */
static void wait_for_pty(void)
{
	for (int i = 0; i < 12; i++)
		ck_assert_int_eq(loop_step(sf.loop, 50), 0);
}

START_TEST(pty_exchange)
{
	for (int round = 0; round < 3; round++) {
		int fd;

		if (round == 0) {
			open_serial("pty");
			uart_out(FCR, FIFO_ON);
		}
		send_text("early\n");
		fd = open_slave();
		wait_for_pty();
		send_text("late\n");
		expect_text(fd, "early\nlate\n");
		ck_assert_int_eq(write(fd, "a\r\x03z", 4), 4);
		pump_loop();
		ck_assert_uint_eq(uart_in(DATA), 'a');
		ck_assert_uint_eq(uart_in(DATA), '\r');
		ck_assert_uint_eq(uart_in(DATA), 3);
		ck_assert_uint_eq(uart_in(DATA), 'z');
		ck_assert_uint_eq(uart_in(LSR), 0x60); /* nothing was echoed */
		(void)close(fd);
		pump_loop();
	}
}
END_TEST

START_TEST(pty_full_ring)
{
	size_t n;
	int fd;

	open_serial("pty");
	for (size_t i = 0; i < 100000; i++) {
		ck_assert_uint_eq(uart_in(LSR), 0x60);
		uart_out(DATA, 'x');
	}
	fd = open_slave();
	wait_for_pty();
	for (char buf[4096]; read_some(fd, buf, sizeof(buf));)
		;
	n = fill_ring();
	expect_pattern(fd, 0, n);
	ck_assert_uint_eq(uart_in(LSR), 0x60);
	(void)close(fd);
}
END_TEST

/* --- stdio --- */

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

/* The guest takes nothing until the user has quit; then it gets what was typed ahead, in order. */
static void read_after_quit(void)
{
	size_t n = 0;

	while (!sf.quits)
		(void)loop_step(sf.loop, 1000);
	do
		(void)loop_step(sf.loop, 0);
	while (uart_in(LSR) & 1 && uart_in(DATA) == 'a' + n++ % 26);
	uart_out(DATA, n > 4000 && n < 4200 ? 'y' : 'n');
}

START_TEST(terminal_is_always_read)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), slave;
	char name[64], many[5000];
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

int main(void)
{
	const TTest *const tests[] = {file_gets_output,
				      full_disk,
				      fifo_without_reader,
				      bad_specs,
				      socket_life,
				      stale_socket_is_removed,
				      foreign_socket_stays,
				      socket_exchange,
				      one_client_at_a_time,
				      gone_client_makes_way,
				      half_closed_client,
				      input_outlives_failed_output,
				      full_ring_holds_the_guest,
				      full_ring_is_freed_by_hangup,
				      oldest_makes_way_without_client,
				      pty_exchange,
				      pty_full_ring,
				      stdio_pipes,
				      stdio_regular_files,
				      stdio_closed,
				      stdio_terminal,
				      terminal_is_always_read};

	return run_serial_tests("chardev", tests, sizeof(tests) / sizeof(tests[0]));
}
