// thaw floor 8 core: what markers do off their hot path: first entries, timed entries, what a tick has interrupted, waits, and
// names that are known at run time only. Called through the table of core/thread_head.hpp, by any module, with the calling
// module's slot of the calling thread; the module that starts thaw provides the functions.
//
// Thread-safe. Not for signal handlers. Never throws, allocates from the host or changes errno.
#ifndef THAW_CORE_MARKING_HPP
#define THAW_CORE_MARKING_HPP

#include <thaw/core/thread_record.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::core::marks {

// An entry of a node that is timed, or may be: where the thread stands then.
THAW_DETAIL_NOINLINE inline node* enter_timed_or_alias(thread_record& r, node* at, node* n, site const& s) noexcept {
    if (n->target != nullptr) {
        if (n->target->open_since != 0) return store_release(r.current, n), n;
        n = n->target;  // what the alias stands for is not open: this entry opens it
    } else if (n->open_since != 0) [[unlikely]] {
        node* const alias = r.tree.alias_of(at, n);
        if (alias->entry == n->entry && alias != &r.tree.overflow_again) {
            alias->marker = &s;
            r.cache_slot(at, s) = {at, alias};
        }
        return store_release(r.current, alias), alias;
    }
    std::uint32_t const weight = n->prediction == 0 ? 1 : short_weight;
    if (weight != 1) n->durations->stamp = 0;
    std::uint64_t const now = r.active_now();
    seen_at(r, now);
    open_node(r, *n, now, weight);
    return n;
}

// An entry to the node of `s` below where the thread stands, which is left in entered_from. Null where thaw does not record.
// Rejected: returning both in a struct of two registers, which g++ 12 moves through memory, 4 ns.
inline node* enter(thread_slot& me, site& s) noexcept {
    thread_record* const r = recording_thread(me);
    if (r == nullptr) return nullptr;
    if (*r->tick_word != r->tick_seen) [[unlikely]] notice_tick(*r);
    node* const at = r->entered_from = r->current;
    node* const n = r->child(at, s);
    own_add(n->count, 1u);
    if (n->count >= n->timed_at) [[likely]] return enter_timed_or_alias(*r, at, n, s);
    store_release(r->current, n);
    return n;
}

// The same for a node that the marker has found in the cache, no tick having passed. The usual case first: a long node, or any
// where all are timed, below one whose age is known.
inline node* enter_timed(thread_slot& me, node* n) noexcept {
    thread_record& r = *me.record->whole;
    node* const at = r.current;
    std::uint64_t const unusual = n->open_since | n->prediction | reinterpret_cast<std::uintptr_t>(n->target);
    store_relaxed(n->count, n->count + 1);
    if (unusual != 0 || !r.in_plain_time() || ((at->open_since == 0 || at->weight > 1) && r.tree.mode() == timing::adaptive)) [[unlikely]]
        return enter_timed_or_alias(r, at, n, *n->marker);
    open_node(r, *n, read_counter() - r.gaps, 1);
    return n;
}

// The way out of a scope that is short, or not where the thread stands.
THAW_DETAIL_NOINLINE inline void leave_short(thread_record& r, node* n, node* before) noexcept {
    if (!stands_in(r, n) && !abandon_to(r, n)) return own_add(r.mismatched, 1u);
    std::uint64_t const now = r.active_now();
    if (n->open_since != 0 && n->weight == 1) {
        close_node(r, *n, before, now);
        return;
    }
    // What the entry took after it was first seen is measured whether it was picked or not.
    std::uint64_t const since = n->open_since;
    std::uint32_t const weight = since == 0 ? 0 : n->weight;
    std::uint64_t const stamp = weight == 0 ? since : n->durations->stamp;
    std::uint64_t suffix = ticked_at_least(r, r.tick_word, r.longest_tick, now);
    if (std::uint64_t const stamped = stamp == 0 ? 0 : elapsed_ticks(stamp, now); stamped > suffix) suffix = stamped;
    store_relaxed(n->open_since, 0u);
    store_release(r.current, before);
    if (n->prediction != 0 && (weight != 0 || suffix != 0))
        r.tree.record(*n, weight == 0 ? suffix : elapsed_ticks(since, now), weight, suffix);
    if (*r.tick_word != r.tick_seen) notice_tick(r);
}

THAW_DETAIL_NOINLINE inline void leave_in_full(thread_slot& me, node* n, node* before) noexcept {
    thread_record* const r = own_thread(me);
    if (r == nullptr) return;
    if (r->current != n || n->open_since == 0 || n->weight != 1) [[unlikely]] return leave_short(*r, n, before);
    close_node(*r, *n, before, r->active_now());
}

