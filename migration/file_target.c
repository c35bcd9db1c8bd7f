/* SPDX-License-Identifier: Apache-2.0 */
#include "migration/file_target.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* A guest's memory is nobody else's business. */
#define MODE 0600

/* Symbolic links are followed: the file they lead to is the one that is replaced. */
static int resolve(struct mig_file_target *t, const char *path, struct err *e)
{
	char *copy, *real = realpath(path, NULL);
	struct stat st;

	if (!real && errno != ENOENT)
		return err_sys(e, errno, "cannot save to %.200s", path);
	if (real && (stat(real, &st) || !S_ISREG(st.st_mode))) {
		free(real);
		return err_set(e, EEXIST,
			       "cannot save to %.200s: it is there already, and no regular file",
			       path);
	}
	t->path = real ? real : strdup(path);
	copy = t->path ? strdup(t->path) : NULL;
	if (copy)
		t->dir = strdup(dirname(copy));
	free(copy);
	copy = t->path ? strdup(t->path) : NULL;
	if (copy)
		t->base = strdup(basename(copy));
	free(copy);
	if (!t->dir || !t->base)
		return err_set(e, ENOMEM, "out of memory");
	if (!path[0] || path[strlen(path) - 1] == '/' || strlen(t->base) > NAME_MAX)
		return err_set(e, EINVAL, "cannot save to '%.200s': this is no name of a file",
			       path);
	return 0;
}

static int make_temporary_name(struct mig_file_target *t, struct err *e)
{
	uint64_t number;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return err_sys(e, errno, "cannot make up a name");
	if (asprintf(&t->temporary, ".ferry-%016" PRIx64 ".tmp", number) < 0) {
		t->temporary = NULL;
		return err_set(e, ENOMEM, "out of memory");
	}
	return 0;
}

int mig_file_target_open(struct mig_file_target *t, const char *path, struct err *e)
{
	int rc;

	*t = (struct mig_file_target){.dir_fd = -1, .fd = -1};
	rc = resolve(t, path, e);
	if (!rc)
		rc = make_temporary_name(t, e);
	if (rc)
		return rc;
	t->dir_fd = open(t->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->dir_fd < 0)
		return err_sys(e, errno, "cannot save to %.200s", path);
	t->fd = openat(t->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, MODE);
	/* Some file systems know no files without a name. */
	if (t->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		t->fd = openat(t->dir_fd, t->temporary, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC,
			       MODE);
		t->named = t->fd >= 0;
	}
	if (t->fd < 0)
		return err_sys(e, errno, "cannot save to %.200s", path);
	return 0;
}

int mig_file_target_direct(struct mig_file_target *t, bool direct, struct err *e)
{
	int flags = fcntl(t->fd, F_GETFL);

	if (flags < 0)
		return err_sys(e, errno, "cannot save to %.200s", t->path);
	flags = direct ? flags | O_DIRECT : flags & ~O_DIRECT;
	if (fcntl(t->fd, F_SETFL, flags))
		return err_set(e, errno,
			       "cannot save to %.200s with direct I/O: the file system does not "
			       "offer it; leave the option out",
			       t->path);
	return 0;
}

int mig_file_target_publish(struct mig_file_target *t, struct err *e)
{
	char self[32];

	if (fsync(t->fd))
		return err_sys(e, errno, "cannot write %.200s to the disk", t->path);
	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", t->fd);
	if (!t->named && linkat(AT_FDCWD, self, t->dir_fd, t->temporary, AT_SYMLINK_FOLLOW))
		return err_sys(e, errno, "cannot give the saved guest its name %.200s", t->path);
	t->named = true;
	if (renameat(t->dir_fd, t->temporary, t->dir_fd, t->base))
		return err_sys(e, errno, "cannot give the saved guest its name %.200s", t->path);
	t->named = false;
	if (fsync(t->dir_fd))
		return err_sys(e, errno,
			       "the guest is saved in %.200s, but whether the name is on the disk "
			       "is not sure",
			       t->path);
	return 0;
}

void mig_file_target_close(struct mig_file_target *t)
{
	if (t->named)
		(void)unlinkat(t->dir_fd, t->temporary, 0);
	if (t->fd >= 0)
		(void)close(t->fd);
	if (t->dir_fd >= 0)
		(void)close(t->dir_fd);
	free(t->path);
	free(t->dir);
	free(t->base);
	free(t->temporary);
	*t = (struct mig_file_target){.dir_fd = -1, .fd = -1};
}
