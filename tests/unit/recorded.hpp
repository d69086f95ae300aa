// What the tests of probes and agent share: a clock that is set by hand, a reporter that keeps the profiles, and finding a node
// or a memory site by name. For use in a child (in_child.hpp), since it starts thaw.
#ifndef THAW_TESTS_RECORDED_HPP
#define THAW_TESTS_RECORDED_HPP

#include "in_child.hpp"

#include <thaw/agent/agent.hpp>
#include <thaw/probe.hpp>

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace thaw::testing {

// ---- the clock: one tick is a nanosecond ----

inline std::uint64_t fake_now = 1'000'000'000;

inline std::uint64_t read_fake_clock() noexcept { return __atomic_load_n(&fake_now, __ATOMIC_SEQ_CST); }
inline void advance(std::uint64_t ns) noexcept { __atomic_fetch_add(&fake_now, ns, __ATOMIC_SEQ_CST); }

// Right after start and before any marker.
inline void use_fake_clock() {
    core::process_root* const p = core::find_process();
    if (p == nullptr) return fail_in_child(__FILE__, __LINE__, "use_fake_clock: thaw has not been started");
    p->source.read = &read_fake_clock;
    p->source.length = {};
}

// ---- the profiles ----

inline std::mutex& caught_mutex() {
    static std::mutex m;
    return m;
}
inline std::vector<profile>& caught() {
    static std::vector<profile> all;
    return all;
}

inline void keep_profile(profile const& p) {
    std::lock_guard const lock(caught_mutex());
    caught().push_back(p);
}

// Every entry is timed unless the caller says otherwise: what is estimated is tested in adaptive_test.cpp.
inline bool start_recording(options o = {}) {
    if (o.timing == timing::adaptive) o.timing = timing::all;
    return start(o, [](profile const& p) { keep_profile(p); });
}
inline bool start_recording_by_hand(options const& o = {}) {
    bool const recording = start_recording(o);
    if (recording) use_fake_clock();
    return recording;
}

inline std::size_t caught_count() {
    std::lock_guard const lock(caught_mutex());
    return caught().size();
}
inline profile last_profile() {
    std::lock_guard const lock(caught_mutex());
    return caught().empty() ? profile{} : caught().back();
}

// A report of this moment.
inline profile profile_now() {
    if (!report_now()) fail_in_child(__FILE__, __LINE__, "report_now made no report");
    return last_profile();
}

// ---- finding things ----

// "handler/scope/scope"; the root is "".
inline std::string path_of(profile const& p, std::uint32_t node) {
    std::string path;
    for (; p.nodes[node].parent != no_index; node = p.nodes[node].parent)
        path = p.name_of(p.nodes[node]) + (path.empty() ? "" : "/") + path;
    return path;
}

inline unsigned nodes_at(profile const& p, std::string_view path) {
    unsigned found = 0;
    for (std::uint32_t i = 0; i < p.nodes.size(); ++i) found += path_of(p, i) == path;
    return found;
}

// The one node of that path; a node without entries where there is none.
inline profile_node node_at(profile const& p, std::string_view path) {
    profile_node node;
    for (std::uint32_t i = 0, found = 0; i < p.nodes.size(); ++i) {
        if (path_of(p, i) != path) continue;
        if (found++ != 0) fail_in_child(__FILE__, __LINE__, "two nodes at " + std::string(path));
        node = p.nodes[i];
    }
    return node;
}

// What the sites of that name add up to.
inline memory_site memory_at(profile const& p, std::string_view name) {
    memory_site sum;
    for (memory_site const& m : p.memory) {
        if (p.sites[m.site].name != name) continue;
        sum.allocations += m.allocations, sum.allocated_bytes += m.allocated_bytes;
        sum.frees += m.frees, sum.freed_bytes += m.freed_bytes;
        sum.baseline_live_bytes += m.baseline_live_bytes;
    }
    return sum;
}

// All sites of memory together.
inline memory_site memory_of_all(profile const& p) {
    memory_site sum;
    for (memory_site const& m : p.memory) {
        sum.allocations += m.allocations, sum.allocated_bytes += m.allocated_bytes;
        sum.frees += m.frees, sum.freed_bytes += m.freed_bytes;
    }
    return sum;
}

// What holds for every profile that was made while nothing recorded.
inline void expect_well_formed(profile const& p) {
    EXPECT(!p.nodes.empty());
    EXPECT(p.nodes.empty() || p.nodes[0].parent == no_index);
    std::uint64_t allocated = 0;
    for (std::uint32_t i = 0; i < p.nodes.size(); ++i) {
        profile_node const& n = p.nodes[i];
        EXPECT(n.site < p.sites.size());
        EXPECT((n.parent == no_index) == (i == 0));
        EXPECT(i == 0 || n.parent < i);
        EXPECT(n.first_bucket + n.bucket_count <= p.buckets.size());
        EXPECT(n.timed <= n.calls);
        std::uint64_t in_buckets = 0;
        std::int64_t last = -1;
        for (auto const& b : p.durations_of(n)) {
            EXPECT(static_cast<std::int64_t>(b.index) > last);
            EXPECT(b.count != 0);
            last = b.index;
            in_buckets += b.count;
        }
        EXPECT_EQUAL(in_buckets, n.timed);
        allocated += n.allocated_bytes;
    }
    EXPECT(allocated <= memory_of_all(p).allocated_bytes);
    EXPECT_EQUAL(p.losses.torn_nodes, 0);
}

// Everything that must never shrink from one profile of a process to the next.
inline void expect_grown(profile const& before, profile const& after) {
    for (std::uint32_t i = 0; i < before.nodes.size(); ++i) {
        profile_node const& n = before.nodes[i];
        profile_node const later = node_at(after, path_of(before, i));
        EXPECT(later.calls >= n.calls);
        EXPECT(later.timed >= n.timed);
        EXPECT(later.total_ns >= n.total_ns);
        EXPECT(later.max_ns >= n.max_ns);
        EXPECT(later.errors >= n.errors);
        EXPECT(later.allocations >= n.allocations);
        EXPECT(later.allocated_bytes >= n.allocated_bytes);
    }
    for (memory_site const& m : before.memory) {
        memory_site const later = memory_at(after, before.sites[m.site].name);
        EXPECT(later.allocations >= m.allocations);
        EXPECT(later.freed_bytes >= m.freed_bytes);
    }
    EXPECT(after.window.invocations >= before.window.invocations);
    EXPECT(after.window.errors >= before.window.errors);
    EXPECT(after.window.active_ns >= before.window.active_ns);
    EXPECT(after.window.wall_ns >= before.window.wall_ns);
    EXPECT(after.window.wait_ns >= before.window.wait_ns);
    EXPECT(after.window.cpu_ns >= before.window.cpu_ns);
    EXPECT(after.window.started_unix_ns == before.window.started_unix_ns);
    EXPECT(after.identity.sequence > before.identity.sequence);
    EXPECT(after.identity.instance == before.identity.instance);
}

// ---- threads ----

// Steps that threads take in turn: who waits for step n goes on when somebody has announced it.
class steps {
public:
    void announce(int step) {
        std::lock_guard const lock(m_mutex);
        if (step > m_step) m_step = step;
        m_changed.notify_all();
    }
    void await(int step) {
        std::unique_lock lock(m_mutex);
        m_changed.wait(lock, [&] { return m_step >= step; });
    }

private:
    std::mutex m_mutex;
    std::condition_variable m_changed;
    int m_step = 0;
};

// Pages of the process that are resident.
inline std::size_t resident_pages() {
    std::FILE* const f = std::fopen("/proc/self/statm", "r");
    unsigned long size = 0, resident = 0;
    if (f == nullptr || std::fscanf(f, "%lu %lu", &size, &resident) != 2) resident = 0;
    if (f != nullptr) std::fclose(f);
    return resident;
}

}

#endif
