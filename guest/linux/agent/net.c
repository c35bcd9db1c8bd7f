/* SPDX-License-Identifier: Apache-2.0 */
/* An address for an interface, and ICMP echo. Main thread. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

#define PING_WAIT_MS  1000
#define PING_PAUSE_US 10000

static int set_address(int fd, struct ifreq *r, unsigned long request, uint32_t address)
{
	const struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = address};

	memcpy(&r->ifr_addr, &sin, sizeof(sin));
	return ioctl(fd, request, r) ? errno : 0;
}

void do_net(const struct words *c)
{
	const char *slash = strchr(c->w[2], '/');
	int64_t bits = slash ? number(slash + 1, 32) : -1;
	struct ifreq r = {0};
	char ip[32] = "";
	struct in_addr in;
	int fd, rc;

	if (slash)
		(void)snprintf(ip, sizeof(ip), "%.*s", (int)(slash - c->w[2]), c->w[2]);
	if (bits < 1 || !inet_aton(ip, &in)) {
		say_failed(c, "expected an interface and an address like 10.0.0.2/24");
		return;
	}
	(void)snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", c->w[1]);
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	rc = set_address(fd, &r, SIOCSIFADDR, in.s_addr);
	if (!rc)
		rc = set_address(fd, &r, SIOCSIFNETMASK, htonl(~0u << (32 - bits)));
	if (!rc && !ioctl(fd, SIOCGIFFLAGS, &r)) {
		r.ifr_flags |= IFF_UP;
		rc = ioctl(fd, SIOCSIFFLAGS, &r) ? errno : 0;
	}
	(void)close(fd);
	if (rc)
		say_failed(c, "%s: %s", c->w[1], strerror(rc));
	else
		say_ok(c, "interface=%s address=%s", c->w[1], c->w[2]);
}

static uint16_t checksum(const void *data, size_t len)
{
	const uint16_t *at = data;
	uint32_t sum = 0;

	for (; len > 1; len -= 2)
		sum += *at++;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Wait for the answer with this number. */
static bool answered(int fd, uint16_t sequence, uint64_t deadline_ns)
{
	uint8_t packet[256] = {0};

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		uint64_t now = now_ns();
		struct icmphdr *h;
		size_t ip_bytes;
		ssize_t n;

		if (now >= deadline_ns ||
		    poll(&p, 1, (int)((deadline_ns - now) / 1000000) + 1) <= 0)
			return false;
		n = recv(fd, packet, sizeof(packet), MSG_DONTWAIT);
		ip_bytes = (packet[0] & 15u) * 4u;
		if (n < 0 || (size_t)n < ip_bytes + sizeof(*h))
			continue;
		h = (void *)(packet + ip_bytes);
		if (h->type == ICMP_ECHOREPLY && h->un.echo.id == htons(1) &&
		    h->un.echo.sequence == htons(sequence))
			return true;
	}
}

void do_ping(const struct words *c)
{
	int64_t count = *c->w[2] ? number(c->w[2], 10000) : 1;
	struct sockaddr_in to = {.sin_family = AF_INET};
	uint64_t worst_ns = 0;
	int fd, received = 0;

	if (count < 1 || !inet_aton(c->w[1], &to.sin_addr)) {
		say_failed(c, "expected an address and perhaps a count");
		return;
	}
	fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
	for (int i = 0; i < count; i++) {
		struct icmphdr h = {.type = ICMP_ECHO,
				    .un.echo = {.id = htons(1), .sequence = htons((uint16_t)i)}};
		uint64_t sent = now_ns(), took;

		h.checksum = checksum(&h, sizeof(h));
		if (sendto(fd, &h, sizeof(h), 0, (void *)&to, sizeof(to)) < 0) {
			say_failed(c, "%s: %s", c->w[1], strerror(errno));
			goto out;
		}
		if (answered(fd, (uint16_t)i, sent + PING_WAIT_MS * 1000000ull))
			received++;
		took = now_ns() - sent;
		if (took > worst_ns)
			worst_ns = took;
		if (i + 1 < count)
			(void)usleep(PING_PAUSE_US);
	}
	if (received)
		say_ok(c, "sent=%lld received=%d worst_us=%llu", (long long)count, received,
		       (unsigned long long)(worst_ns / 1000));
	else
		say_failed(c, "no answer from %s", c->w[1]);
out:
	(void)close(fd);
}
