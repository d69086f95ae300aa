// A part of scope_bench: a scope in a translation unit without thaw.
#define THAW_ENABLED 0

#include "scope_elsewhere.hpp"

#include <thaw/probe.hpp>

#include <benchmark/benchmark.h>

void bench::scope_compiled_out(benchmark::State& state) {
    for (auto _ : state) {
        THAW_SCOPE("bench.compiled_out");
        __asm__ volatile("" : : : "memory");
    }
}
