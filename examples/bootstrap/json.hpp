// bootstrap: JSON (RFC 8259) into a value, and strings back into JSON. Thread-compatible.
//
// The parser is strict: UTF-8 only, no lone surrogates, no trailing text, at most `max_depth` levels. An error names the
// byte offset. Of equal keys in an object the last one counts.
#ifndef BOOTSTRAP_JSON_HPP
#define BOOTSTRAP_JSON_HPP

#include "utf8.hpp"

#include <charconv>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace bootstrap::json {

struct error : std::runtime_error {
    error(std::size_t offset, char const* what) : std::runtime_error("offset " + std::to_string(offset) + ": " + what) {}
};

struct value;
using array = std::vector<value>;
struct object {
    std::vector<std::string> keys;
    array values; // one for each key
};

struct value {
    std::variant<std::nullptr_t, bool, double, std::string, array, object> data = nullptr;

    [[nodiscard]] std::string const* string() const noexcept { return std::get_if<std::string>(&data); }
    [[nodiscard]] bool is_true() const noexcept {
        bool const* const b = std::get_if<bool>(&data);
        return b && *b;
    }
    // The member of that name; null if there is none, or no object.
    [[nodiscard]] value const* find(std::string_view key) const noexcept {
        object const* const o = std::get_if<object>(&data);
        for (std::size_t i = o ? o->keys.size() : 0; i > 0; --i)
            if (o->keys[i - 1] == key) return &o->values[i - 1];
        return nullptr;
    }
};

class parser {
public:
    static constexpr int max_depth = 64;

    explicit parser(std::string_view text) : m_text(text) {}

    value parse() {
        value v = parse_value(1);
        skip_space();
        if (m_at != m_text.size()) fail("text after the value");
        return v;
    }

private:
    [[noreturn]] void fail(char const* what) const { throw error(m_at, what); }
    [[nodiscard]] char peek() const noexcept { return m_at < m_text.size() ? m_text[m_at] : '\0'; }
    [[nodiscard]] bool take(char c) noexcept { return peek() == c ? (++m_at, true) : false; }
    void skip_space() noexcept {
        while (m_at < m_text.size() && std::string_view(" \t\r\n").find(m_text[m_at]) != std::string_view::npos) ++m_at;
    }

    value parse_value(int depth) {
        if (depth > max_depth) fail("nested too deeply");
        skip_space();
        switch (peek()) {
        case '{':
            return {parse_object(depth)};
        case '[':
            return {parse_array(depth)};
        case '"':
            return {parse_string()};
        case 't':
            return literal("true", {true});
        case 'f':
            return literal("false", {false});
        case 'n':
            return literal("null", {nullptr});
        default:
            return {parse_number()};
        }
    }

    value literal(std::string_view word, value v) {
        if (m_text.substr(m_at, word.size()) != word) fail("unknown literal");
        m_at += word.size();
        return v;
    }

    object parse_object(int depth) {
        object members;
        ++m_at;
        skip_space();
        if (take('}')) return members;
        for (;;) {
            skip_space();
            if (peek() != '"') fail("expected a key");
            members.keys.push_back(parse_string());
            skip_space();
            if (!take(':')) fail("expected ':'");
            members.values.push_back(parse_value(depth + 1));
            skip_space();
            if (take('}')) return members;
            if (!take(',')) fail("expected ',' or '}'");
        }
    }

    array parse_array(int depth) {
        array items;
        ++m_at;
        skip_space();
        if (take(']')) return items;
        for (;;) {
            items.push_back(parse_value(depth + 1));
            skip_space();
            if (take(']')) return items;
            if (!take(',')) fail("expected ',' or ']'");
        }
    }

    double parse_number() {
        std::size_t const first = m_at;
        auto const digits = [this] {
            std::size_t const start = m_at;
            while (peek() >= '0' && peek() <= '9') ++m_at;
            return m_at - start;
        };
        bool const negative = take('-');
        if (!take('0') && digits() == 0) fail(negative ? "expected a digit" : "expected a value");
        if (take('.') && digits() == 0) fail("expected a digit");
        if (take('e') || take('E')) {
            if (!take('+')) static_cast<void>(take('-'));
            if (digits() == 0) fail("expected a digit");
        }
        double number = 0;
        auto const r = std::from_chars(m_text.data() + first, m_text.data() + m_at, number);
        if (r.ec != std::errc{}) fail("number out of range");
        return number;
    }

    std::string parse_string() {
        std::string out;
        ++m_at;
        for (;;) {
            if (m_at >= m_text.size()) fail("string without an end");
            char const c = m_text[m_at];
            if (c == '"') return ++m_at, out;
            if (static_cast<unsigned char>(c) < 0x20) fail("control character in a string");
            if (c == '\\') {
                append_utf8(out, parse_escape());
            } else {
                std::size_t const first = m_at;
                if (next_code_point(m_text, m_at) == no_code_point) throw error(first, "not UTF-8");
                out.append(m_text.substr(first, m_at - first));
            }
        }
    }

    char32_t parse_escape() {
        ++m_at;
        static constexpr std::string_view names = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
        if (m_at >= m_text.size()) fail("string without an end");
        if (std::size_t const i = names.find(m_text[m_at]); i != std::string_view::npos)
            return ++m_at, static_cast<char32_t>(meanings[i]);
        if (!take('u')) fail("unknown escape");
        char32_t const unit = parse_hex();
        if (unit < 0xD800 || unit > 0xDFFF) return unit;
        if (unit > 0xDBFF || !take('\\') || !take('u')) fail("lone surrogate");
        char32_t const low = parse_hex();
        if (low < 0xDC00 || low > 0xDFFF) fail("lone surrogate");
        return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
    }

    char32_t parse_hex() {
        unsigned unit = 0;
        char const* const first = m_text.data() + m_at;
        if (m_text.size() - m_at < 4 || std::from_chars(first, first + 4, unit, 16).ptr != first + 4)
            fail("expected 4 hex digits");
        m_at += 4;
        return unit;
    }

    std::string_view m_text;
    std::size_t m_at = 0;
};

[[nodiscard]] inline value parse(std::string_view text) { return parser(text).parse(); }

// Appends `s`, which is UTF-8, as a JSON string.
inline void append_quoted(std::string& out, std::string_view s) {
    static constexpr char hex[] = "0123456789abcdef";
    out += '"';
    for (char const c : s) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (c == '\n') {
            out += "\\n";
        } else if (static_cast<unsigned char>(c) < 0x20) {
            out += "\\u00";
            out += hex[static_cast<unsigned char>(c) >> 4];
            out += hex[c & 15];
        } else {
            out += c;
        }
    }
    out += '"';
}

}

#endif
