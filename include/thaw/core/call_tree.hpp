// thaw floor 5 core: the calling-context tree of one thread: a node is a site under a parent.
//
// One thread writes a tree (its owner); any thread may read it at the same time (snapshot_node, first_created). Nothing here
// calls the host's allocator; what cannot be allocated is counted at one overflow node. Only the parts that say so are
// signal-safe.
//
// A child is found in the thread's child cache (the usual case, inline in probe/scope.hpp), then in its hash table of
// (parent, site), and is made otherwise. Rejected, with figures for the 64th of 64 alternating children: a list of siblings,
// 170 to 310 ns; a cache at the site, shared by the threads, 25 ns with two of them; one cached child at each node, 5 ns as
// soon as two children alternate.
//
// Recursion folds. A site that is entered while it is open above leads to an alias, a small node that stands for the open
// one: it counts the re-entry, is never timed, and whatever is entered from it becomes a child of the node it stands for.
// So 10^5 levels take one node and one alias, and a node is never open twice.
//
// How a reader gets figures that belong together: entries (`count`) are read last, so that a node never shows more timed
// entries than entries. Sum, maximum, weight and histogram change together behind the node's version, which is odd while they
// do; a reader tries again until it has read one version. A node that is hit every 30 ns would never hold still for that, so
// the reader first asks the owner to hold back (`held`): the owner then puts up to 64 durations aside and books them when the
// reader is done. Should they not suffice, it books and the reader tries again; after 100 ms it takes what it finds and counts
// the node as torn. What was put aside is booked at the owner's next timed event: should it block in the microseconds of a
// collect and for ever, up to 64 durations stay unbooked, although their entries are counted.
#ifndef THAW_CORE_CALL_TREE_HPP
#define THAW_CORE_CALL_TREE_HPP

#include <thaw/core/arena.hpp>
#include <thaw/core/atomics.hpp>
#include <thaw/core/clock.hpp>
#include <thaw/core/durations.hpp>
#include <thaw/core/node.hpp>
#include <thaw/core/site.hpp>

#include <cstddef>
#include <cstdint>

#include <sched.h>
#include <time.h>

namespace thaw::core {

// The figures of a node that were true at one moment.
struct node_snapshot {
    std::uint64_t count = 0;
    std::uint64_t sum_ticks = 0;
    std::uint64_t max_ticks = 0;
    std::uint64_t timed = 0;
    std::uint64_t weighted = 0;  // entries that the histogram stands for
    std::uint64_t errors = 0;
    double variance = 0;  // of sum_ticks
    std::uint64_t cpu_ns = 0;
    histogram_bucket* buckets_end = nullptr;  // of those that were written where read was told to
    bool torn = false;  // the versions never matched: the figures are near each other, not of one moment
};

// Durations that the owner put aside while a reader was at its tree.
struct held_duration {
    node* where;
    std::uint64_t ticks;
    std::uint64_t suffix_ticks;
    std::uint32_t weight;
};
inline constexpr unsigned held_capacity = 64;

class call_tree {
public:
    // The tree's own nodes. `background` is where a thread stands that works for no invocation; `overflow` takes entries for
    // which no node could be made, and `overflow_again`, an alias, those made from inside it.
    node root, background, overflow, overflow_again;

    // Prepares an empty tree. The entries name the first three nodes above.
    void start(arena& memory, tick_source const& source, timing mode, site_entry& process_entry, site_entry& background_entry,
               site_entry& overflow_entry) noexcept {
        m_memory = &memory;
        m_source = &source;
        m_mode = mode;
        m_outlier = source.length.to_ticks(outlier_ns);
        m_short_below = source.length.to_ticks(short_below_ns);
        m_long_above = source.length.to_ticks(long_above_ns);
        m_picks.seed(reinterpret_cast<std::uintptr_t>(this) ^ source.ticks());
        root.entry = &process_entry, root.timed_at = never;
        background.entry = &background_entry, background.timed_at = never, background.parent = &root;
        overflow.entry = &overflow_entry, overflow.timed_at = mode == timing::none ? never : 0, overflow.parent = &root;
        overflow_again.entry = &overflow_entry, overflow_again.timed_at = never, overflow_again.parent = &overflow;
        overflow_again.target = &overflow;
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
        if (open_node == &overflow) return &overflow_again;
        node* const known = find(at, *open_node->entry);
        if (known != nullptr && known->target == open_node) return known;
        node* const alias = make_alias(at, *open_node->entry, open_node);
        if (alias->target != nullptr) alias->timed_at = 0;
        return alias;
    }

