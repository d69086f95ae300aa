#include "recorded.hpp"

#include <thaw/probe/wait.hpp>

#include <boost/test/unit_test.hpp>

#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <type_traits>
#include <unistd.h>
#include <utility>

using namespace thaw::testing;

namespace {

std::jmp_buf back;

[[gnu::noinline]] void jump_out_of_a_wait() {
    THAW_WAIT("left");
    advance(3);
    std::longjmp(back, 1);
}

bool within(std::uint64_t value, std::uint64_t expected, double share) {
    double const v = static_cast<double>(value), e = static_cast<double>(expected);
    return v >= e * (1 - share) && v <= e * (1 + share);
}

thaw::core::site here{"here", "", "", 0, thaw::core::site_kind::wait};

}

namespace thaw_tests {  // because there is a ::wait

BOOST_AUTO_TEST_SUITE(wait)

BOOST_AUTO_TEST_CASE(percentiles_are_those_of_single_waits_within_1_6_percent) {
    IN_CHILD {
        start_recording_by_hand();
        for (std::uint64_t i = 0; i < 1'000; ++i) {
            THAW_HANDLER("h");
            std::uint64_t const rank = i * 617 % 1'000 + 1;  // 1 to 1000, each once
            THAW_WAIT("w");
            advance(rank * 1'000'003);
        }
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        auto const n = node_at(p, "h/w");
        EXPECT_EQUAL(n.calls, 1'000);
        EXPECT_EQUAL(n.timed, 1'000);
        EXPECT_EQUAL(n.total_ns, 1'000'003ull * 500'500);
        EXPECT_EQUAL(n.max_ns, 1'000'003'000);
        EXPECT(within(p.quantile_ns(n, 0.5), 500ull * 1'000'003, 0.016));
        EXPECT(within(p.quantile_ns(n, 0.95), 950ull * 1'000'003, 0.016));
        EXPECT(within(p.quantile_ns(n, 0.99), 990ull * 1'000'003, 0.016));
        EXPECT_EQUAL(p.quantile_ns(n, 1.0), 1'000'003'000);
        EXPECT(p.site_of(n).kind == thaw::site_kind::wait);
        EXPECT_EQUAL(p.window.wait_ns, n.total_ns);
    };
}

BOOST_AUTO_TEST_CASE(a_p95_is_over_waits_and_not_over_means) {
    IN_CHILD {
        start_recording_by_hand();
        for (int i = 0; i < 20; ++i) {
            THAW_HANDLER("h");
            for (int k = 0; k < 50; ++k) {
                THAW_WAIT("w");
                advance(k < 45 ? 1'000 : 1'000'000);  // 10 % are long in every invocation
            }
        }
        thaw::profile const p = profile_now();
        auto const n = node_at(p, "h/w");
        EXPECT(within(p.quantile_ns(n, 0.9), 1'000, 0.016));
        EXPECT(within(p.quantile_ns(n, 0.95), 1'000'000, 0.016));
    };
}

BOOST_AUTO_TEST_CASE(of_nested_waits_the_outermost_counts_alone) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            for (int i = 0; i < 3; ++i) {
                THAW_WAIT("outer");
                advance(10);
                {
                    THAW_SCOPE("s");
                    THAW_WAIT("inner");
                    advance(100);
                    thaw::wait("innermost", [] { advance(1); });
                }
                advance(1'000);
            }
            THAW_WAIT("inner");
            advance(7);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/outer").calls, 3);
        EXPECT_EQUAL(node_at(p, "h/outer").total_ns, 3 * 1'111);
        EXPECT_EQUAL(node_at(p, "h/outer/s").total_ns, 3 * 101);
        EXPECT_EQUAL(nodes_at(p, "h/outer/s/inner"), 0);
        EXPECT_EQUAL(nodes_at(p, "h/outer/s/innermost"), 0);
        EXPECT_EQUAL(node_at(p, "h/inner").total_ns, 7);
        EXPECT_EQUAL(p.window.wait_ns, 3 * 1'111 + 7);
    };
}

BOOST_AUTO_TEST_CASE(what_the_callable_returns_is_returned) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            int number = 1;
            static_assert(std::is_same_v<decltype(thaw::wait("w", [] { return std::string("x"); })), std::string>);
            static_assert(std::is_same_v<decltype(thaw::wait("w", [&]() -> int& { return number; })), int&>);
            static_assert(std::is_same_v<decltype(thaw::wait("w", [&]() -> int const& { return number; })), int const&>);
            static_assert(std::is_same_v<decltype(thaw::wait("w", [&]() -> int&& { return std::move(number); })), int&&>);
            static_assert(std::is_void_v<decltype(thaw::wait("w", [] {}))>);
            EXPECT_EQUAL(thaw::wait("w", [] { return std::string("answer"); }), "answer");
            int& reference = thaw::wait("w", [&]() -> int& { return number; });
            EXPECT_EQUAL(&reference, &number);
            thaw::wait("w", [&] { number = 5; });
            EXPECT_EQUAL(number, 5);
            struct pinned {
                int value = 3;
                pinned() = default;
                pinned(pinned const&) = delete;
            };
            EXPECT_EQUAL(thaw::wait("w", [] { return pinned{}; }).value, 3);
            auto once = [p = std::make_unique<int>(4)]() mutable { return std::move(p); };
            EXPECT_EQUAL(*thaw::wait("w", std::move(once)), 4);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/w").calls, 5);
        EXPECT_EQUAL(p.site_of(node_at(p, "h/w")).file.empty(), false);
    };
}

BOOST_AUTO_TEST_CASE(what_the_callable_throws_passes_through_and_the_wait_has_ended) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            try {
                thaw::wait("w", []() -> int {
                    advance(9);
                    throw std::out_of_range("of it");
                });
                EXPECT(false);  // not reached
            } catch (std::out_of_range const& e) {
                EXPECT_EQUAL(std::string(e.what()), "of it");
            }
            THAW_WAIT("next");
            advance(1);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/w").total_ns, 9);
        EXPECT_EQUAL(node_at(p, "h/next").total_ns, 1);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(a_background_wait_across_a_closed_process_is_clipped) {
    IN_CHILD {
        start_recording_by_hand();
        steps turn;
        std::thread waiter([&] {
            THAW_WAIT("queue.pop");
            turn.announce(1);
            turn.await(2);
        });
        turn.await(1);
        for (std::uint64_t ns : {10'000'000u, 20'000'000u}) {
            advance(300'000'000);
            THAW_HANDLER("h");
            advance(ns);
        }
        advance(300'000'000);
        turn.announce(2);
        waiter.join();
        thaw::profile const p = profile_now();
        auto const n = node_at(p, "[background]/queue.pop");
        EXPECT_EQUAL(n.calls, 1);
        EXPECT_EQUAL(n.total_ns, 30'000'000);
        EXPECT_EQUAL(n.max_ns, 30'000'000);
        EXPECT_EQUAL(p.window.wait_ns, 0);  // no invocation waited
        EXPECT_EQUAL(p.window.active_ns, 30'000'000);
    };
}

BOOST_AUTO_TEST_CASE(background_waits_that_begin_or_end_inside_an_invocation_count_their_open_part) {
    IN_CHILD {
        start_recording_by_hand();
        steps turn;
        std::thread waiter([&] {
            turn.await(1);
            { THAW_WAIT("begins.inside"); turn.announce(2), turn.await(3); }
            { THAW_WAIT("ends.inside"); turn.announce(4), turn.await(5); }
            turn.announce(6);
        });
        {
            THAW_HANDLER("h");
            advance(7);
            turn.announce(1), turn.await(2);
            advance(11);
        }
        advance(1'000'000);
        turn.announce(3), turn.await(4);
        advance(1'000'000);
        {
            THAW_HANDLER("h");
            advance(13);
            turn.announce(5), turn.await(6);
            advance(17);
        }
        waiter.join();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "[background]/begins.inside").total_ns, 11);
        EXPECT_EQUAL(node_at(p, "[background]/ends.inside").total_ns, 13);
    };
}

// The waiter is stopped between reading the state of the active clock and reading the counter; meanwhile the invocation ends
// and the process is frozen.
BOOST_AUTO_TEST_CASE(a_freeze_between_the_two_readings_of_the_active_clock_is_not_in_the_wait) {
    IN_CHILD {
        start_recording();
        static bool freeze = false;
        auto* const p = thaw::core::find_process();
        p->source.length = {};
        p->source.read = +[]() noexcept -> std::uint64_t {
            if (freeze) {
                freeze = false;
                thaw::core::find_process()->clock.close({&read_fake_clock, {}});
                advance(300'000'000);
                thaw::core::find_process()->clock.open({&read_fake_clock, {}});
            }
            return read_fake_clock();
        };
        steps turn;
        std::thread waiter([&] {
            {
                THAW_WAIT("queue.pop");
                turn.announce(1), turn.await(2);
                freeze = true;
            }
            turn.announce(3);
        });
        turn.await(1);
        {
            THAW_HANDLER("h");
            advance(10);
            turn.announce(2), turn.await(3);
            p->source.read = &read_fake_clock;
        }
        waiter.join();
        EXPECT_EQUAL(node_at(profile_now(), "[background]/queue.pop").total_ns, 10);
    };
}

BOOST_AUTO_TEST_CASE(a_process_stopped_by_a_signal_between_invocations_adds_nothing_to_a_wait) {
    IN_CHILD {
        int ready[2], thawed[2];
        EXPECT(::pipe(ready) == 0 && ::pipe(thawed) == 0);
        pid_t const self = ::getpid();
        pid_t const freezer = ::fork();
        if (freezer == 0) {
            char c = 0;
            ssize_t const n = ::read(ready[0], &c, 1);
            ::kill(self, SIGSTOP);
            ::usleep(300'000);
            ::kill(self, SIGCONT);
            ::_exit(n == 1 && ::write(thawed[1], &c, 1) == 1 ? 0 : 1);
        }
        start_recording();
        steps turn;
        std::thread waiter([&] {
            THAW_WAIT("queue.pop");
            turn.announce(1), turn.await(2);
        });
        turn.await(1);
        auto const invoke = [] { THAW_HANDLER("h"); };
        invoke();
        std::uint64_t const before = thaw::core::read_monotonic_ns();
        char c = 'x';
        EXPECT(::write(ready[1], &c, 1) == 1);
        while (::read(thawed[0], &c, 1) != 1) {}
        std::uint64_t const gap_ns = thaw::core::read_monotonic_ns() - before;
        invoke();
        turn.announce(2);
        waiter.join();
        EXPECT(gap_ns >= 290'000'000);  // or nothing was tested
        thaw::profile const p = profile_now();
        auto const n = node_at(p, "[background]/queue.pop");
        EXPECT_EQUAL(n.timed, 1);
        EXPECT(n.total_ns < 150'000'000);
        EXPECT(n.total_ns <= p.window.active_ns);
        EXPECT(p.window.active_ns < 150'000'000);
        EXPECT(node_at(p, "h").max_ns < 150'000'000);
        ::waitpid(freezer, nullptr, 0);
    };
}

BOOST_AUTO_TEST_CASE(after_a_longjmp_out_of_a_wait_later_waits_count_again) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            {
                THAW_SCOPE("s");
                if (setjmp(back) == 0) jump_out_of_a_wait();
            }
            THAW_WAIT("after");
            advance(10);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h/s/left").calls, 1);
        EXPECT_EQUAL(node_at(p, "h/s/left").open, 0);
        EXPECT_EQUAL(node_at(p, "h/after").calls, 1);
        EXPECT_EQUAL(node_at(p, "h/after").total_ns, 10);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 1);
    };
}

// An event loop that calls handlers from inside what was taken for a wait.
BOOST_AUTO_TEST_CASE(a_handler_inside_a_wait_has_waits_of_its_own_and_the_wait_goes_on) {
    IN_CHILD {
        start_recording_by_hand();
        for (int i = 0; i < 3; ++i)
            thaw::wait("run_one", [] {
                advance(1'000);
                THAW_HANDLER("h");
                advance(1);
                THAW_WAIT("db");
                advance(10);
            });
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
        EXPECT_EQUAL(node_at(p, "h/db").calls, 3);
        EXPECT_EQUAL(node_at(p, "h/db").total_ns, 30);
        EXPECT_EQUAL(p.window.wait_ns, 30);
        EXPECT_EQUAL(node_at(p, "[background]/run_one").calls, 3);
        EXPECT_EQUAL(node_at(p, "[background]/run_one").timed, 3);
        EXPECT_EQUAL(node_at(p, "[background]/run_one").open, 0);
    };
}

BOOST_AUTO_TEST_CASE(a_wait_that_ends_on_another_thread_is_counted_and_harmless) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("first");
            {
                THAW_SCOPE("outer");
                std::optional<thaw::wait_guard> wandering(std::in_place, here);
                std::thread([&] {
                    { THAW_SCOPE("elsewhere"); }
                    wandering.reset();
                }).join();
                advance(5);
            }
            advance(1);
        }
        {
            THAW_HANDLER("second");
            THAW_WAIT("next");
            advance(10);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.losses.mismatched_scopes, 2);
        EXPECT_EQUAL(node_at(p, "first/outer").total_ns, 5);
        EXPECT_EQUAL(node_at(p, "first/outer/here").open, 0);
        EXPECT_EQUAL(node_at(p, "second/next").total_ns, 10);
    };
}

BOOST_AUTO_TEST_CASE(a_wait_is_open_in_a_report_made_meanwhile) {
    IN_CHILD {
        start_recording_by_hand();
        steps turn;
        std::thread waiter([&] {
            THAW_WAIT("w");
            turn.announce(1), turn.await(2);
        });
        turn.await(1);
        thaw::profile const p = profile_now();
        turn.announce(2);
        waiter.join();
        EXPECT_EQUAL(node_at(p, "[background]/w").open, 1);
        EXPECT_EQUAL(node_at(p, "[background]/w").calls, 1);
        EXPECT_EQUAL(node_at(p, "[background]/w").timed, 0);
        EXPECT_EQUAL(node_at(profile_now(), "[background]/w").open, 0);
    };
}

BOOST_AUTO_TEST_SUITE_END()

}
