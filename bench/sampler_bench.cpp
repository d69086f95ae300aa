// What CPU sampling costs and delivers: one flat JSON object of numbers.
//
//   samples_per_cpu_second   of a thread that is always busy in an invocation
//   signal_ns                a signal to the own thread and back, with a handler that does nothing
//   sample_ns                what the handler does without native stacks, below 20 frames
//   frame_pointers_ns        with a walk by frame pointers
//   tables_ns                with a walk by unwind tables, and how many frames it has
//   tables_frames            the frames of that walk
//   ns_per_frame             (tables_ns - sample_ns) / tables_frames
//   cost_percent             of a CPU: (signal_ns + sample_ns) times the rate; computed, since no clock is as steady as that
//   stacks_cost_percent      the same with tables
//
// The handler's work is called with a captured context, so that caches are warmer than in a signal. What the kernel does when
// the timer has run out, before it sends the signal, is in none of these figures.

#if !defined(NDEBUG) || !defined(__OPTIMIZE__)
#error "a benchmark of a debug build measures the debug build: compile with optimisation and -DNDEBUG"
#endif

#include <thaw/agent/agent.hpp>
#include <thaw/probe.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

namespace {

namespace sampler = thaw::sampler;

std::uint64_t clock_ns(clockid_t which) {
    timespec t{};
    clock_gettime(which, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}

// The fastest of several rounds of calls, by the CPU time of one.
template <class F>
[[gnu::always_inline]] inline double ns_of(F&& f) {
    constexpr int rounds = 31, calls = 2000;
    double best = 1e9;
    for (int r = 0; r < rounds; ++r) {
        std::uint64_t const begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        for (int i = 0; i < calls; ++i) f();
        best = std::min(best, static_cast<double>(clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin) / calls);
    }
    return best;
}

struct figures {
    double sample_ns = 0, frame_pointers_ns = 0, tables_ns = 0, frames = 0;
};

int volatile plain = 1;

[[gnu::noinline]] int measure(unsigned depth, figures& to, sampler::cpu_sampler& s, sampler::thread_sampler& t) {
    if (depth != 0) return measure(depth - 1, to, s, t) + plain - 1;  // no tail call
    ucontext_t context{};
    getcontext(&context);
    context.uc_stack = {};
    s.start(sampler::stack_source::none);
    to.sample_ns = ns_of([&] { s.take(t, context); });
    s.start(sampler::stack_source::frame_pointers);
    to.frame_pointers_ns = ns_of([&] { s.take(t, context); });
    s.start(sampler::stack_source::tables);
    to.tables_ns = ns_of([&] { s.take(t, context); });
    to.frames = s.stacks.stack(t.newest - 1).frame_count;
    return plain;
}

}

int main() {
    std::uint64_t samples = 0, cpu_ns = 0;
    thaw::start({.app = "bench"}, [&](thaw::profile const& p) { samples = p.cpu.samples, cpu_ns = p.cpu.cpu_ns; });
    {
        THAW_HANDLER("busy");
        std::uint64_t const begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
        while (clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin < 1'000'000'000) {}
    }
    double const rate = static_cast<double>(samples) * 1e9 / static_cast<double>(cpu_ns);

    struct sigaction nothing {};
    nothing.sa_sigaction = [](int, siginfo_t*, void*) {};
    nothing.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    sigaction(SIGUSR1, &nothing, nullptr);
    pid_t const pid = getpid();
    double const signal_ns = ns_of([&] { syscall(SYS_tgkill, pid, pid, SIGUSR1); });

    figures f;
    {
        THAW_HANDLER("sampled");
        thaw::core::thread_record& r = *thaw::core::this_thread.record->whole;
        auto& s = *static_cast<sampler::cpu_sampler*>(r.process->cpu_sampler);
        measure(20, f, s, *static_cast<sampler::thread_sampler*>(r.sampler));
    }
    std::printf("{\"samples_per_cpu_second\": %.1f, \"signal_ns\": %.1f, \"sample_ns\": %.1f, \"frame_pointers_ns\": %.1f, "
                "\"tables_ns\": %.1f, \"tables_frames\": %.0f, \"ns_per_frame\": %.2f, \"cost_percent\": %.4f, "
                "\"stacks_cost_percent\": %.4f}\n",
                rate, signal_ns, f.sample_ns, f.frame_pointers_ns, f.tables_ns, f.frames,
                f.frames > 0 ? (f.tables_ns - f.sample_ns) / f.frames : 0, (signal_ns + f.sample_ns) * rate / 1e7,
                (signal_ns + f.tables_ns) * rate / 1e7);
    return 0;
}
