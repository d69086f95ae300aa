// thaw floor 3 profile: adds profiles. Two profiles of different instances become one; the histograms of several nodes of
// one profile become one, because percentiles themselves cannot be added.
//
// Thread-compatible; allocates; throws nothing but std::bad_alloc. Time and memory are linear in nodes, sites and buckets,
// and nothing recurses: a tree may be as deep as it likes.
//
//   thaw::profile sum = thaw::merge(first, second);
//   auto const waits = thaw::merged_buckets(p, {3, 8});   // nodes 3 and 8 together
//   thaw::core::bucket_quantile_ns(waits.data(), waits.data() + waits.size(), 0.95, max_ns);
//
// Two profiles of the *same* instance must not be merged: each is cumulative, and the later one contains the earlier one.
#ifndef THAW_PROFILE_MERGE_HPP
#define THAW_PROFILE_MERGE_HPP

#include <thaw/core/config.hpp>
#include <thaw/core/histogram.hpp>
#include <thaw/profile/profile.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace thaw {

namespace detail {

// A hash table from 64-bit keys to indices: open addressing, at most half full, no removal.
class key_index {
public:
    explicit key_index(std::size_t expected = 0) {
        std::size_t size = 16;
        while (size < 2 * expected) size *= 2;
        m_slots.resize(size);
    }

    // The value of a key; no_index where the key is new, for the caller to overwrite before the next call.
    [[nodiscard]] std::uint32_t& operator[](std::uint64_t key) {
        if (2 * m_used >= m_slots.size()) grow();
        slot& s = find(key);
        if (s.value == no_index) {
            s.key = key;
            ++m_used;
        }
        return s.value;
    }

    [[nodiscard]] std::uint32_t& operator()(std::uint32_t high, std::uint32_t low) {
        return (*this)[static_cast<std::uint64_t>(high) << 32 | low];
    }

private:
    struct slot {
        std::uint64_t key = 0;
        std::uint32_t value = no_index; // no_index: the slot is free
    };

    slot& find(std::uint64_t key) noexcept {
        std::uint64_t hash = key * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
        std::size_t const mask = m_slots.size() - 1;
        std::size_t at = static_cast<std::size_t>(hash) & mask;
        while (m_slots[at].value != no_index && m_slots[at].key != key) at = (at + 1) & mask;
        return m_slots[at];
    }

    void grow() {
        std::vector<slot> old(m_slots.size() * 2);
        old.swap(m_slots);
        for (slot const& s : old)
            if (s.value != no_index) find(s.key) = s;
    }

