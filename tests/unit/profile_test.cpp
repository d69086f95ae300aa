#include "sample_profile.hpp"

#include <thaw/profile/profile.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>

using thaw::site_kind;
using thaw::testing::ramp;
using thaw::testing::sample_profile;

BOOST_AUTO_TEST_SUITE(profile)

BOOST_AUTO_TEST_CASE(self_times_add_up_to_the_total_of_the_root) {
    sample_profile b;
    b.p.nodes[0].total_ns = 1000;
    auto const handler = b.node(0, site_kind::handler, "checkout", {900});
    auto const rules = b.node(handler, site_kind::scope, "price.rules", {300, 100});
    b.node(rules, site_kind::scope, "mix", {150});
    b.node(handler, site_kind::wait, "db.query", {250});
    auto const self = thaw::self_times_ns(b.p);
    BOOST_TEST(self == (std::vector<std::int64_t>{100, 250, 250, 150, 250}), boost::test_tools::per_element());
    std::int64_t sum = 0;
    for (auto const s : self) sum += s;
    BOOST_TEST(sum == 1000);
}

BOOST_AUTO_TEST_CASE(a_self_time_is_not_clamped_where_an_estimate_exceeds_its_parent) {
    sample_profile b;
    auto const handler = b.node(0, site_kind::handler, "checkout", {100});
    b.node(handler, site_kind::scope, "mix", {103});
    BOOST_TEST(thaw::self_times_ns(b.p)[handler] == -3);
}

BOOST_AUTO_TEST_CASE(a_profile_without_nodes_has_no_self_times) { BOOST_TEST(thaw::self_times_ns(thaw::profile()).empty()); }

BOOST_AUTO_TEST_CASE(of_twenty_entries_the_p95_is_the_nineteenth) {
    sample_profile b;
    auto const n = b.node(0, site_kind::scope, "s", ramp(20, 1, 1));
    BOOST_TEST(b.p.quantile_ns(b.p.nodes[n], 0.95) == 19u);
    BOOST_TEST(b.p.quantile_ns(b.p.nodes[n], 0.5) == 10u);
    BOOST_TEST(b.p.quantile_ns(b.p.nodes[n], 1) == 20u);
}

BOOST_AUTO_TEST_CASE(a_quantile_is_within_1_6_percent) {
    sample_profile b;
    auto const n = b.node(0, site_kind::scope, "s", ramp(1000, 1'000'000, 7'919));
    for (std::uint64_t rank = 1; rank <= 1000; ++rank) {
        auto const truth = static_cast<double>(1'000'000 + (rank - 1) * 7'919);
        auto const told = static_cast<double>(b.p.quantile_ns(b.p.nodes[n], static_cast<double>(rank) / 1000));
        BOOST_TEST(told >= truth * (1 - 1.0 / 64));
        BOOST_TEST(told <= truth * (1 + 1.0 / 64));
    }
}

BOOST_AUTO_TEST_CASE(a_node_without_durations_has_the_quantile_0) {
    sample_profile b;
    auto const n = b.node(0, site_kind::scope, "s", {});
    BOOST_TEST(b.p.quantile_ns(b.p.nodes[n], 0.95) == 0u);
    BOOST_TEST(b.p.durations_of(b.p.nodes[n]).size() == 0u);
}

BOOST_AUTO_TEST_CASE(durations_of_a_node_are_its_own) {
    sample_profile b;
    b.node(0, site_kind::scope, "before", {10, 11});
    auto const n = b.node(0, site_kind::scope, "s", {20, 20, 21});
    b.node(0, site_kind::scope, "after", {30});
    auto const r = b.p.durations_of(b.p.nodes[n]);
    BOOST_REQUIRE(r.size() == 2u);
    BOOST_TEST(r.first[0].index == 20u);
    BOOST_TEST(r.first[0].count == 2u);
    BOOST_TEST(r.first[1].index == 21u);
}

BOOST_AUTO_TEST_CASE(live_bytes_of_a_site_are_negative_where_it_freed_what_another_allocated) {
    thaw::memory_site m;
    m.allocations = 1;
    m.allocated_bytes = 100;
    m.frees = 2;
    m.freed_bytes = 350;
    BOOST_TEST(m.live_bytes() == -250);
    BOOST_TEST(m.live_blocks() == -1);
}

BOOST_AUTO_TEST_SUITE_END()
