#include "recorded.hpp"

#include <thaw/probe/containers.hpp>
#include <thaw/probe/scope.hpp>

#include <boost/test/unit_test.hpp>

#include <cerrno>
#include <chrono>
#include <csetjmp>
#include <cstdint>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

using namespace thaw::testing;

namespace {

void count_down(int n) {
    THAW_SCOPE("recursive");
    advance(1);
    if (n > 0) count_down(n - 1);
}

void odd(int n);
void even(int n) {
    THAW_SCOPE("even");
    advance(3);
    if (n > 0) odd(n - 1);
}
void odd(int n) {
    THAW_SCOPE("odd");
    advance(5);
    if (n > 0) even(n - 1);
}

template <int N>
void in_a_template() {
    THAW_SCOPE("template");
    advance(N);
}

void throw_through_three() {
    THAW_SCOPE("one");
    advance(1);
    {
        THAW_SCOPE("two");
        advance(10);
        THAW_SCOPE("three");
        advance(100);
        throw std::runtime_error("through");
    }
}

std::jmp_buf back;

[[gnu::noinline]] void jump_over_two() {
    THAW_SCOPE("left.one");
    advance(10);
    THAW_SCOPE("left.two");
    advance(10);
    std::longjmp(back, 1);
}

void named_after_itself() {
    THAW_FUNCTION();
    advance(7);
}

thaw::core::site here{"here", "", "", 0, thaw::core::site_kind::scope};
thaw::core::site inner{"inner", "", "", 0, thaw::core::site_kind::scope};

}

BOOST_AUTO_TEST_SUITE(scope)

BOOST_AUTO_TEST_CASE(every_entry_is_counted_and_timed_exactly) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            for (unsigned i = 1; i <= 3; ++i) {
                THAW_SCOPE("s");
                advance(100 * i);
            }
            advance(50);
        }
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        auto const s = node_at(p, "h/s");
        EXPECT_EQUAL(s.calls, 3);
        EXPECT_EQUAL(s.timed, 3);
        EXPECT_EQUAL(s.total_ns, 600);
        EXPECT_EQUAL(s.max_ns, 300);
        EXPECT_EQUAL(s.total_error_ns, 0);
        EXPECT_EQUAL(s.open, 0);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 650);
        EXPECT_EQUAL(node_at(p, "h").calls, 1);
        EXPECT_EQUAL(node_at(p, "").total_ns, 650);
        auto const self = self_times_ns(p);
        EXPECT_EQUAL(std::accumulate(self.begin(), self.end(), std::int64_t{0}), 650);
    };
}

BOOST_AUTO_TEST_CASE(a_site_knows_its_place) {
    IN_CHILD {
        start_recording_by_hand();
        unsigned line = 0;
        {
            THAW_HANDLER("h");
            line = __LINE__ + 1;
            THAW_SCOPE("s");
        }
        thaw::profile const p = profile_now();
        auto const& site = p.site_of(node_at(p, "h/s"));
        EXPECT_EQUAL(site.line, line);
        EXPECT(std::string_view(site.file).ends_with("scope_test.cpp"));
        EXPECT(site.kind == thaw::site_kind::scope);
        EXPECT(!site.function.empty());
    };
}

