// thaw floor 3 core: the calling-context tree of one thread: a node is a site under a parent.
//
// One thread writes a tree (its owner); any thread may read it at the same time (snapshot_node, first_created). Nothing here
// calls the host's allocator; what cannot be allocated is counted at one overflow node. Only the parts that say so are
// signal-safe.
//
// A child is found in three steps: the parent's cached child (the usual case, inline in probe/scope.hpp), the thread's hash
// table of (parent, site), creation. Rejected, with figures for the 64th of 64 alternating children: a list of siblings,
// 170 to 310 ns; a cache at the site, shared by the threads, 25 ns with two of them.
//
// Recursion folds. A site that is entered while it is open above leads to an alias, a small node that stands for the open
// one: it counts the re-entry, is never timed, and whatever is entered from it becomes a child of the node it stands for.
// So 10^5 levels take one node and one alias, and a node is never open twice.
//
// How a reader gets figures that belong together: entries (`count`) are read last, so that a node never shows more timed
// entries than entries. Sum, maximum, weight and histogram change together behind the node's version, which is odd while they
// do; a reader tries again until it has read one version. A node that is hit every 30 ns would never hold still for that, so
// the reader first asks the owner to hold back (`held`): the owner then puts up to 64 durations aside and books them when the
// reader is done. Should they not suffice, it books and the reader tries again.
#ifndef THAW_CORE_CALL_TREE_HPP
#define THAW_CORE_CALL_TREE_HPP

#include <thaw/core/arena.hpp>
#include <thaw/core/atomics.hpp>
#include <thaw/core/clock.hpp>
#include <thaw/core/live_histogram.hpp>
#include <thaw/core/site.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::core {

// How entries of scopes are timed. Waits and handlers are always timed, by their own probes.
enum class timing : std::uint8_t {
    none,  // counted only
    all,   // every entry
};

inline constexpr std::uint64_t never = UINT64_MAX;

struct thread_record;

// Two cache lines: the first holds what an entry and an exit touch, the second what a timed exit adds.
struct alignas(64) node {
    site_entry* entry = nullptr;
    node* parent = nullptr;
    node* cached = nullptr;        // the child entered last, at first the overflow node; never null; owner only
    std::uint64_t count = 0;       // entries; of an allocator: allocations
    std::uint64_t timed_at = 0;    // the entry from which on a scope takes its timed path: 0 always, `never` not at all
    std::uint64_t open_since = 0;  // V at the timed entry that is open; 0: none is
    node* target = nullptr;        // an alias: the open node it stands for; otherwise null
    std::uint32_t weight = 0;      // of the open timed entry: how many entries it stands for
    std::uint32_t ordinal = 0;     // position in the order of creation, from 0

    std::uint64_t version = 0;     // odd while the four below change
    std::uint64_t sum_ticks = 0;   // of an allocator: bytes
    std::uint64_t max_ticks = 0;
    std::uint64_t weighted = 0;    // entries that the sum stands for
    std::uint64_t timed = 0;       // entries that were timed
    live_histogram* histogram = nullptr;
    node* created_next = nullptr;  // published with release by call_tree::append
    std::uint64_t errors = 0;      // entries left by an exception

    [[nodiscard]] node* resolved() noexcept { return target != nullptr ? target : this; }
};
static_assert(sizeof(node) == 128, "an entry touches one cache line, and a node is two");

// The figures of a node that were true at one moment.
struct node_snapshot {
    std::uint64_t count = 0;
    std::uint64_t sum_ticks = 0;
    std::uint64_t max_ticks = 0;
    std::uint64_t weighted = 0;
    std::uint64_t timed = 0;
    std::uint64_t errors = 0;
    bool open = false;
    bool torn = false;  // the versions never matched: the figures are near each other, not of one moment
};

// Durations that the owner put aside while a reader was at its tree.
struct held_duration {
    node* where;
    std::uint64_t ticks;
    std::uint32_t weight;
};
inline constexpr unsigned held_capacity = 64;

class call_tree {
public:
    // The tree's own nodes. `background` is where a thread stands that works for no invocation; `overflow` takes entries for
    // which no node could be made, and `overflow_again`, an alias, those made from inside it.
    node root, background, overflow, overflow_again;

