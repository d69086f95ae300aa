// thaw floor 4 core: the node of a calling-context tree, and how its entries are timed. Data and its meaning only;
// core/call_tree.hpp makes nodes and books entries.
//
// One thread writes a node, any may read it at the same time; which fields belong together says core/call_tree.hpp.
#ifndef THAW_CORE_NODE_HPP
#define THAW_CORE_NODE_HPP

#include <thaw/core/live_histogram.hpp>
#include <thaw/core/site.hpp>

#include <cstdint>

namespace thaw::core {

// Short scopes are not timed every time, because two readings of the clock cost ten times as much as the rest of a marker
// (timing::adaptive). The first 16 entries of a node are timed, and go on being so while their mean is above about 1 us. Below
// it, each entry is timed with probability 1/64, by a geometric countdown from one timed entry to the next, so that whether an
// entry is timed depends on what came before it only. Each entry i then contributes
//
//     m_i                      a prediction, the moving mean of the timed entries before it,
//   + w_i (d_i - m_i)          if it is timed: the error of the prediction, weighted by w = 1 / probability.
//
// The expectation of the second line is d_i - m_i, whatever m_i is, so the sum is unbiased (Horvitz-Thompson), and its variance
// is the sum of (w - 1) (d_i - m_i)^2 over all entries: without the prediction it would be that of (w - 1) d_i^2, which for
// 10,000 equal entries is a standard error of 8 % instead of none. The variance is estimated by the sum of w (w - 1) (d_i - m_i)^2
// over the timed entries, which is unbiased for the same reason. Worked value: 640 entries of 100 ticks, ten of them timed, of
// which one took 164: with m = 100 the sum is 640 * 100 + 64 * 64 = 68,096 (the truth, 64,064 on average over the choice), and
// the variance 64 * 63 * 64^2, a standard error of 4,064. Weights alone would do for the histogram, and do.
//
// A short scope that hangs must not vanish because it was not timed, nor count 64 times because it was. Whenever the thread
// is seen at some time, by a timed event inside or by the kernel's tick (core/tick_word.hpp), the scopes that are open and not
// timed are stamped with that time. What an entry takes after its stamp is its suffix. Suffixes are measured for all entries
// alike and added with weight 1; the prefix alone is what is predicted and sampled. The sum stays unbiased whatever stamps
// there are, as long as they do not depend on whether the entry itself was picked.
inline constexpr std::uint32_t timed_first = 16;       // entries of a node that are timed before it may become short
inline constexpr std::uint32_t short_weight = 64;      // 1 / the probability with which an entry of a short node is timed
inline constexpr std::uint64_t short_below_ns = 1000;  // mean below which a node becomes short
inline constexpr std::uint64_t long_above_ns = 1500;   // mean above which it becomes long again
inline constexpr std::uint64_t outlier_ns = 100'000;   // suffix from which on an entry stands for itself in the histogram

// How entries of scopes are timed. Waits and handlers are always timed, by their own probes.
enum class timing : std::uint8_t {
    none,      // counted only
    all,       // every entry
    adaptive,  // every entry of a long node, one in 64 of a short one
};

inline constexpr std::uint64_t never = UINT64_MAX;

struct thread_record;

// What a timed node has besides the node.
struct duration_record {
    live_histogram histogram;
    std::uint64_t predicted_up_to = 0;  // entries for which the prediction is in the sum; of a short node
    std::uint64_t moving_mean = 0;      // of the timed entries, in sixteenths of a tick
    double variance = 0;                // of the sum, in ticks squared
    std::uint64_t stamp = 0;            // V when the open entry, one of a short node that was picked, was first seen; 0: not yet
};
static_assert(sizeof(duration_record) == 208);

// Two cache lines: the first holds what an entry and an exit touch, the second what a timed exit adds.
struct alignas(64) node {
    site_entry* entry = nullptr;
    node* parent = nullptr;
    std::uint64_t count = 0;       // entries; of an allocator: allocations
    std::uint64_t timed_at = 0;    // the entry from which on a scope takes its timed path: 0 always, `never` not at all
    std::uint64_t open_since = 0;  // V at the entry that is open, or when it was first seen (weight 0); 0: not open, or not seen
    node* target = nullptr;        // an alias: the open node it stands for; otherwise null
    std::uint64_t prediction = 0;  // of a short node: ticks that each entry is expected to take; 0: the node is long
    std::uint32_t weight = 0;      // of the open entry: how many entries it stands for; 0: it was not timed from its beginning
    std::uint32_t salt = 0;        // spreads this node's children over the cache

    std::uint64_t version = 0;     // odd while those below change
    std::uint64_t sum_ticks = 0;   // of the completed entries, without the predictions of the last ones; of an allocator: bytes
    std::uint64_t max_ticks = 0;
    std::uint64_t timed = 0;       // entries that were timed, wholly or from a stamp on
    std::uint64_t more = 0;        // entries that the histogram stands for beyond these
    duration_record* durations = nullptr;
    node* created_next = nullptr;  // published with release by call_tree::append
    std::uint32_t ordinal = 0;     // position in the order of creation, from 0
    std::uint32_t errors = 0;      // of a handler: entries left by an exception or marked as failed

    // The total of the completed entries as far as it is known, modulo 2^64; owner only.
    [[nodiscard]] std::uint64_t total_ticks() const noexcept {
        return prediction == 0 ? sum_ticks : sum_ticks + prediction * (count - durations->predicted_up_to);
    }

    [[nodiscard]] node* resolved() noexcept { return target != nullptr ? target : this; }
};
static_assert(sizeof(node) == 128, "an entry touches one cache line, and a node is two");

}

#endif