// Measured inside of one measurement and around another.
BOOST_AUTO_TEST_CASE(the_cpu_time_of_a_marked_scope_is_exact) {
    IN_CHILD {
        auto const cpu_now = [] { return thaw::core::read_clock_ns(CLOCK_THREAD_CPUTIME_ID); };
        start_recording();
        std::uint64_t outside = 0, inside = 0;
        for (int i = 0; i < 20; ++i) {
            THAW_HANDLER("h");
            std::uint64_t const before = cpu_now();
            {
                THAW_SCOPE_CPU("burns");
                std::uint64_t const begin = cpu_now();
                while (cpu_now() - begin < 200'000) {}
                THAW_SCOPE("not.measured");
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
                inside += cpu_now() - begin;
            }
            outside += cpu_now() - before;
        }
        thaw::profile const p = profile_now();
        EXPECT(node_at(p, "h/burns").cpu_ns >= inside);
        EXPECT(node_at(p, "h/burns").cpu_ns <= outside);
        EXPECT(node_at(p, "h/burns").cpu_ns >= 20 * 200'000u);
        EXPECT_EQUAL(node_at(p, "h/burns").calls, 20);
        EXPECT_EQUAL(node_at(p, "h/burns/not.measured").cpu_ns, 0);
    };
}

BOOST_AUTO_TEST_CASE(of_a_recursion_the_outermost_cpu_time_is_measured) {
    IN_CHILD {
        auto const cpu_now = [] { return thaw::core::read_clock_ns(CLOCK_THREAD_CPUTIME_ID); };
        start_recording();
        std::uint64_t outside = 0;
        {
            THAW_HANDLER("h");
            auto const down = [&](auto const& self, int n) -> void {
                THAW_SCOPE_CPU("down");
                std::uint64_t const begin = cpu_now();
                while (cpu_now() - begin < 100'000) {}
                if (n > 0) self(self, n - 1);
            };
            std::uint64_t const before = cpu_now();
            down(down, 4);
            outside = cpu_now() - before;
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/down").calls, 5);
        EXPECT(node_at(p, "h/down").cpu_ns >= 500'000u);
        EXPECT(node_at(p, "h/down").cpu_ns <= outside);
    };
}

BOOST_AUTO_TEST_CASE(two_in_a_block_nest) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            THAW_SCOPE("a");
            advance(1);
            THAW_SCOPE("b"); THAW_SCOPE("c");
            advance(2);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/a").total_ns, 3);
        EXPECT_EQUAL(node_at(p, "h/a/b").total_ns, 2);
        EXPECT_EQUAL(node_at(p, "h/a/b/c").total_ns, 2);
    };
}

BOOST_AUTO_TEST_CASE(one_under_an_if_without_braces_is_its_whole_body) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            for (int i = 0; i < 10; ++i) {
                if (i % 2 == 0) THAW_SCOPE("even");
                else THAW_SCOPE("odd");
                advance(1);
            }
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/even").calls, 5);
        EXPECT_EQUAL(node_at(p, "h/odd").calls, 5);
        EXPECT_EQUAL(node_at(p, "h/even").total_ns + node_at(p, "h/odd").total_ns, 0);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 10);
    };
}

BOOST_AUTO_TEST_CASE(each_instance_of_a_template_is_counted) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            in_a_template<1>();
            in_a_template<10>();
            in_a_template<10>();
        }
        thaw::profile const p = profile_now();
        std::uint64_t calls = 0, total = 0;
        for (auto const& n : p.nodes)
            if (p.name_of(n) == "template") calls += n.calls, total += n.total_ns;
        EXPECT_EQUAL(calls, 3);
        EXPECT_EQUAL(total, 21);
    };
}

BOOST_AUTO_TEST_CASE(lambdas_and_generic_lambdas_hold_scopes) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            auto const plain = [] {
                THAW_SCOPE("plain");
                advance(2);
            };
            auto const generic = [](auto ns) {
                THAW_SCOPE("generic");
                advance(static_cast<std::uint64_t>(ns));
            };
            plain(), plain(), generic(3), generic(4L), generic(5L);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/plain").total_ns, 4);
        std::uint64_t total = 0;
        for (auto const& n : p.nodes) total += p.name_of(n) == "generic" ? n.total_ns : 0;
        EXPECT_EQUAL(total, 12);
    };
}

BOOST_AUTO_TEST_CASE(a_function_scope_is_named_after_its_function) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            named_after_itself();
        }
        thaw::profile const p = profile_now();
        auto const n = node_at(p, "h/named_after_itself");
        EXPECT_EQUAL(n.total_ns, 7);
        EXPECT(p.site_of(n).function.find("named_after_itself()") != std::string::npos);
    };
}

BOOST_AUTO_TEST_CASE(scope_as_is_named_by_its_argument) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            for (int i = 0; i < 2; ++i) {
                thaw::scope_as<"cache.fill"> const guard;
                advance(4);
            }
        }
        EXPECT_EQUAL(node_at(profile_now(), "h/cache.fill").total_ns, 8);
    };
}

