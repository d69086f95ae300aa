#include "recorded.hpp"

#include <thaw/agent/handler.hpp>
#include <thaw/probe/containers.hpp>

#include <boost/test/unit_test.hpp>

#include <csetjmp>
#include <cstdint>
#include <exception>
#include <optional>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <type_traits>
#include <unistd.h>
#include <utility>
#include <vector>

using namespace thaw::testing;

namespace {

std::jmp_buf back;

void work(std::uint64_t ns) {
    THAW_SCOPE("work");
    advance(ns);
}

// One handler site for the tests that invoke from several places.
void invoke(std::uint64_t ns) {
    THAW_HANDLER("h");
    advance(ns);
}

thaw::invocation_handle open_handle(std::string_view id = {}) { return THAW_INVOCATION("h", {.request_id = id}); }

thaw::invocation_exemplar slowest_of(std::size_t profile) {
    return profile < caught().size() ? caught()[profile].slowest : thaw::invocation_exemplar{};
}

thaw::invocation_exemplar::part part_of(thaw::profile const& p, std::string_view path) {
    for (auto const& part : p.slowest.parts)
        if (path_of(p, part.node) == path) return part;
    return {};
}

// Uses the thread's CPU for that long.
void burn(std::uint64_t ns) {
    std::uint64_t const begin = thaw::core::read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    while (thaw::core::read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin < ns) {}
}

}

BOOST_AUTO_TEST_SUITE(handler)

static_assert(std::is_nothrow_move_constructible_v<thaw::invocation_handle> && !std::is_copy_constructible_v<thaw::invocation_handle>);
static_assert(!std::is_copy_constructible_v<thaw::handler_guard> && !std::is_move_constructible_v<thaw::handler_guard>);

BOOST_AUTO_TEST_CASE(invocations_add_up) {
    IN_CHILD {
        start_recording_by_hand();
        for (unsigned i = 1; i <= 10; ++i) {
            invoke(i);
            advance(1'000'000);  // frozen
        }
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        EXPECT_EQUAL(p.window.invocations, 10);
        EXPECT_EQUAL(p.window.cold, 1);
        EXPECT_EQUAL(p.window.errors, 0);
        EXPECT_EQUAL(p.window.open, 0);
        EXPECT_EQUAL(p.window.wall_ns, 55);
        EXPECT_EQUAL(p.window.active_ns, 55);
        EXPECT_EQUAL(node_at(p, "h").calls, 10);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 55);
        EXPECT_EQUAL(node_at(p, "h").max_ns, 10);
        EXPECT_EQUAL(p.quantile_ns(node_at(p, "h"), 0.5), 5);
        EXPECT(p.site_of(node_at(p, "h")).kind == thaw::site_kind::handler);
    };
}

BOOST_AUTO_TEST_CASE(a_handler_inside_a_handler_is_a_scope) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("outer");
            advance(1);
            {
                THAW_HANDLER("inner");
                work(10);
            }
            { THAW_SCOPE("s"); invoke(100); }
        }
        EXPECT_EQUAL(caught_count(), 1);  // one invocation, one report
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        EXPECT_EQUAL(p.window.invocations, 1);
        EXPECT_EQUAL(p.window.wall_ns, 111);
        EXPECT_EQUAL(node_at(p, "outer").total_ns, 111);
        EXPECT_EQUAL(node_at(p, "outer/inner").total_ns, 10);
        EXPECT_EQUAL(node_at(p, "outer/inner/work").total_ns, 10);
        EXPECT_EQUAL(node_at(p, "outer/s/h").total_ns, 100);
    };
}

BOOST_AUTO_TEST_CASE(a_handler_that_calls_itself_is_one_invocation) {
    IN_CHILD {
        start_recording_by_hand();
        struct again {
            static void run(int depth) {
                THAW_HANDLER("h");
                advance(1);
                if (depth > 0) run(depth - 1);
            }
        };
        again::run(4);
        again::run(0);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 2);
        EXPECT_EQUAL(node_at(p, "h").calls, 6);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 6);
        EXPECT_EQUAL(node_at(p, "h").timed, 2);
        EXPECT_EQUAL(node_at(p, "h").open, 0);
    };
}

