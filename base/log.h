/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines for the operator, on standard error: "ferry: text\n", "ferry: warning: text\n".
 * One write(2) a line, so that lines of several threads never mix. Any thread may call.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
