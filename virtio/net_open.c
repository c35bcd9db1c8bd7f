/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/net_open.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if_tun.h>
#include <linux/virtio_net.h>

#include "virtio/net.h"

#define F(bit) (1ull << (bit))

/* What every TAP can do, and what comes with UDP fragmentation. */
#define TAP_FEATURES                                                                         \
	(F(VIRTIO_NET_F_CSUM) | F(VIRTIO_NET_F_GUEST_CSUM) | F(VIRTIO_NET_F_HOST_TSO4) |     \
	 F(VIRTIO_NET_F_HOST_TSO6) | F(VIRTIO_NET_F_HOST_ECN) | F(VIRTIO_NET_F_GUEST_TSO4) | \
	 F(VIRTIO_NET_F_GUEST_TSO6) | F(VIRTIO_NET_F_GUEST_ECN))
#define UFO_FEATURES (F(VIRTIO_NET_F_HOST_UFO) | F(VIRTIO_NET_F_GUEST_UFO))

/* --- TAP --- */

static int set_up_tap(struct net_backend *b, const char *name, bool no_offloads, struct err *e)
{
	int hdr = NET_HDR_BYTES;

	if (ioctl(b->fd, TUNSETVNETHDRSZ, &hdr))
		return err_sys(e, errno, "cannot set up network interface %s", name);
	/* Offloads are off until a driver asks for them. */
	if (no_offloads || ioctl(b->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
		return 0;
	b->features = TAP_FEATURES;
	if (!ioctl(b->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_UFO))
		b->features |= UFO_FEATURES;
	(void)ioctl(b->fd, TUNSETOFFLOAD, 0);
	return 0;
}

int net_tap_open(const char *name, int *fd, struct err *e)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};

	if (!*name || strlen(name) >= sizeof(ifr.ifr_name))
		return err_set(e, EINVAL, "'%s' is no name of a network interface", name);
	memcpy(ifr.ifr_name, name, strlen(name) + 1);
	*fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (*fd < 0)
		return err_sys(e, errno, "cannot open /dev/net/tun for network interface %s", name);
	if (ioctl(*fd, TUNSETIFF, &ifr)) {
		int code = errno;

		(void)close(*fd);
		*fd = -1;
		if (code == EPERM)
			return err_set(e, code,
				       "not allowed to use network interface %s; make it first: ip "
				       "tuntap add %s mode tap user NAME vnet_hdr",
				       name, name);
		return err_sys(e, code, "cannot use network interface %s%s", name,
			       code == EINVAL ? " (is it a TAP with vnet_hdr?)" : "");
	}
	return 0;
}

static int open_tap(struct net_backend *b, const char *name, bool no_offloads, struct err *e)
{
	int rc = net_tap_open(name, &b->fd, e);

	b->kind = NET_TAP;
	return rc ? rc : set_up_tap(b, name, no_offloads, e);
}

static int adopt_tap(struct net_backend *b, int fd, bool no_offloads, struct err *e)
{
	struct ifreq ifr = {.ifr_flags = 0};
	const short want = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

	b->kind = NET_TAP;
	b->fd = fd;
	if (ioctl(fd, TUNGETIFF, &ifr))
		return err_sys(e, errno, "descriptor %d is no TAP interface", fd);
	if ((ifr.ifr_flags & want) != want)
		return err_set(e, EINVAL,
			       "the TAP interface of descriptor %d was opened without IFF_NO_PI or "
			       "IFF_VNET_HDR",
			       fd);
	return set_up_tap(b, "of a passed descriptor", no_offloads, e);
}

/* --- sockets --- */

static int unix_address(struct sockaddr_un *a, const char *path, size_t len, struct err *e)
{
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!len || len >= sizeof(a->sun_path))
		return err_set(e, EINVAL,
			       "the path of a network socket is empty or too long: '%.*s'",
			       (int)(len > 200 ? 200 : len), path);
	memcpy(a->sun_path, path, len);
	return 0;
}

