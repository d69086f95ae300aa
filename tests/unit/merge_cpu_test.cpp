#include "sample_profile.hpp"

#include <thaw/profile/merge.hpp>
#include <thaw/profile/merge_cpu.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

using thaw::cpu_profile;
using thaw::profile;
using thaw::testing::computing_like;

namespace {

// Two modules, loaded at `bias` and one MiB behind it; frames are distances into the first, or into the second beyond 1 MiB.
cpu_profile loaded_at(std::uint64_t bias, std::string const& build_id = "aa") {
    cpu_profile p;
    p.status = "on";
    p.period_ns = 50'000;
    p.modules = {{.path = "/bin/shop", .build_id = build_id, .start = bias, .limit = bias + 0x100000, .file_offset = 0, .bias = bias},
                 {.path = "/lib/libc.so.6", .build_id = "cc", .start = bias + 0x100000, .limit = bias + 0x200000, .file_offset = 0,
                  .bias = bias + 0x100000}};
    return p;
}

void add_stack(cpu_profile& p, std::uint32_t node, std::vector<std::uint64_t> const& distances, std::uint64_t samples,
               std::string const& function = {}) {
    auto const first = static_cast<std::uint32_t>(p.frames.size());
    for (std::uint64_t const d : distances) {
        std::uint64_t const address = p.modules[0].bias + d;
        std::uint32_t at = 0;
        while (at < p.locations.size() && p.locations[at].address != address) ++at;
        if (at == p.locations.size()) p.locations.push_back({address, d < 0x100000 ? 0u : 1u, function});
        p.frames.push_back(at);
    }
    p.stacks.push_back({node, first, static_cast<std::uint32_t>(distances.size()), false, samples, samples * 4'000'000});
    p.samples += samples;
    p.cpu_ns += samples * 4'000'000;
}

cpu_profile merged(cpu_profile sum, cpu_profile const& added, std::vector<std::uint32_t> const& node_of = {0, 1, 2, 3}) {
    thaw::detail::cpu_merge(sum, added, node_of).add();
    return sum;
}

// Samples and CPU time by node and stack, places by file, build id and distance.
std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> figures_of(cpu_profile const& p) {
    std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> all;
    for (thaw::cpu_stack const& s : p.stacks) {
        std::string key = std::to_string(s.node);
        for (std::uint32_t i = 0; i < s.frame_count; ++i) {
            thaw::code_location const& l = p.locations[p.frames[s.first_frame + i]];
            if (l.module >= p.modules.size()) key += " ?" + std::to_string(l.address);
            else key += ' ' + p.modules[l.module].path + p.modules[l.module].build_id + '+' + std::to_string(l.address - p.modules[l.module].bias);
        }
        BOOST_REQUIRE_MESSAGE(all.emplace(key, std::pair{s.samples, s.cpu_ns}).second, "twice: " + key);
    }
    return all;
}

}

BOOST_AUTO_TEST_SUITE(merge_cpu)

BOOST_AUTO_TEST_CASE(a_place_is_the_same_wherever_its_file_was_loaded) {
    cpu_profile a = loaded_at(0x5555'0000'0000), b = loaded_at(0x7777'0000'0000);
    add_stack(a, 1, {0x10, 0x100040}, 3, "f()");
    add_stack(b, 1, {0x10, 0x100040}, 4);
    cpu_profile const sum = merged(a, b);
    BOOST_TEST(sum.modules.size() == 2u);
    BOOST_TEST(sum.locations.size() == 2u);
    BOOST_TEST(sum.locations[0].address == 0x5555'0000'0010u);
    BOOST_REQUIRE(sum.stacks.size() == 1u);
    BOOST_TEST(sum.stacks[0].samples == 7u);
    BOOST_TEST(sum.stacks[0].cpu_ns == 28'000'000u);
    BOOST_TEST(sum.samples == 7u);
    BOOST_TEST(sum.cpu_ns == 28'000'000u);
    BOOST_TEST(merged(b, a).locations[0].function == "f()");
}

BOOST_AUTO_TEST_CASE(a_file_of_another_build_is_another_file) {
    cpu_profile a = loaded_at(0x1000'0000, "aa"), b = loaded_at(0x1000'0000, "bb");
    add_stack(a, 1, {0x10}, 1);
    add_stack(b, 1, {0x10}, 2);
    cpu_profile const sum = merged(a, b);
    BOOST_TEST(sum.modules.size() == 3u);
    BOOST_TEST(sum.stacks.size() == 2u);
    BOOST_TEST(sum.samples == 3u);
}

