/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of the devices' states, for whoever reads a state without having the device. */
#ifndef VIRTIO_TABLES_H
#define VIRTIO_TABLES_H

#include "base/fields.h"

extern const struct field_table blk_table;
extern const struct field_table net_table;
extern const struct field_table rng_table;
extern const struct field_table balloon_table;
extern const struct field_table console_table;

#endif
