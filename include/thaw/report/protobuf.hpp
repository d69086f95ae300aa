// thaw floor 1 report: writes a protobuf message: fields, packed lists, nested messages. It knows the wire format and no schema.
//
// Thread-compatible; allocates; throws nothing but std::bad_alloc. A message grows in place: nothing is measured or written twice.
//
//   protobuf_writer w;
//   auto const sample = w.begin(2);
//   w.number(1, 42);
//   w.end(sample);
//   std::string const bytes = w.take();
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

    // Makes room for `bytes` more at once. Without it the room doubles as needed.
    void reserve(std::size_t bytes) {
        if (m_bytes.size() - m_size < bytes) m_bytes.resize(m_size + bytes);
    }

    // A field of a varint type (uint64, int64, bool, enum). 0 is what a missing field means, and is not written.
    void number(unsigned field, std::uint64_t value) {
        if (value == 0) return;
        ensure(2 * max_varint);
        put(std::uint64_t{field} << 3);
        put(value);
    }

    // A field of the types string and bytes. Requires: what becomes a string is valid UTF-8.
    void bytes(unsigned field, char const* data, std::size_t size) {
        ensure(2 * max_varint + size);
        put(std::uint64_t{field} << 3 | length_delimited);
        put(size);
        if (size != 0) __builtin_memcpy(&m_bytes[m_size], data, size);
        m_size += size;
    }

    // Between begin and end stand the fields of a nested message, or the values of a packed list; they may be nested.
    [[nodiscard]] mark begin(unsigned field) {
        ensure(max_varint + 1);
        put(std::uint64_t{field} << 3 | length_delimited);
        return mark{++m_size}; // one byte is kept for the length, which is enough for most
    }

    // Requires: everything begun after `m` has ended.
    void end(mark m) {
        auto const content = static_cast<std::size_t>(m);
        std::size_t const size = m_size - content;
        if (size >= 0x80) make_room(content, size);
        m_size = content - 1;
        put(size);
        m_size += size;
    }

    // One value of a packed list.
    void value(std::uint64_t v) {
        ensure(max_varint);
        put(v);
    }

    // Several values of a packed list: f(i) for each i in [0, count).
    template <class F>
    void values(std::size_t count, F f) {
        ensure(count * max_varint);
        for (std::size_t i = 0; i < count; ++i) put(f(i));
    }

    // Fields that were written elsewhere.
    void append(protobuf_writer const& fields) {
        ensure(fields.m_size);
        if (fields.m_size != 0) __builtin_memcpy(&m_bytes[m_size], fields.m_bytes.data(), fields.m_size);
        m_size += fields.m_size;
    }

    [[nodiscard]] std::size_t size() const noexcept { return m_size; }
    [[nodiscard]] char const* data() const noexcept { return m_bytes.data(); }

    // Post: the writer is empty.
    [[nodiscard]] std::string take() {
        m_bytes.resize(m_size);
        m_size = 0;
        std::string r;
        r.swap(m_bytes);
        return r;
    }

private:
    static constexpr std::size_t max_varint = 10;
    static constexpr std::uint64_t length_delimited = 2;

    void ensure(std::size_t bytes) {
        if (m_bytes.size() - m_size < bytes) m_bytes.resize(m_bytes.size() + (bytes < m_bytes.size() ? m_bytes.size() : bytes + 256));
    }

    // Requires room for max_varint bytes.
    void put(std::uint64_t v) noexcept {
        char* at = &m_bytes[m_size];
        char* const first = at;
        while (v >= 0x80) {
            *at++ = static_cast<char>(v | 0x80);
            v >>= 7;
        }
        *at++ = static_cast<char>(v);
        m_size += static_cast<std::size_t>(at - first);
    }

    void make_room(std::size_t content, std::size_t size) {
        std::size_t more = 0;
        for (std::size_t rest = size >> 7; rest != 0; rest >>= 7) ++more;
        ensure(more);
        __builtin_memmove(&m_bytes[content + more], &m_bytes[content], size);
    }

    std::string m_bytes; // of which the first m_size are written
    std::size_t m_size = 0;
};

}

#endif
