// Everything at once while signals of the sampler fall on every thread at 10,000 a second: invocations, allocations, exceptions,
// libraries that come and go, threads that start and end, reports. Nothing breaks or hangs, the host's counts and thaw's are exact,
// and the samples of all stacks are the samples that were taken. 5 s, or 60 s with THAW_TEST_LONG=1; a deadlock ends the child.
#include "../unit/recorded.hpp"

#include <thaw/probe/containers.hpp>
#include <thaw/sampler/cpu_sampler.hpp>

#include <boost/test/unit_test.hpp>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

using namespace thaw::testing;

namespace {

struct counts {
    std::uint64_t invocations = 0;
    std::uint64_t throws = 0;
    std::uint64_t allocations = 0;
    std::uint64_t threads = 0;
};

// Sends the calling thread the sampler's signal as the sampler's own timers do, but by the wall clock and 40 times as often as a
// kernel's tick allows. Until it is destroyed.
class storm {
public:
    storm() {
        auto* const record = thaw::core::this_thread.record->whole;
        if (record == nullptr || record->sampler == nullptr) {
            fail_in_child(__FILE__, __LINE__, "the thread is not sampled");
            return;
        }
        sigevent event{};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGPROF;
        event.sigev_value.sival_ptr = record->sampler;
        auto const tid = static_cast<pid_t>(::syscall(SYS_gettid));
        // behind value, signal and kind, as the kernel has it; libcs disagree about the name
        std::memcpy(reinterpret_cast<unsigned char*>(&event) + sizeof(sigval) + 2 * sizeof(int), &tid, sizeof tid);
        m_made = ::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &m_timer) == 0;
        itimerspec const period{{0, 100'000}, {0, 100'000}};
        if (m_made) ::syscall(SYS_timer_settime, m_timer, 0, &period, nullptr);
        if (!m_made) fail_in_child(__FILE__, __LINE__, "no timer");
    }
    ~storm() {
        if (m_made) ::syscall(SYS_timer_delete, m_timer);
    }
    storm(storm const&) = delete;
    storm& operator=(storm const&) = delete;

private:
    int m_timer = 0;
    bool m_made = false;
};

[[gnu::noinline]] void throw_through(int depth) {
    THAW_SCOPE("throws");
    if (depth == 0) throw std::runtime_error("storm");
    throw_through(depth - 1);
}

void invoke(counts& n, unsigned number, unsigned round) {
    THAW_HANDLER("handler");
    ++n.invocations;
    {
        THAW_SCOPE("allocates");
        for (int i = 0; i < 20; ++i) {
            thaw::vector<int> numbers{THAW_ALLOCATOR("numbers")};
            numbers.resize(static_cast<std::size_t>(10 + i * 7));
            ++n.allocations;
            std::string const text(static_cast<std::size_t>(100 + i), 'x');
            if (text.size() < 100) std::abort();
        }
    }
    try {
        ++n.throws;
        throw_through(static_cast<int>(round % 8));
    } catch (std::runtime_error const&) {
    }
    if (number == 0 && round % 8 == 0)
        for (char const* const name : {"libresolv.so.2", "libutil.so.1", "libanl.so.1"})
            if (void* const module = ::dlopen(name, RTLD_NOW)) ::dlclose(module);
}

void work(counts& n, unsigned number, bool const& over) {
    invoke(n, number, 0);  // registers the thread
    storm const signals;
    for (unsigned round = 1; !__atomic_load_n(&over, __ATOMIC_RELAXED); ++round) {
        invoke(n, number, round);
        if (number != 1 || round % 16 != 0) continue;
        counts of_thread;
        std::thread([&of_thread] {
            invoke(of_thread, 2, 3);
            storm const more;
            invoke(of_thread, 2, 5);
        }).join();
        n.invocations += of_thread.invocations, n.throws += of_thread.throws, n.allocations += of_thread.allocations;
        ++n.threads;
    }
}

}

BOOST_AUTO_TEST_SUITE(sampling_stress)

BOOST_AUTO_TEST_CASE(a_storm_of_signals_breaks_nothing) {
    bool const long_run = std::getenv("THAW_TEST_LONG") != nullptr;
    auto const r = run_in_child(
        [long_run] {
            start_recording({.report_every_ms = 50});
            constexpr unsigned workers = 3;
            counts of[workers];
            bool over = false;
            std::vector<std::thread> threads;
            for (unsigned i = 0; i < workers; ++i) threads.emplace_back([&, i] { work(of[i], i, over); });
            std::this_thread::sleep_for(std::chrono::seconds(long_run ? 60 : 5));
            __atomic_store_n(&over, true, __ATOMIC_RELAXED);
            for (auto& t : threads) t.join();
            counts sum;
            for (counts const& n : of) {
                sum.invocations += n.invocations, sum.throws += n.throws;
                sum.allocations += n.allocations, sum.threads += n.threads;
            }
            thaw::profile const p = profile_now();
            EXPECT_EQUAL(p.window.invocations, sum.invocations);
            EXPECT_EQUAL(p.window.errors, 0);
            EXPECT_EQUAL(p.window.open, 0);
            EXPECT_EQUAL(memory_at(p, "numbers").allocations, sum.allocations);
            EXPECT_EQUAL(memory_at(p, "numbers").live_bytes(), 0);
            EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
            EXPECT_EQUAL(p.losses.reports_failed, 0);
            std::uint64_t samples = 0, calls = 0;
            for (thaw::cpu_stack const& s : p.cpu.stacks) samples += s.samples;
            for (auto const& n : p.nodes)
                if (p.name_of(n) == "handler") calls += n.calls;
            EXPECT_EQUAL(calls, sum.invocations);
            EXPECT_EQUAL(samples, p.cpu.samples);
            EXPECT(p.cpu.samples > 1000);
            EXPECT(sum.threads > 3);
            EXPECT(p.cpu.status == "on");
        },
        long_run ? 170 : 100);
    BOOST_CHECK_MESSAGE(r.ok(), r.text().substr(0, 4'000));
}

BOOST_AUTO_TEST_SUITE_END()
