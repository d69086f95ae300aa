// Known shares of CPU time, 60 : 30 : 10, are found by sampling: by scopes, and by native functions alone. The truth is measured on
// the thread's CPU clock; the verdict is a chi-square test of the pooled samples of a configuration. The probability that a
// perfect sampler fails anywhere is 1e-4, and samplers with known biases do fail. 300 samples for each configuration, or 1,000
// with THAW_TEST_LONG=1.
#include "../unit/burn.hpp"
#include "../unit/recorded.hpp"

#include <thaw/profile/symbolize.hpp>

#include <boost/test/unit_test.hpp>

#include <array>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace thaw::testing;

namespace {

constexpr std::uint64_t ms = 1'000'000;
constexpr double family_error = 1e-4;
constexpr int verdicts = 16;  // of all configurations; each gets an equal part of the error

using three = std::array<double, 3>;

[[gnu::noinline]] void burn_sixty(std::uint64_t ns) {
    burn(ns);
    __asm__ volatile("# sixty");
}
[[gnu::noinline]] void burn_thirty(std::uint64_t ns) {
    burn(ns);
    __asm__ volatile("# thirty");
}
[[gnu::noinline]] void burn_ten(std::uint64_t ns) {
    burn(ns);
    __asm__ volatile("# ten");
}
constexpr char const* functions[] = {"burn_sixty", "burn_thirty", "burn_ten"};
constexpr char const* scopes[] = {"sixty", "thirty", "ten"};

thread_local int volatile phase = -1;  // of the samplers that are biased on purpose

// The three parts of an invocation that takes `ns`; what each took is added to `truth`.
void work(std::uint64_t ns, three& truth) {
    std::uint64_t const t0 = thread_cpu_ns();
    phase = 0;
    {
        THAW_SCOPE("sixty");
        burn_sixty(ns * 6 / 10);
    }
    std::uint64_t const t1 = thread_cpu_ns();
    phase = 1;
    {
        THAW_SCOPE("thirty");
        burn_thirty(ns * 3 / 10);
    }
    std::uint64_t const t2 = thread_cpu_ns();
    phase = 2;
    {
        THAW_SCOPE("ten");
        burn_ten(ns / 10);
    }
    std::uint64_t const t3 = thread_cpu_ns();
    phase = -1;
    truth[0] += static_cast<double>(t1 - t0), truth[1] += static_cast<double>(t2 - t1), truth[2] += static_cast<double>(t3 - t2);
}

double tick_ns() {
    timespec t{};
    ::clock_getres(CLOCK_MONOTONIC_COARSE, &t);
    return static_cast<double>(t.tv_nsec);
}

struct configuration {
    char const* name;
    std::vector<std::uint64_t> lengths_ms;
};

// Between invocations the thread sleeps for up to a tick, so that ticks find each invocation at another place: work that
// repeats in step with the tick cannot be sampled by ticks, and samples that depend on each other are not what the test assumes.
void freeze(std::mt19937& random) { ::usleep(static_cast<unsigned>(random() % (static_cast<unsigned>(tick_ns()) / 1000))); }

// Invocations of these lengths in turn at random, until `cpu_ns` is used up.
three run(configuration const& c, std::uint64_t cpu_ns, unsigned seed) {
    std::mt19937 random(seed);
    three truth{};
    while (truth[0] + truth[1] + truth[2] < static_cast<double>(cpu_ns)) {
        {
            THAW_HANDLER("h");
            work(c.lengths_ms[random() % c.lengths_ms.size()] * ms, truth);
        }
        freeze(random);
    }
    return truth;
}

// The probability that samples of these shares are at least as far from the truth: chi-square with two degrees of freedom.
double chi_square_p(three const& samples, three const& truth) {
    double const n = samples[0] + samples[1] + samples[2], whole = truth[0] + truth[1] + truth[2];
    double x = 0;
    for (int i = 0; i < 3; ++i) {
        double const expected = n * truth[static_cast<unsigned>(i)] / whole, off = samples[static_cast<unsigned>(i)] - expected;
        x += off * off / expected;
    }
    return std::exp(-x / 2);
}

three by_scope(thaw::profile const& p) {
    three found{};
    for (thaw::cpu_stack const& s : p.cpu.stacks)
        for (unsigned i = 0; i < 3; ++i)
            if (p.name_of(p.nodes[s.node]) == scopes[i]) found[i] += static_cast<double>(s.samples);
    return found;
}

three by_function(thaw::profile p) {
    thaw::symbolize(p);
    three found{};
    for (thaw::cpu_stack const& s : p.cpu.stacks)
        for (unsigned i = 0; i < 3; ++i)
            for (std::uint32_t f = 0; f < s.frame_count; ++f)
                if (p.cpu.locations[p.cpu.frames[s.first_frame + f]].function.find(functions[i]) != std::string::npos) {
                    found[i] += static_cast<double>(s.samples);
                    break;
                }
    return found;
}

three difference(three const& a, three const& b) { return {a[0] - b[0], a[1] - b[1], a[2] - b[2]}; }
double sum(three const& a) { return a[0] + a[1] + a[2]; }

// How often threads of the process lost their processor to others.
long involuntary_switches() {
    rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    return used.ru_nivcsw;
}

std::uint64_t wanted_samples() { return std::getenv("THAW_TEST_LONG") != nullptr ? 1100 : 330; }

std::string shown(three const& samples) {
    return std::to_string(samples[0] / sum(samples)) + " " + std::to_string(samples[1] / sum(samples)) + " " +
           std::to_string(samples[2] / sum(samples)) + " of " + std::to_string(sum(samples));
}

// A sampler of this test alone, for one thread, that weighs or arms in a way known to be biased.
three weights{};
std::uint64_t signals_taken = 0;
bool by_cpu_time = false;  // which is what a timer's overruns count
std::uint64_t last_sample_ns = 0;

void biased_handler(int) {
    int const at = phase;
    std::uint64_t const now = thread_cpu_ns();
    double const weight = by_cpu_time ? static_cast<double>(now - last_sample_ns) : 1.0;
    last_sample_ns = now;
    if (at < 0) return;
    weights[static_cast<unsigned>(at)] += weight;
    ++signals_taken;
}

int make_timer() {
    struct sigaction action {};
    action.sa_handler = &biased_handler;
    action.sa_flags = SA_RESTART;
    ::sigaction(SIGPROF, &action, nullptr);
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGPROF;
    int timer = -1;
    EXPECT(::syscall(SYS_timer_create, CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0);
    return timer;
}

void arm(int timer, std::uint64_t period_ns) {
    timespec const t{0, static_cast<long>(period_ns)};
    itimerspec const period{t, t};
    ::syscall(SYS_timer_settime, timer, 0, &period, nullptr);
}

// As many samples as signals, with the shares of the weights.
three scaled_to_signals() {
    double const factor = static_cast<double>(signals_taken) / sum(weights);
    return {weights[0] * factor, weights[1] * factor, weights[2] * factor};
}

}

BOOST_AUTO_TEST_SUITE(cpu_shares_stress)

BOOST_AUTO_TEST_CASE(shares_are_those_of_the_cpu_time) {
    thaw::testing::in_child{150} = [] {
        start_recording({.report_every_ms = 500, .memory_limit_bytes = 64u << 20});
        { THAW_HANDLER("first"); }
        configuration const configurations[] = {{"5 ms", {5}}, {"2 ms", {2}}, {"1 ms", {1}}, {"mixed", {1, 2, 5, 20}}};
        double all_samples = 0, all_cpu_ns = 0;
        double worst = 1;
        for (configuration const& c : configurations)
            for (unsigned const threads : {1u, 3u}) {
                thaw::profile const before = profile_now();
                auto const cpu_ns = static_cast<std::uint64_t>(static_cast<double>(wanted_samples()) * tick_ns()) / threads;
                long const switches_before = involuntary_switches();
                thaw::profile after;
                three truth{};
                // Where others use the processors too there are fewer samples than ticks of CPU time.
                for (unsigned round = 0; round < 6 && after.cpu.samples < before.cpu.samples + wanted_samples() * 9 / 10; ++round) {
                    std::vector<three> truths(threads);
                    std::vector<std::thread> running;
                    for (unsigned t = 1; t < threads; ++t)
                        running.emplace_back([&, t] { truths[t] = run(c, cpu_ns, 100 * (round + 1) + t); });
                    truths[0] = run(c, cpu_ns, 100 * (round + 1));
                    for (std::thread& t : running) t.join();
                    for (three const& t : truths)
                        for (unsigned i = 0; i < 3; ++i) truth[i] += t[i];
                    after = profile_now();
                }
                three const scope = difference(by_scope(after), by_scope(before));
                three const function = difference(by_function(after), by_function(before));
                auto const samples = static_cast<double>(after.cpu.samples - before.cpu.samples);
                if (static_cast<double>(involuntary_switches() - switches_before) * 20 < samples)
                    all_samples += samples, all_cpu_ns += sum(truth);
                std::string const what = std::string(c.name) + ", " + std::to_string(threads) + " threads: ";
                if (THAW_TEST_TSAN) continue;  // which delivers signals when it finds the time
                double const p_scope = chi_square_p(scope, truth), p_function = chi_square_p(function, truth);
                if (p_scope < worst) worst = p_scope;
                if (p_function < worst) worst = p_function;
                if (std::getenv("THAW_TEST_VERBOSE") != nullptr)
                    std::fprintf(stderr, "%s scopes p %.4f (%s), functions p %.4f (%s), samples x tick / CPU %.3f\n", what.c_str(), p_scope,
                                 shown(scope).c_str(), p_function, shown(function).c_str(), samples * tick_ns() / sum(truth));
                if (p_scope < family_error / verdicts) fail_in_child(__FILE__, __LINE__, what + "scopes " + shown(scope));
                if (p_function < family_error / verdicts) fail_in_child(__FILE__, __LINE__, what + "functions " + shown(function));
                EXPECT(sum(scope) >= samples * 0.95);
                EXPECT(sum(function) >= samples * 0.95);
                EXPECT(samples * 10 >= static_cast<double>(wanted_samples()) * 6);
            }
        // Without any scaling: every tick of CPU time was one sample, unless others competed for the processors.
        if (!THAW_TEST_TSAN && all_samples > 0 && std::abs(all_samples * tick_ns() / all_cpu_ns - 1) > 0.1)
            fail_in_child(__FILE__, __LINE__, std::to_string(all_samples) + " samples in " + std::to_string(all_cpu_ns) + " ns");
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.cpu.status, "on");
        EXPECT(p.cpu.unattributed_ns * 10 <= p.cpu.cpu_ns);
    };
}

