/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw mode of the terminal at standard input, and the way back from it however the process ends.
 *
 * A process has one such terminal, and a handler of a fatal signal has no argument to find it by:
 * its state is the process's, and kept here alone.
 */
#ifndef VMM_DEV_TERMINAL_H
#define VMM_DEV_TERMINAL_H

#include <stdbool.h>

/*
 * Typed bytes arrive at once and unchanged, Ctrl-C too; output keeps its newline translation. From
 * here on a fatal signal (SIGSEGV, SIGABRT, ...) puts the terminal back first. False: it cannot be.
 */
bool terminal_make_raw(void);

/*
 * Put it back as it was, unless it belongs to another job by now. Idempotent; fit for a signal
 * handler.
 */
void terminal_restore(void);

#endif