BOOST_AUTO_TEST_CASE(an_exception_is_an_error_and_passes_on_unchanged) {
    IN_CHILD {
        start_recording_by_hand();
        struct particular : std::runtime_error {
            int code;
            particular() : std::runtime_error("particular"), code(42) {}
        };
        auto const fails = [](bool inner) {
            THAW_HANDLER("h");
            advance(3);
            THAW_SCOPE("s");
            if (inner) {
                THAW_HANDLER("nested");
                throw particular();
            }
            throw particular();
        };
        particular const* address = nullptr;
        for (int i = 0; i < 3; ++i) {
            try {
                fails(i == 2);
                EXPECT(false);  // not reached
            } catch (particular const& e) {
                EXPECT_EQUAL(e.code, 42);
                address = &e;
            }
            EXPECT(address != nullptr);
            EXPECT_EQUAL(std::uncaught_exceptions(), 0);
        }
        invoke(1);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 4);
        EXPECT_EQUAL(p.window.errors, 3);
        std::uint64_t errors = 0, calls = 0;
        for (auto const& n : p.nodes)
            if (p.name_of(n) == "h") errors += n.errors, calls += n.calls;
        EXPECT_EQUAL(errors, 3);
        EXPECT_EQUAL(calls, 4);
        EXPECT_EQUAL(node_at(p, "h/s/nested").errors, 1);
    };
}

BOOST_AUTO_TEST_CASE(the_exceptions_in_flight_are_those_of_the_runtime) {
    struct counts_at_its_end {
        std::vector<std::pair<int, unsigned>>& seen;
        int depth;
        ~counts_at_its_end() {
            seen.emplace_back(std::uncaught_exceptions(), thaw::detail::exceptions_in_flight());
            if (depth == 0) return;
            try {
                counts_at_its_end const inner{seen, depth - 1};
                throw depth;
            } catch (int) {
            }
            seen.emplace_back(std::uncaught_exceptions(), thaw::detail::exceptions_in_flight());
        }
    };
    std::vector<std::pair<int, unsigned>> seen;
    auto const run = [&] { counts_at_its_end const outermost{seen, 3}; };
    run();
    std::thread(run).join();
    BOOST_TEST(seen.size() == 14u);
    int most = 0;
    for (auto const& [runtime, own] : seen) {
        BOOST_TEST(static_cast<unsigned>(runtime) == own);
        if (runtime > most) most = runtime;
    }
    BOOST_TEST(most == 3);
}

// A destructor that runs because of an exception, and in it an invocation that ends well.
BOOST_AUTO_TEST_CASE(an_invocation_during_an_unwinding_is_no_error) {
    IN_CHILD {
        start_recording_by_hand();
        struct invokes_at_its_end {
            ~invokes_at_its_end() { invoke(1); }
        };
        try {
            invokes_at_its_end const late;
            throw 1;
        } catch (int) {
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 1);
        EXPECT_EQUAL(p.window.errors, 0);
    };
}

BOOST_AUTO_TEST_CASE(fail_marks_the_invocation_and_a_report_is_due) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::fail();  // outside of one: nothing
        invoke(1);
        EXPECT_EQUAL(caught_count(), 1);
        invoke(1);
        EXPECT_EQUAL(caught_count(), 1);
        {
            THAW_HANDLER("failing");
            THAW_SCOPE("s");
            thaw::fail();
            thaw::fail();
            EXPECT_EQUAL(caught_count(), 1);
        }
        EXPECT_EQUAL(caught_count(), 2);
        EXPECT_EQUAL(last_profile().window.errors, 1);
        EXPECT_EQUAL(node_at(last_profile(), "failing").errors, 1);
        EXPECT(last_profile().slowest.failed || last_profile().slowest.wall_ns > 0);
        invoke(1);
        EXPECT_EQUAL(caught_count(), 2);  // the next is due in its time
        EXPECT_EQUAL(profile_now().window.errors, 1);
    };
}

