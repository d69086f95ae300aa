// Adaptive timing while profiles are made: short scopes, picked or not, under ticks, waits and other threads' collecting. Run
// under TSan; what the estimates are worth is tested in unit/adaptive_test.cpp.
#include "../unit/recorded.hpp"

#include <thaw/agent/agent.hpp>
#include <thaw/probe.hpp>

#include <boost/test/unit_test.hpp>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

using namespace thaw::testing;

thread_local std::uint64_t volatile result = 0;

void short_work(int rounds) {
    THAW_SCOPE("short");
    for (int i = 0; i < rounds; ++i) result = result * 31 + 7;
}

void one_invocation() {
    THAW_HANDLER("adaptive");
    for (int i = 0; i < 400; ++i) {
        THAW_SCOPE("outer");
        short_work(2);
        short_work(i % 50 == 0 ? 4000 : 1);
        if (i % 97 == 0) {
            THAW_WAIT("pause");
            std::this_thread::yield();
        }
    }
}

// What holds of every profile, and from one to the next.
void expect_possible(thaw::profile const& p, std::map<std::string, std::uint64_t>& last_calls) {
    EXPECT_EQUAL(p.losses.torn_nodes, 0);
    EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    for (std::uint32_t i = 0; i < p.nodes.size(); ++i) {
        thaw::profile_node const& n = p.nodes[i];
        std::uint64_t counted = 0;
        for (auto const& b : p.durations_of(n)) counted += b.count;
        EXPECT(counted >= n.timed);
        EXPECT(n.timed <= n.calls);
        EXPECT(n.timed == 0 || n.max_ns > 0);
        std::uint64_t& before = last_calls[path_of(p, i)];
        EXPECT(n.calls >= before);
        before = n.calls;
    }
}

}

BOOST_AUTO_TEST_SUITE(adaptive_stress)

BOOST_AUTO_TEST_CASE(profiles_made_while_short_scopes_are_sampled_could_have_been_true) {
    char const* const long_run = std::getenv("THAW_TEST_LONG");
    auto const duration = std::chrono::seconds(long_run != nullptr && std::string_view(long_run) == "1" ? 60 : 2);
    IN_CHILD {
        static std::map<std::string, std::uint64_t> last_calls;
        thaw::start({.timing = thaw::timing::adaptive, .report_every_ms = 86'400'000, .report_budget_ms = 60'000, .memory_limit_bytes = 64u << 20},
                    [](thaw::profile const& p) {
                        expect_possible(p, last_calls);
                        keep_profile(p);
                        std::lock_guard const lock(caught_mutex());
                        if (caught().size() > 1) caught().erase(caught().begin(), caught().end() - 1);
                    });
        bool over = false;
        std::uint64_t invocations[3] = {};
        std::vector<std::thread> threads;
        for (auto& mine : invocations)
            threads.emplace_back([&over, &mine] {
                for (; !__atomic_load_n(&over, __ATOMIC_RELAXED); ++mine) one_invocation();
            });
        auto const end = std::chrono::steady_clock::now() + duration;
        std::uint64_t reports = 0;
        while (std::chrono::steady_clock::now() < end) reports += thaw::report_now();
        __atomic_store_n(&over, true, __ATOMIC_RELAXED);
        for (auto& t : threads) t.join();
        EXPECT(reports > 10);
        std::uint64_t const all = invocations[0] + invocations[1] + invocations[2];
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, all);
        EXPECT_EQUAL(node_at(p, "adaptive").calls, all);
        EXPECT_EQUAL(node_at(p, "adaptive/outer").calls, all * 400);
        EXPECT_EQUAL(node_at(p, "adaptive/outer/short").calls, all * 800);
        EXPECT_EQUAL(node_at(p, "adaptive/outer/pause").calls, all * 5);
    };
}

BOOST_AUTO_TEST_SUITE_END()
