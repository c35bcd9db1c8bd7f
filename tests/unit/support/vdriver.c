/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/support/vdriver.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "mem/bits.h"
#include "virtio/mmio.h"

#define RUN_STEPS 300

static void irq_set(void *ctx, bool level)
{
	struct vdrv_irq *irq = ctx;

	irq->level = level;
	irq->raised += level;
}

void vdrv_setup(struct vdrv *v)
{
	memset(v, 0, sizeof(*v));
	ck_assert_int_eq(mem_create(&v->mem, MEM_ANON, VDRV_RAM_BYTES, NULL), 0);
	ck_assert_int_eq(loop_new(&v->loop), 0);
}

void vdrv_teardown(struct vdrv *v)
{
	loop_free(v->loop);
	mem_free(v->mem);
}

struct vdev_host vdrv_host(struct vdrv *v)
{
	return (struct vdev_host){
		.mem = v->mem, .loop = v->loop, .irq_set = irq_set, .irq_ctx = &v->irq};
}

void vdrv_attach(struct vdrv *v, struct vdev *dev)
{
	v->dev = dev;
	vdev_resume(dev);
}

/* --- registers --- */

uint32_t vdrv_in(struct vdrv *v, uint32_t reg)
{
	return (uint32_t)vdev_mmio_read(v->dev, reg, 4);
}

void vdrv_out(struct vdrv *v, uint32_t reg, uint32_t value)
{
	vdev_mmio_write(v->dev, reg, 4, value);
}

uint32_t vdrv_config(struct vdrv *v, uint32_t offset, unsigned size)
{
	return (uint32_t)vdev_mmio_read(v->dev, VIRTIO_MMIO_CONFIG + offset, size);
}

void vdrv_set_config(struct vdrv *v, uint32_t offset, unsigned size, uint32_t value)
{
	vdev_mmio_write(v->dev, VIRTIO_MMIO_CONFIG + offset, size, value);
}

uint64_t vdrv_offered(struct vdrv *v)
{
	uint64_t low;

	vdrv_out(v, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	low = vdrv_in(v, VIRTIO_MMIO_DEVICE_FEATURES);
	vdrv_out(v, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	return low | (uint64_t)vdrv_in(v, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
}

static void add_status(struct vdrv *v, uint32_t bit)
{
	vdrv_out(v, VIRTIO_MMIO_STATUS, vdrv_in(v, VIRTIO_MMIO_STATUS) | bit);
}

bool vdrv_negotiate(struct vdrv *v, uint64_t features)
{
	vdrv_out(v, VIRTIO_MMIO_STATUS, 0);
	add_status(v, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	add_status(v, VIRTIO_CONFIG_S_DRIVER);
	v->features = features;
	vdrv_out(v, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	vdrv_out(v, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	vdrv_out(v, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	vdrv_out(v, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	add_status(v, VIRTIO_CONFIG_S_FEATURES_OK);
	return vdrv_in(v, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK;
}

void vdrv_queue_up(struct vdrv *v, unsigned q, uint16_t size)
{
	struct vdrv_queue *vq = &v->q[q];
	uint64_t base = VDRV_RINGS_GPA + q * 0x10000ull;

	*vq = (struct vdrv_queue){.size = size,
				  .desc_gpa = base,
				  .avail_gpa = base + 0x4000,
				  .used_gpa = base + 0x8000};
	memset(vdrv_ram(v, base, 0x10000), 0, 0x10000);
	vq->desc = vdrv_ram(v, vq->desc_gpa, 16ull * size);
	vq->avail = vdrv_ram(v, vq->avail_gpa, 6 + 2ull * size);
	vq->used16 = vdrv_ram(v, vq->used_gpa, 6 + 8ull * size);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_SEL, q);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_NUM, size);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)vq->desc_gpa);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_DESC_HIGH, 0);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)vq->avail_gpa);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)vq->used_gpa);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
	vdrv_out(v, VIRTIO_MMIO_QUEUE_READY, 1);
}

