/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to the machine and to migrations: a queue, and telling clients and people of it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "vmm/ctl/session.h"

enum event_from { FROM_MACHINE, FROM_SOURCE, FROM_DEST };

struct session_event {
	struct session_event *next;
	enum event_from from;
	enum machine_event_kind machine;
	struct mig_event migration;
};

/* ---- telling the clients ---- */

void session_tell(struct session *s, const char *name, json_t *data)
{
	if (s->server)
		ctl_server_event(s->server, name, data);
	json_decref(data);
}

static void tell_migration(struct session *s, const struct mig_event *ev)
{
	/* Who follows a migration is told how it went before this process is gone. */
	bool last_word = s->quitting && ev->kind == MIG_EVENT_STATE && !session_migrating(s);

	if (!s->caps.events && !last_word)
		return;
	if (ev->kind == MIG_EVENT_PASS)
		session_tell(s, "MIGRATION_PASS", json_pack("{s:o}", "pass", qmp_uint(ev->pass)));
	else
		session_tell(s, "MIGRATION",
			     json_pack("{s:s}", "status", mig_state_name(ev->state)));
}

/* ---- events of the machine ---- */

static void guest_ended(struct session *s)
{
	struct machine_end end;

	machine_end(s->machine, &end);
	if (strncmp(end.text, "the guest", 9) != 0)
		log_info("the guest has ended: %s", end.text);
	else
		log_info("%s", end.text);
	switch (end.kind) {
	case END_NONE:
		break;
	case END_INTERNAL_ERROR:
		/* Somebody will want to look at it. What is left of it is not worth moving. */
		s->exit_status = end.exit_status;
		session_cancel(s);
		session_tell(s, "STOP", NULL);
		log_info("'ferry quit %s' ends this process", s->name);
		break;
	case END_RESET:
		session_tell(s, "RESET",
			     json_pack("{s:b,s:s}", "guest", true, "reason", "guest-reset"));
		session_quit(s, end.exit_status, true, "guest-reset");
		break;
	case END_TRIPLE_FAULT:
		session_quit(s, end.exit_status, true, "guest-reset");
		break;
	case END_SHUTDOWN:
	case END_DEBUG_EXIT:
		session_quit(s, end.exit_status, true, "guest-shutdown");
		break;
	}
}

static void machine_happened(struct session *s, enum machine_event_kind kind)
{
	switch (kind) {
	case MACHINE_EVENT_STOP:
		session_tell(s, "STOP", NULL);
		break;
	case MACHINE_EVENT_RESUME:
		session_tell(s, "RESUME", NULL);
		break;
	case MACHINE_EVENT_BUTTON:
		session_tell(s, "POWERDOWN", NULL);
		break;
	case MACHINE_EVENT_BALLOON:
		__atomic_store_n(&s->balloon_queued, false, __ATOMIC_RELEASE);
		session_balloon_changed(s);
		break;
	case MACHINE_EVENT_END:
		guest_ended(s);
		break;
	case MACHINE_EVENT_QUIT:
		log_info("ended from the terminal");
		session_quit(s, s->exit_status, false, QUIT_BY_USER);
		break;
	}
}

/* ---- events of migrations ---- */

static void source_said(struct session *s, enum mig_state state)
{
	struct mig_status st;
	char token[MIGRATE_TOKEN_BYTES];

	if (s->save)
		session_save_said(s, state);
	if (!s->source)
		return;
	mig_source_status(s->source, &st);
	if (state == MIG_COMPLETED)
		log_info("the guest has moved to %s; 'ferry quit %s' ends what is left here",
			 s->source_uri, s->name);
	else if (state == MIG_FAILED)
		log_warn("the migration failed: %s", st.error);
	else if (state == MIG_CANCELLED)
		log_info("migration cancelled%s", s->quitting ? "" : "; the guest stays here");
	else if (state == MIG_UNDECIDED) {
		migrate_token_format(st.token, token);
		log_warn("the migration is undecided: %s", st.error);
		log_warn("the guest never runs here again; if it does not run at %s either, say "
			 "'ferry cont NAME --token %s' there",
			 s->source_uri, token);
	}
}

static void incoming_nowhere(struct session *s, const struct mig_status *st)
{
	log_warn("no guest can come here: %s", st->error);
	if (s->guest_or_end)
		session_quit(s, 1, false, "host-error");
}

