/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/dev/bytes.h"
#include "vmm/dev/chardev.h"

/* Registers by port offset; the first two are the divisor while LCR's DLAB is set. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, N_REGS };

#define IER_RX     0x01
#define IER_TX     0x02
#define IER_LINE   0x04
#define IER_MODEM  0x08
#define IER_MASK   0x0f
#define IIR_MODEM  0x00
#define IIR_NONE   0x01
#define IIR_TX     0x02
#define IIR_RX     0x04
#define IIR_LINE   0x06
#define IIR_TIME   0x0c
#define IIR_FIFO   0xc0
#define FCR_ENABLE 0x01
#define FCR_CLR_RX 0x02
#define FCR_MASK   0xc9 /* what is kept: enable, DMA mode, trigger level */
#define LCR_DLAB   0x80
#define MCR_DTR    0x01
#define MCR_RTS    0x02
#define MCR_OUT1   0x04
#define MCR_OUT2   0x08
#define MCR_LOOP   0x10
#define MCR_MASK   0x1f
#define LSR_DR     0x01
#define LSR_OE     0x02
#define LSR_TX     0x60 /* THRE and TEMT: a byte that left the one has left the other */
#define MSR_TERI   0x04
#define MSR_DELTAS 0x0f
#define MSR_CTS    0x10
#define MSR_DSR    0x20
#define MSR_RI     0x40
#define MSR_DCD    0x80

struct serial {
	struct irq_line irq;
	struct chardev *chr;
	void (*on_quit)(void *ctx);
	void *ctx;

	pthread_mutex_t lock;   /* guards all below; taken before the chardev's own lock */
	struct serial_state st; /* st.lsr without DR, which is rx_count != 0 */
	bool irq_high;
	bool paused;
	bool input_waits; /* the chardev was told "no room" and waits for chardev_want_input() */
};

static const struct field serial_fields[] = {
	FIELD(struct serial_state, ier, FIELD_U8),
	FIELD(struct serial_state, fcr, FIELD_U8),
	FIELD(struct serial_state, lcr, FIELD_U8),
	FIELD(struct serial_state, mcr, FIELD_U8),
	FIELD(struct serial_state, lsr, FIELD_U8),
	FIELD(struct serial_state, msr, FIELD_U8),
	FIELD(struct serial_state, scr, FIELD_U8),
	FIELD(struct serial_state, dll, FIELD_U8),
	FIELD(struct serial_state, dlm, FIELD_U8),
	FIELD(struct serial_state, thr_int, FIELD_U8),
	FIELD(struct serial_state, rx_count, FIELD_U32),
	FIELD_RAW_VAR(struct serial_state, rx, rx_count),
};
FIELD_TABLE(serial_table, "serial", 1, serial_fields);

static unsigned fifo_size(const struct serial_state *st)
{
	return st->fcr & FCR_ENABLE ? SERIAL_FIFO_BYTES : 1;
}

static unsigned rx_trigger(const struct serial_state *st)
{
	static const uint8_t levels[] = {1, 4, 8, 14};

	return st->fcr & FCR_ENABLE ? levels[st->fcr >> 6] : 1;
}

/* The interrupt of the highest priority that is enabled and pending. */
static uint8_t pending(const struct serial_state *st)
{
	if (st->ier & IER_LINE && st->lsr & LSR_OE)
		return IIR_LINE;
	if (st->ier & IER_RX && st->rx_count)
		return st->rx_count >= rx_trigger(st) ? IIR_RX : IIR_TIME;
	if (st->ier & IER_TX && st->thr_int)
		return IIR_TX;
	if (st->ier & IER_MODEM && st->msr & MSR_DELTAS)
		return IIR_MODEM;
	return IIR_NONE;
}

static void drive_irq(struct serial *s)
{
	s->irq_high = pending(&s->st) != IIR_NONE;
	s->irq.set(s->irq.ctx, s->irq.gsi, s->irq_high);
}

static void update_irq(struct serial *s)
{
	if (s->irq_high != (pending(&s->st) != IIR_NONE))
		drive_irq(s);
}

