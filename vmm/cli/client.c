/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/ctl/path.h"

struct client {
	int fd;
	int timeout_ms;
	json_int_t last_id;
	char path[CTL_PATH_BYTES];
	char *buf; /* what was read: len bytes, the first `used` of them handled */
	size_t len, used, cap;
	struct client_last_word last;
};

static int no_answer(const struct client *c, struct err *e)
{
	return err_set(e, ETIMEDOUT, "the guest at %s does not answer (waited %d s)", c->path,
		       c->timeout_ms / 1000);
}

static int broken(const struct client *c, int code, struct err *e)
{
	if (code == ECONNRESET || code == EPIPE)
		return err_set(e, code, "the guest at %s has closed the connection", c->path);
	return err_sys(e, code, "the connection to %s failed", c->path);
}

/* Wait until the socket is ready or the deadline has passed. */
static int wait_for(const struct client *c, short events, uint64_t deadline_ns, struct err *e)
{
	for (;;) {
		struct pollfd p = {.fd = c->fd, .events = events};
		uint64_t now = clock_mono_ns();
		int n;

		if (now >= deadline_ns)
			return no_answer(c, e);
		n = poll(&p, 1, (int)((deadline_ns - now) / NS_PER_MS) + 1);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return broken(c, errno, e);
	}
}

static uint64_t deadline(const struct client *c)
{
	return clock_mono_ns() + (unsigned)c->timeout_ms * NS_PER_MS;
}

static int send_all(struct client *c, const char *data, size_t len, uint64_t until, struct err *e)
{
	while (len) {
		ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		int rc = 0;

		if (n >= 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			rc = wait_for(c, POLLOUT, until, e);
		} else if (errno != EINTR) {
			rc = broken(c, errno, e);
		}
		if (rc)
			return rc;
	}
	return 0;
}

/* Read some more bytes into the buffer. */
static int fill(struct client *c, uint64_t until, struct err *e)
{
	ssize_t n;

	if (c->used) {
		c->len -= c->used;
		memmove(c->buf, c->buf + c->used, c->len);
		c->used = 0;
	}
	if (c->len == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 4096;
		char *grown = cap <= CLIENT_LINE_MAX ? realloc(c->buf, cap) : NULL;

		if (!grown)
			return err_set(e, EPROTO, "%s sends a line that has no end: it is no ferry",
				       c->path);
		c->buf = grown;
		c->cap = cap;
	}
	for (;;) {
		n = recv(c->fd, c->buf + c->len, c->cap - c->len, MSG_DONTWAIT);
		if (n > 0) {
			c->len += (size_t)n;
			return 0;
		}
		if (n == 0)
			return broken(c, ECONNRESET, e);
		if (errno == EAGAIN) {
			int rc = wait_for(c, POLLIN, until, e);

			if (rc)
				return rc;
		} else if (errno != EINTR) {
			return broken(c, errno, e);
		}
	}
}

static bool is_control(const unsigned char *c)
{
	/* Those above ASCII have two bytes: terminals know them, too. */
	return *c < ' ' || *c == 0x7f || (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0);
}

static int clean_string(json_t *v)
{
	char *copy = strdup(json_string_value(v));
	int rc = copy ? 0 : -ENOMEM;

	for (char *c = copy; c && *c; c++) {
		if (!is_control((unsigned char *)c))
			continue;
		if (*c == (char)0xc2)
			c[1] = '?';
		*c = '?';
	}
	if (!rc && json_string_set(v, copy))
		rc = -ENOMEM;
	free(copy);
	return rc;
}

/* Texts of the peer will be printed, and terminals act on control characters. */
static int clean(json_t *v)
{
	const char *key;
	json_t *item;
	size_t i;
	int rc = 0;

	if (json_is_string(v))
		return clean_string(v);
	json_array_foreach(v, i, item)
	{
		rc = rc ? rc : clean(item);
	}
	json_object_foreach(v, key, item)
	{
		rc = rc ? rc : clean(item);
	}
	return rc;
}

/* The next message. New reference in *out. */
static int read_message(struct client *c, json_t **out, uint64_t until, struct err *e)
{
	size_t seen = 0;
	char *start, *end;

	for (;;) {
		int rc;

		start = c->buf + c->used;
		end = c->len > c->used + seen ? memchr(start + seen, '\n', c->len - c->used - seen)
					      : NULL;
		if (end)
			break;
		seen = c->len - c->used;
		rc = fill(c, until, e);
		if (rc)
			return rc;
	}
	*out = json_loadb(start, (size_t)(end - start), 0, NULL);
	c->used += (size_t)(end - start) + 1;
	if (*out && clean(*out)) {
		json_decref(*out);
		return err_sys(e, ENOMEM, "cannot read the answer of %s", c->path);
	}
	if (*out)
		return 0;
	return err_set(e, EPROTO, "%s sends something that is no JSON: it is no ferry", c->path);
}

static int take_reply(json_t *message, const char *command, json_t **ret, struct err *e)
{
	json_t *error = json_object_get(message, "error");
	json_t *value = json_object_get(message, "return");
	const char *desc = json_string_value(json_object_get(error, "desc"));

	if (error)
		return err_set(e, EREMOTEIO, "%s", desc ? desc : "the command was refused");
	if (!value)
		return err_set(e, EPROTO, "the answer to %s makes no sense", command);
	if (ret)
		*ret = json_incref(value);
	return 0;
}

