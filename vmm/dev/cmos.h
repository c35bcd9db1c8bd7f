/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PC's real-time clock and CMOS memory (MC146818): ports 0x70 (index) and 0x71 (data).
 *
 * Time is the host's wall clock in UTC plus the offset that the guest made by setting it, so it
 * goes on while the guest is moved. Register B chooses BCD or binary, 12 or 24 hours, and SET; A's
 * update-in-progress bit is on for the last 244 us of each second. There is no interrupt: alarm and
 * periodic interrupt can be programmed and never fire. Bytes that are no time and no status are
 * plain memory; those that tell the size of RAM are filled in at the start.
 *
 * Threads: any; it has its own lock.
 */
#ifndef VMM_DEV_CMOS_H
#define VMM_DEV_CMOS_H

#include <stdint.h>

#include "base/err.h"
#include "base/fields.h"
#include "vmm/dev/bus.h"

#define CMOS_PORT    0x70
#define CMOS_BYTES   128
#define CMOS_CENTURY 0x32 /* where the century is kept */

struct cmos;

struct cmos_state {
	uint8_t index;             /* 0 to 127 */
	uint8_t bytes[CMOS_BYTES]; /* the time bytes count only while register B's SET is on */
	uint64_t offset_s;         /* two's complement: guest's clock minus the host's */
};

extern const struct field_table cmos_table;

/* mem_bytes: RAM in all, in the PC layout of mem/mem.h. */
int cmos_new(struct cmos **out, struct io_bus *bus, uint64_t mem_bytes, struct err *e);
void cmos_free(struct cmos *c);

void cmos_save(struct cmos *c, struct cmos_state *out);
/* -EINVAL for an index or an offset (beyond 10,000 years) that cannot be. */
int cmos_check(const struct cmos_state *st, struct err *e);
/* Take over a state that cmos_check() has passed. */
void cmos_load(struct cmos *c, const struct cmos_state *st);

#endif
