/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a `ferry run` process has besides the machine: control clients, migrations, signals, and the
 * decision when it all ends.
 *
 * Threads: everything belongs to the main thread, which runs the loop, but for the event queue.
 * The machine's and the engine's callbacks come from other threads: they put the event into the
 * queue and post a call to the loop, so that clients see all events in one order.
 *
 * The end: session_quit() is asked for by a client, a signal or the guest's own end. A migration
 * that is under way is cancelled first and waited for (QUIT_WAIT_MS at most, or until somebody asks
 * again); then the loop ends. A guest that KVM gave up on is no reason to end: it stays
 * inspectable.
 */
#ifndef VMM_CTL_SESSION_H
#define VMM_CTL_SESSION_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>

#include "base/loop.h"
#include "migration/migration.h"
#include "migration/restore.h"
#include "migration/uri.h"
#include "vmm/ctl/migrate_info.h"
#include "vmm/ctl/server.h"
#include "vmm/free_ranges.h"
#include "vmm/machine.h"
#include "vmm/trace.h"

struct session_event;

struct session {
	struct loop *loop;
	const char *name; /* the guest's */
	struct machine *machine;
	struct ctl_server *server;
	struct qmp_table commands;
	int signal_fd;
	struct trace *trace; /* --trace; NULL = none */
	/* migrations: the latest one away, and the one that brought (or will bring) the guest */
	struct mig_params params;
	struct migrate_caps caps;
	struct mig_source *source;
	struct mig_source_config source_cfg;
	struct free_ranges free_ranges; /* of the latest migration away */
	struct mig_free_source
		free_sources[MACHINE_FREE_SOURCES + 1]; /* source_cfg points to them */
	char source_uri[MIG_URI_BYTES];
	struct mig_dest *dest;
	struct mig_dest_config dest_cfg;
	char dest_uri[MIG_URI_BYTES];
	/* session_file.c: of these and the two above only the latest in each direction exists */
	struct mig_file_params file_params;
	struct mig_save *save;
	struct mig_save_config save_cfg;
	struct mig_dirty_source save_dirty; /* save_cfg points to it */
	struct mig_restore *restore;
	struct mig_restore_config restore_cfg;
	bool guest_or_end; /* without the guest there is nothing to stay for */
	/* balloon_commands.c: no more than one event a second */
	int balloon_timer_fd;
	bool balloon_waits, balloon_again;
	/* the end */
	bool quitting;
	int exit_status;
	int quit_timer_fd;
	unsigned quit_ticks;
	/* any thread */
	bool balloon_queued;  /* atomic: an event of it is in the queue */
	pthread_mutex_t lock; /* guards the queue */
	struct session_event *events, **events_end;
};

/* A session without a machine; session_on_machine can be called from now on. */
int session_init(struct session *s, const char *name, struct err *e);
/*
 * After session_run(): ends and frees the migrations and the machine. Clients stay connected: to
 * them the end of the connection means that the guest is gone.
 */
void session_end(struct session *s);
/* session_end(), then the server and the loop. */
void session_free(struct session *s);

/* Tell the clients that the balloon has another size. */
void session_balloon_changed(struct session *s);

/* Serve clients on listen_fd (ours on success), end on these signals (blocked in every thread). */
int session_serve(struct session *s, int listen_fd, struct err *e);
int session_watch_signals(struct session *s, const sigset_t *signals, struct err *e);

/* Run until the end; returns the exit status of the process. */
int session_run(struct session *s);

/* Why a session ends, in QMP's words. */
#define QUIT_BY_CLIENT "host-qmp-quit"
#define QUIT_BY_SIGNAL "host-signal"
#define QUIT_BY_USER   "host-ui" /* Ctrl-A x on the terminal */

/* End it. by_guest and reason go into the event SHUTDOWN. */
void session_quit(struct session *s, int exit_status, bool by_guest, const char *reason);

/*
 * -EBUSY, -EPERM, -EINVAL with the reason; what takes time shows up in the status. The parameters
 * become the session's only if the migration begins: one that is refused changes nothing. `free` is
 * for this migration alone.
 */
int session_migrate(struct session *s, const char *uri, const struct mig_params *params,
		    const struct free_ranges *free, struct err *e);
/* The same; at a host's name it also shows up in the status that one cannot listen there. */
int session_incoming(struct session *s, const char *uri, struct err *e);
/* Can a guest be waited for, or restored, now? -EBUSY, -EPERM with the reason. */
int session_check_waiting(struct session *s, struct err *e);
/* End and free what waited for one, or restored one, before. */
void session_forget_incoming(struct session *s);
/* Say where a guest is waited for. */
void session_tell_waiting(struct session *s);
/* Can the guest be sent away, or saved, now? -EBUSY, -EPERM with the reason. */
int session_check_movable(struct session *s, struct err *e);
/* End and free what was sent away, or saved, before. */
void session_forget_outgoing(struct session *s);
/* Nothing under way: nothing to do. */
void session_cancel(struct session *s);
bool session_migrating(struct session *s);

/* ---- session_events.c ---- */

/* The machine's and the engine's event callbacks (ctx = the session), any thread. */
void session_on_machine(void *ctx, enum machine_event_kind kind);
void session_on_outgoing(void *ctx, const struct mig_event *ev);
void session_on_incoming(void *ctx, const struct mig_event *ev);
/* Everything in the queue, now; the loop calls it by itself soon after something was put there. */
void session_hear(struct session *s);
/* The same, and the last words of migrations that have ended: before the next begins, and last. */
void session_hear_out(struct session *s);
/* Forget what is in it. */
void session_drop_events(struct session *s);
/* Steals data, which is NULL when memory ran out: the event is worth more than its data. */
void session_tell(struct session *s, const char *name, json_t *data);

/* ---- session_file.c ---- */

struct session_save_options {
	struct mig_file_params file;
	bool live;          /* the guest runs meanwhile */
	bool go_on;         /* the guest goes on afterwards, if it ran; else it stays paused */
	bool auto_converge; /* live: it may be slowed down */
};

/* As session_migrate(), to a file of this path. */
int session_save(struct session *s, const char *path, const struct session_save_options *o,
		 struct err *e);

struct session_restore_options {
	const char *path;
	struct mig_file *file; /* the same, opened (ours on success), or NULL */
	struct mig_file_params params;
	bool paused; /* do not run the guest, whatever it did when it was saved */
};

/* Bring the guest in a file here. */
int session_restore(struct session *s, const struct session_restore_options *o, struct err *e);
/* A restore has changed its state. */
void session_restore_said(struct session *s, enum mig_state state);
void session_save_said(struct session *s, enum mig_state state);
/*
 * Is all of a guest's RAM there, and known to be right? Else it is neither moved nor saved: what is
 * damaged would get new checksums. -EBUSY while it is filled in on demand, -EBADMSG after damage.
 */
int session_check_whole(struct session *s, struct err *e);

/* multifd-channels and direct-io, out of args into *p, which an error leaves as it was. */
int migrate_file_params_set(struct mig_file_params *p, const json_t *args, struct err *e);
/* The same, added to an object. -ENOMEM. */
int migrate_file_params_json(const struct mig_file_params *p, json_t *to);

#endif
