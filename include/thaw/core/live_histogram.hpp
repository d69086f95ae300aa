// thaw floor 3 core: the histogram that a tree node is recorded into: sparse, with pages of 32 buckets that are made when
// they are first needed. One thread writes; whoever reads does so under the node's version (core/call_tree.hpp).
//
// Memory: 176 bytes when the first duration is recorded, 136 for each octave that occurs: a scope whose durations spread over
// four octaves takes 720 bytes. Rejected: a dense table of 16-bit counts takes 2.6 KB a node for the same range.
#ifndef THAW_CORE_LIVE_HISTOGRAM_HPP
#define THAW_CORE_LIVE_HISTOGRAM_HPP

#include <thaw/core/arena.hpp>
#include <thaw/core/atomics.hpp>
#include <thaw/core/histogram.hpp>

#include <cstdint>

namespace thaw::core {

struct histogram_page {
    std::uint32_t occupied = 0;  // bit b: count[b] or its spill is not 0
    std::uint32_t spill = 0;     // arena offset of a page with the upper halves of the counts; 0: none has overflowed
    std::uint32_t count[histogram_page_size] = {};
};

class live_histogram {
public:
    // The count of a value's bucket, if it is one that can be raised by 1 by a mere store. Null where it is 0, a page would have
    // to be made, or it would overflow.
    [[nodiscard]] THAW_DETAIL_INLINE std::uint32_t* existing(arena const& memory, std::uint64_t value_ns) noexcept {
        std::size_t const bucket = bucket_of(value_ns);
        std::uint32_t const offset = load_relaxed(m_pages[bucket / histogram_page_size]);
        if (offset == 0) [[unlikely]] return nullptr;
        std::uint32_t& in_bucket = static_cast<histogram_page*>(memory.at(offset))->count[bucket % histogram_page_size];
        // A bucket that is not empty is marked as occupied already. 0 and the greatest count: both wrap to less than 2.
        return in_bucket + 1 < 2 ? nullptr : &in_bucket;
    }

    // Counts `weight` values of `value_ns`. False where a page is needed and the arena is used up: nothing was counted.
    bool add(arena& memory, std::uint64_t value_ns, std::uint32_t weight) noexcept {
        unsigned const bucket = bucket_of(value_ns);
        histogram_page* const page = page_at(memory, m_pages[bucket / histogram_page_size], bucket / histogram_page_size);
        if (page == nullptr) return false;
        unsigned const i = bucket % histogram_page_size;
        std::uint32_t sum = 0;
        if (__builtin_add_overflow(load_relaxed(page->count[i]), weight, &sum)) [[unlikely]] {
            histogram_page* const upper = spill_of(memory, *page);
            if (upper == nullptr) return false;
            store_release(upper->count[i], load_relaxed(upper->count[i]) + 1);
        }
        store_release(page->count[i], sum);
        store_release(page->occupied, load_relaxed(page->occupied) | 1u << i);
        return true;
    }

    // Writes the buckets with a count, in ascending order, and returns their end. Requires room for all that there can be.
    THAW_DETAIL_INLINE histogram_bucket* copy(arena const& memory, histogram_bucket* to) const noexcept {
        for (std::uint64_t rest = load_acquire(m_occupied); rest != 0; rest &= rest - 1) {
            auto const p = static_cast<unsigned>(__builtin_ctzll(rest));
            histogram_page const& page = *page_of(memory, p);
            std::uint32_t bits = load_acquire(page.occupied);
            if (load_acquire(page.spill) != 0) [[unlikely]] {
                to = copy_spilled(memory, page, p, to);
                continue;
            }
            for (; bits != 0; bits &= bits - 1) {
                auto const i = static_cast<unsigned>(__builtin_ctz(bits));
                *to++ = {p * histogram_page_size + i, load_acquire(page.count[i])};
            }
        }
        return to;
    }

private:
    histogram_page const* page_of(arena const& memory, unsigned index) const noexcept {
        return static_cast<histogram_page const*>(memory.at(load_acquire(m_pages[index])));  // pairs with the release in make_page
    }

    THAW_DETAIL_COLD static histogram_bucket* copy_spilled(arena const& memory, histogram_page const& page, unsigned index,
                                                           histogram_bucket* to) noexcept {
        auto const& upper = *static_cast<histogram_page const*>(memory.at(load_acquire(page.spill)));
        for (std::uint32_t bits = load_acquire(page.occupied); bits != 0; bits &= bits - 1) {
            auto const i = static_cast<unsigned>(__builtin_ctz(bits));
            std::uint64_t const count = load_acquire(page.count[i]) + (std::uint64_t{load_acquire(upper.count[i])} << 32);
            if (count != 0) *to++ = {index * histogram_page_size + i, count};
        }
        return to;
    }

    histogram_page* page_at(arena& memory, std::uint32_t& offset, unsigned index) noexcept {
        if (std::uint32_t const o = load_relaxed(offset); o != 0) [[likely]]
            return static_cast<histogram_page*>(memory.at(o));
        return make_page(memory, offset, index);
    }

    THAW_DETAIL_COLD histogram_page* make_page(arena& memory, std::uint32_t& offset, unsigned index) noexcept {
        auto* const page = static_cast<histogram_page*>(memory.allocate(sizeof(histogram_page)));
        if (page == nullptr) return nullptr;
        store_release(offset, memory.offset_of(page));  // pairs with the acquire in page_of
        store_release(m_occupied, load_relaxed(m_occupied) | 1ull << index);
        return page;
    }

    THAW_DETAIL_COLD static histogram_page* spill_of(arena& memory, histogram_page& page) noexcept {
        if (page.spill == 0) {
            void* const upper = memory.allocate(sizeof(histogram_page));
            if (upper == nullptr) return nullptr;
            store_release(page.spill, memory.offset_of(upper));
        }
        return static_cast<histogram_page*>(memory.at(page.spill));
    }

    std::uint64_t m_occupied = 0;                      // bit p: page p exists
    std::uint32_t m_pages[histogram_page_count] = {};  // arena offsets
};

static_assert(histogram_page_count <= 64, "the occupied pages are bits of one word");
static_assert(sizeof(histogram_page) == 136);
static_assert(sizeof(live_histogram) == 176);

}

#endif