BOOST_AUTO_TEST_CASE(the_same_site_below_two_parents_is_two_nodes) {
    IN_CHILD {
        start_recording_by_hand();
        auto const work = [](std::uint64_t ns) {
            THAW_SCOPE("work");
            advance(ns);
        };
        {
            THAW_HANDLER("h");
            for (unsigned i = 0; i < 100; ++i) {
                { THAW_SCOPE("a"); work(1); }
                { THAW_SCOPE("b"); work(2); }
            }
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/a/work").total_ns, 100);
        EXPECT_EQUAL(node_at(p, "h/b/work").total_ns, 200);
        EXPECT_EQUAL(node_at(p, "h/a").calls, 100);
    };
}

BOOST_AUTO_TEST_CASE(an_exception_leaves_three_scopes_correctly) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            try {
                throw_through_three();
                EXPECT(false);  // not reached
            } catch (std::runtime_error const& e) {
                EXPECT_EQUAL(std::string(e.what()), "through");
            }
            THAW_SCOPE("after");
            advance(1000);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/one").total_ns, 111);
        EXPECT_EQUAL(node_at(p, "h/one/two").total_ns, 110);
        EXPECT_EQUAL(node_at(p, "h/one/two/three").total_ns, 100);
        EXPECT_EQUAL(node_at(p, "h/after").total_ns, 1000);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
        EXPECT_EQUAL(p.window.errors, 0);  // it was caught inside
    };
}

BOOST_AUTO_TEST_CASE(after_a_longjmp_the_next_enclosing_end_resynchronises) {
    for (thaw::timing const mode : {thaw::timing::all, thaw::timing::none})
        IN_CHILD {
            start_recording_by_hand({.timing = mode});
            {
                THAW_HANDLER("h");
                for (int i = 0; i < 2; ++i) {
                    THAW_SCOPE("outer");
                    if (setjmp(back) == 0) jump_over_two();
                    advance(5);
                }
                THAW_SCOPE("after");
                advance(100);
            }
            thaw::profile const p = profile_now();
            bool const timed = mode == thaw::timing::all;
            EXPECT_EQUAL(p.losses.mismatched_scopes, 4);
            EXPECT_EQUAL(node_at(p, "h/outer").calls, 2);
            EXPECT_EQUAL(node_at(p, "h/outer").total_ns, timed ? 50 : 0);
            EXPECT_EQUAL(node_at(p, "h/outer/left.one").calls, 2);
            EXPECT_EQUAL(node_at(p, "h/outer/left.one").timed, 0);
            EXPECT_EQUAL(node_at(p, "h/outer/left.one").open, 0);
            EXPECT_EQUAL(node_at(p, "h/outer/left.one/left.two").calls, 2);
            EXPECT_EQUAL(node_at(p, "h/after").total_ns, timed ? 100 : 0);
            EXPECT_EQUAL(node_at(p, "h").total_ns, 150);
        };
}

BOOST_AUTO_TEST_CASE(after_a_longjmp_to_the_handler_its_end_resynchronises) {
    IN_CHILD {
        start_recording_by_hand();
        for (int i = 0; i < 2; ++i) {
            THAW_HANDLER("h");
            if (setjmp(back) == 0) jump_over_two();
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.losses.mismatched_scopes, 4);
        EXPECT_EQUAL(node_at(p, "h").calls, 2);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 40);
        EXPECT_EQUAL(p.window.invocations, 2);
        EXPECT_EQUAL(p.window.open, 0);
        EXPECT_EQUAL(nodes_at(p, "h/left.one"), 1);
    };
}

