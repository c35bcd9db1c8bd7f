/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/serial.h"

#include "guest/abi.h"
#include "guest/lib/cpu.h"

#define UART_DATA (GUEST_SERIAL_PORT + 0)
#define UART_IER  (GUEST_SERIAL_PORT + 1)
#define UART_FCR  (GUEST_SERIAL_PORT + 2)
#define UART_LCR  (GUEST_SERIAL_PORT + 3)
#define UART_MCR  (GUEST_SERIAL_PORT + 4)
#define UART_LSR  (GUEST_SERIAL_PORT + 5)

#define IER_RECEIVE 0x01
#define FCR_ON      0x01
#define LCR_8N1     0x03
#define LCR_DLAB    0x80
#define MCR_LINES   0x0b /* DTR, RTS, and OUT2, which gates the interrupt line */
#define LSR_DATA    0x01
#define LSR_THRE    0x20

#define FIFO_BYTES 16

/* Some seconds: a host may be slow to read, but must not hang the guest. */
#define THRE_POLLS 400000

void serial_init(void)
{
	outb(UART_IER, 0);
	outb(UART_LCR, LCR_DLAB | LCR_8N1);
	outb(UART_DATA, 1);
	outb(UART_IER, 0);
	outb(UART_LCR, LCR_8N1);
	outb(UART_FCR, FCR_ON);
	outb(UART_MCR, MCR_LINES);
}

void serial_irq(bool on)
{
	outb(UART_IER, on ? IER_RECEIVE : 0);
}

static void wait_room(void)
{
	for (unsigned int i = 0; i < THRE_POLLS; i++)
		if (inb(UART_LSR) & LSR_THRE)
			return;
}

void serial_write(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (i % FIFO_BYTES == 0)
			wait_room();
		outb(UART_DATA, (uint8_t)s[i]);
	}
}

int serial_getc(void)
{
	uint8_t lsr = inb(UART_LSR);

	/* All ones: no UART there. */
	if (lsr == 0xff || !(lsr & LSR_DATA))
		return -1;
	return inb(UART_DATA);
}
