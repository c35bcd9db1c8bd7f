/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/vio.h"

#include "guest/lib/cpu.h"
#include "guest/lib/user.h"

#define REG_MAGIC           0x000
#define REG_VERSION         0x004
#define REG_DEVICE_ID       0x008
#define REG_FEATURES        0x010
#define REG_FEATURES_SEL    0x014
#define REG_DRIVER_FEATURES 0x020
#define REG_DRIVER_SEL      0x024
#define REG_QUEUE_SEL       0x030
#define REG_QUEUE_MAX       0x034
#define REG_QUEUE_SIZE      0x038
#define REG_QUEUE_READY     0x044
#define REG_NOTIFY          0x050
#define REG_STATUS          0x070
#define REG_QUEUE_DESC      0x080
#define REG_QUEUE_AVAIL     0x090
#define REG_QUEUE_USED      0x0a0
#define REG_CONFIG          0x100

#define MAGIC   0x74726976 /* "virt" */
#define VERSION 2

#define ST_ACKNOWLEDGE 0x01
#define ST_DRIVER      0x02
#define ST_DRIVER_OK   0x04
#define ST_FEATURES_OK 0x08
#define ST_NEEDS_RESET 0x40

#define F_VERSION_1 VIO_F(32)

#define DESC_WRITE         2 /* the device writes it */
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1

/* In a queue's page: the descriptors, then these. */
#define AVAIL_OFFSET (VIO_QUEUE_MAX * sizeof(struct vio_desc))
#define USED_OFFSET  (AVAIL_OFFSET + 512)

_Static_assert(sizeof(struct vio_avail) + 2 <= 512, "room for the available ring");
_Static_assert(USED_OFFSET + sizeof(struct vio_used) + 2 <= VIO_QUEUE_BYTES, "room for the rest");

static uint32_t read32(const struct vio_dev *d, uint32_t reg)
{
	if (in_ring3())
		return user_read32(d->base + reg);
	return *(volatile uint32_t *)(uintptr_t)(d->base + reg);
}

static void write32(const struct vio_dev *d, uint32_t reg, uint32_t value)
{
	if (in_ring3())
		user_write32(d->base + reg, value);
	else
		*(volatile uint32_t *)(uintptr_t)(d->base + reg) = value;
}

static void write_address(const struct vio_dev *d, uint32_t reg, const volatile void *p)
{
	uint64_t gpa = (uint64_t)(uintptr_t)p;

	write32(d, reg, (uint32_t)gpa);
	write32(d, reg + 4, (uint32_t)(gpa >> 32));
}

bool vio_find(struct vio_dev *d, uint64_t base, uint32_t device_id)
{
	*d = (struct vio_dev){.base = base};
	return read32(d, REG_MAGIC) == MAGIC && read32(d, REG_VERSION) == VERSION &&
	       read32(d, REG_DEVICE_ID) == device_id;
}

void vio_reset(const struct vio_dev *d)
{
	write32(d, REG_STATUS, 0);
	while (read32(d, REG_STATUS))
		cpu_relax();
}

bool vio_begin(struct vio_dev *d, uint64_t wanted)
{
	uint64_t offered;

	vio_reset(d);
	write32(d, REG_STATUS, ST_ACKNOWLEDGE);
	write32(d, REG_STATUS, ST_ACKNOWLEDGE | ST_DRIVER);
	write32(d, REG_FEATURES_SEL, 0);
	offered = read32(d, REG_FEATURES);
	write32(d, REG_FEATURES_SEL, 1);
	offered |= (uint64_t)read32(d, REG_FEATURES) << 32;
	d->features = offered & (wanted | F_VERSION_1);
	for (uint32_t half = 0; half < 2; half++) {
		write32(d, REG_DRIVER_SEL, half);
		write32(d, REG_DRIVER_FEATURES, (uint32_t)(d->features >> 32 * half));
	}
	write32(d, REG_STATUS, ST_ACKNOWLEDGE | ST_DRIVER | ST_FEATURES_OK);
	return read32(d, REG_STATUS) & ST_FEATURES_OK;
}

bool vio_queue_init(struct vio_queue *q, const struct vio_dev *d, uint32_t number, void *memory)
{
	uint64_t *words = memory;
	uint32_t max;

	write32(d, REG_QUEUE_SEL, number);
	max = read32(d, REG_QUEUE_MAX);
	if (!max)
		return false;
	for (unsigned int i = 0; i < VIO_QUEUE_BYTES / sizeof(*words); i++)
		words[i] = 0;
	*q = (struct vio_queue){.dev = d, .number = number};
	q->size = (uint16_t)(max < VIO_QUEUE_MAX ? max : VIO_QUEUE_MAX);
	q->desc = memory;
	q->avail = (struct vio_avail *)((char *)memory + AVAIL_OFFSET);
	q->used = (struct vio_used *)((char *)memory + USED_OFFSET);
	q->avail->flags = AVAIL_NO_INTERRUPT;
	while (q->nr_free < q->size) {
		q->free[q->nr_free] = q->nr_free;
		q->nr_free++;
	}
	write32(d, REG_QUEUE_SIZE, q->size);
	write_address(d, REG_QUEUE_DESC, q->desc);
	write_address(d, REG_QUEUE_AVAIL, q->avail);
	write_address(d, REG_QUEUE_USED, q->used);
	write32(d, REG_QUEUE_READY, 1);
	return true;
}

void vio_go(const struct vio_dev *d)
{
	write32(d, REG_STATUS, ST_ACKNOWLEDGE | ST_DRIVER | ST_FEATURES_OK | ST_DRIVER_OK);
}

bool vio_broken(const struct vio_dev *d)
{
	return read32(d, REG_STATUS) & ST_NEEDS_RESET;
}

uint32_t vio_config_read(const struct vio_dev *d, uint32_t offset)
{
	return read32(d, REG_CONFIG + offset);
}

void vio_config_write(const struct vio_dev *d, uint32_t offset, uint32_t value)
{
	write32(d, REG_CONFIG + offset, value);
}

void vio_add(struct vio_queue *q, uint64_t gpa, uint32_t len, bool device_writes)
{
	uint16_t i = q->free[--q->nr_free];

	q->desc[i] =
		(struct vio_desc){.gpa = gpa, .len = len, .flags = device_writes ? DESC_WRITE : 0};
	q->avail->ring[q->added++ % q->size] = i;
}

void vio_kick(struct vio_queue *q)
{
	__atomic_store_n(&q->avail->idx, q->added, __ATOMIC_RELEASE);
	/* The index is out before the flag is looked at. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(q->used->flags & USED_NO_NOTIFY))
		write32(q->dev, REG_NOTIFY, q->number);
}

unsigned int vio_reap(struct vio_queue *q)
{
	uint16_t idx = __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE);
	unsigned int n = 0;

	for (; q->seen != idx && q->nr_free < q->size; q->seen++, n++)
		q->free[q->nr_free++] = (uint16_t)(q->used->ring[q->seen % q->size].id % q->size);
	return n;
}
