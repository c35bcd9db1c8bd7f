/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/serial_fixture.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct serial_fixture sf;

static void set_irq(void *ctx, unsigned gsi, bool level)
{
	(void)ctx;
	ck_assert_uint_eq(gsi, SERIAL_GSI);
	sf.irq = level;
	sf.irq_calls++;
}

static void count_quit(void *ctx)
{
	(void)ctx;
	sf.quits++;
}

void pump_loop(void)
{
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(loop_step(sf.loop, 0), 0);
	/* A pty's bytes take a moment. */
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(loop_step(sf.loop, 2), 0);
}

int try_open(const char *backend)
{
	struct serial_config cfg = {.bus = &sf.bus,
				    .irq = {.set = set_irq, .gsi = SERIAL_GSI},
				    .loop = sf.loop,
				    .backend = backend,
				    .on_quit = count_quit};

	sf.bus.n = 0;
	err_clear(&sf.err);
	return serial_new(&sf.serial, &cfg, &sf.err);
}

void open_serial(const char *backend)
{
	ck_assert_msg(try_open(backend) == 0, "%s", sf.err.msg);
	serial_resume(sf.serial);
	pump_loop();
}

void serial_setup(void)
{
	memset(&sf, 0, sizeof(sf));
	(void)snprintf(sf.dir, sizeof(sf.dir), "/tmp/test_serial.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(sf.dir));
	(void)snprintf(sf.sock_path, sizeof(sf.sock_path), "%s/sock", sf.dir);
	(void)snprintf(sf.sock_spec, sizeof(sf.sock_spec), "unix:%s", sf.sock_path);
	(void)snprintf(sf.file_path, sizeof(sf.file_path), "%s/out", sf.dir);
	(void)snprintf(sf.file_spec, sizeof(sf.file_spec), "file:%s", sf.file_path);
	ck_assert_int_eq(loop_new(&sf.loop), 0);
}

void serial_teardown(void)
{
	serial_free(sf.serial);
	loop_free(sf.loop);
	(void)unlink(sf.file_path);
	(void)unlink(sf.sock_path);
	ck_assert_int_eq(rmdir(sf.dir), 0);
}

uint8_t uart_in(unsigned reg)
{
	uint8_t v;

	io_bus_access(&sf.bus, false, (uint16_t)(SERIAL_PORT + reg), 1, &v);
	return v;
}

void uart_out(unsigned reg, uint8_t v)
{
	io_bus_access(&sf.bus, true, (uint16_t)(SERIAL_PORT + reg), 1, &v);
}

void send_text(const char *text)
{
	for (; *text; text++)
		uart_out(DATA, (uint8_t)*text);
}

int connect_client(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(addr.sun_path, sf.sock_path, strlen(sf.sock_path) + 1);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

size_t read_some(int fd, void *to, size_t len)
{
	size_t got = 0;

	for (int idle = 0; got < len && idle < 3;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		pump_loop();
		if (poll(&p, 1, 0) == 0) {
			idle++;
			continue;
		}
		n = read(fd, (char *)to + got, len - got);
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	return got;
}

void expect_text(int fd, const char *text)
{
	char got[256] = "";
	size_t n = read_some(fd, got, strlen(text));

	ck_assert_uint_eq(n, strlen(text));
	ck_assert_str_eq(got, text);
}

bool closed_by_peer(int fd)
{
	char c;

	pump_loop();
	return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

size_t fill_ring(void)
{
	size_t n = 0;

	for (; uart_in(LSR) & THRE; n++) {
		ck_assert_uint_lt(n, 10u << 20);
		uart_out(DATA, (uint8_t)(n % 251));
		if (n % 4096 == 0)
			(void)loop_step(sf.loop, 0);
	}
	return n;
}

void expect_pattern(int fd, size_t first, size_t n)
{
	uint8_t *got = malloc(n);

	ck_assert_uint_eq(read_some(fd, got, n), n);
	for (size_t i = 0; i < n; i++)
		ck_assert_uint_eq(got[i], (first + i) % 251);
	free(got);
}
