/* SPDX-License-Identifier: Apache-2.0 */
/* The UART: registers, flow control, state, threads. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "tests/unit/support/serial_fixture.h"

START_TEST(after_reset)
{
	open_serial("none");
	ck_assert_uint_eq(uart_in(LSR), 0x60);
	ck_assert_uint_eq(uart_in(MSR), 0xb0);
	ck_assert_uint_eq(uart_in(IIR), 0x01);
	ck_assert_uint_eq(uart_in(IER), 0);
	ck_assert_uint_eq(uart_in(LCR), 0);
	ck_assert_uint_eq(uart_in(MCR), 0);
	ck_assert_uint_eq(uart_in(DATA), 0);
	ck_assert(!sf.irq);
	ck_assert_str_eq(serial_backend_name(sf.serial), "none");
}
END_TEST

START_TEST(stored_registers)
{
	open_serial("none");
	uart_out(SCR, 0x5a);
	uart_out(LCR, 0x83);
	uart_out(DATA, 0x12);
	uart_out(IER, 0x34);
	ck_assert_uint_eq(uart_in(DATA), 0x12);
	ck_assert_uint_eq(uart_in(IER), 0x34);
	uart_out(LCR, 0x03);
	ck_assert_uint_eq(uart_in(IER), 0);
	ck_assert_uint_eq(uart_in(LCR), 0x03);
	ck_assert_uint_eq(uart_in(SCR), 0x5a);
	uart_out(IER, 0xff);
	ck_assert_uint_eq(uart_in(IER), 0x0f);
	uart_out(MCR, 0xef);
	ck_assert_uint_eq(uart_in(MCR), 0x0f);
	uart_out(LSR, 0xff); /* read-only */
	ck_assert_uint_eq(uart_in(LSR), 0x60);
}
END_TEST

START_TEST(wide_access)
{
	uint8_t bytes[4] = {0, 0, 0, 0};

	open_serial("none");
	uart_out(LCR, 0x80);
	uart_out(DATA, 0x12);
	uart_out(IER, 0x34);
	io_bus_access(&sf.bus, false, SERIAL_PORT, 2, bytes);
	ck_assert_uint_eq(bytes[0], 0x12);
	ck_assert_uint_eq(bytes[1], 0x34);
	/* Beyond the last register: nobody's. */
	io_bus_access(&sf.bus, false, SERIAL_PORT + SCR, 2, bytes);
	ck_assert_uint_eq(bytes[0], 0xff);
}
END_TEST

START_TEST(transmit_interrupt)
{
	open_serial("none");
	uart_out(IER, 0x02);
	ck_assert(sf.irq);
	ck_assert_uint_eq(uart_in(IIR), 0x02);
	ck_assert(!sf.irq); /* reading took it back */
	ck_assert_uint_eq(uart_in(IIR), 0x01);
	uart_out(DATA, 'x');
	ck_assert(sf.irq);
	uart_out(IER, 0);
	ck_assert(!sf.irq);
	uart_out(IER, 0x02);
	ck_assert(sf.irq);
}
END_TEST

START_TEST(fifo_bits)
{
	open_serial("none");
	uart_out(FCR, 0xc0); /* without the enable bit nothing counts */
	ck_assert_uint_eq(uart_in(IIR), 0x01);
	uart_out(FCR, 0xc7);
	ck_assert_uint_eq(uart_in(IIR), 0xc1);
	uart_out(FCR, 0);
	ck_assert_uint_eq(uart_in(IIR), 0x01);
}
END_TEST

START_TEST(loopback_and_overrun)
{
	open_serial(sf.file_spec);
	uart_out(FCR, 0xc1); /* trigger level 14 */
	uart_out(MCR, 0x10);
	uart_out(IER, 0x05);
	for (int i = 0; i < 16; i++) {
		uart_out(DATA, (uint8_t)i);
		ck_assert_uint_eq(uart_in(IIR), i < 13 ? 0xcc : 0xc4);
	}
	ck_assert_uint_eq(uart_in(LSR), 0x61);
	uart_out(DATA, 99);
	ck_assert_uint_eq(uart_in(IIR), 0xc6); /* line status comes first */
	ck_assert_uint_eq(uart_in(LSR), 0x63);
	ck_assert_uint_eq(uart_in(LSR), 0x61);
	for (int i = 0; i < 16; i++)
		ck_assert_int_eq(uart_in(DATA), i);
	ck_assert_uint_eq(uart_in(LSR), 0x60);
	ck_assert(!sf.irq);

	uart_out(FCR, 0); /* without FIFO the newer byte overwrites */
	uart_out(DATA, 1);
	uart_out(DATA, 2);
	ck_assert_uint_eq(uart_in(LSR), 0x63);
	ck_assert_uint_eq(uart_in(DATA), 2);
	ck_assert_uint_eq(uart_in(LSR), 0x60);
}
END_TEST