    std::vector<slot> m_slots;
    std::size_t m_used = 0;
};

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

// Appends [first, last) to `sums`, of which the buckets from `begin` on are sorted, so that they stay sorted and unique.
inline void add_buckets(std::vector<core::histogram_bucket>& sums, std::size_t begin, bucket_range added,
                        std::vector<core::histogram_bucket>& scratch) {
    if (begin == sums.size()) {
        sums.insert(sums.end(), added.begin(), added.end());
        return;
    }
    scratch.assign(sums.begin() + static_cast<std::ptrdiff_t>(begin), sums.end());
    sums.resize(begin);
    std::size_t old = 0;
    for (core::histogram_bucket const& b : added) {
        while (old < scratch.size() && scratch[old].index < b.index) sums.push_back(scratch[old++]);
        sums.push_back(b);
        if (old < scratch.size() && scratch[old].index == b.index) add_to(sums.back().count, scratch[old++].count);
    }
    while (old < scratch.size()) sums.push_back(scratch[old++]);
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

// One sum in the making.
class profile_sum {
public:
    explicit profile_sum(std::size_t sites, std::size_t nodes) : m_site_index(sites), m_node_index(nodes) {
        m_sum.sites.reserve(sites);
        m_sum.nodes.reserve(nodes);
        m_newest_source.reserve(nodes);
        m_sources.reserve(nodes);
    }

    // Requires: `p` lives until take(). Counts are added now, histograms when all nodes are known.
    void add(profile const& p) {
        std::vector<std::uint32_t> sites(p.sites.size());
        for (std::size_t i = 0; i < p.sites.size(); ++i) sites[i] = index_of(p.sites[i]);
        std::vector<std::uint32_t> nodes(p.nodes.size());
        for (std::size_t i = 0; i < p.nodes.size(); ++i) {
            profile_node const& n = p.nodes[i];
            bool const root = n.parent == no_index;
            std::uint32_t const to = nodes[i] =
                root && !m_sum.nodes.empty() ? 0 : node_of(root ? no_index : nodes[n.parent], sites[n.site]);
            add_node(m_sum.nodes[to], n);
            m_sources.push_back({&p, static_cast<std::uint32_t>(i), m_newest_source[to]});
            m_newest_source[to] = static_cast<std::uint32_t>(m_sources.size() - 1);
        }
        for (memory_site const& m : p.memory) {
            std::uint32_t& to = m_memory_index[sites[m.site]];
            if (to == no_index) {
                to = static_cast<std::uint32_t>(m_sum.memory.size());
                m_sum.memory.push_back({.site = sites[m.site]});
            }
            add_memory(m_sum.memory[to], m);
        }
        add_slowest(p.slowest, sites, nodes);
    }

    [[nodiscard]] profile take() {
        std::vector<core::histogram_bucket> scratch;
        for (std::size_t i = 0; i < m_sum.nodes.size(); ++i) {
            std::size_t const begin = m_sum.buckets.size();
            for (std::uint32_t s = m_newest_source[i]; s != no_index; s = m_sources[s].next) {
                profile const& from = *m_sources[s].from;
                add_buckets(m_sum.buckets, begin, from.durations_of(from.nodes[m_sources[s].node]), scratch);
            }
            m_sum.nodes[i].first_bucket = static_cast<std::uint32_t>(begin);
            m_sum.nodes[i].bucket_count = static_cast<std::uint32_t>(m_sum.buckets.size() - begin);
        }
        return std::move(m_sum);
    }

private:
    struct source {
        profile const* from;
        std::uint32_t node;
        std::uint32_t next; // the next node that is added to the same sum
    };

    std::uint32_t index_of(profile_site const& s) {
        for (std::uint64_t key = hash_of(s);; ++key) { // sites with equal hashes take the keys that follow
            std::uint32_t& at = m_site_index[key];
            if (at == no_index) {
                at = static_cast<std::uint32_t>(m_sum.sites.size());
                m_sum.sites.push_back(s);
                return at;
            }
            if (same_site(m_sum.sites[at], s)) return at;
        }
    }

    std::uint32_t node_of(std::uint32_t parent, std::uint32_t site) {
        std::uint32_t& at = m_node_index(parent, site);
        if (at == no_index) {
            at = static_cast<std::uint32_t>(m_sum.nodes.size());
            m_sum.nodes.push_back({.site = site, .parent = parent});
            m_newest_source.push_back(no_index);
        }
        return at;
    }

    void add_slowest(invocation_exemplar const& e, std::vector<std::uint32_t> const& sites,
                     std::vector<std::uint32_t> const& nodes) {
        if (e.handler_site == no_index) return;
        invocation_exemplar& mine = m_sum.slowest;
        bool const slower = mine.handler_site == no_index || e.wall_ns > mine.wall_ns ||
                            (e.wall_ns == mine.wall_ns && e.request_id < mine.request_id); // a tie has one winner either way
        if (!slower) return;
        mine = e;
        mine.handler_site = sites[e.handler_site];
        for (invocation_exemplar::part& part : mine.parts) part.node = nodes[part.node];
    }

    profile m_sum;
    key_index m_site_index;
    key_index m_node_index;
    key_index m_memory_index;
    std::vector<std::uint32_t> m_newest_source; // for every node of the sum its first source
    std::vector<source> m_sources;
};

}

// The durations of several nodes of one profile in one histogram: sorted, each bucket once.
// Requires: the indices are nodes of `p`, each named once.
[[nodiscard]] inline std::vector<core::histogram_bucket> merged_buckets(profile const& p,
                                                                        std::vector<std::uint32_t> const& nodes) {
    std::vector<core::histogram_bucket> sums;
    std::vector<core::histogram_bucket> scratch;
    for (std::uint32_t const n : nodes) detail::add_buckets(sums, 0, p.durations_of(p.nodes[n]), scratch);
    return sums;
}

// The sum of two profiles of different instances. Sites are the same if kind, name, file, line and function are; nodes are
// the same if their paths of sites are, and the roots always are. Sums saturate. What cannot be added:
//   identity   a member that differs becomes "" or 0
//   CPU time   0 and not measured, unless both have it: half a sum would be read as the whole
//   slowest    the slower of the two
//   a start or end of 0 is unknown and gives way to the other
// Requires: both are well formed (indices in range, parents before children). Commutative but for the order of sites, nodes
// and memory, and, where the roots' sites differ, for the root's site.
[[nodiscard]] inline profile merge(profile const& a, profile const& b) {
    detail::profile_sum sum(a.sites.size() + b.sites.size(), a.nodes.size() + b.nodes.size());
    sum.add(a);
    sum.add(b);
    profile r = sum.take();

    r.identity = a.identity;
    detail::keep_if_equal(r.identity.app, b.identity.app);
    detail::keep_if_equal(r.identity.version, b.identity.version);
    detail::keep_if_equal(r.identity.environment, b.identity.environment);
    detail::keep_if_equal(r.identity.instance, b.identity.instance);
    detail::keep_if_equal(r.identity.build_id, b.identity.build_id);
    detail::keep_if_equal(r.identity.host, b.identity.host);
    detail::keep_if_equal(r.identity.pid, b.identity.pid);
    detail::keep_if_equal(r.identity.sequence, b.identity.sequence);

    profile_window const& w = b.window;
    r.window = a.window;
    if (r.window.started_unix_ns == 0 || (w.started_unix_ns != 0 && w.started_unix_ns < r.window.started_unix_ns))
        r.window.started_unix_ns = w.started_unix_ns;
    detail::raise_to(r.window.ended_unix_ns, w.ended_unix_ns);
    for (auto const member :
         {&profile_window::invocations, &profile_window::cold, &profile_window::errors, &profile_window::open,
          &profile_window::active_ns, &profile_window::wall_ns, &profile_window::cpu_ns, &profile_window::wait_ns,
          &profile_window::counter_jumps})
        detail::add_to(r.window.*member, w.*member);
    r.window.cpu_measured = a.window.cpu_measured && w.cpu_measured;
    if (!r.window.cpu_measured) r.window.cpu_ns = 0;

    using losses = profile_losses;
    r.losses = a.losses;
    for (auto const member : {&losses::overflow_entries, &losses::overflow_durations, &losses::overflow_sites,
                              &losses::overflow_names, &losses::overflow_threads, &losses::mismatched_scopes,
                              &losses::torn_nodes, &losses::reports_put_off, &losses::reports_failed})
        detail::add_to(r.losses.*member, b.losses.*member);
    static_assert(sizeof(losses) == 9 * sizeof(std::uint64_t), "a new kind of loss is to be added here");

    r.cost = a.cost;
    for (auto const member : {&own_cost::recording_ns, &own_cost::collecting_ns, &own_cost::reporting_ns, &own_cost::reports,
                              &own_cost::memory_bytes})
        detail::add_to(r.cost.*member, b.cost.*member);
    static_assert(sizeof(own_cost) == 5 * sizeof(std::uint64_t), "a new kind of cost is to be added here");
    return r;
}

}

#endif
