/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target for whole devices: the input is a guest that writes registers, rings and memory as it
 * likes, between turns of the I/O thread, pauses and moves. Whatever it does, the device must
 * survive it, and a state that was saved must be one that can be loaded.
 *
 * `make fuzz` builds and runs it; see CONTRIBUTING.md.
 */
#include <stdlib.h>
#include <string.h>

#include "base/loop.h"
#include "mem/mem.h"
#include "virtio/balloon.h"
#include "virtio/console.h"
#include "virtio/mmio.h"
#include "virtio/rng.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#define RAM_BYTES (2ull << 20)
#define TURNS     8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct mem *mem;
static struct loop *loop;

static void irq_set(void *ctx, bool level)
{
	(void)ctx;
	(void)level;
}

static size_t output(void *ctx, const uint8_t *data, size_t len)
{
	(void)ctx;
	return len > 1 ? len - (data[0] & 1) : len;
}

static void want_input(void *ctx)
{
	(void)ctx;
}

static void on_hint(void *ctx, uint64_t gpa, uint64_t len)
{
	(void)ctx;
	if (!mem_host(mem, gpa, len))
		abort();
}

struct devices {
	struct rng *rng;
	struct console *console;
	struct balloon *balloon;
	struct vdev *list[3];
};

static void make(struct devices *d)
{
	static const struct console_backend backend = {.output = output, .want_input = want_input};
	static const struct balloon_config cfg = {true, true, true, true, NULL, NULL};
	const struct vdev_host host = {.mem = mem, .loop = loop, .irq_set = irq_set};

	if (rng_new(&d->rng, &host, NULL) || console_new(&d->console, &host, &backend, NULL) ||
	    balloon_new(&d->balloon, &host, &cfg, NULL))
		abort();
	d->list[0] = rng_vdev(d->rng);
	d->list[1] = console_vdev(d->console);
	d->list[2] = balloon_vdev(d->balloon);
}

static void drop(struct devices *d)
{
	rng_free(d->rng);
	console_free(d->console);
	balloon_free(d->balloon);
}

/* Start a queue's usual layout, so that the input does not have to find all the addresses. */
static void usual_start(struct vdev *d, uint8_t how)
{
	vdev_mmio_write(d, VIRTIO_MMIO_STATUS, 4, 0);
	vdev_mmio_write(d, VIRTIO_MMIO_STATUS, 4, 3);
	vdev_mmio_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 4, 0);
	vdev_mmio_write(d, VIRTIO_MMIO_DRIVER_FEATURES, 4,
			how & 1 ? UINT32_MAX & (uint32_t)d->features : 0);
	vdev_mmio_write(d, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 4, 1);
	vdev_mmio_write(d, VIRTIO_MMIO_DRIVER_FEATURES, 4, 1);
	vdev_mmio_write(d, VIRTIO_MMIO_STATUS, 4, 11);
	for (uint32_t q = 0; q < d->n_queues; q++) {
		vdev_mmio_write(d, VIRTIO_MMIO_QUEUE_SEL, 4, q);
		vdev_mmio_write(d, VIRTIO_MMIO_QUEUE_NUM, 4, 8);
		vdev_mmio_write(d, VIRTIO_MMIO_QUEUE_DESC_LOW, 4, q * 512);
		vdev_mmio_write(d, VIRTIO_MMIO_QUEUE_AVAIL_LOW, 4, q * 512 + 128);
		vdev_mmio_write(d, VIRTIO_MMIO_QUEUE_USED_LOW, 4, q * 512 + 256);
		vdev_mmio_write(d, VIRTIO_MMIO_QUEUE_READY, 4, 1);
	}
	vdev_mmio_write(d, VIRTIO_MMIO_STATUS, 4, 15);
}

static void move(struct devices *d)
{
	struct devices to;

	make(&to);
	for (unsigned i = 0; i < 3; i++) {
		void *state = malloc(d->list[i]->ops->state_bytes);

		if (!state || vdev_pause(d->list[i], NULL))
			abort();
		vdev_save(d->list[i], state);
		if (vdev_check(to.list[i], state, NULL))
			abort();
		vdev_load(to.list[i], state);
		vdev_resume(to.list[i]);
		free(state);
	}
	drop(d);
	*d = to;
}

static void host_acts(struct devices *d, uint8_t what)
{
	static const uint8_t text[300];

	switch (what % 8) {
	case 0:
		(void)balloon_hint_start(d->balloon, on_hint, NULL);
		break;
	case 1:
		balloon_hint_stop(d->balloon);
		break;
	case 2:
		balloon_hint_done(d->balloon);
		break;
	case 3:
		(void)balloon_stats_request(d->balloon);
		break;
	case 4:
		(void)balloon_set_target(d->balloon, (uint64_t)what << 12);
		break;
	case 5:
		(void)console_input(d->console, text,
				    console_room(d->console) + 1 > sizeof(text) ? sizeof(text) : 1);
		break;
	case 6:
		console_drained(d->console);
		break;
	default:
		move(d);
		break;
	}
}

static void turns(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		(void)loop_step(loop, 0);
}

/* One action, of at most 16 bytes. Returns how many it took. */
static size_t act(struct devices *d, const uint8_t *in)
{
	struct vdev *dev = d->list[in[1] % 3];
	uint64_t value;
	uint32_t at;

	memcpy(&value, in + 8, sizeof(value));
	memcpy(&at, in + 2, sizeof(at));
	switch (in[0] % 8) {
	case 0:
		usual_start(dev, in[2]);
		return 3;
	case 1:
		vdev_mmio_write(dev, at % 0x140, 1u << (in[6] & 3), value);
		return 16;
	case 2:
		(void)vdev_mmio_read(dev, at % 0x140, 1u << (in[6] & 3));
		return 7;
	case 3:
		host_acts(d, in[1]);
		return 2;
	case 4:
		vdev_mmio_write(dev, VIRTIO_MMIO_QUEUE_NOTIFY, 4, in[2]);
		turns(TURNS);
		return 3;
	default:
		/* Memory: near the rings, mostly. */
		(void)mem_write(mem, in[0] & 0x40 ? at % RAM_BYTES : at % 4096, &value,
				1 + in[6] % 8);
		return 16;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct devices d;

	if (!mem && (mem_create(&mem, MEM_ANON, RAM_BYTES, NULL) || loop_new(&loop)))
		abort();
	memset(mem_host(mem, 0, 1 << 16), 0, 1 << 16);
	make(&d);
	for (unsigned i = 0; i < 3; i++) {
		vdev_resume(d.list[i]);
		usual_start(d.list[i], 1);
	}
	for (size_t i = 0; i + 16 <= len;)
		i += act(&d, data + i);
	turns(TURNS);
	drop(&d);
	return 0;
}