// The node that the jump starts from is, after folding, not below the one that it ends in.
BOOST_AUTO_TEST_CASE(after_a_longjmp_out_of_a_recursion_scopes_are_timed_again) {
    IN_CHILD {
        start_recording_by_hand();
        static auto const leap = [] { std::longjmp(back, 1); };
        struct calls {
            static void a(int depth) {
                THAW_SCOPE("a");
                advance(1);
                if (depth == 0) b();
                else {
                    THAW_SCOPE("c");
                    leap();
                }
            }
            static void b() {
                THAW_SCOPE("b");
                if (setjmp(back) == 0) a(1);
                advance(10);
            }
        };
        for (int i = 0; i < 3; ++i) {
            THAW_HANDLER("h");
            calls::a(0);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/a").total_ns, 36);
        EXPECT_EQUAL(node_at(p, "h/a").timed, 3);
        EXPECT_EQUAL(node_at(p, "h/a/b").calls, 3);
        EXPECT_EQUAL(node_at(p, "h/a/b").open, 0);
        EXPECT(node_at(p, "h/a/b").timed >= 2);  // the first may be given up
    };
}

BOOST_AUTO_TEST_CASE(one_that_ends_on_another_thread_is_counted_and_harmless) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            {
                THAW_SCOPE("outer");
                std::optional<thaw::scope> wandering(std::in_place, here);
                std::thread([&] {
                    { THAW_SCOPE("elsewhere"); }
                    wandering.reset();
                    THAW_SCOPE("later");
                }).join();
                advance(5);
            }
            THAW_SCOPE("after");
            advance(100);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.losses.mismatched_scopes, 2);  // its end there, and its absence here
        EXPECT_EQUAL(node_at(p, "h/outer").total_ns, 5);
        EXPECT_EQUAL(node_at(p, "h/outer/here").calls, 1);
        EXPECT_EQUAL(node_at(p, "h/outer/here").open, 0);
        EXPECT_EQUAL(node_at(p, "h/after").total_ns, 100);
        EXPECT_EQUAL(node_at(p, "[background]/elsewhere").calls, 1);
        EXPECT_EQUAL(node_at(p, "[background]/later").calls, 1);
    };
}

BOOST_AUTO_TEST_CASE(one_that_ends_on_a_thread_without_a_record_is_counted_too) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            std::optional<thaw::scope> wandering(std::in_place, here);
            std::thread([&] { wandering.reset(); }).join();
        }
        EXPECT_EQUAL(profile_now().losses.mismatched_scopes, 2);
    };
}

BOOST_AUTO_TEST_CASE(ends_out_of_order_are_counted_and_harmless) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            {
                THAW_SCOPE("outer");
                std::optional<thaw::scope> first(std::in_place, here);
                advance(1);
                std::optional<thaw::scope> second(std::in_place, inner);
                advance(2);
                first.reset();
                advance(4);
                second.reset();
                advance(8);
            }
            THAW_SCOPE("after");
        }
        thaw::profile const p = profile_now();
        EXPECT(p.losses.mismatched_scopes >= 1);
        EXPECT_EQUAL(node_at(p, "h/outer").total_ns, 15);
        EXPECT_EQUAL(node_at(p, "h/outer/here").total_ns, 3);
        EXPECT_EQUAL(node_at(p, "h/outer/here/inner").open, 0);
        EXPECT_EQUAL(node_at(p, "h/after").calls, 1);
    };
}

