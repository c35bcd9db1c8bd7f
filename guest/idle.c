/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Does nothing: one halted vCPU that nothing can wake.
 */
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/say.h"

GUEST_NAME("idle");
GUEST_NOTE_32;

void guest_main(void)
{
	say("%n: ready\n");
	halt_forever();
}
