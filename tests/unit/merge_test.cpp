#include "sample_profile.hpp"

#include <thaw/profile/merge.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

using thaw::site_kind;
using thaw::testing::quickstart_like;
using thaw::testing::ramp;
using thaw::testing::sample_profile;

namespace {

std::string name_of(thaw::profile_site const& s) {
    std::ostringstream out;
    out << static_cast<int>(s.kind) << ' ' << s.name << ' ' << s.file << ':' << s.line << ' ' << s.function;
    return out.str();
}

std::string path_of(thaw::profile const& p, std::uint32_t node) {
    std::string path;
    for (; node != thaw::no_index; node = p.nodes[node].parent) path = "/" + name_of(p.sites[p.nodes[node].site]) + path;
    return path;
}

// All figures of a profile by path or site, whatever the order of nodes and sites. Well-formedness is required on the way.
std::map<std::string, std::string> figures_of(thaw::profile const& p) {
    std::map<std::string, std::string> figures;
    auto const tell = [&figures](std::string const& key, auto const&... values) {
        std::ostringstream out;
        ((out << values << ' '), ...);
        BOOST_REQUIRE_MESSAGE(figures.emplace(key, out.str()).second, "twice: " + key);
    };
    for (std::uint32_t i = 0; i < p.nodes.size(); ++i) {
        auto const& n = p.nodes[i];
        BOOST_REQUIRE(n.site < p.sites.size());
        BOOST_REQUIRE((n.parent == thaw::no_index) == (i == 0));
        BOOST_REQUIRE((i == 0 || n.parent < i));
        BOOST_REQUIRE(n.first_bucket + n.bucket_count <= p.buckets.size());
        std::ostringstream buckets;
        std::int64_t last = -1;
        for (auto const& b : p.durations_of(n)) {
            BOOST_REQUIRE(b.index > last);
            last = b.index;
            buckets << b.index << 'x' << b.count << ' ';
        }
        tell(path_of(p, i), n.calls, n.open, n.timed, n.total_ns, n.total_error_ns, n.max_ns, n.errors, n.allocations,
             n.allocated_bytes, buckets.str());
    }
    for (auto const& m : p.memory)
        tell("memory " + name_of(p.sites[m.site]), m.allocations, m.allocated_bytes, m.frees, m.freed_bytes,
             m.baseline_live_bytes);
    auto const& e = p.slowest;
    if (e.handler_site != thaw::no_index) {
        tell("slowest", name_of(p.sites[e.handler_site]), e.request_id, e.wall_ns, e.wait_ns, e.parts.size());
        for (auto const& part : e.parts) tell("part " + path_of(p, part.node), part.calls, part.total_ns);
    }
    auto const& i = p.identity;
    tell("identity", i.app, i.version, i.environment, i.instance, i.build_id, i.host, i.pid, i.sequence);
    auto const& w = p.window;
    tell("window", w.started_unix_ns, w.ended_unix_ns, w.invocations, w.cold, w.errors, w.open, w.active_ns, w.wall_ns,
         w.cpu_ns, w.wait_ns, w.cpu_measured);
    auto const& l = p.losses;
    tell("losses", l.overflow_entries, l.overflow_durations, l.overflow_sites, l.overflow_names, l.overflow_threads,
         l.mismatched_scopes, l.torn_nodes, l.reports_put_off, l.reports_failed);
    auto const& c = p.cost;
    tell("cost", c.recording_ns, c.collecting_ns, c.reporting_ns, c.reports, c.memory_bytes);
    return figures;
}

// Shares some paths with quickstart_like() and has others.
thaw::profile other_instance() {
    sample_profile b;
    b.p.identity = {"shop", "1.4.2", "prod", "00000000000000ff", "", "ip-10-0-0-8", 12, 5};
    b.p.window = {1'600'000'000'000'000'000, 1'600'000'060'000'000'000, 7, 1, 2, 1, 70, 80, 90, 100, true};
    b.p.losses = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    b.p.cost = {1, 2, 3, 4, 5};
    b.site(site_kind::scope, "only.here"); // moves all later sites, lines included
    b.p.sites = quickstart_like().sites;
    b.p.sites.insert(b.p.sites.begin() + 1, thaw::profile_site{"only.here", "f", "a.cpp", 3, site_kind::scope});
    b.p.nodes[0].site = 0;
    auto const background = b.node(0, site_kind::background, "[background]", {});
    b.node(background, site_kind::wait, "queue.pop", ramp(3, 900'000'000, 1));
    auto const checkout = b.node(0, site_kind::handler, "checkout", ramp(7, 100'000'000, 9'000'000));
    b.node(checkout, site_kind::scope, "only.here", {5});
    b.node(checkout, site_kind::wait, "db.query", ramp(7, 190'000'000, 5'000'000));
    b.memory("parse.buffer", 3, 30);
    b.p.slowest.handler_site = b.p.nodes[checkout].site;
    b.p.slowest.request_id = "other";
    b.p.slowest.wall_ns = 1;
    b.p.slowest.parts = {{checkout, 1, 1}};
    return b.take();
}

// One handler with one node below it.
sample_profile two_nodes() {
    sample_profile b;
    auto const handler = b.node(0, site_kind::handler, "h", {10});
    b.node(handler, site_kind::scope, "s", {5});
    return b;
}

}

