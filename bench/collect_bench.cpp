// What a report costs before the reporter is called: reading a tree of 1,000 nodes into a profile, and adding two profiles.
// Nobody writes meanwhile; each node has some five buckets on one or two pages.
//
//   collect        by a collector that is kept, as the agent's is: from the second report on. The caches are warm
//   collect_cold   the same where the host has used the nearer caches meanwhile
//   collect_first  by a new one, which copies the sites' strings and takes memory
//   collect_floor  the least that collect could take: every node and its buckets are read, and no profile is made of it
//   merge          into a sum that is there already, as of many instances
//   merge_first    into a copy of the first of two
//   merge_floor    the least that merge could take: numbers of the same size are added, and nothing is compared

#include "bench.hpp"
#include "function_tree.hpp"

#include <thaw/profile/merge.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

bench::function_tree& tree() {
    static bench::function_tree t{1000, 5, 0.7};
    return t;
}

void collect_first(benchmark::State& state) {
    for (auto _ : state) {
        thaw::detail::collector collector(tree().process());
        benchmark::DoNotOptimize(collector.collect().nodes.data());
    }
}

void collect(benchmark::State& state) {
    thaw::detail::collector collector(tree().process());
    for (auto _ : state) benchmark::DoNotOptimize(collector.collect().nodes.data());
    state.counters["mean_depth"] = tree().mean_depth();
    thaw::profile const p = thaw::detail::collector(tree().process()).collect();
    state.counters["nodes"] = static_cast<double>(p.nodes.size());
    state.counters["buckets_per_node"] = static_cast<double>(p.buckets.size()) / static_cast<double>(p.nodes.size());
}

void collect_floor(benchmark::State& state) {
    static thaw::core::histogram_bucket buckets[thaw::core::histogram_bucket_count];
    thaw::core::call_tree const& read = thaw::core::load_acquire(tree().process().records)->tree;
    for (auto _ : state) {
        std::uint64_t sum = 0;
        for (thaw::core::node const* n = &read.root; n != nullptr; n = thaw::core::call_tree::next_created(*n)) {
            thaw::core::node_snapshot const s = read.read(*n, buckets);
            sum += s.count + s.sum_ticks + s.max_ticks + static_cast<std::uint64_t>(s.buckets_end - buckets);
        }
        benchmark::DoNotOptimize(sum);
    }
}

void collect_cold(benchmark::State& state) {
    thaw::detail::collector collector(tree().process());
    std::vector<unsigned char> host(16u << 20);
    unsigned char touched = 0;
    for (auto _ : state) {
        state.PauseTiming();
        for (std::size_t i = 0; i < host.size(); i += 64) touched = ++host[i];
        benchmark::DoNotOptimize(touched);
        state.ResumeTiming();
        benchmark::DoNotOptimize(collector.collect().nodes.data());
    }
}

// Two instances of one program: equal sites and trees, in memory of their own.
thaw::profile instance() { return thaw::detail::collector(tree().process()).collect(); }

void merge(benchmark::State& state) {
    thaw::profile sum = instance();
    thaw::profile const p = instance();
    for (auto _ : state) {
        sum = thaw::merge(static_cast<thaw::profile&&>(sum), p);
        benchmark::DoNotOptimize(sum.nodes.data());
    }
}

void merge_first(benchmark::State& state) {
    thaw::profile const a = instance();
    thaw::profile const b = instance();
    for (auto _ : state) {
        thaw::profile sum = thaw::merge(a, b);
        benchmark::DoNotOptimize(sum.nodes.data());
    }
}

void merge_floor(benchmark::State& state) {
    thaw::profile const p = instance();
    std::vector<std::uint64_t> sum((p.nodes.size() * sizeof p.nodes[0] + p.buckets.size() * sizeof p.buckets[0]) / 8, 1);
    std::vector<std::uint64_t> const added(sum.size(), 1);
    for (auto _ : state) {
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += added[i];
        benchmark::DoNotOptimize(sum.data());
        benchmark::ClobberMemory();
    }
}

constexpr bench::entry entries[] = {
    {nullptr, "BM_baseline_two_clock_reads", bench::two_clock_reads},
    {nullptr, "BM_collect/1000", collect},
    {nullptr, "BM_collect_cold/1000", collect_cold},
    {nullptr, "BM_collect_first/1000", collect_first},
    {nullptr, "BM_collect_floor/1000", collect_floor},
    {nullptr, "BM_merge/1000", merge},
    {nullptr, "BM_merge_first/1000", merge_first},
    {nullptr, "BM_merge_floor/1000", merge_floor},
};

}

int main(int argc, char** argv) {
    return bench::run(argc, argv, entries, [](char const*) {});
}
