// thaw floor 4 sampler: the rules of most frames in 16 bytes, and a cache of them by code address.
//
// Signal-safe and thread-safe without a lock. An entry is three words, the first of which is the exclusive or of the key and
// the other two: one that two threads wrote to at once does not fit its key and is a miss.
#ifndef THAW_SAMPLER_RULE_CACHE_HPP
#define THAW_SAMPLER_RULE_CACHE_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>
#include <thaw/sampler/cfa.hpp>
#include <thaw/sampler/registers.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::sampler {

// CFA is sp or fp plus a distance, and all saved registers lie within 2 KiB below it.
struct compact_rules {
    static constexpr unsigned saved_count = sizeof registers::saved;

    std::uint16_t cfa = 0;        // distance in words, and from_fp
    bool outermost = false;       // there is no caller
    std::uint8_t slot[13] = {};   // of registers::saved[i]: words below CFA; 0: not saved

    static constexpr std::uint16_t from_fp = 0x8000;
    static_assert(saved_count <= sizeof slot);

    // False if the rules are not of this shape.
    bool assign(frame_rules const& rules) noexcept {
        if (rules.cfa_expression != 0 || rules.cfa_offset < 0 || rules.cfa_offset >= from_fp * 8 || rules.cfa_offset % 8 != 0) return false;
        if (rules.cfa_register != registers::sp && rules.cfa_register != registers::fp) return false;
        *this = {};
        cfa = static_cast<std::uint16_t>(rules.cfa_offset / 8);
        if (rules.cfa_register == registers::fp) cfa |= from_fp;
        outermost = rules.kind[registers::return_address] == rule_kind::undefined;
        unsigned other = 0;
        for (rule_kind const kind : rules.kind) other += kind != rule_kind::same && kind != rule_kind::undefined;
        for (unsigned i = 0; i < saved_count; ++i) {
            rule_kind const kind = rules.kind[registers::saved[i]];
            std::int64_t const offset = rules.operand[registers::saved[i]];
            if (kind == rule_kind::same || kind == rule_kind::undefined) continue;
            if (kind != rule_kind::at_offset || offset >= 0 || offset < -8 * 255 || offset % 8 != 0) return false;
            slot[i] = static_cast<std::uint8_t>(-offset / 8);
            --other;
        }
        return other == 0;
    }
};
static_assert(sizeof(compact_rules) == 16);

// 32 KiB, of which a program touches what it needs. Zeroed memory is an empty cache.
class rule_cache {
public:
    // `key` is not 0.
    [[nodiscard]] bool find(std::uint64_t key, compact_rules& rules) const noexcept {
        entry const& e = m_entries[place(key)];
        std::uint64_t const words[2] = {core::load_relaxed(e.first), core::load_relaxed(e.second)};
        if ((core::load_relaxed(e.check) ^ words[0] ^ words[1]) != key) return false;
        __builtin_memcpy(&rules, words, sizeof rules);
        return true;
    }

    void insert(std::uint64_t key, compact_rules const& rules) noexcept {
        entry& e = m_entries[place(key)];
        std::uint64_t words[2];
        __builtin_memcpy(words, &rules, sizeof rules);
        core::store_relaxed(e.first, words[0]);
        core::store_relaxed(e.second, words[1]);
        core::store_relaxed(e.check, key ^ words[0] ^ words[1]);
    }

private:
    struct entry {
        std::uint64_t check, first, second, unused;
    };
    static constexpr unsigned bits = 10;
    static std::size_t place(std::uint64_t key) noexcept { return static_cast<std::size_t>(key * 0x9E3779B97F4A7C15u >> (64 - bits)); }

    entry m_entries[std::size_t{1} << bits] = {};
};

}

#endif
