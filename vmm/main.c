/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cli.h"

/*
 * Started with 0, 1 or 2 closed, the next descriptors that we open would take their places, and
 * messages would go into a socket or a device.
 */
static void fill_standard_fds(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		(void)close(fd);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;

	fill_standard_fds();
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
