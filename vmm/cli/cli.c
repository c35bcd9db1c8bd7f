/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/cli.h"

#include <errno.h>
#include <string.h>

const struct cli_command cli_commands[] = {
	{"run", cli_run, "--kernel FILE | --incoming URI [OPTION...]",
	 "run a guest, or wait for one that is migrated here"},
	{"migrate", cli_migrate, "GUEST tcp:HOST:PORT|unix:PATH [OPTION...]",
	 "move a running guest to where another ferry waits for it"},
	{"save", cli_save, "GUEST FILE [OPTION...]", "save a guest to a file"},
	{"restore", cli_restore, "FILE [OPTION...]", "bring a saved guest back"},
	{"inspect", cli_inspect, "FILE [--fields] [--json] [--verify]",
	 "what is in a saved guest's file"},
	{"status", cli_status, "GUEST [--json]", "what a guest and its migration are doing"},
	{"stop", cli_stop, "GUEST", "pause a guest"},
	{"cont", cli_cont, "GUEST [--token TOKEN | --force]", "let a paused guest go on"},
	{"cancel", cli_cancel, "GUEST", "cancel the migration of a guest, which stays where it is"},
	{"continue", cli_continue, "GUEST",
	 "let a migration go on that waits before its switchover"},
	{"adjust", cli_adjust, "GUEST [--downtime-limit MS] [--max-bandwidth SIZE]",
	 "change the limits of a migration that is under way"},
	{"quit", cli_quit, "GUEST", "end a guest's process, and the guest if it is there"},
	{"list", cli_list, "[--json]", "the guests of this user on this host"},
	{"bench", cli_bench, "SCENARIO [OPTION...]", "measure a matrix of migrations"},
	{"version", cli_version, "", "ferry's version"},
	{"help", cli_help, "[COMMAND]", "this list, or help on one command"},
	{NULL, NULL, NULL, NULL},
};

int cli_usage_error(const char *command, const struct err *e)
{
	(void)fprintf(stderr, "ferry: %s\n('ferry %s%s--help' tells what is possible)\n", e->msg,
		      command ? command : "", command ? " " : "");
	return EXIT_USAGE;
}

int cli_failed(const struct err *e)
{
	(void)fprintf(stderr, "ferry: %s\n", e->msg);
	return EXIT_FAILED;
}

int cli_finish(int status)
{
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	(void)fprintf(stderr, "ferry: cannot write to standard output: %s\n", strerror(errno));
	return status ? status : EXIT_FAILED;
}

static const struct cli_command *find_command(const char *name)
{
	const struct cli_command *c = cli_commands;

	while (c->name && strcmp(c->name, name) != 0)
		c++;
	return c->name ? c : NULL;
}

static void help_on(const struct cli_command *c, const struct opt *table)
{
	(void)printf("usage: ferry %s%s%s\n\n%c%s.\n\n", c->name, *c->usage ? " " : "", c->usage,
		     c->summary[0] - 'a' + 'A', c->summary + 1);
	if (!strncmp(c->usage, "GUEST", 5))
		(void)printf("GUEST is a guest's name, or the path of its control socket.\n\n");
	opts_help(table, stdout);
}

int cli_parse(const char *command, const struct opt *table, int argc, char *const *argv,
	      unsigned n_args, void *out, struct opts_args *args)
{
	const struct cli_command *c = find_command(command);
	struct err e = ERR_INIT;
	int rc = opts_parse(table, argc, argv, n_args, out, args, &e);

	if (!rc && args->help) {
		help_on(c, table);
		return cli_finish(EXIT_OK);
	}
	if (!rc && args->n < n_args)
		rc = err_set(&e, EINVAL, "too few arguments: ferry %s %s", command, c->usage);
	return rc ? cli_usage_error(command, &e) : -1;
}

static void list_commands(void)
{
	(void)printf("usage: ferry COMMAND ...\n\nRun virtual machines, and move them while they "
		     "run.\n\n");
	for (const struct cli_command *c = cli_commands; c->name; c++)
		(void)printf("  %-10s%s\n", c->name, c->summary);
	(void)printf("\n'ferry COMMAND --help' tells more about one.\n");
}

int cli_help(int argc, char *const *argv)
{
	char help_flag[] = "--help", *const words[] = {help_flag, NULL};
	const struct cli_command *c;
	struct err e = ERR_INIT;

	if (argc > 1) {
		(void)err_set(&e, EINVAL, "unexpected argument '%.100s'", argv[1]);
		return cli_usage_error(NULL, &e);
	}
	if (!argc || !strcmp(argv[0], "help") || !strncmp(argv[0], "-", 1)) {
		list_commands();
		return cli_finish(EXIT_OK);
	}
	c = find_command(argv[0]);
	if (c)
		return c->run(1, words);
	(void)err_set(&e, EINVAL, "there is no command '%.40s'", argv[0]);
	return cli_usage_error(NULL, &e);
}

static const struct opt no_options[] = {{NULL, NULL, NULL, NULL}};

int cli_version(int argc, char *const *argv)
{
	struct opts_args args;
	int status = cli_parse("version", no_options, argc, argv, 0, NULL, &args);

	if (status >= 0)
		return status;
	(void)printf("ferry " FERRY_VERSION "\n");
	return cli_finish(EXIT_OK);
}
