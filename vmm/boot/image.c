/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/boot/image.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_kind(struct image *img, struct err *e)
{
	struct stat st;

	if (fstat(img->fd, &st))
		return err_sys(e, errno, "cannot read %s '%s'", img->what, img->path);
	if (S_ISDIR(st.st_mode))
		return err_sys(e, EISDIR, "cannot read %s '%s'", img->what, img->path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "cannot read %s '%s': it is not a regular file",
			       img->what, img->path);
	if (!st.st_size)
		return err_set(e, ENODATA, "%s '%s' is empty", img->what, img->path);
	img->size_bytes = (uint64_t)st.st_size;
	return 0;
}

int image_open(struct image *img, const char *what, const char *path, struct err *e)
{
	int rc;

	/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
	*img = (struct image){.what = what, .path = path};
	img->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (img->fd < 0)
		return err_sys(e, errno, "cannot read %s '%s'", what, path);
	rc = check_kind(img, e);
	if (rc)
		image_close(img);
	return rc;
}

void image_close(struct image *img)
{
	if (img->fd >= 0)
		(void)close(img->fd);
	img->fd = -1;
}

static bool in_file(const struct image *img, uint64_t offset, uint64_t len)
{
	return offset <= img->size_bytes && len <= img->size_bytes - offset;
}

static int outside_file(const struct image *img, const char *part, struct err *e)
{
	return err_set(e, ENOEXEC, "%s '%s' is broken: %s reaches beyond the end of the file",
		       img->what, img->path, part);
}

int image_read(const struct image *img, uint64_t offset, void *to, size_t len, const char *part,
	       struct err *e)
{
	uint8_t *at = to;

	if (!in_file(img, offset, len))
		return outside_file(img, part, e);
	while (len) {
		ssize_t n = pread(img->fd, at, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, errno, "cannot read %s '%s'", img->what, img->path);
		if (n == 0)
			return err_set(e, EIO, "%s '%s' became shorter while it was read",
				       img->what, img->path);
		at += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int image_load(const struct image *img, struct mem *m, uint64_t offset, uint64_t file_bytes,
	       uint64_t gpa, uint64_t mem_bytes, const char *part, struct err *e)
{
	uint8_t *to;
	int rc;

	if (!in_file(img, offset, file_bytes))
		return outside_file(img, part, e);
	to = mem_host(m, gpa, mem_bytes);
	if (file_bytes > mem_bytes)
		return err_set(e, ENOEXEC,
			       "%s '%s' is broken: %s has more bytes in the file than in memory",
			       img->what, img->path, part);
	if (!to)
		return err_set(e, ENOEXEC,
			       "%s '%s' does not fit: %s wants %llu KiB of memory at 0x%llx, and "
			       "the guest has %llu MiB",
			       img->what, img->path, part,
			       (unsigned long long)(mem_bytes + 1023) >> 10,
			       (unsigned long long)gpa, (unsigned long long)m->size_bytes >> 20);
	rc = image_read(img, offset, to, file_bytes, part, e);
	mem_mark(m, gpa, file_bytes);
	if (!rc && mem_bytes > file_bytes)
		rc = mem_set(m, gpa + file_bytes, 0, mem_bytes - file_bytes);
	return rc;
}
