// thaw floor 3 profile: finds nodes, sites and the like by numbers. Thread-compatible; allocates; throws std::bad_alloc only.
#ifndef THAW_PROFILE_KEY_INDEX_HPP
#define THAW_PROFILE_KEY_INDEX_HPP

#include <thaw/core/config.hpp>
#include <thaw/profile/profile.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace thaw::detail {

// A hash table from 64-bit keys to indices: open addressing, at most half full, no removal. A template, so that a unit that looks
// nothing up does not pay for instantiating it.
template <class Index = std::uint32_t>
class basic_key_index {
public:
    explicit basic_key_index(std::size_t expected = 0) {
        std::size_t size = 16;
        while (size < 2 * expected) size *= 2;
        m_slots.resize(size);
    }

    // The value of a key; no_index where the key is new, for the caller to overwrite before the next call.
    [[nodiscard]] Index& operator[](std::uint64_t key) {
        if (2 * m_used >= m_slots.size()) grow();
        slot& s = find(key);
        if (s.value == no_index) {
            s.key = key;
            ++m_used;
        }
        return s.value;
    }

    [[nodiscard]] Index& operator()(std::uint32_t high, std::uint32_t low) {
        return (*this)[static_cast<std::uint64_t>(high) << 32 | low];
    }

private:
    struct slot {
        std::uint64_t key = 0;
        Index value = no_index; // no_index: the slot is free
    };

    slot& find(std::uint64_t key) noexcept {
        std::uint64_t hash = key * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
        std::size_t const mask = m_slots.size() - 1;
        std::size_t at = static_cast<std::size_t>(hash) & mask;
        while (m_slots[at].value != no_index && m_slots[at].key != key) at = (at + 1) & mask;
        return m_slots[at];
    }

    void grow() {
        std::vector<slot> old(m_slots.size() * 2);
        old.swap(m_slots);
        for (slot const& s : old)
            if (s.value != no_index) find(s.key) = s;
    }

    std::vector<slot> m_slots;
    std::size_t m_used = 0;
};

using key_index = basic_key_index<>;

}

#endif
