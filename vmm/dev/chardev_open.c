/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "vmm/dev/chardev_impl.h"
#include "vmm/dev/terminal.h"

static int set_name(struct chardev *c, const char *prefix, const char *path, struct err *e)
{
	if (asprintf(&c->name, "%s%s", prefix, path) < 0) {
		c->name = NULL;
		return err_set(e, ENOMEM, "out of memory for the serial port");
	}
	c->path = c->name + strlen(prefix);
	return 0;
}

/* A pipe's reader that goes away must not take the guest with it. */
static void ignore_sigpipe(void)
{
	struct sigaction old;

	if (!sigaction(SIGPIPE, NULL, &old) && old.sa_handler == SIG_DFL)
		(void)signal(SIGPIPE, SIG_IGN);
}

/* --- standard input and output --- */

static void open_stdin(struct chardev *c)
{
	if (fcntl(STDIN_FILENO, F_GETFD) < 0)
		return;
	if (isatty(STDIN_FILENO)) {
		/* A background job that touches its terminal is stopped. */
		if (tcgetpgrp(STDIN_FILENO) != getpgrp())
			return;
		c->terminal_raw = terminal_make_raw();
		if (c->terminal_raw)
			log_info("Ctrl-A x ends the guest");
	}
	c->in_fd = STDIN_FILENO;
}

/*
 * Descriptor 1 is shared with others (the shell, our own parent), so O_NONBLOCK is not ours to set
 * on it. A terminal or a pipe can be opened once more, as a description of our own.
 */
static void open_stdout(struct chardev *c)
{
	struct stat st;

	if (fstat(STDOUT_FILENO, &st))
		return;
	c->out_fd = STDOUT_FILENO;
	c->peer = true;
	if (S_ISSOCK(st.st_mode)) {
		c->out_how = OUT_SOCKET;
	} else if (S_ISFIFO(st.st_mode) || isatty(STDOUT_FILENO)) {
		int fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

		c->out_how = fd >= 0 ? OUT_NONBLOCK : OUT_POLL;
		if (fd >= 0)
			c->out_fd = fd;
	}
}

static int open_stdio(struct chardev *c, struct err *e)
{
	c->kind = CHARDEV_STDIO;
	ignore_sigpipe();
	open_stdin(c);
	open_stdout(c);
	return set_name(c, "stdio", "", e);
}

/* --- file --- */

static int open_file(struct chardev *c, const char *path, struct err *e)
{
	struct stat st;

	c->kind = CHARDEV_FILE;
	/* Non-blocking for what is no regular file: a FIFO without a reader is an error, no hang.
	 */
	c->out_fd =
		open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0644);
	if (c->out_fd < 0)
		return err_sys(e, errno, "cannot open '%s' for the serial port's output", path);
	if (!fstat(c->out_fd, &st) && !S_ISREG(st.st_mode)) {
		c->out_how = OUT_NONBLOCK;
		c->peer = true;
		ignore_sigpipe();
	}
	return set_name(c, "file:", path, e);
}

/* --- pty --- */

static int make_slave_raw(const char *slave)
{
	int fd = open(slave, O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios t;
	int rc = 0;

	if (fd < 0)
		return -errno;
	/* Also makes the pty one whose client has left, until somebody opens it. */
	if (tcgetattr(fd, &t))
		rc = -errno;
	cfmakeraw(&t);
	if (!rc && tcsetattr(fd, TCSANOW, &t))
		rc = -errno;
	(void)close(fd);
	return rc;
}

static int open_pty(struct chardev *c, struct err *e)
{
	char slave[64];
	int rc;

	c->kind = CHARDEV_PTY;
	c->in_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (c->in_fd < 0 || grantpt(c->in_fd) || unlockpt(c->in_fd) ||
	    ptsname_r(c->in_fd, slave, sizeof(slave)))
		return err_sys(e, errno, "cannot create a pty for the serial port");
	rc = make_slave_raw(slave);
	if (rc)
		return err_sys(e, -rc, "cannot set up '%s' for the serial port", slave);
	return set_name(c, "pty:", slave, e);
}

/* --- UNIX socket --- */

/*
 * Is somebody listening at this socket? A datagram socket cannot connect to a stream socket, but
 * the error tells a live one from a stale one, and the one who listens never sees it.
 */
static bool socket_is_alive(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool alive = fd < 0 || !connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) ||
		     errno != ECONNREFUSED;

	if (fd >= 0)
		(void)close(fd);
	return alive;
}

