// thaw floor 8 agent: collect, the one place where thread records become a profile.
//
// It runs while other threads record: what it reads of a node belongs together (core/call_tree.hpp says how), and a free is
// never seen without its allocation, because frees are read first. It allocates from the host, as a reporter does, and is
// never called from a marker, an allocation or a signal. One collect at a time (the agent's report lock).
#ifndef THAW_AGENT_COLLECT_HPP
#define THAW_AGENT_COLLECT_HPP

#include <thaw/core/config.hpp>

#if THAW_ENABLED

#include <thaw/core/thread_record.hpp>
#include <thaw/profile/profile.hpp>

#include <cstdint>
#include <string>
#include <vector>

THAW_DETAIL_BEGIN
namespace detail {

static_assert(static_cast<int>(core::site_kind::process) == static_cast<int>(site_kind::process));
static_assert(static_cast<int>(core::site_kind::overflow) == static_cast<int>(site_kind::overflow));
static_assert(static_cast<int>(core::site_kind::allocator) == static_cast<int>(site_kind::allocator));
static_assert(static_cast<int>(core::site_kind::wait) == static_cast<int>(site_kind::wait));

class collector {
public:
    explicit collector(core::process_root& p) : m_process(p) {}
    ~collector() {  // also where memory ran out on the way
        if (m_exemplar != nullptr) core::store_release(m_exemplar->in_use, 0u);  // pairs with keep_exemplar
    }
    collector(collector const&) = delete;
    collector& operator=(collector const&) = delete;

    // Everything but identity and the agent's own cost.
    [[nodiscard]] profile collect() {
        add_builtin_sites();
        read_frees();
        choose_exemplar();
        for (auto* r = first_record(); r != nullptr; r = r->next) read_tree(*r);
        read_early_counts();
        finish_totals();
        finish_buckets();
        finish_window();
        return static_cast<profile&&>(m_profile);
    }

private:
    static constexpr std::uint32_t none = no_index;

    // A run of buckets in m_found that belongs to a node; a node has one for each thread it was recorded on.
    struct bucket_run {
        std::uint32_t first = 0;
        std::uint32_t count = 0;
        std::uint32_t next = none;
    };

    core::thread_record* first_record() const noexcept {
        return core::load_acquire(m_process.records);  // pairs with take_record
    }

    std::uint64_t ns(std::uint64_t ticks) const noexcept { return m_process.source.to_ns(ticks); }

    std::uint32_t site_index(core::site_entry const& e) {
        if (e.id >= m_site_of.size()) m_site_of.resize(e.id + 64, none);
        std::uint32_t& index = m_site_of[e.id];
        if (index == none) {
            index = static_cast<std::uint32_t>(m_profile.sites.size());
            m_profile.sites.push_back({e.name, e.function, e.file, e.line, static_cast<site_kind>(e.kind)});
        }
        return index;
    }

    memory_site& memory_of(core::site_entry const& e) {
        if (e.id >= m_memory_of.size()) m_memory_of.resize(e.id + 64, none);
        std::uint32_t& index = m_memory_of[e.id];
        if (index == none) {
            index = static_cast<std::uint32_t>(m_profile.memory.size());
            m_profile.memory.push_back({.site = site_index(e)});
        }
        return m_profile.memory[index];
    }

    void add_builtin_sites() {
        m_site_of.resize(core::load_relaxed(m_process.entry_count) + 16, none);
        site_index(m_process.process_entry);
    }

    // Allocator entries by slot, so that the slots of a thread can be named.
    void read_frees() {
        std::vector<core::site_entry const*> by_slot(core::allocator_slot_count, nullptr);
        by_slot[m_process.overflow_allocator.slot] = &m_process.overflow_allocator;
        for (auto const* e = core::load_acquire(m_process.entries); e != nullptr; e = e->next)
            if (e->kind == core::site_kind::allocator && e->slot < by_slot.size()) by_slot[e->slot] = e;
        for (auto* r = first_record(); r != nullptr; r = r->next) {
            core::allocator_slot const* const slot = core::load_acquire(r->allocator_slots);
            if (slot == nullptr) continue;
            for (std::uint32_t i = 1; i < core::allocator_slot_count; ++i) {
                if (by_slot[i] == nullptr) continue;
                // acquire: the allocation that a free followed is visible once the free is
                std::uint64_t const frees = core::load_acquire(slot[i].frees);
                std::uint64_t const freed_bytes = core::load_acquire(slot[i].freed_bytes);
                if (frees != 0) add_memory(*by_slot[i], {0, 0, frees, freed_bytes});
            }
        }
        each_allocator([&](core::site_entry const& e) {
            add_memory(e, {0, 0, core::load_acquire(e.early.frees), core::load_acquire(e.early.freed_bytes)});
        });
    }

