/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of channels share: connected sockets, and more bytes than two sockets hold. */
#ifndef TESTS_UNIT_SUPPORT_CHAN_FIXTURE_H
#define TESTS_UNIT_SUPPORT_CHAN_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "migration/chan.h"

#define BIG     (24u << 20)
#define PATIENT (10 * NS_PER_SEC)

extern uint8_t sent[BIG], received[BIG];

/* Random bytes to send, and none received. */
void fill(void);

/* TCP or UNIX; SOCK_NONBLOCK or 0. The caller owns both. */
void make_sockets(bool tcp, int flags, int fd[2]);
/* Takes the socket. */
struct mig_chan *open_chan(int fd, uint64_t timeout_ns);

#endif