BOOST_AUTO_TEST_CASE(what_the_host_says_is_copied_and_cut) {
    IN_CHILD {
        start_recording_by_hand({.report_every_ms = 0});
        {
            std::string id = "request-1", trace = "00-abc";
            THAW_HANDLER("h", thaw::invocation{.request_id = id, .trace_parent = trace});
            EXPECT_EQUAL(std::string(thaw::core::this_thread.record->whole->invocation->trace_parent), "00-abc");
            id.assign(id.size(), 'x'), trace.assign(trace.size(), 'x');
            EXPECT_EQUAL(std::string(thaw::core::this_thread.record->whole->invocation->trace_parent), "00-abc");
        }
        EXPECT_EQUAL(slowest_of(0).request_id, "request-1");
        {
            THAW_HANDLER("h", thaw::invocation{.request_id = std::string(1'000, 'r'), .trace_parent = std::string(1'000, 't')});
            EXPECT_EQUAL(std::string(thaw::core::this_thread.record->whole->invocation->trace_parent), std::string(127, 't'));
        }
        EXPECT_EQUAL(slowest_of(1).request_id, std::string(63, 'r'));
        std::string_view const part = std::string_view("0123456789").substr(2, 3);  // not terminated
        { THAW_HANDLER("h", thaw::invocation{.request_id = part}); }
        EXPECT_EQUAL(slowest_of(2).request_id, "234");
        { THAW_HANDLER("h"); }
        EXPECT_EQUAL(slowest_of(3).request_id, "");
        { THAW_HANDLER("h", {.request_id = std::string(63, 'e')}); }
        EXPECT_EQUAL(slowest_of(4).request_id, std::string(63, 'e'));
    };
}