    void read_early_counts() {
        each_allocator([&](core::site_entry const& e) {
            add_memory(e, {core::load_acquire(e.early.allocations), core::load_acquire(e.early.allocated_bytes), 0, 0});
        });
    }

    template <class F>
    void each_allocator(F&& f) {
        f(m_process.overflow_allocator);
        for (auto const* e = core::load_acquire(m_process.entries); e != nullptr; e = e->next)
            if (e->kind == core::site_kind::allocator) f(*e);
    }

    void add_memory(core::site_entry const& e, core::early_counts const& c) {
        if ((c.allocations | c.allocated_bytes | c.frees | c.freed_bytes) == 0) return;
        memory_site& m = memory_of(e);
        m.allocations += c.allocations;
        m.allocated_bytes += c.allocated_bytes;
        m.frees += c.frees;
        m.freed_bytes += c.freed_bytes;
    }

    // Finds the thread that ended the slowest invocation since the last report and keeps its breakdown from being replaced
    // until it has been read. A thread that is replacing its own right now is left out.
    void choose_exemplar() {
        std::uint64_t const sequence = core::load_relaxed(m_process.report_sequence);
        for (auto* r = first_record(); r != nullptr; r = r->next) {
            core::exemplar_record* const e = core::load_acquire(r->exemplar);
            if (e == nullptr || core::load_relaxed(e->sequence) != sequence) continue;
            if (m_exemplar != nullptr && core::load_relaxed(e->wall_ticks) <= m_exemplar->wall_ticks) continue;
            std::uint32_t unused = 0;
            if (!core::compare_exchange(e->in_use, unused, 1u)) continue;  // pairs with the release in keep_exemplar
            if (m_exemplar != nullptr) core::store_release(m_exemplar->in_use, 0u);
            m_exemplar = e;
            m_exemplar_record = r;
        }
    }

    void read_exemplar() {
        core::exemplar_record const& e = *m_exemplar;
        core::invocation_state const& s = e.summary;
        invocation_exemplar& x = m_profile.slowest;
        x.request_id = s.request_id;
        x.handler_site = site_index(*s.handler);
        x.wall_ns = ns(e.wall_ticks);
        x.started_unix_ns = e.ended_unix_ns - x.wall_ns;
        x.cpu_ns = s.cpu_ns;
        x.wait_ns = ns(s.wait_ticks);
        x.allocated_bytes = s.allocated_bytes;
        x.failed = s.failed;
        x.truncated = e.truncated;
        for (std::uint32_t i = 0; i < e.nodes; ++i) {
            std::uint32_t const ordinal = core::call_tree::own_nodes + i;
            if (e.parts[i].count == 0 || ordinal >= m_node_of.size() || m_node_of[ordinal] == none || m_is_memory[ordinal]) continue;
            auto* same = x.parts.data();
            auto* const end = same + x.parts.size();
            while (same != end && same->node != m_node_of[ordinal]) ++same;  // an alias counts where it stands for
            if (same != end) same->calls += e.parts[i].count, same->total_ns += ns(e.parts[i].sum_ticks);
            else x.parts.push_back({m_node_of[ordinal], e.parts[i].count, ns(e.parts[i].sum_ticks)});
        }
    }

    void read_tree(core::thread_record& r) {
        m_node_of.clear();
        m_is_memory.clear();
        {
            struct held {
                core::call_tree& tree;
                explicit held(core::call_tree& t) noexcept : tree(t) { tree.hold(); }
                ~held() { tree.release_hold(); }
            } const guard(r.tree);
            for (core::node const* n = &r.tree.root; n != nullptr; n = core::call_tree::next_created(*n)) read_node(r.tree, *n);
        }
        m_profile.losses.overflow_durations += r.tree.lost_durations();
        m_profile.losses.mismatched_scopes += core::load_relaxed(r.mismatched);
        read_open(r);
        if (&r == m_exemplar_record) read_exemplar();
        m_later_tree = true;
    }

