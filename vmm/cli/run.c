/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/run_options.h"
#include "vmm/ctl/path.h"
#include "vmm/ctl/session.h"
#include "vmm/priv.h"

/* Network interfaces that only root may use. */
static int open_taps(struct run_options *o, struct err *e)
{
	int rc = 0, fd;

	for (unsigned i = 0; i < o->n_nets && !rc; i++) {
		const char *name = net_option_tap(&o->nets[i]);

		if (!name)
			continue;
		rc = net_tap_open(name, &fd, e);
		if (rc)
			err_prefix(e, "--net");
		else
			net_option_set_tap_fd(&o->nets[i], fd);
	}
	return rc;
}

static int open_kvm(int *fd, struct err *e)
{
	*fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	return *fd < 0 ? err_sys(e, errno, "cannot open /dev/kvm") : 0;
}

/*
 * All that needs privileges, then give them up (vmm/priv.h), then the control socket. On success
 * *kvm_fd is /dev/kvm or -1.
 */
static int prepare(struct run_options *o, struct ctl_socket *sock, int *kvm_fd, struct err *e)
{
	struct priv_user user, *become = NULL;
	char path[CTL_PATH_BYTES];
	const char *control = o->control;
	struct ctl_places places;
	int rc = 0;

	*kvm_fd = -1;
	ctl_places_init(&places);
	if (o->user) {
		become = &user;
		rc = priv_user(o->user, &user, e);
	}
	if (!rc && !control) {
		control = path;
		rc = ctl_default_path(&places, o->name, become ? user.name : NULL, path, e);
		if (!rc)
			rc = ctl_make_dir(&places, become ? user.name : NULL, become ? user.uid : 0,
					  become ? user.gid : 0, e);
	}
	if (!rc && become)
		rc = open_kvm(kvm_fd, e);
	if (!rc)
		rc = open_taps(o, e);
	if (!rc)
		rc = priv_drop(become, e);
	if (!rc)
		rc = ctl_listen(sock, control, o->control ? NULL : o->name, e);
	if (rc && *kvm_fd >= 0)
		(void)close(*kvm_fd);
	return rc;
}

/* It points into *o. */
static struct devices_config devices_of(const struct run_options *o)
{
	struct devices_config cfg = {
		.n_disks = o->n_disks,
		.n_nets = o->n_nets,
		.rng = o->rng,
		.balloon = o->balloon,
		.console = o->console,
	};

	for (unsigned i = 0; i < o->n_disks; i++)
		cfg.disks[i] = disk_option_config(&o->disks[i]);
	for (unsigned i = 0; i < o->n_nets; i++)
		cfg.nets[i] = net_option_config(&o->nets[i]);
	return cfg;
}

static int create(struct session *s, const struct run_options *o, int kvm_fd, struct err *e)
{
	const struct machine_config cfg = {
		.name = o->name,
		.mem_bytes = o->mem_bytes,
		.mem_backend = o->mem_backend,
		.n_cpus = o->n_cpus,
		.cpu = &o->cpu,
		.dirty_ring = o->dirty_ring,
		.kernel = o->incoming ? NULL : o->kernel,
		.initrd = o->incoming ? NULL : o->initrd,
		.cmdline = o->incoming ? NULL : o->cmdline,
		.serial = o->serial,
		.devices = devices_of(o),
		.virtio_cmdline = o->virtio_cmdline,
		.debug_exit = o->debug_exit,
		.kvm_fd = kvm_fd,
		.incoming = o->incoming,
		.on_event = session_on_machine,
		.event_ctx = s,
	};

	return machine_create(&s->machine, &cfg, e);
}

/* Only where somebody has to look for it. */
static void say_serial(struct machine *m)
{
	const char *name = machine_serial_name(m);

	if (!strncmp(name, "pty:", 4) || !strncmp(name, "unix:", 5))
		log_info("serial port: %s", name);
}

/* Says what went wrong; what ferry gave up at its start is not obvious to root. */
static int failed(const struct run_options *o, bool listening, const struct err *e)
{
	if (e->code == EACCES && listening && o->uri && !strncmp(o->uri, "tcp:", 4))
		(void)fprintf(stderr,
			      "ferry: %s\n(ports below 1024 are closed to ferry, root's as "
			      "well: choose another)\n",
			      e->msg);
	else if (e->code == EACCES && geteuid() == 0)
		(void)fprintf(stderr,
			      "ferry: %s\n(as root ferry gives up the right to open other "
			      "users' files; --user USER runs it as one of them)\n",
			      e->msg);
	else
		return cli_failed(e);
	return EXIT_FAILED;
}

/* *file becomes the session's. */
static int restore(struct session *s, const struct run_options *o, struct mig_file **file,
		   struct err *e)
{
	const struct session_restore_options how = {
		.path = o->file, .file = *file, .params = o->file_params, .paused = o->paused};
	int rc = session_restore(s, &how, e);

	if (!rc)
		*file = NULL;
	return rc;
}

static int start(struct session *s, const struct run_options *o, struct mig_file **file,
		 struct err *e)
{
	say_serial(s->machine);
	s->guest_or_end = o->file || o->uri;
	if (o->file)
		return restore(s, o, file, e);
	if (o->uri)
		return session_incoming(s, o->uri, e);
	if (o->incoming)
		log_info("waiting for the command migrate-incoming");
	if (o->incoming || o->paused)
		return 0;
	return machine_resume(s->machine, e);
}

