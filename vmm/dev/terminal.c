/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved; /* does not change while `raw` is set */
static volatile sig_atomic_t raw;

void terminal_restore(void)
{
	int err = errno;

	/* The shell gives the next job a terminal of its own liking. */
	if (raw && tcgetpgrp(STDIN_FILENO) == getpgrp())
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	raw = 0;
	errno = err;
}

static void on_fatal_signal(int sig)
{
	terminal_restore();
	(void)raise(sig); /* the handler is gone: this time it is fatal */
}

static void catch_fatal_signals(void)
{
	static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};
	struct sigaction ours = {.sa_handler = on_fatal_signal, .sa_flags = (int)SA_RESETHAND}, old;

	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
		/* A sanitizer's handler stays. */
		if (!sigaction(fatal[i], NULL, &old) && old.sa_handler == SIG_DFL)
			(void)sigaction(fatal[i], &ours, NULL);
	}
}

bool terminal_make_raw(void)
{
	struct termios t;

	if (tcgetattr(STDIN_FILENO, &t))
		return false;
	saved = t;
	t.c_iflag &= (tcflag_t) ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
	t.c_lflag &= (tcflag_t) ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	catch_fatal_signals();
	raw = 1;
	if (!tcsetattr(STDIN_FILENO, TCSANOW, &t))
		return true;
	raw = 0;
	return false;
}
