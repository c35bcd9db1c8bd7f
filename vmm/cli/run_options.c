/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/run_options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "migration/uri.h"

#define MEM_DEFAULT_BYTES (256ull << 20)
#define HUGE_PAGE_BYTES   (2ull << 20)

static int set_text(const char **to, const char *value, struct err *e)
{
	if (!*value)
		return err_set(e, EINVAL, "the value is empty");
	*to = value;
	return 0;
}

static int set_kernel(void *out, const char *value, struct err *e)
{
	return set_text(&((struct run_options *)out)->kernel, value, e);
}

static int set_initrd(void *out, const char *value, struct err *e)
{
	return set_text(&((struct run_options *)out)->initrd, value, e);
}

static int set_cmdline(void *out, const char *value, struct err *e)
{
	(void)e;
	((struct run_options *)out)->cmdline = value;
	return 0;
}

static int set_mem(void *out, const char *value, struct err *e)
{
	struct run_options *o = out;
	int rc = size_parse(value, &o->mem_bytes);

	o->mem_given = true;

	if (rc == -EINVAL)
		return err_set(e, EINVAL, "expected a number with K, M, G or T, like 512M or 4G");
	if (rc || o->mem_bytes > MEM_MAX_BYTES)
		return err_set(e, EINVAL, "at most %lluT are possible", MEM_MAX_BYTES >> 40);
	if (o->mem_bytes < MEM_MIN_BYTES && value[strlen(value) - 1] <= '9')
		return err_set(e, EINVAL,
			       "that is %" PRIu64 " bytes; at least %lluM are needed (%sM?)",
			       o->mem_bytes, MEM_MIN_BYTES >> 20, o->mem_bytes ? value : "256");
	if (o->mem_bytes < MEM_MIN_BYTES)
		return err_set(e, EINVAL, "at least %lluM are needed", MEM_MIN_BYTES >> 20);
	if (o->mem_bytes % MEM_PAGE_BYTES)
		return err_set(e, EINVAL, "the size must be a multiple of %lluK",
			       MEM_PAGE_BYTES >> 10);
	return 0;
}

static int set_dirty_ring(void *out, const char *value, struct err *e)
{
	uint64_t n;

	if (number_parse(value, MACHINE_RING_MAX, &n) || n < MACHINE_RING_MIN || n & (n - 1))
		return err_set(e, EINVAL, "expected a power of two from %d to %d", MACHINE_RING_MIN,
			       MACHINE_RING_MAX);
	((struct run_options *)out)->dirty_ring = (uint32_t)n;
	return 0;
}

static int set_mem_backend(void *out, const char *value, struct err *e)
{
	if (mem_backend_parse(value, &((struct run_options *)out)->mem_backend))
		return err_set(e, EINVAL, "expected anon, memfd or hugetlb");
	return 0;
}

static int set_cpus(void *out, const char *value, struct err *e)
{
	uint64_t n;

	if (number_parse(value, MACHINE_MAX_CPUS, &n) || n < 1)
		return err_set(e, EINVAL, "expected a number from 1 to %d", MACHINE_MAX_CPUS);
	((struct run_options *)out)->n_cpus = (unsigned)n;
	((struct run_options *)out)->cpus_given = true;
	return 0;
}

static int set_cpu(void *out, const char *value, struct err *e)
{
	struct run_options *o = out;

	o->cpu_help = !strcmp(value, "help");
	return o->cpu_help ? 0 : cpu_model_parse(value, &o->cpu, e);
}

static int set_name(void *out, const char *value, struct err *e)
{
	struct run_options *o = out;
	int rc = ctl_name_check(value, e);

	if (!rc)
		memcpy(o->name, value, strlen(value) + 1);
	return rc;
}

static int set_control(void *out, const char *value, struct err *e)
{
	((struct run_options *)out)->control = value;
	return ctl_path_check(value, e);
}

/* Is it a back-end as vmm/dev/chardev.h has them? */
static int check_chardev(const char *value, struct err *e)
{
	if (!strcmp(value, "stdio") || !strcmp(value, "pty") || !strcmp(value, "none"))
		return 0;
	if (!strncmp(value, "file:", 5) && value[5])
		return 0;
	if (!strncmp(value, "unix:", 5) && value[5]) {
		if (strlen(value + 5) >= CTL_PATH_BYTES)
			return err_set(e, EINVAL,
				       "the path is too long for a socket (at most %d bytes)",
				       CTL_PATH_BYTES - 1);
		return 0;
	}
	return err_set(e, EINVAL, "expected stdio, file:PATH, pty, unix:PATH or none");
}

static int set_serial(void *out, const char *value, struct err *e)
{
	((struct run_options *)out)->serial = value;
	return check_chardev(value, e);
}

static int set_console(void *out, const char *value, struct err *e)
{
	((struct run_options *)out)->console = value;
	return check_chardev(value, e);
}

