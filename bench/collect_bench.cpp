// What a report costs before the reporter is called: reading a tree of 1,000 nodes into a profile, and adding two profiles.
// The tree is read while nobody writes and with warm caches; each node has some five buckets on two pages.

#include "bench.hpp"
#include "function_tree.hpp"

#include <thaw/profile/merge.hpp>

namespace {

bench::function_tree& tree() {
    static bench::function_tree t{1000, 5, 0.7};
    return t;
}

void collect(benchmark::State& state) {
    for (auto _ : state) {
        thaw::profile p = thaw::detail::collector(tree().process()).collect();
        benchmark::DoNotOptimize(p.nodes.data());
    }
    state.counters["mean_depth"] = tree().mean_depth();
    thaw::profile const p = thaw::detail::collector(tree().process()).collect();
    state.counters["nodes"] = static_cast<double>(p.nodes.size());
    state.counters["buckets_per_node"] = static_cast<double>(p.buckets.size()) / static_cast<double>(p.nodes.size());
}

void merge(benchmark::State& state) {
    thaw::profile const a = thaw::detail::collector(tree().process()).collect();
    thaw::profile const b = a;
    for (auto _ : state) {
        thaw::profile p = thaw::merge(a, b);
        benchmark::DoNotOptimize(p.nodes.data());
    }
}

constexpr bench::entry entries[] = {
    {nullptr, "BM_baseline_two_clock_reads", bench::two_clock_reads},
    {nullptr, "BM_collect/1000", collect},
    {nullptr, "BM_merge/1000", merge},
};

}

int main(int argc, char** argv) {
    return bench::run(argc, argv, entries, [](char const*) {});
}