BOOST_AUTO_TEST_SUITE(merge)

BOOST_AUTO_TEST_CASE(counters_are_added_and_the_longest_entry_is_the_longer_one) {
    sample_profile b = two_nodes();
    auto& n = b.p.nodes[2];
    n = {n.site, n.parent, 1, 2, 12, 3, 4, 0, 6, 7, 8, 9, n.first_bucket, n.bucket_count};
    sample_profile c = b;
    c.p.nodes[2].max_ns = 5;
    c.p.nodes[2].open_ns = 11;
    thaw::profile const sum = thaw::merge(b.p, c.p);
    BOOST_REQUIRE(sum.nodes.size() == 3u);
    auto const& s = sum.nodes[2];
    BOOST_TEST(s.calls == 2u);
    BOOST_TEST(s.open == 4u);
    BOOST_TEST(s.open_ns == 12u);
    BOOST_TEST(s.timed == 6u);
    BOOST_TEST(s.total_ns == 8u);
    BOOST_TEST(s.max_ns == 6u);
    BOOST_TEST(s.errors == 14u);
    BOOST_TEST(s.allocations == 16u);
    BOOST_TEST(s.allocated_bytes == 18u);
    BOOST_REQUIRE(s.bucket_count == 1u);
    BOOST_TEST((sum.durations_of(s).first[0] == thaw::core::histogram_bucket{5, 2}));
}

BOOST_AUTO_TEST_CASE(standard_errors_are_added_in_quadrature) {
    sample_profile b = two_nodes();
    sample_profile c = two_nodes();
    b.p.nodes[2].total_error_ns = 3;
    c.p.nodes[2].total_error_ns = 4;
    BOOST_TEST(thaw::merge(b.p, c.p).nodes[2].total_error_ns == 5u);
    c.p.nodes[2].total_error_ns = 0;
    BOOST_TEST(thaw::merge(b.p, c.p).nodes[2].total_error_ns == 3u);
    b.p.nodes[2].total_error_ns = c.p.nodes[2].total_error_ns = UINT64_MAX;
    BOOST_TEST(thaw::merge(b.p, c.p).nodes[2].total_error_ns == UINT64_MAX);
}

BOOST_AUTO_TEST_CASE(sums_stay_at_the_maximum) {
    sample_profile b = two_nodes();
    b.p.nodes[2].calls = b.p.nodes[2].total_ns = UINT64_MAX;
    b.p.buckets.back().count = UINT64_MAX - 1;
    b.p.window.invocations = UINT64_MAX;
    thaw::memory_site& m = b.memory("m", UINT64_MAX, 1);
    m.baseline_live_bytes = INT64_MIN;
    thaw::profile const sum = thaw::merge(b.p, b.p);
    BOOST_TEST(sum.nodes[2].calls == UINT64_MAX);
    BOOST_TEST(sum.nodes[2].total_ns == UINT64_MAX);
    BOOST_TEST(sum.buckets.back().count == UINT64_MAX);
    BOOST_TEST(sum.window.invocations == UINT64_MAX);
    BOOST_TEST(sum.memory[0].allocations == UINT64_MAX);
    BOOST_TEST(sum.memory[0].baseline_live_bytes == INT64_MIN);
}

