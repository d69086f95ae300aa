// thaw floor 3 profile: adds histograms. Those of several nodes become one, because percentiles themselves cannot be added.
//
// Thread-compatible; allocates; throws nothing but std::bad_alloc. Templates, so that a unit that adds nothing does not pay for
// instantiating them.
//
//   auto const waits = thaw::merged_buckets(p, {3, 8});   // nodes 3 and 8 together
//   thaw::core::bucket_quantile_ns(waits.data(), waits.data() + waits.size(), 0.95, max_ns);
#ifndef THAW_PROFILE_BUCKETS_HPP
#define THAW_PROFILE_BUCKETS_HPP

#include <thaw/core/config.hpp>
#include <thaw/core/histogram.hpp>
#include <thaw/profile/profile.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace thaw {

// The parts of a sum, for whoever makes profiles.
namespace histograms {

// Appends the sum of two histograms, which must not be those of `sums`.
template <class Buckets>
void append_sum(Buckets& sums, bucket_range a, bucket_range b) {
    while (a.first != a.last && b.first != b.last) {
        if (a.first->index < b.first->index) {
            sums.push_back(*a.first++);
        } else if (b.first->index < a.first->index) {
            sums.push_back(*b.first++);
        } else {
            sums.push_back({a.first->index, core::saturating_add(a.first->count, b.first->count)});
            ++a.first, ++b.first;
        }
    }
    sums.insert(sums.end(), a.first, a.last);
    sums.insert(sums.end(), b.first, b.last);
}

// Adds `added` to the buckets at `sums` where each of them is there already, as is usual for two threads or instances that
// run the same code. False, with nothing added, otherwise.
inline bool add_to_existing(core::histogram_bucket* sums, std::size_t sum_count, core::histogram_bucket const* added,
                            std::size_t count) noexcept {
    std::uint32_t different = 0;
    if (sum_count == count) {  // the usual case by far
        for (std::size_t i = 0; i < count; ++i) different |= sums[i].index ^ added[i].index;
    } else {
        std::size_t at = 0;
        for (std::size_t i = 0; i < count; ++i, ++at) {
            while (at != sum_count && sums[at].index < added[i].index) ++at;
            if (at == sum_count || sums[at].index != added[i].index) return false;
        }
    }
    if (different != 0) return false;
    for (std::size_t i = 0; i < count; ++i, ++sums) {
        while (sums->index != added[i].index) ++sums;
        sums->count = core::saturating_add(sums->count, added[i].count);
    }
    return true;
}

// Moves the buckets of all nodes together, where some belong to none any more.
template <class Profile, class Buckets>
void pack(Profile& p, Buckets& scratch) {
    scratch.clear();
    scratch.reserve(p.buckets.size());
    for (profile_node& n : p.nodes) {
        bucket_range const r = p.durations_of(n);
        n.first_bucket = static_cast<std::uint32_t>(scratch.size());
        scratch.insert(scratch.end(), r.first, r.last);
    }
    p.buckets.swap(scratch);
}

}

// The durations of several nodes of one profile in one histogram: sorted, each bucket once.
// Requires: the indices are nodes of `p`, each named once.
template <class Profile>
[[nodiscard]] std::vector<core::histogram_bucket> merged_buckets(Profile const& p, std::vector<std::uint32_t> const& nodes) {
    std::vector<core::histogram_bucket> sums;
    std::vector<core::histogram_bucket> longer;
    for (std::uint32_t const n : nodes) {
        bucket_range const r = p.durations_of(p.nodes[n]);
        if (histograms::add_to_existing(sums.data(), sums.size(), r.first, r.size())) continue;
        longer.clear();
        histograms::append_sum(longer, {sums.data(), sums.data() + sums.size()}, r);
        sums.swap(longer);
    }
    return sums;
}

}

#endif
