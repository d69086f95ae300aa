// thaw floor 1 sampler: reads the encodings of .eh_frame and .eh_frame_hdr, and never beyond the bytes it was given.
// Signal-safe; allocates nothing.
#ifndef THAW_SAMPLER_TABLE_CURSOR_HPP
#define THAW_SAMPLER_TABLE_CURSOR_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::sampler {

// Bytes that are spoken of by the addresses [begin, end) at which their module has them, since they refer to one another and
// to code by distance, and that are read at these addresses plus `displacement`: a copy of them elsewhere, or 0.
struct table_bytes {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    std::uintptr_t displacement = 0;
};

class table_cursor {
public:
    table_cursor() noexcept = default;
    table_cursor(table_bytes const& bytes, std::uintptr_t at) noexcept
        : m_at{at}, m_end{bytes.end}, m_displacement{bytes.displacement}, m_good{at >= bytes.begin && at <= bytes.end} {
        if (!m_good) m_at = m_end;
    }

    // False once something was not there, or was encoded in a way that is not known; what is read from then on is 0.
    [[nodiscard]] bool good() const noexcept { return m_good; }
    [[nodiscard]] bool at_end() const noexcept { return m_at == m_end; }
    [[nodiscard]] std::uintptr_t at() const noexcept { return m_at; }

    void fail() noexcept {
        m_good = false;
        m_at = m_end;
    }

    void skip(std::uintptr_t bytes) noexcept {
        if (bytes > m_end - m_at) return fail();
        m_at += bytes;
    }

    // The next `bytes` bytes as a cursor of their own, which this one skips.
    [[nodiscard]] table_cursor take(std::uintptr_t bytes) noexcept {
        table_cursor part = *this;
        skip(bytes);
        if (m_good) part.m_end = m_at;
        else part.fail();
        return part;
    }

    template <class T>
    T read() noexcept {
        T value{};
        if (sizeof(T) > m_end - m_at) {
            fail();
            return value;
        }
        __builtin_memcpy(&value, reinterpret_cast<void const*>(m_at + m_displacement), sizeof(T));
        m_at += sizeof(T);
        return value;
    }

    std::uint64_t uleb() noexcept {
        unsigned shift = 0;
        return leb(shift);
    }

    std::int64_t sleb() noexcept {
        unsigned shift = 0;
        std::uint64_t const value = leb(shift);
        bool const negative = shift < 64 && (value >> (shift - 1) & 1) != 0;
        return static_cast<std::int64_t>(negative ? value | ~std::uint64_t{0} << shift : value);
    }

    // A pointer in one of the encodings DW_EH_PE_*. Indirect ones are skipped and mean nothing; only personalities are.
    std::uintptr_t pointer(unsigned encoding, std::uintptr_t data_base = 0) noexcept {
        std::uintptr_t const here = m_at;
        std::uintptr_t value = 0;
        switch (encoding & 0x0F) {
        case 0x00:
        case 0x04:
        case 0x0C: value = read<std::uint64_t>(); break;
        case 0x01: value = uleb(); break;
        case 0x02: value = read<std::uint16_t>(); break;
        case 0x03: value = read<std::uint32_t>(); break;
        case 0x09: value = static_cast<std::uintptr_t>(sleb()); break;
        case 0x0A: value = static_cast<std::uintptr_t>(std::intptr_t{read<std::int16_t>()}); break;
        case 0x0B: value = static_cast<std::uintptr_t>(std::intptr_t{read<std::int32_t>()}); break;
        default: fail();
        }
        switch (encoding & 0x70) {
        case 0x00: break;
        case 0x10: value += here; break;
        case 0x30: value += data_base; break;
        default: fail();
        }
        return m_good ? value : 0;
    }

private:
    std::uint64_t leb(unsigned& shift) noexcept {
        std::uint64_t value = 0;
        for (;;) {
            auto const byte = read<std::uint8_t>();
            if (shift < 64) value |= std::uint64_t{byte & 0x7Fu} << shift;
            shift += 7;
            if ((byte & 0x80) == 0) return value;
        }
    }

    std::uintptr_t m_at = 0;
    std::uintptr_t m_end = 0;
    std::uintptr_t m_displacement = 0;
    bool m_good = false;
};

}

#endif
