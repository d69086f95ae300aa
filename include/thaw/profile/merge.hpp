// thaw floor 5 profile: adds profiles: two profiles of different instances become one.
//
// Thread-compatible; allocates; throws nothing but std::bad_alloc. Time and memory are linear in nodes, sites and buckets,
// and nothing recurses: a tree may be as deep as it likes.
//
//   thaw::profile sum = thaw::merge(first, second);
//   for (thaw::profile const& p : others) sum = thaw::merge(std::move(sum), p);   // in place: copies no profile
//
// Two profiles of the *same* instance must not be merged: each is cumulative, and the later one contains the earlier one.
#ifndef THAW_PROFILE_MERGE_HPP
#define THAW_PROFILE_MERGE_HPP

#include <thaw/core/config.hpp>
#include <thaw/core/histogram.hpp>
#include <thaw/profile/buckets.hpp>
#include <thaw/profile/key_index.hpp>
#include <thaw/profile/merge_cpu.hpp>
#include <thaw/profile/profile.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace thaw {

namespace detail {

inline void add_to(std::uint64_t& sum, std::uint64_t value) noexcept { sum = core::saturating_add(sum, value); }

inline void add_to(std::int64_t& sum, std::int64_t value) noexcept {
    if (__builtin_add_overflow(sum, value, &sum)) sum = value < 0 ? INT64_MIN : INT64_MAX;
}

inline void raise_to(std::uint64_t& largest, std::uint64_t value) noexcept {
    if (largest < value) largest = value;
}

// The standard error of the sum of two independent estimates: the square root of the sum of the squares; 3 and 4 make 5.
[[nodiscard]] inline std::uint64_t error_of_sum(std::uint64_t a, std::uint64_t b) noexcept {
    if (a == 0 || b == 0) return a + b;
    auto const x = static_cast<double>(a);
    auto const y = static_cast<double>(b);
    double const error = __builtin_sqrt(x * x + y * y) + 0.5;
    return error < 18446744073709549568.0 ? static_cast<std::uint64_t>(error) : UINT64_MAX;
}

[[nodiscard]] inline bool same_site(profile_site const& a, profile_site const& b) noexcept {
    return a.kind == b.kind && a.line == b.line && a.name == b.name && a.file == b.file && a.function == b.function;
}

[[nodiscard]] inline std::uint64_t hash_of(profile_site const& s) noexcept {
    std::uint64_t hash =
        0xcbf29ce484222325u + static_cast<std::uint64_t>(s.kind) + (static_cast<std::uint64_t>(s.line) << 8);
    for (std::string const* part : {&s.name, &s.file, &s.function}) {
        for (char const c : *part) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
        hash = (hash ^ 0xffu) * 0x100000001b3u;
    }
    return hash;
}

inline void keep_if_equal(std::string& mine, std::string const& other) {
    if (mine != other) mine.clear();
}

template <class Number>
void keep_if_equal(Number& mine, Number other) noexcept {
    if (mine != other) mine = 0;
}

inline void add_node(profile_node& sum, profile_node const& n) noexcept {
    add_to(sum.calls, n.calls);
    add_to(sum.open, n.open);
    raise_to(sum.open_ns, n.open_ns);
    add_to(sum.timed, n.timed);
    add_to(sum.total_ns, n.total_ns);
    sum.total_error_ns = error_of_sum(sum.total_error_ns, n.total_error_ns);
    raise_to(sum.max_ns, n.max_ns);
    add_to(sum.errors, n.errors);
    add_to(sum.cpu_ns, n.cpu_ns);
    add_to(sum.allocations, n.allocations);
    add_to(sum.allocated_bytes, n.allocated_bytes);
}

inline void add_memory(memory_site& sum, memory_site const& m) noexcept {
    add_to(sum.allocations, m.allocations);
    add_to(sum.allocated_bytes, m.allocated_bytes);
    add_to(sum.frees, m.frees);
    add_to(sum.freed_bytes, m.freed_bytes);
    add_to(sum.baseline_live_bytes, m.baseline_live_bytes);
}

// Adds one profile to another, which it extends where it has to.
class profile_sum {
public:
    // Requires: both are well formed, and not one object.
    profile_sum(profile& sum, profile const& added) : m_sum(sum), m_added(added) {}

