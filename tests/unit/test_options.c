/* SPDX-License-Identifier: Apache-2.0 */
/* Command lines of ferry run. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/suite.h"
#include "vmm/cli/run_options.h"

#define WORDS 32

static struct run_options o;
static struct err err;

/* Parse words separated by '|'. The text must live as long as the options. */
static int parse(char *text)
{
	char *argv[WORDS], *save = NULL;
	int argc = 0;

	for (char *w = strtok_r(text, "|", &save); w && argc < WORDS;
	     w = strtok_r(NULL, "|", &save))
		argv[argc++] = w;
	err_clear(&err);
	return run_options_parse(argc, argv, &o, &err);
}

START_TEST(defaults)
{
	char line[] = "--kernel|k";

	ck_assert_int_eq(parse(line), 0);
	ck_assert_str_eq(o.kernel, "k");
	ck_assert_uint_eq(o.mem_bytes, 256 << 20);
	ck_assert_uint_eq(o.n_cpus, 1);
	ck_assert_str_eq(cpu_model_text(&o.cpu), "host");
	ck_assert_int_eq((int)o.mem_backend, MEM_ANON);
	ck_assert_str_eq(o.serial, "stdio");
	ck_assert_int_eq(strncmp(o.name, "vm-", 3), 0);
	ck_assert_ptr_null(o.control);
	ck_assert_ptr_null(o.initrd);
	ck_assert_ptr_null(o.cmdline);
	ck_assert(!o.incoming && !o.debug_exit && !o.paused && !o.help && !o.user);
}
END_TEST

START_TEST(all_of_them)
{
	char line[] = "--kernel=k|--initrd|i|--cmdline=--a=b c|--mem|4G|--mem-backend|memfd|"
		      "--cpus=64|--name|a.B_9-z|--control=/tmp/x|--serial|unix:/tmp/s|--debug-exit|"
		      "--user|bob";

	ck_assert_int_eq(parse(line), 0);
	ck_assert_str_eq(o.cmdline, "--a=b c");
	ck_assert_str_eq(o.initrd, "i");
	ck_assert_uint_eq(o.mem_bytes, 4ull << 30);
	ck_assert_int_eq((int)o.mem_backend, MEM_MEMFD);
	ck_assert_uint_eq(o.n_cpus, 64);
	ck_assert_str_eq(o.name, "a.B_9-z");
	ck_assert_str_eq(o.control, "/tmp/x");
	ck_assert_str_eq(o.user, "bob");
	ck_assert(o.debug_exit);
}
END_TEST

static const char *const accepted[] = {
	"--incoming|defer",
	"--incoming|tcp:127.0.0.1:4444",
	"--incoming|tcp:[::1]:4444",
	"--incoming|tcp::4444",
	"--incoming|tcp:4444",
	"--incoming|tcp:host:0",
	"--incoming|unix:/tmp/x",
	"--incoming|tcp:1|--kernel|k",
	"--kernel|k|--mem|1M",
	"--kernel|k|--mem|16T",
	"--kernel|k|--mem|1048576",
	"--kernel|k|--mem|2g",
	"--kernel|k|--serial|file:x",
	"--kernel|k|--serial|pty",
	"--kernel|k|--serial|none",
	"--kernel|k|--paused",
	"--kernel|k|--mem-backend|hugetlb",
	"--kernel|k|--cpu|host",
	"--kernel|k|--cpu|baseline,+avx2,-cx16",
	"--incoming|defer|--cpu=host,-avx512f",
	"--incoming|defer|--threads|4|--on-demand|--direct-io",
	"--threads|4|--incoming|file:x",
	"--cpu|help",
	"--kernel|k|--dirty-ring|256",
	"--kernel|k|--dirty-ring|65536",
};

START_TEST(good)
{
	char line[256];

	(void)snprintf(line, sizeof(line), "%s", accepted[_i]);
	ck_assert_msg(!parse(line), "%s: %s", accepted[_i], err.msg);
}
END_TEST

START_TEST(incoming)
{
	char deferred[] = "--incoming|defer", given[] = "--incoming|tcp:1.2.3.4:5";

	ck_assert_int_eq(parse(deferred), 0);
	ck_assert(o.incoming);
	ck_assert_ptr_null(o.uri);
	ck_assert_int_eq(parse(given), 0);
	ck_assert_str_eq(o.uri, "tcp:1.2.3.4:5");
}
END_TEST

