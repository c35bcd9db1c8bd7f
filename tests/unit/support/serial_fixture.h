/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A serial port for tests: a bus, an interrupt line and a loop that the test itself steps. One a
 * process; every test (in its own process) begins with serial_setup().
 */
#ifndef TESTS_UNIT_SUPPORT_SERIAL_FIXTURE_H
#define TESTS_UNIT_SUPPORT_SERIAL_FIXTURE_H

#include <check.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/dev/serial.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR     IIR
#define THRE    0x20
#define FIFO_ON 0x01

struct serial_fixture {
	struct io_bus bus;
	struct loop *loop;
	struct serial *serial;
	struct err err;
	atomic_bool irq;
	unsigned irq_calls, quits;
	char dir[32], sock_path[64], sock_spec[80], file_path[64], file_spec[80];
};

extern struct serial_fixture sf;

void serial_setup(void);
void serial_teardown(void);

/* Run the loop for as long as there is something to do (the test is the I/O thread, too). */
void pump_loop(void);
int try_open(const char *backend);
/* Open, resume. */
void open_serial(const char *backend);

uint8_t uart_in(unsigned reg);
void uart_out(unsigned reg, uint8_t v);
void send_text(const char *text);

/* A client of the UNIX socket. */
int connect_client(void);
bool closed_by_peer(int fd);
/* Read what comes within a moment, at most len bytes. */
size_t read_some(int fd, void *to, size_t len);
void expect_text(int fd, const char *text);

/* Fill the ring against a client that does not read. Returns how many bytes were written. */
size_t fill_ring(void);
/* The bytes that fill_ring() writes, from the first-th on. */
void expect_pattern(int fd, size_t first, size_t n);

#endif