START_TEST(fifo_clear)
{
	open_serial("none");
	uart_out(MCR, 0x10);
	uart_out(FCR, FIFO_ON);
	send_text("abc");
	uart_out(FCR, FIFO_ON | 0x02);
	ck_assert_uint_eq(uart_in(LSR), 0x60);
	send_text("abc");
	uart_out(FCR, FIFO_ON | 0x04); /* the transmitter's: nothing waits there */
	ck_assert_uint_eq(uart_in(DATA), 'a');
	uart_out(FCR, 0); /* switching clears */
	ck_assert_uint_eq(uart_in(LSR), 0x60);
}
END_TEST

START_TEST(modem_lines)
{
	open_serial("none");
	uart_out(IER, 0x08);
	uart_out(MCR, 0x1a); /* loopback with RTS and OUT2, as drivers probe */
	ck_assert(sf.irq);
	ck_assert_uint_eq(uart_in(IIR), 0x00);
	ck_assert_uint_eq(uart_in(MSR) & 0xf0, 0x90);
	ck_assert(!sf.irq);
	ck_assert_uint_eq(uart_in(MSR), 0x90); /* the deltas are gone */
	uart_out(MCR, 0x14);
	ck_assert_uint_eq(uart_in(MSR), 0x49);
	uart_out(MCR, 0x10);
	ck_assert_uint_eq(uart_in(MSR), 0x04); /* trailing edge of the ring */
	uart_out(MCR, 0x00);
	ck_assert_uint_eq(uart_in(MSR), 0xbb);
}
END_TEST

/* --- flow control --- */

static void check_flow(uint8_t fcr)
{
	uint8_t data[1000];
	size_t got = 0;
	int fd;

	open_serial(sf.sock_spec);
	uart_out(FCR, fcr);
	fd = connect_client();
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7);
	ck_assert_int_eq(send(fd, data, sizeof(data), 0), sizeof(data));
	pump_loop();
	for (int idle = 0; got < sizeof(data) && idle < 100; idle++) {
		struct serial_state st;

		serial_save(sf.serial, &st);
		ck_assert_int_eq(serial_check(&st, NULL), 0);
		while (uart_in(LSR) & 1) {
			ck_assert_uint_eq(uart_in(DATA), data[got]);
			got++;
			idle = 0;
			/* Now and then input comes while the guest is at it. */
			if (got % 5 == 0)
				(void)loop_step(sf.loop, 0);
		}
		for (int i = 0; i < 3; i++)
			(void)loop_step(sf.loop, 0);
		ck_assert_uint_eq(uart_in(LSR) & 0x02, 0);
	}
	ck_assert_uint_eq(got, sizeof(data));
	(void)close(fd);
}

START_TEST(input_waits_for_fifo)
{
	check_flow(FIFO_ON);
}
END_TEST

START_TEST(input_waits_without_fifo)
{
	check_flow(0);
}
END_TEST

START_TEST(input_waits_for_loopback)
{
	int fd;

	open_serial(sf.sock_spec);
	uart_out(FCR, FIFO_ON);
	uart_out(MCR, 0x10);
	fd = connect_client();
	ck_assert_int_eq(send(fd, "abc", 3, 0), 3);
	pump_loop();
	ck_assert_uint_eq(uart_in(LSR), 0x60);
	uart_out(MCR, 0);
	pump_loop();
	ck_assert_uint_eq(uart_in(DATA), 'a');
	(void)close(fd);
}
END_TEST

/* --- state --- */

