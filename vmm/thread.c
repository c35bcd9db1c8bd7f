/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/thread.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>

/* The deepest thing on such a stack is a vCPU's XSAVE area of 16 KiB. */
#define STACK_BYTES (256u * 1024)

static void *run(void *arg)
{
	struct thread *t = arg;

	t->fn(t->arg);
	pthread_mutex_lock(&t->lock);
	t->ended = true;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int thread_start(struct thread *t, const char *name, thread_fn *fn, void *arg)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};
	pthread_attr_t attr;
	sigset_t block, old;
	int rc;

	*t = (struct thread){.fn = fn, .arg = arg};
	(void)pthread_mutex_init(&t->lock, NULL);
	thread_cond_init(&t->changed);
	(void)sigfillset(&block);
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		(void)sigdelset(&block, faults[i]);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	(void)pthread_sigmask(SIG_SETMASK, &block, &old);
	rc = pthread_create(&t->id, &attr, run, t);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
	if (!rc)
		(void)pthread_setname_np(t->id, name);
	return -rc;
}

int thread_join(struct thread *t, uint64_t deadline_ns)
{
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	while (!t->ended && !rc)
		rc = thread_cond_wait(&t->changed, &t->lock, deadline_ns);
	rc = t->ended ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&t->lock);
	if (rc)
		return rc;
	(void)pthread_join(t->id, NULL); /* it is on its last instructions */
	(void)pthread_cond_destroy(&t->changed);
	(void)pthread_mutex_destroy(&t->lock);
	return 0;
}
