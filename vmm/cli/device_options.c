/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/device_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/cli/options.h"

#define WORD_BYTES PATH_MAX

/* The next word of a list with commas, into word[WORD_BYTES]. false at the list's end. */
static bool next_word(const char **at, char *word, struct err *e)
{
	size_t len;

	if (!*at || e->code)
		return false;
	len = strcspn(*at, ",");
	if (len >= WORD_BYTES) {
		(void)err_set(e, EINVAL, "a part of it is longer than %d bytes", WORD_BYTES - 1);
		return false;
	}
	memcpy(word, *at, len);
	word[len] = '\0';
	*at = (*at)[len] ? *at + len + 1 : NULL;
	return true;
}

/* What follows "key=" in a word, or NULL. */
static const char *value_of(const char *word, const char *key)
{
	size_t n = strlen(key);

	return !strncmp(word, key, n) && word[n] == '=' ? word + n + 1 : NULL;
}

/* --- disks --- */

static int set_queues(struct disk_option *o, const char *value, struct err *e)
{
	uint64_t n;

	if (number_parse(value, BLK_MAX_QUEUES, &n) || n < 1)
		return err_set(e, EINVAL, "queues=: expected a number from 1 to %d",
			       BLK_MAX_QUEUES);
	o->n_queues = (unsigned)n;
	return 0;
}

static int set_serial(struct disk_option *o, const char *value, struct err *e)
{
	if (!*value || strlen(value) > BLK_SERIAL_BYTES)
		return err_set(e, EINVAL, "serial=: expected 1 to %u characters", BLK_SERIAL_BYTES);
	memcpy(o->serial, value, strlen(value) + 1);
	return 0;
}

static int set_disk_word(struct disk_option *o, const char *word, struct err *e)
{
	const char *value;

	if (!strcmp(word, "ro"))
		o->read_only = true;
	else if (!strcmp(word, "direct"))
		o->direct = true;
	else if ((value = value_of(word, "queues")))
		return set_queues(o, value, e);
	else if ((value = value_of(word, "serial")))
		return set_serial(o, value, e);
	else
		return err_set(e, EINVAL,
			       "'%.60s' is nothing that a disk has: ro, direct, queues=N, "
			       "serial=TEXT",
			       word);
	return 0;
}

int disk_option_parse(const char *value, struct disk_option *out, struct err *e)
{
	struct err why = ERR_INIT;
	char word[WORD_BYTES];
	const char *at = value;
	int rc = 0;

	*out = (struct disk_option){.n_queues = 1};
	(void)next_word(&at, out->path, &why);
	if (!why.code && !out->path[0])
		(void)err_set(&why, EINVAL, "the path of the disk's image is missing");
	while (!rc && next_word(&at, word, &why))
		rc = set_disk_word(out, word, &why);
	return why.code ? err_set(e, EINVAL, "%s", why.msg) : 0;
}

struct blk_config disk_option_config(const struct disk_option *o)
{
	return (struct blk_config){
		.path = o->path,
		.read_only = o->read_only,
		.direct = o->direct,
		.n_queues = o->n_queues,
		.serial = o->serial[0] ? o->serial : NULL,
	};
}

/* --- network --- */

static const struct {
	const char *key, *kind; /* of the option; in virtio/net.h */
} backends[] = {
	{"tap", "tap"},       {"unix", "stream"},         {"dgram", "dgram"},
	{"tap-fd", "tap-fd"}, {"stream-fd", "stream-fd"}, {"dgram-fd", "dgram-fd"},
};

static int put_backend(struct net_option *o, const char *before, const char *text, struct err *e)
{
	size_t len = strlen(o->backend);
	int n = snprintf(o->backend + len, sizeof(o->backend) - len, "%s%s", before, text);

	if (n < 0 || (size_t)n >= sizeof(o->backend) - len)
		return err_set(e, EINVAL, "the paths in it are too long");
	return 0;
}

static int set_backend(struct net_option *o, const char *word, struct err *e)
{
	for (size_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++) {
		const char *value = value_of(word, backends[i].key);
		char before[16];

		if (!value)
			continue;
		if (!*value)
			return err_set(e, EINVAL, "%s= needs a value", backends[i].key);
		(void)snprintf(before, sizeof(before), "%s:", backends[i].kind);
		return put_backend(o, before, value, e);
	}
	return err_set(e, EINVAL, "expected tap=IFNAME, unix=PATH or dgram=OURS,peer=PATH first");
}

static int set_net_word(struct net_option *o, const char *word, struct err *e)
{
	bool dgram = !strncmp(o->backend, "dgram:", 6);
	const char *value = value_of(word, "mac");

	if (value) {
		if (net_parse_mac(value, o->mac))
			return err_set(e, EINVAL,
				       "mac=: expected an address like 52:54:00:12:34:56");
		return 0;
	}
	value = value_of(word, "peer");
	if (value && *value && dgram && !strchr(o->backend, ','))
		return put_backend(o, ",", value, e);
	return err_set(e, EINVAL, "'%.60s' is nothing that this network card has", word);
}

int net_option_parse(const char *value, struct net_option *out, struct err *e)
{
	struct err why = ERR_INIT;
	char word[WORD_BYTES];
	const char *at = value;
	int rc = 0;

	*out = (struct net_option){0};
	if (next_word(&at, word, &why))
		rc = set_backend(out, word, &why);
	while (!rc && next_word(&at, word, &why))
		rc = set_net_word(out, word, &why);
	if (!why.code && !strncmp(out->backend, "dgram:", 6) && !strchr(out->backend, ','))
		(void)err_set(&why, EINVAL, "dgram= needs the other side's path: ,peer=PATH");
	return why.code ? err_set(e, EINVAL, "%s", why.msg) : 0;
}

struct net_config net_option_config(const struct net_option *o)
{
	struct net_config cfg = {.backend = o->backend};

	memcpy(cfg.mac, o->mac, sizeof(cfg.mac));
	return cfg;
}

const char *net_option_tap(const struct net_option *o)
{
	return strncmp(o->backend, "tap:", 4) ? NULL : o->backend + 4;
}

void net_option_set_tap_fd(struct net_option *o, int fd)
{
	(void)snprintf(o->backend, sizeof(o->backend), "tap-fd:%d", fd);
}
