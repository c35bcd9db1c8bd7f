/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ctl/path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SUFFIX ".sock"

#define LOCK_TRIES   50
#define LOCK_WAIT_NS (20 * 1000 * 1000)

_Static_assert(CTL_PATH_BYTES == sizeof(((struct sockaddr_un *)0)->sun_path), "socket path");

void ctl_places_init(struct ctl_places *p)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	struct stat st;

	*p = (struct ctl_places){.run_dir = "/run/ferry", .tmp_dir = "/tmp", .uid = geteuid()};
	/* su and sudo may leave another user's in the environment. */
	if (dir && dir[0] == '/' && !lstat(dir, &st) && S_ISDIR(st.st_mode) && st.st_uid == p->uid)
		p->runtime_dir = dir;
}

static bool name_char(char c, bool first)
{
	if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_')
		return true;
	return !first && (c == '.' || c == '-');
}

int ctl_name_check(const char *name, struct err *e)
{
	size_t len = strlen(name);
	bool good = len >= 1 && len <= CTL_NAME_MAX;

	for (size_t i = 0; good && i < len; i++)
		good = name_char(name[i], i == 0);
	if (!good)
		return err_set(e, EINVAL,
			       "'%.80s' is not fit for a guest's name: use 1 to %d letters, "
			       "digits, '.', '_' and '-' (not '.' or '-' in front)",
			       name, CTL_NAME_MAX);
	return 0;
}

int ctl_path_check(const char *path, struct err *e)
{
	if (!*path)
		return err_set(e, EINVAL, "the path of a socket is empty");
	if (strlen(path) >= CTL_PATH_BYTES)
		return err_set(e, ENAMETOOLONG,
			       "the path '%.120s' is too long for a socket (at most %d bytes): "
			       "choose a shorter one with --control",
			       path, CTL_PATH_BYTES - 1);
	return 0;
}

/* The directory of this process's sockets (or --user's). */
static void own_dir(const struct ctl_places *p, const char *user, char out[PATH_MAX])
{
	if (user)
		(void)snprintf(out, PATH_MAX, "%s/%s", p->run_dir, user);
	else if (p->runtime_dir)
		(void)snprintf(out, PATH_MAX, "%s/ferry", p->runtime_dir);
	else if (p->uid == 0)
		(void)snprintf(out, PATH_MAX, "%s", p->run_dir);
	else
		(void)snprintf(out, PATH_MAX, "%s/ferry-%u", p->tmp_dir, p->uid);
}

int ctl_default_path(const struct ctl_places *p, const char *name, const char *user,
		     char out[CTL_PATH_BYTES], struct err *e)
{
	char dir[PATH_MAX], path[PATH_MAX + CTL_NAME_MAX + sizeof(SUFFIX) + 1];
	int rc;

	own_dir(p, user, dir);
	(void)snprintf(path, sizeof(path), "%s/%s" SUFFIX, dir, name);
	rc = ctl_path_check(path, e);
	if (!rc)
		memcpy(out, path, strlen(path) + 1);
	return rc;
}

/* Make a directory, or check that the one that is there is ours alone to write to. */
static int make_dir(const char *dir, mode_t mode, uid_t owner, struct err *e)
{
	struct stat st;

	if (mkdir(dir, mode) && errno != EEXIST)
		return err_sys(
			e, errno,
			"cannot make the directory %s for the control socket (another place: "
			"--control)",
			dir);
	if (lstat(dir, &st))
		return err_sys(e, errno, "cannot look at the directory %s", dir);
	if (!S_ISDIR(st.st_mode) || st.st_uid != owner || (st.st_mode & 022))
		return err_set(e, EPERM,
			       "%s is not a directory that only its owner, uid %u, can write to: "
			       "remove it, or use --control",
			       dir, owner);
	return 0;
}

int ctl_make_dir(const struct ctl_places *p, const char *user, uid_t owner, gid_t group,
		 struct err *e)
{
	char dir[PATH_MAX];
	struct stat st;
	int rc;