    // Prepares an empty tree. The entries name the three nodes above.
    void start(arena& memory, tick_source const& source, timing mode, site_entry& process_entry, site_entry& background_entry,
               site_entry& overflow_entry) noexcept {
        m_memory = &memory;
        m_source = &source;
        m_mode = mode;
        root.entry = &process_entry, root.timed_at = never;
        background.entry = &background_entry, background.timed_at = never, background.parent = &root;
        overflow.entry = &overflow_entry, overflow.timed_at = mode == timing::all ? 0 : never, overflow.parent = &root;
        overflow_again.entry = &overflow_entry, overflow_again.timed_at = never, overflow_again.parent = &overflow;
        overflow_again.target = &overflow;
        root.cached = background.cached = overflow.cached = overflow_again.cached = &overflow;
        append(root), append(background), append(overflow), append(overflow_again);
    }

    // The node for `entry` under `at`, where the owner stands (an alias, perhaps). Found or made; never null.
    THAW_DETAIL_NOINLINE node* child(node* at, site_entry& entry) noexcept {
        node* const found = find(at, entry);
        return found != nullptr ? found : make_child(at, entry);
    }

    // An alias for an entry to a node that is open although `at` is not below it: both were entered from aliases of a common
    // ancestor. Unlike other aliases it may be entered when that node is not open, so its entries take the slow path.
    THAW_DETAIL_COLD node* alias_of(node* at, node* open_node) noexcept {
        node* const alias = make_alias(at, *open_node->entry, open_node);
        if (alias->target != nullptr && alias != &overflow_again) alias->timed_at = 0;
        return alias;
    }

    // Books a duration of `ticks` that stands for `weight` entries. Owner only.
    THAW_DETAIL_INLINE void record(node& n, std::uint64_t ticks, std::uint32_t weight) noexcept {
        if (load_relaxed(m_held) != 0 || m_held_count != 0) [[unlikely]] return record_held(n, ticks, weight);
        commit(n, ticks, weight);
    }

    // Books an allocation of `bytes` at an allocator's node. Owner only.
    THAW_DETAIL_INLINE void record_allocation(node& n, std::uint64_t bytes) noexcept {
        std::uint64_t const version = load_relaxed(n.version);
        store_relaxed(n.version, version + 1);
        store_release(n.sum_ticks, n.sum_ticks + bytes);
        store_release(n.count, n.count + 1);
        store_release(n.version, version + 2);
    }

    // Books what was put aside. Owner only; called when it leaves the tree (end of an invocation, end of the thread).
    void settle() noexcept {
        if (m_held_count != 0 && load_relaxed(m_held) == 0) settle_now();
    }

    // ---- for readers on any thread ----

    // The nodes in the order of their creation, a parent before its children: start at `root` and follow `created_next`.
    [[nodiscard]] static node const* next_created(node const& n) noexcept {
        return load_acquire(n.created_next);  // pairs with the release in append
    }

    [[nodiscard]] std::uint32_t node_count() const noexcept { return load_acquire(m_node_count); }

    // Asks the owner to put durations aside, until release_hold. One reader at a time (the agent's report lock).
    void hold() noexcept { store_relaxed(m_held, 1u); }
    void release_hold() noexcept { store_relaxed(m_held, 0u); }

    // Reads one node. f(bucket, count) is called for its buckets after `restart()` was called, perhaps several times; the
    // figures are those of the last round.
    template <class Restart, class F>
    [[nodiscard]] node_snapshot read(node const& n, Restart&& restart, F&& f) const noexcept {
        node_snapshot s;
        for (int tries = 0;; ++tries) {
            restart();
            std::uint64_t const before = load_acquire(n.version);  // pairs with the release that ends commit
            s.sum_ticks = load_acquire(n.sum_ticks);               // acquire: the version is read again after these
            s.max_ticks = load_acquire(n.max_ticks);
            s.weighted = load_acquire(n.weighted);
            s.timed = load_acquire(n.timed);
            std::uint64_t const allocations = load_acquire(n.count);
            if (live_histogram const* const h = load_acquire(n.histogram)) h->for_each(*m_memory, f);
            s.torn = (before & 1u) != 0 || before != load_relaxed(n.version);
            if (!s.torn || tries == 1000) {
                s.open = load_relaxed(n.open_since) != 0;
                s.errors = load_relaxed(n.errors);
                // Read last, so that timed <= count. An allocator's count changes with its sum.
                s.count = n.entry->kind == site_kind::allocator ? allocations : load_acquire(n.count);
                return s;
            }
        }
    }

