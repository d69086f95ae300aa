// Builds profiles by hand, for the tests of everything that reads one.
//
//   sample_profile b;
//   auto const handler = b.node(0, site_kind::handler, "checkout", {206'000'000});
//   b.node(handler, site_kind::wait, "db.query", {200'000'000});
//   thaw::profile const p = b.take();
#ifndef THAW_TESTS_UNIT_SAMPLE_PROFILE_HPP
#define THAW_TESTS_UNIT_SAMPLE_PROFILE_HPP

#include <thaw/profile/profile.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace thaw::testing {

class sample_profile {
public:
    // Post: node 0 is the process.
    sample_profile() { node(0, site_kind::process, "process", {}); }

    // The site of that kind and name, made where it is new.
    std::uint32_t site(site_kind kind, std::string const& name) {
        for (std::uint32_t i = 0; i < p.sites.size(); ++i)
            if (p.sites[i].kind == kind && p.sites[i].name == name) return i;
        profile_site s;
        s.kind = kind;
        s.name = name;
        s.file = "sample.cpp";
        s.line = static_cast<std::uint32_t>(p.sites.size() + 1);
        p.sites.push_back(s);
        return static_cast<std::uint32_t>(p.sites.size() - 1);
    }

    // A node with one timed entry a duration. To be called once for each path.
    std::uint32_t node(std::uint32_t parent, site_kind kind, std::string const& name,
                       std::vector<std::uint64_t> const& durations_ns) {
        profile_node n;
        n.site = site(kind, name);
        n.parent = p.nodes.empty() ? no_index : parent;
        n.calls = n.timed = durations_ns.size();
        std::map<std::uint32_t, std::uint64_t> counted;
        for (std::uint64_t const d : durations_ns) {
            n.total_ns += d;
            if (n.max_ns < d) n.max_ns = d;
            ++counted[core::bucket_of(d)];
        }
        n.first_bucket = static_cast<std::uint32_t>(p.buckets.size());
        n.bucket_count = static_cast<std::uint32_t>(counted.size());
        for (auto const& [index, count] : counted) p.buckets.push_back({index, count});
        p.nodes.push_back(n);
        return static_cast<std::uint32_t>(p.nodes.size() - 1);
    }

    // Samples of a node with these functions, innermost first; each is at an address of its own. 4 ms a sample.
    void samples(std::uint32_t node, std::uint64_t count, std::vector<std::string> const& functions) {
        cpu_stack s;
        s.node = node;
        s.first_frame = static_cast<std::uint32_t>(p.cpu.frames.size());
        s.frame_count = static_cast<std::uint32_t>(functions.size());
        s.samples = count;
        s.cpu_ns = count * 4'000'000;
        for (std::string const& f : functions) {
            p.cpu.frames.push_back(static_cast<std::uint32_t>(p.cpu.locations.size()));
            p.cpu.locations.push_back({0x1000 + 16 * p.cpu.locations.size(), no_index, f});
        }
        p.cpu.stacks.push_back(s);
        p.cpu.status = "on";
        p.cpu.period_ns = 50'000;
        p.cpu.samples += s.samples;
        p.cpu.cpu_ns += s.cpu_ns;
    }

    memory_site& memory(std::string const& name, std::uint64_t allocations, std::uint64_t bytes) {
        memory_site m;
        m.site = site(site_kind::allocator, name);
        m.allocations = allocations;
        m.allocated_bytes = bytes;
        p.memory.push_back(m);
        return p.memory.back();
    }

    [[nodiscard]] profile take() { return std::move(p); }

    profile p;
};

// `count` durations, the first `first_ns` and each `step_ns` longer than the one before.
[[nodiscard]] inline std::vector<std::uint64_t> ramp(std::size_t count, std::uint64_t first_ns, std::uint64_t step_ns) {
    std::vector<std::uint64_t> r;
    for (std::size_t i = 0; i < count; ++i) r.push_back(first_ns + i * step_ns);
    return r;
}