	if (!user) {
		own_dir(p, NULL, dir);
		return make_dir(dir, 0700, p->uid, e);
	}
	rc = make_dir(p->run_dir, 0755, p->uid, e);
	if (rc)
		return rc;
	/* Only root can write to the directory above, so nobody can exchange this one meanwhile. */
	own_dir(p, user, dir);
	if (chmod(p->run_dir, 0755) || (mkdir(dir, 0700) && errno != EEXIST) || lstat(dir, &st))
		return err_sys(e, errno, "cannot make the directory %s", dir);
	if (S_ISDIR(st.st_mode) && lchown(dir, owner, group))
		return err_sys(e, errno, "cannot give the directory %s to user %s", dir, user);
	return make_dir(dir, 0700, owner, e);
}

/* ---- listening ---- */

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	memcpy(a.sun_path, path, strnlen(path, sizeof(a.sun_path) - 1));
	return a;
}

/* Does somebody listen there? 1 or 0; -errno if that cannot be told. */
static int is_live(const char *path)
{
	struct sockaddr_un a = address(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (fd < 0)
		return -errno;
	rc = connect(fd, (const struct sockaddr *)&a, sizeof(a)) ? errno : 0;
	(void)close(fd);
	if (rc == 0 || rc == EAGAIN)
		return 1;
	return rc == ECONNREFUSED || rc == ENOENT ? 0 : -rc;
}

/* Make way at path: nothing there, or a socket that nobody listens on. */
static int clear_path(const char *path, const char *name, struct err *e)
{
	struct stat st;
	int live;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : err_sys(e, errno, "cannot use the socket %s", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, EEXIST, "%s is in the way: it exists and is no socket", path);
	live = is_live(path);
	if (live > 0 && !name)
		return err_set(e, EADDRINUSE,
			       "a guest is running at %s already: choose another --control", path);
	if (live > 0)
		return err_set(e, EADDRINUSE,
			       "a guest named '%s' is running (%s): choose another --name", name,
			       path);
	if (live < 0)
		return err_sys(e, -live, "cannot use the socket %s", path);
	if (unlink(path) && errno != ENOENT)
		return err_sys(e, errno, "cannot remove the stale socket %s", path);
	return 0;
}

/*
 * Two processes that start with the same name at the same time would both find a socket that is
 * bound and not listened on yet: one waits for the other. If a stranger holds the lock (of a
 * directory like /tmp) that is all the same only a matter of that instant, so it is not insisted
 * on.
 */
static int lock_dir_of(const char *path)
{
	const struct timespec wait = {.tv_nsec = LOCK_WAIT_NS};
	char dir[CTL_PATH_BYTES];
	char *slash;
	int fd;

	(void)snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash)
		(void)snprintf(dir, sizeof(dir), ".");
	else
		slash[slash == dir] = '\0';
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; fd >= 0 && i < LOCK_TRIES; i++) {
		if (!flock(fd, LOCK_EX | LOCK_NB) || errno != EWOULDBLOCK)
			break;
		(void)nanosleep(&wait, NULL);
	}
	return fd;
}