static int open_stream(struct net_backend *b, const char *path, struct err *e)
{
	struct sockaddr_un a;
	int rc = unix_address(&a, path, strlen(path), e);

	if (rc)
		return rc;
	b->kind = NET_STREAM;
	b->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (b->fd < 0 || connect(b->fd, (struct sockaddr *)&a, sizeof(a)))
		return err_sys(e, errno, "cannot connect to network socket '%s'", path);
	return 0;
}

static int open_dgram(struct net_backend *b, const char *paths, struct err *e)
{
	const char *comma = strchr(paths, ',');
	struct sockaddr_un own;
	int rc;

	if (!comma)
		return err_set(e, EINVAL, "dgram:OURS,PEER needs two paths, not '%s'", paths);
	rc = unix_address(&own, paths, (size_t)(comma - paths), e);
	if (!rc)
		rc = unix_address(&b->peer, comma + 1, strlen(comma + 1), e);
	if (rc)
		return rc;
	b->kind = NET_DGRAM;
	b->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (b->fd < 0 || bind(b->fd, (struct sockaddr *)&own, sizeof(own)))
		return err_sys(e, errno, "cannot make network socket '%s'", own.sun_path);
	memcpy(b->own_path, own.sun_path, sizeof(b->own_path));
	return 0;
}

static int adopt_socket(struct net_backend *b, int fd, enum net_kind kind, struct err *e)
{
	int type = 0, want = kind == NET_STREAM ? SOCK_STREAM : SOCK_DGRAM;
	socklen_t len = sizeof(type);

	b->kind = kind;
	b->fd = fd;
	b->connected = true;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
		return err_sys(e, errno, "descriptor %d is no socket", fd);
	if (type != want)
		return err_set(e, EINVAL, "descriptor %d is no %s socket", fd,
			       kind == NET_STREAM ? "stream" : "datagram");
	return 0;
}

/* --- */

static int parse_fd(const char *text, int *fd, struct err *e)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (errno || end == text || *end || n < 0 || n > 1 << 20)
		return err_set(e, EINVAL, "'%s' is no file descriptor", text);
	*fd = (int)n;
	return 0;
}

static const char *after(const char *spec, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(spec, prefix, n) ? NULL : spec + n;
}

static int open_kind(struct net_backend *b, const char *spec, bool no_offloads, struct err *e)
{
	const char *rest;
	int fd = -1, rc;

	rest = after(spec, "tap:");
	if (rest)
		return open_tap(b, rest, no_offloads, e);
	rest = after(spec, "stream:");
	if (rest)
		return open_stream(b, rest, e);
	rest = after(spec, "dgram:");
	if (rest)
		return open_dgram(b, rest, e);
	rest = after(spec, "tap-fd:");
	if (rest) {
		rc = parse_fd(rest, &fd, e);
		return rc ? rc : adopt_tap(b, fd, no_offloads, e);
	}
	rest = after(spec, "stream-fd:");
	if (rest) {
		rc = parse_fd(rest, &fd, e);
		return rc ? rc : adopt_socket(b, fd, NET_STREAM, e);
	}
	rest = after(spec, "dgram-fd:");
	if (rest) {
		rc = parse_fd(rest, &fd, e);
		return rc ? rc : adopt_socket(b, fd, NET_DGRAM, e);
	}
	return err_set(e, EINVAL,
		       "'%s' is no network back-end (tap:NAME, tap-fd:N, stream:PATH, "
		       "dgram:OURS,PEER, stream-fd:N, dgram-fd:N)",
		       spec);
}

int net_open(struct net_backend *b, const char *spec, bool no_offloads, struct err *e)
{
	int rc = open_kind(b, spec, no_offloads, e), flags;

	if (rc)
		return rc;
	flags = fcntl(b->fd, F_GETFL);
	if (flags < 0 || fcntl(b->fd, F_SETFL, flags | O_NONBLOCK) ||
	    fcntl(b->fd, F_SETFD, FD_CLOEXEC))
		return err_sys(e, errno, "cannot set up the network back-end '%s'", spec);
	return 0;
}
