/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/acpi/aml.h"

#include <string.h>

#define OP_ZERO    0x00
#define OP_ONE     0x01
#define OP_NAME    0x08
#define OP_BYTE    0x0a
#define OP_WORD    0x0b
#define OP_DWORD   0x0c
#define OP_STRING  0x0d
#define OP_SCOPE   0x10
#define OP_BUFFER  0x11
#define OP_PACKAGE 0x12
#define OP_EXT     0x5b
#define EXT_DEVICE 0x82

#define RES_IRQ         0x22 /* small ones: type and length in a byte */
#define RES_IO          0x47
#define RES_END         0x79
#define RES_MEMORY32    0x86 /* large ones: a u16 length follows */
#define RES_INTERRUPT   0x89
#define IO_16_BITS      0x01
#define MEMORY_WRITABLE 0x01
#define INT_CONSUMER    0x01
#define INT_EDGE        0x02
#define INT_SHARED      0x08

/*
 * A package length counts from its own first byte. It is written in its form of three bytes
 * whatever it turns out to be, so that it can be filled in afterwards: 4 bits in the first byte,
 * with the number of bytes that follow above them, and 8 bits in each of those.
 */
#define LENGTH_BYTES 3

static size_t open_length(struct wbuf *w)
{
	size_t at = w->len;

	for (unsigned i = 0; i < LENGTH_BYTES; i++)
		put_u8(w, 0);
	return at;
}

void aml_close(struct wbuf *w, size_t at)
{
	size_t len = w->len - at;

	if (wbuf_error(w))
		return;
	w->data[at] = (uint8_t)((LENGTH_BYTES - 1) << 6 | (len & 0xf));
	w->data[at + 1] = (uint8_t)(len >> 4);
	w->data[at + 2] = (uint8_t)(len >> 12);
}

size_t aml_open_scope(struct wbuf *w, const char *name)
{
	size_t at;

	put_u8(w, OP_SCOPE);
	at = open_length(w);
	put_bytes(w, name, 4);
	return at;
}

size_t aml_open_device(struct wbuf *w, const char *name)
{
	size_t at;

	put_u8(w, OP_EXT);
	put_u8(w, EXT_DEVICE);
	at = open_length(w);
	put_bytes(w, name, 4);
	return at;
}

size_t aml_open_package(struct wbuf *w, uint8_t n_elements)
{
	size_t at;

	put_u8(w, OP_PACKAGE);
	at = open_length(w);
	put_u8(w, n_elements);
	return at;
}

void aml_name(struct wbuf *w, const char *name)
{
	put_u8(w, OP_NAME);
	put_bytes(w, name, 4);
}

void aml_integer(struct wbuf *w, uint32_t v)
{
	if (v <= 1) {
		put_u8(w, v ? OP_ONE : OP_ZERO);
	} else if (v <= UINT8_MAX) {
		put_u8(w, OP_BYTE);
		put_u8(w, (uint8_t)v);
	} else if (v <= UINT16_MAX) {
		put_u8(w, OP_WORD);
		put_u16(w, (uint16_t)v);
	} else {
		put_u8(w, OP_DWORD);
		put_u32(w, v);
	}
}

void aml_string(struct wbuf *w, const char *text)
{
	put_u8(w, OP_STRING);
	put_bytes(w, text, strlen(text) + 1);
}

static uint8_t hex_digit(char c)
{
	return (uint8_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Five bits a letter, four a digit, the most significant byte first. */
void aml_eisa_id(struct wbuf *w, const char *id)
{
	unsigned maker = (unsigned)((id[0] & 0x1f) << 10 | (id[1] & 0x1f) << 5 | (id[2] & 0x1f));

	put_u8(w, OP_DWORD);
	put_u8(w, (uint8_t)(maker >> 8));
	put_u8(w, (uint8_t)maker);
	put_u8(w, (uint8_t)(hex_digit(id[3]) << 4 | hex_digit(id[4])));
	put_u8(w, (uint8_t)(hex_digit(id[5]) << 4 | hex_digit(id[6])));
}

/* The buffer's own size is a term before its bytes: a word, filled in afterwards. */
#define SIZE_OFFSET (LENGTH_BYTES + 1)
#define DATA_OFFSET (SIZE_OFFSET + 2)

size_t aml_open_resources(struct wbuf *w)
{
	size_t at;

	put_u8(w, OP_BUFFER);
	at = open_length(w);
	put_u8(w, OP_WORD);
	put_u16(w, 0);
	return at;
}

void aml_close_resources(struct wbuf *w, size_t at)
{
	size_t size;

	put_u8(w, RES_END);
	put_u8(w, 0); /* no checksum */
	if (wbuf_error(w))
		return;
	size = w->len - at - DATA_OFFSET;
	w->data[at + SIZE_OFFSET] = (uint8_t)size;
	w->data[at + SIZE_OFFSET + 1] = (uint8_t)(size >> 8);
	aml_close(w, at);
}

void aml_io_ports(struct wbuf *w, uint16_t first, uint8_t count)
{
	put_u8(w, RES_IO);
	put_u8(w, IO_16_BITS);
	put_u16(w, first); /* at least, and at most */
	put_u16(w, first);
	put_u8(w, 1);
	put_u8(w, count);
}

void aml_isa_irq(struct wbuf *w, unsigned irq)
{
	put_u8(w, RES_IRQ);
	put_u16(w, (uint16_t)(1u << irq));
}

void aml_memory32(struct wbuf *w, uint32_t base, uint32_t size)
{
	put_u8(w, RES_MEMORY32);
	put_u16(w, 9);
	put_u8(w, MEMORY_WRITABLE);
	put_u32(w, base);
	put_u32(w, size);
}

void aml_interrupt(struct wbuf *w, uint32_t gsi, bool edge)
{
	put_u8(w, RES_INTERRUPT);
	put_u16(w, 6);
	put_u8(w, (uint8_t)(INT_CONSUMER | (edge ? INT_EDGE : INT_SHARED)));
	put_u8(w, 1);
	put_u32(w, gsi);
}