static int bind_and_listen(struct ctl_socket *s, struct err *e)
{
	struct sockaddr_un a = address(s->path);
	struct stat st;
	mode_t old;
	int rc;

	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return err_sys(e, errno, "cannot make the control socket");
	/* The mode comes from the umask: the path never exists with a wider one. */
	old = umask(0177);
	rc = bind(s->fd, (const struct sockaddr *)&a, sizeof(a)) ? -errno : 0;
	(void)umask(old);
	if (!rc && (listen(s->fd, 16) || lstat(s->path, &st)))
		rc = -errno;
	if (rc) {
		(void)close(s->fd);
		return err_sys(e, -rc, "cannot listen on the control socket %s", s->path);
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	return 0;
}

int ctl_listen(struct ctl_socket *out, const char *path, const char *name, struct err *e)
{
	int lock, rc = ctl_path_check(path, e);

	if (rc)
		return rc;
	*out = (struct ctl_socket){.fd = -1};
	memcpy(out->path, path, strlen(path) + 1);
	lock = lock_dir_of(path);
	rc = clear_path(path, name, e);
	if (!rc)
		rc = bind_and_listen(out, e);
	if (lock >= 0)
		(void)close(lock);
	return rc;
}

void ctl_unlink(const struct ctl_socket *s)
{
	struct stat st;

	if (!lstat(s->path, &st) && st.st_dev == s->dev && st.st_ino == s->ino)
		(void)unlink(s->path);
}

/* ---- looking for guests ---- */

/* The sockets of one directory. A directory that is missing or closed to us has none. */
static int each_in(const char *dir, ctl_each_fn *fn, void *ctx)
{
	char path[PATH_MAX + NAME_MAX + 2], name[CTL_NAME_MAX + 1];
	const size_t suffix = strlen(SUFFIX);
	struct dirent *d;
	int rc = 0;
	DIR *h = opendir(dir);

	while (h && !rc && (d = readdir(h))) {
		size_t len = strlen(d->d_name);

		if (len <= suffix || len - suffix > CTL_NAME_MAX ||
		    strcmp(d->d_name + len - suffix, SUFFIX) != 0)
			continue;
		memcpy(name, d->d_name, len - suffix);
		name[len - suffix] = '\0';
		(void)snprintf(path, sizeof(path), "%s/%s", dir, d->d_name);
		if (strlen(path) < CTL_PATH_BYTES && !ctl_name_check(name, NULL))
			rc = fn(ctx, name, path);
	}
	if (h)
		(void)closedir(h);
	return rc;
}

/* Root: the directories of all --user below run_dir. Others: their own one there. */
static int each_user_dir(const struct ctl_places *p, ctl_each_fn *fn, void *ctx)
{
	char dir[PATH_MAX + NAME_MAX + 2];
	struct passwd *pw;
	struct dirent *d;
	int rc = 0;
	DIR *h;

	if (p->uid != 0) {
		pw = getpwuid(p->uid);
		if (!pw)
			return 0;
		(void)snprintf(dir, sizeof(dir), "%s/%s", p->run_dir, pw->pw_name);
		return each_in(dir, fn, ctx);
	}
	h = opendir(p->run_dir);
	while (h && !rc && (d = readdir(h))) {
		if (d->d_name[0] == '.')
			continue;
		(void)snprintf(dir, sizeof(dir), "%s/%s", p->run_dir, d->d_name);
		rc = each_in(dir, fn, ctx);
	}
	if (h)
		(void)closedir(h);
	return rc;
}

int ctl_each(const struct ctl_places *p, ctl_each_fn *fn, void *ctx)
{
	const struct ctl_places without = {
		.run_dir = p->run_dir, .tmp_dir = p->tmp_dir, .uid = p->uid};
	char dir[PATH_MAX];
	int rc = 0;

	if (p->runtime_dir) {
		own_dir(p, NULL, dir);
		rc = each_in(dir, fn, ctx);
	}
	/* A guest may have been started without the variable (by sudo, from a service). */
	own_dir(&without, NULL, dir);
	if (!rc)
		rc = each_in(dir, fn, ctx);
	return rc ? rc : each_user_dir(p, fn, ctx);
}

struct search {
	const char *name;
	unsigned found;
	char *first; /* CTL_PATH_BYTES */
	char second[CTL_PATH_BYTES];
};

static int match(void *ctx, const char *name, const char *path)
{
	struct search *s = ctx;

	if (strcmp(name, s->name) != 0 || is_live(path) == 0)
		return 0;
	if (!s->found++)
		(void)snprintf(s->first, CTL_PATH_BYTES, "%s", path);
	else if (strcmp(s->first, path) != 0)
		(void)snprintf(s->second, sizeof(s->second), "%s", path);
	return 0;
}

int ctl_find(const struct ctl_places *p, const char *target, char out[CTL_PATH_BYTES],
	     struct err *e)
{
	struct search s = {.name = target, .first = out};
	int rc;

	if (strchr(target, '/')) {
		rc = ctl_path_check(target, e);
		if (!rc)
			memcpy(out, target, strlen(target) + 1);
		return rc;
	}
	rc = ctl_name_check(target, e);
	if (rc)
		return rc;
	(void)ctl_each(p, match, &s);
	if (!s.found)
		return err_set(
			e, ENOENT,
			"no guest named '%s' is running ('ferry list' shows those that are; a "
			"socket made with --control is named by its path)",
			target);
	if (s.second[0])
		return err_set(e, EEXIST, "there is more than one guest named '%s': say %s or %s",
			       target, out, s.second);
	return 0;
}
