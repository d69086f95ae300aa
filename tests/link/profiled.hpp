// What the programs of tests/link share: a check that names what is wrong, and finding a node in the last profile.
#ifndef THAW_TESTS_LINK_PROFILED_HPP
#define THAW_TESTS_LINK_PROFILED_HPP

#include <thaw/agent/agent.hpp>
#include <thaw/probe.hpp>

#include <cstdio>
#include <cstring>
#include <string>

inline int failures = 0;

#define EXPECT(...)                                                                                \
    ((__VA_ARGS__) ? void()                                                                        \
                   : (++failures, void(std::printf("%s:%d: %s\n", __FILE__, __LINE__, #__VA_ARGS__))))

inline thaw::profile last;
inline int reports = 0;

inline bool start_profiling() {
    return thaw::start({.app = "link", .report_every_ms = 0}, [](thaw::profile const& p) { last = p, ++reports; });
}

inline std::string path_of(thaw::profile const& p, std::uint32_t node) {
    std::string path;
    for (; p.nodes[node].parent != thaw::no_index; node = p.nodes[node].parent)
        path = p.name_of(p.nodes[node]) + (path.empty() ? "" : "/") + path;
    return path;
}

// What the nodes of that path add up to; an empty node where there is none.
inline thaw::profile_node node_at(char const* path, unsigned* found = nullptr) {
    thaw::profile_node sum;
    unsigned n = 0;
    for (std::uint32_t i = 0; i < last.nodes.size(); ++i)
        if (path_of(last, i) == path) ++n, sum.calls += last.nodes[i].calls, sum.timed += last.nodes[i].timed, sum.total_ns += last.nodes[i].total_ns;
    if (found != nullptr) *found = n;
    return sum;
}

inline long long live_bytes(char const* site) {
    long long sum = 0;
    for (auto const& m : last.memory)
        if (last.sites[m.site].name == site) sum += m.live_bytes();
    return sum;
}

inline int verdict() {
    if (failures != 0)
        for (std::uint32_t i = 0; i < last.nodes.size(); ++i)
            std::printf("  node %s: %llu calls\n", path_of(last, i).c_str(), static_cast<unsigned long long>(last.nodes[i].calls));
    return failures != 0;
}

#endif
