// thaw floor 1 report: the gzip container (RFC 1952) around bytes that are stored, not compressed: it costs a checksum and a copy.
//
// Thread-safe; allocates; throws nothing but std::bad_alloc.
#ifndef THAW_REPORT_GZIP_HPP
#define THAW_REPORT_GZIP_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

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

// The three below continue a checksum, without the inversion at its beginning and end.
[[nodiscard]] inline std::uint32_t crc32_by_table(std::uint32_t crc, char const* data, std::size_t size) noexcept {
    auto const& entry = crc32_table.entry;
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
    return crc;
}

#if defined(__x86_64__)
// Polynomials over GF(2) are folded: 16 bytes that stand n bits before others are congruent to their product with x^n mod P,
// which is added to those. A lane's halves have factors of their own: x^(n + 32) and x^(n - 32), bit-reflected. What is left
// of all but the tail are 16 bytes of the same checksum, which the table takes. Requires: the CPU has pclmulqdq.
[[nodiscard]] [[gnu::target("pclmul")]] inline std::uint32_t crc32_by_folding(std::uint32_t crc, char const* data,
                                                                             std::size_t size) noexcept {
    using lane = long long __attribute__((vector_size(16)));
    if (size < 64) return crc32_by_table(crc, data, size);
    constexpr lane over_512 = {0x154442bd4, 0x1c6e41596};
    constexpr lane over_128 = {0x1751997d0, 0x0ccaa009e};
    auto const load = [](char const* at) {
        lane r;
        __builtin_memcpy(&r, at, 16);
        return r;
    };
    lane lanes[4] = {load(data), load(data + 16), load(data + 32), load(data + 48)};
    lanes[0] ^= lane{static_cast<long long>(crc), 0};
    for (data += 64, size -= 64; size >= 64; data += 64, size -= 64)
        for (int i = 0; i < 4; ++i)
            lanes[i] = __builtin_ia32_pclmulqdq128(lanes[i], over_512, 0x00) ^
                       __builtin_ia32_pclmulqdq128(lanes[i], over_512, 0x11) ^ load(data + 16 * i);
    lane one = lanes[0];
    for (int i = 1; i < 4; ++i)
        one = __builtin_ia32_pclmulqdq128(one, over_128, 0x00) ^ __builtin_ia32_pclmulqdq128(one, over_128, 0x11) ^ lanes[i];
    char folded[16];
    __builtin_memcpy(folded, &one, 16);
    return crc32_by_table(crc32_by_table(0, folded, 16), data, size);
}
#else
// Requires: the CPU has the crc32 instructions.
[[nodiscard]] inline std::uint32_t crc32_by_instruction(std::uint32_t crc, char const* data, std::size_t size) noexcept {
    for (; size >= 8; data += 8, size -= 8) {
        std::uint64_t word = 0;
        __builtin_memcpy(&word, data, 8);
        __asm__(".arch_extension crc\n\tcrc32x %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    }
    return crc32_by_table(crc, data, size);
}
#endif

}

// The CRC-32 of gzip, zip and Ethernet. Worked value: of "123456789" it is 0xcbf43926.
[[nodiscard]] inline std::uint32_t crc32(char const* data, std::size_t size) noexcept {
    constexpr std::uint32_t inverted = 0xffffffffu;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("pclmul")) return ~detail::crc32_by_folding(inverted, data, size);
#else
    constexpr unsigned long has_crc32 = 1ul << 7;
    if ((::getauxval(AT_HWCAP) & has_crc32) != 0) return ~detail::crc32_by_instruction(inverted, data, size);
#endif
    return ~detail::crc32_by_table(inverted, data, size);
}

// Makes the bytes a file that every reader of gzip takes, in place; 18 bytes longer, and 5 for each begun 64 KiB.
inline void wrap_in_gzip(std::string& bytes) {
    constexpr std::size_t block = 0xffff, head = 10, block_head = 5;
    std::size_t const size = bytes.size();
    std::size_t const blocks = size == 0 ? 1 : (size + block - 1) / block;
    std::uint32_t const sum = crc32(bytes.data(), size);
    bytes.resize(head + blocks * block_head + size + 8);
    char* const first = &bytes[0];
    auto const little_endian = [](char* at, std::uint64_t value, int count) {
        for (int i = 0; i < count; ++i) at[i] = static_cast<char>(value >> 8 * i);
    };
    for (std::size_t b = blocks; b-- > 0;) { // from the last on: each moves to where the ones behind it were
        std::size_t const part = b + 1 == blocks ? size - b * block : block;
        char* const at = first + head + b * (block + block_head);
        __builtin_memmove(at + block_head, first + b * block, part);
        at[0] = b + 1 == blocks ? 1 : 0; // a stored block, the last or not
        little_endian(at + 1, part, 2);
        little_endian(at + 3, ~part, 2);
    }
    __builtin_memcpy(first, "\x1f\x8b\x08\0\0\0\0\0\0\xff", head); // deflate; no name, no time; of an unknown system
    little_endian(first + bytes.size() - 8, sum, 4);
    little_endian(first + bytes.size() - 4, size, 4);
}

}

#endif
