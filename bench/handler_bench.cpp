// What opening and closing an invocation costs where no report is due.

#include "bench.hpp"

#include <cstdint>
#include <cstring>
#include <utility>

#include <time.h>

namespace {

// No deadline, no CPU time, a tree of a handler or two.
void bare(benchmark::State& state) {
    for (auto _ : state) {
        THAW_HANDLER("bench.handler");
        bench::fence();
    }
}

template <int Index>
void enter_and_leave() {
    THAW_SCOPE("bench.site");
    bench::fence();
}

template <int... Index>
void enter_all(std::integer_sequence<int, Index...>) {
    (enter_and_leave<Index>(), ...);
}

// What a host gives with an event: an id and a deadline. The tree has 100 scopes, of which this invocation enters none.
void with_100_sites(benchmark::State& state) {
    for (int i = 0; i < 10; ++i) {
        THAW_HANDLER("bench.handler");
        enter_all(std::make_integer_sequence<int, 100>{});
    }
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    std::uint64_t const deadline_unix_ns = (static_cast<std::uint64_t>(now.tv_sec) + 3600) * 1'000'000'000u;
    for (auto _ : state) {
        THAW_HANDLER("bench.handler", thaw::invocation{.request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
                                                       .deadline_unix_ns = deadline_unix_ns});
        bench::fence();
    }
}

constexpr bench::entry entries[] = {
    {nullptr, "BM_baseline_empty", bench::empty},
    {nullptr, "BM_baseline_two_clock_reads", bench::two_clock_reads},
    {"disabled", "BM_handler_disabled", bare},
    {"bare", "BM_handler_bare", bare},
    {"defaults", "BM_handler_defaults_100_sites", with_100_sites},
};

// disabled: thaw is not started.
void begin(char const* mode) {
    if (std::strcmp(mode, "bare") == 0) bench::start({.cpu_time = false});
    if (std::strcmp(mode, "defaults") == 0) bench::start({});
}

}

int main(int argc, char** argv) { return bench::run(argc, argv, entries, begin); }
