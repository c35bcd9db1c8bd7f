/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends each line of input back as "echo: LINE". Input comes by the UART's interrupt through the
 * I/O APIC, with nothing else to wake the vCPU. The line "quit" ends the guest.
 */
#include <stdbool.h>

#include "guest/abi.h"
#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/layout.h"
#include "guest/lib/pic.h"
#include "guest/lib/say.h"
#include "guest/lib/serial.h"
#include "guest/lib/trap.h"

#define RING_BYTES 4096
#define LINE_BYTES 200

GUEST_NAME("echo");
GUEST_NOTE_32;

/*
 * Filled by the interrupt, emptied by the main loop, which runs with interrupts off. While it is
 * full the UART keeps what comes, and its interrupt is off.
 */
static char ring[RING_BYTES];
static unsigned int ring_in, ring_out;
static bool held_back;

static void on_uart(void)
{
	int c;

	while (ring_in - ring_out < RING_BYTES && (c = serial_getc()) >= 0)
		ring[ring_in++ % RING_BYTES] = (char)c;
	held_back = ring_in - ring_out == RING_BYTES;
	if (held_back)
		serial_irq(false);
}

static void take_line(const char *line)
{
	say("%n: %s\n", line);
	if (!string_equal(line, "quit"))
		return;
	say("%n: done ok\n");
	guest_exit(GUEST_EXIT_OK);
}

void guest_main(void)
{
	char line[LINE_BYTES];
	unsigned int len = 0;

	trap_handle(VEC_UART, on_uart);
	ioapic_route(GUEST_SERIAL_IRQ, VEC_UART);
	serial_irq(true);
	say("%n: ready\n");
	for (;;) {
		while (ring_out != ring_in) {
			char c = ring[ring_out++ % RING_BYTES];

			if (c != '\n' && c != '\r' && len < LINE_BYTES - 1) {
				line[len++] = c;
				continue;
			}
			line[len] = '\0';
			if (len)
				take_line(line);
			len = 0;
		}
		if (held_back) {
			held_back = false;
			serial_irq(true);
		}
		wait_irq();
	}
}