BOOST_AUTO_TEST_CASE(a_sum_that_is_moved_in_is_added_to_where_it_is) {
    thaw::profile const a = quickstart_like();
    thaw::profile sum = a;
    auto const* const nodes = sum.nodes.data();
    auto const* const buckets = sum.buckets.data();
    auto const* const sites = sum.sites.data();
    for (int i = 0; i < 3; ++i) sum = thaw::merge(std::move(sum), a);
    BOOST_TEST(sum.nodes.data() == nodes);
    BOOST_TEST(sum.buckets.data() == buckets);
    BOOST_TEST(sum.sites.data() == sites);
    for (std::size_t i = 0; i < a.nodes.size(); ++i) {
        BOOST_TEST(sum.nodes[i].calls == 4 * a.nodes[i].calls);
        BOOST_TEST(thaw::core::bucket_total(sum.durations_of(sum.nodes[i]).begin(), sum.durations_of(sum.nodes[i]).end()) ==
                   4 * thaw::core::bucket_total(a.durations_of(a.nodes[i]).begin(), a.durations_of(a.nodes[i]).end()));
    }
    BOOST_TEST((figures_of(sum) == figures_of(thaw::merge(thaw::merge(a, a), thaw::merge(a, a)))));
}

BOOST_AUTO_TEST_CASE(buckets_that_are_new_to_a_node_leave_no_gap) {
    sample_profile a, b;
    for (sample_profile* const s : {&a, &b}) {
        auto const handler = s->node(0, site_kind::handler, "h", {10, 20});
        s->node(handler, site_kind::scope, "s", s == &a ? std::vector<std::uint64_t>{5, 7} : std::vector<std::uint64_t>{6, 7, 8});
        s->node(handler, site_kind::scope, "t", {1});
    }
    thaw::profile const sum = thaw::merge(a.p, b.p);
    BOOST_REQUIRE(sum.nodes.size() == 4u);
    std::uint32_t next = 0;
    for (auto const& n : sum.nodes) {
        BOOST_TEST(n.first_bucket == next);
        next += n.bucket_count;
    }
    BOOST_TEST(sum.buckets.size() == next);
    std::vector<thaw::core::histogram_bucket> const expected = {{5, 1}, {6, 1}, {7, 2}, {8, 1}};
    auto const r = sum.durations_of(sum.nodes[2]);
    BOOST_TEST((std::vector<thaw::core::histogram_bucket>(r.begin(), r.end()) == expected));
}

BOOST_AUTO_TEST_CASE(sites_that_differ_in_anything_stay_apart) {
    sample_profile const b = two_nodes();
    auto const nodes_after = [&b](auto change) {
        sample_profile c = two_nodes();
        change(c.p.sites[2]);
        return thaw::merge(b.p, c.p).nodes.size();
    };
    BOOST_TEST(nodes_after([](thaw::profile_site&) {}) == 3u);
    BOOST_TEST(nodes_after([](thaw::profile_site& s) { s.name = "t"; }) == 4u);
    BOOST_TEST(nodes_after([](thaw::profile_site& s) { s.kind = site_kind::wait; }) == 4u);
    BOOST_TEST(nodes_after([](thaw::profile_site& s) { s.file = "other.cpp"; }) == 4u);
    BOOST_TEST(nodes_after([](thaw::profile_site& s) { ++s.line; }) == 4u);
    BOOST_TEST(nodes_after([](thaw::profile_site& s) { s.function = "f<int>()"; }) == 4u);
    BOOST_TEST(nodes_after([](thaw::profile_site& s) { std::swap(s.name, s.function); }) == 4u);
}

