/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/ctl/session.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "vmm/ctl/commands.h"

#define QUIT_WAIT_MS 10000
#define QUIT_TICK_MS 50

/* ---- the end ---- */

bool session_migrating(struct session *s)
{
	return (s->source && !mig_source_ended(s->source)) || (s->save && !mig_save_ended(s->save));
}

void session_cancel(struct session *s)
{
	if (s->source && session_migrating(s))
		mig_source_cancel(s->source);
	if (s->save)
		mig_save_cancel(s->save);
}

void session_forget_outgoing(struct session *s)
{
	trace_end(s->trace);
	mig_source_free(s->source);
	s->source = NULL;
	mig_save_free(s->save);
	s->save = NULL;
}

static void on_quit_timer(void *ctx, uint32_t events)
{
	struct session *s = ctx;
	uint64_t ticks;

	(void)events;
	(void)!read(s->quit_timer_fd, &ticks, sizeof(ticks));
	if (!session_migrating(s) || ++s->quit_ticks > QUIT_WAIT_MS / QUIT_TICK_MS)
		loop_quit(s->loop);
}

static int start_quit_timer(struct session *s)
{
	const struct timespec tick = {.tv_nsec = QUIT_TICK_MS * (long)NS_PER_MS};
	const struct itimerspec every = {.it_interval = tick, .it_value = tick};

	s->quit_timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (s->quit_timer_fd < 0 || timerfd_settime(s->quit_timer_fd, 0, &every, NULL))
		return -errno;
	return loop_add(s->loop, s->quit_timer_fd, EPOLLIN, on_quit_timer, s);
}

void session_quit(struct session *s, int exit_status, bool by_guest, const char *reason)
{
	if (s->quitting) {
		loop_quit(s->loop); /* asked twice: do not wait any longer */
		return;
	}
	s->quitting = true;
	s->exit_status = exit_status;
	session_tell(s, "SHUTDOWN", json_pack("{s:b,s:s}", "guest", by_guest, "reason", reason));
	if (session_migrating(s)) {
		log_info("cancelling the migration first");
		session_cancel(s);
		if (!start_quit_timer(s))
			return;
	}
	loop_quit(s->loop);
}

/* ---- migrations ---- */

static int check_uri(const char *uri, struct err *e)
{
	struct mig_uri parsed;

	if (strlen(uri) >= MIG_URI_BYTES)
		return err_set(e, EINVAL, "the address is longer than %d bytes", MIG_URI_BYTES - 1);
	return mig_uri_parse(uri, &parsed, e);
}

/* Does the stream stay inside this host? */
static bool is_local(const char *text)
{
	struct mig_uri u;

	if (mig_uri_parse(text, &u, NULL) || u.kind == MIG_URI_UNIX)
		return true;
	return !u.host[0] || !strcmp(u.host, "localhost") || !strncmp(u.host, "127.", 4) ||
	       !strcmp(u.host, "::1");
}

int session_check_movable(struct session *s, struct err *e)
{
	enum run_state state = machine_state(s->machine);

	if (s->quitting)
		return err_set(e, EPERM, "this process is about to end");
	if (session_migrating(s))
		return err_set(e, EBUSY,
			       "a migration is under way already: wait for it, or cancel it first");
	switch (state) {
	case RUN_PRELAUNCH:
	case RUN_RUNNING:
	case RUN_PAUSED:
		return session_check_whole(s, e);
	case RUN_INMIGRATE:
		return err_set(e, EPERM, "there is no guest here yet: this side waits for one");
	case RUN_FINISH_MIGRATE:
	case RUN_POSTMIGRATE:
		return err_set(e, EPERM, "the guest has been handed over already");
	case RUN_SHUTDOWN:
	case RUN_INTERNAL_ERROR:
		break;
	}
	return err_set(e, EPERM, "the guest has ended: there is nothing to migrate (%s)",
		       machine_state_name(state));
}

/* Who tells of free pages in the migration that is about to begin; returns how many they are. */
static unsigned free_sources(struct session *s, const struct free_ranges *free)
{
	unsigned n = machine_free_sources(s->machine, s->free_sources);

	s->free_ranges = *free;
	if (free->n)
		s->free_sources[n++] = free_ranges_source(&s->free_ranges);
	return n;
}

static void source_status(void *source, struct mig_status *out)
{
	mig_source_status(source, out);
}

static void dest_status(void *dest, struct mig_status *out)
{
	mig_dest_status(dest, out);
}

int session_migrate(struct session *s, const char *uri, const struct mig_params *params,
		    const struct free_ranges *free, struct err *e)
{
	struct mig_source *new;
	int rc;

	session_hear_out(s);
	rc = session_check_movable(s, e);
	if (!rc)
		rc = check_uri(uri, e);
	if (rc)
		return rc;
	/* The old one has ended; its configuration must outlive it. */
	session_forget_outgoing(s);
	memcpy(s->source_uri, uri, strlen(uri) + 1);
	s->source_cfg = (struct mig_source_config){
		.uri = s->source_uri,
		.guest_name = s->name,
		.mem = machine_mem(s->machine),
		.dirty = machine_dirty_source(s->machine),
		.machine = machine_migration_view(s->machine),
		.cpus = machine_cpu_source(s->machine),
		.free_sources = s->free_sources,
		.n_free_sources = free_sources(s, free),
		.params = *params,
		.on_event = session_on_outgoing,
		.event_ctx = s,
	};
	rc = mig_source_start(&new, &s->source_cfg, e);
	if (rc)
		return rc;
	s->source = new;
	s->params = *params;
	trace_begin(s->trace, "source", source_status, new);
	if (!is_local(uri))
		log_warn("the stream to %s is not encrypted", uri);
	return 0;
}

