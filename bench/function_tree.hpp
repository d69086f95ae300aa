// A process_root of its own with the tree of a large function: what collect_bench reads and start_bench weighs. Nothing of it
// touches the root that thaw::start makes.
#ifndef THAW_BENCH_FUNCTION_TREE_HPP
#define THAW_BENCH_FUNCTION_TREE_HPP

#include <thaw/agent/agent.hpp>
#include <thaw/core/thread_record.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <string>
#include <vector>

namespace bench {

class function_tree {
public:
    // `nodes` scopes of 200 sites, each node under one of the 20 nodes that were made last, so that the mean depth is 9 for
    // 1,000 nodes. Each is entered `entries` times, for durations spread evenly in logarithm over `octaves` octaves that begin
    // between 1 us and 2 us.
    function_tree(std::uint32_t nodes, unsigned entries, double octaves) : m_process(make()) {
        m_bytes_before = m_process.memory.used_bytes();
        for (std::uint32_t i = 0; i < site_count; ++i) {
            m_names.push_back("orders.step_" + std::to_string(i));
            m_sites.push_back({m_names.back().c_str(), "handle(order const&)", "src/orders/handle.cpp", 100 + i, thaw::core::site_kind::scope});
        }
        std::vector<thaw::core::node*> made{m_record->current};
        std::vector<std::uint32_t> depth{0};
        while (made.size() <= nodes) {
            std::uint64_t const from = made.size() < spread ? 0 : made.size() - spread;
            std::uint64_t const parent = from + random() % (made.size() - from);
            thaw::core::site& site = m_sites[random() % site_count];
            thaw::core::node* const n = m_record->tree.child(made[parent], m_process.entry_of(site));
            if (n->target != nullptr || n->count != 0) continue;  // the site is open above, or has this node already
            thaw::core::own_add(n->count, entries);
            double const begin_ns = 1000.0 * __builtin_exp2(unit_random());
            for (unsigned e = 0; e < entries; ++e)
                m_record->tree.record(*n, ticks(begin_ns * __builtin_exp2(octaves * unit_random())));
            made.push_back(n);
            depth.push_back(depth[parent] + 1);
            m_depth_sum += depth.back();
        }
        m_mean_depth = static_cast<double>(m_depth_sum) / nodes;
    }

    [[nodiscard]] thaw::core::process_root& process() noexcept { return m_process; }
    [[nodiscard]] double mean_depth() const noexcept { return m_mean_depth; }

    // What the nodes took of the arena: with their share of the hash table, their histograms and their sites.
    [[nodiscard]] std::size_t bytes() const noexcept { return m_process.memory.used_bytes() - m_bytes_before; }

private:
    static constexpr std::uint32_t site_count = 200;
    static constexpr std::uint64_t spread = 170;

    thaw::core::process_root& make() {
        thaw::core::process_root* const p = thaw::detail::make_process({});
        m_record = p == nullptr ? nullptr : thaw::core::take_record(*p);
        if (m_record == nullptr) std::abort();
        m_record->current = m_record->outside();
        return *p;
    }

    std::uint64_t ticks(double ns) const { return m_process.source.length.to_ticks(static_cast<std::uint64_t>(ns)); }

    std::uint64_t random() {
        m_state ^= m_state << 13, m_state ^= m_state >> 7, m_state ^= m_state << 17;
        return m_state;
    }
    double unit_random() { return static_cast<double>(random() >> 11) * 0x1p-53; }

    std::uint64_t m_state = 0x9E3779B97F4A7C15u;
    thaw::core::thread_record* m_record = nullptr;
    thaw::core::process_root& m_process;
    std::deque<std::string> m_names;
    std::deque<thaw::core::site> m_sites;
    std::size_t m_bytes_before = 0;
    std::uint64_t m_depth_sum = 0;
    double m_mean_depth = 0;
};

}

#endif