// The way out of a scope that has a time, or during which a tick has passed, or that is not where the thread stands.
inline void leave(thread_slot& me, node* n, node* before) noexcept {
    thread_record* const r = me.record->whole;
    if (r == nullptr || r->current != n || n->open_since == 0 || n->weight != 1 || !r->in_plain_time()) [[unlikely]]
        return leave_in_full(me, n, before);
    close_node(*r, *n, before, read_counter() - r->gaps);
}

// The node of the wait; where the thread stood is left in entered_from. Null, with nothing begun, where the thread does not
// record or is in a wait already.
inline node* begin_wait(thread_slot& me, site& s) noexcept {
    thread_record* const r = recording_thread(me);
    if (r == nullptr || r->open_wait != nullptr) return nullptr;
    node* const at = r->current;
    node* const n = r->child(at, s);
    own_add(n->count, 1u);
    if (n->resolved() != n || n->open_since != 0) return nullptr;  // the overflow node, entered again: counted, not timed
    r->entered_from = at;
    r->open_wait = n;
    std::uint64_t const now = r->active_now();
    seen_at(*r, now);
    open_node(*r, *n, now, 1);
    return n;
}

// Ends and books the wait that begin_wait has returned.
inline void end_wait(thread_slot& me, node* n, node* before) noexcept {
    thread_record* const r = own_thread(me);
    if (r == nullptr) return;
    std::uint64_t const now = r->current != nullptr ? r->active_now() : 0;
    if (r->open_wait != n || !stands_in(*r, n)) return own_add(r->mismatched, 1u);
    r->open_wait = nullptr;
    std::uint64_t const ticks = close_node(*r, *n, before, now);
    if (r->invocation != nullptr) shared_add(r->invocation->wait_ticks, ticks);
}

// The site of a name of `size` bytes; null where thaw does not record.
inline site* named_site(thread_slot& me, site const& like, std::size_t size) noexcept {
    thread_record* const r = recording_thread(me);
    return r == nullptr ? nullptr : &r->process->dynamic_site(like.name, size, like.kind, like.function, like.file, like.line);
}

// CPU time of the calling thread.
inline std::uint64_t cpu_ns() noexcept { return read_clock_ns(CLOCK_THREAD_CPUTIME_ID); }

// Books the CPU time since `since_ns` at the node where the thread stands; nothing where that is not `n`.
inline void add_cpu(thread_slot& me, node* n, std::uint64_t since_ns) noexcept {
    thread_record* const r = me.record->whole;
    if (r == nullptr || r->current != n || n->target != nullptr) return;  // of a recursion the outermost entry is measured
    r->tree.record_cpu(*n, cpu_ns() - since_ns);
}

// The slot of a site on a thread that records; null where there is no memory for it.
inline allocator_slot* slot_of(thread_record& r, allocator_site& s) noexcept {
    if (r.allocator_slots == nullptr) {
        auto* const made = static_cast<allocator_slot*>(r.process->memory.allocate(allocator_slot_count * sizeof(allocator_slot)));
        if (made == nullptr) return nullptr;
        store_release(r.allocator_slots, made);  // pairs with the acquire in collect
    }
    site_entry& entry = r.process->entry_of(s);
    move_early_counts(s, entry);
    store_relaxed(s.slot, entry.slot);
    return &r.allocator_slots[entry.slot];
}

// Counts an allocation; false where the thread does not record or there is no memory for it.
inline bool allocation(thread_slot& me, allocator_site& s, std::size_t bytes) noexcept {
    thread_record* const r = recording_thread(me);
    allocator_slot* const slot = r == nullptr ? nullptr : slot_of(*r, s);
    if (slot == nullptr) return false;
    node* const where = r->tree.child(r->current, *load_acquire(s.entry));
    if (where->entry->kind != site_kind::allocator) return false;  // no node could be made
    slot->at = r->current;
    slot->where = where;
    own_add(r->allocated_bytes, bytes);
    record_allocation(*where, bytes);
    return true;
}

// The same for a free.
inline bool free(thread_slot& me, allocator_site& s, std::size_t bytes) noexcept {
    thread_record* const r = recording_thread(me);
    allocator_slot* const slot = r == nullptr ? nullptr : slot_of(*r, s);
    if (slot == nullptr) return false;
    record_free(*slot, bytes);
    return true;
}

[[gnu::visibility("hidden")]] inline constexpr marking_functions functions{enter, enter_timed, leave, begin_wait, end_wait, named_site, cpu_ns, add_cpu, allocation,
                                                                          free};

}

#endif
