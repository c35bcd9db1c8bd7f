/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define LINE_BYTES 512

static int port = STDERR_FILENO;
static pthread_mutex_t port_lock = PTHREAD_MUTEX_INITIALIZER;

static void put_line(const char *line, size_t len)
{
	pthread_mutex_lock(&port_lock);
	while (len) {
		ssize_t n = write(port, line, len);

		if (n <= 0 && errno != EINTR)
			break;
		if (n > 0) {
			line += n;
			len -= (size_t)n;
		}
	}
	pthread_mutex_unlock(&port_lock);
}

static void vsay(const char *head, const char *verdict, const char *fmt, va_list ap)
{
	char line[LINE_BYTES];
	int n = snprintf(line, sizeof(line), "agent: %s%s", head, verdict);

	if (n > 0 && (size_t)n < sizeof(line))
		(void)vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
	n = (int)strnlen(line, sizeof(line) - 2);
	while (n && line[n - 1] == ' ')
		n--;
	line[n++] = '\n';
	put_line(line, (size_t)n);
}

void say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay("", "", fmt, ap);
	va_end(ap);
}

void say_ok(const struct words *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay(c->w[0], " ok ", fmt, ap);
	va_end(ap);
}

void say_failed(const struct words *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay(c->w[0], " FAILED ", fmt, ap);
	va_end(ap);
}

int64_t number(const char *text, int64_t max)
{
	char *end;
	long long n;

	if (!isdigit((unsigned char)*text))
		return -1;
	errno = 0;
	n = strtoll(text, &end, 10);
	return *end || errno || n > max ? -1 : n;
}

uint64_t now_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool spawn(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;
	bool ok;

	if (pthread_attr_init(&attr))
		return false;
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)pthread_attr_setstacksize(&attr, 128 << 10);
	ok = !pthread_create(&thread, &attr, fn, arg);
	(void)pthread_attr_destroy(&attr);
	return ok;
}

/* ---- commands that need no file of their own ---- */

static void do_mem(const struct words *c)
{
	static const char *const keys[][2] = {
		{"MemTotal", "total_kb"},         {"MemFree", "free_kb"},
		{"MemAvailable", "available_kb"}, {"Cached", "cached_kb"},
		{"AnonPages", "anon_kb"},         {"AnonHugePages", "huge_kb"},
	};
	char text[LINE_BYTES] = "", key[64];
	unsigned long long kb;
	FILE *f = fopen("/proc/meminfo", "re");

	if (!f) {
		say_failed(c, "cannot read /proc/meminfo: %s", strerror(errno));
		return;
	}
	while (fscanf(f, "%63[^:]: %llu kB\n", key, &kb) == 2 || fscanf(f, "%*[^\n]\n") == 0) {
		for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
			size_t at = strlen(text);

			if (!strcmp(key, keys[i][0]))
				(void)snprintf(text + at, sizeof(text) - at, "%s=%llu ", keys[i][1],
					       kb);
		}
	}
	(void)fclose(f);
	say_ok(c, "%s", text);
}

