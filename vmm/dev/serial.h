/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The 16550A UART of the first serial port: ports 0x3f8 to 0x3ff, IRQ 4.
 *
 * The register model is the 16550A's with these simplifications: a character takes no time to send
 * or to receive (the divisor is stored, nothing more), the receiver's character time-out comes at
 * once (so that input below the trigger level interrupts too), and the interrupt does not depend on
 * OUT2. There are no parity or framing errors and no breaks; an overrun can only happen in loopback
 * mode, because the back-end is read only as far as the FIFO has room.
 *
 * Input that arrived before the guest set up the port is lost if the guest clears the FIFO, as on
 * any 16550A: who talks to a guest waits for it to say that it is ready.
 *
 * Sent bytes go to the back-end at once. When its ring is nearly full LSR's THRE stays 0 until
 * there is room again for a whole FIFO, so a guest that honours THRE loses nothing.
 *
 * Threads: all functions may be called from any thread except where noted; the registers have a
 * lock of their own, under which irq.set() is called.
 */
#ifndef VMM_DEV_SERIAL_H
#define VMM_DEV_SERIAL_H

#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "base/loop.h"
#include "vmm/dev/bus.h"

#define SERIAL_PORT       0x3f8
#define SERIAL_GSI        4
#define SERIAL_FIFO_BYTES 16

struct chardev;
struct serial;

struct serial_config {
	struct io_bus *bus;
	struct irq_line irq;
	struct loop *loop;          /* the I/O thread's; outlives the serial port */
	const char *backend;        /* see chardev.h; NULL = none */
	void (*on_quit)(void *ctx); /* Ctrl-A x on the terminal (loop's thread); may be NULL */
	void *ctx;
};

/* All of the guest-visible state. */
struct serial_state {
	uint8_t ier, fcr, lcr, mcr, lsr, msr, scr, dll, dlm; /* lsr without DR: see rx_count */
	uint8_t thr_int; /* 1: the "transmitter empty" interrupt has not been taken yet */
	uint32_t rx_count;
	uint8_t rx[SERIAL_FIFO_BYTES]; /* oldest first */
};

extern const struct field_table serial_table;

/*
 * Build it, *paused*: registers as after reset, output works, input waits for serial_resume().
 * Errors are the back-end's (chardev_open()) and io_bus_add()'s; the bus is of no use after one.
 */
int serial_new(struct serial **out, const struct serial_config *cfg, struct err *e);
/* Only after the loop's thread has ended and no vCPU runs. NULL is fine. */
void serial_free(struct serial *s);

/* Its back-end, whose state moves beside the port's own. Owned by s. */
struct chardev *serial_chardev(struct serial *s);
/* Where the port is, for people and programs ("pty:/dev/pts/3"). Owned by s. */
const char *serial_backend_name(const struct serial *s);
/* Put the terminal back as it was; for exits that do not come by serial_free(). */
void serial_restore_terminal(struct serial *s);

/*
 * Stop taking input, and write out what can be written without waiting. After this the state does
 * not change but by the guest's own accesses. What is still queued stays here and goes out when the
 * back-end takes it. serial_resume() goes on; call it whenever the vCPUs begin to run.
 * Both are idempotent.
 */
void serial_pause(struct serial *s);
void serial_resume(struct serial *s);

/* While paused and no vCPU runs. */
void serial_save(struct serial *s, struct serial_state *out);
/* -EINVAL, naming the value, if no UART could be in that state. */
int serial_check(const struct serial_state *st, struct err *e);
/* Take over a state that serial_check() has passed, and drive the interrupt line to match. */
void serial_load(struct serial *s, const struct serial_state *st);

#endif
