/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What has arrived: RAM and sections on the destination's side of one attempt.
 *
 * Pages go from the socket straight into guest RAM. Two bits a page are kept: *arrived* (RAM is
 * complete when every page has come at least once) and *suspect* (the last copy does not match its
 * checksum). The source computes a checksum just before the page is sent while the guest may be
 * writing it, so a mismatch is normal as long as a newer copy follows; one that is left at the end
 * is damage, and the guest is refused.
 *
 * Threads: pages come on several connections at once, each with an *inlet* of its own; both maps
 * and all figures are atomic. Which copy of a page is the newer is for the readers to keep
 * (migration/readers.h). All else is the coordinator's.
 */
#ifndef MIGRATION_INCOMING_H
#define MIGRATION_INCOMING_H

#include "migration/machine.h"
#include "migration/wire.h"

struct mig_incoming {
	bool zstd;          /* pages may come compressed: it was agreed */
	bool digest;        /* RAM is compared at the end: likewise */
	uint64_t digest_ns; /* what that took here in a rehearsal */
	struct mem *mem;
	const struct mig_machine *machine;
	uint64_t *arrived[MEM_MAX_BLOCKS], *suspect[MEM_MAX_BLOCKS];
	uint64_t n_arrived, n_suspect; /* set bits in all; atomic */
	bool *section_seen;            /* per section of the machine */
	uint32_t n_sections_seen;
	bool early_seen[WIRE_MAX_EARLY];
	uint64_t decode_ns;                /* spent on them */
	uint64_t normal_pages, zero_pages; /* received, repeats included; atomic */
	bool touched;                      /* RAM may hold something; atomic */
};

/* What one connection needs while a frame of pages is at work. Zeroed is ready. */
struct mig_inlet {
	struct wire_pages pages;
	/* made when the first compressed frame comes */
	uint8_t *packed, *plain; /* WIRE_DATA_MAX each */
	void *unpacker;
};

void mig_inlet_free(struct mig_inlet *inlet);

/* RAM must be all zero. */
int mig_incoming_init(struct mig_incoming *in, struct mem *mem, const struct mig_machine *machine,
		      struct err *e);
void mig_incoming_free(struct mig_incoming *in);

/* Can this guest live here? Refused with what differs and what to change. */
int mig_incoming_check_hello(const struct mig_incoming *in, const struct wire_hello *h,
			     struct err *e);
/* One of the sections that follow hello at once. */
int mig_incoming_early(struct mig_incoming *in, struct rbuf *meta, struct err *e);
/* A pages frame whose meta is at hand: receive its bytes into RAM. */
int mig_incoming_pages(struct mig_incoming *in, struct mig_inlet *inlet, struct mig_chan *c,
		       struct rbuf *meta, uint32_t data_bytes, struct err *e);
int mig_incoming_section(struct mig_incoming *in, struct rbuf *meta, struct err *e);
/* Is all there that a rehearsal needs: every section, and RAM for what they point to? */
int mig_incoming_rehearsal(const struct mig_incoming *in, struct err *e);
/* The sections so far were not the last ones: all of them come again. */
void mig_incoming_again(struct mig_incoming *in);
/*
 * With `digest`, while nothing arrives: is all RAM what the source says it is? For a rehearsal only
 * the time is taken, once; *ns is then what it took.
 */
int mig_incoming_digest(const struct mig_incoming *in, uint64_t want, struct err *e);
void mig_incoming_rehearse_digest(struct mig_incoming *in, uint64_t *ns);
/* Is everything here that the source says it sent, and is it whole? */
int mig_incoming_complete(const struct mig_incoming *in, const struct wire_end *end, struct err *e);

#endif