BOOST_AUTO_TEST_CASE(the_slowest_invocation_since_the_last_report_has_its_own_breakdown) {
    IN_CHILD {
        start_recording_by_hand();
        auto const run = [](std::string const& id, std::uint64_t ns, unsigned times) {
            THAW_HANDLER("h", thaw::invocation{.request_id = id});
            for (unsigned i = 0; i < times; ++i) work(ns);
            THAW_WAIT("w");
            advance(7);
            thaw::vector<char> const bytes(ns, 'x', THAW_ALLOCATOR("bytes"));
        };
        run("first", 1'000, 5);
        EXPECT_EQUAL(slowest_of(0).request_id, "first");
        run("a", 100, 1), run("b", 300, 2), run("c", 200, 2);
        thaw::profile const p = profile_now();
        auto const& s = p.slowest;
        EXPECT_EQUAL(s.request_id, "b");
        EXPECT_EQUAL(s.wall_ns, 607);
        EXPECT_EQUAL(s.wait_ns, 7);
        EXPECT_EQUAL(s.allocated_bytes, 300);
        EXPECT(!s.failed);
        EXPECT(!s.truncated);
        EXPECT_EQUAL(p.sites[s.handler_site].name, "h");
        EXPECT_EQUAL(part_of(p, "h").calls, 1);
        EXPECT_EQUAL(part_of(p, "h").total_ns, 607);
        EXPECT_EQUAL(part_of(p, "h/work").calls, 2);
        EXPECT_EQUAL(part_of(p, "h/work").total_ns, 600);
        EXPECT_EQUAL(part_of(p, "h/w").total_ns, 7);
        EXPECT(profile_now().slowest.handler_site == thaw::no_index);  // none has ended since
        run("d", 1, 1);
        EXPECT_EQUAL(profile_now().slowest.request_id, "d");
    };
}

BOOST_AUTO_TEST_CASE(wall_wait_and_cpu_of_an_invocation_are_measured) {
    IN_CHILD {
        start_recording();
        std::uint64_t const begin = thaw::core::read_monotonic_ns();
        {
            THAW_HANDLER("h");
            burn(20'000'000);
            THAW_WAIT("w");
            ::usleep(10'000);
        }
        std::uint64_t const took = thaw::core::read_monotonic_ns() - begin;
        thaw::profile const p = last_profile();
        EXPECT(p.window.cpu_measured);
        EXPECT(p.window.cpu_ns >= 20'000'000);
        EXPECT(p.window.cpu_ns <= took);
        EXPECT(p.window.wall_ns >= p.window.cpu_ns + 9'000'000);
        EXPECT(p.window.wall_ns <= took + took / 500);
        EXPECT(p.window.wait_ns >= 10'000'000 - 10'000'000 / 500);
        EXPECT(p.window.wait_ns < p.window.wall_ns);
        EXPECT_EQUAL(p.slowest.cpu_ns, p.window.cpu_ns);
        EXPECT_EQUAL(p.slowest.wait_ns, p.window.wait_ns);
        EXPECT_EQUAL(p.slowest.wall_ns, p.window.wall_ns);
        std::uint64_t const now = thaw::core::read_realtime_ns();
        EXPECT(p.slowest.started_unix_ns <= now && now - p.slowest.started_unix_ns < 60'000'000'000);
    };
}

BOOST_AUTO_TEST_CASE(cpu_time_can_be_left_out) {
    IN_CHILD {
        start_recording_by_hand({.cpu_time = false});
        invoke(1);
        EXPECT(!profile_now().window.cpu_measured);
        EXPECT_EQUAL(profile_now().window.cpu_ns, 0);
    };
}

BOOST_AUTO_TEST_CASE(a_handle_s_wall_time_runs_from_opening_to_close_and_its_scopes_are_its_pieces) {
    IN_CHILD {
        start_recording_by_hand({.report_every_ms = 0});
        thaw::invocation_handle h = open_handle("r");
        EXPECT(static_cast<bool>(h));
        advance(5);
        work(1'000);  // not its work
        {
            THAW_RESUME(h);
            work(10);
            thaw::vector<char>(8, 'x', THAW_ALLOCATOR("bytes"));
        }
        EXPECT_EQUAL(profile_now().window.open, 1);
        EXPECT_EQUAL(profile_now().window.invocations, 0);
        {
            THAW_RESUME(h);
            work(20);
            THAW_WAIT("w");
            advance(30);
        }
        h.close();
        EXPECT(!h);
        h.close();
        thaw::profile const p = last_profile();
        EXPECT_EQUAL(p.window.invocations, 1);
        EXPECT_EQUAL(p.window.wall_ns, 1'065);
        EXPECT_EQUAL(p.window.wait_ns, 30);
        EXPECT_EQUAL(node_at(p, "h").calls, 1);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 1'065);
        EXPECT_EQUAL(node_at(p, "h/work").total_ns, 30);
        EXPECT_EQUAL(node_at(p, "[background]/work").total_ns, 1'000);
        EXPECT_EQUAL(p.slowest.request_id, "r");
        EXPECT_EQUAL(p.slowest.allocated_bytes, 8);
        EXPECT(p.slowest.parts.empty());
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(a_handle_is_closed_by_its_destructor_and_by_being_replaced) {
    IN_CHILD {
        start_recording_by_hand();
        {
            thaw::invocation_handle a = open_handle();
            advance(1);
            a = open_handle();
            EXPECT_EQUAL(profile_now().window.invocations, 1);
            advance(10);
            thaw::invocation_handle b = std::move(a);
            EXPECT(!a);  // NOLINT: moved from
            EXPECT(static_cast<bool>(b));
            a.close();
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 2);
        EXPECT_EQUAL(p.window.open, 0);
        EXPECT_EQUAL(p.window.wall_ns, 11);
        thaw::invocation_handle none;
        none.close();
        none.fail();
        { THAW_RESUME(none); }
        EXPECT(!none);
    };
}

BOOST_AUTO_TEST_CASE(a_failing_piece_fails_its_invocation_alone) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::invocation_handle a = open_handle(), b = open_handle(), c = open_handle();
        try {
            THAW_RESUME(a);
            THAW_SCOPE("s");
            throw 5;
        } catch (int thrown) {
            EXPECT_EQUAL(thrown, 5);
        }
        {
            THAW_RESUME(c);
            thaw::fail();
        }
        b.close(), a.close(), c.close();
        thaw::invocation_handle d = open_handle();
        d.fail();
        d.close();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 4);
        EXPECT_EQUAL(p.window.errors, 3);
        EXPECT_EQUAL(node_at(p, "h").errors, 3);
    };
}

BOOST_AUTO_TEST_CASE(two_invocations_interleave_on_one_thread) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::invocation_handle a = open_handle("a");
        advance(1);
        thaw::invocation_handle b = open_handle("b");
        for (int i = 0; i < 5; ++i) {
            { THAW_RESUME(a); work(10); THAW_WAIT("w"); advance(1); }
            { THAW_RESUME(b); work(100); }
        }
        a.close();  // after 556
        { THAW_RESUME(b); work(1'000); }
        b.close();  // after 1555
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        EXPECT_EQUAL(p.window.invocations, 2);
        EXPECT_EQUAL(p.window.wall_ns, 556 + 1'555);
        EXPECT_EQUAL(p.window.active_ns, 1'556);
        EXPECT_EQUAL(p.window.wait_ns, 5);
        EXPECT_EQUAL(node_at(p, "h/work").calls, 11);
        EXPECT_EQUAL(node_at(p, "h/work").total_ns, 1'550);
        EXPECT_EQUAL(p.slowest.request_id, "b");
        EXPECT_EQUAL(p.slowest.wall_ns, 1'555);
        EXPECT_EQUAL(p.slowest.wait_ns, 0);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(a_handle_moves_between_threads) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::invocation_handle h = open_handle("r");
        { THAW_RESUME(h); work(1); }
        for (std::uint64_t ns : {10u, 100u})
            std::thread([&h, ns] {
                thaw::invocation_handle mine = std::move(h);
                {
                    THAW_RESUME(mine);
                    work(ns);
                    thaw::vector<char> const bytes(ns, 'x', THAW_ALLOCATOR("bytes"));
                }
                h = std::move(mine);
            }).join();
        std::thread([h = std::move(h)]() mutable { h.close(); }).join();
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        EXPECT_EQUAL(p.window.invocations, 1);
        EXPECT_EQUAL(p.window.wall_ns, 111);
        EXPECT_EQUAL(node_at(p, "h").calls, 1);
        EXPECT_EQUAL(node_at(p, "h/work").total_ns, 111);
        EXPECT_EQUAL(node_at(p, "h/work").calls, 3);
        EXPECT_EQUAL(p.window.open, 0);
        EXPECT_EQUAL(slowest_of(0).request_id, "r");
        EXPECT_EQUAL(slowest_of(0).allocated_bytes, 110);
    };
}

BOOST_AUTO_TEST_CASE(invocations_by_handles_use_bounded_memory) {
    IN_CHILD {
        start_recording_by_hand({.cpu_time = false});
        auto const pairs = [](int count) {
            for (int i = 0; i < count; ++i) {
                thaw::invocation_handle a = open_handle("a"), b = open_handle("b"), c = open_handle("c");
                { THAW_RESUME(b); work(1); }
            }
        };
        pairs(10);
        auto const before = profile_now().cost.memory_bytes;
        pairs(5'000);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.cost.memory_bytes, before);
        EXPECT_EQUAL(p.window.invocations, 3 * 5'010);
    };
}

BOOST_AUTO_TEST_CASE(handles_that_always_end_on_another_thread_use_bounded_memory) {
    IN_CHILD {
        start_recording_by_hand({.cpu_time = false});
        steps turn;
        constexpr int rounds = 2'000;
        thaw::invocation_handle passed;
        std::thread closer([&] {
            for (int i = 1; i <= rounds; ++i) {
                turn.await(2 * i - 1);
                passed.close();
                turn.announce(2 * i);
            }
        });
        std::uint64_t before = 0;
        for (int i = 1; i <= rounds; ++i) {
            passed = open_handle();
            turn.announce(2 * i - 1), turn.await(2 * i);
            if (i == 10) before = profile_now().cost.memory_bytes;
        }
        closer.join();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.cost.memory_bytes, before);
        EXPECT_EQUAL(p.window.invocations, rounds);
    };
}

BOOST_AUTO_TEST_CASE(resuming_inside_an_invocation_leaves_it_alone) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::invocation_handle other = open_handle();
        {
            THAW_HANDLER("outer");
            {
                THAW_RESUME(other);
                work(10);
            }
            advance(1);
        }
        other.close();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "outer/work").total_ns, 10);
        EXPECT_EQUAL(node_at(p, "outer").total_ns, 11);
        EXPECT_EQUAL(p.window.invocations, 2);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(two_threads_have_invocations_at_once) {
    IN_CHILD {
        start_recording_by_hand();
        steps turn;
        std::thread other([&] {
            THAW_HANDLER("theirs");
            turn.announce(1), turn.await(2);
            work(5);
            turn.announce(3), turn.await(4);
        });
        turn.await(1);
        advance(10);
        {
            THAW_HANDLER("mine");
            turn.announce(2), turn.await(3);
            work(100);
            EXPECT_EQUAL(profile_now().window.open, 2);
        }
        advance(1'000);
        EXPECT_EQUAL(profile_now().window.open, 1);
        turn.announce(4);
        other.join();
        advance(1'000'000);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 2);
        EXPECT_EQUAL(p.window.open, 0);
        EXPECT_EQUAL(node_at(p, "theirs").total_ns, 1'115);
        EXPECT_EQUAL(node_at(p, "mine").total_ns, 105);
        EXPECT_EQUAL(p.window.active_ns, 1'115);
        EXPECT_EQUAL(p.window.wall_ns, 1'220);
        EXPECT_EQUAL(node_at(p, "theirs/work").total_ns, 5);
        EXPECT_EQUAL(node_at(p, "mine/work").total_ns, 100);
    };
}

BOOST_AUTO_TEST_CASE(a_guard_that_ends_on_another_thread_is_counted_and_the_process_is_not_left_open) {
    IN_CHILD {
        start_recording_by_hand();
        invoke(1);
        static thaw::core::site here{"wandering", "", "", 0, thaw::core::site_kind::handler};
        std::optional<thaw::handler_guard> wandering(std::in_place, here);
        std::thread([&] {
            { THAW_SCOPE("s"); }
            wandering.reset();
        }).join();
        EXPECT(profile_now().losses.mismatched_scopes >= 1);
        EXPECT_EQUAL(profile_now().window.open, 0);
        invoke(10);  // not a scope of the invocation that is over
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 2);
        EXPECT_EQUAL(p.window.open, 0);
        EXPECT_EQUAL(node_at(p, "h").calls, 2);
    };
}


// Or all later invocations of the thread would be scopes of one that is over, and none would be reported.
BOOST_AUTO_TEST_CASE(a_longjmp_out_of_an_invocation_ends_it_when_the_next_one_begins) {
    IN_CHILD {
        start_recording_by_hand();
        struct jumps {
            [[gnu::noinline]] static void invoke(int which) {
                THAW_HANDLER("h");
                THAW_SCOPE("s");
                advance(10);
                if (which == 1) std::longjmp(back, 1);
            }
        };
        static int number = 0;
        for (number = 0; number < 4; ++number) {
            if (setjmp(back) == 0) jumps::invoke(number);
            advance(1'000'000);
        }
        thaw::profile const p = profile_now();
        EXPECT(p.losses.mismatched_scopes >= 1);
        EXPECT_EQUAL(p.window.open, 0);
        EXPECT_EQUAL(p.window.invocations, 3);
        EXPECT_EQUAL(node_at(p, "h").calls, 4);
        EXPECT_EQUAL(node_at(p, "h").timed, 3);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 30);
        EXPECT_EQUAL(node_at(p, "h/s").total_ns, 30);
    };
}

BOOST_AUTO_TEST_CASE(a_thread_that_ends_by_pthread_exit_closes_its_invocation) {
    IN_CHILD {
        start_recording_by_hand();
        pthread_t thread{};
        EXPECT(::pthread_create(
                   &thread, nullptr,
                   [](void*) -> void* {
                       THAW_HANDLER("h");
                       THAW_SCOPE("s");
                       advance(10);
                       ::pthread_exit(nullptr);
                   },
                   nullptr) == 0);
        ::pthread_join(thread, nullptr);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 1);
        EXPECT_EQUAL(p.window.open, 0);
        EXPECT_EQUAL(node_at(p, "h/s").total_ns, 10);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(the_child_of_a_fork_in_a_handler_neither_reports_nor_hangs) {
    IN_CHILD {
        start_recording_by_hand({.report_every_ms = 0});
        invoke(1);
        pid_t child = -1;
        {
            THAW_HANDLER("forking");
            advance(10);
            child = ::fork();
            if (child == 0) {
                ::alarm(20);
                THAW_SCOPE("s");
                std::thread([] { THAW_SCOPE("in.the.child"); }).join();
                thaw::fail();
                EXPECT(!thaw::report_now());
                invoke(1);
            }
        }
        if (child == 0) {
            invoke(1);
            thaw::stop();
            EXPECT_EQUAL(caught_count(), 1);
            ::_exit(child_failures != 0);
        }
        int status = 0;
        EXPECT(::waitpid(child, &status, 0) == child);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        EXPECT_EQUAL(caught_count(), 2);
        invoke(1);
        thaw::profile const p = last_profile();
        EXPECT_EQUAL(caught_count(), 3);
        EXPECT_EQUAL(p.window.invocations, 3);
        EXPECT_EQUAL(node_at(p, "forking").calls, 1);
        EXPECT_EQUAL(nodes_at(p, "forking/s"), 0);
    };
}

BOOST_AUTO_TEST_CASE(a_fork_while_another_thread_reports_neither_hangs_the_child_nor_the_parent) {
    IN_CHILD {
        static steps turn;
        static pid_t const parent = ::getpid();
        thaw::start({.report_every_ms = 0}, [](thaw::profile const& p) {
            EXPECT_EQUAL(::getpid(), parent);
            keep_profile(p);
            if (p.window.invocations == 2) turn.announce(1), turn.await(2);
        });
        use_fake_clock();
        auto const leave = [](pid_t& child) {
            THAW_HANDLER("forking");
            child = ::fork();
            if (child == 0) ::alarm(20);
        };
        invoke(1);
        std::thread reporting([] { invoke(1); });
        turn.await(1);
        pid_t child = 0;
        leave(child);
        if (child == 0) {
            invoke(1);
            EXPECT(!thaw::report_now());
            thaw::stop();
            ::_exit(child_failures != 0);
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        turn.announce(2);
        reporting.join();
        invoke(1);
        EXPECT_EQUAL(last_profile().window.invocations, 4);
    };
}

// The clock's lock may be held by a thread that does not exist in the child.
BOOST_AUTO_TEST_CASE(forks_while_other_threads_open_and_close_invocations_do_not_hang_their_children) {
    IN_CHILD {
        thaw::start({}, [](thaw::profile const&) {});
        bool over = false;
        std::vector<std::thread> busy;
        for (int i = 0; i < 2; ++i)
            busy.emplace_back([&] {
                while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
                    thaw::invocation_handle const h = THAW_INVOCATION("busy");
                }
            });
        int hung = 0;
        for (int i = 0; i < 150 && hung == 0; ++i) {
            THAW_HANDLER("forking");
            pid_t const child = ::fork();
            if (child == 0) {
                ::alarm(5);
                { thaw::invocation_handle const h = THAW_INVOCATION("in.the.child"); }
                ::_exit(0);
            }
            int status = 0;
            ::waitpid(child, &status, 0);
            hung += !WIFEXITED(status);
        }
        __atomic_store_n(&over, true, __ATOMIC_RELAXED);
        for (auto& t : busy) t.join();
        EXPECT_EQUAL(hung, 0);
    };
}

BOOST_AUTO_TEST_SUITE_END()
