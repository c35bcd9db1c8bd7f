/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ferry's commands. Each takes the words after its name and returns the exit status of the process:
 *
 *	0	done (ferry run: the guest switched itself off)
 *	1	it failed
 *	2	wrong usage
 *	3	ferry migrate, save, cancel: how it ended is not known here (undecided; the guest's
 *		process ended, or fell silent, or the terminal closed): somebody must look
 *		(ferry run: triple fault)
 *	4	ferry run: KVM gave up on the guest
 *	130	ferry migrate, save: cancelled by Ctrl-C, and confirmed
 *
 * Messages go to standard error, results to standard output.
 */
#ifndef VMM_CLI_CLI_H
#define VMM_CLI_CLI_H

#include <stdio.h>

#include "base/err.h"
#include "vmm/cli/options.h"

enum {
	EXIT_OK = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_UNDECIDED = 3,
	EXIT_CANCELLED = 130,
};

typedef int cli_fn(int argc, char *const *argv);

cli_fn cli_run, cli_migrate, cli_save, cli_restore, cli_inspect, cli_status, cli_stop, cli_cont,
	cli_cancel, cli_continue, cli_adjust, cli_quit, cli_list, cli_bench, cli_version, cli_help;

struct cli_command {
	const char *name;
	cli_fn *run;
	const char *usage;   /* after "ferry NAME " */
	const char *summary; /* one line */
};

/* All of them; one with name NULL ends the table. */
extern const struct cli_command cli_commands[];

/* "ferry: MESSAGE" and where to read on; returns EXIT_USAGE. */
int cli_usage_error(const char *command, const struct err *e);
/* "ferry: MESSAGE"; returns EXIT_FAILED. */
int cli_failed(const struct err *e);
/*
 * Options of a command on one guest: parses, answers --help, insists on its n_args arguments.
 * Returns -1 to go on, else the exit status.
 */
int cli_parse(const char *command, const struct opt *table, int argc, char *const *argv,
	      unsigned n_args, void *out, struct opts_args *args);
/* Flushes standard output; EXIT_FAILED with a message if it could not be written, else status. */
int cli_finish(int status);

#endif
