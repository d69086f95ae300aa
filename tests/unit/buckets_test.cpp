#include "sample_profile.hpp"

#include <thaw/profile/buckets.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <map>
#include <random>
#include <vector>

using thaw::core::histogram_bucket;
using thaw::site_kind;
using thaw::testing::ramp;
using thaw::testing::sample_profile;

using buckets_of = std::vector<histogram_bucket>;

BOOST_AUTO_TEST_SUITE(buckets)

BOOST_AUTO_TEST_CASE(buckets_of_several_nodes_are_those_of_all_their_durations) {
    sample_profile b;
    auto const x = b.node(0, site_kind::wait, "x", {1, 5, 9, 9});
    b.node(0, site_kind::wait, "between", {2});
    auto const y = b.node(0, site_kind::wait, "y", {0, 5, 7, 9, 12});
    auto const z = b.node(0, site_kind::wait, "z", {});
    auto const merged = thaw::merged_buckets(b.p, {x, y, z});
    std::vector<thaw::core::histogram_bucket> const expected = {{0, 1}, {1, 1}, {5, 2}, {7, 1}, {9, 3}, {12, 1}};
    BOOST_TEST((merged == expected));
    BOOST_TEST(thaw::merged_buckets(b.p, {}).empty());
    BOOST_TEST(thaw::merged_buckets(b.p, {z}).empty());
}

BOOST_AUTO_TEST_CASE(a_percentile_of_two_nodes_is_not_the_mean_of_theirs) {
    sample_profile b;
    auto const fast = b.node(0, site_kind::wait, "fast", ramp(98, 10, 0));
    auto const slow = b.node(0, site_kind::wait, "slow", {50, 50});
    auto const merged = thaw::merged_buckets(b.p, {fast, slow});
    BOOST_TEST(thaw::core::bucket_quantile_ns(merged.data(), merged.data() + merged.size(), 0.95, 50) == 10u);
    BOOST_TEST(thaw::core::bucket_quantile_ns(merged.data(), merged.data() + merged.size(), 0.99, 50) == 50u);
}

BOOST_AUTO_TEST_CASE(sums_are_those_of_a_map) {
    std::mt19937 random(7);
    for (int round = 0; round < 2'000; ++round) {
        buckets_of parts[2];
        std::map<std::uint32_t, std::uint64_t> expected;
        for (buckets_of& part : parts)
            for (std::uint32_t index = 0; index < 8; ++index)
                if (random() % 2 == 0) part.push_back({index, random() % 5 + 1}), expected[index] += part.back().count;
        buckets_of sum;
        thaw::histograms::append_sum(sum, {parts[0].data(), parts[0].data() + parts[0].size()},
                                 {parts[1].data(), parts[1].data() + parts[1].size()});
        buckets_of in_order;
        for (auto const& [index, count] : expected) in_order.push_back({index, count});
        BOOST_REQUIRE((sum == in_order));
        // In place only where nothing is new.
        buckets_of const before = parts[0];
        bool const added = thaw::histograms::add_to_existing(parts[0].data(), parts[0].size(), parts[1].data(), parts[1].size());
        BOOST_REQUIRE_EQUAL(added, in_order.size() == before.size());
        BOOST_REQUIRE((parts[0] == (added ? in_order : before)));
    }
}

BOOST_AUTO_TEST_CASE(counts_stay_at_the_maximum) {
    buckets_of sum{{1, UINT64_MAX - 1}};
    buckets_of const more{{1, 2}};
    buckets_of appended;
    thaw::histograms::append_sum(appended, {sum.data(), sum.data() + 1}, {more.data(), more.data() + 1});
    BOOST_TEST(appended[0].count == UINT64_MAX);
    BOOST_TEST(thaw::histograms::add_to_existing(sum.data(), 1, more.data(), 1));
    BOOST_TEST(sum[0].count == UINT64_MAX);
}

BOOST_AUTO_TEST_CASE(packing_keeps_what_belongs_to_a_node) {
    sample_profile b;
    b.node(0, site_kind::scope, "x", {1, 2});
    b.node(0, site_kind::scope, "y", {});
    b.node(0, site_kind::scope, "z", {3});
    thaw::profile p = b.take();
    p.buckets.insert(p.buckets.begin() + 2, {{9, 9}, {10, 9}});
    p.nodes[3].first_bucket += 2;
    std::vector<histogram_bucket> scratch{{7, 7}};
    thaw::histograms::pack(p, scratch);
    BOOST_TEST((p.buckets == buckets_of{{1, 1}, {2, 1}, {3, 1}}));
    BOOST_TEST(p.durations_of(p.nodes[1]).size() == 2u);
    BOOST_TEST(p.durations_of(p.nodes[2]).size() == 0u);
    BOOST_TEST(p.durations_of(p.nodes[3]).first->index == 3u);
}

BOOST_AUTO_TEST_SUITE_END()
