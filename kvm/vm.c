/* SPDX-License-Identifier: Apache-2.0 */
#include "kvm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "base/log.h"
#include "kvm/cpuid.h"
#include "kvm/vcpu_msrs.h"

#define KVM_PATH "/dev/kvm"

/*
 * Intel processors without unrestricted guest mode need three pages for a real-mode TSS and one for
 * an identity map in the guest's physical memory: below the BIOS area, far from RAM and devices.
 */
#define TSS_ADDR      0xfffbd000ul
#define IDENTITY_ADDR 0xfffbc000ul

static const struct {
	int cap;
	const char *name;
} needed_caps[] = {
	{KVM_CAP_USER_MEMORY, "USER_MEMORY"},
	{KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR"},
	{KVM_CAP_SET_IDENTITY_MAP_ADDR, "SET_IDENTITY_MAP_ADDR"},
	{KVM_CAP_IRQCHIP, "IRQCHIP"},
	{KVM_CAP_PIT2, "PIT2"},
	{KVM_CAP_PIT_STATE2, "PIT_STATE2"},
	{KVM_CAP_EXT_CPUID, "EXT_CPUID"},
	{KVM_CAP_MP_STATE, "MP_STATE"},
	{KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS"},
	{KVM_CAP_DEBUGREGS, "DEBUGREGS"},
	{KVM_CAP_XSAVE, "XSAVE"},
	{KVM_CAP_XCRS, "XCRS"},
	{KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK"},
	{KVM_CAP_GET_TSC_KHZ, "GET_TSC_KHZ"},
	{KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT"},
};

static int open_kvm(struct vm *vm, int fd, struct err *e)
{
	int version, code;

	vm->kvm_fd = fd >= 0 ? fd : open(KVM_PATH, O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0) {
		code = errno;
		if (code == ENOENT || code == ENODEV || code == ENXIO)
			return err_set(e, code,
				       "no " KVM_PATH ": this machine offers no virtualization. "
				       "Load the module kvm_intel or kvm_amd, or switch "
				       "virtualization on in the firmware");
		if (code == EACCES || code == EPERM)
			return err_set(e, code,
				       "no permission to open " KVM_PATH ": add yourself to the "
				       "group kvm (usermod -aG kvm $USER) and log in again");
		return err_sys(e, code, "cannot open " KVM_PATH);
	}
	version = ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0);
	if (version < 0)
		return err_sys(e, errno, KVM_PATH " is no KVM device");
	if (version != KVM_API_VERSION)
		return err_set(e, EOPNOTSUPP, "KVM has API version %d, ferry needs version %d",
			       version, KVM_API_VERSION);
	return 0;
}

static int vm_cap(const struct vm *vm, int cap)
{
	int value = ioctl(vm->fd >= 0 ? vm->fd : vm->kvm_fd, KVM_CHECK_EXTENSION, cap);

	return value < 0 ? 0 : value;
}

static int check_caps(const struct vm *vm, struct err *e)
{
	for (size_t i = 0; i < sizeof(needed_caps) / sizeof(needed_caps[0]); i++) {
		if (!vm_cap(vm, needed_caps[i].cap))
			return err_set(e, EOPNOTSUPP,
				       "this kernel's KVM lacks KVM_CAP_%s, which ferry needs: "
				       "boot a newer kernel",
				       needed_caps[i].name);
	}
	return 0;
}

static bool vm_enable(struct vm *vm, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap en = {.cap = cap, .args = {arg}};

	return !ioctl(vm->fd, KVM_ENABLE_CAP, &en);
}

static void enable_dirty_manual(struct vm *vm)
{
	const int want = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
	int offered = vm_cap(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & want;

	if ((offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) &&
	    vm_enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, (uint64_t)offered))
		vm->caps.dirty_manual = (uint32_t)offered;
}

/* Before the first vCPU. KVM offers rings or the manual log, never both. */
static int enable_dirty_rings(struct vm *vm, uint32_t entries, struct err *e)
{
	uint64_t bytes = (uint64_t)entries * sizeof(struct kvm_dirty_gfn);
	int most = vm_cap(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);

	if (!most) {
		log_warn("this kernel's KVM has no dirty rings: its dirty log is used instead of "
			 "--dirty-ring");
		return 0;
	}
	if (bytes > (uint64_t)most)
		return err_set(e, EINVAL, "--dirty-ring %u: this kernel's KVM allows at most %zu",
			       entries, (size_t)most / sizeof(struct kvm_dirty_gfn));
	if (!vm_enable(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, bytes))
		return err_sys(e, errno,
			       "--dirty-ring %u: KVM refuses it; processors that log pages in "
			       "hardware need rings of 1024 or more",
			       entries);
	vm->caps.ring_entries = entries;
	return 0;
}

static int read_caps(struct vm *vm, const struct vm_config *cfg, struct err *e)
{
	struct vm_caps *c = &vm->caps;
	int value;

	c->sregs2 = vm_cap(vm, KVM_CAP_SREGS2);
	c->tsc_deadline = vm_cap(vm, KVM_CAP_TSC_DEADLINE_TIMER);
	c->tsc_control = vm_cap(vm, KVM_CAP_TSC_CONTROL);
	c->irqfd = vm_cap(vm, KVM_CAP_IRQFD);
	c->ioeventfd = vm_cap(vm, KVM_CAP_IOEVENTFD);
	c->clock_flags = (uint32_t)vm_cap(vm, KVM_CAP_ADJUST_CLOCK);
	value = vm_cap(vm, KVM_CAP_XSAVE2);
	c->xsave_bytes = value ? (uint32_t)value : (uint32_t)sizeof(struct kvm_xsave);
	value = vm_cap(vm, KVM_CAP_MAX_VCPUS);
	c->max_cpus = value ? (uint32_t)value : 4; /* what the API says of kernels without it */
	value = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (value < (int)sizeof(struct kvm_run))
		return err_set(e, EOPNOTSUPP, "KVM reports a strange size for vCPU areas (%d)",
			       value);
	c->run_bytes = (uint32_t)value;
	/* With both, an exception that waits for delivery is saved exactly as it stands. */
	c->exception_payload = vm_cap(vm, KVM_CAP_EXCEPTION_PAYLOAD) &&
			       vm_enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
	c->triple_fault_event = vm_cap(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT) &&
				vm_enable(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
	if (cfg->dirty_ring_entries) {
		int rc = enable_dirty_rings(vm, cfg->dirty_ring_entries, e);

		if (rc)
			return rc;
	}
	if (!vm->caps.ring_entries && !cfg->plain_dirty_log)
		enable_dirty_manual(vm);
	return 0;
}

static int read_msr_list(struct vm *vm, struct err *e)
{
	union {
		struct kvm_msr_list l;
		uint8_t room[sizeof(struct kvm_msr_list) + VM_MSRS_MAX * sizeof(uint32_t)];
	} list;

	list.l.nmsrs = VM_MSRS_MAX;
	if (ioctl(vm->kvm_fd, KVM_GET_MSR_INDEX_LIST, &list))
		return err_sys(e, errno, "KVM does not tell its list of MSRs");
	vm->msrs = malloc((list.l.nmsrs + 1) * sizeof(*vm->msrs));
	if (!vm->msrs)
		return err_set(e, ENOMEM, "out of memory for the list of MSRs");
	for (uint32_t i = 0; i < list.l.nmsrs; i++) {
		if (vcpu_msr_is_state(list.l.indices[i]))
			vm->msrs[vm->n_msrs++] = list.l.indices[i];
	}
	return 0;
}

static int create_chips(struct vm *vm, struct err *e)
{
	uint64_t identity = IDENTITY_ADDR;
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

	if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) ||
	    ioctl(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDR))
		return err_sys(e, errno, "KVM refuses the place for its real-mode pages");
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0))
		return err_sys(e, errno, "cannot create the interrupt controllers");
	if (ioctl(vm->fd, KVM_CREATE_PIT2, &pit))
		return err_sys(e, errno, "cannot create the interval timer");
	return 0;
}