/* The modem's lines as MSR shows them: a modem that is ready, or our own outputs in loopback. */
static uint8_t modem_lines(uint8_t mcr)
{
	if (!(mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)((mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
			 (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0));
}

/* Bytes that the receiver takes from outside now. */
static size_t rx_room(const struct serial *s)
{
	if (s->paused || s->st.mcr & MCR_LOOP)
		return 0;
	return fifo_size(&s->st) - s->st.rx_count;
}

/* Call for input again, but not for each byte that a guest takes from a full FIFO. */
static void want_input(struct serial *s)
{
	if (s->input_waits && rx_room(s) && s->st.rx_count <= fifo_size(&s->st) / 2)
		s->input_waits = chardev_want_input(s->chr) != 0;
}

static void receive(struct serial_state *st, uint8_t byte)
{
	if (st->rx_count < fifo_size(st)) {
		st->rx[st->rx_count++] = byte;
		return;
	}
	st->lsr |= LSR_OE;
	/* A full FIFO keeps what it has; a single register is overwritten. */
	if (!(st->fcr & FCR_ENABLE))
		st->rx[0] = byte;
}

static uint8_t take_received(struct serial *s)
{
	struct serial_state *st = &s->st;
	uint8_t byte = st->rx[0];

	if (!st->rx_count)
		return 0;
	st->rx_count--;
	memmove(st->rx, st->rx + 1, st->rx_count);
	want_input(s);
	return byte;
}

/* THRE promises room for a whole FIFO, whether or not the guest will use all of it. */
static void check_tx_room(struct serial *s)
{
	bool room = chardev_room(s->chr) >= SERIAL_FIFO_BYTES;

	if (room && !(s->st.lsr & LSR_TX)) {
		s->st.lsr |= LSR_TX;
		s->st.thr_int = 1;
	} else if (!room) {
		s->st.lsr &= (uint8_t)~LSR_TX;
		s->st.thr_int = 0;
	}
}

static void send(struct serial *s, uint8_t byte)
{
	if (s->st.mcr & MCR_LOOP) {
		receive(&s->st, byte);
		s->st.thr_int = 1;
		return;
	}
	chardev_write(s->chr, &byte, 1);
	s->st.thr_int = 1; /* sent already */
	check_tx_room(s);
}

static void write_ier(struct serial *s, uint8_t value)
{
	/* Enabling the transmitter's interrupt raises it if there is nothing left to send. */
	if (value & ~s->st.ier & IER_TX && s->st.lsr & LSR_TX)
		s->st.thr_int = 1;
	s->st.ier = value & IER_MASK;
}

static void write_fcr(struct serial *s, uint8_t value)
{
	struct serial_state *st = &s->st;

	if ((value ^ st->fcr) & FCR_ENABLE || value & FCR_CLR_RX)
		st->rx_count = 0;
	/* The other bits count only together with the enable bit. */
	st->fcr = value & FCR_ENABLE ? value & FCR_MASK : 0;
	want_input(s);
}

static void write_mcr(struct serial *s, uint8_t value)
{
	struct serial_state *st = &s->st;
	uint8_t old = st->msr & (uint8_t)~MSR_DELTAS, now;

	st->mcr = value & MCR_MASK;
	now = modem_lines(st->mcr);
	st->msr |= (uint8_t)((old ^ now) >> 4 & (MSR_DELTAS & ~MSR_TERI));
	if (old & ~now & MSR_RI)
		st->msr |= MSR_TERI;
	st->msr = (uint8_t)(now | (st->msr & MSR_DELTAS));
	want_input(s);
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t id = pending(&s->st);

	if (id == IIR_TX)
		s->st.thr_int = 0;
	return (uint8_t)(id | (s->st.fcr & FCR_ENABLE ? IIR_FIFO : 0));
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t value = (uint8_t)(s->st.lsr | (s->st.rx_count ? LSR_DR : 0));

	s->st.lsr &= (uint8_t)~LSR_OE;
	return value;
}

static uint8_t read_msr(struct serial *s)
{
	uint8_t value = s->st.msr;

	s->st.msr &= (uint8_t)~MSR_DELTAS;
	return value;
}

static uint8_t read_reg(struct serial *s, unsigned reg)
{
	bool dlab = s->st.lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		return dlab ? s->st.dll : take_received(s);
	case REG_IER:
		return dlab ? s->st.dlm : s->st.ier;
	case REG_IIR_FCR:
		return read_iir(s);
	case REG_LCR:
		return s->st.lcr;
	case REG_MCR:
		return s->st.mcr;
	case REG_LSR:
		return read_lsr(s);
	case REG_MSR:
		return read_msr(s);
	default:
		return s->st.scr;
	}
}

static void write_reg(struct serial *s, unsigned reg, uint8_t value)
{
	bool dlab = s->st.lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (dlab)
			s->st.dll = value;
		else
			send(s, value);
		break;
	case REG_IER:
		if (dlab)
			s->st.dlm = value;
		else
			write_ier(s, value);
		break;
	case REG_IIR_FCR:
		write_fcr(s, value);
		break;
	case REG_LCR:
		s->st.lcr = value;
		break;
	case REG_MCR:
		write_mcr(s, value);
		break;
	case REG_SCR:
		s->st.scr = value;
		break;
	default:
		break; /* LSR and MSR are read-only */
	}
}

static uint8_t serial_in_byte(void *dev, uint16_t port)
{
	struct serial *s = dev;
	uint8_t value;

	pthread_mutex_lock(&s->lock);
	value = read_reg(s, port - SERIAL_PORT);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return value;
}

