// thaw floor 1 report: numbers with their units, and names, as a person reads them in a terminal or a log.
//
// Numbers have three significant digits and a point as the decimal sign, whatever the locale of the host. Names come from
// the outside (a file path, a request id, a dynamic scope name), so that they are made printable before they are shown.
// Thread-compatible; allocates strings. Templates, so that only the unit that calls them pays for instantiating what they use.
//
//   duration_text(12'100)  "12.1 us"      bytes_text(48'000)  "46.9 KiB"      share_text(2, 3)  "67 %"
#ifndef THAW_REPORT_UNITS_HPP
#define THAW_REPORT_UNITS_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace thaw::report {

// `value` rounded to `decimals` (0 to 2) places. Requires: 0 <= value < 1e15.
template <class String = std::string>
[[nodiscard]] String fixed_text(double value, unsigned decimals) {
    double const scale = decimals == 0 ? 1 : decimals == 1 ? 10 : 100;
    auto left = static_cast<std::uint64_t>(value * scale + 0.5);
    char digits[24];
    char* const end = digits + sizeof digits;
    char* at = end;
    for (unsigned place = 0; place <= decimals || left != 0; ++place, left /= 10) {
        if (place == decimals && place != 0) *--at = '.';
        *--at = static_cast<char>('0' + left % 10);
    }
    return String(at, static_cast<std::size_t>(end - at));
}