static int set_slot(struct vm *vm, unsigned slot, bool log)
{
	const struct vm_slot *s = &vm->slots[slot];
	const struct mem_block *b = &vm->mem->blocks[s->block];
	uint64_t at = s->first_page << MEM_PAGE_SHIFT;
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = b->gpa + at,
		.memory_size = s->n_pages << MEM_PAGE_SHIFT,
		.userspace_addr = (uintptr_t)b->hva + at,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

static int cut_slots(struct vm *vm, uint64_t slot_pages, struct err *e)
{
	if (!slot_pages)
		slot_pages = VM_SLOT_PAGES;
	for (unsigned i = 0; i < vm->mem->n_blocks; i++) {
		uint64_t n_pages = vm->mem->blocks[i].n_pages, n;

		for (uint64_t first = 0; first < n_pages; first += n) {
			n = n_pages - first < slot_pages ? n_pages - first : slot_pages;
			if (vm->n_slots == VM_SLOTS_MAX)
				return err_set(e, EINVAL, "guest memory needs more than %d slots",
					       VM_SLOTS_MAX);
			vm->slots[vm->n_slots++] =
				(struct vm_slot){.block = i, .first_page = first, .n_pages = n};
		}
	}
	return 0;
}

static int map_ram(struct vm *vm, uint64_t slot_pages, struct err *e)
{
	int rc = cut_slots(vm, slot_pages, e);

	for (unsigned i = 0; i < vm->n_slots && !rc; i++) {
		const struct mem_block *b = &vm->mem->blocks[vm->slots[i].block];

		rc = set_slot(vm, i, false);
		if (rc)
			return err_sys(e, -rc, "KVM refuses %llu MiB of guest memory (%s)",
				       (unsigned long long)(b->size_bytes >> 20), b->name);
	}
	return rc;
}

static int create_fd(struct vm *vm, struct err *e)
{
	do {
		vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	} while (vm->fd < 0 && errno == EINTR);
	if (vm->fd < 0)
		return err_sys(e, errno, "cannot create a virtual machine");
	return 0;
}

int vm_create(struct vm **out, const struct vm_config *cfg, struct mem *mem, struct err *e)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int rc;

	if (!vm) {
		if (cfg->kvm_fd >= 0)
			(void)close(cfg->kvm_fd);
		return err_set(e, ENOMEM, "out of memory");
	}
	vm->kvm_fd = vm->fd = -1;
	vm->mem = mem;
	if (cfg->model)
		vm->model = *cfg->model;
	rc = open_kvm(vm, cfg->kvm_fd, e);
	if (!rc)
		rc = create_fd(vm, e);
	if (!rc)
		rc = check_caps(vm, e);
	if (!rc)
		rc = read_caps(vm, cfg, e);
	if (!rc)
		rc = read_msr_list(vm, e);
	if (!rc)
		rc = cpuid_supported(vm->kvm_fd, &vm->cpuid, e);
	/*
	 * RAM first: a change of slots waits until no vCPU can be using the old ones, which takes
	 * milliseconds once the interrupt controllers have made KVM wait in the same way, and
	 * nothing before.
	 */
	if (!rc)
		rc = map_ram(vm, cfg->slot_pages, e);
	if (!rc)
		rc = create_chips(vm, e);
	if (rc) {
		vm_free(vm);
		return rc;
	}
	*out = vm;
	return 0;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->fd >= 0)
		(void)close(vm->fd);
	if (vm->kvm_fd >= 0)
		(void)close(vm->kvm_fd);
	free(vm->cpuid);
	free(vm->msrs);
	free(vm);
}

