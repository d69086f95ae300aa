// thaw floor 1 report: writes a protobuf message: fields, packed lists, nested messages. It knows the wire format and no schema.
//
// Thread-compatible; allocates; throws nothing but std::bad_alloc. A message grows in place: nothing is measured or written twice.
//
//   protobuf_writer w;
//   auto const sample = w.begin(2);
//   w.number(1, 42);
//   w.end(sample);
//   std::string const message = w.take();
#ifndef THAW_REPORT_PROTOBUF_HPP
#define THAW_REPORT_PROTOBUF_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace thaw::report {

class protobuf_writer {
public:
    // Where a nested message or a packed list begins.
    enum class mark : std::size_t {};

    protobuf_writer() noexcept = default;
    protobuf_writer(protobuf_writer const&) = delete;
    protobuf_writer& operator=(protobuf_writer const&) = delete;

    // Makes room for `bytes` more at once. Without it the room doubles as needed.
    void reserve(std::size_t bytes) {
        if (static_cast<std::size_t>(m_last - m_at) < bytes) grow(bytes);
    }

    // A field of a varint type (uint64, int64, bool, enum). 0 is what a missing field means, and is not written.
    void number(unsigned field, std::uint64_t value) {
        if (value == 0) return;
        reserve(2 * max_varint);
        m_at = put(put(m_at, std::uint64_t{field} << 3), value);
    }

    // A field of the types string and bytes. Requires: what becomes a string is valid UTF-8.
    void bytes(unsigned field, char const* data, std::size_t size) {
        reserve(2 * max_varint + size);
        m_at = put(put(m_at, std::uint64_t{field} << 3 | length_delimited), size);
        copy(data, size);
    }

    // Between begin and end stand the fields of a nested message, or the values of a packed list; they may be nested.
    [[nodiscard]] mark begin(unsigned field) {
        reserve(max_varint + 1);
        m_at = put(m_at, std::uint64_t{field} << 3 | length_delimited) + 1; // a length of one byte, as most have
        return mark{size()};
    }

    // Requires: everything begun after `m` has ended.
    void end(mark m) {
        char* const content = m_first + static_cast<std::size_t>(m);
        auto const size = static_cast<std::size_t>(m_at - content);
        if (size < 0x80) content[-1] = static_cast<char>(size);
        else end_long(static_cast<std::size_t>(m), size);
    }

    // Several values of a packed list: f(i) for each i in [0, count).
    template <class F>
    void values(std::size_t count, F f) {
        reserve(count * max_varint);
        char* at = m_at; // a character may alias m_at
        for (std::size_t i = 0; i < count; ++i) at = put(at, f(i));
        m_at = at;
    }

    // Fields that were written elsewhere. Requires: they are not those of this writer.
    void append(char const* fields, std::size_t size) {
        reserve(size);
        copy(fields, size);
    }

    // What was written, valid until more is.
    [[nodiscard]] char const* data() const noexcept { return m_first; }
    [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(m_at - m_first); }

    // Post: the writer is empty.
    [[nodiscard]] std::string take() {
        m_bytes.resize(size());
        m_first = m_at = m_last = nullptr;
        std::string r;
        r.swap(m_bytes);
        return r;
    }

private:
    static constexpr std::size_t max_varint = 10;
    static constexpr std::uint64_t length_delimited = 2;

    THAW_DETAIL_NOINLINE void grow(std::size_t bytes) {
        std::size_t const before = size();
        m_bytes.resize(before + (bytes < before ? before : bytes) + 64);
        m_first = &m_bytes[0];
        m_at = m_first + before;
        m_last = m_first + m_bytes.size();
    }

    void copy(char const* data, std::size_t size) noexcept {
        if (size != 0) __builtin_memcpy(m_at, data, size);
        m_at += size;
    }

    // Requires room for max_varint bytes. Returns where they end.
    [[nodiscard]] static char* put(char* at, std::uint64_t v) noexcept {
        if (v < 0x4000) { // one or two bytes, without a branch that cannot be foreseen
            unsigned const two = v >= 0x80;
            at[0] = static_cast<char>(v | std::uint64_t{two} << 7);
            at[1] = static_cast<char>(v >> 7);
            return at + 1 + two;
        }
        for (; v >= 0x80; v >>= 7) *at++ = static_cast<char>(v | 0x80);
        *at++ = static_cast<char>(v);
        return at;
    }

    THAW_DETAIL_NOINLINE void end_long(std::size_t content, std::size_t size) {
        std::size_t more = 0;
        for (std::size_t rest = size >> 7; rest != 0; rest >>= 7) ++more;
        reserve(max_varint);
        __builtin_memmove(m_first + content + more, m_first + content, size);
        m_at = put(m_first + content - 1, size) + size;
    }

    std::string m_bytes;      // all of it is room; what is written is [m_first, m_at)
    char* m_first = nullptr;
    char* m_at = nullptr;
    char* m_last = nullptr;
};

}

#endif
