// thaw floor 2 sampler: a record of .eh_frame (an FDE, and the CIE it refers to), which says for a range of code how its frames
// are unwound. Signal-safe; allocates nothing.
#ifndef THAW_SAMPLER_FRAME_DESCRIPTION_HPP
#define THAW_SAMPLER_FRAME_DESCRIPTION_HPP

#include <thaw/core/config.hpp>
#include <thaw/sampler/table_cursor.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::sampler {

struct frame_description {
    std::uintptr_t begin = 0;  // [begin, end): the code
    std::uintptr_t end = 0;
    table_cursor program;      // its call frame instructions, to be executed after those of the common part

    std::uintptr_t common = 0;  // the CIE it was read from, 0: none yet
    table_cursor common_program;
    std::uint64_t code_align = 0;
    std::int64_t data_align = 0;
    std::uint64_t return_address = 0;  // the column of the caller's pc
    unsigned encoding = 0;             // of code addresses
    bool has_augmentation = false;
    bool signal_frame = false;         // its pc is the interrupted instruction and no return address
};

// Reads the CIE at `address`. Of the augmentations, z R P L S B and G are known.
inline bool read_common(table_bytes const& tables, std::uintptr_t address, frame_description& d) noexcept {
    d = frame_description{};
    table_cursor c{tables, address};
    c = c.take(c.read<std::uint32_t>());
    if (c.read<std::uint32_t>() != 0) return false;
    auto const version = c.read<std::uint8_t>();
    if (version != 1 && version != 3) return false;
    char augmentation[8] = {};
    for (unsigned i = 0;; ++i) {
        auto const letter = c.read<char>();
        if (letter == 0) break;
        if (i == sizeof augmentation - 1) return false;
        augmentation[i] = letter;
    }
    d.code_align = c.uleb();
    d.data_align = c.sleb();
    d.return_address = version == 1 ? c.read<std::uint8_t>() : c.uleb();
    if (augmentation[0] == 'z') {
        d.has_augmentation = true;
        table_cursor data = c.take(c.uleb());
        for (char const* letter = augmentation + 1; *letter != 0; ++letter) switch (*letter) {
            case 'R': d.encoding = data.read<std::uint8_t>(); break;
            case 'P': data.pointer(data.read<std::uint8_t>()); break;
            case 'L': data.skip(1); break;
            case 'S': d.signal_frame = true; break;
            case 'B':  // signed with the second key, or memory tags: to an unwinder that strips both, nothing
            case 'G': break;
            default: return false;
            }
        if (!data.good()) return false;
    } else if (augmentation[0] != 0) {
        return false;
    }
    d.common_program = c;
    d.common = address;
    return c.good();
}

// Reads the FDE at `address`. What `d` already holds of its CIE is not read again.
inline bool read_description(table_bytes const& tables, std::uintptr_t address, frame_description& d) noexcept {
    table_cursor c{tables, address};
    auto const length = c.read<std::uint32_t>();
    if (length == 0xFFFFFFFF) return false;  // the 64-bit format
    c = c.take(length);
    std::uintptr_t const back_from = c.at();
    auto const back = c.read<std::uint32_t>();
    if (!c.good() || back == 0) return false;
    if (d.common != back_from - back && !read_common(tables, back_from - back, d)) {
        d.common = 0;
        return false;
    }
    d.begin = c.pointer(d.encoding);
    d.end = d.begin + c.pointer(d.encoding & 0x0F);
    if (d.has_augmentation) c.skip(c.uleb());
    d.program = c;
    return c.good();
}

// Calls f(address) for every FDE in `tables`.
template <class F>
void for_each_description(table_bytes const& tables, F f) noexcept {
    table_cursor records{tables, tables.begin};
    while (!records.at_end()) {
        std::uintptr_t const address = records.at();
        auto const length = records.read<std::uint32_t>();
        if (length == 0 || length == 0xFFFFFFFF) return;  // the end of the table
        table_cursor record = records.take(length);
        if (record.read<std::uint32_t>() != 0) f(address);
    }
}

}

#endif
