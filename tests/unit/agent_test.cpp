#include "recorded.hpp"

#include <thaw/agent/agent.hpp>
#include <thaw/probe/containers.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <latch>
#include <set>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace thaw::testing;

namespace {

constexpr std::uint64_t ms = 1'000'000;

void invoke(std::uint64_t ns = 1) {
    THAW_HANDLER("h");
    advance(ns);
}

// An invocation whose deadline is so far away.
void invoke_before(std::int64_t left_ns) {
    auto const now = static_cast<std::int64_t>(thaw::core::read_realtime_ns());
    THAW_HANDLER("h", {.deadline_unix_ns = static_cast<std::uint64_t>(now + left_ns)});
    advance(1);
}

void busy_for(std::uint64_t ns) {
    std::uint64_t const begin = thaw::core::read_monotonic_ns();
    while (thaw::core::read_monotonic_ns() - begin < ns) {}
}

std::size_t count_of(std::string const& text, std::string_view part) {
    std::size_t n = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
    return n;
}

std::string mappings() {
    std::ifstream file("/proc/self/maps");
    std::string text, line;
    while (std::getline(file, line))
        if (line.find("[heap]") == std::string::npos) text += line.substr(0, line.find(' ')) + "\n";
    return text;
}

bool is_hexadecimal(std::string const& s, std::size_t size) {
    return s.size() == size && s.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}

BOOST_AUTO_TEST_SUITE(agent)

BOOST_AUTO_TEST_CASE(the_first_invocation_is_reported_then_by_time) {
    IN_CHILD {
        start_recording_by_hand({.report_every_ms = 50});
        invoke();
        EXPECT_EQUAL(caught_count(), 1);
        invoke(), advance(49 * ms), invoke();
        EXPECT_EQUAL(caught_count(), 1);
        advance(ms), invoke();
        EXPECT_EQUAL(caught_count(), 2);
        invoke(), invoke();
        EXPECT_EQUAL(caught_count(), 2);
        advance(500 * ms), invoke();
        EXPECT_EQUAL(caught_count(), 3);
        EXPECT_EQUAL(last_profile().window.invocations, 7);
    };
}

BOOST_AUTO_TEST_CASE(with_a_period_of_zero_each_invocation_is_reported) {
    IN_CHILD {
        start_recording_by_hand({.report_every_ms = 0});
        for (unsigned i = 1; i <= 20; ++i) {
            invoke();
            EXPECT_EQUAL(caught_count(), i);
            EXPECT_EQUAL(last_profile().window.invocations, i);
        }
    };
}

BOOST_AUTO_TEST_CASE(an_error_is_reported_at_once) {
    IN_CHILD {
        start_recording_by_hand();
        invoke();
        try {
            THAW_HANDLER("failing");
            throw std::runtime_error("x");
        } catch (std::runtime_error const&) {
        }
        EXPECT_EQUAL(caught_count(), 2);
        EXPECT_EQUAL(last_profile().window.errors, 1);
        invoke();
        EXPECT_EQUAL(caught_count(), 2);
    };
}

BOOST_AUTO_TEST_CASE(a_profile_says_who_made_it) {
    IN_CHILD {
        std::uint64_t const before = thaw::core::read_realtime_ns();
        start_recording_by_hand({.app = "shop", .version = "1.4.2", .environment = "test", .report_every_ms = 0});
        invoke();
        invoke();
        thaw::profile const p = last_profile();
        EXPECT_EQUAL(p.identity.app, "shop");
        EXPECT_EQUAL(p.identity.version, "1.4.2");
        EXPECT_EQUAL(p.identity.environment, "test");
        EXPECT(is_hexadecimal(p.identity.instance, 16));
        EXPECT(p.identity.build_id.empty() || is_hexadecimal(p.identity.build_id, p.identity.build_id.size()));
        EXPECT_EQUAL(p.identity.pid, ::getpid());
        EXPECT(!p.identity.host.empty());
        EXPECT_EQUAL(p.identity.sequence, 2);
        EXPECT_EQUAL(caught()[0].identity.instance, p.identity.instance);
        EXPECT(p.window.started_unix_ns >= before);
        EXPECT(p.window.ended_unix_ns >= p.window.started_unix_ns);
        EXPECT(p.window.ended_unix_ns <= thaw::core::read_realtime_ns());
    };
}

BOOST_AUTO_TEST_CASE(instances_differ) {
    std::set<std::string> instances;
    for (int i = 0; i < 3; ++i) {
        // The child tells by what it says.
        child_result const r = run_in_child([] {
            start_recording();
            invoke();
            write_all(child_pipe, last_profile().identity.instance);
        });
        BOOST_TEST(is_hexadecimal(r.said, 16), r.text());
        instances.insert(r.said);
    }
    BOOST_TEST(instances.size() == 3u);
}

BOOST_AUTO_TEST_CASE(without_a_name_the_app_is_the_function_or_the_executable) {
    IN_CHILD {
        ::setenv("AWS_LAMBDA_FUNCTION_NAME", "checkout-fn", 1);
        start_recording();
        invoke();
        EXPECT_EQUAL(last_profile().identity.app, "checkout-fn");
    };
    IN_CHILD {
        start_recording();
        invoke();
        char path[4096] = {};
        EXPECT(::readlink("/proc/self/exe", path, sizeof path - 1) > 0);
        EXPECT(std::string(path).ends_with("/" + last_profile().identity.app));
    };
}

BOOST_AUTO_TEST_CASE(the_environment_sets_what_the_program_does_not_and_what_it_does) {
    IN_CHILD {
        ::setenv("THAW_APP", "from.environment", 1);
        ::setenv("THAW_REPORT_EVERY_MS", "0", 1);
        ::setenv("THAW_REPORT_BUDGET_MS", "nonsense\n", 1);
        stderr_capture said;
        start_recording_by_hand({.app = "shop"});
        std::string const text = said.take();
        EXPECT_EQUAL(count_of(text, "\n"), 1);
        EXPECT(text.find("THAW_REPORT_BUDGET_MS=\"nonsense?\"") != std::string::npos);
        invoke(), invoke();
        EXPECT_EQUAL(caught_count(), 2);
        EXPECT_EQUAL(last_profile().identity.app, "from.environment");
    };
}

BOOST_AUTO_TEST_CASE(disabled_it_maps_nothing_calls_nobody_and_changes_no_result) {
    IN_CHILD {
        ::setenv("THAW_DISABLE", "1", 1);
        auto const result = [] {
            THAW_HANDLER("h");
            THAW_SCOPE("s");
            thaw::vector<int> v(100, 2, THAW_ALLOCATOR("v"));
            int sum = 0;
            for (int const x : v) sum += thaw::wait("w", [&] { return x; });
            return sum;
        };
        int const expected = result();
        stderr_capture said;
        bool called = false;
        EXPECT(!thaw::start({.app = "x"}, [&](thaw::profile const&) { called = true; }));
        EXPECT_EQUAL(result(), expected);
        EXPECT(!thaw::report_now());
        thaw::stop();
        std::thread([&] { EXPECT_EQUAL(result(), expected); }).join();
        EXPECT(!called);
        EXPECT(thaw::core::find_process() == nullptr);
        EXPECT_EQUAL(said.take(), "");
    };
    IN_CHILD {
        ::setenv("THAW_DISABLE", "1", 1);
        { THAW_HANDLER("h"); }
        std::string const before = mappings();
        bool const started = thaw::start({}, [](thaw::profile const&) {});
        { THAW_HANDLER("h"); THAW_SCOPE("s"); THAW_WAIT("w"); }
        std::string const after = mappings();
        EXPECT(!started);
        if (!THAW_TEST_ASAN && !THAW_TEST_TSAN) EXPECT(after == before);  // they map at will
    };
}

BOOST_AUTO_TEST_CASE(disabled_by_the_program_the_same) {
    IN_CHILD {
        EXPECT(!start_recording({.enabled = false}));
        invoke();
        EXPECT_EQUAL(caught_count(), 0);
    };
}

BOOST_AUTO_TEST_CASE(a_report_whose_header_is_missing_is_named) {
    IN_CHILD {
        ::setenv("THAW_REPORT", "text", 1);
        stderr_capture said;
        EXPECT(start_recording_by_hand());
        std::string const text = said.take();
        EXPECT(text.find("thaw/report/text.hpp") != std::string::npos);
        EXPECT(text.find("\"text\"") != std::string::npos);
        invoke();
        EXPECT_EQUAL(caught_count(), 1);  // the reporter of the program holds
    };
    IN_CHILD {
        ::setenv("THAW_REPORT", "xml\n", 1);
        stderr_capture said;
        EXPECT(start_recording_by_hand());
        std::string const text = said.take();
        EXPECT(text.find("THAW_REPORT=\"xml?\"") != std::string::npos);
        EXPECT_EQUAL(count_of(text, "\n"), 1);
    };
    IN_CHILD {  // no reporter and no text report: handlers go on, reports go nowhere
        stderr_capture said;
        EXPECT(thaw::start());
        EXPECT(said.take().find("thaw/report/text.hpp") != std::string::npos);
        invoke();
        EXPECT(thaw::report_now());
    };
}

BOOST_AUTO_TEST_CASE(a_second_start_says_so_and_the_first_holds) {
    IN_CHILD {
        EXPECT(start_recording_by_hand({.app = "first"}));
        stderr_capture said;
        bool second_called = false;
        EXPECT(thaw::start({.app = "second"}, [&](thaw::profile const&) { second_called = true; }));
        std::string const text = said.take();
        EXPECT(text.find("already started") != std::string::npos);
        EXPECT_EQUAL(count_of(text, "\n"), 1);
        invoke();
        EXPECT_EQUAL(caught_count(), 1);
        EXPECT(!second_called);
        EXPECT_EQUAL(last_profile().identity.app, "first");
    };
}

BOOST_AUTO_TEST_CASE(of_starts_at_once_one_holds) {
    IN_CHILD {
        stderr_capture said;
        constexpr int count = 8;
        std::latch together(count);
        std::vector<std::thread> threads;
        for (int i = 0; i < count; ++i)
            threads.emplace_back([&] {
                together.arrive_and_wait();
                start_recording({.report_every_ms = 0});
                THAW_HANDLER("h");
            });
        for (auto& t : threads) t.join();
        EXPECT_EQUAL(count_of(said.take(), "already started"), count - 1);
        EXPECT_EQUAL(profile_now().window.invocations, count);
    };
}

BOOST_AUTO_TEST_CASE(stop_makes_a_last_report_and_then_there_is_silence) {
    IN_CHILD {
        start_recording_by_hand();
        invoke(), invoke();
        EXPECT_EQUAL(caught_count(), 1);
        thaw::stop();
        EXPECT_EQUAL(caught_count(), 2);
        EXPECT_EQUAL(last_profile().window.invocations, 2);
        thaw::stop();
        invoke();
        try {
            THAW_HANDLER("failing");
            throw 1;
        } catch (int) {
        }
        std::thread([] { invoke(); }).join();
        EXPECT_EQUAL(caught_count(), 2);
    };
}

BOOST_AUTO_TEST_CASE(after_stop_a_start_goes_on) {
    IN_CHILD {
        start_recording_by_hand();
        invoke(10);
        thaw::stop();
        invoke(100);
        thaw::profile const before = last_profile();
        EXPECT(start_recording());
        invoke(1'000);
        thaw::profile const p = last_profile();
        EXPECT_EQUAL(caught_count(), 3);
        EXPECT_EQUAL(p.window.invocations, 3);
        EXPECT_EQUAL(node_at(p, "h").total_ns, 1'110);
        expect_grown(before, p);  // one instance, one sequence: or a receiver counts what was before twice
        EXPECT_EQUAL(p.identity.sequence, 3);
    };
}

BOOST_AUTO_TEST_CASE(report_now_inside_an_invocation_shows_it_open) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            THAW_SCOPE("s");
            advance(5);
            EXPECT(thaw::report_now());
            EXPECT_EQUAL(last_profile().window.open, 1);
            EXPECT_EQUAL(last_profile().window.invocations, 0);
            EXPECT_EQUAL(node_at(last_profile(), "h/s").open, 1);
            EXPECT_EQUAL(last_profile().window.active_ns, 5);
            advance(5);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 1);
        EXPECT_EQUAL(node_at(p, "h/s").total_ns, 10);
    };
}

