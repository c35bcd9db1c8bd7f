/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target for the migration stream: the input is a source that says to a real destination what
 * it likes. It is a list of acts: a message that is right but for a byte, a frame with a right
 * header and checksum and any content, or bytes that are no frame. Whatever comes, the destination
 * must survive it, take over only a guest that is whole, and have clean RAM for the next source.
 *
 * `make fuzz` builds and runs it; see CONTRIBUTING.md.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "mem/page.h"
#include "migration/migration.h"
#include "migration/wire.h"

#define RAM_PAGES  256u
#define TOKEN      0x5eedull
#define OUT_BYTES  (4u << 20)
#define ZERO_RUN   (1u << 31)
#define N_SECTIONS 2u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* ---- a machine to move ---- */

struct part {
	uint32_t n_entries;
	uint16_t entries[16];
	uint64_t word;
	uint8_t bytes[8];
};

static const struct field part_fields[] = {
	FIELD(struct part, n_entries, FIELD_U32),
	{"entries", FIELD_U16, offsetof(struct part, entries), 2, 16,
	 offsetof(struct part, n_entries), NULL},
	FIELD(struct part, word, FIELD_U64),
	FIELD_RAW(struct part, bytes),
};
static FIELD_TABLE(part_table, "part", 1, part_fields);

static struct part parts[N_SECTIONS + 1];
static struct mig_section sections[N_SECTIONS] = {{0, &part_table, &parts[0]},
						  {1, &part_table, &parts[1]}};
static struct mig_section early = {0, &part_table, &parts[N_SECTIONS]};
static struct mem *mem;
static bool applied; /* in this attempt; the coordinator's own */
static atomic_bool owned;

static void must(bool what)
{
	if (!what)
		abort();
}

/* The hello of another source is good: what an earlier one left must be gone. */
static int admit(void *ctx, struct err *e)
{
	(void)ctx;
	(void)e;
	for (uint64_t i = 0; i < RAM_PAGES; i++)
		must(page_is_zero(mem_host(mem, i * MEM_PAGE_BYTES, MEM_PAGE_BYTES)));
	for (unsigned i = 0; i < N_SECTIONS; i++)
		parts[i].n_entries = UINT32_MAX; /* nothing came yet */
	applied = false;
	return 0;
}

static int apply(void *ctx, struct err *e)
{
	(void)ctx;
	for (unsigned i = 0; i <= N_SECTIONS; i++)
		must(parts[i].n_entries <= 16);
	applied = true;
	return parts[0].word == 13 ? err_set(e, EINVAL, "a guest that cannot be loaded") : 0;
}

static int taken_over(void *ctx, bool run, struct err *e)
{
	(void)ctx;
	(void)run;
	(void)e;
	must(applied);
	atomic_store(&owned, true);
	return 0;
}

/* ---- the destination ---- */

static struct mig_dest *dest;
static char path[64];
static _Atomic enum mig_state state;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void on_event(void *ctx, const struct mig_event *ev)
{
	(void)ctx;
	pthread_mutex_lock(&lock);
	atomic_store(&state, ev->state);
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&lock);
}

/* Once it has taken the guest over it says so soon; until then it may seem to listen. */
static void settle(void)
{
	pthread_mutex_lock(&lock);
	while (atomic_load(&owned) && atomic_load(&state) != MIG_COMPLETED)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void listen_again(void)
{
	static char uri[80];
	const struct mig_dest_config cfg = {
		.uri = uri,
		.mem = mem,
		.machine = {.early = &early,
			    .n_early = 1,
			    .admit = admit,
			    .apply = apply,
			    .taken_over = taken_over,
			    .sections = sections,
			    .n_sections = N_SECTIONS,
			    .n_cpus = 1},
		.on_event = on_event,
	};

	(void)snprintf(uri, sizeof(uri), "unix:%s", path);
	mig_dest_free(dest);
	must(!mem_discard(mem, NULL));
	atomic_store(&state, MIG_NONE);
	atomic_store(&owned, false);
	must(!mig_dest_start(&dest, &cfg, NULL));
}

static void tear_down(void)
{
	mig_dest_free(dest);
	*strrchr(path, '/') = '\0';
	(void)rmdir(path);
}

static void set_up(void)
{
	char folder[] = "/tmp/ferry-fuzz-XXXXXX";

	must(mkdtemp(folder) != NULL);
	(void)snprintf(path, sizeof(path), "%s/socket", folder);
	must(!mem_create(&mem, MEM_ANON, RAM_PAGES * MEM_PAGE_BYTES, NULL));
	listen_again();
	must(!atexit(tear_down));
}

/* Play it to the end of the stream, and until the destination has closed or knows no further. */
static void play(const struct wbuf *out)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint8_t answer[4096];
	size_t sent = 0;

	memcpy(sa.sun_path, path, sizeof(path));
	must(fd >= 0 && !connect(fd, (const struct sockaddr *)&sa, sizeof(sa)));
	while (sent < out->len) {
		ssize_t n = send(fd, out->data + sent, out->len - sent, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	(void)shutdown(fd, SHUT_WR);
	while (atomic_load(&state) != MIG_UNDECIDED) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, 1) > 0 && recv(fd, answer, sizeof(answer), MSG_DONTWAIT) <= 0)
			break;
	}
	(void)close(fd);
}

