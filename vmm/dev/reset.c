/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/reset.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "vmm/dev/bytes.h"

#define KBC_DATA    0x60
#define KBC_COMMAND 0x64
#define CONTROL_CPU 0x04 /* 0 to 1 resets */

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM      0x04 /* self-test passed, says the command byte */

#define CMD_READ_CONFIG   0x20
#define CMD_WRITE_CONFIG  0x60
#define CMD_TEST_MOUSE    0xa9
#define CMD_SELF_TEST     0xaa
#define CMD_TEST_KEYBOARD 0xab
#define CMD_READ_OUTPUT   0xd0
#define CMD_WRITE_OUTPUT  0xd1
#define CMD_PULSE         0xf0 /* 0xf0 to 0xff: the clear bits among the low four are pulsed */
#define OUTPUT_RUN        0x01 /* the output port's bit 0, and what pulses it */
#define OUTPUT_A20        0x02

struct reset {
	struct reset_config cfg;
	pthread_mutex_t lock; /* guards st */
	struct reset_state st;
};

static const struct field reset_fields[] = {
	FIELD(struct reset_state, control, FIELD_U8),
	FIELD(struct reset_state, config, FIELD_U8),
	FIELD(struct reset_state, expect, FIELD_U8),
	FIELD(struct reset_state, output, FIELD_U8),
	FIELD(struct reset_state, output_full, FIELD_U8),
};
FIELD_TABLE(reset_table, "reset", 1, reset_fields);

static void answer(struct reset_state *st, uint8_t byte)
{
	st->output = byte;
	st->output_full = 1;
}

/* A byte for port 0x64. True if it resets the machine. */
static bool command(struct reset_state *st, uint8_t cmd)
{
	st->expect = 0;
	switch (cmd) {
	case CMD_READ_CONFIG:
		answer(st, st->config);
		break;
	case CMD_SELF_TEST:
		st->config |= STATUS_SYSTEM;
		answer(st, 0x55); /* passed */
		break;
	case CMD_TEST_KEYBOARD:
	case CMD_TEST_MOUSE:
		answer(st, 0x01); /* clock line stuck low: nothing is connected */
		break;
	case CMD_READ_OUTPUT:
		answer(st, OUTPUT_RUN | OUTPUT_A20);
		break;
	case CMD_WRITE_CONFIG:
	case CMD_WRITE_OUTPUT:
		st->expect = cmd;
		break;
	default:
		return cmd >= CMD_PULSE && !(cmd & OUTPUT_RUN);
	}
	return false;
}

/* A byte for port 0x60. True if it resets the machine. */
static bool command_data(struct reset_state *st, uint8_t value)
{
	uint8_t cmd = st->expect;

	st->expect = 0;
	if (cmd == CMD_WRITE_CONFIG)
		st->config = value;
	/* A20 is always open; the reset line is in the same port. */
	return cmd == CMD_WRITE_OUTPUT && !(value & OUTPUT_RUN);
}

static bool write_control(struct reset_state *st, uint8_t value)
{
	bool rises = value & ~st->control & CONTROL_CPU;

	st->control = value;
	return rises;
}

static uint8_t reset_in_byte(void *dev, uint16_t port)
{
	struct reset *r = dev;
	uint8_t value;

	pthread_mutex_lock(&r->lock);
	switch (port) {
	case KBC_DATA:
		value = r->st.output;
		r->st.output_full = 0;
		break;
	case KBC_COMMAND:
		value = (uint8_t)((r->st.config & STATUS_SYSTEM) |
				  (r->st.output_full ? STATUS_OUTPUT_FULL : 0));
		break;
	default:
		value = r->st.control;
	}
	pthread_mutex_unlock(&r->lock);
	return value;
}

static void reset_out_byte(void *dev, uint16_t port, uint8_t value)
{
	struct reset *r = dev;
	bool reset;

	pthread_mutex_lock(&r->lock);
	switch (port) {
	case KBC_DATA:
		reset = command_data(&r->st, value);
		break;
	case KBC_COMMAND:
		reset = command(&r->st, value);
		break;
	default:
		reset = write_control(&r->st, value);
	}
	pthread_mutex_unlock(&r->lock);
	if (reset)
		r->cfg.on_reset(r->cfg.ctx);
}

static uint32_t reset_in(void *dev, uint16_t port, unsigned size)
{
	return io_in_bytes(reset_in_byte, dev, port, size);
}

static void reset_out(void *dev, uint16_t port, unsigned size, uint32_t value)
{
	io_out_bytes(reset_out_byte, dev, port, size, value);
}

static uint32_t debug_exit_in(void *dev, uint16_t port, unsigned size)
{
	(void)dev, (void)port, (void)size;
	return 0;
}

static void debug_exit_out(void *dev, uint16_t port, unsigned size, uint32_t value)
{
	struct reset *r = dev;

	(void)port, (void)size;
	r->cfg.on_debug_exit(r->cfg.ctx, value);
}

static const struct io_ops reset_ops = {.in = reset_in, .out = reset_out};
static const struct io_ops debug_exit_ops = {.in = debug_exit_in, .out = debug_exit_out};

int reset_new(struct reset **out, const struct reset_config *cfg, struct err *e)
{
	struct reset *r = calloc(1, sizeof(*r));
	int rc;

	if (!r)
		return err_set(e, ENOMEM, "out of memory for the reset ports");
	r->cfg = *cfg;
	rc = io_bus_add(cfg->bus, KBC_DATA, 1, &reset_ops, r);
	if (!rc)
		rc = io_bus_add(cfg->bus, KBC_COMMAND, 1, &reset_ops, r);
	if (!rc)
		rc = io_bus_add(cfg->bus, RESET_CONTROL_PORT, 1, &reset_ops, r);
	if (!rc && cfg->debug_exit)
		rc = io_bus_add(cfg->bus, RESET_DEBUG_EXIT_PORT, 4, &debug_exit_ops, r);
	if (rc) {
		free(r);
		return err_sys(e, -rc, "cannot claim the reset ports");
	}
	(void)pthread_mutex_init(&r->lock, NULL);
	*out = r;
	return 0;
}

void reset_free(struct reset *r)
{
	if (!r)
		return;
	(void)pthread_mutex_destroy(&r->lock);
	free(r);
}

void reset_save(struct reset *r, struct reset_state *out)
{
	pthread_mutex_lock(&r->lock);
	*out = r->st;
	pthread_mutex_unlock(&r->lock);
}

int reset_check(const struct reset_state *st, struct err *e)
{
	if (st->expect && st->expect != CMD_WRITE_CONFIG && st->expect != CMD_WRITE_OUTPUT)
		return err_set(e, EINVAL, "the keyboard controller's state cannot be: command 0x%x",
			       st->expect);
	if (st->output_full > 1)
		return err_set(e, EINVAL,
			       "the keyboard controller's state cannot be: %u bytes wait",
			       st->output_full);
	return 0;
}

void reset_load(struct reset *r, const struct reset_state *st)
{
	pthread_mutex_lock(&r->lock);
	r->st = *st;
	pthread_mutex_unlock(&r->lock);
}