static int add_disk(void *out, const char *value, struct err *e)
{
	struct run_options *o = out;

	if (o->n_disks == DEVICES_MAX_DISKS)
		return err_set(e, EINVAL, "a guest has at most %u disks", DEVICES_MAX_DISKS);
	return disk_option_parse(value, &o->disks[o->n_disks++], e);
}

static int add_net(void *out, const char *value, struct err *e)
{
	struct run_options *o = out;

	if (o->n_nets == DEVICES_MAX_NETS)
		return err_set(e, EINVAL, "a guest has at most %u network cards", DEVICES_MAX_NETS);
	return net_option_parse(value, &o->nets[o->n_nets++], e);
}

static int set_rng(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct run_options *)out)->rng = true;
	return 0;
}

static int set_balloon(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct run_options *)out)->balloon = true;
	return 0;
}

static int set_virtio_cmdline(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct run_options *)out)->virtio_cmdline = true;
	return 0;
}

static int set_file(struct run_options *o, const char *path, struct err *e)
{
	o->incoming = true;
	return set_text(&o->file, path, e);
}

static int set_incoming(void *out, const char *value, struct err *e)
{
	struct run_options *o = out;
	struct mig_uri parsed;

	o->incoming = true;
	if (!strcmp(value, "defer"))
		return 0;
	if (mig_file_uri_path(value))
		return set_file(o, mig_file_uri_path(value), e);
	o->uri = value;
	if (!strncmp(value, "tcp:", 4) || !strncmp(value, "unix:", 5))
		return mig_uri_parse(value, &parsed, e);
	return err_set(e, EINVAL, "expected tcp:HOST:PORT, unix:PATH, file:PATH or defer");
}

static int set_direct_io(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct run_options *)out)->file_params.direct_io = true;
	((struct run_options *)out)->for_file = "--direct-io";
	return 0;
}

static int set_on_demand(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct run_options *)out)->file_params.on_demand = true;
	((struct run_options *)out)->for_file = "--on-demand";
	return 0;
}

static int set_threads(void *out, const char *value, struct err *e)
{
	uint64_t n;

	if (number_parse(value, MIG_FILE_THREADS_MAX, &n) || n < 1)
		return err_set(e, EINVAL, "expected a number from 1 to %d", MIG_FILE_THREADS_MAX);
	((struct run_options *)out)->file_params.n_threads = (unsigned)n;
	((struct run_options *)out)->for_file = "--threads";
	return 0;
}

static int set_debug_exit(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct run_options *)out)->debug_exit = true;
	return 0;
}

static int set_user(void *out, const char *value, struct err *e)
{
	return set_text(&((struct run_options *)out)->user, value, e);
}

static int set_paused(void *out, const char *value, struct err *e)
{
	(void)value, (void)e;
	((struct run_options *)out)->paused = true;
	return 0;
}

static int set_trace(void *out, const char *value, struct err *e)
{
	(void)e;
	((struct run_options *)out)->trace = value;
	return 0;
}

static const struct opt run_table[] = {
	{"kernel", "FILE", "what to boot: a Linux bzImage, or an ELF image by PVH or Multiboot",
	 set_kernel},
	{"initrd", "FILE", "initial RAM disk, or first module", set_initrd},
	{"cmdline", "TEXT", "the kernel's command line (--cmdline=TEXT if it begins with --)",
	 set_cmdline},
	{"mem", "SIZE", "RAM, with K, M, G or T (default 256M)", set_mem},
	{"mem-backend", "anon|memfd|hugetlb", "where RAM comes from (default anon)",
	 set_mem_backend},
	{"cpus", "N", "virtual CPUs, 1 to 64 (default 1)", set_cpus},
	{"cpu", "host|baseline[,-FEATURE][,+FEATURE]|help",
	 "what processor the guest sees (default host); help lists names", set_cpu},
	{"dirty-ring", "N",
	 "learn of written pages by rings of N entries for each vCPU, not by KVM's log",
	 set_dirty_ring},
	{"name", "NAME", "the guest's name for the other commands (default vm-PID)", set_name},
	{"control", "SOCK", "path of the control socket (default: see ferry(1))", set_control},
	{"serial", "stdio|file:PATH|pty|unix:PATH|none", "the serial port (default stdio)",
	 set_serial},
	{"disk", "PATH[,ro][,direct][,queues=N][,serial=TEXT]...",
	 "a disk: a raw image or a block device; up to 4", add_disk},
	{"net", "tap=IFNAME|unix=PATH|dgram=OURS,peer=PATH[,mac=M]...", "a network card; up to 2",
	 add_net},
	{"rng", NULL, "an entropy device", set_rng},
	{"balloon", NULL, "a memory balloon, for the QMP command balloon", set_balloon},
	{"console", "stdio|file:PATH|pty|unix:PATH|none", "a virtio console", set_console},
	{"virtio-cmdline", NULL,
	 "tell kernels that are not Linux of the devices on their command line, too",
	 set_virtio_cmdline},
	{"incoming", "tcp:HOST:PORT|unix:PATH|file:PATH|defer",
	 "wait for a guest that is migrated here (no HOST: 127.0.0.1), or restore a saved one",
	 set_incoming},
	{"direct-io", NULL, "read a saved guest past the page cache", set_direct_io},
	{"on-demand", NULL, "run a saved guest at once, its RAM comes when it is touched",
	 set_on_demand},
	{"threads", "N", "threads that read a saved guest (default 2)", set_threads},
	{"debug-exit", NULL, "a byte V written to port 0xf4 ends ferry with status 2*V+1",
	 set_debug_exit},
	{"trace", "FILE", "append what migrations do to a file, 100 lines a second (see ferry(1))",
	 set_trace},
	{"user", "USER", "as root: run as this user", set_user},
	{"paused", NULL, "do not start the guest before 'ferry cont'", set_paused},
	{NULL, NULL, NULL, NULL},
};

