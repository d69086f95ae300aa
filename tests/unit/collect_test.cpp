#include "private_process.hpp"
#include "recorded.hpp"

#include <thaw/agent/collect.hpp>
#include <thaw/probe/containers.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace core = thaw::core;
using namespace thaw::testing;

namespace {

void work(std::uint64_t ns) {
    THAW_SCOPE("work");
    advance(ns);
}

void invoke(std::uint64_t ns) {
    THAW_HANDLER("h");
    work(ns);
    thaw::vector<char> const bytes(ns, 'x', THAW_ALLOCATOR("bytes"));
}

thaw::invocation_exemplar::part part_of(thaw::profile const& p, std::string_view path) {
    thaw::invocation_exemplar::part found;
    for (auto const& part : p.slowest.parts)
        if (path_of(p, part.node) == path) found = part;
    return found;
}

}

BOOST_AUTO_TEST_SUITE(collect)

BOOST_AUTO_TEST_CASE(threads_merge_into_one_tree_with_one_histogram_a_node) {
    IN_CHILD {
        start_recording_by_hand();
        for (std::uint64_t t = 1; t <= 4; ++t)
            std::thread([t] {
                for (std::uint64_t i = 0; i < 25; ++i) invoke(t * 1'000'000 + i);
            }).join();
        // At once, so that there is more than one record.
        steps turn;
        std::thread other([&] {
            invoke(9'000'000);
            turn.announce(1), turn.await(2);
        });
        turn.await(1);
        invoke(9'000'000);
        turn.announce(2);
        other.join();
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        auto const n = node_at(p, "h/work");
        EXPECT_EQUAL(n.calls, 102);
        EXPECT_EQUAL(n.timed, 102);
        EXPECT_EQUAL(n.total_ns, 250'000'000 + 4 * 300 + 18'000'000);
        EXPECT_EQUAL(n.max_ns, 9'000'000);
        EXPECT_EQUAL(thaw::core::bucket_total(p.durations_of(n).begin(), p.durations_of(n).end()), 102);
        EXPECT_EQUAL(node_at(p, "h").allocations, 102);
        EXPECT_EQUAL(memory_at(p, "bytes").allocations, 102);
        EXPECT_EQUAL(p.window.invocations, 102);
        EXPECT_EQUAL(p.nodes.size(), 3);
    };
}

BOOST_AUTO_TEST_CASE(the_root_and_background_are_the_sums_of_what_is_below) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_SCOPE("around");
            invoke(10);
            THAW_HANDLER("other");
            advance(5);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "[background]").total_ns, node_at(p, "[background]/around").total_ns);
        EXPECT_EQUAL(node_at(p, "").total_ns,
                     node_at(p, "h").total_ns + node_at(p, "other").total_ns + node_at(p, "[background]").total_ns);
        EXPECT_EQUAL(node_at(p, "").calls, 0);
        auto const self = self_times_ns(p);
        EXPECT_EQUAL(std::accumulate(self.begin(), self.end(), std::int64_t{0}), node_at(p, "").total_ns);
    };
}

BOOST_AUTO_TEST_CASE(what_has_no_entries_is_not_in_the_profile) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.nodes.size(), 1);
        EXPECT_EQUAL(p.memory.size(), 0);
        EXPECT_EQUAL(p.window.invocations, 0);
        EXPECT_EQUAL(p.window.cold, 0);
        EXPECT_EQUAL(p.window.active_ns, 0);
        EXPECT(p.slowest.handler_site == thaw::no_index);
        EXPECT_EQUAL(p.slowest.parts.size(), 0);
    };
}

BOOST_AUTO_TEST_CASE(entries_that_are_open_are_known_as_open) {
    IN_CHILD {
        start_recording_by_hand();
        invoke(1);
        {
            THAW_HANDLER("open");
            THAW_SCOPE("a");
            THAW_SCOPE("b");
            thaw::profile const p = profile_now();
            EXPECT_EQUAL(node_at(p, "open").open, 1);
            EXPECT_EQUAL(node_at(p, "open").calls, 1);
            EXPECT_EQUAL(node_at(p, "open").timed, 0);
            EXPECT_EQUAL(node_at(p, "open/a").open, 1);
            EXPECT_EQUAL(node_at(p, "open/a/b").open, 1);
            EXPECT_EQUAL(node_at(p, "h").open, 0);
            EXPECT_EQUAL(p.window.open, 1);
        }
        thaw::profile const p = profile_now();
        for (auto const& n : p.nodes) EXPECT_EQUAL(n.open, 0);
        EXPECT_EQUAL(p.window.open, 0);
    };
}

