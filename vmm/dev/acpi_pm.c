/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/dev/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "vmm/dev/bytes.h"

#define STATUS_BUTTON 0x0100
#define ENABLE_BITS   0x0721 /* timer, global lock, power button, sleep button, RTC */

#define CONTROL_ACPI  0x0001
#define CONTROL_BITS  0x1c02 /* that the guest finds again: bus master reload, sleep type */
#define CONTROL_SLEEP 0x2000
#define SLEEP_TYPE(v) ((v) >> 10 & 7)

#define PORTS (ACPI_PM_EVENT_BYTES + ACPI_PM_CONTROL_BYTES)

_Static_assert(ACPI_PM_CONTROL_PORT == ACPI_PM_EVENT_PORT + ACPI_PM_EVENT_BYTES, "one range");

struct acpi_pm {
	struct acpi_pm_config cfg;
	pthread_mutex_t lock; /* guards st */
	struct acpi_pm_state st;
};

static const struct field acpi_pm_fields[] = {
	FIELD(struct acpi_pm_state, status, FIELD_U16),
	FIELD(struct acpi_pm_state, enable, FIELD_U16),
	FIELD(struct acpi_pm_state, control, FIELD_U16),
};
FIELD_TABLE(acpi_pm_table, "acpi-pm", 1, acpi_pm_fields);

/* Under the lock. */
static void update_irq(struct acpi_pm *p)
{
	p->cfg.irq.set(p->cfg.irq.ctx, p->cfg.irq.gsi, p->st.status & p->st.enable);
}

/* The bits of `mask` among the 8 at `shift` become the byte's. */
static uint16_t merge(uint16_t old, uint8_t byte, unsigned shift, unsigned mask)
{
	mask &= 0xffu << shift;
	return (uint16_t)((old & ~mask) | ((unsigned)byte << shift & mask));
}

static uint8_t pm_in_byte(void *dev, uint16_t port)
{
	struct acpi_pm *p = dev;
	unsigned at = port - ACPI_PM_EVENT_PORT, value;

	pthread_mutex_lock(&p->lock);
	switch (at / 2) {
	case 0:
		value = p->st.status;
		break;
	case 1:
		value = p->st.enable;
		break;
	default:
		value = p->st.control | CONTROL_ACPI;
	}
	pthread_mutex_unlock(&p->lock);
	return (uint8_t)(value >> (at % 2 * 8));
}

static void pm_out_byte(void *dev, uint16_t port, uint8_t value)
{
	struct acpi_pm *p = dev;
	unsigned at = port - ACPI_PM_EVENT_PORT, shift = at % 2 * 8;
	bool off = false;

	pthread_mutex_lock(&p->lock);
	switch (at / 2) {
	case 0:
		p->st.status &= (uint16_t) ~((unsigned)value << shift);
		break;
	case 1:
		p->st.enable = merge(p->st.enable, value, shift, ENABLE_BITS);
		break;
	default:
		p->st.control = merge(p->st.control, value, shift, CONTROL_BITS);
		off = (unsigned)value << shift & CONTROL_SLEEP &&
		      SLEEP_TYPE(p->st.control) == ACPI_PM_SLEEP_S5;
	}
	update_irq(p);
	pthread_mutex_unlock(&p->lock);
	if (off)
		p->cfg.on_power_off(p->cfg.ctx);
}

static uint32_t pm_in(void *dev, uint16_t port, unsigned size)
{
	return io_in_bytes(pm_in_byte, dev, port, size);
}

static void pm_out(void *dev, uint16_t port, unsigned size, uint32_t value)
{
	io_out_bytes(pm_out_byte, dev, port, size, value);
}

static const struct io_ops pm_ops = {.in = pm_in, .out = pm_out};

int acpi_pm_new(struct acpi_pm **out, const struct acpi_pm_config *cfg, struct err *e)
{
	struct acpi_pm *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return err_set(e, ENOMEM, "out of memory for the ACPI registers");
	p->cfg = *cfg;
	rc = io_bus_add(cfg->bus, ACPI_PM_EVENT_PORT, PORTS, &pm_ops, p);
	if (rc) {
		free(p);
		return err_sys(e, -rc, "cannot claim the ACPI ports");
	}
	(void)pthread_mutex_init(&p->lock, NULL);
	*out = p;
	return 0;
}

void acpi_pm_free(struct acpi_pm *p)
{
	if (!p)
		return;
	(void)pthread_mutex_destroy(&p->lock);
	free(p);
}

void acpi_pm_press(struct acpi_pm *p)
{
	pthread_mutex_lock(&p->lock);
	p->st.status |= STATUS_BUTTON;
	update_irq(p);
	pthread_mutex_unlock(&p->lock);
}

void acpi_pm_save(struct acpi_pm *p, struct acpi_pm_state *out)
{
	pthread_mutex_lock(&p->lock);
	*out = p->st;
	pthread_mutex_unlock(&p->lock);
}

int acpi_pm_check(const struct acpi_pm_state *st, struct err *e)
{
	if (st->status & ~STATUS_BUTTON || st->enable & ~ENABLE_BITS || st->control & ~CONTROL_BITS)
		return err_set(e, EINVAL,
			       "the ACPI registers' state cannot be: status 0x%x, enable 0x%x, "
			       "control 0x%x",
			       st->status, st->enable, st->control);
	return 0;
}

void acpi_pm_load(struct acpi_pm *p, const struct acpi_pm_state *st)
{
	pthread_mutex_lock(&p->lock);
	p->st = *st;
	update_irq(p);
	pthread_mutex_unlock(&p->lock);
}
