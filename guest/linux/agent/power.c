/* SPDX-License-Identifier: Apache-2.0 */
/* The end: by command, or by the power button. */
#include <fcntl.h>
#include <linux/input.h>
#include <stdio.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "agent.h"

/* Without ACPI Linux can only halt, and nobody would notice; a reset ends the VM as well. */
static void power_off(void)
{
	sync();
	if (!access("/sys/firmware/acpi/tables", F_OK))
		(void)reboot(RB_POWER_OFF);
	(void)reboot(RB_AUTOBOOT);
}

void do_poweroff(const struct words *c)
{
	say_ok(c, " ");
	power_off();
}

void do_reboot(const struct words *c)
{
	say_ok(c, " ");
	sync();
	(void)reboot(RB_AUTOBOOT);
}

static void *button(void *arg)
{
	int fd = (int)(intptr_t)arg;
	struct input_event ev;

	while (read(fd, &ev, sizeof(ev)) == sizeof(ev)) {
		if (ev.type != EV_KEY || ev.code != KEY_POWER || !ev.value)
			continue;
		say("the power button was pressed");
		power_off();
	}
	(void)close(fd);
	return NULL;
}

void power_button_watch(void)
{
	for (int i = 0; i < 4; i++) {
		char path[32];
		int fd;

		(void)snprintf(path, sizeof(path), "/dev/input/event%d", i);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && !spawn(button, (void *)(intptr_t)fd))
			(void)close(fd);
	}
}
