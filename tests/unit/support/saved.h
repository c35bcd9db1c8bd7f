/* SPDX-License-Identifier: Apache-2.0 */
/* A synthetic guest that is saved to a file of its own, and brought back; damage to the file. */
#ifndef TESTS_UNIT_SUPPORT_SAVED_H
#define TESTS_UNIT_SUPPORT_SAVED_H

#include "migration/restore.h"
#include "tests/unit/support/synth.h"

#define SAVED_MIB (1ull << 20)

struct saved {
	char dir[64], path[96];
	struct synth_guest guest, back;
	struct synth *src, *dst; /* dst's guest has no source */
	struct mig_save_config cfg;
	bool on_demand;           /* restores are */
	unsigned pause_fails;     /* the call that fails after a restore, from 1; 0: none */
	struct mig_status status; /* of the last save or restore */
};

/* A directory, and a guest with so much RAM. */
void saved_up(struct saved *s, uint64_t ram_bytes, uint64_t seed);
void saved_down(struct saved *s);

/* Save s->src to s->path as s->cfg says; the state in which it ended. */
enum mig_state saved_save(struct saved *s);
/* Restore s->path into a new s->dst with so much RAM. */
enum mig_state saved_restore(struct saved *s, uint64_t ram_bytes);
/* saved_restore() succeeded: is the guest what it was? NULL or what is wrong. */
const char *saved_compare(const struct saved *s);

/* The whole file in memory, and back. */
uint8_t *saved_read(const char *path, size_t *bytes);
void saved_write(const char *path, const uint8_t *data, size_t bytes);
/* Make the checksum right again after a change of what is not pages (one block of RAM). */
void saved_resum(uint8_t *data, size_t bytes, uint64_t ram_bytes);
/* Open it, check all of it. 0, or -errno and words. */
int saved_verify(const char *path, struct err *e);
/* Names in the directory, the ones with a leading dot as well. */
unsigned saved_n_files(const char *dir);

#endif