BOOST_AUTO_TEST_CASE(nodes_are_those_of_the_sum) {
    cpu_profile a = loaded_at(0), b = loaded_at(0);
    add_stack(a, 2, {0x10}, 5);
    add_stack(b, 1, {0x10}, 6);
    cpu_profile const sum = merged(a, b, {0, 2});
    BOOST_REQUIRE(sum.stacks.size() == 1u);
    BOOST_TEST(sum.stacks[0].node == 2u);
    BOOST_TEST(sum.stacks[0].samples == 11u);
}

BOOST_AUTO_TEST_CASE(stacks_that_differ_anywhere_stay_apart) {
    cpu_profile a = loaded_at(0), b = loaded_at(0x4000'0000);
    add_stack(a, 1, {0x10, 0x20}, 1);
    add_stack(b, 1, {0x20, 0x10}, 1);
    add_stack(b, 1, {0x10}, 1);
    add_stack(b, 1, {0x10, 0x20, 0x20}, 1);
    add_stack(b, 3, {0x10, 0x20}, 1);
    add_stack(b, 1, {}, 1);
    add_stack(b, 1, {0x10, 0x20}, 1);
    b.stacks.back().truncated = true;
    cpu_profile const sum = merged(a, b);
    BOOST_TEST(sum.stacks.size() == 7u);
    BOOST_TEST(sum.samples == 7u);
}

BOOST_AUTO_TEST_CASE(of_random_profiles_every_figure_is_the_sum_in_either_order) {
    std::mt19937 random(1);
    for (int round = 0; round < 50; ++round) {
        cpu_profile p[2] = {loaded_at(0x1000'0000), loaded_at(0x9000'0000, round % 3 == 0 ? "bb" : "aa")};
        for (cpu_profile& one : p) {
            std::map<std::pair<std::uint32_t, std::vector<std::uint64_t>>, std::uint64_t> stacks;
            for (auto i = random() % 200; i > 0; --i) {
                std::vector<std::uint64_t> frames(random() % 4);
                for (std::uint64_t& f : frames) f = (random() % 4) * 8 + (random() % 2) * 0x100000;
                stacks[{random() % 4, frames}] += 1 + random() % 9;
            }
            for (auto const& [where, samples] : stacks) add_stack(one, where.first, where.second, samples);
        }
        auto expected = figures_of(p[0]);
        for (auto const& [key, figures] : figures_of(p[1])) expected[key].first += figures.first, expected[key].second += figures.second;
        BOOST_REQUIRE((figures_of(merged(p[0], p[1])) == expected));
        BOOST_REQUIRE((figures_of(merged(p[1], p[0])) == expected));
        BOOST_REQUIRE(merged(p[0], p[1]).samples == p[0].samples + p[1].samples);
    }
}

BOOST_AUTO_TEST_CASE(losses_are_added_and_a_status_that_differs_is_said_to) {
    cpu_profile a = computing_like().cpu, b = a;
    b.status = "unavailable (signal taken)";
    b.dropped = 4;
    cpu_profile const sum = merged(a, b);
    BOOST_TEST(sum.dropped == a.dropped + 4);
    BOOST_TEST(sum.unattributed_ns == 2 * a.unattributed_ns);
    BOOST_TEST(sum.overflow_stacks == 2 * a.overflow_stacks);
    BOOST_TEST(sum.truncated_stacks == 2 * a.truncated_stacks);
    BOOST_TEST(sum.failed_stacks == 2 * a.failed_stacks);
    BOOST_TEST(sum.status == "differs between instances");
    BOOST_TEST(merged({}, a).status == a.status);
    BOOST_TEST(merged(a, {}).status == a.status);
}

BOOST_AUTO_TEST_CASE(whole_profiles_carry_their_samples_into_the_sum) {
    profile const a = computing_like();
    profile const sum = thaw::merge(a, a);
    BOOST_TEST(sum.cpu.samples == 2 * a.cpu.samples);
    BOOST_TEST(sum.cpu.stacks.size() == a.cpu.stacks.size());
    BOOST_TEST(sum.cpu.stacks[0].samples == 2 * a.cpu.stacks[0].samples);
}

BOOST_AUTO_TEST_SUITE_END()
