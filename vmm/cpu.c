/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cpu.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "vmm/cpu_slice.h"
#include "vmm/thread.h"

enum cpu_want { CPU_STOP, CPU_RUN, CPU_QUIT };

struct cpu {
	/* constant */
	struct vcpu *vcpu;
	cpu_exit_fn *on_exit;
	void *ctx;
	struct thread thread;

	struct slice slice; /* the thread's own */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t changed;
	enum cpu_want want;
	bool running; /* the thread is in its run loop */
	pid_t tid;    /* 0 until the thread has begun */
	unsigned share;
	uint64_t stall_ns; /* by its share, so far */
	cpu_call_fn *call;
	void *call_arg;
	int call_rc;
	struct err call_err;
};

/* Exists so that the signal interrupts KVM_RUN instead of ending the process. */
static void on_kick(int sig)
{
	(void)sig;
}

static int kick_signal(void)
{
	return SIGRTMIN;
}

static int install_kick(void)
{
	struct sigaction sa = {.sa_handler = on_kick}; /* no SA_RESTART: KVM_RUN must return */

	return sigaction(kick_signal(), &sa, NULL) ? -errno : 0;
}

/* Stay out of the guest for what the share asks for, unless something else is asked. Locked. */
static void stall(struct cpu *c, uint64_t used_ns)
{
	uint64_t ns = slice_stall_ns(c->share, used_ns), begin_ns, end_ns;
	int rc = 0;

	if (!ns)
		return;
	begin_ns = end_ns = clock_mono_ns();
	while (c->want == CPU_RUN && c->share < SHARE_FULL && !rc) {
		rc = thread_cond_wait(&c->changed, &c->lock, begin_ns + ns);
		end_ns = clock_mono_ns();
	}
	c->stall_ns += end_ns - begin_ns;
}

/* After an interruption: go on? */
static bool still_wanted(struct cpu *c)
{
	uint64_t used_ns = slice_end(&c->slice);
	bool run;

	pthread_mutex_lock(&c->lock);
	stall(c, used_ns);
	run = c->want == CPU_RUN;
	if (run) {
		vcpu_set_immediate_exit(c->vcpu, false);
		slice_begin(&c->slice, c->share);
	}
	pthread_mutex_unlock(&c->lock);
	return run;
}

/* Returns only when nothing is half done, or after the exit handler ended the guest. */
static void run_loop(struct cpu *c)
{
	struct vcpu_exit exit;

	vcpu_note_pause(c->vcpu);
	for (;;) {
		vcpu_run(c->vcpu, &exit);
		if (exit.kind == VCPU_EXIT_INTERRUPTED) {
			if (!still_wanted(c))
				return;
		} else if (!c->on_exit(c->ctx, c->vcpu, &exit)) {
			return;
		}
	}
}

static void do_run(struct cpu *c)
{
	c->running = true;
	pthread_cond_broadcast(&c->changed);
	vcpu_set_immediate_exit(c->vcpu, false);
	slice_begin(&c->slice, c->share);
	pthread_mutex_unlock(&c->lock);
	run_loop(c);
	(void)slice_end(&c->slice);
	pthread_mutex_lock(&c->lock);
	c->running = false;
	if (c->want == CPU_RUN)
		c->want = CPU_STOP; /* the guest has ended */
	pthread_cond_broadcast(&c->changed);
}

static void do_call(struct cpu *c)
{
	struct err e = ERR_INIT;
	int rc;

	pthread_mutex_unlock(&c->lock);
	rc = c->call(c->call_arg, c->vcpu, &e);
	pthread_mutex_lock(&c->lock);
	c->call = NULL;
	c->call_rc = rc;
	c->call_err = e;
	pthread_cond_broadcast(&c->changed);
}

