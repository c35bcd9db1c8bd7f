/* SPDX-License-Identifier: Apache-2.0 */
/* Names, places and sockets of guests, below a directory of the test's own. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "vmm/ctl/path.h"

static char base[] = "/tmp/ferry-test-XXXXXX";
static char runtime_dir[64], run_dir[64], tmp_dir[64];
static struct ctl_places places;
static struct err err;

static void setup(void)
{
	strcpy(base, "/tmp/ferry-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(base));
	(void)snprintf(runtime_dir, sizeof(runtime_dir), "%s/user", base);
	(void)snprintf(run_dir, sizeof(run_dir), "%s/run", base);
	(void)snprintf(tmp_dir, sizeof(tmp_dir), "%s/tmp", base);
	ck_assert_int_eq(mkdir(runtime_dir, 0700) | mkdir(tmp_dir, 0777), 0);
	places = (struct ctl_places){runtime_dir, run_dir, tmp_dir, geteuid()};
	err_clear(&err);
}

static void teardown(void)
{
	char command[64];

	(void)snprintf(command, sizeof(command), "rm -rf %s", base);
	ck_assert_int_eq(system(command), 0);
}

static const char *in_base(const char *rest)
{
	static char path[256];

	(void)snprintf(path, sizeof(path), "%s/%s", base, rest);
	return path;
}

static unsigned mode_of(const char *path)
{
	struct stat st;

	ck_assert_int_eq(lstat(path, &st), 0);
	return st.st_mode & 0777;
}

START_TEST(default_places)
{
	char path[CTL_PATH_BYTES];

	ck_assert_int_eq(ctl_default_path(&places, "vm", NULL, path, &err), 0);
	ck_assert_str_eq(path, in_base("user/ferry/vm.sock"));
	ck_assert_int_eq(ctl_default_path(&places, "vm", "bob", path, &err), 0);
	ck_assert_str_eq(path, in_base("run/bob/vm.sock"));
	places.runtime_dir = NULL;
	places.uid = 0;
	ck_assert_int_eq(ctl_default_path(&places, "vm", NULL, path, &err), 0);
	ck_assert_str_eq(path, in_base("run/vm.sock"));
	places.uid = 1000;
	ck_assert_int_eq(ctl_default_path(&places, "vm", NULL, path, &err), 0);
	ck_assert_str_eq(path, in_base("tmp/ferry-1000/vm.sock"));
}
END_TEST

/* The environment of su and sudo may name the directory of another user. */
START_TEST(runtime_dir_of_this_user)
{
	struct ctl_places p;

	ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", runtime_dir, 1), 0);
	ctl_places_init(&p);
	ck_assert_str_eq(p.runtime_dir, runtime_dir);
	ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", in_base("nothing"), 1), 0);
	ctl_places_init(&p);
	ck_assert_ptr_null(p.runtime_dir);
	ck_assert_int_eq(symlink(runtime_dir, in_base("link")), 0);
	ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", in_base("link"), 1), 0);
	ctl_places_init(&p);
	ck_assert_ptr_null(p.runtime_dir);
	if (geteuid() != 0)
		return; /* only root can give a directory away */
	ck_assert_int_eq(chown(runtime_dir, 65534, 65534), 0);
	ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", runtime_dir, 1), 0);
	ctl_places_init(&p);
	ck_assert_ptr_null(p.runtime_dir);
}
END_TEST

START_TEST(too_long)
{
	char path[CTL_PATH_BYTES], name[CTL_NAME_MAX + 1];

	memset(name, 'n', CTL_NAME_MAX);
	name[CTL_NAME_MAX] = '\0';
	ck_assert_int_eq(ctl_name_check(name, &err), 0);
	places.runtime_dir = "/tmp/a/rather/long/way/to/a/directory/that/takes/all/of/the/room";
	ck_assert_int_eq(ctl_default_path(&places, name, NULL, path, &err), -ENAMETOOLONG);
	ck_assert_ptr_nonnull(strstr(err.msg, "--control"));
}
END_TEST

START_TEST(directories)
{
	const char *own = in_base("user/ferry");

	ck_assert_int_eq(ctl_make_dir(&places, NULL, 0, 0, &err), 0);
	ck_assert_uint_eq(mode_of(own), 0700);
	ck_assert_int_eq(ctl_make_dir(&places, NULL, 0, 0, &err), 0);
	/* Others could exchange the socket. */
	ck_assert_int_eq(chmod(own, 0770), 0);
	ck_assert_int_eq(ctl_make_dir(&places, NULL, 0, 0, &err), -EPERM);
	ck_assert_int_eq(rmdir(own), 0);
	/* A link could lead anywhere. */
	ck_assert_int_eq(symlink(tmp_dir, own), 0);
	err_clear(&err);
	ck_assert_int_eq(ctl_make_dir(&places, NULL, 0, 0, &err), -EPERM);
	ck_assert_int_eq(unlink(own), 0);
	ck_assert_int_eq(close(creat(own, 0600)), 0);
	err_clear(&err);
	ck_assert_int_eq(ctl_make_dir(&places, NULL, 0, 0, &err), -EPERM);
	places.runtime_dir = "/nonexistent";
	err_clear(&err);
	ck_assert_int_eq(ctl_make_dir(&places, NULL, 0, 0, &err), -ENOENT);
}
END_TEST

START_TEST(directory_of_another)
{
	const char *own = in_base("user/ferry");

	if (geteuid() != 0) {
		printf("SKIP only root can give a directory away\n");
		return;
	}
	ck_assert_int_eq(mkdir(own, 0700), 0);
	ck_assert_int_eq(chown(own, 65534, 65534), 0);
	ck_assert_int_eq(ctl_make_dir(&places, NULL, 0, 0, &err), -EPERM);
}
END_TEST