START_TEST(paused_takes_no_input)
{
	struct serial_state before, after;
	int fd;

	open_serial(sf.sock_spec);
	uart_out(FCR, FIFO_ON);
	fd = connect_client();
	pump_loop();
	serial_pause(sf.serial);
	serial_save(sf.serial, &before);
	ck_assert_int_eq(send(fd, "abc", 3, 0), 3);
	pump_loop();
	serial_save(sf.serial, &after);
	ck_assert_int_eq(memcmp(&before, &after, sizeof(before)), 0);
	serial_resume(sf.serial);
	pump_loop();
	ck_assert_uint_eq(uart_in(DATA), 'a');
	ck_assert_uint_eq(uart_in(DATA), 'b');
	ck_assert_uint_eq(uart_in(DATA), 'c');
	(void)close(fd);
}
END_TEST

START_TEST(paused_output_goes_out)
{
	struct serial_state before, after;
	size_t n;
	int fd;

	open_serial(sf.sock_spec);
	fd = connect_client();
	pump_loop();
	n = fill_ring();
	uart_out(IER, 0x02);
	serial_pause(sf.serial);
	serial_save(sf.serial, &before);
	expect_pattern(fd, 0, n);
	serial_save(sf.serial, &after);
	ck_assert_int_eq(memcmp(&before, &after, sizeof(before)), 0);
	ck_assert(!sf.irq);
	serial_resume(sf.serial);
	ck_assert(sf.irq);
	ck_assert_uint_eq(uart_in(LSR), 0x60);
	(void)close(fd);
}
END_TEST

START_TEST(state_moves)
{
	struct serial_state st = {0}, got = {0};
	struct wbuf w;
	struct rbuf r;

	open_serial("none");
	uart_out(LCR, 0x80);
	uart_out(DATA, 1);
	uart_out(LCR, 0x03);
	uart_out(SCR, 0x77);
	uart_out(FCR, 0x41); /* trigger level 4 */
	uart_out(MCR, 0x1b);
	uart_out(IER, 0x01);
	send_text("abcde");
	serial_pause(sf.serial);
	serial_save(sf.serial, &st);
	ck_assert_int_eq(serial_check(&st, NULL), 0);
	wbuf_init(&w, ORDER_LITTLE, 1024);
	fields_encode(&w, &serial_table, &st);
	ck_assert_int_eq(wbuf_error(&w), 0);
	rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
	ck_assert_int_eq(fields_decode(&r, &serial_table, &got, NULL), 0);
	ck_assert(rbuf_done(&r));
	wbuf_free(&w);

	/* Into another one, at the other side. */
	serial_free(sf.serial);
	sf.irq = false;
	ck_assert_int_eq(try_open("none"), 0);
	ck_assert_int_eq(serial_check(&got, NULL), 0);
	serial_load(sf.serial, &got);
	ck_assert(sf.irq);
	serial_resume(sf.serial);
	ck_assert_uint_eq(uart_in(IIR), 0xc4);
	for (char c = 'a'; c <= 'e'; c++)
		ck_assert_int_eq(uart_in(DATA), c);
	ck_assert(!sf.irq);
	ck_assert_uint_eq(uart_in(SCR), 0x77);
	ck_assert_uint_eq(uart_in(LCR), 0x03);
	ck_assert_uint_eq(uart_in(MCR), 0x1b);
	uart_out(LCR, 0x83);
	ck_assert_uint_eq(uart_in(DATA), 1);
}
END_TEST

/* A guest that was held back by a full ring goes on where there is room. */
START_TEST(held_back_guest_moves)
{
	struct serial_state st;
	int fd;

	open_serial(sf.sock_spec);
	fd = connect_client();
	pump_loop();
	(void)fill_ring();
	uart_out(IER, 0x02);
	serial_pause(sf.serial);
	serial_save(sf.serial, &st);
	(void)close(fd);
	serial_free(sf.serial);
	loop_free(sf.loop);
	ck_assert_int_eq(loop_new(&sf.loop), 0);
	ck_assert_int_eq(try_open("none"), 0);
	serial_load(sf.serial, &st);
	ck_assert(!sf.irq);
	serial_resume(sf.serial);
	ck_assert(sf.irq);
	ck_assert_uint_eq(uart_in(LSR), 0x60);
}
END_TEST

