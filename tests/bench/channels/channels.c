/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine on loopback beside a bare sender and receiver: so many connections, the same bytes.
 *
 *	channels [ROUNDS] [MIB]
 *
 * The bare pair writes RAM in pieces of 1 MiB and reads it into other RAM that was never touched,
 *one thread a connection and side; no sums, no dirty log, no protocol. Both are run in turns; the
 * medians of the rounds count. Prints, for 1, 2 and 4 connections, GiB/s of both, the ratio, and
 * the CPU seconds that a GiB took on both sides together.
 */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/uri.h"
#include "tests/unit/support/raw.h"
#include "tests/unit/support/synth.h"

#define PIECE      (1u << 20)
#define ROUNDS_MAX 99

struct figure {
	double gib_s, cpu_s_gib;
};

static double cpu_s(void)
{
	struct rusage u;

	(void)getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static struct figure figure_of(uint64_t bytes, uint64_t took_ns, double cpu)
{
	double gib = (double)bytes / (double)(1ull << 30);

	return (struct figure){.gib_s = gib / ((double)took_ns / 1e9), .cpu_s_gib = cpu / gib};
}

/* ---- bare ---- */

struct stretch {
	pthread_t thread;
	int fd;
	uint8_t *at;
	size_t bytes;
};

static void *bare_send(void *arg)
{
	struct stretch *s = arg;

	for (size_t done = 0; done < s->bytes; done += PIECE)
		raw_send(s->fd, s->at + done, PIECE);
	(void)shutdown(s->fd, SHUT_WR);
	return NULL;
}

static void *bare_recv(void *arg)
{
	struct stretch *s = arg;

	(void)raw_recv(s->fd, s->at, s->bytes);
	return NULL;
}

static struct figure bare(const struct mem *src, struct mem *dst, unsigned n)
{
	struct stretch out[MIG_CHANNELS_MAX], in[MIG_CHANNELS_MAX];
	size_t share = src->blocks[0].size_bytes / n / PIECE * PIECE;
	uint64_t begin_ns;
	double cpu;
	char uri[64];
	int listener = raw_listen(uri);
	struct err e = ERR_INIT;

	(void)mem_discard(dst, &e);
	for (unsigned i = 0; i < n; i++) {
		out[i] = (struct stretch){.fd = raw_connect(uri),
					  .at = src->blocks[0].hva + i * share,
					  .bytes = share};
		in[i] = (struct stretch){.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC),
					 .at = dst->blocks[0].hva + i * share,
					 .bytes = share};
		mig_socket_tune(out[i].fd);
	}
	begin_ns = clock_mono_ns();
	cpu = cpu_s();
	for (unsigned i = 0; i < n; i++) {
		(void)pthread_create(&in[i].thread, NULL, bare_recv, &in[i]);
		(void)pthread_create(&out[i].thread, NULL, bare_send, &out[i]);
	}
	for (unsigned i = 0; i < n; i++) {
		(void)pthread_join(out[i].thread, NULL);
		(void)pthread_join(in[i].thread, NULL);
	}
	begin_ns = clock_mono_ns() - begin_ns;
	cpu = cpu_s() - cpu;
	for (unsigned i = 0; i < n; i++) {
		(void)close(out[i].fd);
		(void)close(in[i].fd);
	}
	(void)close(listener);
	return figure_of(share * n, begin_ns, cpu);
}

/* ---- the engine ---- */

static struct figure engine(struct synth *src, struct synth *dst, unsigned n)
{
	struct mig_status st;
	double cpu;

	src->guest->given_away = src->guest->taken_over = src->guest->runs_at_dest = false;
	src->guest->runs_at_source = src->running = true;
	synth_listen(dst, "tcp:127.0.0.1:0");
	src->channels = n;
	cpu = cpu_s();
	synth_send(src, synth_uri(dst), 0, 2000);
	if (synth_wait_end(src) != MIG_COMPLETED || !synth_wait(dst, WATCH(MIG_COMPLETED))) {
		(void)fprintf(stderr, "channels: %s\n", synth_status(src).error);
		exit(EXIT_FAILURE);
	}
	cpu = cpu_s() - cpu;
	st = synth_status(src);
	return figure_of(st.transferred_bytes, st.total_ns - st.setup_ns, cpu);
}

/* ---- figures ---- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static struct figure median(const struct figure *f, unsigned n)
{
	double speed[ROUNDS_MAX], cpu[ROUNDS_MAX];

	for (unsigned i = 0; i < n; i++) {
		speed[i] = f[i].gib_s;
		cpu[i] = f[i].cpu_s_gib;
	}
	qsort(speed, n, sizeof(double), compare);
	qsort(cpu, n, sizeof(double), compare);
	return (struct figure){speed[n / 2], cpu[n / 2]};
}

int main(int argc, char **argv)
{
	static const unsigned numbers[] = {1, 2, 4};
	unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 5;
	uint64_t mib = argc > 2 ? (uint64_t)atoi(argv[2]) : 512;
	struct synth_config cfg = {.ram_bytes = mib << 20, .seed = 1};
	struct synth_guest guest;
	struct synth *src, *dst;

	if (rounds < 1 || rounds > ROUNDS_MAX || mib < 64 || mib > 3072) {
		(void)fprintf(stderr, "usage: channels [ROUNDS 1-99] [MIB 64-3072]\n");
		return 2;
	}
	synth_guest_init(&guest);
	src = synth_source(&guest, &cfg);
	dst = synth_dest(&guest, &cfg);
	synth_fill(src, 0, synth_n_pages(src));
	(void)printf(
		"connections  bare GiB/s  engine GiB/s  ratio  bare CPU s/GiB  engine CPU s/GiB\n");
	for (unsigned k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++) {
		struct figure b[ROUNDS_MAX], g[ROUNDS_MAX], mb, mg;

		(void)bare(src->mem, dst->mem, numbers[k]); /* warms up, is not counted */
		for (unsigned i = 0; i < rounds; i++) {
			b[i] = bare(src->mem, dst->mem, numbers[k]);
			g[i] = engine(src, dst, numbers[k]);
		}
		mb = median(b, rounds);
		mg = median(g, rounds);
		(void)printf("%11u  %10.2f  %12.2f  %5.2f  %14.3f  %16.3f\n", numbers[k], mb.gib_s,
			     mg.gib_s, mg.gib_s / mb.gib_s, mb.cpu_s_gib, mg.cpu_s_gib);
		(void)fflush(stdout);
	}
	synth_free(src);
	synth_free(dst);
	return 0;
}