START_TEST(directory_of_user)
{
	struct stat st;

	if (geteuid() != 0) {
		printf("SKIP only root can give a directory away\n");
		return;
	}
	ck_assert_int_eq(mkdir(run_dir, 0700), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_msg(!ctl_make_dir(&places, "bob", 65534, 65533, &err), "%s", err.msg);
	ck_assert_uint_eq(mode_of(run_dir), 0755);
	ck_assert_int_eq(stat(in_base("run/bob"), &st), 0);
	ck_assert_uint_eq(st.st_uid, 65534);
	ck_assert_uint_eq(st.st_gid, 65533);
	ck_assert_uint_eq(st.st_mode & 0777, 0700);
}
END_TEST

static int listen_at(struct ctl_socket *s, const char *path)
{
	err_clear(&err);
	return ctl_listen(s, path, "vm", &err);
}

START_TEST(listening)
{
	struct ctl_socket a, b;
	char path[256];

	(void)snprintf(path, sizeof(path), "%s", in_base("user/s"));
	ck_assert_int_eq(listen_at(&a, path), 0);
	ck_assert_uint_eq(mode_of(path), 0600);
	/* Alive. */
	ck_assert_int_eq(listen_at(&b, path), -EADDRINUSE);
	ck_assert_ptr_nonnull(strstr(err.msg, "a guest named 'vm' is running"));
	/* Stale: its process was killed. */
	(void)close(a.fd);
	ck_assert_int_eq(listen_at(&b, path), 0);
	/* The first one's clean-up leaves the second one's alone, even though it has the path. */
	a.ino++;
	ctl_unlink(&a);
	ck_assert_uint_eq(mode_of(path), 0600);
	ctl_unlink(&b);
	ck_assert_int_eq(access(path, F_OK), -1);
	(void)close(b.fd);
	/* Something else is never removed. */
	ck_assert_int_eq(close(creat(path, 0600)), 0);
	ck_assert_int_eq(listen_at(&b, path), -EEXIST);
	ck_assert_int_eq(access(path, F_OK), 0);
	ck_assert_int_eq(listen_at(&b, in_base("nowhere/s")), -ENOENT);
	ck_assert_int_eq(listen_at(&b, ""), -EINVAL);
}
END_TEST

/* Somebody who holds the directory's lock for ever delays us, no more. */
START_TEST(lock_is_bounded)
{
	struct ctl_socket s;
	int fd = open(runtime_dir, O_RDONLY | O_DIRECTORY);
	char path[256];

	ck_assert_int_eq(flock(fd, LOCK_EX), 0);
	(void)snprintf(path, sizeof(path), "%s", in_base("user/s"));
	ck_assert_int_eq(listen_at(&s, path), 0);
	(void)close(s.fd);
	(void)close(fd);
}
END_TEST

static int count(void *ctx, const char *name, const char *path)
{
	(void)path;
	ck_assert_str_eq(name, "vm");
	++*(int *)ctx;
	return 0;
}

START_TEST(finding)
{
	struct ctl_socket a, b;
	char path[256], found[CTL_PATH_BYTES];
	int n = 0;

	if (geteuid() != 0) {
		printf("SKIP only root looks into the directories of all users\n");
		return;
	}
	ck_assert_int_eq(ctl_find(&places, "vm", found, &err), -ENOENT);
	ck_assert_int_eq(mkdir(run_dir, 0755) | mkdir(in_base("run/bob"), 0700) |
				 mkdir(in_base("user/ferry"), 0700),
			 0);
	(void)snprintf(path, sizeof(path), "%s", in_base("run/bob/vm.sock"));
	ck_assert_int_eq(listen_at(&a, path), 0);
	ck_assert_int_eq(ctl_find(&places, "vm", found, &err), 0);
	ck_assert_str_eq(found, path);
	/* Not sockets of guests. */
	ck_assert_int_eq(close(creat(in_base("run/bob/x.txt"), 0600)), 0);
	ck_assert_int_eq(close(creat(in_base("run/bob/.sock"), 0600)), 0);
	ck_assert_int_eq(close(creat(in_base("run/bob/a b.sock"), 0600)), 0);
	(void)snprintf(path, sizeof(path), "%s", in_base("user/ferry/vm.sock"));
	ck_assert_int_eq(listen_at(&b, path), 0);
	ck_assert_int_eq(ctl_each(&places, count, &n), 0);
	ck_assert_int_eq(n, 2);
	err_clear(&err);
	ck_assert_int_eq(ctl_find(&places, "vm", found, &err), -EEXIST);
	ck_assert_ptr_nonnull(strstr(err.msg, "more than one"));
	/* A stale one does not count. */
	(void)close(b.fd);
	ck_assert_int_eq(ctl_find(&places, "vm", found, &err), 0);
	ck_assert_str_eq(found, a.path);
	/* A path is taken as it is. */
	ck_assert_int_eq(ctl_find(&places, "/x/y", found, &err), 0);
	ck_assert_str_eq(found, "/x/y");
	err_clear(&err);
	ck_assert_int_eq(ctl_find(&places, "../vm", found, &err), 0);
	ck_assert_int_eq(ctl_find(&places, "", found, &err), -EINVAL);
	(void)close(a.fd);
}
END_TEST

SUITE_WITH("control paths", setup, teardown, default_places, runtime_dir_of_this_user, too_long,
	   directories, directory_of_another, directory_of_user, listening, lock_is_bounded,
	   finding)
