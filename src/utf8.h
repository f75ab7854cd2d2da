/* SPDX-License-Identifier: MIT */
/*
 * UTF-8 as MQTT has it (MQTT 5, 1.5.4). Pure.
 */
#pragma once

#include "util.h"

/*
 * Reads one character of `s`. Returns how many bytes it has, 0 when they are ill-formed: cut short
 * by `len`, overlong, a surrogate, or above U+10FFFF.
 */
size_t utf8_read(const unsigned char *s, size_t len, uint32_t *ret_code);

/* How many bytes at the beginning of `s` are well-formed characters above U+007F. */
size_t utf8_skip_wide(const unsigned char *s, size_t len);

/*
 * Copies as much of `text` as fits, in whole characters; each byte that is part of none becomes
 * '?'. For texts that may quote a stranger's bytes, or were cut anywhere, and go to readers of
 * UTF-8. `size` > 0.
 */
void utf8_copy(char *out, size_t size, const char *text);

/* U+0000..U+001F, U+007F..U+009F */
static inline bool utf8_is_control(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code <= 0x9f);
}

/* U+FDD0..U+FDEF, U+nFFFE, U+nFFFF */
static inline bool utf8_is_noncharacter(uint32_t code)
{
	return (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) == 0xfffe;
}
