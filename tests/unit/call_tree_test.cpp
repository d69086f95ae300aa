#include "private_process.hpp"

#include <thaw/core/call_tree.hpp>
#include <thaw/probe/allocator.hpp>
#include <thaw/probe/scope.hpp>
#include <thaw/probe/wait.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

namespace core = thaw::core;
using thaw::testing::many_sites;
using thaw::testing::private_process;

namespace {

constexpr std::uint64_t mebibyte = 1u << 20;

std::uint64_t total_of(std::map<unsigned, std::uint64_t> const& buckets) {
    std::uint64_t total = 0;
    for (auto const& [bucket, count] : buckets) total += count;
    return total;
}

std::uint64_t entries_in(private_process const& p) {
    std::uint64_t total = 0;
    for (core::node const* n : p.nodes()) total += n->count;
    return total;
}

// Scopes that are open, the innermost last, in memory of the host: a recursion of any depth without a stack.
using open_scopes = std::deque<thaw::scope>;

void close_all(open_scopes& open) {
    while (!open.empty()) open.pop_back();
}

// Enters sites[path[0]], sites[path[1]], ... each inside the one before, a tick apart, and leaves all of them.
void enter_nested(private_process const& p, many_sites const& sites, std::vector<std::size_t> const& path) {
    open_scopes open;
    for (std::size_t const i : path) open.emplace_back(sites[i]), p.pass(1);
    close_all(open);
}

}

BOOST_AUTO_TEST_SUITE(call_tree)

BOOST_AUTO_TEST_CASE(a_new_tree_holds_its_own_four_nodes) {
    private_process const p;
    auto const nodes = p.nodes();
    BOOST_REQUIRE_EQUAL(nodes.size(), 4u);
    BOOST_TEST(p.tree().node_count() == 4u);
    BOOST_TEST(nodes[0]->parent == nullptr);
    for (std::uint32_t i = 0; i < 4; ++i) {
        BOOST_TEST(nodes[i]->ordinal == i);
        BOOST_TEST(nodes[i]->count == 0u);
    }
}

BOOST_AUTO_TEST_CASE(a_child_is_made_once_and_found_again) {
    private_process const p;
    many_sites const sites(40);
    auto& tree = p.tree();
    std::vector<core::node*> children;
    for (std::size_t i = 0; i < sites.size(); ++i) children.push_back(tree.child(&tree.background, p->entry_of(sites[i])));
    BOOST_TEST((std::set<core::node*>(children.begin(), children.end()).size()) == sites.size());
    for (int round = 0; round < 2; ++round)
        for (std::size_t i = 0; i < sites.size(); ++i) {
            BOOST_REQUIRE(tree.child(&tree.background, p->entry_of(sites[i])) == children[i]);
            BOOST_TEST(children[i]->parent == &tree.background);
            BOOST_TEST(children[i]->entry == sites[i].entry);
        }
    BOOST_TEST(tree.node_count() == 4 + sites.size());
    // The same sites under another parent are other nodes.
    for (std::size_t i = 1; i < sites.size(); ++i) {
        core::node* const below = tree.child(children[0], p->entry_of(sites[i]));
        BOOST_TEST(below != children[i]);
        BOOST_TEST(below->parent == children[0]);
    }
}

BOOST_AUTO_TEST_CASE(a_child_that_was_entered_is_found_in_the_cache) {
    private_process const p;
    many_sites const sites(2);
    core::node* const background = p.record().outside();
    for (std::size_t const i : {0u, 1u, 0u}) thaw::scope const s(sites[i]);
    for (std::size_t i = 0; i < 2; ++i) {
        core::cached_child const& slot = p.record().cache_slot(background, sites[i]);
        BOOST_TEST(slot.at == background);
        BOOST_TEST(slot.child == p.find({sites.name(i)}));
    }
    BOOST_TEST(p.find({"s0"})->count == 2u);
    BOOST_TEST(p.find({"s1"})->count == 1u);
}

BOOST_AUTO_TEST_CASE(a_timed_scope_books_what_passed_in_it) {
    private_process const p(16 * mebibyte, core::timing::all, {3ull << 31}); // a tick is 1.5 ns
    many_sites const sites(2);
    for (std::uint64_t const ticks : {100u, 300u, 200u}) {
        thaw::scope const outer(sites[0]);
        p.pass(ticks);
        thaw::scope const inner(sites[1]);
        p.pass(7);
    }
    auto const outer = p.read(*p.find({"s0"}));
    BOOST_TEST(outer.snapshot.count == 3u);
    BOOST_TEST(outer.snapshot.timed == 3u);
    BOOST_TEST(outer.snapshot.weighted == 3u);
    BOOST_TEST(outer.snapshot.sum_ticks == 621u);
    BOOST_TEST(outer.snapshot.max_ticks == 307u);
    std::map<unsigned, std::uint64_t> expected;
    for (std::uint64_t const ticks : {107u, 307u, 207u}) ++expected[core::bucket_of(ticks * 3 / 2)];
    BOOST_TEST((outer.buckets == expected));
    BOOST_TEST(p.read(*p.find({"s0", "s1"})).snapshot.sum_ticks == 21u);
}

BOOST_AUTO_TEST_CASE(without_timing_scopes_are_counted_and_waits_are_timed) {
    private_process const p(16 * mebibyte, core::timing::none);
    many_sites const sites(1);
    for (int i = 0; i < 5; ++i) {
        thaw::scope const s(sites[0]);
        p.pass(10);
        THAW_WAIT("w");
        p.pass(1);
    }
    auto const scope = p.read(*p.find({"s0"}));
    BOOST_TEST(scope.snapshot.count == 5u);
    BOOST_TEST(scope.snapshot.timed == 0u);
    BOOST_TEST(scope.snapshot.sum_ticks == 0u);
    auto const wait = p.read(*p.find({"s0", "w"}));
    BOOST_TEST(wait.snapshot.timed == 5u);
    BOOST_TEST(wait.snapshot.sum_ticks == 5u);
}

