/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void put_line(const char *head, const char *fmt, va_list ap)
{
	char line[1024];
	size_t len = strlen(head);

	memcpy(line, head, len + 1);
	(void)vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	len = strlen(line);
	line[len++] = '\n';
	/* A log that cannot be written has nobody left to tell. */
	(void)!write(STDERR_FILENO, line, len);
}

void log_info(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put_line("ferry: ", fmt, ap);
	va_end(ap);
}

void log_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	put_line("ferry: warning: ", fmt, ap);
	va_end(ap);
}