START_TEST(impossible_states)
{
	struct serial_state good, st;
	struct err e = ERR_INIT;

	open_serial("none");
	serial_save(sf.serial, &good);
	ck_assert_int_eq(serial_check(&good, NULL), 0);
#define BAD(change)                                                  \
	do {                                                         \
		st = good;                                           \
		change;                                              \
		err_clear(&e);                                       \
		ck_assert_int_eq(serial_check(&st, &e), -EINVAL);    \
		ck_assert_ptr_nonnull(strstr(e.msg, "serial port")); \
	} while (0)
	BAD(st.ier = 0x10);
	BAD(st.fcr = 0xc0);
	BAD(st.fcr = 0x03);
	BAD(st.mcr = 0x20);
	BAD(st.lsr = 0x01);
	BAD(st.lsr = 0x20);
	BAD(st.lsr = 0; st.thr_int = 1);
	BAD(st.msr = 0x00);
	BAD(st.thr_int = 2);
	BAD(st.rx_count = 2);
	BAD(st.fcr = 1; st.rx_count = 17);
	BAD(st.rx_count = UINT32_MAX);
#undef BAD
}
END_TEST

/* --- threads --- */

static void *loop_thread(void *arg)
{
	(void)arg;
	(void)loop_run(sf.loop);
	return NULL;
}

#define MANY 200000

/* The client: read everything, slowly now and then, and send as much. */
static void *client_thread(void *arg)
{
	static uint8_t buf[4096];
	int fd = *(int *)arg;
	size_t got = 0, sent = 0;

	while (got < MANY || sent < MANY) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		p.events |= sent < MANY ? POLLOUT : 0;
		(void)poll(&p, 1, 1000);
		if (p.revents & POLLIN) {
			n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
			for (ssize_t i = 0; i < n; i++)
				ck_assert_uint_eq(buf[i], (got + (size_t)i) % 251);
			got += n > 0 ? (size_t)n : 0;
			if (got % 7 == 0)
				(void)usleep(300);
		}
		if (p.revents & POLLOUT && sent < MANY) {
			size_t len = MANY - sent < 1000 ? MANY - sent : 1000;

			for (size_t i = 0; i < len; i++)
				buf[i] = (uint8_t)((sent + i) % 253);
			n = send(fd, buf, len, MSG_DONTWAIT);
			sent += n > 0 ? (size_t)n : 0;
		}
	}
	return NULL;
}

START_TEST(both_ways_with_threads)
{
	pthread_t loop, client;
	size_t sent = 0, got = 0;
	int fd;

	ck_assert_int_eq(pthread_create(&loop, NULL, loop_thread, NULL), 0);
	ck_assert_int_eq(try_open(sf.sock_spec), 0); /* while the loop runs */
	serial_resume(sf.serial);
	uart_out(FCR, 0x81);
	fd = connect_client();
	/* Until the loop has taken the client in, the oldest output makes way. */
	ck_assert_int_eq(send(fd, "!", 1, 0), 1);
	while (!(uart_in(LSR) & 1))
		(void)usleep(100);
	ck_assert_uint_eq(uart_in(DATA), '!');
	ck_assert_int_eq(pthread_create(&client, NULL, client_thread, &fd), 0);
	while (sent < MANY || got < MANY) {
		uint8_t lsr = uart_in(LSR);

		for (int i = 0; lsr & THRE && i < SERIAL_FIFO_BYTES && sent < MANY; i++, sent++)
			uart_out(DATA, (uint8_t)(sent % 251));
		for (; uart_in(LSR) & 1; got++)
			ck_assert_uint_eq(uart_in(DATA), got % 253);
		if (got % 50 == 0) {
			serial_pause(sf.serial);
			serial_resume(sf.serial);
		}
	}
	ck_assert_int_eq(pthread_join(client, NULL), 0);
	loop_quit(sf.loop);
	ck_assert_int_eq(pthread_join(loop, NULL), 0);
	(void)close(fd);
}
END_TEST

SUITE_WITH("serial", serial_setup, serial_teardown, after_reset, stored_registers, wide_access,
	   transmit_interrupt, fifo_bits, loopback_and_overrun, fifo_clear, modem_lines,
	   input_waits_for_fifo, input_waits_without_fifo, input_waits_for_loopback,
	   paused_takes_no_input, paused_output_goes_out, state_moves, held_back_guest_moves,
	   impossible_states, both_ways_with_threads)