    // Books an entry of `ticks` that was timed because all are. Owner only.
    THAW_DETAIL_INLINE void record(node& n, std::uint64_t ticks) noexcept {
        if ((load_relaxed(m_held) | m_held_count) != 0) [[unlikely]] record_held({&n, ticks, 0, 1});
        else commit(n, ticks);
    }

    // Books an entry of a short node. Owner only. The last `suffix_ticks` of it were measured because the entry had been seen,
    // the rest because it had been picked, with `weight` = 1 / probability; weight 0: not picked, and all of it is suffix.
    THAW_DETAIL_INLINE void record(node& n, std::uint64_t ticks, std::uint32_t weight, std::uint64_t suffix_ticks) noexcept {
        if ((load_relaxed(m_held) | m_held_count) != 0) [[unlikely]] record_held({&n, ticks, suffix_ticks, weight});
        else commit_short(n, ticks, weight, suffix_ticks);
    }

    // Starts the sequence of picks; for tests.
    void seed(std::uint64_t value) noexcept { m_picks.seed(value); }

    [[nodiscard]] timing mode() const noexcept { return m_mode; }

    // Books CPU time that was measured in an entry. Owner only.
    void record_cpu(node& n, std::uint64_t ns) noexcept {
        if (n.durations == nullptr) make_durations(n);
        if (n.durations != nullptr) own_add(n.durations->cpu_ns, ns);
    }

    // Books what was put aside, also while a reader is at the tree, which then tries again. Owner only; called when it leaves the
    // tree (end of the thread): there may be no later event to book it at.
    void settle() noexcept {
        if (m_held_count != 0) settle_now();
    }

    // ---- for readers on any thread ----

    // The nodes in the order of their creation, a parent before its children: start at `root` and follow `created_next`.
    [[nodiscard]] static node const* next_created(node const& n) noexcept {
        return load_acquire(n.created_next);  // pairs with the release in append
    }

    // The first node that is not one of the tree's own; null where there is none yet. Its ordinal is own_nodes.
    [[nodiscard]] node const* first_made() const noexcept { return next_created(overflow_again); }
    static constexpr std::uint32_t own_nodes = 4;

    [[nodiscard]] std::uint32_t node_count() const noexcept { return load_acquire(m_node_count); }

    // Asks the owner to put durations aside, until release_hold. One reader at a time (the agent's report lock).
    void hold() noexcept { store_relaxed(m_held, 1u); }
    void release_hold() noexcept { store_relaxed(m_held, 0u); }

    // Reads one node, and writes its buckets to `buckets`, where there must be room for histogram_bucket_count.
    [[nodiscard]] THAW_DETAIL_INLINE node_snapshot read(node const& n, histogram_bucket* buckets) const noexcept {
        node_snapshot s;
        read_once(n, buckets, s);
        if (s.torn) [[unlikely]] read_again(n, buckets, s);
        return s;
    }

    [[nodiscard]] std::uint64_t lost_durations() const noexcept { return load_relaxed(m_lost_durations); }

private:
    THAW_DETAIL_INLINE void read_once(node const& n, histogram_bucket* buckets, node_snapshot& s) const noexcept {
        std::uint32_t const before = load_acquire(n.version);  // pairs with the release that ends commit
        s.sum_ticks = load_acquire(n.sum_ticks);               // acquire: the version is read again after these
        s.max_ticks = load_acquire(n.max_ticks);
        s.timed = load_acquire(n.timed);
        s.weighted = s.timed;
        std::uint64_t const entries = load_acquire(n.count);
        std::uint64_t const prediction = load_acquire(n.prediction);
        s.buckets_end = buckets;
        if (duration_record const* const d = load_acquire(n.durations)) {  // pairs with add_duration
            s.buckets_end = d->histogram.copy(*m_memory, buckets);
            s.weighted += load_acquire(d->more);
            s.variance = load_double(d->variance);
            s.cpu_ns = load_relaxed(d->cpu_ns);
            if (prediction != 0) s.sum_ticks += prediction * (entries - load_acquire(d->predicted_up_to));
        }
        s.torn = (before & 1u) != 0 || before != load_relaxed(n.version);
        s.errors = load_relaxed(n.errors);
        // A sum that is an estimate may come out below zero while there is little of it.
        if (static_cast<std::int64_t>(s.sum_ticks) < 0 && s.variance > 0) [[unlikely]] s.sum_ticks = 0;
        // Read last, so that timed <= count. What goes with the sum was read with it: an allocator's count, and the entries that
        // were predicted.
        s.count = n.entry->kind == site_kind::allocator || prediction != 0 ? entries : load_acquire(n.count);
    }

