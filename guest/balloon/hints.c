/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver (virtio 1.2, section 5.5). What it does in a round is a script, by mode: an honest one
 * says the round's id, gives its free pages and says the end mark; the others do anything else.
 */
#include "guest/balloon/balloon.h"

#include <stddef.h>

#include "guest/lib/boot.h"
#include "guest/lib/clock.h"
#include "guest/lib/cmdline.h"
#include "guest/lib/cpu.h"
#include "guest/lib/say.h"
#include "guest/lib/vio.h"

#define BALLOON_GPA 0xd0007000UL /* where ferry has it; device= says otherwise */
#define BALLOON_ID  5

#define F_STATS  VIO_F(1)
#define F_HINT   VIO_F(3)
#define F_POISON VIO_F(4)

#define CFG_HINT_ID 8
#define CFG_POISON  12
#define ID_STOP     0
#define ID_DONE     1

#define QUEUES_MAX   4
#define WORDS        (GUEST_PAGE_BYTES / sizeof(uint32_t))
#define HINT_PAGES   1024 /* as Linux does: 4 MiB */
#define BATCH        32
#define WILD_WAIT_US 1000000

enum act {
	END, /* of the script: nothing more in this round */
	SAY_OWN,
	SAY_STOP,
	SAY_NEAR,  /* the round's id plus arg */
	SAY_WORD,  /* arg */
	SAY_SHORT, /* a part of the id */
	GIVE_FREE,
	GIVE_HALF, /* of the free pages */
	GIVE_FREE_AGAIN,
	GIVE_USED,
	GIVE_WRITTEN, /* in use, and written since the round began */
	AGAIN,        /* from step arg on, for ever */
	RESET,
	EXIT,
	WILD,
};

struct step {
	enum act act;
	int32_t arg;
};

static const struct step honest[] = {{SAY_OWN, 0}, {GIVE_FREE, 0}, {SAY_STOP, 0}, {END, 0}};
static const struct step liar[] = {{SAY_OWN, 0},      {GIVE_FREE, 0},    {GIVE_WRITTEN, 0},
				   {GIVE_WRITTEN, 0}, {GIVE_WRITTEN, 0}, {GIVE_WRITTEN, 0},
				   {SAY_STOP, 0},     {END, 0}};
static const struct step endless[] = {
	{SAY_OWN, 0}, {GIVE_FREE_AGAIN, 0}, {GIVE_WRITTEN, 0}, {AGAIN, 1}};
static const struct step later[] = {{SAY_OWN, 0}, {SAY_STOP, 0}, {END, 0}};
static const struct step nothing[] = {{END, 0}};
static const struct step silent[] = {{SAY_OWN, 0}, {GIVE_HALF, 0}, {END, 0}};
static const struct step foreign[] = {
	{GIVE_USED, 0}, {SAY_NEAR, -1}, {GIVE_USED, 0}, {SAY_NEAR, 1},  {GIVE_USED, 0},
	{SAY_WORD, 0},  {GIVE_USED, 0}, {SAY_WORD, 1},  {GIVE_USED, 0}, {SAY_WORD, -1},
	{GIVE_USED, 0}, {SAY_SHORT, 0}, {GIVE_USED, 0}, {SAY_OWN, 0},   {GIVE_FREE, 0},
	{SAY_NEAR, -1}, {GIVE_USED, 0}, {SAY_OWN, 0},   {GIVE_FREE, 0}, {SAY_STOP, 0},
	{GIVE_USED, 0}, {SAY_OWN, 0},   {GIVE_USED, 0}, {END, 0}};
static const struct step wild[] = {{SAY_OWN, 0}, {GIVE_HALF, 0}, {WILD, 0}, {END, 0}};
static const struct step reset[] = {{SAY_OWN, 0}, {GIVE_HALF, 0}, {RESET, 0}, {END, 0}};
static const struct step crash[] = {{SAY_OWN, 0}, {GIVE_HALF, 0}, {EXIT, 0}, {END, 0}};
static const struct step unasked[] = {{SAY_WORD, 2},        {GIVE_FREE_AGAIN, 0}, {SAY_WORD, 3},
				      {GIVE_FREE_AGAIN, 0}, {SAY_STOP, 0},        {AGAIN, 0}};

const char *const mode_names[] = {"honest", "none",    "liar",   "endless",     "mute",
				  "silent", "foreign", "wild",   "stats",       "reset",
				  "crash",  "later",   "poison", "poison-liar", NULL};