void vdrv_start(struct vdrv *v, uint64_t features, unsigned n_queues)
{
	ck_assert(vdrv_negotiate(v, features | VDEV_F(VIRTIO_F_VERSION_1)));
	for (unsigned q = 0; q < n_queues; q++) {
		vdrv_queue_up(v, q, 64);
		ck_assert_uint_eq(vdrv_in(v, VIRTIO_MMIO_QUEUE_READY), 1);
	}
	add_status(v, VIRTIO_CONFIG_S_DRIVER_OK);
	ck_assert_uint_eq(vdrv_in(v, VIRTIO_MMIO_STATUS), 0xf);
	vdrv_run(v);
}

/* --- queues --- */

void vdrv_expose(struct vdrv *v, unsigned q, uint16_t head)
{
	struct vdrv_queue *vq = &v->q[q];

	vq->avail[2 + vq->avail_idx % vq->size] = head;
	vq->avail_idx++;
	__atomic_store_n(&vq->avail[1], vq->avail_idx, __ATOMIC_RELEASE);
}

/* Write a chain into a table from entry `first` on (wrapping at `size`). */
static void fill_table(struct vring_desc *table, uint16_t size, uint16_t first,
		       const struct vdrv_part *parts, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct vring_desc *d = &table[(first + i) % size];

		d->addr = parts[i].gpa;
		d->len = parts[i].len;
		d->flags = (uint16_t)((parts[i].write ? VRING_DESC_F_WRITE : 0) |
				      (i + 1 < n ? VRING_DESC_F_NEXT : 0));
		d->next = (uint16_t)((first + i + 1) % size);
	}
}

uint16_t vdrv_add(struct vdrv *v, unsigned q, const struct vdrv_part *parts, unsigned n)
{
	struct vdrv_queue *vq = &v->q[q];
	uint16_t head = vq->free_desc;

	ck_assert_uint_le(n, vq->size);
	fill_table(vq->desc, vq->size, head, parts, n);
	vq->free_desc = (uint16_t)((head + n) % vq->size);
	vdrv_expose(v, q, head);
	return head;
}

uint16_t vdrv_add_indirect(struct vdrv *v, unsigned q, uint64_t table_gpa,
			   const struct vdrv_part *parts, unsigned n)
{
	struct vdrv_queue *vq = &v->q[q];
	uint16_t head = vq->free_desc;

	fill_table(vdrv_ram(v, table_gpa, 16ull * n), (uint16_t)n, 0, parts, n);
	vq->desc[head] = (struct vring_desc){
		.addr = table_gpa, .len = 16 * n, .flags = VRING_DESC_F_INDIRECT};
	vq->free_desc = (uint16_t)((head + 1) % vq->size);
	vdrv_expose(v, q, head);
	return head;
}

void vdrv_kick(struct vdrv *v, unsigned q)
{
	vdrv_out(v, VIRTIO_MMIO_QUEUE_NOTIFY, q);
}

void vdrv_run(struct vdrv *v)
{
	/* A loop does not tell when it is idle; this is more than any test gives it to do. */
	for (int i = 0; i < RUN_STEPS; i++)
		ck_assert_int_eq(loop_step(v->loop, 0), 0);
}

bool vdrv_used(struct vdrv *v, unsigned q, uint32_t *id, uint32_t *len)
{
	struct vdrv_queue *vq = &v->q[q];
	const uint16_t *e = &vq->used16[2 + 4 * (vq->seen_used % vq->size)];

	if (__atomic_load_n(&vq->used16[1], __ATOMIC_ACQUIRE) == vq->seen_used)
		return false;
	*id = (uint32_t)e[0] | (uint32_t)e[1] << 16;
	*len = (uint32_t)e[2] | (uint32_t)e[3] << 16;
	vq->seen_used++;
	vq->avail[2 + vq->size] = vq->seen_used; /* the next one is wanted as well */
	return true;
}

