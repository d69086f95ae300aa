// What a scope costs, by timing mode and by the pattern in which scopes follow each other. A figure is the time of one scope;
// for /N it includes 1/N of the loop (BM_baseline_empty). Rows of the budget: structure, all and disabled.

#include "bench.hpp"
#include "scope_elsewhere.hpp"

#include <cstdint>
#include <cstring>
#include <utility>

namespace {

// Each index has a site of its own.
template <int Index>
[[gnu::always_inline]] inline void enter_and_leave() {
    THAW_SCOPE("bench.site");
    bench::fence();
}

template <int... Index>
[[gnu::always_inline]] inline void enter_all(std::integer_sequence<int, Index...>) {
    ((enter_and_leave<Index>(), bench::fence()), ...);
}

void set_scopes(benchmark::State& state, int per_iteration) { state.SetItemsProcessed(state.iterations() * per_iteration); }

// `Sites` different scopes in turn under one parent.
template <int Sites>
void alternating(benchmark::State& state) {
    THAW_HANDLER("bench.alternating");
    for (auto _ : state) enter_all(std::make_integer_sequence<int, Sites>{});
    set_scopes(state, Sites);
}

void four_deep(benchmark::State& state) {
    THAW_HANDLER("bench.four_deep");
    for (auto _ : state) {
        THAW_SCOPE("bench.depth.1");
        THAW_SCOPE("bench.depth.2");
        THAW_SCOPE("bench.depth.3");
        THAW_SCOPE("bench.depth.4");
        bench::fence();
    }
    set_scopes(state, 4);
}

[[gnu::noinline]] void function_with_scope() {
    THAW_SCOPE("bench.function");
    bench::fence();
}

[[gnu::noinline]] void function_without_scope() { bench::fence(); }

void call(benchmark::State& state) {
    THAW_HANDLER("bench.call");
    for (auto _ : state) function_with_scope();
    set_scopes(state, 1);
}

void bare_call(benchmark::State& state) {
    for (auto _ : state) function_without_scope();
}

[[gnu::always_inline]] inline void shared_site() {
    THAW_SCOPE("bench.shared");
    bench::fence();
}

// One site under two parents in turn: four scopes an iteration, of which the parents alternate.
void two_parents(benchmark::State& state) {
    THAW_HANDLER("bench.two_parents");
    for (auto _ : state) {
        {
            THAW_SCOPE("bench.parent.1");
            shared_site();
        }
        bench::fence();
        {
            THAW_SCOPE("bench.parent.2");
            shared_site();
        }
        bench::fence();
    }
    set_scopes(state, 4);
}

void in_a_shared_library(benchmark::State& state) {
    THAW_HANDLER("bench.shared_library");
    for (auto _ : state) bench::scope_in_shared_library();
    set_scopes(state, 1);
}

void bare_call_into_a_shared_library(benchmark::State& state) {
    for (auto _ : state) bench::nothing_in_shared_library();
}

// What no scope that is timed each time can be below: two readings, and the duration in sum, maximum, count and histogram, with
// everything at hand in registers and nothing looked up, checked or made known to a reader.
void timed_floor(benchmark::State& state) {
    thaw::core::arena memory;
    if (!memory.reserve(1 << 20) || memory.allocate(64) == nullptr) return state.SkipWithError("no memory");
    thaw::core::live_histogram histogram;
    for (std::uint64_t ns = 1; ns < 100'000; ns += ns / 64 + 1) static_cast<void>(histogram.add(memory, ns, 1));
    thaw::core::tick_length length{1651910498};
    benchmark::DoNotOptimize(length);
    std::uint64_t count = 0, sum = 0, max = 0;
    for (auto _ : state) {
        std::uint64_t const entered = bench::read_counter();
        bench::fence();
        std::uint64_t const ticks = bench::read_counter() - entered;
        sum += ticks, ++count;
        if (ticks > max) max = ticks;
        if (std::uint32_t* const in_bucket = histogram.existing(memory, length.to_ns_within_500_years(ticks))) ++*in_bucket;
        benchmark::DoNotOptimize(sum), benchmark::DoNotOptimize(max), benchmark::DoNotOptimize(count);
    }
    memory.release();
}

// Some 16 ns of arithmetic, each step of which needs the one before.
[[gnu::always_inline]] inline std::uint64_t work(std::uint64_t x) {
    for (int i = 0; i < 9; ++i) x = (x ^ x >> 7) * 0x9E3779B97F4A7C15u;
    return x;
}

void bare_work(benchmark::State& state) {
    THAW_HANDLER("bench.bare_work");
    std::uint64_t x = 1;
    for (auto _ : state) {
        x = work(x);
        benchmark::DoNotOptimize(x);
    }
}

void work_in_scope(benchmark::State& state) {
    THAW_HANDLER("bench.work_in_scope");
    std::uint64_t x = 1;
    for (auto _ : state) {
        THAW_SCOPE("bench.work");
        x = work(x);
        benchmark::DoNotOptimize(x);
    }
}

constexpr bench::entry entries[] = {
    {nullptr, "BM_baseline_empty", bench::empty},
    {nullptr, "BM_baseline_two_clock_reads", bench::two_clock_reads},
    {nullptr, "BM_baseline_call", bare_call},
    {nullptr, "BM_baseline_call_shared_library", bare_call_into_a_shared_library},
    {nullptr, "BM_scope_work_bare", bare_work},
    {nullptr, "BM_scope_all_floor", timed_floor},

    {"disabled", "BM_scope_compiled_out", bench::scope_compiled_out},
    {"disabled", "BM_scope_disabled", alternating<1>},
    {"disabled", "BM_scope_disabled_call", call},
    {"disabled", "BM_scope_disabled_shared_library", in_a_shared_library},
    {"disabled", "BM_scope_work_disabled", work_in_scope},

    {"none", "BM_scope_structure/1", alternating<1>},
    {"none", "BM_scope_structure/4", alternating<4>},
    {"none", "BM_scope_structure/64", alternating<64>},
    {"none", "BM_scope_structure_depth/4", four_deep},
    {"none", "BM_scope_structure_call", call},
    {"none", "BM_scope_structure_two_parents", two_parents},
    {"none", "BM_scope_structure_shared_library", in_a_shared_library},
    {"none", "BM_scope_structure", alternating<1>, 2},
    {"none", "BM_scope_work_structure", work_in_scope},

    {"all", "BM_scope_all/1", alternating<1>},
    {"all", "BM_scope_all/4", alternating<4>},
    {"all", "BM_scope_all/64", alternating<64>},
    {"all", "BM_scope_work_all", work_in_scope},

    {"adaptive", "BM_scope_adaptive/1", alternating<1>},
    {"adaptive", "BM_scope_adaptive/4", alternating<4>},
    {"adaptive", "BM_scope_adaptive/64", alternating<64>},
    {"adaptive", "BM_scope_adaptive_depth/4", four_deep},
    {"adaptive", "BM_scope_adaptive_call", call},
    {"adaptive", "BM_scope_work_adaptive", work_in_scope},
};

// disabled: thaw is not started.
void begin(char const* mode) {
    if (std::strcmp(mode, "none") == 0) bench::start({.timing = thaw::timing::none});
    if (std::strcmp(mode, "all") == 0) bench::start({.timing = thaw::timing::all});
    if (std::strcmp(mode, "adaptive") == 0) bench::start({.timing = thaw::timing::adaptive});
}

}

int main(int argc, char** argv) { return bench::run(argc, argv, entries, begin); }