// A shop after 20 invocations: one handler that waits for its database, a site that grows, a lock, a background thread.
[[nodiscard]] inline profile quickstart_like() {
    sample_profile b;
    b.p.identity = {"shop", "1.4.2", "prod", "7f3a09c2d1e4b586", "", "ip-10-0-0-7", 4711, 3};
    b.p.window = {1'700'000'000'000'000'000,
                  1'700'000'060'000'000'000,
                  20,
                  1,
                  0,
                  0,
                  4'121'900'000,
                  4'120'000'000,
                  88'000'000,
                  4'010'000'000,
                  true};
    b.p.cost = {1'200'000, 300'000, 148'000, 2, 524'288};

    auto const checkout = b.node(0, site_kind::handler, "checkout", ramp(20, 205'620'000, 40'000));
    auto const rules = b.node(checkout, site_kind::scope, "price.rules", ramp(20, 3'600'000, 12'000));
    auto const mix = b.node(rules, site_kind::scope, "mix", ramp(2000, 700, 0));
    b.p.nodes[mix].calls = 128'000;
    b.p.nodes[mix].total_ns = 44'800'000;
    b.p.nodes[mix].total_error_ns = 941'000;
    auto const parse = b.node(checkout, site_kind::scope, "parse", ramp(20, 420'000, 1'500));
    b.p.nodes[parse].allocations = 40;
    b.p.nodes[parse].allocated_bytes = 81'920;
    auto const query = b.node(checkout, site_kind::wait, "db.query", ramp(20, 199'900'000, 40'000));
    b.p.nodes[checkout].allocations = 400;
    b.p.nodes[checkout].allocated_bytes = 960'512;
    b.node(rules, site_kind::wait, "stock_mutex", {12'100, 9'800, 55'000});
    auto const background = b.node(0, site_kind::background, "[background]", {});
    b.node(background, site_kind::wait, "queue.pop", ramp(4, 900'000'000, 20'000'000));

    memory_site& lines = b.memory("cart.lines", 400, 960'512);
    lines.baseline_live_bytes = 48'025;
    memory_site& buffer = b.memory("parse.buffer", 40, 81'920);
    buffer.frees = 40;
    buffer.freed_bytes = 81'920;

    invocation_exemplar& e = b.p.slowest;
    e.request_id = "8f5bd1b2-ab1e-4ab5-9b21-0d6f1fdd6c11";
    e.handler_site = b.p.nodes[checkout].site;
    e.wall_ns = 206'380'000;
    e.wait_ns = 200'660'000;
    e.allocated_bytes = 48'025;
    e.parts = {{checkout, 1, 206'380'000},
               {rules, 1, 3'828'000},
               {mix, 6'400, 2'240'000},
               {parse, 1, 448'500},
               {query, 1, 200'660'000}};
    return b.take();
}

// A shop that computes: 254 samples in two scopes and beside them, some of recursive functions, one without a name.
[[nodiscard]] inline profile computing_like() {
    sample_profile b;
    b.p.identity = {"shop", "1.4.2", "prod", "7f3a09c2d1e4b586", "", "ip-10-0-0-7", 4711, 3};
    b.p.window = {1'700'000'000'000'000'000, 1'700'000'060'000'000'000, 20, 1, 0, 0, 1'121'900'000, 1'120'000'000, 1'020'000'000, 0, true};
    auto const checkout = b.node(0, site_kind::handler, "checkout", ramp(20, 55'620'000, 40'000));
    auto const rules = b.node(checkout, site_kind::scope, "price.rules", ramp(20, 33'600'000, 12'000));
    auto const parse = b.node(checkout, site_kind::scope, "parse", ramp(20, 10'420'000, 1'500));
    b.samples(rules, 150, {"mix(unsigned long)", "apply(rule const&)", "apply(rule const&)", "main"});
    b.samples(rules, 5, {"apply(rule const&)", "main"});
    b.samples(parse, 40, {"json::read_string(char const*&)", "json::read(char const*&)", "main"});
    b.samples(parse, 16, {"json::read(char const*&)", "main"});
    b.samples(parse, 24, {"json::read_string(char const*&)", "json::read(char const*&)", "json::read(char const*&)", "main"});
    b.samples(checkout, 12, {"", "main"});
    b.samples(checkout, 7, {});
    b.p.cpu.cpu_ns += 8'000'000;
    b.p.cpu.unattributed_ns = 8'000'000;
    b.p.cpu.dropped = 3;
    b.p.cpu.overflow_stacks = 7;
    b.p.cpu.truncated_stacks = 12;
    return b.take();
}

}

#endif
