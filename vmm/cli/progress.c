/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/cli/progress.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/clock.h"
#include "vmm/cli/options.h"

#define TEXT 32

static uint64_t number(const json_t *o, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(o, key));

	return v < 0 ? 0 : (uint64_t)v;
}

/* One is named; of several the number is told and who has least. */
static void read_slowed(struct progress *p, const json_t *answer)
{
	const json_t *list = json_object_get(answer, "x-ferry-vcpus"), *item;
	uint64_t n = 0, cpu = 0;
	double least = 1;
	size_t i;

	json_array_foreach(list, i, item)
	{
		const json_t *share = json_object_get(item, "share");

		if (!json_is_real(share) || json_real_value(share) >= 1)
			continue;
		n++;
		if (json_real_value(share) > least)
			continue;
		least = json_real_value(share);
		cpu = number(item, "cpu-index");
	}
	if (n == 1)
		(void)snprintf(p->slowed, sizeof(p->slowed), "vCPU %" PRIu64 " slowed to %.0f %%",
			       cpu, least * 100);
	else if (n)
		(void)snprintf(p->slowed, sizeof(p->slowed),
			       "%" PRIu64 " vCPUs slowed, to %.0f %% and up", n, least * 100);
}

void progress_read(struct progress *p, const json_t *answer)
{
	const json_t *ram = json_object_get(answer, "ram");
	const char *status = json_string_value(json_object_get(answer, "status"));

	*p = (struct progress){
		.error = json_string_value(json_object_get(answer, "error-desc")),
		.token = json_string_value(json_object_get(answer, "x-ferry-token")),
		.syncs = number(ram, "dirty-sync-count"),
		.total_ns = number(answer, "x-ferry-total-ns"),
		.setup_ms = number(answer, "setup-time"),
		.downtime_ns = number(answer, "x-ferry-downtime-ns"),
		.predicted_ns = number(answer, "x-ferry-predicted-downtime-ns"),
		.predicted_at_switch_ns = number(answer, "x-ferry-predicted-at-switch-ns"),
		.limit_ns = number(answer, "x-ferry-downtime-limit-ns"),
		.passes = number(answer, "x-ferry-passes"),
		.switchovers_called_off = number(answer, "x-ferry-switchovers-called-off"),
		.least_ns = number(answer, "x-ferry-least-downtime-ns"),
		.rehearsals = number(answer, "x-ferry-rehearsals"),
		.rehearsal_ns = number(answer, "x-ferry-rehearsal-pause-ns-total"),
		.phases = json_object_get(answer, "x-ferry-downtime-phases"),
		.planned = json_object_get(answer, "x-ferry-predicted-phases"),
		.bytes_s = number(answer, "x-ferry-bytes-per-second"),
		.ram_total = number(ram, "total"),
		.remaining = number(ram, "remaining"),
		.transferred = number(ram, "transferred"),
		.normal_pages = number(ram, "normal"),
		.zero_pages = number(ram, "duplicate"),
		.page_bytes = number(ram, "page-size"),
		.stall_ns = number(answer, "x-ferry-stall-ns"),
	};
	read_slowed(p, answer);
	p->dirty_bytes_s = number(ram, "dirty-pages-rate") * p->page_bytes;
	(void)snprintf(p->status, sizeof(p->status), "%s", status ? status : "none");
}

bool progress_ended(const struct progress *p)
{
	static const char *const under_way[] = {"setup",           "active",     "device",
						"postcopy-active", "cancelling", "pre-switchover"};

	for (size_t i = 0; i < sizeof(under_way) / sizeof(under_way[0]); i++)
		if (!strcmp(p->status, under_way[i]))
			return false;
	return true;
}

bool progress_stuck(const struct progress *p)
{
	return p->passes >= 2 && p->bytes_s && p->dirty_bytes_s >= p->bytes_s &&
	       !strcmp(p->status, "active");
}

bool progress_below_least(const struct progress *p)
{
	return p->passes >= 2 && p->limit_ns && p->least_ns > p->limit_ns &&
	       !strcmp(p->status, "active");
}

static double ms(uint64_t ns)
{
	return (double)ns / (double)NS_PER_MS;
}

/*
 * Adds a part if all of it has room. What matters most comes first, and behind a part that has no
 * room there is nothing more: a narrow terminal shows whole parts.
 */
__attribute__((format(printf, 4, 5))) static void part(char *out, size_t out_bytes, size_t *len,
						       const char *fmt, ...)
{
	va_list ap;
	int n;

	if (*len >= out_bytes)
		return;
	va_start(ap, fmt);
	n = vsnprintf(out + *len, out_bytes - *len, fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < out_bytes - *len) {
		*len += (size_t)n;
		return;
	}
	if (*len) /* the first one may be cut */
		out[*len] = '\0';
	*len = out_bytes;
}

