// thaw floor 3 report: the figures of a profile that its answers are made of: totals and self times of the nodes, and what
// the nodes of a site add up to within each handler, waits in handlers apart from waits in the background.
//
// Thread-compatible; allocates; nothing recurses. Times are doubles, since sums of figures near 2^64 must not wrap.
// Templates, so that a unit that makes no report does not pay for instantiating them.
//
//   profile_summary<profile> const s(p);   // requires: `p` is well formed and outlives the summary
//   for (site_sum const& w : s.waits.all) ...
#ifndef THAW_REPORT_SUMMARY_HPP
#define THAW_REPORT_SUMMARY_HPP

#include <thaw/core/config.hpp>
#include <thaw/core/histogram.hpp>
#include <thaw/profile/profile.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace thaw::report::detail {

// Orders by `first`, then by `second`, the largest first, then by index.
struct ranked {
    double first;
    double second;
    std::uint32_t index;
};

template <class Rows>
void sort_ranked(Rows& rows) {
    if (rows.empty()) return;
    std::qsort(rows.data(), rows.size(), sizeof(ranked), [](void const* left, void const* right) {
        ranked const& a = *static_cast<ranked const*>(left);
        ranked const& b = *static_cast<ranked const*>(right);
        if (a.first > b.first || a.first < b.first) return a.first > b.first ? -1 : 1;
        if (a.second > b.second || a.second < b.second) return a.second > b.second ? -1 : 1;
        return a.index < b.index ? -1 : a.index > b.index ? 1 : 0;
    });
}

struct node_facts {
    double total = 0;         // of a node that is not timed itself: of its children
    double self = 0;          // in none of the children; not clamped
    double subtree_total = 0; // the largest total from here down, so that no child outranks its parent
    double subtree_calls = 0;
    std::uint32_t handler = no_index; // the outermost handler at or above: an index into nodes
    std::uint32_t depth = 0;          // 0 below the root
    bool with_handler = false;        // at, above or below a handler
    bool below_wait = false;
    bool self_estimated = false;
};

// What the nodes of one site within one group add up to.
struct site_sum {
    std::uint32_t group = 0;
    std::uint32_t site = 0;
    std::uint64_t calls = 0;
    std::uint64_t max_ns = 0;
    double total = 0;
    double self = 0;
    bool self_estimated = false;
    std::uint32_t next = no_index; // of the same site, in another group
    std::vector<std::uint32_t> nodes;
};

template <class Sum>
class site_sums {
public:
    // Post: the reference is valid until the next call.
    Sum& of(std::uint32_t group, std::uint32_t site) {
        if (site >= m_first.size()) m_first.resize(site + 1, no_index);
        std::uint32_t* link = &m_first[site];
        while (*link != no_index && all[*link].group != group) link = &all[*link].next;
        std::uint32_t const at = *link == no_index ? static_cast<std::uint32_t>(all.size()) : *link;
        if (*link == no_index) {
            all.emplace_back();
            all[at].group = group;
            all[at].site = site;
        } else {
            *link = all[at].next;
        }
        all[at].next = m_first[site]; // moves to the front: the nodes of a handler come in runs
        m_first[site] = at;
        return all[at];
    }

    std::vector<Sum> all;

private:
    std::vector<std::uint32_t> m_first; // by site: the sums of a site are a list
};

enum wait_group : std::uint32_t { in_handlers, in_background };

template <class Profile>
class profile_summary {
public:
    explicit profile_summary(Profile const& p) : nodes(p.nodes.size()), m_profile(p) {
        measure_upwards();
        measure_downwards();
        sum_sites();
    }

    [[nodiscard]] site_kind kind_of(std::size_t node) const noexcept {
        return m_profile.sites[m_profile.nodes[node].site].kind;
    }

    // True for "no node", and for the process: it has no line of its own, it is what all lines stand under.
    [[nodiscard]] bool is_root(std::uint32_t node) const noexcept {
        return node == no_index || (m_profile.nodes[node].parent == no_index && kind_of(node) == site_kind::process);
    }

    std::vector<node_facts> nodes; // as in the profile
    site_sums<site_sum> handlers;      // by handler, in group 0: the outermost ones
    site_sums<site_sum> waits;         // by wait_group and wait
    site_sums<site_sum> handler_waits; // by site of the handler and wait
    site_sums<site_sum> busy;          // by site of the handler and scope, the handler itself included
    double latency = 0;            // time of all handlers

private:
    void measure_upwards() {
        std::vector<double> below(nodes.size());
        for (std::size_t i = nodes.size(); i-- > 0;) {
            profile_node const& n = m_profile.nodes[i];
            node_facts& f = nodes[i];
            bool const untimed =
                n.total_ns == 0 && (kind_of(i) == site_kind::process || kind_of(i) == site_kind::background);
            f.total = untimed ? below[i] : static_cast<double>(n.total_ns);
            f.self = f.total - below[i];
            f.self_estimated |= n.total_error_ns != 0;
            raise(f.subtree_total, f.total);
            raise(f.subtree_calls, static_cast<double>(n.calls));
            f.with_handler |= kind_of(i) == site_kind::handler;
            if (n.parent == no_index) continue;
            node_facts& parent = nodes[n.parent];
            below[n.parent] += f.total;
            parent.with_handler |= f.with_handler;
            parent.self_estimated |= n.total_error_ns != 0;
            raise(parent.subtree_total, f.subtree_total);
            raise(parent.subtree_calls, f.subtree_calls);
        }
    }

    void measure_downwards() {
        for (std::uint32_t i = 0; i < nodes.size(); ++i) {
            node_facts& f = nodes[i];
            if (std::uint32_t const parent = m_profile.nodes[i].parent; parent != no_index) {
                f.handler = nodes[parent].handler;
                f.below_wait = nodes[parent].below_wait || kind_of(parent) == site_kind::wait;
                f.depth = is_root(parent) ? 0 : nodes[parent].depth + 1;
            }
            if (f.handler == no_index && kind_of(i) == site_kind::handler) f.handler = i;
            f.with_handler |= f.handler != no_index;
        }
    }

    void sum_sites() {
        for (std::uint32_t i = 0; i < nodes.size(); ++i) {
            node_facts const& f = nodes[i];
            std::uint32_t const site = m_profile.nodes[i].site;
            if (f.handler == i) {
                handlers.of(0, site).total += f.total;
                latency += f.total;
            }
            if (f.below_wait) continue;
            std::uint32_t const handler = f.handler == no_index ? no_index : m_profile.nodes[f.handler].site;
            if (kind_of(i) == site_kind::wait) {
                add(waits.of(handler == no_index ? in_background : in_handlers, site), i);
                if (handler != no_index) add(handler_waits.of(handler, site), i);
            } else if (handler != no_index) {
                add(busy.of(handler, site), i);
            }
        }
    }

    void add(site_sum& s, std::uint32_t node) {
        profile_node const& n = m_profile.nodes[node];
        s.calls = core::saturating_add(s.calls, n.calls);
        if (s.max_ns < n.max_ns) s.max_ns = n.max_ns;
        s.total += nodes[node].total;
        s.self += nodes[node].self;
        s.self_estimated |= nodes[node].self_estimated;
        s.nodes.push_back(node);
    }

    static void raise(double& largest, double value) noexcept {
        if (largest < value) largest = value;
    }

    Profile const& m_profile;
};

}

#endif