/* A line, and what its message must speak of. */
static const struct {
	const char *line, *part;
} refused[] = {
	{"", "--kernel"},
	{"--mem|1G", "--incoming"},
	{"--kernal|k", "--kernal"},
	{"--kern|k", "--kern"},
	{"-k", "-k"},
	{"k", "'k'"},
	{"--kernel", "--kernel FILE"},
	{"--kernel|--mem|1G", "--kernel FILE"},
	{"--kernel=", "--kernel"},
	{"--kernel|k|--kernel|k", "twice"},
	{"--kernel|k|--paused=yes", "no value"},
	{"--kernel|k|--threads|2", "--threads is for a saved guest"},
	{"--incoming|tcp:1|--on-demand", "--on-demand is for a saved guest"},
	{"--direct-io|--incoming|unix:x", "--direct-io is for a saved guest"},
	{"--kernel|k|--mem|0", "1M"},
	{"--kernel|k|--mem|512", "512M?"},
	{"--kernel|k|--mem|1K", "1M"},
	{"--kernel|k|--mem|-1G", "--mem"},
	{"--kernel|k|--mem|1.5G", "512M or 4G"},
	{"--kernel|k|--mem|G", "512M or 4G"},
	{"--kernel|k|--mem|1GG", "512M or 4G"},
	{"--kernel|k|--mem|1E", "512M or 4G"},
	{"--kernel|k|--mem|0x100000", "512M or 4G"},
	{"--kernel|k|--mem| 1G", "512M or 4G"},
	{"--kernel|k|--mem|17T", "16T"},
	{"--kernel|k|--mem|16777216T", "16T"},
	{"--kernel|k|--mem|99999999999999999999", "16T"},
	{"--kernel|k|--mem|99999999999999999999999999999999999999", "--mem"},
	{"--kernel|k|--mem|1048577", "multiple"},
	{"--kernel|k|--mem|3M|--mem-backend|hugetlb", "2M"},
	{"--kernel|k|--mem-backend|huge", "hugetlb"},
	{"--kernel|k|--dirty-ring|0", "256"},
	{"--kernel|k|--dirty-ring|128", "256"},
	{"--kernel|k|--dirty-ring|1000", "power of two"},
	{"--kernel|k|--dirty-ring|131072", "65536"},
	{"--kernel|k|--dirty-ring|many", "--dirty-ring"},
	{"--kernel|k|--cpus|0", "64"},
	{"--kernel|k|--cpus|65", "64"},
	{"--kernel|k|--cpu|486", "host or baseline"},
	{"--kernel|k|--cpu|host,-nonsense", "'nonsense'"},
	{"--kernel|k|--cpu|host,-fpu", "fpu cannot be changed"},
	{"--kernel|k|--cpu|host|--cpu|baseline", "twice"},
	{"--kernel|k|--cpus|-1", "64"},
	{"--kernel|k|--cpus|2x", "64"},
	{"--kernel|k|--cpus|18446744073709551617", "64"},
	{"--kernel|k|--name|a/b", "a/b"},
	{"--kernel|k|--name|.", "letters"},
	{"--kernel|k|--name|a b", "letters"},
	{"--kernel|k|--name=-x", "letters"},
	{"--kernel|k|--name|"
	 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
	 "64"},
	{"--kernel|k|--serial|tty", "stdio, file:PATH"},
	{"--kernel|k|--serial|file:", "file:PATH"},
	{"--kernel|k|--serial|unix:", "unix:PATH"},
	{"--incoming|udp:1", "tcp:HOST:PORT"},
	{"--incoming|4444", "tcp:HOST:PORT"},
	{"--incoming|tcp:host", "port"},
	{"--incoming|tcp:host:", "port"},
	{"--incoming|tcp:host:65536", "port"},
	{"--incoming|tcp:host:1x", "port"},
	{"--incoming|unix:", "--incoming"},
	{"--incoming|defer|--paused", "--paused"},
};

START_TEST(bad)
{
	char line[256];

	(void)snprintf(line, sizeof(line), "%s", refused[_i].line);
	ck_assert_msg(parse(line) == -EINVAL, "'%s' was accepted", refused[_i].line);
	ck_assert_msg(strstr(err.msg, refused[_i].part), "%s: '%s' is not in '%s'",
		      refused[_i].line, refused[_i].part, err.msg);
}
END_TEST

