/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/pic.h"

#include "guest/lib/cpu.h"
#include "guest/lib/layout.h"

#define PIC1        0x20
#define PIC2        0xa0
#define ICW1        0x11
#define ICW4_8086   0x01
#define CASCADE_IRQ 2
#define OCW2_EOI    0x20

#define IOAPIC_GPA   0xfec00000UL
#define IOAPIC_REDIR 0x10

void pic_init(void)
{
	outb(PIC1, ICW1);
	outb(PIC1 + 1, VEC_PIC);
	outb(PIC1 + 1, 1 << CASCADE_IRQ);
	outb(PIC1 + 1, ICW4_8086);
	outb(PIC2, ICW1);
	outb(PIC2 + 1, VEC_PIC + 8);
	outb(PIC2 + 1, CASCADE_IRQ);
	outb(PIC2 + 1, ICW4_8086);
	outb(PIC1 + 1, 0xff);
	outb(PIC2 + 1, 0xff);
}

void pic_unmask(unsigned int irq)
{
	uint16_t port = irq < 8 ? PIC1 + 1 : PIC2 + 1;

	outb(port, inb(port) & (uint8_t) ~(1u << irq % 8));
	if (irq >= 8)
		pic_unmask(CASCADE_IRQ);
}

void pic_eoi(unsigned int irq)
{
	if (irq >= 8)
		outb(PIC2, OCW2_EOI);
	outb(PIC1, OCW2_EOI);
}

static void ioapic_write(uint32_t reg, uint32_t value)
{
	volatile uint32_t *io = (volatile uint32_t *)IOAPIC_GPA;

	io[0] = reg;
	io[4] = value;
}

void ioapic_route(unsigned int pin, unsigned int vector)
{
	ioapic_write(IOAPIC_REDIR + 2 * pin + 1, 0);
	ioapic_write(IOAPIC_REDIR + 2 * pin, vector);
}
