/* SPDX-License-Identifier: Apache-2.0 */
/* Saving a guest to a file, and bringing one back: the session's side, and the QMP commands. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "vmm/ctl/commands.h"

static int make_uri(char uri[MIG_URI_BYTES], const char *path, struct err *e)
{
	if (!*path || strlen(path) + sizeof(MIG_FILE_URI) > MIG_URI_BYTES)
		return err_set(e, EINVAL, "the path of the file must have 1 to %d bytes",
			       (int)(MIG_URI_BYTES - sizeof(MIG_FILE_URI)));
	(void)snprintf(uri, MIG_URI_BYTES, MIG_FILE_URI "%s", path);
	return 0;
}

/* ---- away ---- */

int session_save(struct session *s, const char *path, const struct session_save_options *o,
		 struct err *e)
{
	char uri[MIG_URI_BYTES];
	int rc;

	session_hear_out(s);
	rc = session_check_movable(s, e);
	if (!rc)
		rc = make_uri(uri, path, e);
	if (rc)
		return rc;
	session_forget_outgoing(s);
	memcpy(s->source_uri, uri, sizeof(uri));
	s->save_dirty = machine_dirty_source(s->machine);
	s->save_cfg = (struct mig_save_config){
		.path = mig_file_uri_path(s->source_uri),
		.guest_name = s->name,
		.mem = machine_mem(s->machine),
		.machine = machine_migration_view(s->machine),
		.params = o->file,
		.live = o->live ? &s->save_dirty : NULL,
		.cpus = machine_cpu_source(s->machine),
		.throttle = s->params.throttle,
		.go_on = o->go_on,
		.on_event = session_on_outgoing,
		.event_ctx = s,
	};
	s->save_cfg.throttle.auto_converge = o->auto_converge;
	s->save_cfg.throttle.dirty_limit = s->caps.dirty_limit && !o->auto_converge;
	return mig_save_start(&s->save, &s->save_cfg, e);
}

void session_save_said(struct session *s, enum mig_state state)
{
	struct mig_status st;

	mig_save_status(s->save, &st);
	if (state == MIG_COMPLETED)
		log_info("the guest is saved in %s", s->save_cfg.path);
	else if (state == MIG_FAILED)
		log_warn("the guest is not saved: %s", st.error);
	else if (state == MIG_CANCELLED)
		log_info("saving the guest was cancelled");
}

/* ---- back ---- */

int session_restore(struct session *s, const struct session_restore_options *o, struct err *e)
{
	char uri[MIG_URI_BYTES];
	int rc = make_uri(uri, o->path, e);

	if (rc)
		return rc;
	rc = session_check_waiting(s, e);
	if (rc)
		return rc;
	session_forget_incoming(s);
	memcpy(s->dest_uri, uri, sizeof(uri));
	s->restore_cfg = (struct mig_restore_config){
		.path = mig_file_uri_path(s->dest_uri),
		.mem = machine_mem(s->machine),
		.machine = machine_migration_view(s->machine),
		.file = o->file,
		.params = o->params,
		.paused = o->paused,
		.on_event = session_on_incoming,
		.event_ctx = s,
	};
	return mig_restore_start(&s->restore, &s->restore_cfg, e);
}

void session_restore_said(struct session *s, enum mig_state state)
{
	struct mig_status st;

	mig_restore_status(s->restore, &st);
	if (state == MIG_POSTCOPY)
		log_info("the guest is back; the rest of its RAM comes from %s",
			 s->restore_cfg.path);
	if (state == MIG_COMPLETED)
		log_info("the guest is back from %s", s->restore_cfg.path);
	if (state != MIG_FAILED)
		return;
	if (machine_state(s->machine) != RUN_INMIGRATE) {
		log_warn("%s", st.error); /* it was there, on demand */
		return;
	}
	log_warn("the guest is not restored: %s", st.error);
	if (s->guest_or_end)
		session_quit(s, 1, false, "host-error");
}

int session_check_whole(struct session *s, struct err *e)
{
	struct mig_status st;

	if (!s->restore || !s->restore_cfg.params.on_demand)
		return 0;
	mig_restore_status(s->restore, &st);
	if (!mig_restore_ended(s->restore))
		return err_set(
			e, EBUSY,
			"the guest's RAM still comes from %s, %" PRIu64
			" MiB of it are not checked yet: wait until 'ferry status' says that "
			"the restore has completed",
			s->restore_cfg.path, st.remaining_bytes >> 20);
	if (st.state != MIG_COMPLETED)
		return err_set(e, EBADMSG,
			       "not all of the guest's RAM is known to be right, so it is neither "
			       "moved nor saved: %s",
			       st.error);
	return 0;
}

/* ---- QMP ---- */

int migrate_file_params_set(struct mig_file_params *p, const json_t *args, struct err *e)
{
	const json_t *threads = json_object_get(args, "multifd-channels");
	const json_t *direct = json_object_get(args, "direct-io");
	const json_t *demand = json_object_get(args, "x-ferry-on-demand");

	if (threads &&
	    (json_integer_value(threads) < 1 || json_integer_value(threads) > MIG_FILE_THREADS_MAX))
		return err_set(e, EINVAL, "multifd-channels must be 1 to %d", MIG_FILE_THREADS_MAX);
	if (threads)
		p->n_threads = (unsigned)json_integer_value(threads);
	if (direct)
		p->direct_io = json_is_true(direct);
	if (demand)
		p->on_demand = json_is_true(demand);
	return 0;
}

int migrate_file_params_json(const struct mig_file_params *p, json_t *to)
{
	if (json_object_set_new(to, "multifd-channels", qmp_uint(p->n_threads)) ||
	    json_object_set_new(to, "direct-io", json_boolean(p->direct_io)) ||
	    json_object_set_new(to, "x-ferry-on-demand", json_boolean(p->on_demand)))
		return -ENOMEM;
	return 0;
}

int cmd_save(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	struct session_save_options o = {.file = s->file_params,
					 .auto_converge = s->caps.auto_converge};
	const json_t *converge = json_object_get(args, "auto-converge");
	int rc = migrate_file_params_set(&o.file, args, e);

	(void)ret;
	o.live = json_is_true(json_object_get(args, "live"));
	o.go_on = json_is_true(json_object_get(args, "go-on"));
	if (converge)
		o.auto_converge = json_is_true(converge);
	if (!rc && !o.live && json_is_true(converge))
		rc = err_set(e, EINVAL, "auto-converge is for saves of a guest that runs: live");
	return rc ? rc : session_save(s, json_string_value(json_object_get(args, "path")), &o, e);
}
