// What a wait guard adds to the wait it surrounds: every wait is timed and enters a histogram.

#include "bench.hpp"

namespace {

void wait_guard(benchmark::State& state) {
    THAW_HANDLER("bench.wait");
    for (auto _ : state) {
        THAW_WAIT("bench.wait_guard");
        bench::fence();
    }
}

constexpr bench::entry entries[] = {
    {nullptr, "BM_baseline_empty", bench::empty},
    {nullptr, "BM_baseline_two_clock_reads", bench::two_clock_reads},
    {nullptr, "BM_wait_guard", wait_guard},
};

}

int main(int argc, char** argv) {
    return bench::run(argc, argv, entries, [](char const*) { bench::start({}); });
}
