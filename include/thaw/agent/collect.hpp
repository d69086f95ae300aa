// thaw floor 10 agent: collect, the one place where thread records become a profile.
//
// It runs while other threads record: what it reads of a node belongs together (core/call_tree.hpp says how), and a free is
// never seen without its allocation, because frees are read first. It allocates from the host, as a reporter does, and is
// never called from a marker, an allocation or a signal. One collect at a time (the agent's report lock).
//
// A collector is kept from one profile to the next, because what costs most is neither reading nor adding but memory: a profile
// of 1,000 nodes in 200 functions is 230 KB, which a host's allocator may take from the kernel and give back each time, and 600
// strings. The names of sites never change, so the profile keeps them, and its vectors are filled anew where they are.
#ifndef THAW_AGENT_COLLECT_HPP
#define THAW_AGENT_COLLECT_HPP

#include <thaw/core/config.hpp>

#if THAW_ENABLED

#include <thaw/agent/collect_cpu.hpp>
#include <thaw/core/thread_record.hpp>
#include <thaw/profile/buckets.hpp>
#include <thaw/profile/profile.hpp>

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

THAW_DETAIL_BEGIN
namespace detail {

static_assert(static_cast<int>(core::site_kind::process) == static_cast<int>(site_kind::process));
static_assert(static_cast<int>(core::site_kind::overflow) == static_cast<int>(site_kind::overflow));
static_assert(static_cast<int>(core::site_kind::allocator) == static_cast<int>(site_kind::allocator));
static_assert(static_cast<int>(core::site_kind::wait) == static_cast<int>(site_kind::wait));

// A template, so that it is compiled where a report is made and not by all that include it.
template <class Process>
class collector {
public:
    explicit collector(Process& p) : m_process(p), m_cpu(p) {}
    collector(collector const&) = delete;
    collector& operator=(collector const&) = delete;

    // Everything but identity and the agent's own cost. The collector owns the profile, which holds until the next collect; its
    // sites and memory sites are the collector's to change. Throws std::bad_alloc only, and may be called again after that.
    [[nodiscard]] profile& collect() {
        struct exemplar_release {
            collector& self;
            ~exemplar_release() {  // also where memory ran out on the way
                if (self.m_exemplar != nullptr) core::store_release(self.m_exemplar->in_use, 0u);  // pairs with keep_exemplar
                self.m_exemplar = nullptr, self.m_exemplar_record = nullptr;
            }
        } const release{*this};
        begin();
        read_frees();
        choose_exemplar();
        for (auto* r = first_record(); r != nullptr; r = r->next) read_tree(*r);
        read_early_counts();
        finish_totals();
        finish_buckets();
        finish_window();
        m_cpu.finish(m_profile.cpu);
        return m_profile;
    }

    // CPU time up to now is not covered by samples.
    void skip_cpu() noexcept { m_cpu.skip(); }

private:
    static constexpr std::uint32_t none = no_index;

    core::thread_record* first_record() const noexcept {
        return core::load_acquire(m_process.records);  // pairs with take_record
    }

    std::uint64_t ns(std::uint64_t ticks) const noexcept { return m_length.to_ns(ticks); }

    // Empties the profile but for its sites, which are never forgotten, and the memory that it has. The last nodes and buckets
    // are written over one by one: to clear them first would take as long as to read the tree.
    void begin() {
        profile next;
        next.sites = static_cast<std::vector<profile_site>&&>(m_profile.sites);
        next.nodes = static_cast<std::vector<profile_node>&&>(m_profile.nodes);
        next.buckets = static_cast<std::vector<core::histogram_bucket>&&>(m_profile.buckets);
        next.memory = static_cast<std::vector<memory_site>&&>(m_profile.memory);
        m_cpu.begin(next.cpu, static_cast<cpu_profile&&>(m_profile.cpu));
        m_profile = static_cast<profile&&>(next);
        for (memory_site& m : m_profile.memory) m = {.site = m.site};
        m_variance.clear();
        m_table.clear();
        m_node_count = m_bucket_count = m_unused_buckets = 0;
        m_background = 0;
        m_later_tree = false;
        m_length = {core::load_relaxed(m_process.source.length.multiplier)};
        m_site_of.resize(core::load_relaxed(m_process.entry_count) + 16, none);
        site_index(m_process.process_entry);
        find_allocators();
        std::size_t nodes = 0;
        for (auto* r = first_record(); r != nullptr; r = r->next)
            if (nodes < r->tree.node_count()) nodes = r->tree.node_count();
        if (m_profile.nodes.size() < nodes) m_profile.nodes.resize(nodes);
    }

