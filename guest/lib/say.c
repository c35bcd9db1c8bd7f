/* SPDX-License-Identifier: Apache-2.0 */
#include "guest/lib/say.h"

#include <stdarg.h>
#include <stddef.h>

#include "guest/abi.h"
#include "guest/lib/cpu.h"
#include "guest/lib/guest.h"
#include "guest/lib/serial.h"
#include "guest/lib/user.h"

struct text {
	size_t len;
	char buf[256];
};

static void flush(struct text *t)
{
	if (in_ring3())
		user_write(t->buf, t->len);
	else
		serial_write(t->buf, t->len);
	t->len = 0;
}

static void put_char(struct text *t, char c)
{
	if (t->len == sizeof(t->buf))
		flush(t);
	t->buf[t->len++] = c;
}

static void put_string(struct text *t, const char *s)
{
	while (*s)
		put_char(t, *s++);
}

static void put_number(struct text *t, uint64_t value, unsigned int base)
{
	char digits[20];
	size_t n = 0;

	if (base == 16)
		put_string(t, "0x");
	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (n)
		put_char(t, digits[--n]);
}

void say(const char *format, ...)
{
	struct text t = {.len = 0};
	va_list ap;

	va_start(ap, format);
	for (const char *f = format; *f; f++) {
		if (*f != '%') {
			put_char(&t, *f);
			continue;
		}
		switch (*++f) {
		case 's':
			put_string(&t, va_arg(ap, const char *));
			break;
		case 'u':
			put_number(&t, va_arg(ap, uint32_t), 10);
			break;
		case 'U':
			put_number(&t, va_arg(ap, uint64_t), 10);
			break;
		case 'x':
			put_number(&t, va_arg(ap, uint32_t), 16);
			break;
		case 'X':
			put_number(&t, va_arg(ap, uint64_t), 16);
			break;
		case 'n':
			put_string(&t, guest_name);
			break;
		default:
			put_char(&t, '%');
			f--;
		}
	}
	va_end(ap);
	flush(&t);
}

void die(const char *what)
{
	say("%n: FAILED %s\n", what);
	guest_exit(GUEST_EXIT_FAILED);
}

void guest_exit(uint8_t code)
{
	if (in_ring3())
		user_exit(code);
	outb(GUEST_EXIT_PORT, code);
	halt_forever();
}