    void add() {
        match_sites();
        add_nodes();
        add_memory_sites();
        cpu_merge(m_sum.cpu, m_added.cpu, m_node_of).add();
        add_slowest();
    }

private:
    // Two instances of one program mostly name the same sites in the same order, so that they are compared one by one first.
    void match_sites() {
        std::size_t const count = m_added.sites.size();
        m_site_of.resize(count);
        std::size_t same = 0;
        for (; same < count && same < m_sum.sites.size() && same_site(m_sum.sites[same], m_added.sites[same]); ++same)
            m_site_of[same] = static_cast<std::uint32_t>(same);
        if (same == count) return;
        key_index index(m_sum.sites.size() + count);
        for (std::uint32_t i = 0; i < m_sum.sites.size(); ++i) site_in(index, m_sum.sites[i], i);
        for (; same < count; ++same) {
            auto const next = static_cast<std::uint32_t>(m_sum.sites.size());
            m_site_of[same] = site_in(index, m_added.sites[same], next);
            if (m_site_of[same] == next) m_sum.sites.push_back(m_added.sites[same]);
        }
    }

    // The sum's site that equals `s`; where there is none, `place`, which it has from now on.
    std::uint32_t site_in(key_index& index, profile_site const& s, std::uint32_t place) {
        for (std::uint64_t key = hash_of(s);; ++key) {  // sites with equal hashes take the keys that follow
            std::uint32_t& at = index[key];
            if (at == no_index) return at = place;
            if (same_site(m_sum.sites[at], s)) return at;
        }
    }

    // Likewise their nodes: the sum's node after the last one is tried first, and the others are looked up.
    void add_nodes() {
        m_node_of.resize(m_added.nodes.size());
        std::uint32_t expected = 0;
        for (std::size_t i = 0; i < m_added.nodes.size(); ++i) {
            profile_node const& n = m_added.nodes[i];
            bool const root = n.parent == no_index;
            std::uint32_t const parent = root ? no_index : m_node_of[n.parent];
            std::uint32_t const site = m_site_of[n.site];
            std::uint32_t to = expected;
            if (root && !m_sum.nodes.empty()) to = 0;
            else if (to >= m_sum.nodes.size() || m_sum.nodes[to].parent != parent || m_sum.nodes[to].site != site)
                to = node_at(parent, site);
            m_node_of[i] = to;
            expected = to + 1;
            add_node(m_sum.nodes[to], n);
            if (n.bucket_count != 0) add_durations(m_sum.nodes[to], m_added.durations_of(n));
        }
        if (m_has_unused_buckets) histograms::pack(m_sum, m_scratch);
    }

    std::uint32_t node_at(std::uint32_t parent, std::uint32_t site) {
        if (!m_nodes_indexed) {
            m_nodes_indexed = true;
            m_node_index = key_index(m_sum.nodes.size() + m_added.nodes.size());
            for (std::uint32_t i = 0; i < m_sum.nodes.size(); ++i) m_node_index(m_sum.nodes[i].parent, m_sum.nodes[i].site) = i;
        }
        std::uint32_t& at = m_node_index(parent, site);
        if (at == no_index) {
            at = static_cast<std::uint32_t>(m_sum.nodes.size());
            m_sum.nodes.push_back({.site = site, .parent = parent});
        }
        return at;
    }

    // Where buckets are new the node's are written behind all others, and its old ones are left to pack.
    void add_durations(profile_node& to, bucket_range added) {
        auto& buckets = m_sum.buckets;
        if (histograms::add_to_existing(buckets.data() + to.first_bucket, to.bucket_count, added.first, added.size())) return;
        m_scratch.clear();
        histograms::append_sum(m_scratch, m_sum.durations_of(to), added);
        m_has_unused_buckets |= to.bucket_count != 0;
        to.first_bucket = static_cast<std::uint32_t>(buckets.size());
        to.bucket_count = static_cast<std::uint32_t>(m_scratch.size());
        buckets.insert(buckets.end(), m_scratch.begin(), m_scratch.end());
    }

    void add_memory_sites() {
        std::vector<std::uint32_t> place(m_sum.sites.size(), no_index);
        for (std::uint32_t i = 0; i < m_sum.memory.size(); ++i) place[m_sum.memory[i].site] = i;
        for (memory_site const& m : m_added.memory) {
            std::uint32_t const site = m_site_of[m.site];
            if (place[site] == no_index) {
                place[site] = static_cast<std::uint32_t>(m_sum.memory.size());
                m_sum.memory.push_back({.site = site});
            }
            add_memory(m_sum.memory[place[site]], m);
        }
    }

