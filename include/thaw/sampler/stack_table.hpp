// thaw floor 4 sampler: the distinct (node, native stack) pairs of a process and how often each was sampled, in bounded memory.
//
// Signal handlers of any threads add, each to nodes of its own thread only; a collector reads at the same time. Nothing is
// removed. Lock-free and without a loop that waits: a pair that is not found within probe_limit steps and has no room is
// refused, and the caller counts it.
#ifndef THAW_SAMPLER_STACK_TABLE_HPP
#define THAW_SAMPLER_STACK_TABLE_HPP

#include <thaw/core/arena.hpp>
#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>
#include <thaw/core/node.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::sampler {

struct sampled_stack {
    core::node* at;             // where the thread stood
    std::uint32_t hash;
    std::uint32_t first_frame;  // in the table's frames, innermost first
    std::uint16_t frame_count;
    bool truncated;
    std::uint32_t next;         // the one made before on the same thread, as an index plus 1; 0: none
    std::uint32_t samples;
};

class stack_table {
public:
    static constexpr std::uint32_t probe_limit = 64;

    // Takes about `bytes` of the arena. False where it does not have them; then every stack is refused.
    bool reserve(core::arena& memory, std::size_t bytes) noexcept {
        std::uint32_t slot_count = 64;
        while (std::size_t{slot_count} * 2 * bytes_per_slot <= bytes) slot_count *= 2;
        auto* const block = static_cast<unsigned char*>(memory.allocate(slot_count * bytes_per_slot));
        if (block == nullptr) return false;
        m_frames = reinterpret_cast<std::uintptr_t*>(block);
        m_frame_limit = slot_count * frames_per_slot;
        m_stacks = reinterpret_cast<sampled_stack*>(m_frames + m_frame_limit);
        m_slots = reinterpret_cast<std::uint32_t*>(m_stacks + slot_count / 2);
        m_slot_count = slot_count;
        return true;
    }

    // Counts a sample. `newest` is the newest stack of the calling thread, as an index plus 1. False: it found no room.
    bool add(core::node* at, std::uintptr_t const* frames, std::uint32_t count, bool truncated, std::uint32_t& newest) noexcept {
        std::uint64_t h = reinterpret_cast<std::uintptr_t>(at);
        for (std::uint32_t i = 0; i < count; ++i) h = (h ^ h >> 29 ^ frames[i]) * 0x9E3779B97F4A7C15u;
        auto const hash = static_cast<std::uint32_t>(h >> 32) + truncated;
        std::uint32_t made = 0;
        for (std::uint32_t i = 0; i < probe_limit && i < m_slot_count; ++i) {
            std::uint32_t& slot = m_slots[(hash + i) & (m_slot_count - 1)];
            std::uint32_t found = core::load_acquire(slot);  // pairs with the exchange below
            if (found == 0) {
                if (made == 0) made = make(at, frames, count, truncated, hash, newest);
                if (made == 0) return false;
                if (core::compare_exchange(slot, found, made)) {
                    core::store_release(newest, made);  // pairs with the acquire of the collector: the stack is complete
                    return true;
                }
            }
            sampled_stack& s = m_stacks[found - 1];
            if (s.at != at || s.hash != hash || s.truncated != truncated || !same(s, frames, count)) continue;
            core::own_add(s.samples, 1u);
            return true;
        }
        return false;
    }

    // Requires: `index` comes from `newest` or from `next`, less 1.
    [[nodiscard]] sampled_stack const& stack(std::uint32_t index) const noexcept { return m_stacks[index]; }
    [[nodiscard]] std::uintptr_t const* frames_of(sampled_stack const& s) const noexcept { return m_frames + s.first_frame; }
    [[nodiscard]] std::uint32_t stack_limit() const noexcept { return m_slot_count / 2; }

private:
    static constexpr std::uint32_t frames_per_slot = 10;  // 20 for each stack
    static constexpr std::size_t bytes_per_slot = frames_per_slot * sizeof(std::uintptr_t) + sizeof(sampled_stack) / 2 + sizeof(std::uint32_t);

    std::uint32_t make(core::node* at, std::uintptr_t const* frames, std::uint32_t count, bool truncated, std::uint32_t hash,
                       std::uint32_t newest) noexcept {
        // Looked at before, so that the counters cannot wrap however often there is no room.
        if (core::load_relaxed(m_stack_count) >= stack_limit() || m_frame_limit - core::load_relaxed(m_frame_count) < count) return 0;
        std::uint32_t const first = core::shared_add(m_frame_count, count);
        if (first > m_frame_limit || m_frame_limit - first < count) {
            core::shared_add(m_frame_count, 0u - count);
            return 0;
        }
        std::uint32_t const index = core::shared_add(m_stack_count, 1u);
        if (index >= stack_limit()) {
            core::shared_add(m_stack_count, 0u - 1u);
            return 0;
        }
        for (std::uint32_t i = 0; i < count; ++i) m_frames[first + i] = frames[i];
        m_stacks[index] = {at, hash, first, static_cast<std::uint16_t>(count), truncated, newest, 1};
        return index + 1;
    }

    [[nodiscard]] bool same(sampled_stack const& s, std::uintptr_t const* frames, std::uint32_t count) const noexcept {
        if (s.frame_count != count) return false;
        for (std::uint32_t i = 0; i < count; ++i)
            if (m_frames[s.first_frame + i] != frames[i]) return false;
        return true;
    }

    std::uintptr_t* m_frames = nullptr;
    sampled_stack* m_stacks = nullptr;
    std::uint32_t* m_slots = nullptr;  // indices plus 1, by hash; twice as many as stacks
    std::uint32_t m_slot_count = 0;
    std::uint32_t m_frame_limit = 0;
    std::uint32_t m_frame_count = 0;
    std::uint32_t m_stack_count = 0;
};

}

#endif