/* An event: what the process says of its own end is remembered, the rest is of no interest. */
static void hear(struct client *c, const json_t *message)
{
	const char *event = json_string_value(json_object_get(message, "event"));
	const json_t *data = json_object_get(message, "data");
	const char *status = json_string_value(json_object_get(data, "status"));

	if (!event)
		return;
	if (!strcmp(event, "SHUTDOWN")) {
		c->last.ends = true;
		c->last.guest_ended = json_is_true(json_object_get(data, "guest"));
	} else if (!strcmp(event, "MIGRATION") && c->last.ends && status) {
		(void)snprintf(c->last.outcome, sizeof(c->last.outcome), "%s", status);
	}
}

const struct client_last_word *client_last_word(const struct client *c)
{
	return &c->last;
}

/* Is this the reply to command `id`? (An error without an id is: nothing else was sent.) */
static bool is_reply(const json_t *message, json_int_t id)
{
	const json_t *its_id = json_object_get(message, "id");

	if (json_object_get(message, "event"))
		return false;
	return json_object_get(message, "error") ? !its_id || json_integer_value(its_id) == id
						 : json_integer_value(its_id) == id;
}

/* It takes no command any more: what it has said before is still there. */
static void hear_out(struct client *c, uint64_t until)
{
	json_t *message;

	while (!read_message(c, &message, until, NULL)) {
		hear(c, message);
		json_decref(message);
	}
}

int client_call(struct client *c, const char *command, json_t *args, json_t **ret, struct err *e)
{
	json_t *message = json_pack("{s:s,s:I}", "execute", command, "id", ++c->last_id);
	uint64_t until = deadline(c);
	char *text = NULL;
	int rc;

	if (message && args && json_object_set(message, "arguments", args) == 0)
		text = json_dumps(message, JSON_COMPACT);
	else if (message && !args)
		text = json_dumps(message, JSON_COMPACT);
	json_decref(args);
	json_decref(message);
	if (!text)
		return err_sys(e, ENOMEM, "cannot send %s", command);
	rc = send_all(c, text, strlen(text), until, e);
	free(text);
	if (!rc)
		rc = send_all(c, "\n", 1, until, e);
	if (client_lost(rc))
		hear_out(c, until);
	while (!rc) {
		rc = read_message(c, &message, until, e);
		if (rc)
			break;
		if (is_reply(message, c->last_id)) {
			rc = take_reply(message, command, ret, e);
			json_decref(message);
			break;
		}
		hear(c, message);
		json_decref(message);
	}
	return rc;
}

int client_check_text(const char *text, struct err *e)
{
	json_t *v = json_string(text);

	if (!v)
		return err_set(e, EINVAL, "an argument is not valid UTF-8: it cannot be sent");
	json_decref(v);
	return 0;
}

bool client_lost(int rc)
{
	return rc == -ECONNRESET || rc == -EPIPE;
}

int client_wait_end(struct client *c, int timeout_ms, struct err *e)
{
	uint64_t until = clock_mono_ns() + (unsigned)timeout_ms * NS_PER_MS;
	struct err ignored = ERR_INIT;
	int rc;

	do { /* what still comes is of no interest */
		c->len = c->used = 0;
		rc = fill(c, until, &ignored);
	} while (!rc);
	if (rc == -ETIMEDOUT)
		return err_set(e, ETIMEDOUT,
			       "the process of the guest at %s has not ended after %d s", c->path,
			       timeout_ms / 1000);
	return 0;
}

/* ---- connecting ---- */

static int connect_to(struct client *c, struct err *e)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = c->timeout_ms / 1000,
				.tv_usec = c->timeout_ms % 1000 * 1000};

	memcpy(a.sun_path, c->path, sizeof(a.sun_path));
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return err_sys(e, errno, "cannot make a socket");
	/* A full queue makes connect() wait; this bounds it. */
	(void)setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (!connect(c->fd, (const struct sockaddr *)&a, sizeof(a)))
		return 0;
	if (errno == EAGAIN || errno == EINPROGRESS)
		return no_answer(c, e);
	if (errno == ENOENT)
		return err_set(e, ENOENT, "there is no socket %s", c->path);
	if (errno == ECONNREFUSED)
		return err_set(e, ECONNREFUSED, "nobody listens at %s: that guest is gone",
			       c->path);
	return err_sys(e, errno, "cannot connect to %s", c->path);
}

static int greet(struct client *c, struct err *e)
{
	json_t *greeting = NULL;
	const char *desc;
	int rc = read_message(c, &greeting, deadline(c), e);

	if (rc)
		return rc;
	desc = json_string_value(json_object_get(json_object_get(greeting, "error"), "desc"));
	if (desc)
		rc = err_set(e, EBUSY, "%s refuses: %s", c->path, desc);
	else if (!json_object_get(greeting, "QMP"))
		rc = err_set(e, EPROTO, "%s is no control socket", c->path);
	json_decref(greeting);
	return rc ? rc : client_call(c, "qmp_capabilities", NULL, NULL, e);
}

int client_open(struct client **out, const char *target, int timeout_ms, struct err *e)
{
	struct client *c = calloc(1, sizeof(*c));
	struct ctl_places places;
	int rc;

	if (!c)
		return err_sys(e, ENOMEM, "cannot connect");
	c->fd = -1;
	c->timeout_ms = timeout_ms;
	ctl_places_init(&places);
	rc = ctl_find(&places, target, c->path, e);
	if (!rc)
		rc = connect_to(c, e);
	if (!rc)
		rc = greet(c, e);
	if (rc) {
		client_close(c);
		return rc;
	}
	*out = c;
	return 0;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		(void)close(c->fd);
	free(c->buf);
	free(c);
}

pid_t client_pid(const struct client *c)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ? 0 : peer.pid;
}

const char *client_path(const struct client *c)
{
	return c->path;
}
