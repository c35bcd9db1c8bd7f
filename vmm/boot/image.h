/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that is loaded into the guest: a kernel image or an initrd. Read by pread(), never mapped,
 * so that a file that shrinks meanwhile is an error and no signal. Main thread.
 */
#ifndef VMM_BOOT_IMAGE_H
#define VMM_BOOT_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "mem/mem.h"

struct image {
	const char *what; /* "kernel image", "initrd": for messages */
	const char *path; /* the caller's */
	int fd;
	uint64_t size_bytes; /* not 0 */
};

/*
 * Open a regular file that is not empty. Messages name it: -EISDIR, -EINVAL for another kind of
 * file, -ENODATA if it is empty, and open()'s errors. On error there is nothing to close.
 */
int image_open(struct image *img, const char *what, const char *path, struct err *e);
void image_close(struct image *img);

/* Read [offset, offset+len). -ENOEXEC, saying `part`, if that is not inside the file. */
int image_read(const struct image *img, uint64_t offset, void *to, size_t len, const char *part,
	       struct err *e);

/*
 * Load [offset, offset+file_bytes) to gpa and clear up to mem_bytes. Checks both against the file
 * and against RAM: -ENOEXEC, saying `part`.
 */
int image_load(const struct image *img, struct mem *m, uint64_t offset, uint64_t file_bytes,
	       uint64_t gpa, uint64_t mem_bytes, const char *part, struct err *e);

#endif
