/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/vcpu_stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm.h>

#define NAME_MAX_BYTES 128 /* KVM's own names have 48 */
#define DESC_MAX       4096
#define FAULTS_NAME    "pf_fixed"

union stat_desc {
	struct kvm_stats_desc d;
	char bytes[sizeof(struct kvm_stats_desc) + NAME_MAX_BYTES];
};

static bool is_counter_of(const union stat_desc *u, size_t name_bytes, const char *name)
{
	const char *at = u->bytes + sizeof(struct kvm_stats_desc);

	return u->d.size == 1 && (u->d.flags & KVM_STATS_UNIT_MASK) == KVM_STATS_UNIT_NONE &&
	       strlen(name) < name_bytes && !strncmp(at, name, name_bytes);
}

static int find_counter(struct vcpu_stats *s, const char *name)
{
	struct kvm_stats_header h;
	union stat_desc u;
	size_t each;

	if (pread(s->fd, &h, sizeof(h), 0) != sizeof(h) || !h.name_size ||
	    h.name_size > NAME_MAX_BYTES || h.num_desc > DESC_MAX)
		return -ENOTSUP;
	each = sizeof(struct kvm_stats_desc) + h.name_size;
	for (uint32_t i = 0; i < h.num_desc; i++) {
		if (pread(s->fd, &u, each, (off_t)(h.desc_offset + i * each)) != (ssize_t)each)
			return -ENOTSUP;
		if (is_counter_of(&u, h.name_size, name)) {
			s->faults_from = (uint64_t)h.data_offset + u.d.offset;
			return 0;
		}
	}
	return -ENOTSUP;
}

int vcpu_stats_open(struct vcpu_stats *s, const struct vcpu *v)
{
	int rc;

	s->fd = ioctl(v->fd, KVM_GET_STATS_FD, 0);
	if (s->fd < 0) {
		rc = errno == ENOTTY || errno == EINVAL ? -ENOTSUP : -errno;
		s->fd = -1;
		return rc;
	}
	(void)fcntl(s->fd, F_SETFD, FD_CLOEXEC);
	rc = find_counter(s, FAULTS_NAME);
	if (rc)
		vcpu_stats_close(s);
	return rc;
}

void vcpu_stats_close(struct vcpu_stats *s)
{
	if (s->fd >= 0)
		(void)close(s->fd);
	s->fd = -1;
}

int vcpu_stats_faults(const struct vcpu_stats *s, uint64_t *faults)
{
	if (s->fd < 0)
		return -ENOTSUP;
	if (pread(s->fd, faults, sizeof(*faults), (off_t)s->faults_from) != sizeof(*faults))
		return -EIO;
	return 0;
}