BOOST_AUTO_TEST_CASE(a_duration_beyond_the_histogram_counts_in_its_last_bucket_and_the_sum_stays_at_the_maximum) {
    private_process const p;
    many_sites const sites(1);
    core::node* const n = p.tree().child(p.record().outside(), p->entry_of(sites[0]));
    for (std::uint64_t const ticks : {std::uint64_t{1} << 63, std::uint64_t{1} << 63, std::uint64_t{5}}) p.tree().record(*n, ticks);
    auto const f = p.read(*n);
    BOOST_TEST(f.snapshot.sum_ticks == UINT64_MAX);
    BOOST_TEST(f.snapshot.max_ticks == 1ull << 63);
    BOOST_TEST(f.snapshot.timed == 3u);
    std::map<unsigned, std::uint64_t> const expected{{5, 1}, {core::histogram_bucket_count - 1, 2}};
    BOOST_TEST((f.buckets == expected));
}

// ---- recursion ----

BOOST_AUTO_TEST_CASE(a_hundred_thousand_levels_of_recursion_take_one_node_and_one_alias) {
    for (core::timing const mode : {core::timing::all, core::timing::none}) {
        private_process const p(16 * mebibyte, mode);
        many_sites const sites(1);
        constexpr std::uint64_t depth = 100'000;
        open_scopes open;
        for (std::uint64_t i = 0; i < depth; ++i) open.emplace_back(sites[0]), p.pass(1);
        BOOST_TEST(p.tree().node_count() == 4u + 2u);
        close_all(open);
        core::node const* const n = p.find({"s0"});
        BOOST_TEST(p.entries_of(n) == depth);
        BOOST_TEST(p.read(*n).snapshot.timed == (mode == core::timing::all ? 1u : 0u));
        BOOST_TEST(p.read(*n).snapshot.sum_ticks == (mode == core::timing::all ? depth : 0u));
        BOOST_TEST(p.record().current == p.record().outside());
        BOOST_TEST(p.record().mismatched == 0u);
        BOOST_TEST(p.tree().overflow.count == 0u);
    }
}

