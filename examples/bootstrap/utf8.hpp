// bootstrap: UTF-8 in both directions. Pure functions.
#ifndef BOOTSTRAP_UTF8_HPP
#define BOOTSTRAP_UTF8_HPP

#include <cstddef>
#include <string>
#include <string_view>

namespace bootstrap {

inline constexpr char32_t no_code_point = 0xFFFFFFFF;

// Requires at < s.size(). Returns the code point at `at` and moves `at` behind it. Where the bytes are no UTF-8 (overlong,
// cut off, a surrogate, above U+10FFFF) returns no_code_point and moves `at` by one byte.
[[nodiscard]] inline char32_t next_code_point(std::string_view s, std::size_t& at) noexcept {
    auto const byte = [s](std::size_t i) noexcept { return static_cast<char32_t>(static_cast<unsigned char>(s[i])); };
    std::size_t const first = at++;
    char32_t const lead = byte(first);
    if (lead < 0x80) return lead;
    std::size_t const length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead < 0xC2 || lead > 0xF4 || s.size() - first < length) return no_code_point;
    char32_t c = lead & (0x7Fu >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(first + i) & 0xC0) != 0x80) return no_code_point;
        c = c << 6 | (byte(first + i) & 0x3F);
    }
    char32_t const smallest = length == 2 ? 0x80 : length == 3 ? 0x800 : 0x10000;
    if (c < smallest || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return no_code_point;
    at = first + length;
    return c;
}

// Requires that c is a code point and no surrogate.
inline void append_utf8(std::string& out, char32_t c) {
    auto const put = [&out](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (c < 0x80) return put(c);
    if (c < 0x800) {
        put(0xC0 | c >> 6);
    } else if (c < 0x10000) {
        put(0xE0 | c >> 12);
        put(0x80 | (c >> 6 & 0x3F));
    } else {
        put(0xF0 | c >> 18);
        put(0x80 | (c >> 12 & 0x3F));
        put(0x80 | (c >> 6 & 0x3F));
    }
    put(0x80 | (c & 0x3F));
}

}

#endif