static void do_sh(const struct words *c)
{
	char *const argv[] = {"sh", "-c", (char *)c->rest, NULL};
	char *const envp[] = {"PATH=/bin:/sbin", "HOME=/", NULL};
	char line[LINE_BYTES / 2];
	posix_spawn_file_actions_t actions;
	int fds[2], status = 0, rc;
	pid_t pid;
	FILE *out;

	if (pipe2(fds, O_CLOEXEC)) {
		say_failed(c, "no pipe: %s", strerror(errno));
		return;
	}
	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	(void)posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
	(void)posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
	rc = posix_spawn(&pid, "/bin/busybox", &actions, NULL, argv, envp);
	(void)posix_spawn_file_actions_destroy(&actions);
	(void)close(fds[1]);
	out = fdopen(fds[0], "re");
	while (!rc && out && fgets(line, sizeof(line), out)) {
		line[strcspn(line, "\n")] = '\0';
		say("sh | %s", line);
	}
	if (out)
		(void)fclose(out);
	else
		(void)close(fds[0]);
	if (rc) {
		say_failed(c, "cannot start the shell: %s", strerror(rc));
		return;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	say_ok(c, "status=%d", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static command_fn do_help;

static const struct {
	const char *name;
	command_fn *fn;
	const char *usage;
} commands[] = {
	{"help", do_help, ""},
	{"mem", do_mem, ""},
	{"fill", do_fill, "MIB"},
	{"file", do_file, "PATH MIB"},
	{"churn", do_churn, "ID PAGES_PER_SECOND"},
	{"check", do_check, ""},
	{"free", do_free, "ID|all"},
	{"net", do_net, "INTERFACE IP/BITS"},
	{"ping", do_ping, "IP [COUNT]"},
	{"echo", do_echo, "PORT|PATH"},
	{"blackout", do_blackout, "start|read|stop"},
	{"uptime", do_uptime, ""},
	{"cpus", do_cpus, ""},
	{"sh", do_sh, "COMMAND"},
	{"poweroff", do_poweroff, ""},
	{"reboot", do_reboot, ""},
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void do_help(const struct words *c)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		say("help | %s %s", commands[i].name, commands[i].usage);
	say_ok(c, " ");
}

static void run_line(char *line)
{
	struct words c = {.n = 0, .rest = ""};
	char whole[LINE_BYTES], *save = NULL;

	(void)snprintf(whole, sizeof(whole), "%s", line + strspn(line, " \t"));
	c.rest = whole + strcspn(whole, " \t");
	c.rest += strspn(c.rest, " \t");
	for (char *w = strtok_r(line, " \t", &save); w && c.n < WORDS_MAX;
	     w = strtok_r(NULL, " \t", &save))
		c.w[c.n++] = w;
	for (int i = c.n; i < WORDS_MAX; i++)
		c.w[i] = "";
	if (!c.n)
		return;
	for (size_t i = 0; i < N_COMMANDS; i++) {
		if (!strcmp(c.w[0], commands[i].name)) {
			commands[i].fn(&c);
			return;
		}
	}
	say_failed(&c, "no such command; try help");
}

/* Commands from the port for ever. A line that is too long is refused whole. */
static void serve(void)
{
	char line[LINE_BYTES], c;
	size_t len = 0;
	bool too_long = false;

	for (;;) {
		ssize_t n = read(port, &c, 1);

		if (n != 1) { /* the line is not there (any more): wait for it */
			(void)sleep(1);
			continue;
		}
		if (c != '\n' && c != '\r') {
			too_long |= len == sizeof(line) - 1;
			if (!too_long && c)
				line[len++] = c;
			continue;
		}
		line[len] = '\0';
		if (too_long)
			say("FAILED a line has at most %d bytes", LINE_BYTES - 1);
		else
			run_line(line);
		len = 0;
		too_long = false;
		while (waitpid(-1, NULL, WNOHANG) > 0)
			; /* orphans of shell commands are init's */
	}
}

/* ---- start ---- */

static void mount_all(void)
{
	(void)mount("proc", "/proc", "proc", 0, NULL);
	(void)mount("sys", "/sys", "sysfs", 0, NULL);
	(void)mount("dev", "/dev", "devtmpfs", 0, NULL);
	(void)mount("tmp", "/tmp", "tmpfs", 0, NULL);
}

/* Linux keeps them off in small guests. They spare most of the page faults of a `fill`. */
static void allow_huge_pages(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "we");

	if (!f)
		return;
	(void)fputs("always\n", f);
	(void)fclose(f);
}

/* The kernel hands init what it does not know itself on its command line: agent_tty=hvc0. */
static void open_port(void)
{
	const char *tty = getenv("agent_tty");
	struct termios t;
	char path[64];
	int fd;

	(void)snprintf(path, sizeof(path), "/dev/%s", tty ? tty : "ttyS0");
	fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return;
	port = fd;
	if (tcgetattr(fd, &t))
		return;
	cfmakeraw(&t);
	(void)tcsetattr(fd, TCSANOW, &t);
}

int main(void)
{
	mount_all();
	allow_huge_pages();
	open_port();
	(void)signal(SIGPIPE, SIG_IGN);
	power_button_watch();
	say("ready cpus=%d mem_kb=%lu uptime_ms=%llu", get_nprocs(),
	    (unsigned long)((uint64_t)sysconf(_SC_PHYS_PAGES) * 4),
	    (unsigned long long)(now_ns() / 1000000));
	serve();
}
