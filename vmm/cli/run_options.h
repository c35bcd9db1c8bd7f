/* SPDX-License-Identifier: Apache-2.0 */
/* The options of `ferry run`, checked as far as that goes without touching anything. */
#ifndef VMM_CLI_RUN_OPTIONS_H
#define VMM_CLI_RUN_OPTIONS_H

#include "vmm/cli/device_options.h"
#include "vmm/cli/options.h"
#include "vmm/ctl/path.h"
#include "migration/save.h"
#include "vmm/machine.h"

struct run_options {
	bool help, cpu_help;                   /* nothing else has been checked */
	const char *kernel, *initrd, *cmdline; /* NULL = not given */
	uint64_t mem_bytes;
	enum mem_backend mem_backend;
	unsigned n_cpus;
	struct cpu_model cpu;
	uint32_t dirty_ring; /* entries of each vCPU's; 0: not given */
	char name[CTL_NAME_MAX + 1];
	const char *control; /* NULL: the default place of the name */
	const char *serial;  /* NULL: not given */
	struct disk_option disks[DEVICES_MAX_DISKS];
	unsigned n_disks;
	struct net_option nets[DEVICES_MAX_NETS];
	unsigned n_nets;
	bool rng, balloon;
	const char *console; /* NULL: none */
	bool virtio_cmdline;
	bool incoming;    /* waits for a guest; kernel, initrd and cmdline do not matter then ... */
	const char *uri;  /* ... listening here; NULL: migrate-incoming will say, or file is set */
	const char *file; /* the saved guest, if uri is file:PATH; NULL: it is not */
	bool mem_given, cpus_given; /* if not: as the saved guest has them */
	struct mig_file_params file_params;
	const char *for_file; /* an option that was given and is for saved guests; NULL: none */
	bool debug_exit, paused;
	const char *trace; /* NULL: none */
	const char *user;  /* NULL: stay who we are */
};

/* argv[0..argc) are the words after "run"; *o points into them. -EINVAL with a message. */
int run_options_parse(int argc, char *const *argv, struct run_options *o, struct err *e);
/* The same for the words after "restore": one of them is the file of a saved guest. */
int restore_options_parse(int argc, char *const *argv, struct run_options *o, struct err *e);
void run_options_help(FILE *to);
void restore_options_help(FILE *to);

#endif