static unsigned percent(const struct progress *p)
{
	if (p->remaining >= p->ram_total)
		return 0;
	return (unsigned)((double)(p->ram_total - p->remaining) * 100 / (double)p->ram_total);
}

void progress_line(const struct progress *p, char *out, size_t out_bytes)
{
	char text[TEXT];
	size_t len = 0;

	part(out, out_bytes, &len, "%s", p->status);
	if (!p->ram_total)
		return;
	part(out, out_bytes, &len, " %3u%%", percent(p));
	part(out, out_bytes, &len, ", %s left", size_text(p->remaining, text, sizeof(text)));
	part(out, out_bytes, &len, ", pass %" PRIu64, p->passes);
	part(out, out_bytes, &len, ", %s/s", size_text(p->bytes_s, text, sizeof(text)));
	if (p->predicted_ns)
		part(out, out_bytes, &len, ", would be dark %.1f ms", ms(p->predicted_ns));
	if (p->slowed[0])
		part(out, out_bytes, &len, ", %s", p->slowed);
	if (p->syncs) /* before, nothing is known of what the guest writes */
		part(out, out_bytes, &len, ", dirty %s/s",
		     size_text(p->dirty_bytes_s, text, sizeof(text)));
	part(out, out_bytes, &len, ", sent %s", size_text(p->transferred, text, sizeof(text)));
}

void progress_save_line(const struct progress *p, char *out, size_t out_bytes)
{
	char text[TEXT];
	size_t len = 0;

	part(out, out_bytes, &len, "%s", p->status);
	if (!p->transferred || !p->ram_total)
		return;
	part(out, out_bytes, &len, " %3u%%", percent(p));
	part(out, out_bytes, &len, ", %s written", size_text(p->transferred, text, sizeof(text)));
	part(out, out_bytes, &len, ", %s/s", size_text(p->bytes_s, text, sizeof(text)));
}

/* One row of the breakdown: the phases that one side measured, as they were and as predicted. */
static void phases_row(const struct progress *p, const char *side, FILE *to)
{
	const json_t *took = json_object_get(p->phases, side);
	const json_t *planned = json_object_get(p->planned, side);
	const char *name, *comma = "";
	json_t *ns;

	(void)fprintf(to, "  %-12s", side);
	json_object_foreach((json_t *)(uintptr_t)took, name, ns)
	{
		uint64_t is = number(took, name), was = number(planned, name);

		if (!is && !was)
			continue;
		(void)fprintf(to, "%s%s %.2f (%.2f)", comma, name, ms(is), ms(was));
		comma = ", ";
	}
	(void)fputc('\n', to);
}

void progress_summary(const struct progress *p, FILE *to)
{
	char sent[TEXT], total[TEXT];
	uint64_t held_ns;

	(void)fprintf(to, "total time   %.3f s (setup %" PRIu64 " ms)\n", ms(p->total_ns) / 1000,
		      p->setup_ms);
	(void)fprintf(to, "passes       %" PRIu64 "\n", p->passes);
	(void)fprintf(to, "%s %s for %s of RAM\n", p->limit_ns ? "sent        " : "written     ",
		      size_text(p->transferred, sent, sizeof(sent)),
		      size_text(p->ram_total, total, sizeof(total)));
	(void)fprintf(to, "pages        %" PRIu64 " %s, %" PRIu64 " zero\n", p->normal_pages,
		      p->limit_ns ? "sent" : "written", p->zero_pages);
	if (!p->limit_ns) { /* a save: nothing is predicted, and there is no limit */
		(void)fprintf(to, "downtime     %.3f ms\n", ms(p->downtime_ns));
		return;
	}
	(void)fprintf(to, "downtime     %.3f ms (predicted %.3f ms, limit %.0f ms)\n",
		      ms(p->downtime_ns), ms(p->predicted_at_switch_ns), ms(p->limit_ns));
	if (p->phases) {
		phases_row(p, "source", to);
		phases_row(p, "destination", to);
	}
	held_ns = number(json_object_get(p->phases, "source"), "held");
	if (p->downtime_ns > p->limit_ns + held_ns)
		(void)fprintf(to,
			      "             over the limit: the handover itself took longer than "
			      "predicted\n");
	if (p->rehearsals)
		(void)fprintf(to, "rehearsals   %" PRIu64 ", the guest paused for %.3f ms in all\n",
			      p->rehearsals, ms(p->rehearsal_ns));
	if (p->stall_ns)
		(void)fprintf(to, "slowed down  the guest lost %.3f s of vCPU time\n",
			      ms(p->stall_ns) / 1000);
	if (p->switchovers_called_off)
		(void)fprintf(to,
			      "called off   %" PRIu64 " switchovers that were about to take too "
			      "long\n",
			      p->switchovers_called_off);
}