BOOST_AUTO_TEST_CASE(weighing_by_the_cpu_time_since_the_last_sample_is_found_out) {
    if (THAW_TEST_TSAN) return;
    IN_CHILD {
        by_cpu_time = true;
        last_sample_ns = thread_cpu_ns();
        int const timer = make_timer();
        arm(timer, ms / 20);
        three truth{};
        std::uint64_t const wanted = 1100;
        std::mt19937 random(1);
        while (signals_taken < wanted && sum(truth) < 8e9) {
            work(5 * ms, truth);
            freeze(random);
        }
        arm(timer, 0);
        double const p = chi_square_p(scaled_to_signals(), truth);
        if (p >= family_error / verdicts) fail_in_child(__FILE__, __LINE__, "p " + std::to_string(p) + ": " + shown(scaled_to_signals()));
    };
}

BOOST_AUTO_TEST_CASE(arming_anew_for_each_invocation_is_found_out) {
    if (THAW_TEST_TSAN) return;
    IN_CHILD {
        int const timer = make_timer();
        three truth{};
        std::mt19937 random(1);
        while (signals_taken < 150 && sum(truth) < 4e9) {
            arm(timer, 4 * ms);
            work(5 * ms, truth);
            arm(timer, 0);
            freeze(random);
        }
        double const p = chi_square_p(scaled_to_signals(), truth);
        if (p >= family_error / verdicts) fail_in_child(__FILE__, __LINE__, "p " + std::to_string(p) + ": " + shown(scaled_to_signals()));
    };
}

BOOST_AUTO_TEST_SUITE_END()
