/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guests' names and where their control sockets lie.
 *
 *	$XDG_RUNTIME_DIR/ferry/NAME.sock	if that is an absolute path to this user's directory
 *	/run/ferry/NAME.sock			else, for root
 *	/run/ferry/USER/NAME.sock		started by root with --user USER
 *	/tmp/ferry-UID/NAME.sock		else, for others
 *
 * A socket has mode 0600. Its directory must belong to the process's user and be writable for
 * nobody else; it is made with mode 0700 (/run/ferry: 0755 once --user has been used).
 *
 * Threads: any, on the caller's data. ctl_listen() changes the umask for a moment: before other
 * threads exist only.
 */
#ifndef VMM_CTL_PATH_H
#define VMM_CTL_PATH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define CTL_NAME_MAX   64
#define CTL_PATH_BYTES 108 /* sizeof(sun_path) */

/* Where to look; ctl_places_init() says where that is for this process, tests say otherwise. */
struct ctl_places {
	const char *runtime_dir; /* $XDG_RUNTIME_DIR, or NULL */
	const char *run_dir;     /* "/run/ferry" */
	const char *tmp_dir;     /* "/tmp" */
	uid_t uid;
};

void ctl_places_init(struct ctl_places *p);

/* 1 to 64 letters, digits, '.', '_' and '-', the first no '.' or '-'. -EINVAL with a message. */
int ctl_name_check(const char *name, struct err *e);
/* Fits into a socket address? -ENAMETOOLONG, -EINVAL (empty). */
int ctl_path_check(const char *path, struct err *e);

/* The default socket of a guest that this process's user (user: NULL), or root's --user, runs. */
int ctl_default_path(const struct ctl_places *p, const char *name, const char *user,
		     char out[CTL_PATH_BYTES], struct err *e);
/*
 * Make the directory of that socket, or check the one that is there. With `user`, root only: makes
 * it for owner:group, who are the user's. Must be called with the privileges to do so.
 */
int ctl_make_dir(const struct ctl_places *p, const char *user, uid_t owner, gid_t group,
		 struct err *e);

/* A socket that listens, and what is needed to remove only what is ours. */
struct ctl_socket {
	int fd;
	char path[CTL_PATH_BYTES];
	dev_t dev;
	ino_t ino;
};

/*
 * Listen at path with mode 0600. A socket that nobody listens on is replaced. -EADDRINUSE with "a
 * guest named ... is running" if somebody does, -EEXIST if another kind of file is in the way.
 * name: NULL if the path was not made from one.
 */
int ctl_listen(struct ctl_socket *out, const char *path, const char *name, struct err *e);
/* Remove the file if it is still the one that was made. Leaves fd alone. */
void ctl_unlink(const struct ctl_socket *s);

/*
 * Find a guest's socket: a target with a '/' is a path, another one is a name, looked for in all of
 * this user's places (root: in those of every --user as well). -ENOENT, or -EEXIST if there is more
 * than one, each with a message.
 */
int ctl_find(const struct ctl_places *p, const char *target, char out[CTL_PATH_BYTES],
	     struct err *e);

/* Call fn with every socket in those places; a non-zero result ends the walk and is returned. */
typedef int ctl_each_fn(void *ctx, const char *name, const char *path);
int ctl_each(const struct ctl_places *p, ctl_each_fn *fn, void *ctx);

#endif