    void read_node(core::call_tree const& tree, core::node const& n) {
        std::size_t const found_before = m_found.size();
        core::node_snapshot const s = tree.read(
            n, [&] { m_found.resize(found_before); },
            [&](unsigned bucket, std::uint64_t count) { m_found.push_back({bucket, count}); });
        if (s.torn) ++m_profile.losses.torn_nodes;
        bool const is_memory = n.entry->kind == core::site_kind::allocator;
        m_is_memory.push_back(is_memory);
        if (n.entry->kind >= core::site_kind::background && s.count == 0 && n.parent != nullptr) {
            m_node_of.push_back(none);  // background and overflow: not in the profile unless something is there
            return;
        }
        std::uint32_t const parent = n.parent == nullptr ? none : place_of(*n.parent);
        if (is_memory) {
            m_node_of.push_back(parent);
            add_memory(*n.entry, {s.count, s.sum_ticks, 0, 0});
            m_profile.nodes[parent].allocations += s.count;
            m_profile.nodes[parent].allocated_bytes += s.sum_ticks;
            return;
        }
        std::uint32_t const index = n.target != nullptr ? place_of(*n.target) : node_index(parent, *n.entry);
        m_node_of.push_back(index);
        profile_node& to = m_profile.nodes[index];
        to.calls += s.count;
        to.timed += s.timed;
        if (m_variance.size() <= index) m_variance.resize(index + 1, 0.0);
        m_variance[index] += s.variance;
        to.total_ns = core::saturating_add(to.total_ns, ns(s.sum_ticks));
        if (std::uint64_t const max_ns = ns(s.max_ticks); max_ns > to.max_ns) to.max_ns = max_ns;
        to.errors += s.errors;
        if (n.entry->kind == core::site_kind::overflow) m_profile.losses.overflow_entries += s.count;
        if (m_found.size() != found_before) {
            m_runs.push_back({static_cast<std::uint32_t>(found_before), static_cast<std::uint32_t>(m_found.size() - found_before),
                              m_first_run[index]});
            m_first_run[index] = static_cast<std::uint32_t>(m_runs.size() - 1);
        }
    }

    // The entries that are open on a thread: the way from where it stands to the root. What is known of the age of one holds
    // for all above it.
    void read_open(core::thread_record const& r) {
        core::node* at = core::load_relaxed(r.current);
        if (at == nullptr) at = core::load_relaxed(r.paused_at);
        std::uint64_t const now = m_process.clock.now(m_process.source);
        std::uint64_t const longest_tick = m_process.source.length.to_ticks(core::longest_tick_ns);
        std::uint64_t age = core::ticked_at_least(r, m_process.tick_word, longest_tick, now);
        for (; at != nullptr && at->ordinal < m_node_of.size(); at = at->parent) {
            core::site_kind const kind = at->entry->kind;
            if (kind == core::site_kind::process || kind == core::site_kind::background) return;
            if (std::uint64_t const since = core::load_relaxed(at->open_since); since != 0)
                if (std::uint64_t const known = core::elapsed_ticks(since, now); known > age) age = known;
            if (m_node_of[at->ordinal] == none || at->target != nullptr) continue;
            profile_node& n = m_profile.nodes[m_node_of[at->ordinal]];
            ++n.open;
            if (ns(age) > n.open_ns) n.open_ns = ns(age);
        }
    }

    // The profile's node for a node of this tree that was read before.
    std::uint32_t place_of(core::node const& n) {
        if (m_node_of[n.ordinal] == none) {
            std::uint32_t const made = node_index(place_of(*n.parent), *n.entry);
            m_node_of[n.ordinal] = made;
        }
        return m_node_of[n.ordinal];
    }

    // The profile's node for a site under a parent. In the first tree every node is new; later ones look it up.
    std::uint32_t node_index(std::uint32_t parent, core::site_entry const& e) {
        std::uint32_t const site = site_index(e);
        if (m_later_tree) {
            if (m_table.empty()) rehash(1024);
            for (std::size_t i = hash(parent, site) & (m_table.size() - 1);; i = (i + 1) & (m_table.size() - 1)) {
                std::uint32_t const candidate = m_table[i];
                if (candidate == none) break;
                if (m_profile.nodes[candidate].parent == parent && m_profile.nodes[candidate].site == site) return candidate;
            }
        }
        auto const index = static_cast<std::uint32_t>(m_profile.nodes.size());
        m_profile.nodes.push_back({.site = site, .parent = parent});
        m_first_run.push_back(none);
        if (m_later_tree) {
            if (m_profile.nodes.size() * 2 > m_table.size()) rehash(m_table.size() * 2);
            else place(index);
        }
        return index;
    }

    static std::size_t hash(std::uint32_t parent, std::uint32_t site) noexcept {
        return static_cast<std::size_t>((parent * 0x9E3779B97F4A7C15u ^ site * 0xC2B2AE3D27D4EB4Fu) >> 20);
    }

    void place(std::uint32_t index) {
        std::size_t i = hash(m_profile.nodes[index].parent, m_profile.nodes[index].site) & (m_table.size() - 1);
        while (m_table[i] != none) i = (i + 1) & (m_table.size() - 1);
        m_table[i] = index;
    }