static void serial_out_byte(void *dev, uint16_t port, uint8_t value)
{
	struct serial *s = dev;

	pthread_mutex_lock(&s->lock);
	write_reg(s, port - SERIAL_PORT, value);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

static uint32_t serial_in(void *dev, uint16_t port, unsigned size)
{
	return io_in_bytes(serial_in_byte, dev, port, size);
}

static void serial_out(void *dev, uint16_t port, unsigned size, uint32_t value)
{
	io_out_bytes(serial_out_byte, dev, port, size, value);
}

static const struct io_ops serial_ops = {.in = serial_in, .out = serial_out};

/* --- what the chardev asks and tells, in the loop's thread --- */

static size_t on_room(void *ctx)
{
	struct serial *s = ctx;
	size_t room;

	pthread_mutex_lock(&s->lock);
	room = rx_room(s);
	s->input_waits = room == 0;
	pthread_mutex_unlock(&s->lock);
	return room;
}

static size_t on_input(void *ctx, const uint8_t *data, size_t len)
{
	struct serial *s = ctx;
	size_t n;

	pthread_mutex_lock(&s->lock);
	n = rx_room(s);
	if (n >= len)
		n = len;
	else
		s->input_waits = true;
	for (size_t i = 0; i < n; i++)
		receive(&s->st, data[i]);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
	return n;
}

static void on_drained(void *ctx)
{
	struct serial *s = ctx;

	pthread_mutex_lock(&s->lock);
	if (!s->paused) {
		check_tx_room(s);
		update_irq(s);
	}
	pthread_mutex_unlock(&s->lock);
}

static void on_quit(void *ctx)
{
	struct serial *s = ctx;

	if (s->on_quit)
		s->on_quit(s->ctx);
}

/* --- life --- */

int serial_new(struct serial **out, const struct serial_config *cfg, struct err *e)
{
	struct serial *s = calloc(1, sizeof(*s));
	struct chardev_user user = {.ctx = s,
				    .room = on_room,
				    .input = on_input,
				    .drained = on_drained,
				    .quit = on_quit};
	int rc;

	if (!s)
		return err_set(e, ENOMEM, "out of memory for the serial port");
	s->irq = cfg->irq;
	s->on_quit = cfg->on_quit;
	s->ctx = cfg->ctx;
	s->paused = true;
	/* 9600 baud, as firmware leaves it. */
	s->st = (struct serial_state){.lsr = LSR_TX, .msr = modem_lines(0), .dll = 12};
	(void)pthread_mutex_init(&s->lock, NULL);
	rc = io_bus_add(cfg->bus, SERIAL_PORT, N_REGS, &serial_ops, s);
	if (rc)
		(void)err_sys(e, -rc, "cannot claim the serial port's I/O ports");
	else /* last: once it is open the loop may call */
		rc = chardev_open(&s->chr, cfg->backend ? cfg->backend : "none", cfg->loop, &user,
				  e);
	if (rc) {
		serial_free(s);
		return rc;
	}
	*out = s;
	return 0;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	chardev_free(s->chr);
	(void)pthread_mutex_destroy(&s->lock);
	free(s);
}

struct chardev *serial_chardev(struct serial *s)
{
	return s->chr;
}

const char *serial_backend_name(const struct serial *s)
{
	return chardev_name(s->chr);
}

void serial_restore_terminal(struct serial *s)
{
	chardev_restore_terminal(s->chr);
}

void serial_pause(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	s->paused = true;
	pthread_mutex_unlock(&s->lock);
	chardev_flush(s->chr);
}

void serial_resume(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	s->paused = false;
	check_tx_room(s);
	s->input_waits = true; /* what came meanwhile, here or where the guest was before */
	want_input(s);
	update_irq(s);
	pthread_mutex_unlock(&s->lock);
}

void serial_save(struct serial *s, struct serial_state *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->st;
	pthread_mutex_unlock(&s->lock);
}

static int bad_value(struct err *e, const char *name, unsigned value)
{
	return err_set(e, EINVAL, "the serial port's state cannot be: %s is 0x%x", name, value);
}

int serial_check(const struct serial_state *st, struct err *e)
{
	if (st->ier & ~IER_MASK)
		return bad_value(e, "IER", st->ier);
	if (st->fcr & ~FCR_MASK || (st->fcr && !(st->fcr & FCR_ENABLE)))
		return bad_value(e, "FCR", st->fcr);
	if (st->mcr & ~MCR_MASK)
		return bad_value(e, "MCR", st->mcr);
	if (st->lsr & ~(LSR_TX | LSR_OE) || (st->lsr & LSR_TX && (st->lsr & LSR_TX) != LSR_TX))
		return bad_value(e, "LSR", st->lsr);
	if ((st->msr & ~MSR_DELTAS) != modem_lines(st->mcr))
		return bad_value(e, "MSR", st->msr);
	if (st->thr_int > 1 || (st->thr_int && !(st->lsr & LSR_TX)))
		return bad_value(e, "the transmitter's interrupt", st->thr_int);
	if (st->rx_count > fifo_size(st))
		return bad_value(e, "the number of received bytes", st->rx_count);
	return 0;
}

void serial_load(struct serial *s, const struct serial_state *st)
{
	pthread_mutex_lock(&s->lock);
	s->st = *st;
	if (!s->paused)
		want_input(s);
	drive_irq(s);
	pthread_mutex_unlock(&s->lock);
}
