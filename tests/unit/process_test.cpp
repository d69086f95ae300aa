#include "private_process.hpp"

#include <thaw/core/process.hpp>
#include <thaw/probe/scope.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace core = thaw::core;
using core::site_kind;
using thaw::testing::many_sites;
using thaw::testing::private_process;

namespace {

constexpr std::uint64_t mebibyte = 1u << 20;

core::site& named(private_process const& p, std::string_view name, site_kind kind = site_kind::scope) {
    return p->dynamic_site(name.data(), name.size(), kind, "f", "file.cpp", 7);
}

std::vector<core::site_entry const*> entries(private_process const& p) {
    std::vector<core::site_entry const*> all;
    for (core::site_entry const* e = core::load_acquire(p->entries); e != nullptr; e = e->next) all.push_back(e);
    return all;
}

// Runs f(0) to f(count - 1) at once, on a thread each.
template <class F>
void at_once(unsigned count, F f) {
    std::atomic<unsigned> ready{0};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < count; ++t)
        threads.emplace_back([&, t] {
            ++ready;
            while (ready.load() < count) std::this_thread::yield();
            f(t);
        });
    for (auto& t : threads) t.join();
}

}

BOOST_AUTO_TEST_SUITE(process)

BOOST_AUTO_TEST_CASE(a_site_is_registered_once_with_copies_of_its_strings) {
    private_process const p;
    std::string name = "name", function = "function", file = "file";
    core::site s{name.c_str(), function.c_str(), file.c_str(), 42, site_kind::wait};
    core::site_entry const& e = p->entry_of(s);
    BOOST_TEST(s.entry == &e);
    name = "gone", function = "lost", file = "left"; // as the strings of a module that was unloaded
    BOOST_TEST(std::string(e.name) == "name");
    BOOST_TEST(std::string(e.function) == "function");
    BOOST_TEST(std::string(e.file) == "file");
    BOOST_TEST(e.line == 42u);
    BOOST_TEST((e.kind == site_kind::wait));
    BOOST_TEST(&p->entry_of(s) == &e);
    BOOST_TEST(&p->register_site(s) == &e);
    BOOST_TEST(entries(p).size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_site_without_strings_has_empty_ones) {
    private_process const p;
    core::site s{nullptr, nullptr, nullptr, 0, site_kind::scope};
    core::site_entry const& e = p->entry_of(s);
    BOOST_TEST(std::string(e.name).empty());
    BOOST_TEST(std::string(e.function).empty());
    BOOST_TEST(std::string(e.file).empty());
}

BOOST_AUTO_TEST_CASE(strings_of_every_length_are_copied_whole) {
    private_process const p;
    std::vector<std::string> names;
    std::vector<core::site> sites;
    for (std::size_t size = 0; size <= 200; ++size) names.emplace_back(size, static_cast<char>('a' + size % 26));
    for (auto const& n : names) sites.push_back({n.c_str(), "", "", 0, site_kind::scope});
    for (auto& s : sites) static_cast<void>(p->entry_of(s));
    for (std::size_t i = 0; i < sites.size(); ++i) BOOST_REQUIRE_EQUAL(std::string(sites[i].entry->name), names[i]);
}

BOOST_AUTO_TEST_CASE(ids_are_dense_after_those_of_the_process_itself) {
    private_process const p;
    many_sites const sites(1000);
    for (std::size_t i = 0; i < sites.size(); ++i) BOOST_REQUIRE_EQUAL(p->entry_of(sites[i]).id, core::builtin_entries + i);
    BOOST_TEST(p->process_entry.id == 0u);
    BOOST_TEST(p->background_entry.id == 1u);
    BOOST_TEST(p->overflow_entry.id == 2u);
    BOOST_TEST(p->overflow_allocator.id == 3u);
    auto const all = entries(p);
    BOOST_TEST(all.size() == sites.size());
    BOOST_TEST(all.front() == sites[sites.size() - 1].entry); // the last one first
}

BOOST_AUTO_TEST_CASE(a_site_that_many_threads_register_at_once_gets_one_entry) {
    private_process const p;
    constexpr unsigned threads = 8;
    many_sites const sites(2000);
    std::vector<std::vector<core::site_entry const*>> seen(threads);
    at_once(threads, [&](unsigned t) {
        for (std::size_t i = 0; i < sites.size(); ++i) seen[t].push_back(&p->entry_of(sites[i]));
    });
    for (unsigned t = 1; t < threads; ++t) BOOST_TEST((seen[t] == seen[0]));
    auto const all = entries(p);
    BOOST_TEST(all.size() == sites.size());
    std::set<core::site_entry const*> const once(all.begin(), all.end());
    BOOST_TEST(once.size() == sites.size());
    std::set<std::uint32_t> ids;
    for (core::site_entry const* e : all) ids.insert(e->id);
    BOOST_TEST(ids.size() == sites.size());
    BOOST_TEST(*ids.begin() >= core::builtin_entries);
    for (std::size_t i = 0; i < sites.size(); ++i) BOOST_REQUIRE_EQUAL(std::string(sites[i].entry->name), sites.name(i));
    BOOST_TEST(p->lost.sites == 0u);
}

BOOST_AUTO_TEST_CASE(sites_that_many_threads_register_at_once_have_ids_of_their_own) {
    for (int round = 0; round < 4; ++round) {
        private_process const p(64 * mebibyte);
        constexpr unsigned threads = 4;
        constexpr std::size_t each = 10'000;
        many_sites const sites(threads * each);
        at_once(threads, [&](unsigned t) {
            for (std::size_t i = t * each; i < (t + 1) * each; ++i) static_cast<void>(p->entry_of(sites[i]));
        });
        std::vector<bool> taken(core::builtin_entries + sites.size());
        for (core::site_entry const* e : entries(p)) {
            BOOST_REQUIRE(e->id >= core::builtin_entries && e->id < taken.size());
            BOOST_REQUIRE(!taken[e->id]);
            taken[e->id] = true;
        }
        BOOST_TEST(entries(p).size() == sites.size());
    }
}

BOOST_AUTO_TEST_CASE(allocator_sites_have_slots_of_their_own_until_those_run_out) {
    private_process const p;
    many_sites const sites(core::allocator_slot_count + 100, site_kind::allocator);
    std::size_t const own = core::allocator_slot_count - 2; // 0: not registered, 1: shared
    std::set<std::uint32_t> slots;
    for (std::size_t i = 0; i < own; ++i) {
        core::site_entry const& e = p->entry_of(sites[i]);
        BOOST_REQUIRE(e.slot >= 2 && e.slot < core::allocator_slot_count);
        BOOST_REQUIRE(slots.insert(e.slot).second);
    }
    BOOST_TEST(p->lost.sites == 0u);
    for (std::size_t i = own; i < sites.size(); ++i) {
        BOOST_REQUIRE(&p->entry_of(sites[i]) == &p->overflow_allocator);
        BOOST_REQUIRE_EQUAL(p->entry_of(sites[i]).slot, 1u);
    }
    BOOST_TEST(p->lost.sites == sites.size() - own);
    BOOST_TEST(p->slot_count == core::allocator_slot_count);
    many_sites const scopes(1); // others than allocators need no slot
    BOOST_TEST(p->entry_of(scopes[0]).slot == 0u);
    BOOST_TEST(&p->entry_of(scopes[0]) != &p->overflow_entry);
}

BOOST_AUTO_TEST_CASE(without_memory_a_site_shares_the_overflow_entry_and_is_counted) {
    private_process const p;
    p.exhaust();
    many_sites const scopes(3), allocators(2, site_kind::allocator), waits(1, site_kind::wait);
    for (int round = 0; round < 2; ++round) { // the second time nothing is tried again
        for (std::size_t i = 0; i < scopes.size(); ++i) BOOST_TEST(&p->entry_of(scopes[i]) == &p->overflow_entry);
        for (std::size_t i = 0; i < allocators.size(); ++i) BOOST_TEST(&p->entry_of(allocators[i]) == &p->overflow_allocator);
        BOOST_TEST(&p->entry_of(waits[0]) == &p->overflow_entry);
        BOOST_TEST(p->lost.sites == 6u);
    }
    BOOST_TEST(entries(p).empty()); // the shared ones are not in the list
    BOOST_TEST(p->overflow_entry.next == nullptr);
}

BOOST_AUTO_TEST_CASE(an_entry_is_whole_or_the_overflow_entry_wherever_memory_ends) {
    for (std::size_t left = 0; left <= 400; left += 8) {
        private_process const p(256 * 1024);
        p.exhaust(left);
        core::site s{"a.name.of.some.length", "a function of some length", "a/file/of/some/length.cpp", 1, site_kind::scope};
        core::site_entry const& e = p->entry_of(s);
        if (&e == &p->overflow_entry) {
            BOOST_TEST(p->lost.sites == 1u);
            continue;
        }
        BOOST_TEST(std::string(e.name) == s.name);
        BOOST_TEST(std::string(e.function) == s.function);
        BOOST_TEST(std::string(e.file) == s.file);
        BOOST_TEST(p->lost.sites == 0u);
    }
}

BOOST_AUTO_TEST_CASE(the_same_dynamic_name_is_the_same_site) {
    private_process const p;
    std::string const name = "route./users";
    core::site& s = named(p, name);
    BOOST_TEST(&named(p, std::string("route.") + "/users") == &s);
    BOOST_TEST(&named(p, "route./user") != &s);
    BOOST_TEST(&named(p, "route./users/") != &s);
    BOOST_TEST(&named(p, name, site_kind::wait) != &s);
    BOOST_TEST(&named(p, name, site_kind::wait) == &named(p, name, site_kind::wait));
    BOOST_TEST(static_cast<void const*>(s.name) != static_cast<void const*>(name.data()));
    BOOST_TEST(std::string(s.name) == name);
    BOOST_TEST((s.kind == site_kind::scope));
    BOOST_TEST(p->dynamic_count == 4u);
    BOOST_TEST(std::string(p->entry_of(s).name) == name);
}

BOOST_AUTO_TEST_CASE(a_name_that_is_part_of_a_buffer_ends_where_the_view_ends) {
    private_process const p;
    std::string const buffer = "abcdef";
    core::site& abc = named(p, std::string_view(buffer).substr(0, 3));
    BOOST_TEST(std::string(abc.name) == "abc");
    BOOST_TEST(&named(p, "abc") == &abc);
    BOOST_TEST(&named(p, std::string_view(buffer).substr(0, 4)) != &abc);
}

BOOST_AUTO_TEST_CASE(an_empty_name_is_a_name) {
    private_process const p;
    core::site& empty = named(p, "");
    BOOST_TEST(&named(p, std::string_view{}) == &empty); // data() is null
    BOOST_TEST(&named(p, std::string{}) == &empty);
    BOOST_TEST(std::string(empty.name).empty());
    BOOST_TEST(p->dynamic_count == 1u);
    {
        thaw::dynamic_scope const s("");
    }
    BOOST_TEST(p.find({""}) != nullptr);
}

BOOST_AUTO_TEST_CASE(hostile_names_are_kept_as_they_are) {
    private_process const p;
    std::string const names[] = {"\xff\xfe\x80", "<script>alert(1)</script>", "\"quoted\" \\ \n\t\x1b[31m", "../../etc/passwd",
                                 std::string(4096, 'x'), "%s%n", "\xc3\xa9t\xc3\xa9", std::string(1, '\x01')};
    std::set<core::site const*> sites;
    for (auto const& n : names) {
        core::site const& s = named(p, n);
        sites.insert(&s);
        BOOST_TEST(&named(p, n) == &s);
        BOOST_TEST(n.rfind(s.name, 0) == 0u); // whole, or its beginning
    }
    BOOST_TEST(sites.size() == std::size(names));
}

BOOST_AUTO_TEST_CASE(a_name_with_a_zero_in_it_is_the_same_site_every_time) {
    private_process const p;
    std::string_view const name("a\0b", 3);
    core::site& s = named(p, name);
    for (int i = 0; i < 2000; ++i) BOOST_REQUIRE(&named(p, name) == &s);
    BOOST_TEST(p->dynamic_count == 1u);
    BOOST_TEST(p->lost.names == 0u);
    BOOST_TEST(&named(p, "other") != &p->other_scopes);
}

BOOST_AUTO_TEST_CASE(names_of_a_megabyte_leave_room_for_others) {
    private_process const p(16 * mebibyte);
    for (char c = 'a'; c <= 'z'; ++c) static_cast<void>(p->entry_of(named(p, std::string(mebibyte, c))));
    many_sites const sites(1);
    BOOST_TEST(&p->entry_of(sites[0]) != &p->overflow_entry);
    BOOST_TEST(p->memory.used_bytes() < mebibyte);
    BOOST_TEST(p->lost.names == 0u);
}

BOOST_AUTO_TEST_CASE(beyond_1024_names_all_others_share_one_and_are_counted) {
    private_process const p;
    std::set<core::site const*> sites;
    for (std::uint32_t i = 0; i < core::dynamic_name_count; ++i)
        sites.insert(&named(p, "name " + std::to_string(i), i % 2 == 0 ? site_kind::scope : site_kind::wait));
    BOOST_TEST(sites.size() == core::dynamic_name_count);
    BOOST_TEST(p->lost.names == 0u);
    for (int i = 0; i < 100; ++i) {
        BOOST_REQUIRE(&named(p, "more " + std::to_string(i)) == &p->other_scopes);
        BOOST_REQUIRE(&named(p, "more " + std::to_string(i), site_kind::wait) == &p->other_waits);
    }
    BOOST_TEST(p->lost.names == 200u);
    BOOST_TEST(p->dynamic_count == core::dynamic_name_count);
    for (std::uint32_t i = 0; i < core::dynamic_name_count; ++i) // those that have a site keep it
        BOOST_REQUIRE(sites.count(&named(p, "name " + std::to_string(i), i % 2 == 0 ? site_kind::scope : site_kind::wait)) == 1);
    BOOST_TEST(p->lost.names == 200u);
    {
        thaw::dynamic_scope const s(std::string("one more"));
    }
    BOOST_TEST(p.find({"[other names]"}) != nullptr);
}

BOOST_AUTO_TEST_CASE(without_memory_new_names_share_a_site_and_are_counted) {
    private_process const p;
    core::site& known = named(p, "known");
    p.exhaust();
    BOOST_TEST(&named(p, "known") == &known);
    BOOST_TEST(&named(p, "new") == &p->other_scopes);
    BOOST_TEST(&named(p, "new", site_kind::wait) == &p->other_waits);
    BOOST_TEST(p->lost.names == 2u);
    BOOST_TEST(&p->entry_of(named(p, "newer")) == &p->overflow_entry);
    BOOST_TEST(p->lost.sites == 1u);
    {
        thaw::dynamic_scope const s("newest");
    }
    BOOST_TEST(p.tree().overflow.count == 1u);
}

BOOST_AUTO_TEST_CASE(threads_that_bring_the_same_names_at_once_agree_on_their_sites) {
    private_process const p;
    constexpr unsigned threads = 8, names = 100;
    std::vector<std::vector<core::site const*>> seen(threads);
    at_once(threads, [&](unsigned t) {
        for (unsigned i = 0; i < names; ++i) seen[t].push_back(&named(p, "name " + std::to_string(i)));
    });
    for (unsigned t = 1; t < threads; ++t) BOOST_TEST((seen[t] == seen[0]));
    std::set<core::site const*> const once(seen[0].begin(), seen[0].end());
    BOOST_TEST(once.size() == names);
    for (unsigned i = 0; i < names; ++i) BOOST_REQUIRE_EQUAL(std::string(seen[0][i]->name), "name " + std::to_string(i));
    BOOST_TEST(p->lost.names == 0u);
}

BOOST_AUTO_TEST_CASE(a_record_that_was_given_up_is_taken_again) {
    private_process const p;
    core::thread_record* const second = core::take_record(*p);
    BOOST_REQUIRE(second != nullptr);
    BOOST_TEST(second != &p.record());
    std::size_t const used = p->memory.used_bytes();
    core::store_release(second->in_use, 0u);
    BOOST_TEST(core::take_record(*p) == second);
    BOOST_TEST(p->memory.used_bytes() == used);
    p.exhaust();
    BOOST_TEST(core::take_record(*p) == nullptr);
}

BOOST_AUTO_TEST_CASE(a_process_that_does_not_fit_is_refused) {
    thaw::options o;
    o.memory_limit_bytes = 4096;
    BOOST_TEST(thaw::detail::make_process(o) == nullptr);
}

// A registration beyond the last slot is seen with the count raised and not set back yet.
BOOST_AUTO_TEST_CASE(a_profile_is_collected_while_slots_run_out) {
    private_process const p;
    p.record().allocator_slots = static_cast<core::allocator_slot*>(p->memory.allocate(core::allocator_slot_count * sizeof(core::allocator_slot)));
    BOOST_REQUIRE(p.record().allocator_slots != nullptr);
    p->slot_count = core::allocator_slot_count + 8;
    BOOST_TEST(thaw::detail::collector(*p).collect().memory.empty());
}

BOOST_AUTO_TEST_SUITE_END()
