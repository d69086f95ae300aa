// thaw floor 4 core: how entries of scopes are timed, and what a timed node has for it besides the node. Data and its meaning
// only; core/call_tree.hpp books entries.
//
// The thread that owns the node writes, any may read at the same time, behind the node's version (core/call_tree.hpp).
#ifndef THAW_CORE_DURATIONS_HPP
#define THAW_CORE_DURATIONS_HPP

#include <thaw/core/live_histogram.hpp>
#include <thaw/core/node.hpp>

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

// What a timed node has besides the node.
struct duration_record {
    live_histogram histogram;
    std::uint64_t more = 0;             // entries that the histogram stands for beyond those that were timed
    std::uint64_t predicted_up_to = 0;  // entries for which the prediction is in the sum; of a short node
    std::uint64_t moving_mean = 0;      // of the timed entries, in sixteenths of a tick
    double variance = 0;                // of the sum, in ticks squared
    std::uint64_t cpu_ns = 0;           // CPU time of the thread in entries through THAW_SCOPE_CPU
    std::uint64_t stamp = 0;            // V when the open entry, one of a short node that was picked, was first seen; 0: not yet
};
static_assert(sizeof(duration_record) == 224);

// Which entries of short nodes are timed. Owner only.
class pick_sequence {
public:
    // The value is mixed, because sequences whose states lie a few steps apart share most of their numbers.
    void seed(std::uint64_t value) noexcept {
        m_state = value, m_picks = 0, m_left = 0;
        m_state = random();
    }

    // How many entries on the next timed one is: geometric with mean 64. Each bit of m_picks is set with probability 1/64,
    // independently: it is the conjunction of six random words. The gap is the distance to the next set bit, and the rest of the
    // word is kept. Rejected: inversion by a logarithm, 15 ns more.
    [[nodiscard]] std::uint64_t next_gap() noexcept {
        std::uint64_t gap = 0;
        while (m_picks == 0) {
            gap += m_left;
            m_picks = random() & random() & random() & random() & random() & random();
            m_left = 64;
        }
        auto const skipped = static_cast<std::uint32_t>(__builtin_ctzll(m_picks));
        m_picks = m_picks >> skipped >> 1;
        m_left -= skipped + 1;
        return gap + skipped + 1;
    }

private:
    // splitmix64: a counter whose values are mixed, so that several are worked out at once.
    [[nodiscard]] THAW_DETAIL_INLINE std::uint64_t random() noexcept {
        std::uint64_t z = m_state += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        return z ^ z >> 31;
    }

    std::uint64_t m_state = 0;
    std::uint64_t m_picks = 0;  // the entries ahead that are to be timed, the next one in the lowest bit
    std::uint32_t m_left = 0;   // how many entries ahead m_picks says something about
};

// The total of a node's completed entries as far as it is known, modulo 2^64; owner only.
[[nodiscard]] inline std::uint64_t total_ticks(node const& n) noexcept {
    return n.prediction == 0 ? n.sum_ticks : n.sum_ticks + n.prediction * (n.count - n.durations->predicted_up_to);
}

}

#endif