static const struct {
	const struct step *script;
	uint64_t features;
} modes[] = {
	[MODE_HONEST] = {honest, F_HINT},
	[MODE_NONE] = {nothing, 0},
	[MODE_LIAR] = {liar, F_HINT},
	[MODE_ENDLESS] = {endless, F_HINT},
	[MODE_MUTE] = {nothing, F_HINT},
	[MODE_SILENT] = {silent, F_HINT},
	[MODE_FOREIGN] = {foreign, F_HINT},
	[MODE_WILD] = {wild, F_HINT},
	[MODE_STATS] = {honest, F_HINT | F_STATS},
	[MODE_RESET] = {reset, F_HINT},
	[MODE_CRASH] = {crash, F_HINT},
	[MODE_LATER] = {later, F_HINT},
	[MODE_POISON] = {honest, F_HINT | F_POISON},
	[MODE_POISON_LIAR] = {unasked, F_HINT | F_POISON},
};

struct hint_counts hint_counts;

static struct {
	enum mode mode;
	struct vio_dev dev;
	struct vio_queue queue[QUEUES_MAX];
	struct vio_queue *hint, *stats; /* NULL: not negotiated */
	char *memory;                   /* of the queues */
	uint32_t *words;                /* what the driver says */
	unsigned int word;
	const struct step *script, *step; /* step NULL: at rest */
	uint32_t id;                      /* the last that the device showed */
	uint64_t cursor, left, chunk;
	unsigned int stats_case;
} hd;

static void start_device(void)
{
	unsigned int n = 2;

	if (!vio_begin(&hd.dev, modes[hd.mode].features))
		die("the balloon refuses its features");
	if ((hd.dev.features & modes[hd.mode].features) != modes[hd.mode].features)
		die("the balloon lacks a feature");
	hd.stats = hd.dev.features & F_STATS ? &hd.queue[n++] : NULL;
	hd.hint = hd.dev.features & F_HINT ? &hd.queue[n++] : NULL;
	for (unsigned int i = 0; i < n; i++)
		if (!vio_queue_init(&hd.queue[i], &hd.dev, i, hd.memory + i * VIO_QUEUE_BYTES))
			die("the balloon lacks a queue");
	if (hd.dev.features & F_POISON)
		vio_config_write(&hd.dev, CFG_POISON, pages.poison);
	vio_go(&hd.dev);
	hd.id = ID_STOP;
}

void hints_init(enum mode mode)
{
	hd.mode = mode;
	hd.script = modes[mode].script;
	hd.chunk = cmdline_number("chunk", HINT_PAGES);
	hd.memory = ram_alloc(QUEUES_MAX * VIO_QUEUE_BYTES);
	hd.words = ram_alloc(WORDS * sizeof(uint32_t));
	if (!vio_find(&hd.dev, cmdline_number("device", BALLOON_GPA), BALLOON_ID))
		die("no balloon");
	start_device();
}

/* ---- steps ---- */

static void add_word(uint32_t word, uint32_t len)
{
	uint32_t *w = &hd.words[hd.word++ % WORDS];

	*w = word;
	vio_add(hd.hint, (uint64_t)(uintptr_t)w, len, false);
	vio_kick(hd.hint);
}

/* Give a batch of hints; true when there are no more of that kind. */
static bool give(enum which which)
{
	bool last = false;

	for (unsigned int i = 0; i < BATCH && vio_has_room(hd.hint) && !last; i++) {
		uint64_t n = pages_run(which, &hd.cursor, hd.chunk);

		last = !n;
		if (!n)
			break;
		if (which == WHICH_FREE)
			pages_lend(hd.cursor, n);
		vio_add(hd.hint, (uint64_t)(uintptr_t)ram_page(&pages.region, hd.cursor),
			(uint32_t)(n * GUEST_PAGE_BYTES), true);
		hd.cursor += n;
		hd.left -= n < hd.left ? n : hd.left;
		hint_counts.hints++;
		if (!hd.left)
			last = true;
	}
	vio_kick(hd.hint);
	return last;
}

/* Wait until the device has taken all, or has given up; then start it again. */
static void settle(bool start_again)
{
	uint64_t t0 = rdtsc(), limit = clock_ticks(WILD_WAIT_US);

	while (hd.hint->nr_free < hd.hint->size && rdtsc() - t0 < limit) {
		vio_reap(hd.hint);
		if (!vio_broken(&hd.dev))
			continue;
		hint_counts.broken++;
		if (start_again)
			start_device();
		return;
	}
}

