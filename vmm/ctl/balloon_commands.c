/* SPDX-License-Identifier: Apache-2.0 */
/* The balloon in QMP. */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/ctl/commands.h"

/* A guest changes its balloon page by page; clients hear of it once in a while. */
#define EVENT_EVERY_S 1

static int find_balloon(struct session *s, struct balloon **out, struct err *e)
{
	*out = devices_balloon(machine_devices(s->machine));
	return *out ? 0 : err_set(e, ENODEV, "the guest has no balloon: start it with --balloon");
}

int cmd_balloon(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	json_int_t value = json_integer_value(json_object_get(args, "value"));
	struct session *s = ctx;

	(void)ret;
	if (!value)
		return err_set(e, EINVAL, "a guest needs some memory: give more than 0 bytes");
	return machine_balloon_target(s->machine, (uint64_t)value, e);
}

static const char *const stat_names[BALLOON_N_STATS] = {
	"stat-swap-in",      "stat-swap-out",     "stat-major-faults",     "stat-minor-faults",
	"stat-free-memory",  "stat-total-memory", "stat-available-memory", "stat-disk-caches",
	"stat-htlb-pgalloc", "stat-htlb-pgfail",
};

/* The last figures that the guest gave, and when; NULL if there are none. */
static json_t *stats(struct balloon *b)
{
	struct balloon_stats st;
	json_t *o, *values;

	if (balloon_stats(b, &st) || !st.updated_ns)
		return NULL;
	values = json_object();
	for (unsigned i = 0; i < BALLOON_N_STATS; i++)
		if (st.known >> i & 1)
			(void)json_object_set_new(values, stat_names[i], qmp_uint(st.value[i]));
	o = json_pack("{s:o,s:o}", "last-update", qmp_uint(st.updated_ns / NS_PER_SEC), "stats",
		      values);
	return o;
}

int cmd_query_balloon(void *ctx, const json_t *args, json_t **ret, struct err *e)
{
	struct balloon_figures f;
	struct balloon *b;
	json_t *of_guest;
	int rc = find_balloon(ctx, &b, e);

	(void)args;
	if (rc)
		return rc;
	balloon_figures(b, &f);
	*ret = json_pack("{s:o,s:o}", "actual", qmp_uint(balloon_actual_bytes(b)),
			 "x-ferry-released", qmp_uint(f.released_bytes));
	of_guest = stats(b);
	if (*ret && of_guest)
		(void)json_object_set_new(*ret, "x-ferry-stats", of_guest);
	(void)balloon_stats_request(b); /* for the next time */
	return *ret ? 0 : -ENOMEM;
}

/* ---- BALLOON_CHANGE ---- */

static void tell(struct session *s)
{
	struct balloon *b = s->machine ? devices_balloon(machine_devices(s->machine)) : NULL;
	json_t *data;

	if (!b || !s->server)
		return;
	data = json_pack("{s:o}", "actual", qmp_uint(balloon_actual_bytes(b)));
	ctl_server_event(s->server, "BALLOON_CHANGE", data);
	json_decref(data);
}

static bool wait_a_while(struct session *s)
{
	const struct itimerspec when = {.it_value.tv_sec = EVENT_EVERY_S};

	return !timerfd_settime(s->balloon_timer_fd, 0, &when, NULL);
}

static void on_timer(void *ctx, uint32_t events)
{
	struct session *s = ctx;
	uint64_t ticks;

	(void)events;
	(void)!read(s->balloon_timer_fd, &ticks, sizeof(ticks));
	s->balloon_waits = s->balloon_again && wait_a_while(s);
	if (s->balloon_again)
		tell(s);
	s->balloon_again = false;
}

void session_balloon_changed(struct session *s)
{
	if (s->balloon_waits) {
		s->balloon_again = true;
		return;
	}
	if (s->balloon_timer_fd < 0) {
		s->balloon_timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (s->balloon_timer_fd >= 0 &&
		    loop_add(s->loop, s->balloon_timer_fd, EPOLLIN, on_timer, s)) {
			(void)close(s->balloon_timer_fd);
			s->balloon_timer_fd = -1;
		}
	}
	s->balloon_waits = s->balloon_timer_fd >= 0 && wait_a_while(s);
	tell(s);
}