    [[nodiscard]] std::uint64_t lost_durations() const noexcept { return load_relaxed(m_lost_durations); }

private:
    struct key_slot {
        node* at;     // where the owner stood
        node* child;  // what it found there
    };

    static std::size_t hash(node const* at, site_entry const* entry) noexcept {
        auto const a = reinterpret_cast<std::uintptr_t>(at) / alignof(node);
        auto const e = reinterpret_cast<std::uintptr_t>(entry) / alignof(site_entry);
        std::uint64_t const h = (a * 0x9E3779B97F4A7C15u) ^ (e * 0xC2B2AE3D27D4EB4Fu);
        return static_cast<std::size_t>(h >> 20);
    }

    node* find(node* at, site_entry& entry) const noexcept {
        if (m_slots == nullptr) return nullptr;
        for (std::size_t i = hash(at, &entry) & m_mask;; i = (i + 1) & m_mask) {
            key_slot const& s = m_slots[i];
            if (s.child == nullptr) return nullptr;
            if (s.at == at && s.child->entry == &entry) return s.child;
        }
    }

    THAW_DETAIL_COLD node* make_child(node* at, site_entry& entry) noexcept {
        if (at->resolved() == &overflow) return &overflow_again;
        // A site can be open above only if it has a node in this tree at all.
        if (entry.kind != site_kind::allocator && seen(entry))
            for (node* up = at; up != nullptr; up = up->parent)
                if (up->entry == &entry) return make_alias(at, entry, up->resolved());
        mark_seen(entry);
        node* const parent = at->resolved();
        if (parent != at)
            if (node* const existing = find(parent, entry)) {
                insert(at, existing);
                return existing;
            }
        node* const made = make_node(parent, entry);
        if (made == nullptr) return &overflow;
        made->timed_at = m_mode == timing::all && entry.kind == site_kind::scope ? 0 : never;
        append(*made);
        insert(parent, made);
        if (parent != at) insert(at, made);
        return made;
    }

    node* make_alias(node* at, site_entry& entry, node* target) noexcept {
        node* const made = make_node(at, entry);
        if (made == nullptr) return &overflow;
        made->timed_at = never;
        made->target = target;
        append(*made);
        insert(at, made);
        return made;
    }

    node* make_node(node* parent, site_entry& entry) noexcept {
        if (!make_room()) return nullptr;
        if (m_chunk == m_chunk_end) {
            m_chunk = static_cast<node*>(m_memory->allocate(chunk_nodes * sizeof(node)));
            if (m_chunk == nullptr) {
                m_chunk_end = nullptr;
                return nullptr;
            }
            m_chunk_end = m_chunk + chunk_nodes;
        }
        node* const n = m_chunk++;
        n->entry = &entry;
        n->parent = parent;
        n->cached = &overflow;
        return n;
    }

    void append(node& n) noexcept {
        n.ordinal = m_node_count;
        store_release(m_node_count, m_node_count + 1);
        if (m_last != nullptr) store_release(m_last->created_next, &n);  // pairs with the acquire in next_created
        m_last = &n;
    }

    // Keeps at most 3/4 of the slots in use, counting the two keys that a new node may need.
    bool make_room() noexcept {
        std::size_t const size = m_slots == nullptr ? 0 : m_mask + 1;
        if ((m_keys + 2) * 4 <= size * 3) return true;
        std::size_t const grown = size == 0 ? 64 : size * 2;
        auto* const slots = static_cast<key_slot*>(m_memory->allocate(grown * sizeof(key_slot)));
        if (slots == nullptr) return false;
        key_slot* const old = m_slots;
        m_slots = slots, m_mask = grown - 1, m_keys = 0;
        for (std::size_t i = 0; i < size; ++i)
            if (old[i].child != nullptr) place(old[i].at, old[i].child);
        return true;
    }