// Three significant digits: 9.99, 99.9, 999. The limits are where rounding would add a digit: 9.995 is "10.0".
template <class String = std::string>
[[nodiscard]] String significant_text(double value) {
    return fixed_text(value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

namespace detail {

struct unit {
    char const* name;
    double size;
};

// In the largest unit of which the value has at least one, after rounding: 999.6 us is "1.00 ms".
template <std::size_t N>
[[nodiscard]] std::string in_units(double value, unit const (&units)[N]) {
    if (!(value > 0)) value = 0;
    if (value < units[1].size - 0.5) return fixed_text(value, 0) + units[0].name;
    std::size_t u = 1;
    while (u + 1 < N && value >= units[u + 1].size - units[u].size / 2) ++u;
    return significant_text(value / units[u].size) + units[u].name;
}

}

// Nanoseconds. Below 0 is "0 ns".
template <class String = std::string>
[[nodiscard]] String duration_text(double ns) {
    static constexpr detail::unit units[] = {{" ns", 1},     {" us", 1e3},   {" ms", 1e6},   {" s", 1e9},
                                             {" min", 6e10}, {" h", 3.6e12}, {" d", 8.64e13}};
    return ns >= 1e9 && ns < 9.995e11 ? significant_text(ns / 1e9) + " s" : detail::in_units(ns, units); // seconds up to 999
}

template <class String = std::string>
[[nodiscard]] String bytes_text(double bytes) {
    static constexpr detail::unit units[] = {{" B", 1},        {" KiB", 0x1p10}, {" MiB", 0x1p20}, {" GiB", 0x1p30},
                                             {" TiB", 0x1p40}, {" PiB", 0x1p50}, {" EiB", 0x1p60}};
    return detail::in_units(bytes, units);
}

// With its sign, for a change: "+938 KiB", "-3 B".
template <class String = std::string>
[[nodiscard]] String signed_bytes_text(double bytes) {
    return (bytes < 0 ? "-" : "+") + bytes_text(bytes < 0 ? -bytes : bytes);
}

// Exact below a million.
template <class String = std::string>
[[nodiscard]] String count_text(std::uint64_t n) {
    static constexpr detail::unit units[] = {{"", 1}, {" M", 1e6}, {" G", 1e9}, {" T", 1e12}, {" P", 1e15}, {" E", 1e18}};
    return n < 1000000 ? fixed_text(static_cast<double>(n), 0) : detail::in_units(static_cast<double>(n), units);
}

// A count per something else, whole where it is whole: "12", "0.50".
template <class String = std::string>
[[nodiscard]] String ratio_text(double n) {
    if (n >= 999.5) return count_text(n < 1.8e19 ? static_cast<std::uint64_t>(n + 0.5) : UINT64_MAX);
    return static_cast<double>(static_cast<unsigned>(n)) < n ? significant_text(n) : fixed_text(n, 0);
}

// "98 %", "1.9 %", "0.04 %", "<0.01 %"; "-" where there is no whole.
template <class String = std::string>
[[nodiscard]] String share_text(double part, double whole) {
    if (!(whole > 0)) return "-";
    double const percent = 100 * part / whole;
    if (!(percent > 0)) return "0 %";
    if (percent < 0.005) return "<0.01 %";
    if (percent > 9999) return ">9999 %";
    return fixed_text(percent, percent < 0.995 ? 2 : percent < 9.95 ? 1 : 0) + " %";
}

namespace detail {

inline constexpr char replacement[] = "\xef\xbf\xbd"; // U+FFFD
inline constexpr char ellipsis[] = "\xe2\x80\xa6";    // U+2026

// Reads one code point of UTF-8. Returns its length in bytes; 0 where [at, end) does not begin with well-formed UTF-8:
// overlong forms, surrogates and values over U+10FFFF are not. Requires: at < end.
[[nodiscard]] inline std::size_t decode_utf8(char const* at, char const* end, char32_t& code) noexcept {
    auto const byte = [at](std::size_t i) { return static_cast<unsigned char>(at[i]); };
    std::size_t const length = byte(0) < 0x80   ? 1
                               : byte(0) < 0xc2 ? 0
                               : byte(0) < 0xe0 ? 2
                               : byte(0) < 0xf0 ? 3
                               : byte(0) < 0xf5 ? 4
                                                : 0;
    if (length == 0 || static_cast<std::size_t>(end - at) < length) return 0;
    code = length == 1 ? byte(0) : byte(0) & (0x7fu >> length);
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return 0;
        code = code << 6 | (byte(i) & 0x3fu);
    }
    bool const overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    return overlong || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff ? 0 : length;
}

struct code_range {
    char32_t first;
    char32_t last;
};

template <std::size_t N>
[[nodiscard]] bool in_ranges(char32_t code, code_range const (&ranges)[N]) noexcept {
    for (code_range const& r : ranges)
        if (code >= r.first && code <= r.last) return true;
    return false;
}

// What changes the direction or the shape of its surroundings, or cannot be seen: C1 controls, blanks other than the ASCII
// one, marks and overrides of direction, line separators, fillers, interlinear annotation, tags, noncharacters.
[[nodiscard]] inline bool is_invisible(char32_t code) noexcept {
    static constexpr code_range ranges[] = {
        {0x80, 0xa0},     {0xad, 0xad},     {0x34f, 0x34f},   {0x61c, 0x61c},   {0x115f, 0x1160}, {0x1680, 0x1680},
        {0x17b4, 0x17b5}, {0x180b, 0x180f}, {0x2000, 0x200f}, {0x2028, 0x202f}, {0x205f, 0x206f}, {0x3000, 0x3000},
        {0x3164, 0x3164}, {0xfeff, 0xfeff}, {0xffa0, 0xffa0}, {0xfff0, 0xfffb}, {0xfffe, 0xffff}, {0xe0000, 0xe0fff}};
    return code >= 0x80 && in_ranges(code, ranges);
}

// Scripts and signs that a terminal shows two columns wide, approximately.
[[nodiscard]] inline bool is_wide(char32_t code) noexcept {
    static constexpr code_range ranges[] = {{0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0xa4cf},   {0xac00, 0xd7a3},
                                            {0xf900, 0xfaff},   {0xfe30, 0xfe6f},   {0xff00, 0xff60},   {0xffe0, 0xffe6},
                                            {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}};
    return code >= 0x1100 && in_ranges(code, ranges);
}

}

// The name with everything replaced that could break a line, move the cursor or deceive the eye: ASCII control characters,
// and blanks at either end, become \xNN; malformed UTF-8 (each byte) and invisible characters become U+FFFD. Post:
// well-formed UTF-8, one line.
template <class String = std::string>
[[nodiscard]] String printable(std::string const& name) {
    static constexpr char hex[] = "0123456789abcdef";
    String r;
    char const* const end = name.data() + name.size();
    for (char const* at = name.data(); at < end;) {
        char32_t code = 0;
        std::size_t const length = detail::decode_utf8(at, end, code);
        if (length == 0 || detail::is_invisible(code)) {
            r += detail::replacement;
        } else if (code < 0x20 || code == 0x7f || (code == ' ' && (at == name.data() || at + 1 == end))) {
            r.append("\\x").append(1, hex[code >> 4]).append(1, hex[code & 15]);
        } else {
            r.append(at, length);
        }
        at += length == 0 ? 1 : length;
    }
    return r;
}

// The terminal columns that a printable text takes: one a code point, two where it is wide. Marks that combine count as one,
// so that the true width is never larger.
[[nodiscard]] inline std::size_t columns_of(std::string const& text) noexcept {
    std::size_t columns = 0;
    char const* const end = text.data() + text.size();
    for (char const* at = text.data(); at < end;) {
        char32_t code = 0;
        std::size_t const length = detail::decode_utf8(at, end, code);
        columns += detail::is_wide(code) ? 2u : 1u;
        at += length == 0 ? 1 : length;
    }
    return columns;
}

// The text if it fits into `columns`, else its beginning and its end with an ellipsis between them.
// Post: columns_of(result) <= columns, where columns > 0.
template <class String = std::string>
[[nodiscard]] String shortened(std::string const& text, std::size_t columns) {
    std::size_t const all = columns_of(text);
    if (all <= columns) return text;
    std::size_t const head = columns / 2;
    std::size_t const tail = columns - head - (columns > head ? 1 : 0);
    String r;
    String rest;
    std::size_t passed = 0;
    char const* const end = text.data() + text.size();
    for (char const* at = text.data(); at < end;) {
        char32_t code = 0;
        std::size_t length = detail::decode_utf8(at, end, code);
        if (length == 0) length = 1;
        std::size_t const wide = detail::is_wide(code) ? 2 : 1;
        if (passed + wide <= head) r.append(at, length);
        if (passed >= all - tail) rest.append(at, length);
        passed += wide;
        at += length;
    }
    return r + detail::ellipsis + rest;
}

}

#endif
