/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A vCPU's own statistics (KVM_CAP_BINARY_STATS_FD): how often a page that the guest touched had to
 * be made accessible first. While the dirty log write-protects pages, the first write to each of
 * them is such a fault, so the count's growth is the vCPU's dirty rate, at the price of one read().
 * Not every write is counted: none is where the processor keeps the log by itself (Intel's page
 * modification logging), nor what KVM writes when it emulates an instruction.
 *
 * Threads: opened while no thread runs the vCPU (KVM would keep the caller waiting); read by any.
 */
#ifndef KVM_VCPU_STATS_H
#define KVM_VCPU_STATS_H

#include <stdint.h>

#include "kvm/vcpu.h"

struct vcpu_stats {
	int fd;               /* -1: this KVM tells nothing */
	uint64_t faults_from; /* where in the file the count is */
};

/* -ENOTSUP (and fd is -1) where KVM has no such statistics, -errno for other reasons. */
int vcpu_stats_open(struct vcpu_stats *s, const struct vcpu *v);
void vcpu_stats_close(struct vcpu_stats *s);

/* Faults resolved since the vCPU was created. -ENOTSUP if not open. */
int vcpu_stats_faults(const struct vcpu_stats *s, uint64_t *faults);

#endif