BOOST_AUTO_TEST_CASE(the_breakdown_of_a_recursion_counts_all_entries_at_its_node) {
    IN_CHILD {
        start_recording_by_hand();
        struct again {
            static void run(int depth) {
                THAW_SCOPE("r");
                advance(1);
                if (depth > 0) run(depth - 1);
            }
        };
        {
            THAW_HANDLER("h");
            again::run(4);
        }
        thaw::profile const p = last_profile();
        EXPECT_EQUAL(node_at(p, "h/r").calls, 5);
        EXPECT_EQUAL(part_of(p, "h/r").calls, 5);
        EXPECT_EQUAL(part_of(p, "h/r").total_ns, 5);
    };
}

BOOST_AUTO_TEST_CASE(a_breakdown_of_a_large_tree_says_that_it_is_cut) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            for (int i = 0; i < 400; ++i) {
                THAW_SCOPE_DYNAMIC("scope." + std::to_string(i));
                advance(1);
            }
        }
        thaw::profile const p = last_profile();
        EXPECT(p.slowest.truncated);
        EXPECT(p.slowest.parts.size() > 200 && p.slowest.parts.size() <= thaw::core::exemplar_record::part_count);
        EXPECT_EQUAL(part_of(p, "h").total_ns, 400);
        EXPECT_EQUAL(p.nodes.size(), 402);
    };
}

