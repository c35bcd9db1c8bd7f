/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers that are no ferry, or a hostile one: plain sockets, frames with any content, and a look at
 * a recorded stream. Threads: pure functions, or one thread per struct.
 */
#ifndef TESTS_UNIT_SUPPORT_RAW_H
#define TESTS_UNIT_SUPPORT_RAW_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/codec.h"
#include "migration/wire.h"

/* A listening socket at a free loopback port; its tcp: URI in `uri` (64 bytes). */
int raw_listen(char uri[64]);
/* Connect to a tcp: or unix: URI; blocking, sends and receives bounded to some seconds. -1. */
int raw_connect(const char *uri);
/* As much as the other side takes. */
void raw_send(int fd, const void *data, size_t len);
/* Receive until the end or until `room` is full; how much. */
size_t raw_recv(int fd, void *data, size_t room);

/* Drop what comes, for at most so long; true: the other side has closed, nothing comes any more. */
bool raw_ended(int fd, int timeout_ms);

/* A server for one connection: reads so much, answers, reads on until the end. */
struct raw_server {
	pthread_t thread;
	int listen_fd;
	char uri[64];
	size_t read_bytes; /* before it answers */
	const void *answer;
	size_t answer_bytes;
	bool close_at_once; /* after the answer */
};

void raw_serve(struct raw_server *s);
void raw_server_end(struct raw_server *s);

/* A frame as it lies in a stream. */
struct raw_frame {
	size_t at; /* of its header */
	struct wire_frame f;
};

/* Take a stream apart; the number of whole frames, at most max. */
unsigned raw_frames(const uint8_t *data, size_t len, struct raw_frame *frames, unsigned max);
/* Is byte `at` one of a page? */
bool raw_in_page(const struct raw_frame *frames, unsigned n, size_t at);

/* A header that says whatever is wanted, its checksum right. */
struct raw_header {
	uint32_t magic, seq, meta_bytes, data_bytes, meta_crc;
	uint16_t type, flags;
};

void raw_put_header(struct wbuf *w, const struct raw_header *h);
/* A whole good frame around this meta, numbered *seq. */
void raw_put_frame(struct wbuf *w, uint32_t *seq, uint16_t type, const struct wbuf *meta,
		   const void *data, uint32_t data_bytes);

#endif