uint32_t vdrv_call(struct vdrv *v, unsigned q, const struct vdrv_part *parts, unsigned n)
{
	uint16_t head = vdrv_add(v, q, parts, n);
	uint32_t id, len;

	vdrv_kick(v, q);
	for (int i = 0; i < 1000; i++) {
		vdrv_run(v);
		if (vdrv_used(v, q, &id, &len)) {
			ck_assert_uint_eq(id, head);
			return len;
		}
		(void)usleep(1000);
	}
	ck_abort_msg("the device does not answer");
	return 0;
}

/* --- RAM --- */

void *vdrv_ram(struct vdrv *v, uint64_t gpa, uint64_t len)
{
	void *at = mem_host(v->mem, gpa, len);

	ck_assert_ptr_nonnull(at);
	return at;
}

bool vdrv_marked(struct vdrv *v, uint64_t gpa)
{
	uint64_t page = gpa >> MEM_PAGE_SHIFT;
	uint64_t word = mem_marks_take(v->mem, 0, page / 64);

	/* The others of the word are put back. */
	for (unsigned i = 0; i < 64; i++)
		if (i != page % 64 && word >> i & 1)
			mem_mark(v->mem, (page / 64 * 64 + i) << MEM_PAGE_SHIFT, 1);
	return word >> (page % 64) & 1;
}

void vdrv_clear_marks(struct vdrv *v)
{
	for (uint64_t w = 0; w < bits_words(v->mem->blocks[0].n_pages); w++)
		(void)mem_marks_take(v->mem, 0, w);
}

bool vdrv_broken(struct vdrv *v)
{
	return vdrv_in(v, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* --- a move --- */

void vdrv_move(struct vdrv *v, struct vdev *to)
{
	const struct vdev_ops *ops = v->dev->ops;
	void *saved = calloc(1, ops->state_bytes), *got = calloc(1, ops->state_bytes);
	struct err e = ERR_INIT;
	struct wbuf w;
	struct rbuf r;

	ck_assert(saved && got);
	ck_assert_int_eq(vdev_pause(v->dev, &e), 0);
	vdev_save(v->dev, saved);
	wbuf_init(&w, ORDER_LITTLE, 1 << 20);
	fields_encode(&w, ops->table, saved);
	ck_assert_int_eq(wbuf_error(&w), 0);
	rbuf_init(&r, ORDER_LITTLE, w.data, w.len);
	ck_assert_int_eq(fields_decode(&r, ops->table, got, &e), 0);
	ck_assert(rbuf_done(&r));
	ck_assert_msg(vdev_check(to, got, &e) == 0, "%s", e.msg);
	vdev_load(to, got);
	wbuf_free(&w);
	free(saved);
	free(got);
	vdrv_attach(v, to);
	vdrv_run(v);
}

/* --- the log --- */

static int log_fd = -1;

/* In sanitizers' runtimes; absent without them. */
extern void __sanitizer_set_report_fd(void *fd) __attribute__((weak));

void vdrv_log_begin(void)
{
	if (log_fd < 0) {
		/* Reports are no part of the log. */
		if (__sanitizer_set_report_fd)
			__sanitizer_set_report_fd((void *)(intptr_t)dup(STDERR_FILENO));
		log_fd = memfd_create("log", MFD_CLOEXEC);
		ck_assert_int_ge(log_fd, 0);
		ck_assert_int_ge(dup2(log_fd, STDERR_FILENO), 0);
	}
	ck_assert_int_eq(ftruncate(log_fd, 0), 0);
	ck_assert_int_eq((int)lseek(log_fd, 0, SEEK_SET), 0);
}

unsigned vdrv_log_lines(void)
{
	static char text[65536];
	ssize_t n = pread(log_fd, text, sizeof(text), 0);
	unsigned lines = 0;

	for (ssize_t i = 0; i < n; i++)
		lines += text[i] == '\n';
	return lines;
}