static void dest_said(struct session *s, enum mig_state state)
{
	struct mig_status st;

	if (s->restore)
		session_restore_said(s, state);
	if (!s->dest)
		return;
	mig_dest_status(s->dest, &st);
	if (state == MIG_NONE)
		session_tell_waiting(s);
	else if (state == MIG_COMPLETED)
		log_info("the guest has arrived");
	else if (state == MIG_FAILED && mig_dest_nowhere(s->dest))
		incoming_nowhere(s, &st);
	/* A failure has been logged by the engine, which also knows of strangers. */
	else if (state == MIG_UNDECIDED)
		log_warn("the migration is undecided: %s; the source shows a token that lets the "
			 "guest run here: 'ferry cont %s --token TOKEN'",
			 st.error, s->name);
}

/* ---- the queue ---- */

static void handle_event(struct session *s, const struct session_event *ev)
{
	if (ev->from == FROM_MACHINE) {
		machine_happened(s, ev->machine);
		return;
	}
	tell_migration(s, &ev->migration);
	if (ev->migration.kind != MIG_EVENT_STATE)
		return;
	if (ev->from == FROM_SOURCE) {
		source_said(s, ev->migration.state);
		if (s->quitting && !session_migrating(s))
			loop_quit(s->loop);
	} else {
		dest_said(s, ev->migration.state);
	}
}

static struct session_event *take_event(struct session *s)
{
	struct session_event *ev;

	pthread_mutex_lock(&s->lock);
	ev = s->events;
	if (ev) {
		s->events = ev->next;
		if (!s->events)
			s->events_end = &s->events;
	}
	pthread_mutex_unlock(&s->lock);
	return ev;
}

void session_hear(struct session *s)
{
	struct session_event *ev;

	while ((ev = take_event(s))) {
		handle_event(s, ev);
		free(ev);
	}
}

void session_drop_events(struct session *s)
{
	struct session_event *ev;

	while ((ev = take_event(s)))
		free(ev);
}

/*
 * Threads that have ended may still be about to say so. Whatever they say is told before the reply
 * to the command that begins the next migration: nobody shall take it for that one's.
 */
void session_hear_out(struct session *s)
{
	if (s->source && mig_source_ended(s->source))
		mig_source_join(s->source);
	if (s->save && mig_save_ended(s->save))
		mig_save_join(s->save);
	if (s->dest && mig_dest_nowhere(s->dest))
		mig_dest_join(s->dest);
	if (s->restore && mig_restore_ended(s->restore))
		mig_restore_join(s->restore);
	session_hear(s);
}

static void on_post(void *ctx, uint32_t events)
{
	(void)events;
	session_hear(ctx);
}

/* Any thread. False: nobody may hear of it. */
static bool put_event(struct session *s, struct session_event what)
{
	struct session_event *ev = malloc(sizeof(*ev));

	if (!ev) {
		log_warn("out of memory: an event is lost");
		return false;
	}
	*ev = what;
	ev->next = NULL;
	pthread_mutex_lock(&s->lock);
	*s->events_end = ev;
	s->events_end = &ev->next;
	pthread_mutex_unlock(&s->lock);
	if (!loop_post(s->loop, on_post, s))
		return true;
	log_warn("out of memory: an event is late");
	return false;
}

void session_on_machine(void *ctx, enum machine_event_kind kind)
{
	struct session *s = ctx;

	/* The guest decides how many there are: one in the queue stands for all. */
	if (kind == MACHINE_EVENT_BALLOON &&
	    __atomic_exchange_n(&s->balloon_queued, true, __ATOMIC_ACQ_REL))
		return;
	if (!put_event(s, (struct session_event){.from = FROM_MACHINE, .machine = kind}) &&
	    kind == MACHINE_EVENT_BALLOON)
		__atomic_store_n(&s->balloon_queued, false, __ATOMIC_RELEASE);
}

void session_on_outgoing(void *ctx, const struct mig_event *ev)
{
	(void)put_event(ctx, (struct session_event){.from = FROM_SOURCE, .migration = *ev});
}

void session_on_incoming(void *ctx, const struct mig_event *ev)
{
	(void)put_event(ctx, (struct session_event){.from = FROM_DEST, .migration = *ev});
}
