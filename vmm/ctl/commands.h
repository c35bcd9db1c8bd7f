/* SPDX-License-Identifier: Apache-2.0 */
/* The QMP commands of a ferry process. They run in the main thread and don't wait for long. */
#ifndef VMM_CTL_COMMANDS_H
#define VMM_CTL_COMMANDS_H

#include "vmm/ctl/session.h"

/* The table, with the session as context. */
struct qmp_table session_commands(struct session *s);

/* Those of balloon_commands.c. */
qmp_command_fn cmd_balloon, cmd_query_balloon;

/* Those of migrate_commands.c. */
qmp_command_fn cmd_migrate, cmd_migrate_incoming, cmd_migrate_cancel, cmd_migrate_continue,
	cmd_query_migrate, cmd_set_parameters, cmd_query_parameters, cmd_set_capabilities,
	cmd_query_capabilities, cmd_commit;

/* That of session_file.c. */
qmp_command_fn cmd_save;

#endif