BOOST_AUTO_TEST_CASE(a_throwing_reporter_is_contained_and_counted) {
    IN_CHILD {
        static int calls = 0;
        thaw::start({.report_every_ms = 0}, [](thaw::profile const& p) {
            keep_profile(p);
            if (++calls % 2 == 1) throw std::runtime_error("sink");
            if (calls == 4) throw 5;
        });
        use_fake_clock();
        auto const answer = [] {
            THAW_HANDLER("h");
            return 42;
        };
        for (int i = 0; i < 6; ++i) EXPECT_EQUAL(answer(), 42);
        EXPECT_EQUAL(caught_count(), 6);
        EXPECT_EQUAL(last_profile().losses.reports_failed, 4);
        EXPECT_EQUAL(last_profile().identity.sequence, 6);
        try {  // while another exception is on its way
            THAW_HANDLER("failing");
            throw std::string("own");
        } catch (std::string const& s) {
            EXPECT_EQUAL(s, "own");
        }
        EXPECT_EQUAL(caught_count(), 7);
        EXPECT_EQUAL(last_profile().losses.reports_failed, 4);
    };
}

BOOST_AUTO_TEST_CASE(a_reporter_is_told_its_deadline) {
    IN_CHILD {
        static std::vector<thaw::report_deadline> told;
        static std::vector<std::uint64_t> at;
        thaw::start({.report_every_ms = 0, .report_budget_ms = 200}, [](thaw::profile const&, thaw::report_deadline const& d) {
            told.push_back(d);
            at.push_back(thaw::core::read_monotonic_ns());
        });
        use_fake_clock();
        invoke();                      // no deadline known: the budget
        invoke_before(60'000'000'000);  // far away: the budget
        invoke_before(100'000'000);     // near: what is left, less a margin
        thaw::report_now();
        EXPECT_EQUAL(told.size(), 4);
        if (told.size() != 4) return;
        for (int i : {0, 1, 3}) EXPECT_EQUAL(told[static_cast<unsigned>(i)].budget_ns, 200 * ms);
        EXPECT(told[2].budget_ns > 0);
        EXPECT(told[2].budget_ns < 100 * ms);
        for (std::size_t i = 0; i < told.size(); ++i) {
            EXPECT(told[i].monotonic_ns <= at[i] + told[i].budget_ns);
            EXPECT(told[i].monotonic_ns + 10'000 * ms > at[i] + told[i].budget_ns);
        }
    };
}

BOOST_AUTO_TEST_CASE(a_deadline_that_has_passed_leaves_no_time_and_no_error) {
    IN_CHILD {
        static std::vector<std::uint64_t> budgets;
        thaw::start({.report_every_ms = 0}, [](thaw::profile const&, thaw::report_deadline const& d) { budgets.push_back(d.budget_ns); });
        use_fake_clock();
        invoke_before(-1'000'000'000);
        { THAW_HANDLER("h2", {.deadline_unix_ns = 1}); }
        { THAW_HANDLER("h3", {.deadline_unix_ns = UINT64_MAX}); }
        for (std::size_t i = 0; i + 1 < budgets.size(); ++i) EXPECT_EQUAL(budgets[i], 0);
        EXPECT(!budgets.empty());
        if (!budgets.empty()) EXPECT_EQUAL(budgets.back(), 100 * ms);
    };
}

BOOST_AUTO_TEST_CASE(a_report_that_does_not_fit_is_put_off_and_counted) {
    IN_CHILD {
        thaw::start({.report_every_ms = 0, .report_budget_ms = 60'000}, [](thaw::profile const& p) {
            keep_profile(p);
            busy_for(40 * ms);
        });
        use_fake_clock();
        invoke();
        EXPECT_EQUAL(caught_count(), 1);
        invoke_before(5'000'000);
        invoke_before(5'000'000);
        EXPECT_EQUAL(caught_count(), 1);
        invoke();  // no deadline: there is time
        EXPECT_EQUAL(caught_count(), 2);
        EXPECT_EQUAL(last_profile().losses.reports_put_off, 2);
        EXPECT_EQUAL(last_profile().window.invocations, 4);  // nothing is lost by it
        invoke_before(60'000'000'000);
        EXPECT_EQUAL(caught_count(), 3);
    };
}

BOOST_AUTO_TEST_CASE(one_slow_report_does_not_silence_the_process) {
    IN_CHILD {
        static bool slow = true;
        thaw::start({.report_every_ms = 0, .report_budget_ms = 5}, [](thaw::profile const& p) {
            keep_profile(p);
            if (slow) busy_for(50 * ms);
            slow = false;
        });
        use_fake_clock();
        for (int i = 0; i < 100; ++i) invoke();
        EXPECT(caught_count() > 10);
        EXPECT(last_profile().losses.reports_put_off > 0);
    };
}

BOOST_AUTO_TEST_CASE(two_invocations_that_end_at_once_are_not_reported_at_once) {
    IN_CHILD {
        static int inside = 0, most = 0;
        thaw::start({.report_every_ms = 0}, [](thaw::profile const& p) {
            int const now = __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);
            if (now > most) most = now;
            busy_for(200'000);
            keep_profile(p);
            __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
        });
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t)
            threads.emplace_back([] {
                for (int i = 0; i < 50; ++i) invoke();
            });
        for (auto& t : threads) t.join();
        EXPECT_EQUAL(most, 1);
        std::uint64_t sequence = 0;
        for (auto const& p : caught()) EXPECT_EQUAL(p.identity.sequence, ++sequence);
        EXPECT_EQUAL(profile_now().window.invocations, 200);
    };
}

BOOST_AUTO_TEST_CASE(stop_waits_for_a_report_that_is_under_way_and_makes_the_last_one) {
    IN_CHILD {
        static steps turn;
        thaw::start({.report_every_ms = 60'000}, [](thaw::profile const& p) {
            keep_profile(p);
            if (p.window.invocations == 1) turn.announce(1), turn.await(2);
        });
        std::thread reporting([] { invoke(); });
        turn.await(1);
        invoke();  // not in the report that is being made
        std::thread releasing([] {
            busy_for(20 * ms);
            turn.announce(2);
        });
        thaw::stop();
        releasing.join();
        reporting.join();
        EXPECT_EQUAL(last_profile().window.invocations, 2);
    };
}

BOOST_AUTO_TEST_CASE(without_memory_nothing_is_recorded_and_that_is_said) {
#if !THAW_TEST_ASAN && !THAW_TEST_TSAN
    IN_CHILD {
        rlimit const limit{1u << 30, 1u << 30};
        EXPECT(::setrlimit(RLIMIT_AS, &limit) == 0);
        stderr_capture said;
        EXPECT(!start_recording({.memory_limit_bytes = 4ull << 30}));
        EXPECT(said.take().find("4294967296") != std::string::npos);
        invoke();
        EXPECT_EQUAL(caught_count(), 0);
        EXPECT(!thaw::report_now());
    };
#endif
}

BOOST_AUTO_TEST_CASE(start_opens_nothing_and_starts_no_thread) {
    IN_CHILD {
        auto const entries = [](std::string const& folder) {
            return std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
        };
        std::string const self = "/proc/" + std::to_string(::getpid());
        auto const files = entries(self + "/fd"), threads = entries(self + "/task");
        start_recording();
        invoke();
        EXPECT_EQUAL(entries(self + "/fd"), files);
        EXPECT_EQUAL(entries(self + "/task"), threads);
    };
}

#if THAW_TEST_ASAN
BOOST_AUTO_TEST_CASE(nothing_is_a_leak_for_a_leak_checker) {
    child_result const r = run_in_child(
        [] {
            start_recording();
            invoke();
            thaw::stop();
            start_recording();
            caught() = {};
        },
        default_limit_s, true);
    BOOST_CHECK_MESSAGE(r.ok(), r.text());
}
#endif

BOOST_AUTO_TEST_SUITE_END()