int vm_irq_line(struct vm *vm, unsigned gsi, bool level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	return ioctl(vm->fd, KVM_IRQ_LINE, &line) ? -errno : 0;
}

int vm_irqfd(struct vm *vm, int fd, unsigned gsi, bool bind)
{
	struct kvm_irqfd arg = {
		.fd = (uint32_t)fd, .gsi = gsi, .flags = bind ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

	if (!vm->caps.irqfd)
		return -EOPNOTSUPP;
	return ioctl(vm->fd, KVM_IRQFD, &arg) ? -errno : 0;
}

int vm_ioeventfd(struct vm *vm, int fd, uint64_t gpa, uint32_t value, bool bind)
{
	struct kvm_ioeventfd arg = {
		.fd = fd,
		.addr = gpa,
		.len = sizeof(value),
		.datamatch = value,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | (bind ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};

	if (!vm->caps.ioeventfd)
		return -EOPNOTSUPP;
	return ioctl(vm->fd, KVM_IOEVENTFD, &arg) ? -errno : 0;
}

unsigned vm_slot_at(const struct vm *vm, unsigned block, uint64_t page)
{
	unsigned low = 0, high = vm->n_slots - 1;

	/* The last one that does not begin behind the page. */
	while (low < high) {
		unsigned mid = (low + high + 1) / 2;
		const struct vm_slot *s = &vm->slots[mid];

		if (s->block < block || (s->block == block && s->first_page <= page))
			low = mid;
		else
			high = mid - 1;
	}
	return low;
}

int vm_log_all(struct vm *vm, bool on, struct err *e)
{
	for (unsigned i = 0; i < vm->n_slots; i++) {
		int rc = set_slot(vm, i, on);

		if (rc && on) {
			while (i-- > 0)
				(void)set_slot(vm, i, false);
			return err_sys(e, -rc, "cannot switch on KVM's dirty log");
		}
		if (rc)
			return err_sys(e, -rc, "cannot switch off KVM's dirty log");
	}
	return 0;
}
