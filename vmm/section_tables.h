/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of every section that a machine of any shape may have. Constant. */
#ifndef VMM_SECTION_TABLES_H
#define VMM_SECTION_TABLES_H

#include "base/fields.h"

/* NULL: there is no such section. */
const struct field_table *section_table(const char *name);

#endif