static void say_wild_things(void)
{
	const struct boot_info *b = boot_info();
	const struct boot_range *top = &b->ram[b->nr_ram - 1];
	const struct vio_desc list[] = {
		{.gpa = 64ULL << 30, .len = 1 << 20},
		{.gpa = BALLOON_GPA, .len = 4096},
		{.gpa = -4096ULL, .len = 8192},
		{.gpa = -1ULL, .len = 1},
		{.gpa = -1ULL, .len = UINT32_MAX},
		{.gpa = 1ULL << 63, .len = UINT32_MAX},
		{.gpa = 0, .len = UINT32_MAX},
		{.gpa = (1ULL << 52) - 1, .len = 1},
		{.gpa = pages.region.piece[0].gpa, .len = 0},
		{.gpa = pages.region.piece[0].gpa + 1, .len = 4096},
		{.gpa = top->start + top->bytes - 4096, .len = 8192},
		{.gpa = top->start + top->bytes, .len = 4096},
	};
	const unsigned int n = sizeof(list) / sizeof(list[0]);
	uint32_t id = hd.id;

	settle(true);
	for (unsigned int i = 0; i < n; i++) {
		add_word(id, sizeof(id));
		vio_add(hd.hint, list[i].gpa, list[i].len, true);
		vio_kick(hd.hint);
		hint_counts.hints++;
		settle(i < n - 1); /* the last one leaves it broken */
	}
}

static void next_step(void)
{
	hd.step++;
	hd.cursor = 0;
	hd.left = hd.step->act == GIVE_HALF ? pages.nr_free / 2 : UINT64_MAX;
}

static void go_to(const struct step *step)
{
	hd.step = step - 1;
	next_step();
}

static void say_word(uint32_t word, uint32_t len)
{
	add_word(word, len);
	next_step();
}

static void do_step(void)
{
	const struct step *s = hd.step;
	enum which which = WHICH_FREE;

	switch (s->act) {
	case END:
		hd.step = NULL;
		return;
	case SAY_OWN:
		return say_word(hd.id, sizeof(hd.id));
	case SAY_NEAR:
		return say_word(hd.id + (uint32_t)s->arg, sizeof(hd.id));
	case SAY_WORD:
		return say_word((uint32_t)s->arg, sizeof(hd.id));
	case SAY_SHORT:
		return say_word(hd.id, sizeof(hd.id) - 1);
	case SAY_STOP:
		hint_counts.ended++;
		return say_word(ID_STOP, sizeof(hd.id));
	case GIVE_FREE:
	case GIVE_HALF:
		break;
	case GIVE_FREE_AGAIN:
		which = WHICH_FREE_AGAIN;
		break;
	case GIVE_USED:
		which = WHICH_USED;
		break;
	case GIVE_WRITTEN:
		which = WHICH_WRITTEN;
		break;
	case AGAIN:
		go_to(hd.script + s->arg);
		return;
	case RESET:
		vio_reset(&hd.dev);
		hd.hint = hd.stats = NULL;
		hd.step = NULL;
		return;
	case EXIT:
		guest_exit(GUEST_EXIT_FAILED);
	case WILD:
		say_wild_things();
		hd.step = NULL;
		return;
	}
	if (give(which))
		next_step();
}

/* ---- statistics ---- */

static void post_stats(void)
{
	const uint64_t gpa = pages.region.piece[0].gpa;
	const uint64_t all = pages.region.piece[0].nr_pages * GUEST_PAGE_BYTES;
	const struct vio_desc list[] = {
		{.gpa = gpa, .len = all < UINT32_MAX ? (uint32_t)all : UINT32_MAX},
		{.gpa = gpa + 1, .len = 7},
		{.gpa = gpa + 3, .len = 1},
		{.gpa = gpa + 5, .len = 25},
		{.gpa = gpa + 4095, .len = 4098},
		{.gpa = gpa + 7, .len = 641},
		{.gpa = gpa, .len = 0},
		{.gpa = -4096ULL, .len = UINT32_MAX},
	};
	const struct vio_desc *d = &list[hd.stats_case++ % (sizeof(list) / sizeof(list[0]))];

	vio_add(hd.stats, d->gpa, d->len, false);
	vio_kick(hd.stats);
}

static void poll_stats(void)
{
	bool empty = hd.stats->nr_free == hd.stats->size;

	hint_counts.stats += vio_reap(hd.stats);
	if (empty || hd.stats->nr_free == hd.stats->size)
		post_stats();
}

/* ---- */

void hints_poll(void)
{
	if (hd.stats)
		poll_stats();
	if (!hd.hint)
		return;
	vio_reap(hd.hint);
	if (hd.mode == MODE_POISON_LIAR && !hd.step)
		go_to(hd.script);
	if (hd.step && vio_has_room(hd.hint))
		do_step();
}

void hints_poll_config(void)
{
	uint32_t id;

	if (!hd.hint)
		return;
	if (hd.mode == MODE_STATS && vio_broken(&hd.dev)) {
		hint_counts.broken++;
		start_device();
	}
	id = vio_config_read(&hd.dev, CFG_HINT_ID);
	if (id == hd.id)
		return;
	hd.id = id;
	if (id == ID_DONE) {
		hint_counts.done++;
		pages_take_back();
	}
	if (id == ID_STOP || id == ID_DONE) {
		if (hd.mode != MODE_ENDLESS)
			hd.step = NULL;
		return;
	}
	hint_counts.rounds++;
	pages.still = false;
	pages_round();
	go_to(hd.script);
}
