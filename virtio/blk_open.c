/* SPDX-License-Identifier: Apache-2.0 */
/* The disk's back-end: what kind of thing is it, how large, how aligned. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "base/log.h"
#include "virtio/blk_impl.h"

static int block_device_size(struct blk *b, uint64_t *bytes, struct err *e, const char *path)
{
	int sector = 0;

	if (ioctl(b->fd, BLKGETSIZE64, bytes) || ioctl(b->fd, BLKSSZGET, &sector))
		return err_sys(e, errno, "cannot get the size of disk '%s'", path);
	/* Smaller requests would fail with O_DIRECT, and cost a read without it. */
	if (sector > (int)BLK_SECTOR_BYTES)
		b->block_bytes = (uint32_t)sector;
	return 0;
}

/* The alignment that O_DIRECT needs on this file system; where it does not tell, a sector. */
static uint32_t direct_alignment(int fd)
{
#ifdef STATX_DIOALIGN
	struct statx st;

	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) && st.stx_mask & STATX_DIOALIGN &&
	    st.stx_dio_offset_align > BLK_SECTOR_BYTES)
		return st.stx_dio_offset_align;
#else
	(void)fd;
#endif
	return BLK_SECTOR_BYTES;
}

static int measure(struct blk *b, const char *path, struct err *e)
{
	uint64_t bytes = 0;
	struct stat st;

	if (fstat(b->fd, &st))
		return err_sys(e, errno, "cannot examine disk '%s'", path);
	b->block_bytes = BLK_SECTOR_BYTES;
	if (S_ISBLK(st.st_mode)) {
		int rc = block_device_size(b, &bytes, e, path);

		if (rc)
			return rc;
	} else if (S_ISREG(st.st_mode)) {
		bytes = (uint64_t)st.st_size;
		if (b->direct)
			b->block_bytes = direct_alignment(b->fd);
	} else {
		return err_set(e, EINVAL, "disk '%s' is neither a file nor a block device", path);
	}
	b->sectors = bytes / b->block_bytes * (b->block_bytes / BLK_SECTOR_BYTES);
	if (!b->sectors)
		return err_set(e, EINVAL, "disk '%s' is empty", path);
	if (bytes % b->block_bytes)
		log_warn("the last %llu bytes of disk '%s' are no whole block; the guest does not "
			 "see them",
			 (unsigned long long)(bytes % b->block_bytes), path);
	return 0;
}

int blk_open(struct blk *b, const struct blk_config *cfg, struct err *e)
{
	size_t serial_len = cfg->serial ? strlen(cfg->serial) : 0;

	if (serial_len > BLK_SERIAL_BYTES)
		return err_set(e, EINVAL, "a disk's serial number has at most %u characters: '%s'",
			       BLK_SERIAL_BYTES, cfg->serial);
	if (serial_len)
		memcpy(b->serial, cfg->serial, serial_len);
	b->read_only = cfg->read_only;
	b->direct = cfg->direct;
	b->fd = open(cfg->path, (cfg->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC |
					(cfg->direct ? O_DIRECT : 0));
	if (b->fd < 0) {
		int code = errno;

		if (code == EINVAL && cfg->direct)
			return err_set(e, code,
				       "cannot open disk '%s' with O_DIRECT: its file "
				       "system does not offer that",
				       cfg->path);
		return err_sys(e, code, "cannot open disk '%s'%s", cfg->path,
			       cfg->read_only ? "" : " for writing");
	}
	return measure(b, cfg->path, e);
}