BOOST_AUTO_TEST_CASE(the_slowest_of_several_threads_is_found) {
    IN_CHILD {
        start_recording_by_hand();
        invoke(1);
        steps turn;
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t)
            threads.emplace_back([&turn, t] {
                turn.await(t);
                {
                    THAW_HANDLER("h", {.request_id = std::to_string(t)});
                    work(t == 2 ? 500 : 100);
                }
                turn.announce(t + 1);
                turn.await(4);
            });
        for (auto& t : threads) t.join();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.slowest.request_id, "2");
        EXPECT_EQUAL(p.slowest.wall_ns, 500);
        std::uint64_t in_parts = 0;
        for (auto const& part : p.slowest.parts) in_parts += p.name_of(p.nodes[part.node]) == "work" ? part.total_ns : 0;
        EXPECT_EQUAL(in_parts, 500);
    };
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_the_memory_limit_is_in_one_node_and_counted) {
    IN_CHILD {
        start_recording_by_hand({.memory_limit_bytes = 1u << 20});
        constexpr std::uint64_t depth_first = 900, rounds = 12;
        for (std::uint64_t round = 0; round < rounds; ++round) {
            THAW_HANDLER("h");
            THAW_SCOPE_DYNAMIC("round." + std::to_string(round));
            for (std::uint64_t i = 0; i < depth_first; ++i) {
                THAW_SCOPE_DYNAMIC("scope." + std::to_string(i));
                advance(1);
            }
        }
        thaw::profile const p = profile_now();
        EXPECT(p.losses.overflow_entries > 0);
        EXPECT_EQUAL(p.window.invocations, rounds);
        std::uint64_t entries = 0;
        for (auto const& n : p.nodes)
            if (p.site_of(n).kind == thaw::site_kind::scope || p.site_of(n).kind == thaw::site_kind::overflow) entries += n.calls;
        EXPECT_EQUAL(entries, rounds * (depth_first + 1));
        EXPECT_EQUAL(node_at(p, "h").total_ns, rounds * depth_first);
        EXPECT(p.cost.memory_bytes <= 1u << 20);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(figures_never_shrink_from_one_profile_to_the_next) {
    IN_CHILD {
        start_recording_by_hand({.report_every_ms = 0});
        for (std::uint64_t i = 0; i < 20; ++i) {
            invoke(i % 7 * 100);
            if (i % 5 == 0) std::thread([i] { invoke(i); }).join();
            THAW_SCOPE("outside");
            advance(3);
        }
        EXPECT_EQUAL(caught_count(), 24);
        for (std::size_t i = 1; i < caught_count(); ++i) {
            expect_grown(caught()[i - 1], caught()[i]);
            EXPECT_EQUAL(caught()[i].identity.sequence, i + 1);
        }
    };
}

// Where a node of a thread's tree is to be found in the profile.
std::string place_of(core::node const* n) {
    if (n->target != nullptr) n = n->target;
    return n->parent == nullptr ? "" : place_of(n->parent) + "/" + n->entry->name;
}

// Trees of three threads, of which each has some nodes of the others in another order, and durations of its own.
BOOST_AUTO_TEST_CASE(a_collector_that_is_kept_makes_profiles_of_all_that_was_recorded) {
    private_process const p;
    many_sites const sites(60);
    std::vector<core::thread_record*> records{&p.record()};
    for (int i = 0; i < 2; ++i) {
        records.push_back(core::take_record(*p));
        BOOST_REQUIRE(records.back() != nullptr);
    }
    struct figures {
        std::uint64_t calls = 0, total = 0, max = 0;
        std::map<std::uint32_t, std::uint64_t> buckets;
    };
    std::map<std::string, figures> expected;
    thaw::detail::collector kept(*p);
    std::mt19937 random(3);
    for (unsigned round = 0; round < 40; ++round) {
        for (core::thread_record* const r : records) {
            core::node* at = r->outside();
            for (int depth = 0; depth < 6; ++depth) {
                at = r->tree.child(at, p->entry_of(sites[random() % (round + 10)]));
                figures& f = expected[place_of(at)];
                core::own_add(at->count, 1u);
                ++f.calls;
                if (at->target != nullptr) continue;
                std::uint64_t const ns = 1 + random() % 64 * (random() % 3 == 0 ? 1000 : 1);
                r->tree.record(*at, ns);
                f.total += ns;
                if (f.max < ns) f.max = ns;
                ++f.buckets[core::bucket_of(ns)];
            }
        }
        thaw::profile const fresh = thaw::detail::collector(*p).collect();
        for (thaw::profile const* const profile : {&std::as_const(kept.collect()), &fresh}) {
            std::map<std::string, figures> left = expected;
            std::size_t buckets = 0;
            for (std::uint32_t i = 0; i < profile->nodes.size(); ++i) {
                auto const& n = profile->nodes[i];
                buckets += n.bucket_count;
                if (n.calls == 0) continue; // the process and the background
                auto const found = left.find("/" + path_of(*profile, i));
                BOOST_REQUIRE_MESSAGE(found != left.end(), path_of(*profile, i));
                BOOST_REQUIRE_EQUAL(n.calls, found->second.calls);
                BOOST_REQUIRE_EQUAL(n.total_ns, found->second.total);
                BOOST_REQUIRE_EQUAL(n.max_ns, found->second.max);
                std::map<std::uint32_t, std::uint64_t> counted;
                for (auto const& b : profile->durations_of(n)) counted[b.index] += b.count;
                BOOST_REQUIRE((counted == found->second.buckets));
                BOOST_REQUIRE_EQUAL(counted.size(), n.bucket_count);
                left.erase(found);
            }
            BOOST_REQUIRE(left.empty());
            BOOST_REQUIRE_EQUAL(buckets, profile->buckets.size());
        }
    }
    BOOST_TEST(expected.size() > 300u);
}

BOOST_AUTO_TEST_CASE(a_collector_that_is_kept_takes_no_more_memory_for_what_has_not_grown) {
    private_process const p;
    many_sites const sites(20);
    for (std::size_t i = 0; i < sites.size(); ++i) {
        core::node* const n = p.tree().child(p.record().outside(), p->entry_of(sites[i]));
        for (std::uint64_t ticks = 1; ticks < 1000; ticks *= 3) p.tree().record(*n, ticks);
    }
    thaw::detail::collector kept(*p);
    for (int i = 0; i < 2; ++i) BOOST_REQUIRE_EQUAL(kept.collect().nodes.size(), sites.size() + 2);
    thaw::profile const& profile = kept.collect();
    auto const* const nodes = profile.nodes.data();
    auto const* const buckets = profile.buckets.data();
    auto const* const name = profile.sites.back().name.data();
    BOOST_TEST(&kept.collect() == &profile);
    BOOST_TEST(profile.nodes.data() == nodes);
    BOOST_TEST(profile.buckets.data() == buckets);
    BOOST_TEST(profile.sites.back().name.data() == name);
}

BOOST_AUTO_TEST_CASE(own_cost_is_in_the_profile) {
    IN_CHILD {
        start_recording({.report_every_ms = 0});
        invoke(1);
        invoke(1);
        thaw::profile const p = last_profile();
        EXPECT(p.cost.collecting_ns > 0);
        EXPECT(p.cost.reporting_ns > 0);
        EXPECT_EQUAL(p.cost.reports, 1);
        EXPECT(p.cost.recording_ns > 0);
        EXPECT(p.cost.memory_bytes > 0);
    };
}

BOOST_AUTO_TEST_SUITE_END()
