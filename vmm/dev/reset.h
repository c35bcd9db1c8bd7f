/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a guest ends its machine: the keyboard controller's reset line (ports 0x60 and 0x64), the
 * reset control register (port 0xcf9), and, where asked for, isa-debug-exit (port 0xf4).
 *
 * The keyboard controller has neither keyboard nor mouse. It answers its self-test and knows its
 * command byte, so that an operating system that looks for it finds it at rest.
 *
 * Threads: any; it has its own lock. The callbacks run in the vCPU's thread, with no lock held.
 */
#ifndef VMM_DEV_RESET_H
#define VMM_DEV_RESET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "vmm/dev/bus.h"

#define RESET_DEBUG_EXIT_PORT 0xf4
#define RESET_CONTROL_PORT    0xcf9
#define RESET_CONTROL_NOW     0x06 /* written there: a full reset */

struct reset;

struct reset_config {
	struct io_bus *bus;
	bool debug_exit; /* is there a port 0xf4? */
	void (*on_reset)(void *ctx);
	void (*on_debug_exit)(void *ctx, uint32_t value); /* what the guest wrote, 1 to 4 bytes */
	void *ctx;
};

struct reset_state {
	uint8_t control;     /* port 0xcf9 */
	uint8_t config;      /* the keyboard controller's command byte */
	uint8_t expect;      /* command whose data byte has not come yet: 0x60, 0xd1, or 0 */
	uint8_t output;      /* byte that waits to be read at port 0x60 ... */
	uint8_t output_full; /* ... if this is 1 */
};

extern const struct field_table reset_table;

int reset_new(struct reset **out, const struct reset_config *cfg, struct err *e);
void reset_free(struct reset *r);

void reset_save(struct reset *r, struct reset_state *out);
int reset_check(const struct reset_state *st, struct err *e); /* -EINVAL */
/* Take over a state that reset_check() has passed. */
void reset_load(struct reset *r, const struct reset_state *st);

#endif
