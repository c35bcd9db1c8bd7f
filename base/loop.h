/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small event loop over epoll: file descriptors and posted calls.
 *
 * One thread runs a loop and owns it. Its handlers may add, modify and remove any descriptor, their
 * own included: events are taken one at a time, so that no handler is called for a descriptor that
 * an earlier handler removed. Other threads reach the loop by loop_post() only.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

/* `events` are EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP as epoll reports them. */
typedef void loop_fn(void *ctx, uint32_t events);

int loop_new(struct loop **out);
/* Descriptors stay open: they are their owners'. Calls posted and not run yet are dropped. */
void loop_free(struct loop *l);

/* Level-triggered. -EEXIST if fd is watched already. Loop's thread only (or before it runs). */
int loop_add(struct loop *l, int fd, uint32_t events, loop_fn *fn, void *ctx);
int loop_modify(struct loop *l, int fd, uint32_t events);
void loop_remove(struct loop *l, int fd);

/* Have fn(ctx, 0) called soon in the loop's thread. Any thread. -ENOMEM. */
int loop_post(struct loop *l, loop_fn *fn, void *ctx);

/* Wait up to timeout_ms (-1 = for ever) and handle what is ready. 0 or -errno. */
int loop_step(struct loop *l, int timeout_ms);

/* loop_step() until loop_quit() was called (any thread). */
int loop_run(struct loop *l);
void loop_quit(struct loop *l);

#endif
