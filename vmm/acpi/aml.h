/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A writer of AML (ACPI 6.4, chapter 20) and of resource descriptors (section 6.4): the few terms
 * that the description of a fixed machine needs.
 *
 * Terms are appended to a little-endian wbuf and are nested by open and close. Errors are the
 * wbuf's, sticky; what has been opened must be closed before the bytes are used. Names are four
 * characters, padded with '_'.
 */
#ifndef VMM_ACPI_AML_H
#define VMM_ACPI_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/codec.h"

/* Begin a term; what it returns is for aml_close(), which ends it after less than 1 MiB. */
size_t aml_open_scope(struct wbuf *w, const char *name);
size_t aml_open_device(struct wbuf *w, const char *name);
size_t aml_open_package(struct wbuf *w, uint8_t n_elements);
void aml_close(struct wbuf *w, size_t at);

/* Name (name, ...): the value is the next term. */
void aml_name(struct wbuf *w, const char *name);
void aml_integer(struct wbuf *w, uint32_t v);
/* Printable ASCII. */
void aml_string(struct wbuf *w, const char *text);
/* An id like "PNP0501": three capital letters, four digits (hexadecimal, capital). */
void aml_eisa_id(struct wbuf *w, const char *id);

/* A buffer of resource descriptors; the end tag is aml_close_resources()'s. */
size_t aml_open_resources(struct wbuf *w);
void aml_close_resources(struct wbuf *w, size_t at);
void aml_io_ports(struct wbuf *w, uint16_t first, uint8_t count);
/* An ISA interrupt, 0 to 15: edge-triggered, active high, not shared. */
void aml_isa_irq(struct wbuf *w, unsigned irq);
void aml_memory32(struct wbuf *w, uint32_t base, uint32_t size);
/* Active high; a level-triggered one may be shared. */
void aml_interrupt(struct wbuf *w, uint32_t gsi, bool edge);

#endif