/* Make way for our socket: remove a stale one, refuse anything else. */
static int clear_path(const struct sockaddr_un *addr, struct err *e)
{
	struct stat st;

	if (lstat(addr->sun_path, &st))
		return 0; /* what is wrong with the path bind() will say */
	if (!S_ISSOCK(st.st_mode))
		return err_set(
			e, EEXIST,
			"'%s' exists and is no socket; remove it, or choose another path for "
			"the serial port",
			addr->sun_path);
	if (socket_is_alive(addr))
		return err_set(e, EADDRINUSE,
			       "'%s' is in use by a running process; choose another path for the "
			       "serial port",
			       addr->sun_path);
	if (unlink(addr->sun_path) && errno != ENOENT)
		return err_sys(e, errno, "cannot remove the stale socket '%s'", addr->sun_path);
	return 0;
}

static int open_unix(struct chardev *c, const char *path, struct err *e)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	struct stat st;
	int rc;

	c->kind = CHARDEV_UNIX;
	if (len >= sizeof(addr.sun_path))
		return err_set(e, ENAMETOOLONG,
			       "the serial port's socket path has %zu bytes, at most %zu are "
			       "possible: '%s'",
			       len, sizeof(addr.sun_path) - 1, path);
	memcpy(addr.sun_path, path, len + 1);
	rc = clear_path(&addr, e);
	if (rc)
		return rc;
	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* The file takes its mode from the socket, so nobody else can get in before a chmod(). */
	if (c->listen_fd < 0 || fchmod(c->listen_fd, 0600) ||
	    bind(c->listen_fd, (struct sockaddr *)&addr, sizeof(addr)))
		return err_sys(e, errno, "cannot create the serial port's socket '%s'", path);
	if (!stat(path, &st)) {
		c->path_dev = st.st_dev;
		c->path_ino = st.st_ino;
		c->path_ours = true;
	}
	rc = set_name(c, "unix:", path, e);
	if (rc)
		return rc;
	if (listen(c->listen_fd, 4))
		return err_sys(e, errno, "cannot listen on '%s'", path);
	return 0;
}

/* --- all --- */

static int open_spec(struct chardev *c, const char *spec, struct err *e)
{
	if (!strcmp(spec, "none"))
		return set_name(c, "none", "", e);
	if (!strcmp(spec, "stdio"))
		return open_stdio(c, e);
	if (!strcmp(spec, "pty"))
		return open_pty(c, e);
	if (!strncmp(spec, "file:", 5) && spec[5])
		return open_file(c, spec + 5, e);
	if (!strncmp(spec, "unix:", 5) && spec[5])
		return open_unix(c, spec + 5, e);
	return err_set(e, EINVAL,
		       "'%s' is no place for a serial port; possible are stdio, file:PATH, pty, "
		       "unix:PATH and none",
		       spec);
}

int chardev_open(struct chardev **out, const char *spec, struct loop *loop,
		 const struct chardev_user *user, struct err *e)
{
	struct chardev *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return err_set(e, ENOMEM, "out of memory for the serial port");
	c->loop = loop;
	c->user = *user;
	c->listen_fd = c->timer_fd = c->in_fd = c->out_fd = -1;
	(void)pthread_mutex_init(&c->input_lock, NULL);
	(void)pthread_mutex_init(&c->lock, NULL);
	rc = open_spec(c, spec, e);
	if (!rc && (c->kind == CHARDEV_UNIX || c->kind == CHARDEV_PTY)) {
		c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (c->timer_fd < 0)
			rc = err_sys(e, errno, "cannot create a timer for the serial port");
	}
	/* The loop may be running already: its thread sets up the watches. */
	if (!rc && loop_post(loop, chardev_start, c))
		rc = err_set(e, ENOMEM, "out of memory for the serial port");
	if (rc) {
		chardev_free(c);
		return rc;
	}
	*out = c;
	return 0;
}

static void close_fd(struct chardev *c, int fd)
{
	if (fd < 0)
		return;
	loop_remove(c->loop, fd);
	(void)close(fd);
}

void chardev_close_fds(struct chardev *c)
{
	struct stat st;

	if (c->path_ours && !lstat(c->path, &st) && st.st_dev == c->path_dev &&
	    st.st_ino == c->path_ino)
		(void)unlink(c->path);
	if (c->kind == CHARDEV_STDIO) {
		chardev_unwatch_input(c);
		if (c->out_watched)
			loop_remove(c->loop, c->out_fd);
	} else {
		close_fd(c, c->in_fd);
	}
	if (chardev_owns_output(c))
		close_fd(c, c->out_fd);
	close_fd(c, c->listen_fd);
	close_fd(c, c->timer_fd);
}
