/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "vmm/cli/cli.h"

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;

	if (argc < 2) {
		(void)err_set(&e, EINVAL, "which command? (run, migrate, status, list, ...)");
		return cli_usage_error(NULL, &e);
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return cli_help(0, NULL);
	if (!strcmp(argv[1], "--version"))
		return cli_version(0, NULL);
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (!strcmp(argv[1], c->name))
			return c->run(argc - 2, argv + 2);
	(void)err_set(&e, EINVAL, "there is no command '%.40s'", argv[1]);
	return cli_usage_error(NULL, &e);
}
