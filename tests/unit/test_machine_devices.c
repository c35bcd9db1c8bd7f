/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's set of virtio devices: places, life, state. Without KVM: its descriptor is -1. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/suite.h"
#include "vmm/devices_impl.h"

#define MAGIC     0x74726976u
#define DISK_PATH "/tmp/ferry-test-disk-XXXXXX"

static struct mem *mem;
static struct loop *loop;
static struct vm vm = {.kvm_fd = -1, .fd = -1};
static struct mmio_bus bus;
static struct err err;
static char disk_path[] = DISK_PATH;

static struct devices *make(const struct devices_config *cfg)
{
	const struct devices_host host = {.vm = &vm, .mem = mem, .loop = loop, .bus = &bus};
	struct devices *ds = NULL;

	bus = (struct mmio_bus){0};
	err_clear(&err);
	ck_assert_msg(!devices_new(&ds, cfg, &host, &err), "%s", err.msg);
	return ds;
}

static struct devices_config all(void)
{
	return (struct devices_config){
		.disks = {{.path = disk_path}, {.path = disk_path, .read_only = true}},
		.n_disks = 2,
		.rng = true,
		.balloon = true,
		.console = "none",
	};
}

static uint32_t get(uint64_t gpa)
{
	uint32_t value;

	mmio_bus_access(&bus, false, gpa, sizeof(value), &value);
	return value;
}

static void set(uint64_t gpa, uint32_t value)
{
	mmio_bus_access(&bus, true, gpa, sizeof(value), &value);
}

static void setup(void)
{
	int fd;

	memcpy(disk_path, DISK_PATH, sizeof(disk_path));
	fd = mkstemp(disk_path);
	ck_assert_int_eq(ftruncate(fd, 65536), 0);
	(void)close(fd);
	ck_assert_int_eq(mem_create(&mem, MEM_ANON, 16 << 20, NULL), 0);
	ck_assert_int_eq(loop_new(&loop), 0);
}

static void teardown(void)
{
	loop_free(loop);
	mem_free(mem);
	(void)unlink(disk_path);
}

/* A device's place doesn't depend on what else there is. */
START_TEST(places)
{
	static const uint32_t ids[] = {2, 2, 4, 5, 3}; /* virtio's numbers of kinds */
	static const unsigned at[] = {0, 1, 6, 7, 8};
	struct devices_config cfg = all();
	struct devices *ds = make(&cfg);
	char text[DEVICES_CMDLINE_BYTES];
	struct device_info info;

	ck_assert_uint_eq(devices_count(ds), 5);
	for (unsigned i = 0; i < 5; i++) {
		devices_info(ds, i, &info);
		ck_assert_uint_eq(info.gpa, DEVICES_GPA + at[i] * 0x1000);
		ck_assert_uint_eq(get(info.gpa), MAGIC);
		ck_assert_uint_eq(get(info.gpa + 8), ids[i]);
	}
	ck_assert_uint_eq(get(DEVICES_GPA + 4 * 0x1000), UINT32_MAX); /* no network card */
	(void)devices_free(ds);

	cfg = (struct devices_config){.balloon = true, .console = "none"};
	ds = make(&cfg);
	devices_cmdline(ds, text);
	ck_assert_str_eq(text, "virtio_mmio.device=4K@0xd0007000:14 "
			       "virtio_mmio.device=4K@0xd0008000:15");
	ck_assert_ptr_nonnull(devices_balloon(ds));
	(void)devices_free(ds);

	cfg = (struct devices_config){0};
	ds = make(&cfg);
	devices_cmdline(ds, text);
	ck_assert_str_eq(text, "");
	ck_assert_ptr_null(devices_balloon(ds));
	(void)devices_free(ds);
}
END_TEST

START_TEST(failures)
{
	const struct devices_host host = {.vm = &vm, .mem = mem, .loop = loop, .bus = &bus};
	struct devices_config cfg = {.disks = {{.path = disk_path}, {.path = "/none"}},
				     .n_disks = 2};
	struct devices *ds = NULL;

	err_clear(&err);
	bus = (struct mmio_bus){0};
	ck_assert_int_eq(devices_new(&ds, &cfg, &host, &err), -ENOENT);
	ck_assert_msg(!strncmp(err.msg, "--disk: ", 8), "%s", err.msg);
	cfg.n_disks = DEVICES_MAX_DISKS + 1;
	ck_assert_int_eq(devices_new(&ds, &cfg, &host, NULL), -EINVAL);
	ck_assert_ptr_null(ds);
}
END_TEST

static int stuck(struct vdev *d, struct err *e)
{
	(void)d;
	return err_set(e, ETIMEDOUT, "stuck");
}

/* One that can't pause has the others go on. */
START_TEST(pause_fails)
{
	const struct devices_config cfg = all();
	struct devices *ds = make(&cfg);
	const struct vdev_ops *right = ds->list[2].vdev->ops;
	struct vdev_ops wrong = *right;

	devices_resume(ds);
	wrong.quiesce = stuck;
	ds->list[2].vdev->ops = &wrong;
	ck_assert_int_eq(devices_pause(ds, &err), -ETIMEDOUT);
	for (unsigned i = 0; i < ds->n; i++)
		ck_assert(!ds->list[i].vdev->is_paused);
	ds->list[2].vdev->ops = right;
	ck_assert_int_eq(devices_pause(ds, &err), -0);
	for (unsigned i = 0; i < ds->n; i++)
		ck_assert(ds->list[i].vdev->is_paused);
	(void)devices_free(ds);
}
END_TEST

START_TEST(state)
{
	const struct devices_config cfg = all();
	struct devices *from = make(&cfg), *to;
	const struct field_table *table;
	struct mmio_bus from_bus = bus;
	struct vdev_state *st;
	uint32_t instance;
	void *data[5];

	set(DEVICES_GPA + 0x1000 + 0x70, 3); /* the second disk's status: a driver is there */
	devices_save(from);
	to = make(&cfg);
	ck_assert_uint_eq(get(DEVICES_GPA + 0x1000 + 0x70), 0);
	for (unsigned i = 0; i < 5; i++) {
		devices_section(from, i, &instance, &table, &data[i]);
		st = data[i];
		ck_assert_uint_eq(st->status, i == 1 ? 3 : 0);
		ck_assert_uint_eq(instance, i == 1 ? 1 : 0);
		memcpy(to->list[i].state, data[i], to->list[i].vdev->ops->state_bytes);
	}
	ck_assert_int_eq(devices_check(to, &err), 0);
	devices_load(to);
	ck_assert_uint_eq(get(DEVICES_GPA + 0x1000 + 0x70), 3);
	((struct vdev_state *)to->list[3].state)->status = 0x1000;
	ck_assert_int_eq(devices_check(to, &err), -EINVAL);
	ck_assert_msg(strstr(err.msg, "virtio-balloon"), "%s", err.msg);
	(void)devices_free(to);
	bus = from_bus;
	(void)devices_free(from);
}
END_TEST

SUITE_WITH("machine_devices", setup, teardown, places, failures, pause_fails, state)
