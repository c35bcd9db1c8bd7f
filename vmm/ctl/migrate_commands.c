/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "vmm/ctl/commands.h"
#include "vmm/ctl/migrate_info.h"

static const char *text_arg(const json_t *args, const char *name)
{
	return json_string_value(json_object_get(args, name));
}

/* What a save would not heed is refused: it was asked for in vain. */
static int check_file_args(const json_t *args, struct err *e)
{
	static const char *const known[] = {"uri", "detach", "multifd-channels"};
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)args, key, value)
	{
		size_t i = 0, n = sizeof(known) / sizeof(known[0]);

		while (i < n && strcmp(key, known[i]) != 0)
			i++;
		if (i == n)
			return err_set(e, EINVAL, "saving to a file knows no argument '%.64s'",
				       key);
	}
	return 0;
}

/* As QMP's users know it: the guest is paused at the end, and may go on. */
static int save_to_file(struct session *s, const char *path, const json_t *args, struct err *e)
{
	struct session_save_options o = {.file = s->file_params};
	int rc = check_file_args(args, e);

	if (!rc && !s->caps.mapped_ram)
		rc = err_set(e, EINVAL,
			     "a file is written with the capability mapped-ram only: switch it "
			     "on with migrate-set-capabilities");
	if (!rc)
		rc = migrate_file_params_set(&o.file, args, e);
	return rc ? rc : session_save(s, path, &o, e);
}

/* The argument, which is for this migration alone; else the parameter, if the capability is on. */
static int count_channels(const struct session *s, const json_t *args, struct mig_params *p,
			  struct err *e)
{
	const json_t *wanted = json_object_get(args, "multifd-channels");

	if (wanted &&
	    (json_integer_value(wanted) < 1 || json_integer_value(wanted) > MIG_CHANNELS_MAX))
		return err_set(e, EINVAL, "multifd-channels must be 1 to %d", MIG_CHANNELS_MAX);
	p->channels = s->caps.multifd ? s->file_params.n_threads : 1;
	if (wanted)
		p->channels = (unsigned)json_integer_value(wanted);
	if (p->channels > MIG_CHANNELS_MAX)
		p->channels = MIG_CHANNELS_MAX;
	return 0;
}

int cmd_migrate(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	const json_t *converge = json_object_get(args, "auto-converge");
	struct mig_params params = s->params;
	const json_t *hold = json_object_get(args, "pause-before-switchover");
	struct migrate_caps caps = s->caps;
	struct free_ranges free = {.n = 0};
	const char *path = mig_file_uri_path(text_arg(args, "uri"));
	int rc;

	(void)ret; /* "detach" changes nothing: the command never waits */
	if (path)
		return save_to_file(s, path, args, e);
	rc = migrate_params_set(&params, args, e);
	params.pause_before_switchover =
		hold ? json_is_true(hold) : s->caps.pause_before_switchover;
	if (converge) {
		caps.auto_converge = json_is_true(converge);
		caps.dirty_limit &= !caps.auto_converge;
	}
	params.zero_copy = caps.zero_copy_send;
	params.throttle.auto_converge = caps.auto_converge;
	params.throttle.dirty_limit = caps.dirty_limit;
	params.verify = json_is_true(json_object_get(args, "x-ferry-verify"));
	if (!rc)
		rc = count_channels(s, args, &params, e);
	if (!rc)
		rc = migrate_free_ranges(&free, machine_mem(s->machine),
					 json_object_get(args, "x-ferry-free-pages"), e);
	if (!rc)
		rc = session_migrate(s, text_arg(args, "uri"), &params, &free, e);
	if (!rc)
		s->caps = caps;
	return rc;
}

int cmd_migrate_incoming(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	const struct session_restore_options o = {.path = mig_file_uri_path(text_arg(args, "uri")),
						  .params = s->file_params};

	(void)ret;
	if (o.path)
		return session_restore(s, &o, e);
	return session_incoming(ctx, text_arg(args, "uri"), e);
}

int cmd_migrate_cancel(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	(void)args, (void)ret, (void)e;
	session_cancel(ctx);
	return 0;
}

int cmd_migrate_continue(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	const char *state = text_arg(args, "state");

	(void)ret;
	if (state && strcmp(state, mig_state_name(MIG_PRE_SWITCHOVER)) != 0)
		return err_set(e, EINVAL, "a migration waits for a word in the state '%s' only",
			       mig_state_name(MIG_PRE_SWITCHOVER));
	if (!s->source)
		return err_set(e, EINVAL, "no migration is under way");
	return mig_source_continue(s->source, e);
}

int cmd_query_migrate(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	struct mig_status st;

	(void)args, (void)e;
	if (s->save) {
		mig_save_status(s->save, &st);
		*ret = migrate_info_json(&st, true, s->source_uri);
	} else if (s->source) {
		mig_source_status(s->source, &st);
		*ret = migrate_info_json(&st, true, s->source_uri);
	} else if (s->restore) {
		mig_restore_status(s->restore, &st);
		*ret = migrate_info_json(&st, false, s->dest_uri);
	} else if (s->dest) {
		mig_dest_status(s->dest, &st);
		*ret = migrate_info_json(&st, false, mig_dest_uri(s->dest));
	} else {
		*ret = json_object();
	}
	return *ret ? 0 : -ENOMEM;
}

int cmd_set_parameters(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	struct mig_file_params file = s->file_params;
	int rc = migrate_file_params_set(&file, args, e);

	(void)ret;
	if (!rc)
		rc = migrate_params_set(&s->params, args, e);
	if (!rc)
		s->file_params = file;
	if (!rc && s->source && session_migrating(s))
		mig_source_set_params(s->source, &s->params);
	return rc;
}

int cmd_query_parameters(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	(void)args, (void)e;
	*ret = migrate_params_json(&((struct session *)ctx)->params);
	if (*ret && migrate_file_params_json(&((struct session *)ctx)->file_params, *ret)) {
		json_decref(*ret);
		*ret = NULL;
	}
	return *ret ? 0 : -ENOMEM;
}

int cmd_set_capabilities(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	struct migrate_caps new = s->caps;
	int rc = migrate_caps_set(&new, json_object_get(args, "capabilities"), e);

	(void)ret;
	if (rc)
		return rc;
	if (session_migrating(s) &&
	    (new.auto_converge != s->caps.auto_converge || new.dirty_limit != s->caps.dirty_limit))
		return err_set(e, EBUSY,
			       "this capability cannot change while a migration is under way");
	s->caps = new;
	return 0;
}

int cmd_query_capabilities(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	(void)args, (void)e;
	*ret = migrate_caps_json(&((struct session *)ctx)->caps);
	return *ret ? 0 : -ENOMEM;
}

int cmd_commit(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct session *s = ctx;
	const char *text = text_arg(args, "token");
	bool force = json_is_true(json_object_get(args, "force"));
	uint64_t token;
	int rc;

	(void)ret;
	if (!s->dest)
		return err_set(e, EINVAL,
			       "no guest was to arrive here: there is nothing to decide");
	if (!text == !force)
		return err_set(e, EINVAL, "either a token or force is needed");
	if (force)
		return mig_dest_decide_forced(s->dest, e);
	rc = migrate_token_parse(text, &token, e);
	return rc ? rc : mig_dest_decide(s->dest, token, e);
}