BOOST_AUTO_TEST_CASE(a_site_under_two_parents_stays_two_nodes) {
    sample_profile b;
    auto const left = b.node(0, site_kind::handler, "left", {10});
    auto const right = b.node(0, site_kind::handler, "right", {20});
    b.node(right, site_kind::scope, "s", {2});
    b.node(left, site_kind::scope, "s", {1});
    thaw::profile const sum = thaw::merge(b.p, b.p);
    BOOST_REQUIRE(sum.nodes.size() == 5u);
    auto const figures = figures_of(sum);
    BOOST_TEST(figures.size() == 5u + 4u);
}

BOOST_AUTO_TEST_CASE(sites_that_the_added_profile_names_twice_become_one) {
    sample_profile b = two_nodes();
    b.p.sites.push_back(b.p.sites[2]);
    auto const again = b.node(1, site_kind::scope, "t", {7, 8});
    b.p.nodes[again].site = 3;
    thaw::profile const sum = thaw::merge(thaw::profile(), b.p);
    BOOST_REQUIRE(sum.nodes.size() == 3u);
    BOOST_TEST(sum.nodes[2].calls == 3u);
    BOOST_TEST(sum.nodes[2].bucket_count == 3u);
    figures_of(sum);
}

BOOST_AUTO_TEST_CASE(merge_is_commutative) {
    thaw::profile const a = quickstart_like();
    thaw::profile const b = other_instance();
    BOOST_TEST((figures_of(thaw::merge(a, b)) == figures_of(thaw::merge(b, a))));
}

BOOST_AUTO_TEST_CASE(merge_is_associative) {
    thaw::profile const a = quickstart_like();
    thaw::profile const b = other_instance();
    thaw::profile c = two_nodes().take();
    c.window = {5, 6, 7, 1, 8, 9, 10, 11, 12, 13, true};
    BOOST_TEST((figures_of(thaw::merge(thaw::merge(a, b), c)) == figures_of(thaw::merge(a, thaw::merge(b, c)))));
}

BOOST_AUTO_TEST_CASE(an_empty_profile_changes_no_figure) {
    thaw::profile const a = quickstart_like();
    for (thaw::profile sum : {thaw::merge(a, thaw::profile()), thaw::merge(thaw::profile(), a)}) {
        sum.identity = a.identity;
        sum.window.cpu_measured = a.window.cpu_measured;
        sum.window.cpu_ns = a.window.cpu_ns;
        BOOST_TEST((figures_of(sum) == figures_of(a)));
    }
    BOOST_TEST(thaw::merge(thaw::profile(), thaw::profile()).nodes.empty());
}