    void add_slowest() {
        invocation_exemplar const& e = m_added.slowest;
        if (e.handler_site == no_index) return;
        invocation_exemplar& mine = m_sum.slowest;
        bool const slower = mine.handler_site == no_index || e.wall_ns > mine.wall_ns ||
                            (e.wall_ns == mine.wall_ns && e.request_id < mine.request_id); // a tie has one winner either way
        if (!slower) return;
        mine = e;
        mine.handler_site = m_site_of[e.handler_site];
        for (invocation_exemplar::part& part : mine.parts) part.node = m_node_of[part.node];
    }

    profile& m_sum;
    profile const& m_added;
    std::vector<std::uint32_t> m_site_of;  // the sum's site for each added one
    std::vector<std::uint32_t> m_node_of;  // likewise
    key_index m_node_index;
    bool m_nodes_indexed = false;
    bool m_has_unused_buckets = false;
    std::vector<core::histogram_bucket> m_scratch;
};

}

// The sum of two profiles of different instances. Sites are the same if kind, name, file, line and function are; nodes are
// the same if their paths of sites are, and the roots always are. Sums saturate. What cannot be added:
//   identity   a member that differs becomes "" or 0
//   CPU time   0 and not measured, unless both have it: half a sum would be read as the whole
//   slowest    the slower of the two
//   CPU status a status that differs becomes "differs between instances", a period that differs 0
//   a start or end of 0 is unknown and gives way to the other
// Requires: both are well formed (indices in range, parents before children). Commutative but for the order of sites, nodes,
// buckets and memory, and, where the roots' sites differ, for the root's site. A site that `b` names twice is one in the sum;
// where `a` does, as when two modules carry one inline function, it stays two.
[[nodiscard]] inline profile merge(profile a, profile const& b) {
    detail::profile_sum(a, b).add();
    profile& r = a;
    detail::keep_if_equal(r.identity.app, b.identity.app);
    detail::keep_if_equal(r.identity.version, b.identity.version);
    detail::keep_if_equal(r.identity.environment, b.identity.environment);
    detail::keep_if_equal(r.identity.instance, b.identity.instance);
    detail::keep_if_equal(r.identity.build_id, b.identity.build_id);
    detail::keep_if_equal(r.identity.host, b.identity.host);
    detail::keep_if_equal(r.identity.pid, b.identity.pid);
    detail::keep_if_equal(r.identity.sequence, b.identity.sequence);

    profile_window const& w = b.window;
    if (r.window.started_unix_ns == 0 || (w.started_unix_ns != 0 && w.started_unix_ns < r.window.started_unix_ns))
        r.window.started_unix_ns = w.started_unix_ns;
    detail::raise_to(r.window.ended_unix_ns, w.ended_unix_ns);
    for (auto const member :
         {&profile_window::invocations, &profile_window::cold, &profile_window::errors, &profile_window::open,
          &profile_window::active_ns, &profile_window::wall_ns, &profile_window::cpu_ns, &profile_window::wait_ns,
          &profile_window::counter_jumps})
        detail::add_to(r.window.*member, w.*member);
    r.window.cpu_measured &= w.cpu_measured;
    if (!r.window.cpu_measured) r.window.cpu_ns = 0;

    using losses = profile_losses;
    for (auto const member : {&losses::overflow_entries, &losses::overflow_durations, &losses::overflow_sites,
                              &losses::overflow_names, &losses::overflow_threads, &losses::mismatched_scopes,
                              &losses::torn_nodes, &losses::reports_put_off, &losses::reports_failed})
        detail::add_to(r.losses.*member, b.losses.*member);
    static_assert(sizeof(losses) == 9 * sizeof(std::uint64_t), "a new kind of loss is to be added here");

    for (auto const member : {&own_cost::recording_ns, &own_cost::collecting_ns, &own_cost::reporting_ns, &own_cost::reports,
                              &own_cost::memory_bytes})
        detail::add_to(r.cost.*member, b.cost.*member);
    static_assert(sizeof(own_cost) == 5 * sizeof(std::uint64_t), "a new kind of cost is to be added here");
    return a;
}

}

#endif
