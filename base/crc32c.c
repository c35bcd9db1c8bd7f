/* SPDX-License-Identifier: Apache-2.0 */
#include "base/crc32c.h"

#include <immintrin.h>
#include <string.h>

static uint32_t crc_plain(uint32_t crc, const uint8_t *p, size_t len)
{
	while (len--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1)));
	}
	return crc;
}

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *p,
							    size_t len)
{
	uint64_t wide = crc, word;

	for (; len >= 8; p += 8, len -= 8) {
		memcpy(&word, p, sizeof(word));
		wide = _mm_crc32_u64(wide, word);
	}
	crc = (uint32_t)wide;
	while (len--)
		crc = _mm_crc32_u8(crc, *p++);
	return crc;
}

uint32_t crc32c(const void *data, size_t len)
{
	uint32_t crc = 0xffffffffu;

	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_sse42(crc, data, len);
	return ~crc_plain(crc, data, len);
}
