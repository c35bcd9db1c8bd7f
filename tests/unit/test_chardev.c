/* SPDX-License-Identifier: Apache-2.0 */
/* The serial port's back-ends, with real descriptors at the other end. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/support/suite.h"
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
		while (!(uart_in(LSR) & 1)) /* all of it comes at once, but when? */
			ck_assert_int_eq(loop_step(sf.loop, 1000), 0);
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

/* --- state --- */

static void save_input(struct chardev_state *to)
{
	struct chardev_state *st = calloc(1, sizeof(*st));
	struct wbuf w;
	struct rbuf r;

	chardev_save(serial_chardev(sf.serial), st);
	wbuf_init(&w, ORDER_LITTLE, sizeof(*st) + 16);
	fields_encode(&w, &chardev_table, st);
	ck_assert_int_eq(wbuf_error(&w), 0);
	rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
	ck_assert_int_eq(fields_decode(&r, &chardev_table, to, NULL), 0);
	ck_assert(rbuf_done(&r));
	wbuf_free(&w);
	free(st);
}

static void send_pattern(int fd, size_t first, size_t n)
{
	char bytes[2000];

	for (size_t i = 0; i < n; i++)
		bytes[i] = (char)('a' + (first + i) % 23);
	ck_assert_int_eq(send(fd, bytes, n, 0), (ssize_t)n);
}

/* The guest takes all that there is: bytes [first, end) of the pattern, once. */
static void take_pattern(size_t first, size_t end)
{
	size_t at = first;

	do {
		pump_loop();
		while (uart_in(LSR) & 1)
			ck_assert_int_eq(uart_in(DATA), 'a' + (int)(at++ % 23));
	} while (at < end);
	pump_loop();
	ck_assert_uint_eq(uart_in(LSR) & 1, 0);
	ck_assert_uint_eq(at, end);
}

/* What a client sent before the guest was saved, and the guest did not take, comes with it. */
START_TEST(input_moves)
{
	struct chardev_state *st = calloc(1, sizeof(*st));
	struct serial_state port;
	struct serial *source;
	int fd, other;

	open_serial(sf.sock_spec);
	uart_out(FCR, FIFO_ON);
	fd = connect_client();
	send_pattern(fd, 0, 1000);
	pump_loop();
	for (size_t i = 0; i < 5; i++)
		ck_assert_int_eq(uart_in(DATA), 'a' + (int)i);
	serial_pause(sf.serial);
	send_pattern(fd, 1000, 2000);
	pump_loop();
	serial_save(sf.serial, &port);
	save_input(st);

	/* The guest goes on here after all, for a while. */
	send_pattern(fd, 3000, 7);
	serial_resume(sf.serial);
	take_pattern(5, 3007);
	send_pattern(fd, 3007, 100);
	pump_loop();
	serial_pause(sf.serial);
	serial_save(sf.serial, &port);
	save_input(st);
	source = sf.serial;

	/* The first that arrives elsewhere never runs there. */
	ck_assert_int_eq(unlink(sf.sock_path), 0);
	ck_assert_int_eq(try_open(sf.sock_spec), 0);
	other = connect_client();
	ck_assert_int_eq(send(other, "!", 1, 0), 1);
	pump_loop();
	for (int i = 0; i < 2; i++) {
		serial_load(sf.serial, &port);
		chardev_load(serial_chardev(sf.serial), st);
	}
	serial_resume(sf.serial);
	pump_loop();
	for (size_t i = 3007; i < 3107; i++) {
		if (!(uart_in(LSR) & 1))
			pump_loop();
		ck_assert_int_eq(uart_in(DATA), 'a' + (int)(i % 23));
	}
	ck_assert_int_eq(uart_in(DATA), '!');
	ck_assert_uint_eq(uart_in(LSR) & 1, 0);

	serial_free(sf.serial);
	sf.serial = source;
	(void)close(fd);
	(void)close(other);
	free(st);
}
END_TEST

/* More than fits: what is left stays in the socket, unread. */
START_TEST(input_that_moves_is_bounded)
{
	static char many[CHARDEV_INPUT_BYTES / 4];
	struct chardev_state *st = calloc(1, sizeof(*st));
	size_t sent = 0;
	char last;
	int fd;

	open_serial(sf.sock_spec);
	uart_out(FCR, FIFO_ON);
	serial_pause(sf.serial);
	fd = connect_client();
	pump_loop();
	while (sent < CHARDEV_INPUT_BYTES + sizeof(many)) {
		ssize_t n = send(fd, many, sizeof(many), MSG_DONTWAIT);

		if (n > 0)
			sent += (size_t)n;
		save_input(st);
		ck_assert_uint_eq(st->input_bytes,
				  sent < CHARDEV_INPUT_BYTES ? sent : CHARDEV_INPUT_BYTES);
	}
	(void)shutdown(fd, SHUT_WR);
	for (size_t i = 0; i < sent; i++) { /* no byte was thrown away here either */
		if (i == 0)
			serial_resume(sf.serial);
		while (!(uart_in(LSR) & 1))
			ck_assert_int_eq(loop_step(sf.loop, 1000), 0);
		ck_assert_int_eq(uart_in(DATA), 0);
	}
	pump_loop();
	ck_assert_int_eq(recv(fd, &last, 1, MSG_DONTWAIT), -1);
	(void)close(fd);
	free(st);
}
END_TEST

SUITE_WITH("chardev", serial_setup, serial_teardown, file_gets_output, full_disk,
	   fifo_without_reader, bad_specs, socket_life, stale_socket_is_removed,
	   foreign_socket_stays, socket_exchange, one_client_at_a_time, gone_client_makes_way,
	   half_closed_client, input_outlives_failed_output, full_ring_holds_the_guest,
	   full_ring_is_freed_by_hangup, oldest_makes_way_without_client, pty_exchange,
	   pty_full_ring, input_moves, input_that_moves_is_bounded)
