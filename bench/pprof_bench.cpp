// What a pprof file of 1,000 stacks costs: frames of a mean depth of 9 on 1,000 places in 400 functions, below 64 scopes.

#include "bench.hpp"

#include <thaw/report/pprof.hpp>

#include <cstdint>
#include <random>
#include <string>

namespace {

thaw::profile sampled(std::uint32_t stacks) {
    std::mt19937 random(1);
    auto const below = [&random](std::size_t n) { return static_cast<std::uint32_t>(random() % n); };
    thaw::profile p;
    p.identity = {"shop", "1.4.2", "prod", "7f3a09c2d1e4b586", "0123456789abcdef0123456789abcdef01234567", "host", 4711, 3};
    p.sites.push_back({"process", "", "", 0, thaw::site_kind::process});
    p.nodes.push_back({.site = 0});
    for (std::uint32_t i = 1; i <= 64; ++i) {
        p.sites.push_back({"scope.number." + std::to_string(i), "function", "file.cpp", i,
                           i == 1 ? thaw::site_kind::handler : thaw::site_kind::scope});
        p.nodes.push_back({.site = i, .parent = i == 1 ? 0 : 1 + below(i - 1)});
    }
    thaw::cpu_profile& c = p.cpu;
    c.status = "on";
    for (std::uint64_t i = 0; i < 5; ++i)
        c.modules.push_back({"/usr/lib/x86_64-linux-gnu/library_" + std::to_string(i) + ".so",
                             "0123456789abcdef0123456789abcdef0123456" + std::to_string(i), 0x7f0000000000 + (i << 24),
                             0x7f0000800000 + (i << 24), 0x1000, 0x7f0000000000 + (i << 24)});
    for (std::uint32_t i = 0; i < 1000; ++i) {
        std::uint32_t const module = i % 5;
        c.locations.push_back({c.modules[module].start + below(0x800000), module,
                               "shop::pricing::rules<shop::money>::apply_" + std::to_string(i * 2 / 5) + "(unsigned long)"});
    }
    for (std::uint32_t i = 0; i < stacks; ++i) {
        std::uint32_t const depth = 1 + i % 17;
        c.stacks.push_back({.node = 1 + below(64), .first_frame = static_cast<std::uint32_t>(c.frames.size()),
                            .frame_count = depth, .samples = 1 + below(20)});
        for (std::uint32_t f = 0; f < depth; ++f) c.frames.push_back(below(1000));
        c.stacks.back().cpu_ns = c.stacks.back().samples * 4'012'345;
        c.samples += c.stacks.back().samples;
        c.cpu_ns += c.stacks.back().cpu_ns;
    }
    return p;
}

void encode(benchmark::State& state, thaw::report::pprof const& options) {
    thaw::profile const p = sampled(1000);
    std::size_t size = 0;
    for (auto _ : state) {
        std::string file = options.format(p);
        size = file.size();
        benchmark::DoNotOptimize(file.data());
    }
    state.counters["bytes"] = static_cast<double>(size);
}

constexpr bench::entry entries[] = {
    {nullptr, "BM_baseline_two_clock_reads", bench::two_clock_reads},
    {nullptr, "BM_pprof/1000", [](benchmark::State& state) { encode(state, {}); }},
    {nullptr, "BM_pprof_without_gzip/1000", [](benchmark::State& state) { encode(state, {.gzip = false}); }},
    {nullptr, "BM_pprof_scope_frames/1000", [](benchmark::State& state) { encode(state, {.scope_frames = true}); }},
};

}

int main(int argc, char** argv) {
    return bench::run(argc, argv, entries, [](char const*) {});
}