/* ---- the source's messages ---- */

struct source {
	struct wbuf out, meta;
	struct wire_writer writer;
	const uint8_t *in; /* what is left of the input */
	size_t left;
	uint64_t normal, zero;
	uint32_t n_sections;
};

static uint8_t next(struct source *s)
{
	if (!s->left)
		return 0;
	s->left--;
	return *s->in++;
}

static void frame(struct source *s, uint16_t type, const void *data, uint32_t data_bytes)
{
	wire_header(&s->writer, (enum wire_type)type, &s->meta, data_bytes);
	put_bytes(&s->out, s->writer.header, sizeof(s->writer.header));
	put_bytes(&s->out, s->meta.data, s->meta.len);
	put_bytes(&s->out, data, data_bytes);
	wbuf_reset(&s->meta);
}

/* The input may change a byte of the message. */
static void bend(struct source *s, bool bent)
{
	size_t at;

	if (!bent || !s->meta.len)
		return;
	at = next(s);
	at |= (size_t)next(s) << 8;
	s->meta.data[at % s->meta.len] ^= next(s);
}

static void put_hello(struct source *s)
{
	static struct wire_hello h;

	h = (struct wire_hello){.version_min = WIRE_VERSION,
				.version_max = WIRE_VERSION,
				.page_bytes = MEM_PAGE_BYTES,
				.n_cpus = 1,
				.token_hash = wire_token_hash(TOKEN),
				.guest_name = "fuzz",
				.n_blocks = mem->n_blocks,
				.n_sections = N_SECTIONS,
				.n_early = 1,
				.n_channels = 1};
	for (unsigned i = 0; i < mem->n_blocks; i++) {
		memcpy(h.blocks[i].name, mem->blocks[i].name, sizeof(h.blocks[i].name));
		h.blocks[i].gpa = mem->blocks[i].gpa;
		h.blocks[i].size_bytes = mem->blocks[i].n_pages * MEM_PAGE_BYTES;
	}
	for (uint32_t i = 0; i < N_SECTIONS; i++)
		h.sections[i] = (struct wire_section_id){"part", i, 1};
	wire_put_hello(&s->meta, &h);
}

static void put_section(struct source *s, uint32_t instance)
{
	struct part p = {.n_entries = next(s) % 18, .word = next(s)};

	/* A count that is too large is for the decoder: there is no room for more here. */
	put_str8(&s->meta, "part");
	put_u32(&s->meta, instance);
	put_u32(&s->meta, 1);
	if (p.n_entries <= 16) {
		fields_encode(&s->meta, &part_table, &p);
		return;
	}
	put_u32(&s->meta, p.n_entries);
	put_bytes(&s->meta, &p, sizeof(p));
}

static void pages(struct source *s, bool zero, bool bent)
{
	static uint8_t bytes[4 * MEM_PAGE_BYTES];
	uint32_t first = next(s) % RAM_PAGES, n = 1 + next(s) % 4;

	if (zero) {
		first = 0;
		n = RAM_PAGES;
	} else if (first + n > RAM_PAGES) {
		n = RAM_PAGES - first;
	}
	memset(bytes, next(s), sizeof(bytes));
	put_u8(&s->meta, 0);
	put_u16(&s->meta, 1);
	put_u16(&s->meta, zero ? 0 : (uint16_t)n);
	put_u64(&s->meta, first);
	put_u32(&s->meta, zero ? n | ZERO_RUN : n);
	for (uint32_t i = 0; i < n && !zero; i++)
		put_u32(&s->meta, page_sum(bytes));
	*(zero ? &s->zero : &s->normal) += n;
	bend(s, bent);
	frame(s, WIRE_PAGES, bytes, zero ? 0 : (uint32_t)(n * MEM_PAGE_BYTES));
}

