/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/follow.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/cli/cli.h"
#include "vmm/ctl/qmp.h"

#define LINE_BYTES     256
#define LINE_MS        1000 /* how often a plain line or a JSON object is printed */
#define CANCEL_WAIT_MS 30000
#define SECOND_MS      500 /* signals closer together are one wish (timeout(1) sends two) */

static int watch_signals(struct err *e)
{
	struct sigaction hangup;
	sigset_t set;
	int fd;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	if (!sigaction(SIGHUP, NULL, &hangup) && hangup.sa_handler != SIG_IGN) /* nohup */
		(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_sys(e, errno, "cannot watch for signals") : fd;
}

int follow_open(struct follow *f, const char *target, const char *what, bool json, struct err *e)
{
	int rc;

	*f = (struct follow){.target = target,
			     .what = what,
			     .signal_fd = -1,
			     .json = json,
			     .terminal = !json && isatty(STDOUT_FILENO)};
	rc = client_open(&f->client, target, CLIENT_TIMEOUT_MS, e);
	if (rc)
		return rc;
	f->signal_fd = watch_signals(e);
	return f->signal_fd < 0 ? f->signal_fd : 0;
}

void follow_close(struct follow *f)
{
	client_close(f->client);
	if (f->signal_fd >= 0)
		(void)close(f->signal_fd);
	json_decref(f->answer);
}

int follow_ask(struct follow *f, struct err *e)
{
	json_t *answer;
	int rc = client_call(f->client, "query-migrate", NULL, &answer, e);

	if (rc)
		return rc;
	json_decref(f->answer);
	f->answer = answer;
	progress_read(&f->now, answer);
	return 0;
}

int follow_cancel(struct follow *f, struct err *e)
{
	f->cancelling = true;
	f->cancelled_ns = clock_mono_ns();
	return client_call(f->client, "migrate_cancel", NULL, NULL, e);
}

/* The process has ended, but has told before how this went. Returns the exit status. */
static int heard(struct follow *f, const struct client_last_word *last, struct err *e)
{
	if (f->answer)
		(void)json_object_set_new(f->answer, "status", qmp_text(last->outcome));
	if (!strcmp(last->outcome, "completed")) {
		if (!f->json)
			(void)printf("completed: then the guest's process here was ended\n");
		else
			follow_json(f, "done", NULL);
		return EXIT_OK;
	}
	(void)err_set(e, ECANCELED, "the %s was %s, for %s", f->what, last->outcome,
		      last->guest_ended ? "the guest has ended, and its process with it"
					: "the guest's process was ended, and the guest with it");
	return EXIT_FAILED;
}

int follow_lost(struct follow *f, int rc, const struct err *why, struct err *e)
{
	const struct client_last_word *last = client_last_word(f->client);

	if (client_lost(rc) &&
	    (!strcmp(last->outcome, "completed") || !strcmp(last->outcome, "cancelled") ||
	     !strcmp(last->outcome, "failed")))
		return heard(f, last, e);
	if (rc == -ETIMEDOUT && !f->cancelling)
		(void)err_set(e, ETIMEDOUT,
			      "%s; the %s may go on all the same: 'ferry status %s' tells, once it "
			      "answers again",
			      why->msg, f->what, f->target);
	else
		*e = *why;
	return EXIT_UNDECIDED;
}

/* A terminal that is closed is no wish for anything. */
static int interrupted(struct follow *f, uint32_t sig, struct err *e)
{
	uint64_t now_ns = clock_mono_ns();

	if (sig == SIGHUP)
		return err_set(e, EINTR,
			       "the terminal is gone; the %s goes on: 'ferry status %s' shows it, "
			       "'ferry cancel %s' ends it",
			       f->what, f->target, f->target);
	if (f->cancelling && now_ns - f->cancelled_ns < SECOND_MS * NS_PER_MS)
		return 0;
	if (f->cancelling)
		return err_set(e, EINTR,
			       "not waiting any longer: 'ferry status %s' tells how the cancelling "
			       "goes",
			       f->target);
	return follow_cancel(f, e);
}

int follow_wait(struct follow *f, int poll_ms, struct err *e)
{
	struct pollfd p = {.fd = f->signal_fd, .events = POLLIN};
	struct signalfd_siginfo info;

	if (poll(&p, 1, poll_ms) > 0 && read(f->signal_fd, &info, sizeof(info)) == sizeof(info))
		return interrupted(f, info.ssi_signo, e);
	if (f->cancelling && clock_mono_ns() - f->cancelled_ns > CANCEL_WAIT_MS * NS_PER_MS)
		return err_set(e, ETIMEDOUT,
			       "the %s was to be cancelled, and is still '%s' after %d s", f->what,
			       f->now.status, CANCEL_WAIT_MS / 1000);
	return 0;
}

/* Room for a line that does not wrap, or it could not be overwritten. */
static size_t fitting(size_t room)
{
	struct winsize w;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) || !w.ws_col || w.ws_col > room)
		return room;
	return w.ws_col;
}

bool follow_show(struct follow *f, follow_line_fn *line_of)
{
	uint64_t now_ns = clock_mono_ns();
	char line[LINE_BYTES];

	if (!f->terminal && now_ns < f->next_line_ns)
		return false;
	f->next_line_ns = now_ns + LINE_MS * NS_PER_MS;
	if (f->json) {
		follow_json(f, "progress", NULL);
		return true;
	}
	line_of(&f->now, line, f->terminal ? fitting(sizeof(line)) : sizeof(line));
	if (f->terminal)
		(void)printf("\r%s\033[K", line);
	else
		(void)printf("%s\n", line);
	f->line_open = f->terminal;
	(void)fflush(stdout);
	return true;
}

void follow_end_line(struct follow *f)
{
	if (f->line_open)
		(void)fputc('\n', stdout);
	f->line_open = false;
	(void)fflush(stdout);
}

void follow_json(struct follow *f, const char *event, const char *error)
{
	json_t *o = f->answer ? json_copy(f->answer) : json_object();

	if (o && !json_object_set_new(o, "event", json_string(event)) &&
	    (!error || !json_object_set_new(o, "error", qmp_text(error)))) {
		(void)json_dumpf(o, stdout, JSON_COMPACT);
		(void)fputc('\n', stdout);
		(void)fflush(stdout);
	}
	json_decref(o);
}