    // The allocators that were registered since the last collect: new entries come first in the list.
    void find_allocators() {
        auto const* const newest = core::load_acquire(m_process.entries);
        std::size_t found = m_allocators.size() + 1;
        for (auto const* e = newest; e != m_newest_entry; e = e->next) found += e->kind == core::site_kind::allocator;
        m_allocators.reserve(found);
        if (m_allocators.empty()) m_allocators.push_back(&m_process.overflow_allocator);
        for (auto const* e = newest; e != m_newest_entry; e = e->next)
            if (e->kind == core::site_kind::allocator) m_allocators.push_back(e);
        m_newest_entry = newest;
    }

    std::uint32_t site_index(core::site_entry const& e) {
        if (e.id < m_site_of.size() && m_site_of[e.id] != none) [[likely]] return m_site_of[e.id];
        return new_site(e);
    }

    THAW_DETAIL_COLD std::uint32_t new_site(core::site_entry const& e) {
        if (e.id >= m_site_of.size()) m_site_of.resize(e.id + 64, none);
        auto const index = static_cast<std::uint32_t>(m_profile.sites.size());
        m_profile.sites.push_back({e.name, e.function, e.file, e.line, static_cast<site_kind>(e.kind)});
        m_site_of[e.id] = index;
        return index;
    }

    memory_site& memory_of(core::site_entry const& e) {
        if (e.id >= m_memory_of.size()) m_memory_of.resize(e.id + 64, none);
        if (m_memory_of[e.id] == none) {
            std::uint32_t const site = site_index(e);
            m_profile.memory.push_back({.site = site});
            m_memory_of[e.id] = static_cast<std::uint32_t>(m_profile.memory.size() - 1);
        }
        return m_profile.memory[m_memory_of[e.id]];
    }

    void read_frees() {
        for (auto* r = first_record(); r != nullptr; r = r->next) {
            core::allocator_slot const* const slot = core::load_acquire(r->allocator_slots);
            if (slot == nullptr) continue;
            for (core::site_entry const* e : m_allocators) {
                // acquire: the allocation that a free followed is visible once the free is
                std::uint64_t const frees = core::load_acquire(slot[e->slot].frees);
                std::uint64_t const freed_bytes = core::load_acquire(slot[e->slot].freed_bytes);
                add_memory(*e, {0, 0, frees, freed_bytes});
            }
        }
        for (core::site_entry const* e : m_allocators)
            add_memory(*e, {0, 0, core::load_acquire(e->early.frees), core::load_acquire(e->early.freed_bytes)});
    }

    void read_early_counts() {
        for (core::site_entry const* e : m_allocators)
            add_memory(*e, {core::load_acquire(e->early.allocations), core::load_acquire(e->early.allocated_bytes), 0, 0});
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
        x.parts.reserve(e.nodes);
        core::node const* n = m_exemplar_record->tree.first_made();
        for (std::uint32_t i = 0; i < e.nodes && n->ordinal < m_node_of.size(); ++i, n = core::call_tree::next_created(*n)) {
            std::uint32_t const index = m_node_of[n->ordinal];
            if (e.parts[i].count == 0 || index == none || n->entry->kind == core::site_kind::allocator) continue;
            auto* part = x.parts.data();
            auto* const end = part + x.parts.size();
            if (n->target == nullptr) part = end;
            while (part != end && part->node != index) ++part;  // an alias counts where it stands for
            if (part != end) part->calls += e.parts[i].count, part->total_ns += ns(e.parts[i].sum_ticks);
            else x.parts.push_back({index, e.parts[i].count, ns(e.parts[i].sum_ticks)});
        }
    }

    void read_tree(core::thread_record& r) {
        // Nodes that are made from now on are left to the next collect. Read after the frees, whose allocations are in older ones.
        std::uint32_t const count = r.tree.node_count();
        m_node_of.clear();
        m_node_of.resize(count, none);
        m_expected = 0;
        {
            struct held {
                core::call_tree& tree;
                explicit held(core::call_tree& t) noexcept : tree(t) { tree.hold(); }
                ~held() { tree.release_hold(); }
            } const guard(r.tree);
            core::node const* n = &r.tree.root;
            for (std::uint32_t i = 0; i < count && n != nullptr; ++i, n = core::call_tree::next_created(*n))
                m_node_of[i] = read_node(r.tree, *n);
        }
        m_profile.losses.overflow_durations += r.tree.lost_durations();
        m_profile.losses.mismatched_scopes += core::load_relaxed(r.mismatched);
        read_open(r);
        m_cpu.read_stacks(m_profile.cpu, r, m_node_of);
        if (&r == m_exemplar_record) read_exemplar();
        m_later_tree = true;
    }

