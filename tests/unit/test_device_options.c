/* SPDX-License-Identifier: Apache-2.0 */
/* The values of --disk and --net, the bus that devices' registers lie on. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"
#include "vmm/cli/device_options.h"
#include "vmm/cli/run_options.h"
#include "vmm/dev/mmio_bus.h"

static struct disk_option disk;
static struct net_option net;
static struct err err;

START_TEST(disks)
{
	struct blk_config cfg;

	ck_assert_int_eq(disk_option_parse("a.img", &disk, NULL), 0);
	cfg = disk_option_config(&disk);
	ck_assert_str_eq(cfg.path, "a.img");
	ck_assert(!cfg.read_only && !cfg.direct && !cfg.serial);
	ck_assert_uint_eq(cfg.n_queues, 1);

	ck_assert_int_eq(disk_option_parse("/d/a b,ro,queues=4,direct,serial=x=1", &disk, NULL), 0);
	cfg = disk_option_config(&disk);
	ck_assert_str_eq(cfg.path, "/d/a b");
	ck_assert(cfg.read_only && cfg.direct);
	ck_assert_str_eq(cfg.serial, "x=1");
	ck_assert_uint_eq(cfg.n_queues, 4);
}
END_TEST

START_TEST(nets)
{
	struct net_config cfg;

	ck_assert_int_eq(net_option_parse("tap=tap0", &net, NULL), 0);
	ck_assert_str_eq(net_option_tap(&net), "tap0");
	net_option_set_tap_fd(&net, 12);
	ck_assert_ptr_null(net_option_tap(&net));
	ck_assert_str_eq(net_option_config(&net).backend, "tap-fd:12");

	ck_assert_int_eq(net_option_parse("unix=/a,mac=52:54:00:12:34:56", &net, NULL), 0);
	cfg = net_option_config(&net);
	ck_assert_str_eq(cfg.backend, "stream:/a");
	ck_assert_uint_eq(cfg.mac[5], 0x56);

	ck_assert_int_eq(net_option_parse("dgram=/a,peer=/b", &net, NULL), 0);
	ck_assert_str_eq(net_option_config(&net).backend, "dgram:/a,/b");
	ck_assert_uint_eq(net_option_config(&net).mac[5], 0);
}
END_TEST

static const struct {
	bool is_net;
	const char *value, *part;
} refused[] = {
	{false, "", "path"},
	{false, ",ro", "path"},
	{false, "a,rw", "'rw'"},
	{false, "a,", "''"},
	{false, "a,queues=0", "1 to 16"},
	{false, "a,queues=17", "1 to 16"},
	{false, "a,queues=", "1 to 16"},
	{false, "a,serial=", "20 characters"},
	{false, "a,serial=123456789012345678901", "20 characters"},
	{true, "", "tap=IFNAME"},
	{true, "tap", "tap=IFNAME"},
	{true, "tap=", "tap= needs"},
	{true, "mac=52:54:00:12:34:56", "first"},
	{true, "tap=a,mac=1", "52:54"},
	{true, "tap=a,mac=01:00:00:00:00:01", "52:54"},
	{true, "tap=a,peer=/b", "'peer=/b'"},
	{true, "dgram=/a", "peer=PATH"},
	{true, "dgram=/a,peer=", "'peer='"},
	{true, "dgram=/a,peer=/b,peer=/c", "'peer=/c'"},
};

START_TEST(refusals)
{
	const char *value = refused[_i].value;
	int rc;

	err_clear(&err);
	rc = refused[_i].is_net ? net_option_parse(value, &net, &err)
				: disk_option_parse(value, &disk, &err);
	ck_assert_msg(rc == -EINVAL, "'%s' was accepted", value);
	ck_assert_msg(strstr(err.msg, refused[_i].part), "%s: '%s' is not in '%s'", value,
		      refused[_i].part, err.msg);
}
END_TEST

START_TEST(too_long)
{
	char *value = calloc(1, 2 * PATH_MAX);

	memset(value, 'a', PATH_MAX);
	ck_assert_int_eq(disk_option_parse(value, &disk, NULL), -EINVAL);
	value[PATH_MAX - 1] = '\0';
	ck_assert_int_eq(disk_option_parse(value, &disk, NULL), 0);
	memcpy(value, "tap=", 4);
	ck_assert_int_eq(net_option_parse(value, &net, NULL), -EINVAL);
	free(value);
}
END_TEST

static int run(char *line, struct run_options *o)
{
	char *argv[16], *save;
	int argc = 0;

	for (char *w = strtok_r(line, "|", &save); w && argc < 16; w = strtok_r(NULL, "|", &save))
		argv[argc++] = w;
	err_clear(&err);
	return run_options_parse(argc, argv, o, &err);
}

START_TEST(several)
{
	char good[] = "--kernel|k|--disk|a|--disk|b,ro|--disk=c|--disk|d|--net|tap=x|--net|tap=y";
	char bad[] = "--kernel|k|--disk|a|--disk|b|--disk|c|--disk|d|--disk|e";
	char twice[] = "--kernel|k|--rng|--rng";
	struct run_options o;

	ck_assert_msg(!run(good, &o), "%s", err.msg);
	ck_assert_uint_eq(o.n_disks, 4);
	ck_assert_uint_eq(o.n_nets, 2);
	ck_assert_str_eq(o.disks[3].path, "d");
	ck_assert(o.disks[1].read_only && !o.disks[0].read_only);
	ck_assert_int_eq(run(bad, &o), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.msg, "at most 4"));
	ck_assert_int_eq(run(twice, &o), -EINVAL);
}
END_TEST

/* One terminal is not for two. */
START_TEST(stdio)
{
	char console[] = "--kernel|k|--console|stdio", both[] = "--kernel|k|--console|pty";
	char clash[] = "--kernel|k|--console|stdio|--serial|stdio";
	struct run_options o;

	ck_assert_int_eq(run(console, &o), 0);
	ck_assert_str_eq(o.serial, "none");
	ck_assert_int_eq(run(both, &o), 0);
	ck_assert_str_eq(o.serial, "stdio");
	ck_assert_int_eq(run(clash, &o), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.msg, "--console"));
}
END_TEST

