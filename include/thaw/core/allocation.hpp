// thaw floor 5 core: what counting allocators write: for each site and thread a slot, for each site and scope a node, and the
// counters of a site for threads that have no record.
//
// The owner of a slot or node writes; a collector reads. Nothing here allocates.
#ifndef THAW_CORE_ALLOCATION_HPP
#define THAW_CORE_ALLOCATION_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/site.hpp>
#include <thaw/core/thread_head.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::core {

inline constexpr std::uint32_t allocator_slot_count = 512;  // allocator sites per process; further ones share slot 1

// The counters of one allocator site on one thread: where its allocations go while the thread stands at `at`, and its frees.
struct allocator_slot {
    node* at = nullptr;
    node* where = nullptr;
    std::uint64_t frees = 0;
    std::uint64_t freed_bytes = 0;
};

// Books an allocation of `bytes` at an allocator's node. Owner only.
THAW_DETAIL_INLINE void record_allocation(node& n, std::uint64_t bytes) noexcept {
    // release: the odd version is visible before any of these; the one at the end pairs with the acquires in call_tree::read
    std::uint32_t const version = load_relaxed(n.version);
    store_relaxed(n.version, version + 1);
    store_release(n.sum_ticks, n.sum_ticks + bytes);
    store_release(n.count, n.count + 1);
    store_release(n.version, version + 2);
}

// Books a free. Owner only. release: a reader that sees this free (acquire, in collect) sees the allocation before it
THAW_DETAIL_INLINE void record_free(allocator_slot& slot, std::uint64_t bytes) noexcept {
    own_add_release(slot.freed_bytes, bytes);
    own_add_release(slot.frees, 1u);
}

// What a site counted before it had an entry is the entry's from now on.
inline void move_early_counts(allocator_site& s, site_entry& to) noexcept {
    shared_add(to.early.allocations, __atomic_exchange_n(&s.early.allocations, 0u, __ATOMIC_RELAXED));
    shared_add(to.early.allocated_bytes, __atomic_exchange_n(&s.early.allocated_bytes, 0u, __ATOMIC_RELAXED));
    shared_add(to.early.frees, __atomic_exchange_n(&s.early.frees, 0u, __ATOMIC_RELAXED));
    shared_add(to.early.freed_bytes, __atomic_exchange_n(&s.early.freed_bytes, 0u, __ATOMIC_RELAXED));
}

// Counts on a thread that does not record; nothing where thaw is disabled.
THAW_DETAIL_COLD inline void count_early(allocator_site& s, std::size_t bytes, bool is_free) noexcept {
    if (load_relaxed(this_module.idle) == 2) return;
    site_entry* const entry = load_acquire(s.entry);  // pairs with register_site
    early_counts& to = entry != nullptr ? entry->early : s.early;
    shared_add(is_free ? to.freed_bytes : to.allocated_bytes, bytes);
    shared_add(is_free ? to.frees : to.allocations, 1u);
    if (entry == nullptr)
        if (site_entry* const made = load_acquire(s.entry)) move_early_counts(s, *made);
}

}

#endif