_Static_assert(sizeof(run_table) / sizeof(run_table[0]) - 1 <= OPTS_MAX, "too many options");

void run_options_help(FILE *to)
{
	opts_help(run_table, to);
}

/* The saved guest has what these would say. */
static bool is_in_file(const char *name)
{
	static const char *const in_file[] = {"kernel", "initrd", "cmdline", "incoming",
					      "virtio-cmdline"};

	for (size_t i = 0; i < sizeof(in_file) / sizeof(in_file[0]); i++)
		if (!strcmp(name, in_file[i]))
			return true;
	return false;
}

void restore_options_help(FILE *to)
{
	struct opt table[OPTS_MAX + 1];
	unsigned n = 0;

	for (const struct opt *o = run_table; o->name; o++) {
		if (is_in_file(o->name))
			continue;
		table[n] = *o;
		if (!strcmp(o->name, "mem"))
			table[n].help = "RAM (default: as much as it had; other RAM is refused)";
		else if (!strcmp(o->name, "cpus"))
			table[n].help = "virtual CPUs (default: as many as it had)";
		n++;
	}
	table[n] = (struct opt){0};
	opts_help(table, to);
}

/* max_args: 1 if the words name the file of a saved guest, else 0. */
static int parse(int argc, char *const *argv, unsigned max_args, struct run_options *o,
		 struct err *e)
{
	struct opts_args args;
	int rc;

	*o = (struct run_options){.mem_bytes = MEM_DEFAULT_BYTES,
				  .n_cpus = 1,
				  .file_params = {.n_threads = MIG_FILE_THREADS_DEFAULT}};
	(void)snprintf(o->name, sizeof(o->name), "vm-%d", (int)getpid());
	rc = opts_parse(run_table, argc, argv, max_args, o, &args, e);
	o->help = args.help;
	if (rc || o->help || o->cpu_help || !max_args)
		return rc;
	if (args.n < 1)
		return err_set(e, EINVAL, "which file? ferry restore FILE");
	if (o->incoming || o->kernel || o->initrd || o->cmdline)
		return err_set(e, EINVAL,
			       "--incoming, --kernel, --initrd and --cmdline do not go with "
			       "restore: the guest is in the file");
	return set_file(o, args.arg[0], e);
}

/* What one option alone cannot tell. */
static int check_together(struct run_options *o, struct err *e)
{
	if (!o->kernel && !o->incoming)
		return err_set(e, EINVAL,
			       "nothing to run: give --kernel FILE, or --incoming tcp:HOST:PORT to "
			       "wait for a guest");
	if (o->console && o->serial && !strcmp(o->console, "stdio") && !strcmp(o->serial, "stdio"))
		return err_set(e, EINVAL,
			       "--serial and --console cannot both be at stdio: give one of them "
			       "another place");
	if (!o->serial)
		o->serial = o->console && !strcmp(o->console, "stdio") ? "none" : "stdio";
	if (o->paused && o->incoming && !o->file)
		return err_set(e, EINVAL,
			       "--paused does not go with --incoming: a guest arrives running or "
			       "paused, as it was");
	if (o->for_file && (!o->incoming || o->uri))
		return err_set(e, EINVAL,
			       "%s is for a saved guest: --incoming file:PATH, or ferry restore",
			       o->for_file);
	if (o->file_params.on_demand && o->mem_backend != MEM_ANON)
		return err_set(
			e, EINVAL,
			"--on-demand needs --mem-backend anon: other memory cannot be a file's");
	if (o->mem_backend == MEM_HUGETLB && o->mem_bytes % HUGE_PAGE_BYTES)
		return err_set(e, EINVAL,
			       "--mem must be a multiple of 2M with --mem-backend "
			       "hugetlb");
	return 0;
}

int run_options_parse(int argc, char *const *argv, struct run_options *o, struct err *e)
{
	int rc = parse(argc, argv, 0, o, e);

	return rc || o->help || o->cpu_help ? rc : check_together(o, e);
}

int restore_options_parse(int argc, char *const *argv, struct run_options *o, struct err *e)
{
	int rc = parse(argc, argv, 1, o, e);

	return rc || o->help || o->cpu_help ? rc : check_together(o, e);
}