/* --- the bus --- */

static struct {
	uint64_t offset, value;
	unsigned size;
} last;

static uint64_t probe_read(void *dev, uint64_t offset, unsigned size)
{
	last.offset = offset;
	last.size = size;
	return *(uint64_t *)dev;
}

static void probe_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	(void)dev;
	last.offset = offset;
	last.size = size;
	last.value = value;
}

static const struct mmio_ops probe = {.read = probe_read, .write = probe_write};

START_TEST(memory_bus)
{
	uint64_t content = 0x8877665544332211;
	uint8_t b[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct mmio_bus bus = {0};

	ck_assert_int_eq(mmio_bus_add(&bus, 0x1000, 0x10, &probe, &content), 0);
	ck_assert_int_eq(mmio_bus_add(&bus, 0x100f, 1, &probe, &content), -EEXIST);
	ck_assert_int_eq(mmio_bus_add(&bus, 0xff0, 0x11, &probe, &content), -EEXIST);
	ck_assert_int_eq(mmio_bus_add(&bus, 0x1000, 0, &probe, &content), -EINVAL);
	ck_assert_int_eq(mmio_bus_add(&bus, UINT64_MAX, 2, &probe, &content), -EINVAL);
	ck_assert_int_eq(mmio_bus_add(&bus, 0x1010, 0x10, &probe, &content), 0);

	mmio_bus_access(&bus, true, 0x1008, 8, b);
	ck_assert(last.offset == 8 && last.size == 8 && last.value == 0x0807060504030201);
	mmio_bus_access(&bus, false, 0x1003, 2, b);
	ck_assert(last.offset == 3 && last.size == 2);
	ck_assert(b[0] == 0x11 && b[1] == 0x22 && b[2] == 3);
	/* Nobody there, half there, a size that no device has: all ones, and no call. */
	last.size = 0;
	mmio_bus_access(&bus, false, 0x2000, 4, b);
	ck_assert(b[0] == 0xff && b[3] == 0xff && b[4] == 5);
	memset(b, 0, sizeof(b));
	mmio_bus_access(&bus, false, 0x100e, 4, b);
	mmio_bus_access(&bus, false, 0x1000, 3, b + 4);
	ck_assert(b[0] == 0xff && b[6] == 0xff && b[7] == 0);
	mmio_bus_access(&bus, true, 0x101d, 4, b);
	ck_assert_uint_eq(last.size, 0);
	while (bus.n < MMIO_BUS_MAX)
		ck_assert_int_eq(mmio_bus_add(&bus, 0x10000 * bus.n, 1, &probe, &content), 0);
	ck_assert_int_eq(mmio_bus_add(&bus, 1, 1, &probe, &content), -ENOSPC);
}
END_TEST

SUITE("device_options", disks, nets, EACH(refusals, refused), too_long, several, stdio, memory_bus)
