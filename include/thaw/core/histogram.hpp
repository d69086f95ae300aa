// thaw floor 1 core: the shape of a duration histogram: which bucket a value falls into, what a bucket stands for, and
// quantiles over counted buckets. Pure arithmetic: no state, no allocation, signal-safe, usable from any thread.
//
// Buckets are log-linear in nanoseconds: 32 steps an octave, exact below 64 ns. A bucket is at most 1/32 of its lower bound
// wide, and a quantile is answered with the middle of its bucket, so the error is at most 1/64 = 1.6 %. Because the unit is
// a nanosecond, and not a tick, histograms of two machines may be added.
//
// Worked values: 63 ns -> bucket 63 [63, 63]; 64 and 65 ns -> bucket 64 [64, 65]; 1000 ns: msb 9, shift 4, 1000 >> 4 = 62,
// bucket 4 * 32 + 62 = 190 [992, 1007]; 200 ms = 2e8 ns: msb 27, shift 22, 47, bucket 751 [197132288, 201326591].
#ifndef THAW_CORE_HISTOGRAM_HPP
#define THAW_CORE_HISTOGRAM_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::core {

inline constexpr unsigned histogram_steps_log2 = 5;                      // 32 steps an octave
inline constexpr unsigned histogram_page_size = 1u << histogram_steps_log2;
inline constexpr std::uint64_t histogram_limit_ns = (1ull << 45) - 1;    // 9.8 h; a longer value counts in the last bucket
inline constexpr unsigned histogram_page_count = 45 - histogram_steps_log2 + 1;
inline constexpr unsigned histogram_bucket_count = histogram_page_count * histogram_page_size;

// The bucket of a duration. The first page is linear (0..31); page p > 0 holds the octave [2^(p+4), 2^(p+5)). A double has the
// same shape: its exponent and the first five bits of its fraction, taken as one number, count log-linear buckets of 32 steps, and
// 45 bits are exact in it. Rejected: finding the highest bit and shifting, 4 ns more where a duration has just been measured,
// since nothing is left to be done meanwhile.
[[nodiscard]] constexpr unsigned bucket_of(std::uint64_t value_ns) noexcept {
    if (value_ns > histogram_limit_ns) [[unlikely]] value_ns = histogram_limit_ns;
    if (value_ns < histogram_page_size) [[unlikely]] return static_cast<unsigned>(value_ns);
    auto const bits = __builtin_bit_cast(std::uint64_t, static_cast<double>(static_cast<std::int64_t>(value_ns)));
    constexpr std::uint64_t below = (std::uint64_t{1023} + histogram_steps_log2 - 1) << histogram_steps_log2;
    return static_cast<unsigned>((bits >> (52 - histogram_steps_log2)) - below);
}

// The smallest duration that falls into the bucket, in nanoseconds.
[[nodiscard]] constexpr std::uint64_t bucket_lower_ns(unsigned bucket) noexcept {
    if (bucket < 2 * histogram_page_size) return bucket;
    unsigned const shift = (bucket >> histogram_steps_log2) - 1;
    return static_cast<std::uint64_t>(bucket - (shift << histogram_steps_log2)) << shift;
}

// The largest duration that falls into the bucket, in nanoseconds.
[[nodiscard]] constexpr std::uint64_t bucket_upper_ns(unsigned bucket) noexcept { return bucket_lower_ns(bucket + 1) - 1; }

// The duration that stands for the bucket: its middle.
[[nodiscard]] constexpr std::uint64_t bucket_middle_ns(unsigned bucket) noexcept {
    std::uint64_t const lower = bucket_lower_ns(bucket);
    return lower + (bucket_upper_ns(bucket) - lower) / 2;
}

static_assert(bucket_of(histogram_limit_ns) + 1 == histogram_bucket_count, "the last bucket holds the limit");
static_assert(bucket_of(1000) == 190 && bucket_lower_ns(190) == 992 && bucket_upper_ns(190) == 1007);

// Adds without wrapping: a counter that cannot hold its value stays at the maximum.
[[nodiscard]] constexpr std::uint64_t saturating_add(std::uint64_t a, std::uint64_t b) noexcept {
    std::uint64_t sum = 0;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

// One counted bucket of a sparse histogram. Sequences of them are sorted by index and hold no zero counts.
struct histogram_bucket {
    std::uint32_t index = 0;
    std::uint64_t count = 0;

    friend constexpr bool operator==(histogram_bucket const&, histogram_bucket const&) = default;
};

// The number of values counted in [first, last).
[[nodiscard]] constexpr std::uint64_t bucket_total(histogram_bucket const* first, histogram_bucket const* last) noexcept {
    std::uint64_t total = 0;
    for (; first != last; ++first) total = saturating_add(total, first->count);
    return total;
}

// The q-quantile (0 <= q <= 1) of the values counted in [first, last), in nanoseconds; 0 if there are none.
// It is the value of rank ceil(q n), 1 <= rank <= n: of 20 waits the p95 is the 19th. An answer never exceeds max_ns, the
// largest value seen, and the quantile of rank n is max_ns itself.
[[nodiscard]] constexpr std::uint64_t bucket_quantile_ns(histogram_bucket const* first, histogram_bucket const* last, double q,
                                                         std::uint64_t max_ns) noexcept {
    std::uint64_t const total = bucket_total(first, last);
    if (total == 0) return 0;
    double const wanted = q * static_cast<double>(total);
    if (wanted >= static_cast<double>(total)) return max_ns;  // also where a saturated total rounds up to 2^64
    auto rank = static_cast<std::uint64_t>(wanted);
    if (static_cast<double>(rank) < wanted) ++rank;
    if (rank == 0) rank = 1;
    if (rank >= total) return max_ns;
    std::uint64_t below = 0;
    for (; first != last; ++first) {
        below = saturating_add(below, first->count);
        if (below >= rank) {
            std::uint64_t const middle = bucket_middle_ns(first->index);
            return middle < max_ns ? middle : max_ns;
        }
    }
    return max_ns;
}

}

#endif