int session_check_waiting(struct session *s, struct err *e)
{
	session_hear_out(s);
	if (machine_state(s->machine) != RUN_INMIGRATE)
		return err_set(e, EPERM,
			       "this process does not wait for a guest: start one with --incoming");
	if (s->restore && !mig_restore_ended(s->restore))
		return err_set(e, EBUSY, "a guest is being restored from %s", s->dest_uri);
	if (s->dest && !mig_dest_nowhere(s->dest))
		return err_set(e, EBUSY, "this process waits for a guest at %s already",
			       mig_dest_uri(s->dest));
	return 0;
}

void session_forget_incoming(struct session *s)
{
	if (s->dest)
		trace_end(s->trace);
	mig_dest_free(s->dest);
	s->dest = NULL;
	mig_restore_free(s->restore);
	s->restore = NULL;
}

void session_tell_waiting(struct session *s)
{
	log_info("waiting for a guest at %s", mig_dest_uri(s->dest));
	if (!is_local(s->dest_uri))
		log_warn("the stream is not encrypted, and whoever reaches %s can send a guest",
			 mig_dest_uri(s->dest));
}

int session_incoming(struct session *s, const char *uri, struct err *e)
{
	struct mig_dest *new;
	struct mig_uri parsed;
	int rc = session_check_waiting(s, e);

	if (!rc)
		rc = check_uri(uri, e);
	if (rc)
		return rc;
	session_forget_incoming(s);
	memcpy(s->dest_uri, uri, strlen(uri) + 1);
	s->dest_cfg = (struct mig_dest_config){
		.uri = s->dest_uri,
		.mem = machine_mem(s->machine),
		.machine = machine_migration_view(s->machine),
		.on_event = session_on_incoming,
		.event_ctx = s,
	};
	rc = mig_dest_start(&new, &s->dest_cfg, e);
	if (rc)
		return rc;
	s->dest = new;
	trace_begin(s->trace, "destination", dest_status, new);
	/* At a name it waits later, and then the engine says so. */
	if (!mig_uri_parse(uri, &parsed, NULL) && !mig_uri_has_name(&parsed))
		session_tell_waiting(s);
	return 0;
}

/* ---- making and running one ---- */

static void on_signal(void *ctx, uint32_t events)
{
	struct session *s = ctx;
	struct signalfd_siginfo info;

	(void)events;
	if (read(s->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	log_info("%s: ending the guest", strsignal((int)info.ssi_signo));
	session_quit(s, s->exit_status, false, QUIT_BY_SIGNAL);
}

int session_watch_signals(struct session *s, const sigset_t *signals, struct err *e)
{
	int rc;

	s->signal_fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);
	rc = s->signal_fd < 0 ? -errno : loop_add(s->loop, s->signal_fd, EPOLLIN, on_signal, s);
	return rc ? err_sys(e, -rc, "cannot watch for signals") : 0;
}

int session_serve(struct session *s, int listen_fd, struct err *e)
{
	s->commands = session_commands(s);
	return ctl_server_new(&s->server, s->loop, listen_fd, &s->commands, e);
}

int session_run(struct session *s)
{
	int rc = loop_run(s->loop);

	if (rc) {
		log_warn("the event loop failed: %s", strerror(-rc));
		return 1;
	}
	return s->exit_status;
}

int session_init(struct session *s, const char *name, struct err *e)
{
	int rc;

	*s = (struct session){
		.name = name,
		.signal_fd = -1,
		.quit_timer_fd = -1,
		.balloon_timer_fd = -1,
		.file_params = {.n_threads = MIG_FILE_THREADS_DEFAULT},
	};
	mig_params_default(&s->params);
	s->caps.zero_copy_send = s->params.zero_copy;
	s->events_end = &s->events;
	rc = loop_new(&s->loop);
	if (rc)
		return err_sys(e, -rc, "cannot set up the event loop");
	(void)pthread_mutex_init(&s->lock, NULL);
	return 0;
}

void session_end(struct session *s)
{
	/*
	 * What has happened is still told, and how a migration that has ended did; what happens
	 * from here on has nobody to hear it.
	 */
	if (s->machine)
		session_hear_out(s);
	trace_close(s->trace);
	s->trace = NULL;
	session_forget_outgoing(s);
	session_forget_incoming(s);
	machine_free(s->machine);
	s->machine = NULL;
}

void session_free(struct session *s)
{
	session_end(s);
	ctl_server_free(s->server);
	session_drop_events(s);
	if (s->signal_fd >= 0)
		(void)close(s->signal_fd);
	if (s->quit_timer_fd >= 0)
		(void)close(s->quit_timer_fd);
	if (s->balloon_timer_fd >= 0)
		(void)close(s->balloon_timer_fd);
	loop_free(s->loop);
	(void)pthread_mutex_destroy(&s->lock);
}
