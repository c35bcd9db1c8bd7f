/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/priv.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int priv_user(const char *name, struct priv_user *out, struct err *e)
{
	struct passwd *pw;

	if (geteuid() != 0)
		return err_set(e, EPERM, "--user %.64s: only root can become another user", name);
	errno = 0;
	pw = getpwnam(name);
	if (!pw && errno && errno != ENOENT)
		return err_sys(e, errno, "--user %.64s: cannot look up the user", name);
	if (!pw)
		return err_set(e, ENOENT, "--user %.64s: there is no such user", name);
	if (pw->pw_uid == 0)
		return err_set(e, EINVAL, "--user %.64s: this user is root: leave the option out",
			       name);
	/* The name becomes a directory. */
	if (strlen(pw->pw_name) >= PRIV_USER_MAX || strchr(pw->pw_name, '/') ||
	    pw->pw_name[0] == '.')
		return err_set(e, EINVAL, "--user %.64s: the name is not fit for a directory",
			       name);
	(void)snprintf(out->name, sizeof(out->name), "%s", pw->pw_name);
	out->uid = pw->pw_uid;
	out->gid = pw->pw_gid;
	return 0;
}

/* The bounding set can only be emptied by who may (CAP_SETPCAP); no_new_privs covers the others. */
static int drop_bounding_set(struct err *e)
{
	if (!capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP))
		return 0;
	capng_clear(CAPNG_SELECT_BOUNDS);
	if (capng_apply(CAPNG_SELECT_BOUNDS))
		return err_set(e, EPERM, "cannot empty the bounding set of capabilities");
	return 0;
}

static int become(const struct priv_user *u, struct err *e)
{
	if (initgroups(u->name, u->gid) || setresgid(u->gid, u->gid, u->gid) ||
	    setresuid(u->uid, u->uid, u->uid))
		return err_sys(e, errno, "cannot become user %s", u->name);
	/* There must be no way back. */
	if (!setresuid(0, 0, 0) || getuid() != u->uid || geteuid() != u->uid ||
	    getgid() != u->gid || getegid() != u->gid)
		return err_set(e, EPERM, "cannot become user %s for good", u->name);
	return 0;
}

int priv_drop(const struct priv_user *user, struct err *e)
{
	int rc;

	if (capng_get_caps_process())
		return err_set(e, EPERM, "cannot read this process's capabilities");
	rc = drop_bounding_set(e);
	if (!rc && user)
		rc = become(user, e);
	if (rc)
		return rc;
	capng_clear(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT);
	if (capng_apply(CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT))
		return err_set(e, EPERM, "cannot give up this process's capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_sys(e, errno, "cannot set no_new_privs");
	if (capng_get_caps_process() || capng_have_capabilities(CAPNG_SELECT_CAPS) != CAPNG_NONE)
		return err_set(e, EPERM, "capabilities are left that could not be given up");
	return 0;
}