    // Adds a node; the index of where it went.
    std::uint32_t read_node(core::call_tree const& tree, core::node const& n) {
        core::histogram_bucket* const found = room_for_buckets();
        core::node_snapshot const s = tree.read(n, found);
        if (s.torn) [[unlikely]] ++m_profile.losses.torn_nodes;
        core::site_kind const kind = n.entry->kind;
        if (kind >= core::site_kind::background) [[unlikely]] {
            if (s.count == 0 && n.parent != nullptr) return none;  // not in the profile unless something is there
            if (kind == core::site_kind::overflow) m_profile.losses.overflow_entries += s.count;
        }
        std::uint32_t const parent = n.parent == nullptr ? none : place_of(*n.parent);
        if (kind == core::site_kind::allocator) {
            add_memory(*n.entry, {s.count, s.sum_ticks, 0, 0});
            m_profile.nodes[parent].allocations += s.count;
            m_profile.nodes[parent].allocated_bytes += s.sum_ticks;
            return parent;
        }
        std::uint32_t const index = n.target != nullptr ? place_of(*n.target) : node_index(parent, *n.entry);
        profile_node& to = m_profile.nodes[index];
        std::uint64_t const total_ns = ns(s.sum_ticks);
        std::uint64_t const max_ns = ns(s.max_ticks);
        to.calls += s.count;
        to.timed += s.timed;
        to.total_ns = core::saturating_add(to.total_ns, total_ns);
        if (max_ns > to.max_ns) to.max_ns = max_ns;
        to.errors += s.errors;
        to.cpu_ns += s.cpu_ns;
        m_cpu.read_node(n, index);
        if (s.variance > 0) [[unlikely]] {
            if (m_variance.size() <= index) m_variance.resize(m_profile.nodes.size(), 0.0);
            m_variance[index] += s.variance;
        }
        // The process and the background are not timed: they are the sums of what is below them.
        if (parent == 0 || parent == m_background)
            m_profile.nodes[parent].total_ns = core::saturating_add(m_profile.nodes[parent].total_ns, total_ns);
        if (s.buckets_end != found) add_durations(to, found, static_cast<std::uint32_t>(s.buckets_end - found));
        return index;
    }

