/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), with the SSE4.2 instruction where there is one. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* CRC of one piece. crc32c("123456789") is 0xe3069283. Any thread may call. */
uint32_t crc32c(const void *data, size_t len);

#endif
