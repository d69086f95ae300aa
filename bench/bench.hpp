// What the benchmarks share: the unit that budgets are expressed in, and one timing mode for each start of a program.
//
// thaw::start sets a timing mode once for a process, so a program that compares modes is started once for each:
// `scope_bench --thaw_mode=all` runs the benchmarks of that mode and those of every mode, the baselines. bench/run knows the
// modes of each program. Without the argument a program names them and ends with 2.
//
// The active clock stands still outside of invocations, so everything that is measured runs inside THAW_HANDLER, on the
// measuring thread. bench::start makes the first report, which is always due, before anything is measured.
#ifndef THAW_BENCH_BENCH_HPP
#define THAW_BENCH_BENCH_HPP

#if !defined(NDEBUG) || !defined(__OPTIMIZE__)
#error "a benchmark of a debug build measures the debug build: compile with optimisation and -DNDEBUG"
#endif

#include <thaw/thaw.hpp>

#include <cstdint>
#include <cstdio>
#include <cstring>

#include <benchmark/benchmark.h>

namespace bench {

inline std::uint64_t read_counter() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    std::uint64_t value;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
    return value;
#endif
}

// Keeps the compiler from moving or dropping memory accesses across: between scopes, and as the body of a short one.
[[gnu::always_inline]] inline void fence() { __asm__ volatile("" : : : "memory"); }

inline void empty(benchmark::State& state) {
    for (auto _ : state) fence();
}

inline void two_clock_reads(benchmark::State& state) {
    for (auto _ : state) {
        std::uint64_t first = read_counter();
        benchmark::DoNotOptimize(first);
        std::uint64_t second = read_counter();
        benchmark::DoNotOptimize(second);
    }
}

// A benchmark, and the mode it belongs to; null: every mode.
struct entry {
    char const* mode;
    char const* name;
    void (*function)(benchmark::State&);
    int threads = 1;
};

// Starts thaw so that no report comes due while something is measured, and lets the first one pass.
inline void start(thaw::options options) {
    options.app = "bench";
    options.report_every_ms = 86'400'000;
    if (!thaw::start(options, [](thaw::profile const&) {})) std::fprintf(stderr, "thaw does not record\n");
    THAW_HANDLER("bench.first");
}

// Registers the entries of the mode that --thaw_mode= names, calls begin(mode) and runs them. The exit status of main.
template <std::size_t N, class Begin>
int run(int argc, char** argv, entry const (&entries)[N], Begin begin) {
    constexpr char option[] = "--thaw_mode=";
    char const* mode = nullptr;
    int kept = 0;
    for (int i = 0; i < argc; ++i) {
        if (std::strncmp(argv[i], option, sizeof option - 1) == 0) mode = argv[i] + sizeof option - 1;
        else argv[kept++] = argv[i];
    }
    argc = kept;
    bool known = false;
    bool any_mode = false;
    for (entry const& e : entries) {
        any_mode |= e.mode != nullptr;
        known |= e.mode != nullptr && mode != nullptr && std::strcmp(e.mode, mode) == 0;
    }
    if (any_mode != (mode != nullptr) || known != any_mode) {
        std::fprintf(stderr, any_mode ? "%s needs --thaw_mode=, one of:\n" : "%s has no modes\n", argv[0]);
        char const* said = "";
        for (entry const& e : entries)
            if (e.mode != nullptr && std::strcmp(e.mode, said) != 0) std::fprintf(stderr, "  %s\n", said = e.mode);
        return 2;
    }
    for (entry const& e : entries) {
        if (e.mode != nullptr && std::strcmp(e.mode, mode) != 0) continue;
        auto* const registered = benchmark::RegisterBenchmark(e.name, e.function);
        if (e.threads != 1) registered->Threads(e.threads);
    }
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    begin(mode);
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}

}

#endif