    // The entries that are open on a thread: the way from where it stands to the root. What is known of the age of one holds
    // for all above it.
    void read_open(core::thread_record const& r) {
        core::node* at = core::load_acquire(r.current);  // pairs with the releases named in core/thread_head.hpp
        if (at == nullptr) at = core::load_acquire(r.paused_at);
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

    // The profile's node for a site under a parent. In the first tree every node is new. Later ones are often made in the same
    // order, so the node after the last one is tried; then they are looked up.
    THAW_DETAIL_INLINE std::uint32_t node_index(std::uint32_t parent, core::site_entry const& e) {
        std::uint32_t const site = site_index(e);
        return m_later_tree ? known_or_new_node(parent, site, e.kind) : new_node(parent, site, e.kind);
    }

    std::uint32_t new_node(std::uint32_t parent, std::uint32_t site, core::site_kind kind) {
        if (m_node_count == m_profile.nodes.size()) [[unlikely]] m_profile.nodes.resize(m_node_count + m_node_count / 2 + 16);
        std::uint32_t const index = m_node_count++;
        profile_node& made = *::new (&m_profile.nodes[index]) profile_node;  // the last profile's, or none so far
        made.site = site, made.parent = parent;
        if (kind == core::site_kind::background) m_background = index;
        return index;
    }

    THAW_DETAIL_NOINLINE std::uint32_t known_or_new_node(std::uint32_t parent, std::uint32_t site, core::site_kind kind) {
        std::uint32_t known = m_expected;
        if (known >= m_node_count || m_profile.nodes[known].parent != parent || m_profile.nodes[known].site != site)
            known = find(parent, site);
        m_expected = known + 1;
        if (known != none) return known;
        std::uint32_t const made = new_node(parent, site, kind);
        if (std::size_t{m_node_count} * 2 > m_table.size()) rehash(m_table.size() * 2);
        else place(made);
        return made;
    }

    static std::size_t hash(std::uint32_t parent, std::uint32_t site) noexcept {
        return static_cast<std::size_t>((parent * 0x9E3779B97F4A7C15u ^ site * 0xC2B2AE3D27D4EB4Fu) >> 20);
    }

    std::uint32_t find(std::uint32_t parent, std::uint32_t site) {
        if (m_table.empty()) rehash(1024);
        for (std::size_t i = hash(parent, site) & (m_table.size() - 1);; i = (i + 1) & (m_table.size() - 1)) {
            std::uint32_t const candidate = m_table[i];
            if (candidate == none || (m_profile.nodes[candidate].parent == parent && m_profile.nodes[candidate].site == site))
                return candidate;
        }
    }

    void place(std::uint32_t index) {
        std::size_t i = hash(m_profile.nodes[index].parent, m_profile.nodes[index].site) & (m_table.size() - 1);
        while (m_table[i] != none) i = (i + 1) & (m_table.size() - 1);
        m_table[i] = index;
    }

    void rehash(std::size_t size) {
        while (size < std::size_t{m_node_count} * 2) size *= 2;
        m_table.assign(size, none);
        for (std::uint32_t i = 0; i < m_node_count; ++i) place(i);
    }

    // Where the next buckets go: room for all that a histogram can have.
    core::histogram_bucket* room_for_buckets() {
        auto& buckets = m_profile.buckets;
        if (buckets.size() - m_bucket_count < core::histogram_bucket_count) [[unlikely]]
            buckets.resize(m_bucket_count + 2 * core::histogram_bucket_count);
        return buckets.data() + m_bucket_count;
    }

    // Adds buckets, which stand where the next go, to those of a node.
    void add_durations(profile_node& to, core::histogram_bucket* found, std::uint32_t count) {
        core::histogram_bucket* const known = m_profile.buckets.data() + to.first_bucket;
        if (to.bucket_count != 0) {
            if (histograms::add_to_existing(known, to.bucket_count, found, count)) return;
            m_merged.clear();
            histograms::append_sum(m_merged, {known, known + to.bucket_count}, {found, found + count});
            m_unused_buckets += to.bucket_count;
            count = static_cast<std::uint32_t>(m_merged.size());
            for (std::uint32_t i = 0; i < count; ++i) found[i] = m_merged[i];
        }
        to.first_bucket = m_bucket_count;
        to.bucket_count = count;
        m_bucket_count += count;
    }

    void finish_totals() {
        for (std::size_t i = 0; i < m_variance.size(); ++i)
            if (m_variance[i] > 0) m_profile.nodes[i].total_error_ns = ns(static_cast<std::uint64_t>(__builtin_sqrt(m_variance[i]) + 0.5));
        if (m_background == 0) return;
        profile_node& root = m_profile.nodes[0];
        root.total_ns = core::saturating_add(root.total_ns, m_profile.nodes[m_background].total_ns);
    }

    void finish_buckets() {
        m_profile.nodes.resize(m_node_count);
        m_profile.buckets.resize(m_bucket_count);
        if (m_unused_buckets != 0) histograms::pack(m_profile, m_merged);
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

    Process& m_process;
    profile m_profile;
    cpu_collector<Process> m_cpu;
    core::tick_length m_length;
    // From one collect to the next:
    std::vector<std::uint32_t> m_site_of;      // by entry id
    std::vector<std::uint32_t> m_memory_of;    // by entry id
    std::vector<core::site_entry const*> m_allocators;
    core::site_entry const* m_newest_entry = nullptr;  // the first of those that were looked through
    // During one:
    std::vector<std::uint32_t> m_node_of;      // of the tree being read, by ordinal; of an allocator, its parent's
    std::vector<double> m_variance;            // of the totals, in ticks squared, by profile node; may be too short
    std::vector<core::histogram_bucket> m_merged;
    std::vector<std::uint32_t> m_table;        // profile nodes by (parent, site); empty until it is needed
    std::uint32_t m_node_count = 0;            // in use, of the profile's, which are more until it is finished
    std::uint32_t m_bucket_count = 0;          // likewise
    std::uint32_t m_unused_buckets = 0;        // of these, left behind
    std::uint32_t m_background = 0;            // the profile's node; 0: it has none
    std::uint32_t m_expected = 0;              // the profile's node that a later tree's next node is compared with first
    core::exemplar_record* m_exemplar = nullptr;
    core::thread_record* m_exemplar_record = nullptr;
    bool m_later_tree = false;
};

}
THAW_DETAIL_END

#endif

#endif
