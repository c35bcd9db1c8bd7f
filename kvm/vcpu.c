/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "base/log.h"
#include "kvm/cpuid.h"
#include "kvm/vcpu_msrs.h"

static int map_run(struct vcpu *v, struct err *e)
{
	void *at = mmap(NULL, v->vm->caps.run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);

	if (at == MAP_FAILED)
		return err_sys(e, errno, "cannot map vCPU %u's shared area", v->index);
	v->run = at;
	return 0;
}

int vcpu_cpuid_set(struct vcpu *v, const struct kvm_cpuid2 *t, struct err *e)
{
	struct kvm_cpuid2 *given;
	int rc;

	if (ioctl(v->fd, KVM_SET_CPUID2, t))
		return err_sys(e, errno, "KVM refuses the CPUID of vCPU %u", v->index);
	rc = cpuid_given(v->fd, &given, e);
	if (rc)
		return rc;
	if (v->cpuid != v->cpuid_own)
		free(v->cpuid);
	v->cpuid = given;
	return 0;
}

/* Is it the model that was asked for? What KVM does not hide is said once a VM. */
static int judge_cpuid(const struct vcpu *v, struct err *e)
{
	struct cpu_feature_set shown;
	char text[400];
	int rc = cpu_model_judge(&v->vm->model, v->cpuid_own, &shown, e);

	if (!rc && !v->index && cpu_features_text(&shown, text, sizeof(text)))
		log_warn("--cpu %s: this host's KVM cannot hide from guests: %s",
			 cpu_model_text(&v->vm->model), text);
	return rc;
}

static int set_cpuid(struct vcpu *v, unsigned n_cpus, struct err *e)
{
	struct kvm_cpuid2 *wanted = cpuid_for_vcpu(v->vm, v->index, n_cpus);
	int rc;

	if (!wanted)
		return err_set(e, ENOMEM, "out of memory for vCPU %u", v->index);
	rc = vcpu_cpuid_set(v, wanted, e);
	free(wanted);
	v->cpuid_own = v->cpuid;
	return rc ? rc : judge_cpuid(v, e);
}

/*
 * Firmware leaves the memory type of all RAM as write-back; the reset value says uncached. KVM only
 * looks at it for guests with assigned devices, but operating systems read it.
 */
static void set_mtrr_default(struct vcpu *v)
{
	(void)vcpu_msr_set(v, MSR_MTRR_DEFAULT, 0x806);
}

static int set_up(struct vcpu *v, unsigned n_cpus, struct err *e)
{
	int khz, rc = map_run(v, e);

	if (rc)
		return rc;
	khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
	if (khz <= 0)
		return err_sys(e, khz ? errno : EIO, "KVM does not tell its TSC frequency");
	v->host_tsc_khz = v->tsc_khz = (uint32_t)khz;
	rc = set_cpuid(v, n_cpus, e);
	if (!rc)
		set_mtrr_default(v);
	return rc;
}

int vcpu_create(struct vcpu **out, struct vm *vm, unsigned index, unsigned n_cpus, struct err *e)
{
	struct vcpu *v;
	int rc;

	if (n_cpus > vm->caps.max_cpus)
		return err_set(e, EINVAL, "--cpus %u: KVM allows at most %u vCPUs here", n_cpus,
			       vm->caps.max_cpus);
	v = calloc(1, sizeof(*v));
	if (!v)
		return err_set(e, ENOMEM, "out of memory for vCPU %u", index);
	v->vm = vm;
	v->index = index;
	v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (v->fd < 0)
		rc = err_sys(e, errno, "cannot create vCPU %u", index);
	else
		rc = set_up(v, n_cpus, e);
	if (rc) {
		vcpu_free(v);
		return rc;
	}
	*out = v;
	return 0;
}

void vcpu_free(struct vcpu *v)
{
	if (!v)
		return;
	if (v->run)
		(void)munmap(v->run, v->vm->caps.run_bytes);
	if (v->fd >= 0)
		(void)close(v->fd);
	if (v->cpuid != v->cpuid_own)
		free(v->cpuid);
	free(v->cpuid_own);
	free(v);
}

static void decode_event(const struct kvm_run *run, struct vcpu_exit *out)
{
	switch (run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		out->kind = VCPU_EXIT_SHUTDOWN;
		break;
	case KVM_SYSTEM_EVENT_RESET:
	case KVM_SYSTEM_EVENT_CRASH:
		out->kind = VCPU_EXIT_RESET;
		break;
	default:
		out->kind = VCPU_EXIT_ERROR;
		break;
	}
}

static void decode_exit(struct kvm_run *run, struct vcpu_exit *out)
{
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		out->kind = VCPU_EXIT_IO;
		out->io.out = run->io.direction == KVM_EXIT_IO_OUT;
		out->io.port = run->io.port;
		out->io.size = run->io.size;
		out->io.count = run->io.count;
		out->io.data = (uint8_t *)run + run->io.data_offset;
		break;
	case KVM_EXIT_MMIO:
		out->kind = VCPU_EXIT_MMIO;
		out->mmio.write = run->mmio.is_write;
		out->mmio.gpa = run->mmio.phys_addr;
		out->mmio.len = run->mmio.len <= 8 ? run->mmio.len : 8;
		out->mmio.data = run->mmio.data;
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		out->kind = VCPU_EXIT_INTERRUPTED;
		break;
	case KVM_EXIT_DIRTY_RING_FULL:
		out->kind = VCPU_EXIT_RING_FULL;
		break;
	case KVM_EXIT_SHUTDOWN:
		out->kind = VCPU_EXIT_TRIPLE_FAULT;
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		decode_event(run, out);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		out->kind = run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
				    ? VCPU_EXIT_EMULATION
				    : VCPU_EXIT_ERROR;
		break;
	default:
		out->kind = VCPU_EXIT_ERROR;
		break;
	}
}

void vcpu_run(struct vcpu *v, struct vcpu_exit *out)
{
	int rc;

	/* EAGAIN: a vCPU that waits for SIPI was woken up; ask again. */
	do {
		rc = ioctl(v->fd, KVM_RUN, 0);
	} while (rc < 0 && errno == EAGAIN);
	*out = (struct vcpu_exit){.run_error = rc < 0 ? errno : 0};
	if (rc >= 0)
		decode_exit(v->run, out);
	else if (errno == EINTR)
		*out = (struct vcpu_exit){.kind = VCPU_EXIT_INTERRUPTED};
	else
		out->kind = VCPU_EXIT_ERROR;
}

void vcpu_set_immediate_exit(struct vcpu *v, bool on)
{
	__atomic_store_n(&v->run->immediate_exit, (uint8_t)on, __ATOMIC_SEQ_CST);
}

void vcpu_note_pause(struct vcpu *v)
{
	(void)ioctl(v->fd, KVM_KVMCLOCK_CTRL, 0);
}