BOOST_AUTO_TEST_CASE(recursion_is_one_node_whose_outermost_entry_is_timed) {
    IN_CHILD {
        constexpr int depth = 5'000;
        start_recording_by_hand();
        auto const invoke = [](int levels) {
            THAW_HANDLER("h");
            count_down(levels);
        };
        invoke(10);
        auto const memory_before = profile_now().cost.memory_bytes;
        invoke(depth);
        thaw::profile const p = profile_now();
        EXPECT(p.cost.memory_bytes <= memory_before + 1'024);  // pages of the histogram at most
        auto const n = node_at(p, "h/recursive");
        EXPECT_EQUAL(n.calls, 11 + depth + 1);
        EXPECT_EQUAL(n.timed, 2);
        EXPECT_EQUAL(n.total_ns, 11 + depth + 1);
        EXPECT_EQUAL(n.max_ns, depth + 1);
        EXPECT_EQUAL(nodes_at(p, "h/recursive/recursive"), 0);
        auto const self = self_times_ns(p);
        EXPECT_EQUAL(std::accumulate(self.begin(), self.end(), std::int64_t{0}), node_at(p, "").total_ns);
    };
}

BOOST_AUTO_TEST_CASE(mutual_recursion_folds_and_its_total_is_the_root_s) {
    IN_CHILD {
        start_recording_by_hand();
        for (int i = 0; i < 50; ++i) {
            THAW_HANDLER("h");
            even(1 + i % 7);
            odd(1 + i % 5);
        }
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        std::uint64_t calls = 0;
        for (auto const& n : p.nodes) calls += p.name_of(n) == "even" || p.name_of(n) == "odd" ? n.calls : 0;
        std::uint64_t expected = 0;
        for (unsigned i = 0; i < 50; ++i) expected += 2 + i % 7 + 2 + i % 5;
        EXPECT_EQUAL(calls, expected);
        EXPECT_EQUAL(node_at(p, "h/even").total_ns + node_at(p, "h/odd").total_ns, node_at(p, "h").total_ns);
        EXPECT_EQUAL(node_at(p, "h/even").calls + node_at(p, "h/even/odd").calls + node_at(p, "h/odd").calls +
                         node_at(p, "h/odd/even").calls,
                     expected);
    };
}

// a, b, a, d, a, b: the last stands below an alias of a, under which b is not, although b is open.
BOOST_AUTO_TEST_CASE(recursion_through_two_ways_needs_no_node_for_each_round) {
    IN_CHILD {
        start_recording_by_hand();
        static thaw::core::site a{"a", "", "", 0, thaw::core::site_kind::scope}, b = a, d = a;
        b.name = "b", d.name = "d";
        auto const invoke = [](int rounds) {
            THAW_HANDLER("h");
            for (int i = 0; i < rounds; ++i) {
                thaw::scope const a1(a);
                advance(1);
                thaw::scope const b1(b);
                thaw::scope const a2(a);
                thaw::scope const d1(d);
                thaw::scope const a3(a);
                thaw::scope const b2(b);
                advance(10);
            }
        };
        invoke(10);
        thaw::profile const before = profile_now();
        invoke(10'000);
        thaw::profile const p = profile_now();
        EXPECT(p.cost.memory_bytes <= before.cost.memory_bytes + 1'024);
        EXPECT_EQUAL(node_at(p, "h/a").calls, 3 * 10'010);
        EXPECT_EQUAL(node_at(p, "h/a").total_ns, 11 * 10'010);
        EXPECT_EQUAL(node_at(p, "h/a/b").calls, 2 * 10'010);
        EXPECT_EQUAL(node_at(p, "h/a/b").total_ns, 10 * 10'010);
        EXPECT_EQUAL(p.losses.overflow_entries, 0);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(a_dynamic_name_is_one_node_wherever_its_text_lies) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            for (int i = 0; i < 10; ++i) {
                std::string const name = "route." + std::to_string(i % 3);
                THAW_SCOPE_DYNAMIC(name);
                advance(1);
            }
            THAW_SCOPE_DYNAMIC("route.0");
            advance(1);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/route.0").calls, 5);
        EXPECT_EQUAL(node_at(p, "h/route.0").total_ns, 5);
        EXPECT_EQUAL(node_at(p, "h/route.1").calls, 3);
        EXPECT_EQUAL(node_at(p, "h/route.2").calls, 3);
    };
}

BOOST_AUTO_TEST_CASE(a_dynamic_name_need_not_be_terminated_and_may_be_empty) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            std::string_view const text = "abcdef";
            { THAW_SCOPE_DYNAMIC(text.substr(1, 3)); }
            { THAW_SCOPE_DYNAMIC(text.substr(1, 4)); }
            { THAW_SCOPE_DYNAMIC(std::string_view{}); }
            { THAW_SCOPE_DYNAMIC(std::string(4096, 'x')); }
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/bcd").calls, 1);
        EXPECT_EQUAL(node_at(p, "h/bcde").calls, 1);
        EXPECT_EQUAL(node_at(p, "h/" + std::string(4096, 'x')).calls, 1);
        std::uint64_t unnamed = 0;
        for (auto const& n : p.nodes) unnamed += p.name_of(n).empty() ? n.calls : 0;
        EXPECT_EQUAL(unnamed, 1);
    };
}

BOOST_AUTO_TEST_CASE(a_dynamic_name_with_a_zero_in_it_is_one_name) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            for (int i = 0; i < 2'000; ++i) { THAW_SCOPE_DYNAMIC(std::string_view("a\0b", 3)); }
            { THAW_SCOPE_DYNAMIC("another"); }
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.losses.overflow_names, 0);
        EXPECT_EQUAL(node_at(p, "h/another").calls, 1);
        EXPECT(p.nodes.size() < 10);
    };
}

// A thousand names, each the beginning of the next, share a table of some thousand places.
BOOST_AUTO_TEST_CASE(dynamic_names_that_begin_alike_are_told_apart) {
    IN_CHILD {
        start_recording_by_hand();
        constexpr unsigned names = 1'000;
        {
            THAW_HANDLER("h");
            for (int round = 0; round < 2; ++round)
                for (unsigned i = names; i > 0; --i) { THAW_SCOPE_DYNAMIC(std::string(i, 'x')); }
            thaw::wait("x", [] {});
        }
        thaw::profile const p = profile_now();
        unsigned scopes = 0, waits = 0;
        for (auto const& n : p.nodes) {
            if (p.name_of(n)[0] != 'x') continue;
            if (p.site_of(n).kind == thaw::site_kind::wait) ++waits;
            else ++scopes, EXPECT_EQUAL(n.calls, 2);
        }
        EXPECT_EQUAL(scopes, names);
        EXPECT_EQUAL(waits, 1);
    };
}

BOOST_AUTO_TEST_CASE(dynamic_names_beyond_the_limit_share_one_node_and_are_counted) {
    IN_CHILD {
        constexpr unsigned names = thaw::core::dynamic_name_count + 500;
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            for (unsigned round = 0; round < 2; ++round)
                for (unsigned i = 0; i < names; ++i) {
                    THAW_SCOPE_DYNAMIC("name." + std::to_string(i));
                    advance(1);
                }
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/name.0").calls, 2);
        EXPECT_EQUAL(node_at(p, "h/[other names]").calls, 2 * 500);
        EXPECT_EQUAL(node_at(p, "h/[other names]").total_ns, 2 * 500);
        EXPECT(p.losses.overflow_names >= 500);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 2 * names);
    };
}

BOOST_AUTO_TEST_CASE(without_timing_entries_are_counted_only) {
    IN_CHILD {
        start_recording_by_hand({.timing = thaw::timing::none});
        {
            THAW_HANDLER("h");
            for (int i = 0; i < 1'000; ++i) {
                THAW_SCOPE("s");
                THAW_SCOPE("t");
                advance(1);
            }
            count_down(3);
            THAW_WAIT("w");
            advance(10);
        }
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        EXPECT_EQUAL(node_at(p, "h/s").calls, 1'000);
        EXPECT_EQUAL(node_at(p, "h/s").timed, 0);
        EXPECT_EQUAL(node_at(p, "h/s").total_ns, 0);
        EXPECT_EQUAL(node_at(p, "h/s/t").calls, 1'000);
        EXPECT_EQUAL(node_at(p, "h/recursive").calls, 4);
        EXPECT_EQUAL(node_at(p, "h/w").total_ns, 10);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 1'014);
    };
}

BOOST_AUTO_TEST_CASE(nothing_is_recorded_while_the_reporter_runs) {
    IN_CHILD {
        static auto const numbers = [](unsigned n) { return thaw::vector<int>(n, 1, THAW_ALLOCATOR("numbers")); };
        static std::vector<thaw::vector<int>> kept;
        thaw::start({.report_every_ms = 0}, [](thaw::profile const& p) {
            THAW_SCOPE("in.reporter");
            { THAW_WAIT("wait.in.reporter"); advance(1'000); }
            { THAW_SCOPE_DYNAMIC("dynamic.in.reporter"); }
            { THAW_HANDLER("handler.in.reporter"); thaw::fail(); }
            { auto const passing = numbers(100); }
            kept.clear();                   // blocks that handlers have made
            kept.push_back(numbers(1'000)); // and one for a handler to free
            EXPECT(!thaw::report_now());
            keep_profile(p);
        });
        use_fake_clock();
        for (int i = 0; i < 5; ++i) {
            THAW_HANDLER("h");
            THAW_SCOPE("s");
            kept.clear();
            kept.push_back(numbers(7));
            advance(10);
        }
        EXPECT_EQUAL(caught_count(), 5);
        thaw::profile const p = last_profile();
        for (auto const& n : p.nodes) EXPECT(p.name_of(n).find("in.reporter") == std::string::npos);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 50);
        EXPECT_EQUAL(node_at(p, "h/s").allocated_bytes, 5 * 7 * sizeof(int));
        EXPECT_EQUAL(node_at(p, "").allocated_bytes + node_at(p, "h").allocated_bytes, 0);
        EXPECT_EQUAL(p.window.invocations, 5);
        EXPECT_EQUAL(p.window.errors, 0);
        EXPECT_EQUAL(p.window.active_ns, 50);
        // The account of a site stays exact, since a block may outlive the report it was made or freed in.
        EXPECT_EQUAL(memory_at(p, "numbers").live_bytes(), 7 * sizeof(int));
        EXPECT_EQUAL(memory_at(p, "numbers").live_blocks(), 1);
        kept.clear();
        EXPECT_EQUAL(memory_at(profile_now(), "numbers").live_bytes(), 0);
        kept.clear();
    };
}

BOOST_AUTO_TEST_CASE(no_marker_changes_errno) {
    IN_CHILD {
        thaw::start({.report_every_ms = 0}, [](thaw::profile const&) { errno = ENOSPC; });
        auto const round = [](int number) {
            int const expected = number;
            errno = expected;
            {
                THAW_HANDLER("h");
                EXPECT_EQUAL(errno, expected);
                {
                    THAW_SCOPE("s");
                    EXPECT_EQUAL(errno, expected);
                    THAW_WAIT("w");
                    EXPECT_EQUAL(errno, expected);
                }
                EXPECT_EQUAL(errno, expected);
                { THAW_SCOPE_DYNAMIC("d" + std::to_string(number)); }
                EXPECT_EQUAL(errno, expected);
                thaw::wait("x", [] {});
                { thaw::vector<int> const v(3, 1, THAW_ALLOCATOR("v")); }
                EXPECT_EQUAL(errno, expected);
                EXPECT(thaw::report_now());
                EXPECT_EQUAL(errno, expected);
            }
            EXPECT_EQUAL(errno, expected);
            thaw::invocation_handle h = THAW_INVOCATION("i", {.request_id = "r"});
            { THAW_RESUME(h); }
            EXPECT_EQUAL(errno, expected);
            h.close();
            EXPECT_EQUAL(errno, expected);
        };
        round(EBADF), round(EPERM);
        std::thread([&] { round(EINTR); }).join();
        errno = EDOM;
        thaw::stop();
        EXPECT_EQUAL(errno, EDOM);
    };
}

BOOST_AUTO_TEST_CASE(before_start_and_around_it_markers_do_nothing) {
    IN_CHILD {
        std::optional<thaw::scope> around(std::in_place, here);
        { THAW_SCOPE("early"); THAW_WAIT("early.wait"); THAW_SCOPE_DYNAMIC("early.dynamic"); }
        { THAW_HANDLER("early.handler"); }
        EXPECT(thaw::core::find_process() == nullptr);
        EXPECT(!thaw::report_now());
        start_recording_by_hand();
        around.reset();
        {
            THAW_HANDLER("h");
            THAW_SCOPE("s");
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.nodes.size(), 3);
        EXPECT_EQUAL(node_at(p, "h/s").calls, 1);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(outside_of_handlers_scopes_stand_below_background) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_SCOPE("loop");
            for (int i = 0; i < 3; ++i) {
                advance(1'000);
                THAW_HANDLER("h");
                THAW_SCOPE("s");
                advance(10);
            }
            advance(1'000);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "[background]/loop").calls, 1);
        EXPECT_EQUAL(node_at(p, "[background]/loop").total_ns, 30);  // the clock stands still while no invocation is open
        EXPECT_EQUAL(node_at(p, "h/s").total_ns, 30);
        EXPECT(p.site_of(node_at(p, "[background]")).kind == thaw::site_kind::background);
    };
}

BOOST_AUTO_TEST_SUITE_END()