static void thread_main(void *arg)
{
	struct cpu *c = arg;
	sigset_t kick;

	(void)sigemptyset(&kick);
	(void)sigaddset(&kick, kick_signal());
	(void)pthread_sigmask(SIG_UNBLOCK, &kick, NULL);

	slice_init(&c->slice, kick_signal());
	pthread_mutex_lock(&c->lock);
	c->tid = gettid();
	pthread_cond_broadcast(&c->changed);
	while (c->want != CPU_QUIT) {
		if (c->call)
			do_call(c);
		else if (c->want == CPU_RUN)
			do_run(c);
		else
			pthread_cond_wait(&c->changed, &c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	slice_free(&c->slice);
}

int cpu_create(struct cpu **out, struct vcpu *v, cpu_exit_fn *on_exit, void *ctx, struct err *e)
{
	struct cpu *c = calloc(1, sizeof(*c));
	char name[16];
	int rc;

	if (!c)
		return err_set(e, ENOMEM, "out of memory for vCPU %u", v->index);
	c->vcpu = v;
	c->on_exit = on_exit;
	c->ctx = ctx;
	c->share = SHARE_FULL;
	(void)pthread_mutex_init(&c->lock, NULL);
	thread_cond_init(&c->changed);
	(void)snprintf(name, sizeof(name), "vcpu%u", v->index);
	rc = install_kick();
	if (!rc)
		rc = thread_start(&c->thread, name, thread_main, c);
	if (rc) {
		free(c);
		return err_sys(e, -rc, "cannot start the thread of vCPU %u", v->index);
	}
	*out = c;
	return 0;
}

/* Under the lock. */
static void kick(struct cpu *c)
{
	if (!c->running)
		return;
	vcpu_set_immediate_exit(c->vcpu, true);
	(void)pthread_kill(c->thread.id, kick_signal());
}

static void request(struct cpu *c, enum cpu_want want)
{
	pthread_mutex_lock(&c->lock);
	if (c->want != CPU_QUIT) /* that is for good */
		c->want = want;
	if (want != CPU_RUN)
		kick(c);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

void cpu_request_run(struct cpu *c)
{
	request(c, CPU_RUN);
}

void cpu_request_stop(struct cpu *c)
{
	request(c, CPU_STOP);
}

void cpu_set_share(struct cpu *c, unsigned share)
{
	pthread_mutex_lock(&c->lock);
	/* A slice that is under way ends by itself; only a vCPU without one must be told. */
	if (c->share >= SHARE_FULL && share < SHARE_FULL)
		kick(c);
	c->share = share;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

struct cpu_time cpu_time(struct cpu *c)
{
	struct cpu_time t = {.run_ns = 0};
	clockid_t clock;

	if (!pthread_getcpuclockid(c->thread.id, &clock))
		t.run_ns = clock_read_ns(clock);
	pthread_mutex_lock(&c->lock);
	t.stall_ns = c->stall_ns;
	pthread_mutex_unlock(&c->lock);
	return t;
}

bool cpu_free(struct cpu *c, uint64_t deadline_ns)
{
	if (!c)
		return true;
	request(c, CPU_QUIT);
	if (thread_join(&c->thread, deadline_ns))
		return false;
	(void)pthread_cond_destroy(&c->changed);
	(void)pthread_mutex_destroy(&c->lock);
	free(c);
	return true;
}

bool cpu_wait_running(struct cpu *c, uint64_t deadline_ns)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	while (!c->running && c->want == CPU_RUN && !rc)
		rc = thread_cond_wait(&c->changed, &c->lock, deadline_ns);
	pthread_mutex_unlock(&c->lock);
	return !rc;
}

int cpu_wait_stopped(struct cpu *c, uint64_t deadline_ns, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	while (c->running && !rc)
		rc = thread_cond_wait(&c->changed, &c->lock, deadline_ns);
	rc = c->running ? -ETIMEDOUT : 0;
	pthread_mutex_unlock(&c->lock);
	if (rc)
		return err_set(e, ETIMEDOUT, "vCPU %u did not stop in time", c->vcpu->index);
	return 0;
}

int cpu_call(struct cpu *c, cpu_call_fn *fn, void *arg, struct err *e)
{
	bool busy;

	pthread_mutex_lock(&c->lock);
	busy = c->running || c->call || c->want != CPU_STOP;
	if (!busy) {
		c->call = fn;
		c->call_arg = arg;
		pthread_cond_broadcast(&c->changed);
	}
	pthread_mutex_unlock(&c->lock);
	if (busy)
		return err_set(e, EBUSY, "vCPU %u is busy", c->vcpu->index);
	return 0;
}

int cpu_wait_call(struct cpu *c, uint64_t deadline_ns, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	while (c->call && !rc)
		rc = thread_cond_wait(&c->changed, &c->lock, deadline_ns);
	if (c->call)
		rc = err_set(e, ETIMEDOUT, "vCPU %u did not answer in time", c->vcpu->index);
	else if (c->call_rc)
		rc = err_set(e, -c->call_rc, "%s", c->call_err.msg);
	else
		rc = 0;
	pthread_mutex_unlock(&c->lock);
	return rc;
}

pid_t cpu_tid(struct cpu *c)
{
	pid_t tid;

	pthread_mutex_lock(&c->lock);
	while (!c->tid)
		pthread_cond_wait(&c->changed, &c->lock);
	tid = c->tid;
	pthread_mutex_unlock(&c->lock);
	return tid;
}