BOOST_AUTO_TEST_CASE(every_figure_of_two_instances_is_in_the_sum) {
    thaw::profile const a = quickstart_like();
    thaw::profile const b = other_instance();
    thaw::profile const sum = thaw::merge(a, b);
    auto figures = figures_of(sum);
    BOOST_TEST(sum.nodes.size() == a.nodes.size() + 1);
    BOOST_TEST(sum.sites.size() == a.sites.size() + 1);
    BOOST_TEST(figures["losses"] == "1 2 3 4 5 6 7 8 9 ");
    BOOST_TEST(figures["cost"] == "1200001 300002 148003 6 524293 ");
    BOOST_TEST(figures["window"] ==
               "1600000000000000000 1700000060000000000 27 2 2 1 4121900070 4120000080 88000090 4010000100 1 ");
    BOOST_TEST(figures["identity"] == "shop 1.4.2 prod    0 0 ");
    for (auto const& m : sum.memory) {
        bool const shared = sum.sites[m.site].name == "parse.buffer";
        BOOST_TEST(m.allocations == (shared ? 43u : 400u));
        BOOST_TEST(m.allocated_bytes == (shared ? 81'950u : 960'512u));
        BOOST_TEST(m.frees == (shared ? 40u : 0u));
        BOOST_TEST(m.freed_bytes == (shared ? 81'920u : 0u));
        BOOST_TEST(m.baseline_live_bytes == (shared ? 0 : 48'025));
    }
}

BOOST_AUTO_TEST_CASE(the_slower_exemplar_is_kept_and_points_at_the_same_paths) {
    thaw::profile const a = quickstart_like();
    thaw::profile b = other_instance();
    auto const parts = [](thaw::profile const& p) {
        std::map<std::string, std::string> r;
        for (auto const& f : figures_of(p))
            if (f.first.starts_with("part ") || f.first == "slowest") r.insert(f);
        return r;
    };
    BOOST_TEST((parts(thaw::merge(b, a)) == parts(a)));
    b.slowest.wall_ns = UINT64_MAX;
    BOOST_TEST((parts(thaw::merge(a, b)) == parts(b)));
    BOOST_TEST((parts(thaw::merge(b, a)) == parts(b)));
}

BOOST_AUTO_TEST_CASE(of_two_equally_slow_exemplars_the_same_one_is_kept_either_way) {
    thaw::profile const a = quickstart_like();
    thaw::profile b = a;
    b.slowest.request_id = "0";
    BOOST_TEST(thaw::merge(a, b).slowest.request_id == "0");
    BOOST_TEST(thaw::merge(b, a).slowest.request_id == "0");
}

BOOST_AUTO_TEST_CASE(a_thousand_memory_sites_find_their_partner) {
    sample_profile b;
    for (std::uint32_t i = 0; i < 1'000; ++i) b.memory("m" + std::to_string(i), i, 1);
    thaw::profile const sum = thaw::merge(b.p, b.p);
    BOOST_REQUIRE(sum.memory.size() == 1'000u);
    for (std::uint32_t i = 0; i < 1'000; ++i) BOOST_REQUIRE(sum.memory[i].allocations == 2u * i);
}

BOOST_AUTO_TEST_CASE(cpu_time_of_one_half_is_not_shown_as_the_whole) {
    thaw::profile a = quickstart_like();
    thaw::profile b = other_instance();
    b.window.cpu_measured = false;
    BOOST_TEST(!thaw::merge(a, b).window.cpu_measured);
    BOOST_TEST(thaw::merge(a, b).window.cpu_ns == 0u);
}

BOOST_AUTO_TEST_CASE(roots_are_one_node_even_where_their_sites_differ) {
    sample_profile a = two_nodes();
    sample_profile b = two_nodes();
    b.p.sites[0].name = "another process";
    BOOST_TEST(thaw::merge(a.p, b.p).nodes.size() == 3u);
}

BOOST_AUTO_TEST_CASE(a_tree_of_a_hundred_thousand_levels_is_merged) {
    sample_profile b;
    auto const site = b.site(site_kind::scope, "deep");
    for (std::uint32_t i = 0; i < 100'000; ++i) {
        thaw::profile_node n;
        n.site = site;
        n.parent = i;
        n.calls = i;
        b.p.nodes.push_back(n);
    }
    thaw::profile const sum = thaw::merge(b.p, b.p);
    BOOST_REQUIRE(sum.nodes.size() == 100'001u);
    BOOST_TEST(sum.nodes.back().calls == 2u * 99'999u);
}

BOOST_AUTO_TEST_CASE(ten_thousand_sites_of_each_side_find_their_partner) {
    sample_profile a;
    sample_profile b;
    for (std::uint32_t i = 0; i < 10'000; ++i) {
        for (sample_profile* const s : {&a, &b}) {
            std::uint32_t const k = s == &a ? i : 9'999 - i;
            s->p.sites.push_back({"s" + std::to_string(k), "", "", 1, site_kind::scope});
            thaw::profile_node n;
            n.site = i + 1;
            n.parent = 0;
            n.calls = k;
            s->p.nodes.push_back(n);
        }
    }
    thaw::profile const sum = thaw::merge(a.p, b.p);
    BOOST_REQUIRE(sum.nodes.size() == 10'001u);
    for (std::uint32_t i = 0; i < 10'000; ++i) BOOST_REQUIRE(sum.nodes[i + 1].calls == 2u * i);
}

BOOST_AUTO_TEST_SUITE_END()
