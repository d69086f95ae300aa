// A native stack of 20 frames and more, by tables and by frame pointers, beside libgcc's unwinder. This file is compiled like
// any other, so that the walk by frame pointers has only as many frames as the compiler left it.

#include <thaw/sampler/unwind.hpp>

#include <cstdint>
#include <cstdio>

#include <benchmark/benchmark.h>
#include <unwind.h>

#if !defined(NDEBUG) || !defined(__OPTIMIZE__)
#error "a benchmark of a debug build measures the debug build: compile with optimisation and -DNDEBUG"
#endif

namespace {

namespace sampler = thaw::sampler;

constexpr std::uint32_t limit = 128;
std::uintptr_t frames[limit];
sampler::stack_bounds bounds;
int volatile plain = 1;

sampler::unwinder& unwinder() {
    static sampler::unwinder u;
    return u;
}

// Calls f below 20 frames.
template <class F>
[[gnu::noinline]] std::uint32_t at_depth(unsigned depth, F& f) {
    std::uint32_t const n = depth == 0 ? f() : at_depth(depth - 1, f);
    return n + static_cast<std::uint32_t>(plain) - 1;  // no tail call
}

template <class Walk>
void measure(benchmark::State& state, Walk walk) {
    auto all = [&] {
        std::uint32_t count = 0;
        for (auto _ : state) count = walk();
        return count;
    };
    std::uint32_t const count = at_depth(20, all);
    state.counters["frames"] = count;
}

void tables(benchmark::State& state) {
    measure(state, [] {
        sampler::registers r;
        r.capture();
        return unwinder().unwind(r, frames, limit, bounds).count;
    });
}

// As after a change of modules: the rules of every frame are read. Emptying the cache is part of it, and measured alone below.
void tables_without_cache(benchmark::State& state) {
    measure(state, [] {
        unwinder().rules = {};
        sampler::registers r;
        r.capture();
        return unwinder().unwind(r, frames, limit, bounds).count;
    });
}

void empty_cache(benchmark::State& state) {
    for (auto _ : state) {
        unwinder().rules = {};
        benchmark::ClobberMemory();
    }
}

void frame_pointers(benchmark::State& state) {
    measure(state, [] {
        sampler::registers r;
        r.capture();
        return sampler::walk_frame_pointers(r, frames, limit, bounds).count;
    });
}

void libgcc(benchmark::State& state) {
    measure(state, [] {
        std::uint32_t count = 0;
        ::_Unwind_Backtrace(
            [](_Unwind_Context* context, void* n) {
                frames[(*static_cast<std::uint32_t*>(n))++ % limit] = ::_Unwind_GetIP(context);
                return _URC_NO_REASON;
            },
            &count);
        return count;
    });
}

void renew_unchanged(benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(unwinder().modules.renew_if_changed());
}

// The mappings are left: a table lives as long as the process.
void make_table(benchmark::State& state) {
    for (auto _ : state) {
        sampler::module_table table;
        benchmark::DoNotOptimize(table.renew_if_changed());
        state.counters["bytes"] = static_cast<double>(table.used_bytes());
    }
}

}

int main(int argc, char** argv) {
    bounds = sampler::current_thread_stack();
    unwinder().modules.renew_if_changed();
    benchmark::RegisterBenchmark("BM_baseline_libgcc", libgcc);
    benchmark::RegisterBenchmark("BM_stack_by_tables", tables);
    benchmark::RegisterBenchmark("BM_stack_by_tables_without_cache", tables_without_cache);
    benchmark::RegisterBenchmark("BM_stack_by_frame_pointers", frame_pointers);
    benchmark::RegisterBenchmark("BM_baseline_empty_cache", empty_cache);
    benchmark::RegisterBenchmark("BM_make_table", make_table)->Iterations(300);
    benchmark::RegisterBenchmark("BM_renew_if_nothing_changed", renew_unchanged);
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
