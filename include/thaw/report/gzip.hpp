// thaw floor 1 report: the gzip container (RFC 1952) around bytes that are stored, not compressed: it costs a checksum and a copy.
//
// Thread-safe; allocates; throws nothing but std::bad_alloc.
#ifndef THAW_REPORT_GZIP_HPP
#define THAW_REPORT_GZIP_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

namespace thaw::report {

namespace detail {

// entry[k][b]: the checksum of the byte b followed by k zero bytes, so that 16 bytes are looked up independently of each other.
struct crc32_tables {
    std::uint32_t entry[16][256] = {};

    constexpr crc32_tables() noexcept {
        for (std::uint32_t byte = 0; byte < 256; ++byte) {
            std::uint32_t crc = byte;
            for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
            entry[0][byte] = crc;
        }
        for (int k = 1; k < 16; ++k)
            for (std::uint32_t byte = 0; byte < 256; ++byte)
                entry[k][byte] = entry[k - 1][byte] >> 8 ^ entry[0][entry[k - 1][byte] & 0xff];
    }
};

inline constexpr crc32_tables crc32_table;

}

// The CRC-32 of gzip, zip and Ethernet. Worked value: of "123456789" it is 0xcbf43926.
[[nodiscard]] inline std::uint32_t crc32(char const* data, std::size_t size) noexcept {
    auto const& entry = detail::crc32_table.entry;
    std::uint32_t crc = 0xffffffffu;
    for (; size >= 16; data += 16, size -= 16) {
        std::uint32_t words[4];
        __builtin_memcpy(words, data, sizeof words);
        words[0] ^= crc;
        crc = 0;
        for (unsigned w = 0; w < 4; ++w)
            crc ^= entry[15 - 4 * w][words[w] & 0xff] ^ entry[14 - 4 * w][words[w] >> 8 & 0xff] ^
                   entry[13 - 4 * w][words[w] >> 16 & 0xff] ^ entry[12 - 4 * w][words[w] >> 24];
    }
    for (; size != 0; ++data, --size) crc = crc >> 8 ^ entry[0][(crc ^ static_cast<unsigned char>(*data)) & 0xff];
    return ~crc;
}

// The bytes as a file that every reader of gzip takes; 18 bytes longer, and 5 for each 64 KiB.
[[nodiscard]] inline std::string gzip_stored(std::string const& bytes) {
    constexpr std::size_t block = 0xffff;
    std::string r;
    r.reserve(bytes.size() + 18 + 5 * (bytes.size() / block + 1));
    auto const little_endian = [&r](std::uint64_t value, int size) {
        for (int i = 0; i < size; ++i) r.push_back(static_cast<char>(value >> 8 * i));
    };
    r.append("\x1f\x8b\x08\0\0\0\0\0\0\xff", 10); // deflate; no name, no time; of an unknown system
    std::size_t at = 0;
    do {
        std::size_t const rest = bytes.size() - at;
        std::size_t const size = rest < block ? rest : block;
        little_endian(size == rest ? 1 : 0, 1); // a stored block, the last or not
        little_endian(size, 2);
        little_endian(~size, 2);
        r.append(bytes, at, size);
        at += size;
    } while (at != bytes.size());
    little_endian(crc32(bytes.data(), bytes.size()), 4);
    little_endian(bytes.size(), 4);
    return r;
}

}

#endif