    // Skipped where there is no room: the child is then found through the slower way.
    void insert(node* at, node* child_node) noexcept {
        if (m_slots != nullptr && (m_keys + 1) * 4 <= (m_mask + 1) * 3) place(at, child_node);
    }

    void place(node* at, node* child_node) noexcept {
        std::size_t i = hash(at, child_node->entry) & m_mask;
        while (m_slots[i].child != nullptr) {
            if (m_slots[i].at == at && m_slots[i].child->entry == child_node->entry) break;  // replaced: an alias took over
            i = (i + 1) & m_mask;
        }
        if (m_slots[i].child == nullptr) ++m_keys;
        m_slots[i] = {at, child_node};
    }

    bool seen(site_entry const& entry) const noexcept { return (m_seen[entry.id / 64 % seen_words] >> entry.id % 64 & 1) != 0; }
    void mark_seen(site_entry const& entry) noexcept { m_seen[entry.id / 64 % seen_words] |= 1ull << entry.id % 64; }

    THAW_DETAIL_INLINE void commit(node& n, std::uint64_t ticks, std::uint32_t weight) noexcept {
        std::uint64_t const version = load_relaxed(n.version);
        store_relaxed(n.version, version + 1);
        // release: the odd version is visible before any of these; the release at the end pairs with the acquires in read
        std::uint64_t sum = 0;
        if (__builtin_mul_overflow(ticks, std::uint64_t{weight}, &sum) || __builtin_add_overflow(n.sum_ticks, sum, &sum))
            [[unlikely]] sum = UINT64_MAX;
        store_release(n.sum_ticks, sum);
        if (ticks > n.max_ticks) store_release(n.max_ticks, ticks);
        store_release(n.weighted, n.weighted + weight);
        store_release(n.timed, n.timed + 1);
        live_histogram* h = n.histogram;
        if (h == nullptr) [[unlikely]] h = make_histogram(n);
        if (h == nullptr || !h->add(*m_memory, m_source->to_ns(ticks), weight)) [[unlikely]] own_add(m_lost_durations, weight);
        store_release(n.version, version + 2);
    }

    THAW_DETAIL_COLD live_histogram* make_histogram(node& n) noexcept {
        auto* const h = static_cast<live_histogram*>(m_memory->allocate(sizeof(live_histogram)));
        if (h != nullptr) store_release(n.histogram, h);  // pairs with the acquire in read
        return h;
    }

    THAW_DETAIL_COLD void record_held(node& n, std::uint64_t ticks, std::uint32_t weight) noexcept {
        if (m_held_count == held_capacity || load_relaxed(m_held) == 0) settle_now();
        if (load_relaxed(m_held) == 0) return commit(n, ticks, weight);
        m_aside[m_held_count++] = {&n, ticks, weight};
    }

    THAW_DETAIL_COLD void settle_now() noexcept {
        for (unsigned i = 0; i < m_held_count; ++i) commit(*m_aside[i].where, m_aside[i].ticks, m_aside[i].weight);
        m_held_count = 0;
    }

    static constexpr std::size_t chunk_nodes = 16;
    static constexpr std::size_t seen_words = 64;

    arena* m_memory = nullptr;
    tick_source const* m_source = nullptr;
    std::uint32_t m_held = 0;  // 1: a reader is at this tree
    std::uint32_t m_held_count = 0;
    key_slot* m_slots = nullptr;
    std::size_t m_mask = 0;
    std::size_t m_keys = 0;
    node* m_chunk = nullptr;
    node* m_chunk_end = nullptr;
    node* m_last = nullptr;
    std::uint32_t m_node_count = 0;
    timing m_mode = timing::none;
    std::uint64_t m_lost_durations = 0;
    std::uint64_t m_seen[seen_words] = {};  // which sites have a node here, by id modulo 4096: a filter, never wrong on "no"
    held_duration m_aside[held_capacity] = {};
};

}

#endif
