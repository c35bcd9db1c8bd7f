/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up privileges.
 *
 * Capabilities belong to threads, and nothing can take them from a thread that exists. So ferry
 * drops them while main() is the only thread, *before* the machine is built; vCPU, I/O and
 * migration threads are born without. The order of `ferry run`:
 *
 *	1. priv_user()		who is --user?
 *	2. ctl_make_dir()	/run/ferry/USER, needs root
 *	3. open /dev/kvm	with --user only: the user need not have access to it
 *	   open TAP interfaces	a new one, or one that is another user's, needs CAP_NET_ADMIN
 *	4. priv_drop()		ids, groups, capabilities, no_new_privs
 *	5. everything else: control socket, RAM, kernel image, serial port, migration sockets
 *
 * No capability is kept: all that a running VM does (KVM ioctls, its own memory, ordinary sockets
 * and files) needs none. The price: root's files are opened as uid 0 *without* the right to pass
 * over permissions, so an image that only another user may read needs --user with that user, and a
 * port below 1024 cannot be listened on.
 *
 * Because step 5 runs as the user, root never creates or renames a file in a directory that the
 * user controls.
 */
#ifndef VMM_PRIV_H
#define VMM_PRIV_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

#define PRIV_USER_MAX 64

struct priv_user {
	char name[PRIV_USER_MAX];
	uid_t uid;
	gid_t gid;
};

/* Look up --user. -EPERM unless we are root, -ENOENT, -EINVAL (root itself; a name not fit for a
 * path). */
int priv_user(const char *name, struct priv_user *out, struct err *e);

/*
 * Become *user (NULL: stay who we are) with its groups, clear every capability set (the bounding
 * set where that is allowed), set no_new_privs, and check that it worked. For good.
 * To be called once, in the only thread. After an error the process must not go on.
 */
int priv_drop(const struct priv_user *user, struct err *e);

#endif
