/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/trap.h"

#include "guest/abi.h"
#include "guest/lib/cpu.h"
#include "guest/lib/lapic.h"
#include "guest/lib/layout.h"
#include "guest/lib/pic.h"
#include "guest/lib/say.h"
#include "guest/lib/serial.h"
#include "guest/lib/user.h"

#define GATE_INTERRUPT 0x8e00
#define TSS_AVAILABLE  0x89
#define VEC_UD         6
#define UD2            0x0b0f

struct gate {
	uint16_t offset_lo, selector, flags, offset_mid;
	uint32_t offset_hi, zero;
};

struct __attribute__((packed)) tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3, iomap;
};

struct __attribute__((packed)) table_ptr {
	uint16_t limit;
	uint64_t base;
};

extern const char trap_stubs[];
extern uint64_t gdt[];

static struct gate idt[NR_VECTORS];
static struct tss tss[GUEST_CPUS_MAX];
static void (*handlers[NR_VECTORS])(void);

void trap_init(void)
{
	for (unsigned int v = 0; v < NR_VECTORS; v++) {
		uint64_t entry = (uint64_t)(uintptr_t)trap_stubs + v * TRAP_STUB;

		idt[v] = (struct gate){
			.offset_lo = (uint16_t)entry,
			.selector = SEL_KERNEL_CODE,
			.flags = GATE_INTERRUPT,
			.offset_mid = (uint16_t)(entry >> 16),
			.offset_hi = (uint32_t)(entry >> 32),
		};
	}
}

void trap_load(unsigned int cpu, uint64_t stack_top)
{
	struct table_ptr idtr = {.limit = sizeof(idt) - 1, .base = (uint64_t)(uintptr_t)idt};
	uint64_t base = (uint64_t)(uintptr_t)&tss[cpu];
	uint64_t *desc = &gdt[SEL_TSS / 8 + cpu * 2];

	tss[cpu].rsp[0] = stack_top;
	tss[cpu].iomap = sizeof(struct tss);
	desc[0] = (sizeof(struct tss) - 1) | (base & 0xffffff) << 16 |
		  (uint64_t)TSS_AVAILABLE << 40 | (base >> 24 & 0xff) << 56;
	desc[1] = base >> 32;

	asm volatile("lidt %0" : : "m"(idtr));
	asm volatile("ltr %0" : : "r"((uint16_t)(SEL_TSS + cpu * 16)));
}

void trap_handle(unsigned int vector, void (*handler)(void))
{
	handlers[vector] = handler;
}

static void halt_until(uint64_t tsc)
{
	if (tsc)
		lapic_timer_at(tsc);
	wait_irq();
	if (tsc)
		lapic_timer_stop();
}

static int64_t call_from_user(uint64_t nr, uint64_t a, uint64_t b)
{
	switch (nr) {
	case USER_WRITE:
		serial_write((const char *)(uintptr_t)a, b);
		return 0;
	case USER_GETC:
		return serial_getc();
	case USER_HALT:
		halt_until(a);
		return 0;
	case USER_WAKE:
		lapic_send((uint32_t)a, VEC_WAKE);
		return 0;
	case USER_WAKE_ALL:
		lapic_send_others(VEC_WAKE);
		return 0;
	case USER_APIC_ID:
		return lapic_id();
	case USER_EXIT:
		guest_exit((uint8_t)a);
	case USER_STOP:
		halt_forever();
	case USER_READ32:
		return *(volatile uint32_t *)(uintptr_t)a;
	case USER_WRITE32:
		*(volatile uint32_t *)(uintptr_t)a = (uint32_t)b;
		return 0;
	default:
		die("unknown call from ring 3");
	}
}

static _Noreturn void die_of(const struct trap_frame *f)
{
	say("%n: FAILED exception vector=%U error=%X rip=%X cs=%X cr2=%X\n", f->vector, f->error,
	    f->rip, f->cs, read_cr2());
	guest_exit(GUEST_EXIT_FAILED);
}

void trap(struct trap_frame *f)
{
	if (f->vector < VEC_TIMER) {
		bool call = f->vector == VEC_UD && (f->cs & 3) &&
			    *(const uint16_t *)(uintptr_t)f->rip == UD2;

		if (!call)
			die_of(f);
		f->rax = (uint64_t)call_from_user(f->rax, f->rdi, f->rsi);
		f->rip += sizeof(uint16_t);
		return;
	}
	if (f->vector == VEC_SPURIOUS)
		return;
	if (handlers[f->vector])
		handlers[f->vector]();
	if (f->vector >= VEC_PIC && f->vector < VEC_PIC + PIC_IRQS)
		pic_eoi((unsigned int)f->vector - VEC_PIC);
	else
		lapic_eoi();
}