    void rehash(std::size_t size) {
        while (size < m_profile.nodes.size() * 2) size *= 2;
        m_table.assign(size, none);
        for (std::uint32_t i = 0; i < m_profile.nodes.size(); ++i) place(i);
    }

    // The process and the background are not timed: they are the sums of what is below them.
    void finish_totals() {
        for (std::size_t i = 0; i < m_variance.size(); ++i)
            if (m_variance[i] > 0) m_profile.nodes[i].total_error_ns = ns(static_cast<std::uint64_t>(__builtin_sqrt(m_variance[i]) + 0.5));
        for (std::size_t i = m_profile.nodes.size(); i-- > 1;) {
            profile_node const& n = m_profile.nodes[i];
            profile_node& parent = m_profile.nodes[n.parent];
            site_kind const kind = m_profile.site_of(parent).kind;
            if (kind == site_kind::process || kind == site_kind::background)
                parent.total_ns = core::saturating_add(parent.total_ns, n.total_ns);
        }
    }

    void finish_buckets() {
        auto& buckets = m_profile.buckets;
        buckets.reserve(m_found.size());
        for (std::size_t i = 0; i < m_profile.nodes.size(); ++i) {
            std::uint32_t const first = static_cast<std::uint32_t>(buckets.size());
            for (std::uint32_t run = m_first_run[i]; run != none; run = m_runs[run].next)
                add_run(first, m_found.data() + m_runs[run].first, m_found.data() + m_runs[run].first + m_runs[run].count);
            m_profile.nodes[i].first_bucket = first;
            m_profile.nodes[i].bucket_count = static_cast<std::uint32_t>(buckets.size()) - first;
        }
    }

    // Adds sorted buckets to those of the node whose buckets begin at `first` and are the last in the profile.
    void add_run(std::uint32_t first, core::histogram_bucket const* from, core::histogram_bucket const* end) {
        auto& buckets = m_profile.buckets;
        if (first == buckets.size()) {
            buckets.insert(buckets.end(), from, end);
            return;
        }
        m_merged.assign(buckets.begin() + first, buckets.end());
        buckets.resize(first);
        auto const* a = m_merged.data();
        auto const* const a_end = a + m_merged.size();
        while (a != a_end || from != end) {
            if (from == end || (a != a_end && a->index < from->index)) buckets.push_back(*a++);
            else if (a == a_end || from->index < a->index) buckets.push_back(*from++);
            else buckets.push_back({a->index, core::saturating_add(a->count, from->count)}), ++a, ++from;
        }
    }

    void finish_window() {
        profile_window& w = m_profile.window;
        for (auto* r = first_record(); r != nullptr; r = r->next) {
            w.invocations += core::load_acquire(r->sums.completed);  // pairs with the release in close_invocation
            w.errors += core::load_relaxed(r->sums.failed);
            w.wall_ns += ns(core::load_relaxed(r->sums.wall_ticks));
            w.wait_ns += ns(core::load_relaxed(r->sums.wait_ticks));
            w.cpu_ns += core::load_relaxed(r->sums.cpu_ns);
        }
        w.cold = w.invocations == 0 ? 0 : 1;
        w.cpu_measured = m_process.measure_cpu;
        w.counter_jumps = core::load_relaxed(m_process.watch.jumps);
        core::active_clock::state const clock = m_process.clock.read();
        w.open = clock.open_count;
        w.active_ns = ns(core::active_clock::at(clock, m_process.source.ticks()) - 1);
        profile_losses& lost = m_profile.losses;
        lost.overflow_sites = core::load_relaxed(m_process.lost.sites);
        lost.overflow_names = core::load_relaxed(m_process.lost.names);
        lost.overflow_threads = core::load_relaxed(m_process.lost.threads);
        m_profile.cost.memory_bytes = m_process.memory.used_bytes();
    }

    core::process_root& m_process;
    profile m_profile;
    std::vector<std::uint32_t> m_site_of;      // by entry id
    std::vector<std::uint32_t> m_memory_of;    // by entry id
    std::vector<std::uint32_t> m_node_of;      // of the tree being read, by ordinal
    std::vector<bool> m_is_memory;             // likewise
    std::vector<std::uint32_t> m_first_run;    // by profile node
    std::vector<double> m_variance;            // of the totals, in ticks squared, by profile node
    std::vector<bucket_run> m_runs;
    std::vector<core::histogram_bucket> m_found;
    std::vector<core::histogram_bucket> m_merged;
    std::vector<std::uint32_t> m_table;        // profile nodes by (parent, site)
    core::exemplar_record* m_exemplar = nullptr;
    core::thread_record* m_exemplar_record = nullptr;
    bool m_later_tree = false;
};

}
THAW_DETAIL_END

#endif

#endif