START_TEST(long_paths)
{
	char line[512] = "--kernel|k|--control|";
	size_t at = strlen(line);

	memset(line + at, 'x', 107);
	ck_assert_int_eq(parse(line), 0);
	(void)snprintf(line, sizeof(line), "--kernel|k|--control|");
	memset(line + at, 'x', 108);
	ck_assert_int_eq(parse(line), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.msg, "too long"));
	(void)snprintf(line, sizeof(line), "--kernel|k|--serial=unix:");
	memset(line + strlen("--kernel|k|--serial=unix:"), 'x', 108);
	line[strlen("--kernel|k|--serial=unix:") + 108] = '\0';
	ck_assert_int_eq(parse(line), -EINVAL);
}
END_TEST

START_TEST(help)
{
	char line[] = "--nonsense|--help", short_one[] = "-h", ended[] = "--kernel|k|--|--help";

	ck_assert_int_eq(parse(line), 0);
	ck_assert(o.help);
	ck_assert_int_eq(parse(short_one), 0);
	ck_assert(o.help);
	ck_assert_int_eq(parse(ended), -EINVAL);
}
END_TEST

START_TEST(sizes)
{
	static const struct {
		const char *text;
		uint64_t want;
	} good_sizes[] = {{"0", 0},
			  {"1", 1},
			  {"1k", 1024},
			  {"1K", 1024},
			  {"3M", 3 << 20},
			  {"5g", 5ull << 30},
			  {"16777215T", 16777215ull << 40},
			  {"18446744073709551614", UINT64_MAX - 1}};
	static const char *const bad_sizes[] = {"",    " 1", "1 ",  "+1",  "-1",  "k",
						"1kk", "1b", "1e3", "1,5", "0x1", "1KiB"};
	uint64_t n;

	for (size_t i = 0; i < sizeof(good_sizes) / sizeof(good_sizes[0]); i++) {
		ck_assert_int_eq(size_parse(good_sizes[i].text, &n), 0);
		ck_assert_uint_eq(n, good_sizes[i].want);
	}
	for (size_t i = 0; i < sizeof(bad_sizes) / sizeof(bad_sizes[0]); i++)
		ck_assert_msg(size_parse(bad_sizes[i], &n) == -EINVAL, "'%s'", bad_sizes[i]);
	ck_assert_int_eq(size_parse("16777216T", &n), -ERANGE);
	ck_assert_int_eq(size_parse("18446744073709551616", &n), -ERANGE);
	ck_assert_int_eq(number_parse("11", 10, &n), -ERANGE);
	ck_assert_int_eq(number_parse("10", 10, &n), 0);
}
END_TEST

START_TEST(size_texts)
{
	static const struct {
		uint64_t bytes;
		const char *want;
	} cases[] = {{0, "0 B"},          {999, "999 B"},           {1000, "0.98 KiB"},
		     {1024, "1.00 KiB"},  {10 << 10, "10.0 KiB"},   {10235, "10.0 KiB"},
		     {102400, "100 KiB"}, {1ull << 30, "1.00 GiB"}, {UINT64_MAX, "16.0 EiB"}};
	char buf[32];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ck_assert_str_eq(size_text(cases[i].bytes, buf, sizeof(buf)), cases[i].want);
}
END_TEST

START_TEST(ranges)
{
	static const char *const wrong[] = {"",           "+",    "1M",   "0x+1",
					    "0xg+1",      "1M+",  "+1M",  "1M+1M+",
					    "0x1-4K",     "1x+1", "-1+1", "0x10000000000000000+1",
					    "16777216T+1"};
	static const struct {
		const char *text;
		uint64_t start, bytes;
	} right[] = {{"0+4K", 0, 4096},
		     {"0x40000000+512M", 1 << 30, 512 << 20},
		     {"4G+1", 4ull << 30, 1},
		     {"0xFFFFffffFFFFfff0+16", UINT64_MAX - 15, 16}};
	uint64_t start, bytes;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		ck_assert_msg(range_parse(wrong[i], &start, &bytes) < 0, "%s", wrong[i]);
	for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
		ck_assert_int_eq(range_parse(right[i].text, &start, &bytes), 0);
		ck_assert_uint_eq(start, right[i].start);
		ck_assert_uint_eq(bytes, right[i].bytes);
	}
}
END_TEST

SUITE("options", defaults, all_of_them, EACH(good, accepted), incoming, EACH(bad, refused),
      long_paths, help, sizes, size_texts, ranges)