/* A saved guest brings its shape with it. */
static int open_saved(struct run_options *o, struct mig_file **file, struct err *e)
{
	int rc = o->file ? mig_file_open(file, o->file, e) : 0;

	if (!o->file || rc)
		return rc;
	if (!o->mem_given) {
		o->mem_bytes = 0;
		for (unsigned i = 0; i < (*file)->layout.n_blocks; i++)
			o->mem_bytes += (*file)->layout.blocks[i].size_bytes;
	}
	if (!o->cpus_given)
		o->n_cpus = (*file)->guest.n_cpus;
	return 0;
}

/* Returns the exit status. */
static int run(struct run_options *o, const sigset_t *signals, struct ctl_socket *sock, int kvm_fd)
{
	struct mig_file *file = NULL;
	struct err e = ERR_INIT;
	struct session s;
	int rc, status;

	if (session_init(&s, o->name, &e)) {
		ctl_unlink(sock);
		(void)close(sock->fd);
		return cli_failed(&e);
	}
	s.file_params = o->file_params;
	rc = open_saved(o, &file, &e);
	if (!rc)
		rc = create(&s, o, kvm_fd, &e);
	else if (kvm_fd >= 0)
		(void)close(kvm_fd);
	if (!rc && o->trace)
		rc = trace_open(&s.trace, o->trace, &e);
	if (!rc)
		rc = session_watch_signals(&s, signals, &e);
	if (!rc)
		rc = session_serve(&s, sock->fd, &e);
	if (rc)
		(void)close(sock->fd);
	else
		rc = start(&s, o, &file, &e);
	mig_file_close(file);
	status = rc ? failed(o, s.server != NULL, &e) : session_run(&s);
	session_end(&s);
	ctl_unlink(sock); /* before clients see the end: to them the name is free then */
	session_free(&s);
	return status;
}

/*
 * The signals that end us are read from a descriptor, so they are blocked before any other thread
 * exists and stay blocked in all of them. Those that would stop a job in the background for
 * touching its terminal are only blocked: a guest shall not stand still for that.
 */
static void block_signals(sigset_t *signals)
{
	struct sigaction hangup;
	sigset_t stopping;

	(void)sigemptyset(signals);
	(void)sigaddset(signals, SIGINT);
	(void)sigaddset(signals, SIGTERM);
	(void)sigaddset(signals, SIGQUIT);
	if (!sigaction(SIGHUP, NULL, &hangup) && hangup.sa_handler != SIG_IGN) /* nohup */
		(void)sigaddset(signals, SIGHUP);
	(void)sigemptyset(&stopping);
	(void)sigaddset(&stopping, SIGTTOU);
	(void)sigaddset(&stopping, SIGTTIN);
	(void)pthread_sigmask(SIG_BLOCK, signals, NULL);
	(void)pthread_sigmask(SIG_BLOCK, &stopping, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
}

static void help(void)
{
	(void)printf("usage: ferry run --kernel FILE [OPTION...]\n"
		     "       ferry run --incoming tcp:HOST:PORT|unix:PATH|file:PATH|defer "
		     "[OPTION...]\n\n"
		     "Run a guest, or wait for one that is migrated here. Options of the guest's\n"
		     "shape (--mem, --cpus, devices) must be the same on both sides of a "
		     "migration.\n\n");
	run_options_help(stdout);
	(void)printf(
		"\nThe exit status is 0 if the guest switched itself off or was ended, 1 after\n"
		"a failure, 2 for wrong usage, 3 after a triple fault, 4 if KVM gave up on it.\n");
}

static int prepare_and_run(struct run_options *o)
{
	struct err e = ERR_INIT;
	struct ctl_socket sock;
	sigset_t signals;
	int kvm_fd;

	if (o->cpu_help) {
		cpu_model_help(stdout);
		return cli_finish(EXIT_OK);
	}
	block_signals(&signals);
	if (prepare(o, &sock, &kvm_fd, &e))
		return failed(o, false, &e);
	return run(o, &signals, &sock, kvm_fd);
}

int cli_run(int argc, char *const *argv)
{
	struct err e = ERR_INIT;
	struct run_options o;

	if (run_options_parse(argc, argv, &o, &e))
		return cli_usage_error("run", &e);
	if (o.help) {
		help();
		return cli_finish(EXIT_OK);
	}
	return prepare_and_run(&o);
}

int cli_restore(int argc, char *const *argv)
{
	struct err e = ERR_INIT;
	struct run_options o;

	if (restore_options_parse(argc, argv, &o, &e))
		return cli_usage_error("restore", &e);
	if (o.help) {
		(void)printf(
			"usage: ferry restore FILE [OPTION...]\n\nBring a saved guest back: as "
			"ferry run --incoming file:FILE. It has the RAM and vCPUs that it was "
			"saved\nwith; its devices must be given as it had them.\n\n");
		restore_options_help(stdout);
		return cli_finish(EXIT_OK);
	}
	return prepare_and_run(&o);
}
