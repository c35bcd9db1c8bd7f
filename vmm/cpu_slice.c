/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cpu_slice.h"

#include <signal.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id /* glibc before 2.38 has it only under its inner name */
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define REPEAT_NS    (500 * NS_PER_US)
#define STALL_MAX_NS (SLICE_NS - 100 * NS_PER_US)
/*
 * No moment is shorter than it takes to interrupt a guest, which may be several times what a share
 * of a few thousandths has of a slice. Only a longer wait gets such a share down to what it should
 * be.
 */
#define FEW          50
#define STALL_FEW_NS (50 * NS_PER_MS)

static struct timespec to_timespec(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_SEC),
				 .tv_nsec = (long)(ns % NS_PER_SEC)};
}

void slice_init(struct slice *s, int signal)
{
	*s = (struct slice){.signal = signal};
}

void slice_free(struct slice *s)
{
	if (s->has_timer)
		(void)timer_delete(s->timer);
	s->has_timer = false;
}

/* Made when it is first needed: most guests never are slowed down. */
static bool have_timer(struct slice *s)
{
	struct sigevent to = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = s->signal};

	if (!s->has_timer) {
		to.sigev_notify_thread_id = gettid();
		s->has_timer = !timer_create(CLOCK_MONOTONIC, &to, &s->timer);
	}
	return s->has_timer;
}

void slice_begin(struct slice *s, unsigned share)
{
	struct itimerspec at = {.it_value = to_timespec(slice_run_ns(share)),
				.it_interval = to_timespec(REPEAT_NS)};

	s->armed = share < SHARE_FULL && have_timer(s);
	if (!s->armed)
		return;
	s->begin_cpu_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
	(void)timer_settime(s->timer, 0, &at, NULL);
}

uint64_t slice_end(struct slice *s)
{
	const struct itimerspec never = {.it_value = {0}};

	if (!s->armed)
		return 0;
	s->armed = false;
	(void)timer_settime(s->timer, 0, &never, NULL);
	return clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - s->begin_cpu_ns;
}

uint64_t slice_run_ns(unsigned share)
{
	return SLICE_NS / SHARE_FULL * share;
}

uint64_t slice_stall_ns(unsigned share, uint64_t used_ns)
{
	uint64_t ns, max_ns = share < FEW ? STALL_FEW_NS : STALL_MAX_NS;

	if (share >= SHARE_FULL)
		return 0;
	if (share < SHARE_MIN)
		share = SHARE_MIN;
	if (used_ns > SLICE_NS)
		used_ns = SLICE_NS;
	ns = used_ns * (SHARE_FULL - share) / share;
	return ns < max_ns ? ns : max_ns;
}
