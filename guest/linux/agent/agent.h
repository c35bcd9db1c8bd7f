/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent: init of the Linux test image. It takes commands, a line each, on a serial line, and
 * answers each with one last line:
 *
 *	agent: COMMAND ok key=value ...
 *	agent: COMMAND FAILED why
 *
 * guest/linux/README.md lists the commands.
 *
 * Threads: commands run one after the other in the main thread. What a command leaves running (a
 * writer, an echo, a clock watcher, the power button) has a thread of its own, which shares only
 * what its file says, and speaks only through say().
 */
#ifndef GUEST_LINUX_AGENT_H
#define GUEST_LINUX_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#define WORDS_MAX 8

/* A command's words: w[0] is its name, w[n] and on are "". rest: all behind the name. */
struct words {
	int n;
	const char *w[WORDS_MAX];
	const char *rest;
};

typedef void command_fn(const struct words *c);

/* One whole line, prefixed "agent: "; any thread. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The last line of an answer. */
void say_ok(const struct words *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void say_failed(const struct words *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A decimal number up to max; -1 if it is none. */
int64_t number(const char *text, int64_t max);
uint64_t now_ns(void);
/* A detached thread; false when there is none to be had. */
bool spawn(void *(*fn)(void *), void *arg);

/* store.c: memory and files full of pages that can be told wrong */
command_fn do_fill, do_file, do_churn, do_check, do_free;
/* net.c */
command_fn do_net, do_ping;
/* echo.c: bytes come back, on a TCP port or a terminal */
command_fn do_echo;
/* watch.c: the clock as user space sees it */
command_fn do_blackout, do_uptime, do_cpus;
/* power.c */
command_fn do_poweroff, do_reboot;
void power_button_watch(void);

#endif