BOOST_AUTO_TEST_CASE(mutual_recursion_takes_as_many_nodes_at_any_depth) {
    for (std::size_t const sites_in_turn : {2u, 3u, 7u}) {
        private_process const p;
        many_sites const sites(sites_in_turn);
        auto const nodes_after = [&](std::size_t depth) {
            std::vector<std::size_t> path;
            for (std::size_t i = 0; i < depth; ++i) path.push_back(i % sites_in_turn);
            enter_nested(p, sites, path);
            return p.tree().node_count();
        };
        std::uint32_t const shallow = nodes_after(3 * sites_in_turn);
        BOOST_TEST(shallow <= 4 + 2 * sites_in_turn);
        BOOST_TEST(nodes_after(100'000) == shallow);
        BOOST_TEST(entries_in(p) == 100'000 + 3 * sites_in_turn);
        // The outermost entry of each site is timed, and nothing else.
        std::uint64_t sum = 0;
        for (core::node const* n : p.nodes())
            if (n->parent == p.record().outside()) sum += p.read(*n).snapshot.sum_ticks;
        BOOST_TEST(sum == 100'000 + 3 * sites_in_turn);
        for (core::node const* n : p.nodes()) BOOST_TEST(p.read(*n).snapshot.timed <= 2u);
    }
}

BOOST_AUTO_TEST_CASE(random_recursion_over_a_few_sites_takes_a_bounded_number_of_nodes) {
    private_process const p(64 * mebibyte);
    many_sites const sites(3);
    std::mt19937 random(5);
    std::uint64_t entered = 0;
    for (int round = 0; round < 40; ++round) {
        std::vector<std::size_t> path(5000);
        for (auto& i : path) i = random() % sites.size();
        enter_nested(p, sites, path);
        entered += path.size();
    }
    BOOST_TEST(p.tree().node_count() < 500u); // of 200,000 entries
    BOOST_TEST(entries_in(p) == entered);
    BOOST_TEST(p.tree().overflow.count == 0u);
}

// A-B-A-C-A-B: the second B is reached through aliases of A and is open already, though it is not above.
BOOST_AUTO_TEST_CASE(a_node_that_is_open_elsewhere_is_counted_and_not_opened_again) {
    private_process const p;
    many_sites const sites(3);
    enter_nested(p, sites, {0, 1, 0, 2, 0, 1}); // V passes by 1 inside each
    BOOST_TEST(p.read(*p.find({"s0"})).snapshot.sum_ticks == 6u);
    core::node const* const b = p.find({"s0", "s1"});
    BOOST_TEST(p.entries_of(b) == 2u);
    BOOST_TEST(p.read(*b).snapshot.timed == 1u);
    BOOST_TEST(p.read(*b).snapshot.sum_ticks == 5u);
    core::node const* const c = p.find({"s0", "s2"});
    BOOST_TEST(p.read(*c).snapshot.sum_ticks == 3u);
    BOOST_TEST(p.entries_of(p.find({"s0"})) == 3u);
    BOOST_TEST(p.record().mismatched == 0u);
    for (core::node const* n : p.nodes()) BOOST_TEST(n->open_since == 0u);
}

BOOST_AUTO_TEST_CASE(an_alias_of_a_node_that_is_not_open_opens_it) {
    private_process const p;
    many_sites const sites(3);
    enter_nested(p, sites, {0, 1, 0, 2, 0, 1}); // makes the alias
    enter_nested(p, sites, {0, 2, 0, 1});       // goes the same way to it, while B is closed
    core::node const* const b = p.find({"s0", "s1"});
    BOOST_TEST(p.entries_of(b) == 3u);
    BOOST_TEST(p.read(*b).snapshot.timed == 2u);
    BOOST_TEST(p.read(*b).snapshot.sum_ticks == 6u);
}

BOOST_AUTO_TEST_CASE(entering_an_open_node_in_a_loop_makes_no_nodes) {
    private_process const p;
    many_sites const sites(3);
    open_scopes open;
    for (std::size_t const i : {0u, 1u, 0u, 2u, 0u}) open.emplace_back(sites[i]);
    { thaw::scope const b(sites[1]); }
    std::uint32_t const before = p.tree().node_count();
    for (int i = 0; i < 10'000; ++i) thaw::scope const b(sites[1]);
    BOOST_TEST(p.tree().node_count() == before);
    close_all(open);
    BOOST_TEST(p.entries_of(p.find({"s0", "s1"})) == 10'002u);
}

BOOST_AUTO_TEST_CASE(what_is_entered_from_a_recursion_is_a_child_of_the_node_it_folds_into) {
    private_process const p;
    many_sites const sites(3);
    enter_nested(p, sites, {0, 2});
    enter_nested(p, sites, {0, 0, 0, 2});
    enter_nested(p, sites, {0, 1, 0, 2});
    core::node const* const below = p.find({"s0", "s2"});
    BOOST_REQUIRE(below != nullptr);
    BOOST_TEST(below->count == 3u);
    BOOST_TEST(p.read(*below).snapshot.sum_ticks == 3u);
    BOOST_TEST(p.find({"s0", "s1", "s2"}) == nullptr);
}

BOOST_AUTO_TEST_CASE(ids_that_meet_in_the_filter_of_seen_sites_are_no_recursion) {
    private_process const p(64 * mebibyte);
    many_sites const sites(4096 + 8);
    for (std::size_t i = 0; i < sites.size(); ++i) thaw::scope const s(sites[i]);
    BOOST_REQUIRE_EQUAL(sites[4096 + 2].entry->id - sites[2].entry->id, 4096u);
    enter_nested(p, sites, {2, 4096 + 2});
    BOOST_REQUIRE(p.find({"s2", "s4098"}) != nullptr);
    BOOST_TEST(p.find({"s2", "s4098"})->count == 1u);
}

// ---- memory ----

BOOST_AUTO_TEST_CASE(a_hundred_thousand_nodes_are_all_found_again) {
    private_process const p(64 * mebibyte);
    constexpr std::size_t parents = 100, children = 1000;
    many_sites const sites(parents + children);
    auto const once = [&] {
        for (std::size_t i = 0; i < parents; ++i) {
            thaw::scope const outer(sites[i]);
            for (std::size_t j = parents; j < parents + children; ++j) {
                thaw::scope const inner(sites[j]);
                p.pass(j);
            }
        }
    };
    once();
    BOOST_TEST(p.tree().node_count() == 4 + parents + parents * children);
    once(), once();
    BOOST_TEST(p.tree().node_count() == 4 + parents + parents * children);
    std::uint32_t ordinal = 0;
    std::set<std::pair<core::node const*, core::site_entry const*>> paths;
    for (core::node const* n : p.nodes()) {
        BOOST_REQUIRE_EQUAL(n->ordinal, ordinal++);
        if (n->parent == nullptr || n->entry->kind != core::site_kind::scope) continue;
        BOOST_REQUIRE(n->parent->ordinal < n->ordinal);
        BOOST_REQUIRE(paths.emplace(n->parent, n->entry).second);
        BOOST_REQUIRE_EQUAL(n->count, 3u);
        if (n->entry->line >= parents) BOOST_REQUIRE_EQUAL(p.read(*n).snapshot.sum_ticks, 3u * n->entry->line);
    }
    BOOST_TEST(p.tree().lost_durations() == 0u);
}

BOOST_AUTO_TEST_CASE(when_memory_is_used_up_entries_go_to_the_overflow_node_and_none_is_lost) {
    for (core::timing const mode : {core::timing::all, core::timing::none}) {
        private_process const p(256 * 1024, mode);
        many_sites const sites(400);
        std::uint64_t entered = 0;
        for (std::size_t i = 0; i < sites.size(); ++i)
            for (int round = 0; round < 3; ++round) {
                thaw::scope const outer(sites[i]);
                p.pass(10);
                for (std::size_t j = 0; j < 20; ++j) {
                    thaw::scope const inner(sites[(i + j * 7 + 1) % sites.size()]);
                    p.pass(1);
                    ++entered;
                }
                ++entered;
            }
        BOOST_TEST(p.tree().overflow.count > 0u);
        BOOST_TEST(entries_in(p) == entered);
        BOOST_TEST(p.record().current == p.record().outside());
        BOOST_TEST(p.record().mismatched == 0u);
        if (mode == core::timing::none) continue;
        // What is directly under the background, and at the overflow node where it was entered from there, is all the time
        // there was; what overflowed inside a node is in both.
        std::uint64_t outside = 0;
        for (core::node const* n : p.nodes())
            if (n->parent == p.record().outside()) outside += p.read(*n).snapshot.sum_ticks;
        std::uint64_t const all = sites.size() * 3 * 30;
        BOOST_TEST(outside <= all);
        BOOST_TEST(outside + p.read(p.tree().overflow).snapshot.sum_ticks >= all);
    }
}

// With sites that were registered while there was memory, and with those that share the entry [overflow].
BOOST_AUTO_TEST_CASE(inside_the_overflow_node_entries_are_counted_and_the_outermost_is_timed) {
    for (unsigned pattern = 0; pattern < 16; ++pattern) {
        private_process const p;
        many_sites const known(4), unknown(4), filling(16);
        for (std::size_t i = 0; i < 4; ++i) static_cast<void>(p->entry_of(known[i]));
        for (std::size_t i = 0; i < filling.size(); ++i) static_cast<void>(p->entry_of(filling[i]));
        p.exhaust();
        for (std::size_t i = 0; i < 4; ++i) BOOST_TEST(&p->entry_of(unknown[i]) == &p->overflow_entry);
        for (std::size_t i = 0; i < filling.size(); ++i) thaw::scope const s(filling[i]); // what is left of a chunk of nodes
        core::call_tree const& tree = p.tree();
        std::uint64_t const entries = tree.overflow.count + tree.overflow_again.count;
        auto const before = p.read(tree.overflow).snapshot;
        auto const site = [&](unsigned i) -> core::site& { return (pattern >> i & 1u) != 0 ? known[i] : unknown[i]; };
        for (int round = 0; round < 3; ++round) {
            thaw::scope const a(site(0));
            p.pass(100);
            for (int i = 0; i < 2; ++i) {
                thaw::scope const b(site(1));
                p.pass(10);
                thaw::scope const c(site(2));
                thaw::scope const d(site(3));
                p.pass(1);
            }
            p.pass(1000);
        }
        BOOST_TEST(tree.overflow.count + tree.overflow_again.count == entries + 21);
        BOOST_TEST(p.read(tree.overflow).snapshot.timed == before.timed + 3);
        BOOST_TEST(p.read(tree.overflow).snapshot.sum_ticks == before.sum_ticks + 3 * 1122);
        BOOST_TEST(p.record().current == p.record().outside());
        BOOST_TEST(p.record().mismatched == 0u);
    }
}

BOOST_AUTO_TEST_CASE(nothing_is_made_below_the_overflow_node) {
    private_process const p;
    many_sites const known(2), unknown(1);
    for (std::size_t i = 0; i < 2; ++i) static_cast<void>(p->entry_of(known[i]));
    { thaw::scope const s(known[0]); } // there is room for more nodes, though for no more sites
    p.exhaust();
    BOOST_TEST(&p->entry_of(unknown[0]) == &p->overflow_entry);
    std::uint32_t const nodes = p.tree().node_count();
    enter_nested(p, known, {0});
    {
        thaw::scope const outer(known[0]);
        thaw::scope const overflow(unknown[0]);
        BOOST_TEST(p.record().current == &p.tree().overflow);
        thaw::scope const inner(known[1]);
        BOOST_TEST(p.record().current == &p.tree().overflow_again);
    }
    BOOST_TEST(p.tree().node_count() == nodes);
}

BOOST_AUTO_TEST_CASE(nodes_that_exist_go_on_when_memory_is_used_up) {
    private_process const p;
    many_sites const sites(3);
    enter_nested(p, sites, {0, 1});
    p.exhaust();
    enter_nested(p, sites, {0, 1, 2, 1});
    BOOST_TEST(p.find({"s0"})->count == 2u);
    BOOST_TEST(p.find({"s0", "s1"})->count == 2u);
    BOOST_TEST(p.read(*p.find({"s0"})).snapshot.sum_ticks == 6u);
    BOOST_TEST(entries_in(p) == 6u);
}

BOOST_AUTO_TEST_CASE(a_duration_without_room_in_the_histogram_is_in_the_sum_and_counted_as_lost) {
    private_process const p;
    many_sites const sites(1);
    { thaw::scope const s(sites[0]); }
    p.exhaust();
    {
        thaw::scope const s(sites[0]);
        p.pass(1'000'000);
    }
    auto const f = p.read(*p.find({"s0"}));
    BOOST_TEST(f.snapshot.timed == 2u);
    BOOST_TEST(f.snapshot.sum_ticks == 1'000'000u);
    BOOST_TEST(total_of(f.buckets) == 1u);
    BOOST_TEST(p.tree().lost_durations() == 1u);
}

BOOST_AUTO_TEST_CASE(without_memory_recursion_still_comes_back_to_where_it_began) {
    private_process const p;
    many_sites const sites(2);
    enter_nested(p, sites, {0, 1});
    p.exhaust();
    std::vector<std::size_t> path;
    for (std::size_t i = 0; i < 1000; ++i) path.push_back(i % 2);
    enter_nested(p, sites, path);
    BOOST_TEST(entries_in(p) == 1002u);
    BOOST_TEST(p.record().current == p.record().outside());
    BOOST_TEST(p.read(*p.find({"s0"})).snapshot.sum_ticks == 1002u);
    for (core::node const* n : p.nodes()) BOOST_TEST(n->open_since == 0u);
}

// ---- readers ----

BOOST_AUTO_TEST_CASE(durations_are_put_aside_while_a_reader_is_at_the_tree_and_booked_afterwards) {
    private_process const p;
    many_sites const sites(2);
    enter_nested(p, sites, {0});
    core::node const* const n = p.find({"s0"});
    p.tree().hold();
    for (std::uint64_t i = 1; i <= 20; ++i) {
        thaw::scope const s(sites[0]);
        p.pass(i);
    }
    BOOST_TEST(p.read(*n).snapshot.count == 21u);
    BOOST_TEST(p.read(*n).snapshot.timed == 1u);
    p.tree().release_hold();
    BOOST_TEST(p.read(*n).snapshot.timed == 1u);
    p.tree().settle();
    auto const f = p.read(*n);
    BOOST_TEST(f.snapshot.timed == 21u);
    BOOST_TEST(f.snapshot.sum_ticks == 1 + 210u);
    BOOST_TEST(f.snapshot.max_ticks == 20u);
    BOOST_TEST(total_of(f.buckets) == 21u);
}

BOOST_AUTO_TEST_CASE(a_thread_that_ends_while_a_reader_is_at_the_tree_books_what_it_put_aside) {
    private_process const p;
    many_sites const sites(1);
    p.tree().hold();
    enter_nested(p, sites, {0});
    BOOST_TEST(p.read(*p.find({"s0"})).snapshot.timed == 0u);
    p.record().end();
    BOOST_TEST(p.read(*p.find({"s0"})).snapshot.timed == 1u);
    BOOST_TEST(p.read(*p.find({"s0"})).snapshot.sum_ticks == 1u);
}

BOOST_AUTO_TEST_CASE(the_first_duration_after_a_reader_left_brings_those_put_aside_with_it) {
    private_process const p;
    many_sites const sites(2);
    p.tree().hold();
    enter_nested(p, sites, {0, 1});
    p.tree().release_hold();
    enter_nested(p, sites, {1});
    BOOST_TEST(p.read(*p.find({"s0"})).snapshot.sum_ticks == 2u);
    BOOST_TEST(p.read(*p.find({"s0", "s1"})).snapshot.sum_ticks == 1u);
    BOOST_TEST(p.read(*p.find({"s1"})).snapshot.sum_ticks == 1u);
}

BOOST_AUTO_TEST_CASE(more_durations_than_can_be_put_aside_are_booked_at_once) {
    private_process const p;
    many_sites const sites(1);
    p.tree().hold();
    for (std::uint64_t i = 0; i < 10 * core::held_capacity + 3; ++i) {
        thaw::scope const s(sites[0]);
        p.pass(1);
    }
    core::node const* const n = p.find({"s0"});
    BOOST_TEST(p.read(*n).snapshot.timed >= 9 * core::held_capacity);
    p.tree().release_hold();
    p.tree().settle();
    BOOST_TEST(p.read(*n).snapshot.timed == 10 * core::held_capacity + 3);
    BOOST_TEST(p.read(*n).snapshot.sum_ticks == 10 * core::held_capacity + 3);
    BOOST_TEST(total_of(p.read(*n).buckets) == 10 * core::held_capacity + 3);
}

BOOST_AUTO_TEST_CASE(a_reader_knows_which_nodes_are_open) {
    private_process const p;
    many_sites const sites(2);
    thaw::scope const outer(sites[0]);
    { thaw::scope const inner(sites[1]); }
    BOOST_TEST(p.find({"s0"})->open_since != 0u);
    BOOST_TEST(p.find({"s0", "s1"})->open_since == 0u);
}

BOOST_AUTO_TEST_CASE(a_node_that_never_holds_still_is_read_as_torn) {
    private_process const p;
    many_sites const sites(1);
    core::node* const n = p.tree().child(p.record().outside(), p->entry_of(sites[0]));
    p.tree().record(*n, 10);
    core::store_relaxed(n->version, n->version + 1); // as of an owner that was stopped in the middle
    BOOST_TEST(p.read(*n).snapshot.torn);
    core::store_relaxed(n->version, n->version + 1);
    BOOST_TEST(!p.read(*n).snapshot.torn);
}

// What the owner of a node does can be watched in the middle: the page that it counts in cannot be written for once.
namespace watched {
core::node const* node = nullptr;
void* page = nullptr;
std::uint64_t version = 0, faults = 0;
void look(int, siginfo_t*, void*) {
    version = core::load_relaxed(node->version);
    ++faults;
    if (faults > 3 || ::mprotect(page, 4096, PROT_READ | PROT_WRITE) != 0) ::_exit(3);
}
}

BOOST_AUTO_TEST_CASE(the_version_is_odd_while_a_duration_is_booked) {
    if (::sysconf(_SC_PAGESIZE) != 4096) return;
    private_process const p;
    many_sites const sites(1);
    core::node* const n = p.tree().child(p.record().outside(), p->entry_of(sites[0]));
    // The histogram's page alone in a page.
    p.tree().record(*n, 10); // makes the histogram and one page
    while (p->memory.used_bytes() % 4096 != 0) BOOST_REQUIRE(p->memory.allocate(8) != nullptr);
    p.tree().record(*n, 1000);
    watched::page = p->memory.at(p->memory.offset_of(p->memory.allocate(8))); // behind it, in the same page
    watched::page = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(watched::page) & ~std::uintptr_t{4095});
    BOOST_REQUIRE(watched::page > static_cast<void*>(n + 1));
    watched::node = n;
    struct sigaction action {};
    struct sigaction before {};
    action.sa_sigaction = &watched::look;
    action.sa_flags = SA_SIGINFO;
    BOOST_REQUIRE_EQUAL(::sigaction(SIGSEGV, &action, &before), 0);
    BOOST_REQUIRE_EQUAL(::mprotect(watched::page, 4096, PROT_READ), 0);
    p.tree().record(*n, 1000);
    ::mprotect(watched::page, 4096, PROT_READ | PROT_WRITE);
    ::sigaction(SIGSEGV, &before, nullptr);
    BOOST_TEST(watched::faults == 1u);
    BOOST_TEST(watched::version % 2 == 1u);
    BOOST_TEST(n->version == watched::version + 1);
    BOOST_TEST(p.read(*n).snapshot.timed == 3u);
}

// What happens to the node in the middle of a reading: a page of its histogram cannot be read for once.
namespace changed {
core::call_tree* tree = nullptr;
core::node* node = nullptr;
void* page = nullptr;
std::uint64_t faults = 0;
void change(int, siginfo_t*, void*) {
    ++faults;
    if (faults > 3 || ::mprotect(page, 4096, PROT_READ | PROT_WRITE) != 0) ::_exit(3);
    tree->record(*node, 10); // into a page that was read already
}
}

BOOST_AUTO_TEST_CASE(a_node_that_changes_while_it_is_read_is_read_again) {
    if (::sysconf(_SC_PAGESIZE) != 4096) return;
    private_process const p;
    many_sites const sites(1);
    core::node* const n = p.tree().child(p.record().outside(), p->entry_of(sites[0]));
    for (std::uint64_t const ticks : {10u, 1000u}) p.tree().record(*n, ticks);
    // The histogram's last page alone in a page.
    while (p->memory.used_bytes() % 4096 != 0) BOOST_REQUIRE(p->memory.allocate(8) != nullptr);
    p.tree().record(*n, 100'000);
    auto const behind = reinterpret_cast<std::uintptr_t>(p->memory.allocate(8));
    changed::page = reinterpret_cast<void*>(behind & ~std::uintptr_t{4095});
    BOOST_REQUIRE(changed::page > static_cast<void*>(n + 1));
    while (p->memory.used_bytes() % 4096 != 0) BOOST_REQUIRE(p->memory.allocate(8) != nullptr);
    changed::tree = &p.tree();
    changed::node = n;
    struct sigaction action {};
    struct sigaction before {};
    action.sa_sigaction = &changed::change;
    action.sa_flags = SA_SIGINFO;
    BOOST_REQUIRE_EQUAL(::sigaction(SIGSEGV, &action, &before), 0);
    BOOST_REQUIRE_EQUAL(::mprotect(changed::page, 4096, PROT_NONE), 0);
    auto const f = p.read(*n);
    ::mprotect(changed::page, 4096, PROT_READ | PROT_WRITE);
    ::sigaction(SIGSEGV, &before, nullptr);
    BOOST_TEST(changed::faults == 1u);
    BOOST_TEST(!f.snapshot.torn);
    BOOST_TEST(f.snapshot.timed == 4u);
    BOOST_TEST(f.snapshot.sum_ticks == 101'020u);
    std::map<unsigned, std::uint64_t> const expected{{10, 2}, {core::bucket_of(1000), 1}, {core::bucket_of(100'000), 1}};
    BOOST_TEST((f.buckets == expected));
}

namespace {

// Lets a thread call step(i) over and over while this one calls look(), for some tenths of a second.
template <class Step, class Look>
std::uint64_t while_another_thread(Step step, Look look) {
    std::atomic<bool> stop{false};
    std::uint64_t steps = 0;
    std::thread owner([&] {
        for (; !stop.load(std::memory_order_relaxed); ++steps) step(steps);
    });
    std::uint64_t const end = core::read_monotonic_ns() + 300'000'000;
    for (int i = 0; i < 10 || core::read_monotonic_ns() < end; ++i) look();
    stop = true;
    owner.join();
    return steps;
}

}

// With and without a reader that asks the owner to hold back: what is read is of one moment, and nothing ever goes back.
BOOST_AUTO_TEST_CASE(figures_of_a_node_are_of_one_version) {
    for (bool const holds : {false, true}) {
        private_process const p;
        many_sites const sites(1);
        core::node* const n = p.tree().child(p.record().outside(), p->entry_of(sites[0]));
        std::uint64_t reads = 0, torn = 0, unequal = 0, beyond = 0, backwards = 0;
        core::node_snapshot last;
        auto const at = [](std::map<unsigned, std::uint64_t> const& buckets, std::uint64_t ns) {
            auto const it = buckets.find(core::bucket_of(ns));
            return it == buckets.end() ? std::uint64_t{0} : it->second;
        };
        std::uint64_t const entries = while_another_thread(
            [&](std::uint64_t i) {
                core::own_add(n->count, 1u);
                p.tree().record(*n, i % 2 == 0 ? 100 : 300);
            },
            [&] {
                if (holds) p.tree().hold();
                auto const f = p.read(*n);
                if (holds) p.tree().release_hold();
                auto const& s = f.snapshot;
                ++reads;
                if (s.torn) {
                    ++torn;
                    return;
                }
                std::uint64_t const short_ones = at(f.buckets, 100), long_ones = at(f.buckets, 300);
                if (s.weighted != s.timed || short_ones + long_ones != s.weighted || total_of(f.buckets) != s.weighted ||
                    s.sum_ticks != 100 * short_ones + 300 * long_ones || (long_ones != 0 && s.max_ticks != 300))
                    ++unequal;
                if (s.timed > s.count) ++beyond;
                if (s.count < last.count || s.timed < last.timed || s.sum_ticks < last.sum_ticks) ++backwards;
                last = s;
            });
        p.tree().settle();
        BOOST_TEST_MESSAGE(reads << " reads of " << entries << " entries, " << torn << " torn");
        if (holds) BOOST_TEST(torn <= reads / 20);
        BOOST_TEST(unequal == 0u);
        BOOST_TEST(beyond == 0u);
        BOOST_TEST(backwards == 0u);
        BOOST_TEST(p.read(*n).snapshot.timed == entries);
        BOOST_TEST(p.read(*n).snapshot.count == entries);
    }
}

BOOST_AUTO_TEST_CASE(count_and_bytes_of_an_allocator_are_of_one_version) {
    private_process const p;
    core::site bytes{"bytes", "", "", 0, core::site_kind::allocator};
    core::node* const n = p.tree().child(p.record().outside(), p->entry_of(bytes));
    std::uint64_t unequal = 0, reads = 0, torn = 0;
    std::uint64_t const entries = while_another_thread([&](std::uint64_t) { core::record_allocation(*n, 16); },
                                                       [&] {
                                                           auto const s = p.read(*n).snapshot;
                                                           ++reads;
                                                           if (s.torn) ++torn;
                                                           else if (s.sum_ticks != 16 * s.count) ++unequal;
                                                       });
    BOOST_TEST_MESSAGE(reads << " reads of " << entries << " allocations, " << torn << " torn");
    BOOST_TEST(unequal == 0u);
    BOOST_TEST(p.read(*n).snapshot.count == entries);
}

BOOST_AUTO_TEST_CASE(nodes_that_are_being_made_are_seen_whole_and_parents_first) {
    private_process const p(64 * mebibyte);
    many_sites const sites(300);
    std::atomic<bool> done{false};
    std::thread owner([&] {
        for (std::size_t i = 0; i < sites.size(); ++i) {
            core::node* const parent = p.tree().child(p.record().outside(), p->entry_of(sites[i]));
            for (std::size_t j = 0; j < 30; ++j) static_cast<void>(p.tree().child(parent, p->entry_of(sites[(i + j + 1) % sites.size()])));
        }
        done = true;
    });
    std::uint64_t wrong = 0;
    std::size_t seen = 0;
    do {
        std::uint32_t const at_least = p.tree().node_count();
        auto const nodes = p.nodes();
        if (nodes.size() + 1 < at_least || nodes.size() < seen) ++wrong; // the count is raised before the link is set
        seen = nodes.size();
        for (std::size_t i = 0; i < nodes.size(); ++i)
            if (nodes[i]->ordinal != i || nodes[i]->entry == nullptr || (i > 0 && nodes[i]->parent->ordinal >= i)) ++wrong;
    } while (!done);
    owner.join();
    BOOST_TEST(wrong == 0u);
    BOOST_TEST(p.tree().node_count() == 4 + 31 * sites.size());
}

// ---- random walks against a model ----

namespace {

struct model_node {
    std::uint64_t count = 0, sum = 0, max = 0, timed = 0;
    std::map<unsigned, std::uint64_t> buckets;
};
using model = std::map<std::vector<std::string>, model_node>;

// Enters and leaves scopes and waits at random, never a site that is open, and keeps the model by paths of names.
class walker {
public:
    walker(private_process const& p, unsigned seed, std::size_t sites) : m_process(p), m_random(seed), m_sites(sites), m_waits(3, core::site_kind::wait) {}

    void walk(int steps, std::vector<std::string>& path) {
        while (steps-- > 0) {
            pass();
            if (m_random() % 16 == 0) freeze();
            if (path.size() < 8 && m_random() % 8 == 0 && !m_in_wait) enter_wait(path);
            else if (path.size() < 8 && m_random() % 3 != 0) enter_scope(path, std::min(steps, static_cast<int>(m_random() % 10)));
        }
    }
    model const& expected() const { return m_model; }

private:
    void pass() {
        std::uint64_t const ticks = m_random() >> (32 + m_random() % 32);
        m_process.pass(ticks);
        m_v += ticks;
    }
    // The process sleeps between two invocations: the counter runs, or was set back, and no time passes.
    void freeze() {
        m_process->clock.close(m_process->source);
        m_process.pass(m_random() % 2 == 0 ? m_random() : std::uint64_t{0} - m_random() % 1000);
        m_process->clock.open(m_process->source);
    }
    void enter_scope(std::vector<std::string>& path, int steps) {
        std::size_t const i = m_random() % m_sites.size();
        if (std::find(path.begin(), path.end(), m_sites.name(i)) != path.end()) return;
        path.push_back(m_sites.name(i));
        std::uint64_t const begin = m_v;
        {
            thaw::scope const s(m_sites[i]);
            walk(steps, path);
            pass();
        }
        book(path, m_v - begin);
        path.pop_back();
    }
    void enter_wait(std::vector<std::string>& path) {
        std::size_t const i = m_random() % m_waits.size();
        path.push_back(std::string("wait of ") + m_waits.name(i));
        std::uint64_t const begin = m_v;
        {
            thaw::wait_guard const w(m_waits[i]);
            m_in_wait = true;
            pass();
            {
                thaw::wait_guard const nested(m_waits[(i + 1) % m_waits.size()]); // does not count
                pass();
            }
            if (m_random() % 2 == 0) enter_scope(path, 3);
            m_in_wait = false;
        }
        book(path, m_v - begin);
        path.pop_back();
    }
    void book(std::vector<std::string> const& path, std::uint64_t ticks) {
        model_node& n = m_model[path];
        ++n.count, ++n.timed;
        n.sum += ticks;
        n.max = std::max(n.max, ticks);
        ++n.buckets[core::bucket_of(m_process->source.to_ns(ticks))];
    }

    private_process const& m_process;
    std::mt19937_64 m_random;
    many_sites m_sites, m_waits;
    model m_model;
    std::uint64_t m_v = 0;
    bool m_in_wait = false;
};

std::vector<std::string> path_of(private_process const& p, core::node const* n) {
    std::vector<std::string> path;
    for (; n != p.record().outside() && n != nullptr; n = n->parent)
        path.insert(path.begin(), (n->entry->kind == core::site_kind::wait ? "wait of " : "") + std::string(n->entry->name));
    return path;
}

}

BOOST_AUTO_TEST_CASE(random_walks_give_the_figures_of_a_model_for_every_path) {
    for (unsigned seed = 1; seed <= 10; ++seed) {
        private_process const p(64 * mebibyte, core::timing::all, {1651910498});
        walker w(p, seed, 2 + seed * 3);
        std::vector<std::string> path;
        for (int round = 0; round < 30; ++round) {
            bool const reader = round % 7 == 3; // a reader is at the tree for a while
            if (reader) p.tree().hold();
            w.walk(20, path);
            if (reader) p.tree().release_hold();
        }
        p.tree().settle();
        BOOST_REQUIRE(w.expected().size() > 20u);
        std::size_t compared = 0;
        for (core::node const* n : p.nodes()) {
            if (n->entry->kind != core::site_kind::scope && n->entry->kind != core::site_kind::wait) continue;
            BOOST_REQUIRE(n->target == nullptr); // nothing was entered twice
            auto const it = w.expected().find(path_of(p, n));
            BOOST_REQUIRE(it != w.expected().end());
            auto const f = p.read(*n);
            BOOST_REQUIRE_EQUAL(f.snapshot.count, it->second.count);
            BOOST_REQUIRE_EQUAL(f.snapshot.timed, it->second.timed);
            BOOST_REQUIRE_EQUAL(f.snapshot.weighted, it->second.timed);
            BOOST_REQUIRE_EQUAL(f.snapshot.sum_ticks, it->second.sum);
            BOOST_REQUIRE_EQUAL(f.snapshot.max_ticks, it->second.max);
            BOOST_REQUIRE((f.buckets == it->second.buckets));
            ++compared;
        }
        BOOST_TEST(compared == w.expected().size());
        BOOST_TEST(p.record().mismatched == 0u);
        BOOST_TEST(p.tree().lost_durations() == 0u);
    }
}

BOOST_AUTO_TEST_CASE(random_walks_give_the_figures_of_a_model_in_the_profile_too) {
    private_process const p(64 * mebibyte, core::timing::all, {1651910498});
    walker w(p, 99, 12);
    std::vector<std::string> path;
    w.walk(300, path);
    thaw::profile const profile = thaw::detail::collector(*p).collect();
    std::size_t compared = 0;
    for (std::uint32_t i = 0; i < profile.nodes.size(); ++i) {
        auto const& n = profile.nodes[i];
        if (profile.site_of(n).kind != thaw::site_kind::scope && profile.site_of(n).kind != thaw::site_kind::wait) continue;
        std::vector<std::string> names;
        for (std::uint32_t at = i; profile.site_of(profile.nodes[at]).kind != thaw::site_kind::background; at = profile.nodes[at].parent)
            names.insert(names.begin(), (profile.site_of(profile.nodes[at]).kind == thaw::site_kind::wait ? "wait of " : "") +
                                            profile.name_of(profile.nodes[at]));
        auto const it = w.expected().find(names);
        BOOST_REQUIRE(it != w.expected().end());
        BOOST_REQUIRE_EQUAL(n.calls, it->second.count);
        BOOST_REQUIRE_EQUAL(n.timed, it->second.timed);
        BOOST_REQUIRE_EQUAL(n.total_ns, p->source.to_ns(it->second.sum));
        BOOST_REQUIRE_EQUAL(n.max_ns, p->source.to_ns(it->second.max));
        std::map<unsigned, std::uint64_t> buckets;
        for (auto const& b : profile.durations_of(n)) buckets[b.index] += b.count;
        BOOST_REQUIRE((buckets == it->second.buckets));
        ++compared;
    }
    BOOST_TEST(compared == w.expected().size());
    BOOST_TEST(profile.losses.torn_nodes == 0u);
}

// With recursion: where an entry opens a node, that node was closed; what a node books is the time between its openings and
// closings; and what is directly under the background adds up to the time inside.
BOOST_AUTO_TEST_CASE(random_recursion_never_opens_a_node_twice_and_books_all_time_once) {
    for (unsigned seed = 1; seed <= 20; ++seed) {
        private_process const p(64 * mebibyte);
        std::mt19937 random(seed);
        many_sites const sites(1 + seed % 6);
        struct entry {
            core::node const* node;
            std::uint64_t opened_at; // 0: it did not open its node
        };
        std::vector<entry> stack;
        open_scopes open;
        std::set<core::node const*> open_nodes;
        std::map<core::node const*, std::uint64_t> expected, openings;
        std::map<core::site_entry const*, std::uint64_t> entered;
        std::uint64_t inside = 0;
        for (int step = 0; step < 20'000 || !stack.empty(); ++step) {
            std::uint64_t const ticks = random() % 50 + 1;
            p.pass(ticks);
            if (!stack.empty()) inside += ticks;
            bool const enter = step < 20'000 && stack.size() < 40 && random() % 2 == 0;
            if (enter) {
                core::site& site = sites[random() % sites.size()];
                open.emplace_back(site);
                ++entered[site.entry];
                core::node const* const n = p.record().current;
                std::uint64_t const v = p.record().active_now();
                bool const opened = n->target == nullptr && n->open_since == v;
                BOOST_REQUIRE(n->entry == site.entry);
                if (opened) {
                    BOOST_REQUIRE(open_nodes.insert(n).second);
                    ++openings[n];
                } else {
                    BOOST_REQUIRE(n->target != nullptr); // an open node is not entered again, an alias of it is
                    BOOST_REQUIRE(open_nodes.count(n->target) == 1);
                }
                stack.push_back({n, opened ? v : 0});
            } else if (!stack.empty()) {
                entry const last = stack.back();
                BOOST_REQUIRE(p.record().current == last.node);
                open.pop_back();
                stack.pop_back();
                if (last.opened_at != 0) {
                    expected[last.node] += p.record().active_now() - last.opened_at;
                    open_nodes.erase(last.node);
                }
            }
        }
        std::uint64_t outside = 0;
        std::map<core::site_entry const*, std::uint64_t> counted;
        for (core::node const* n : p.nodes()) {
            auto const f = p.read(*n);
            BOOST_REQUIRE_EQUAL(f.snapshot.sum_ticks, expected[n]);
            BOOST_REQUIRE_EQUAL(f.snapshot.timed, openings[n]);
            BOOST_REQUIRE_EQUAL(total_of(f.buckets), openings[n]);
            BOOST_REQUIRE(n->open_since == 0);
            if (n->count != 0) counted[n->entry] += n->count;
            if (n->parent == p.record().outside()) outside += f.snapshot.sum_ticks;
        }
        BOOST_TEST(outside == inside);
        BOOST_TEST((counted == entered));
        BOOST_TEST(p.record().mismatched == 0u);
        // In the profile the self times below the background add up to the same.
        thaw::profile const profile = thaw::detail::collector(*p).collect();
        auto const self = thaw::self_times_ns(profile);
        std::int64_t sum = 0;
        for (std::size_t i = 0; i < self.size(); ++i) {
            auto const kind = profile.site_of(profile.nodes[i]).kind;
            if (kind == thaw::site_kind::process || kind == thaw::site_kind::background) BOOST_TEST(self[i] == 0);
            sum += self[i];
        }
        BOOST_TEST(sum == static_cast<std::int64_t>(inside));
    }
}

BOOST_AUTO_TEST_SUITE_END()