static void end(struct source *s, bool bent)
{
	put_u64(&s->meta, s->normal);
	put_u64(&s->meta, s->zero);
	put_u32(&s->meta, s->n_sections);
	put_u8(&s->meta, 1);
	put_u32(&s->meta, 1); /* the first END */
	put_u64(&s->meta, 0); /* no marks of other connections */
	put_u64(&s->meta, 0); /* no digest */
	bend(s, bent);
	frame(s, WIRE_END, NULL, 0);
}

static void some_bytes(struct source *s, struct wbuf *to)
{
	size_t n = next(s);

	if (n > s->left)
		n = s->left;
	put_bytes(to, s->in, n);
	s->in += n;
	s->left -= n;
}

static void any_frame(struct source *s)
{
	static const uint8_t zeroes[2 * MEM_PAGE_BYTES];
	uint16_t type = next(s) % (WIRE_TYPES + 2);

	some_bytes(s, &s->meta);
	frame(s, type, zeroes, next(s) & 1 ? next(s) * 32u : 0);
}

static void section(struct source *s, uint32_t instance, bool counted, bool bent)
{
	put_section(s, instance);
	s->n_sections += counted;
	bend(s, bent);
	frame(s, WIRE_SECTION, NULL, 0);
}

static void commit(struct source *s, bool bent)
{
	put_u64(&s->meta, TOKEN);
	bend(s, bent);
	frame(s, WIRE_COMMIT, NULL, 0);
}

static void act(struct source *s)
{
	uint8_t what = next(s);
	bool bent = what & 0x80;

	switch (what & 0x0f) {
	case 0:
		put_hello(s);
		bend(s, bent);
		frame(s, WIRE_HELLO, NULL, 0);
		break;
	case 1:
	case 2:
		section(s, what & 1, !(what & 0x40), bent); /* early ones are not counted */
		break;
	case 3:
	case 4:
		pages(s, what & 1, bent);
		break;
	case 5:
		end(s, bent);
		break;
	case 6:
		commit(s, bent);
		break;
	case 7:
		put_u64(&s->meta, next(s));
		frame(s, WIRE_PASS, NULL, 0);
		break;
	case 8:
		some_bytes(s, &s->out);
		break;
	case 9:
		wire_put_text(&s->meta, "enough");
		bend(s, bent);
		frame(s, WIRE_ABORT, NULL, 0);
		break;
	default:
		any_frame(s);
		break;
	}
}

/* What every good stream begins with, so that the input need not find it. */
static void usual_start(struct source *s)
{
	put_hello(s);
	frame(s, WIRE_HELLO, NULL, 0);
	section(s, 0, false, false);
	pages(s, true, false);
}

/* And how one ends. */
static void usual_end(struct source *s)
{
	for (uint32_t i = 0; i < N_SECTIONS; i++)
		section(s, i, true, false);
	end(s, false);
	commit(s, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct source s = {.in = data, .left = len};
	uint8_t how = next(&s);
	enum mig_state now;

	if (!dest)
		set_up();
	wbuf_init(&s.out, ORDER_LITTLE, OUT_BYTES);
	wbuf_init(&s.meta, ORDER_LITTLE, 2 * WIRE_META_MAX);
	if (!(how & 1))
		usual_start(&s);
	while (s.left)
		act(&s);
	if (!(how & 2))
		usual_end(&s);
	play(&s.out);
	wbuf_free(&s.out);
	wbuf_free(&s.meta);
	settle();
	/* A stream with nothing unusual in it: if that is refused, all of this tests next to
	 * nothing. */
	must(len || atomic_load(&owned));
	now = atomic_load(&state);
	if (now == MIG_UNDECIDED) {
		must(mig_dest_decide(dest, TOKEN + 1, NULL) == -EPERM);
		(void)mig_dest_decide(dest, TOKEN, NULL); /* wrong if the hello was bent */
	}
	if (now != MIG_NONE && now != MIG_FAILED)
		listen_again();
	return 0;
}