    // An owner that lost its processor while it booked is waited for, 100 ms at most.
    THAW_DETAIL_COLD void read_again(node const& n, histogram_bucket* buckets, node_snapshot& s) const noexcept {
        timespec const half_a_millisecond{0, 500'000};
        for (int tries = 1; tries <= 1200; ++tries) {
            read_once(n, buckets, s);
            if (!s.torn) break;
            if (tries >= 1000) ::nanosleep(&half_a_millisecond, nullptr);
            else if (tries >= 50) ::sched_yield();
        }
    }

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
        if (&entry == overflow.entry) return &overflow;  // a site for which there was no entry
        // A site can be open above only if it has a node in this tree at all.
        if (entry.kind != site_kind::allocator && seen(entry))
            for (node* up = at; up != nullptr; up = up->parent)
                if (up->entry == &entry) {
                    if (up->target == nullptr) return make_alias(at, entry, up);
                    insert(at, up);  // recursion goes round: this level stands where an earlier one stood
                    return up;
                }
        mark_seen(entry);
        node* const parent = at->resolved();
        if (parent != at)
            if (node* const existing = find(parent, entry)) {
                insert(at, existing);
                return existing;
            }
        node* const made = make_node(parent, entry);
        if (made == nullptr) return &overflow;
        made->timed_at = m_mode != timing::none && entry.kind == site_kind::scope ? 0 : never;
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
        auto* const made = static_cast<key_slot*>(m_memory->allocate(grown * sizeof(key_slot)));
        if (made == nullptr) return false;
        key_slot* const old = m_slots;
        m_slots = made, m_mask = grown - 1, m_keys = 0;
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

    // release: the odd version is visible before any of these; the one at the end pairs with the acquires in read
    THAW_DETAIL_INLINE void commit(node& n, std::uint64_t ticks) noexcept {
        duration_record* const d = n.durations;
        if (d == nullptr || n.timed < timed_first) [[unlikely]] return commit_in_full(n, ticks);
        std::uint64_t mean = d->moving_mean;
        if (n.timed_at == 0 && m_mode == timing::adaptive) {
            mean = moved_mean(mean, ticks);
            if (mean < m_short_below * 16) [[unlikely]] return commit_in_full(n, ticks);
        }
        std::uint32_t* const in_bucket = d->histogram.existing(*m_memory, m_source->length.to_ns_within_500_years(ticks));
        if (in_bucket == nullptr) [[unlikely]] return commit_in_full(n, ticks);
        std::uint32_t const version = load_relaxed(n.version);
        store_relaxed(n.version, version + 1);
        d->moving_mean = mean;
        add_to_total(n, ticks);
        store_release(n.timed, n.timed + 1);
        store_release(*in_bucket, *in_bucket + 1);
        store_release(n.version, version + 2);
    }

    // The same where the histogram has to grow, or the node may become short.
    THAW_DETAIL_NOINLINE void commit_in_full(node& n, std::uint64_t ticks) noexcept {
        std::uint32_t const version = load_relaxed(n.version);
        store_relaxed(n.version, version + 1);
        add_to_total(n, ticks);
        store_release(n.timed, n.timed + 1);
        add_duration(n, ticks, 1);
        if (n.timed_at != never && m_mode == timing::adaptive) adapt(n, ticks, n.timed);  // never: a wait, a handler
        store_release(n.version, version + 2);
    }

    THAW_DETAIL_INLINE static void add_to_total(node& n, std::uint64_t ticks) noexcept {
        std::uint64_t const sum = n.sum_ticks + ticks;
        store_release(n.sum_ticks, sum >= ticks ? sum : UINT64_MAX);
        if (ticks > n.max_ticks) store_release(n.max_ticks, ticks);
    }

    // The estimate of a short node; see the top of this file. Unsigned arithmetic: a negative error of a prediction wraps.
    THAW_DETAIL_NOINLINE void commit_short(node& n, std::uint64_t ticks, std::uint32_t weight, std::uint64_t suffix_ticks) noexcept {
        std::uint32_t const version = load_relaxed(n.version);
        store_relaxed(n.version, version + 1);
        duration_record& d = *n.durations;
        std::uint64_t sum = n.sum_ticks + suffix_ticks + n.prediction * (n.count - d.predicted_up_to);
        store_release(d.predicted_up_to, n.count);
        if (weight > 1) {
            std::uint64_t const error = ticks - suffix_ticks - n.prediction;
            sum += weight * error;
            double const e = static_cast<double>(static_cast<std::int64_t>(error));
            store_double(d.variance, d.variance + static_cast<double>(weight) * (weight - 1.0) * e * e);
        } else if (weight == 1) {
            sum += ticks - suffix_ticks;  // it was entered before the node became short, and is not among the predicted
        }
        store_release(n.sum_ticks, sum);
        if (ticks > n.max_ticks) store_release(n.max_ticks, ticks);
        // An entry with a long suffix would have been noticed without being picked: it stands for itself.
        std::uint32_t const entries = suffix_ticks >= m_outlier ? 1 : weight;
        if (entries != 0) {
            store_release(n.timed, n.timed + 1);
            store_release(d.more, d.more + entries - 1);
            add_duration(n, ticks, entries);
            adapt(n, ticks, n.timed);
        }
        store_release(n.version, version + 2);
    }

    THAW_DETAIL_COLD void make_durations(node& n) noexcept {
        auto* const d = static_cast<duration_record*>(m_memory->allocate(sizeof(duration_record)));
        if (d != nullptr) store_release(n.durations, d);  // pairs with the acquire in read
    }

    // Books into the histogram, which is made here for a node's first duration.
    THAW_DETAIL_NOINLINE void add_duration(node& n, std::uint64_t ticks, std::uint32_t entries) noexcept {
        if (n.durations == nullptr) make_durations(n);
        if (n.durations == nullptr || !n.durations->histogram.add(*m_memory, m_source->to_ns(ticks), entries))
            own_add(m_lost_durations, entries);
    }

    // The moving mean, over about 16 entries, after one of `ticks`, which counts with 2^40 ticks at most.
    [[nodiscard]] THAW_DETAIL_INLINE static std::uint64_t moved_mean(std::uint64_t mean, std::uint64_t ticks) noexcept {
        return mean + static_cast<std::uint64_t>(change_of(mean, ticks) >> 4);
    }
    [[nodiscard]] THAW_DETAIL_INLINE static std::int64_t change_of(std::uint64_t mean, std::uint64_t ticks) noexcept {
        return static_cast<std::int64_t>((ticks < 1ull << 40 ? ticks * 16 : 1ull << 44) - mean);
    }

    // Decides, after a timed entry, whether the node is short, and which entry is timed next. The mean is that of all entries
    // at first, then the moving one.
    void adapt(node& n, std::uint64_t ticks, std::uint64_t timed) noexcept {
        duration_record* const d = n.durations;
        if (d == nullptr) [[unlikely]] return;
        if (timed < timed_first) {
            d->moving_mean += static_cast<std::uint64_t>(change_of(d->moving_mean, ticks) / static_cast<std::int64_t>(timed));
            return;
        }
        d->moving_mean = moved_mean(d->moving_mean, ticks);
        if (n.prediction != 0 || d->moving_mean < m_short_below * 16) adapt_short(n, *d);
    }

    // A node that is short or becomes so. The predictions up to here are in the sum from now on.
    THAW_DETAIL_NOINLINE void adapt_short(node& n, duration_record& d) noexcept {
        if (n.timed_at == never) return;  // a wait, a handler
        store_release(n.sum_ticks, n.sum_ticks + n.prediction * (n.count - d.predicted_up_to));
        store_release(d.predicted_up_to, n.count);
        if (d.moving_mean > m_long_above * 16) {
            store_release(n.prediction, 0u);
            n.timed_at = 0;
            return;
        }
        std::uint64_t const mean = d.moving_mean / 16;
        store_release(n.prediction, mean == 0 ? 1 : mean);
        if (n.timed_at <= n.count) n.timed_at = n.count + m_picks.next_gap();
    }

    static double load_double(double const& from) noexcept {
        double value;
        __atomic_load(&from, &value, __ATOMIC_ACQUIRE);
        return value;
    }
    static void store_double(double& to, double value) noexcept { __atomic_store(&to, &value, __ATOMIC_RELEASE); }

    THAW_DETAIL_COLD void record_held(held_duration const& h) noexcept {
        if (m_held_count == held_capacity || load_relaxed(m_held) == 0) settle_now();
        if (load_relaxed(m_held) == 0) book(h);
        else m_aside[m_held_count++] = h;
    }

    THAW_DETAIL_COLD void settle_now() noexcept {
        for (unsigned i = 0; i < m_held_count; ++i) book(m_aside[i]);
        m_held_count = 0;
    }

    void book(held_duration const& h) noexcept {
        if (h.where->prediction == 0 && h.weight == 1) commit(*h.where, h.ticks);
        else if (h.where->durations != nullptr) commit_short(*h.where, h.ticks, h.weight, h.suffix_ticks);
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
    std::uint64_t m_outlier = 0;
    std::uint64_t m_short_below = 0;
    std::uint64_t m_long_above = 0;
    pick_sequence m_picks;
    std::uint64_t m_lost_durations = 0;
    std::uint64_t m_seen[seen_words] = {};  // which sites have a node here, by id modulo 4096: a filter, never wrong on "no"
    held_duration m_aside[held_capacity] = {};
};

}

#endif
