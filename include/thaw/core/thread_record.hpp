// thaw floor 5 core: what a thread has: its call tree, where it stands in it, and what it works for.
//
// A marker finds its thread's record through one thread-local pointer, constant-initialised and of the initial-exec model:
// reading it is one instruction and never allocates. A thread without a record points at `detached_thread`, where `current`
// is null, so that the one test for null decides "not started", "paused" and "first marker of this thread" at once.
//
// Records are never unmapped. When a thread ends, its record, tree included, waits for the next thread that needs one and goes
// on growing from there: 10,000 short threads take as much memory as the most that ran at once.
//
// The owner writes; other threads read what they need through call_tree's reading side and relaxed loads.
#ifndef THAW_CORE_THREAD_RECORD_HPP
#define THAW_CORE_THREAD_RECORD_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/call_tree.hpp>
#include <thaw/core/config.hpp>
#include <thaw/core/invocation_state.hpp>
#include <thaw/core/process.hpp>
#include <thaw/core/site.hpp>

#include <climits>
#include <cstddef>
#include <cstdint>
#include <new>

#include <pthread.h>

namespace thaw::core {

// The counters of one allocator site on one thread: where its allocations go while the thread stands at `at`, and its frees.
struct allocator_slot {
    node* at = nullptr;
    node* where = nullptr;
    std::uint64_t frees = 0;
    std::uint64_t freed_bytes = 0;
};

// What the invocations that ended on a thread add up to.
struct invocation_sums {
    std::uint64_t completed = 0;
    std::uint64_t failed = 0;
    std::uint64_t wall_ticks = 0;
    std::uint64_t wait_ticks = 0;
    std::uint64_t cpu_ns = 0;
    std::uint64_t allocated_bytes = 0;
};

// The breakdown of the slowest invocation that ended on a thread since the last report.
struct exemplar_record {
    static constexpr std::uint32_t part_count = 256;  // the first nodes of the tree; what is made later is not broken down

    struct figures {
        std::uint64_t count = 0;
        std::uint64_t sum_ticks = 0;
    };

    std::uint32_t in_use = 0;       // 1: the owner writes or a collector reads what follows; neither waits for the other
    std::uint32_t nodes = 0;        // parts that are filled; 0: no breakdown
    std::uint64_t sequence = 0;     // of the report it is meant for
    std::uint64_t wall_ticks = 0;
    std::uint64_t ended_unix_ns = 0;
    bool truncated = false;         // the tree has more nodes than parts
    invocation_state summary;       // a copy of its state
    figures parts[part_count];      // by the nodes' ordinals
    figures baseline[part_count];   // the tree when the last invocation ended; owner only
};

struct alignas(64) thread_record {
    node* current = nullptr;                // where the thread stands; null: it does not record now
    process_root* process = nullptr;
    invocation_state* invocation = nullptr; // what it works for; null: for none
    std::uint64_t gaps = 0;                 // of the active clock, while it works for an invocation
    allocator_slot* slots = nullptr;        // allocator_slot_count of them; null until the first counted allocation
    node* open_wait = nullptr;              // the outermost wait that is open
    std::uint64_t allocated_bytes = 0;      // by counting allocators on this thread
    std::uint64_t mismatched = 0;           // scopes that ended out of order or elsewhere
    call_tree tree;

    invocation_sums sums;
    exemplar_record* exemplar = nullptr;    // made for threads that run handlers
    invocation_state* spare = nullptr;      // for the next invocation on this thread
    std::uint32_t in_use = 0;               // 1: a thread owns the record; taken with acquire, given up with release
    std::uint32_t end_rounds = 0;           // how often the key's destructor has run for the thread that ends
    thread_record* next = nullptr;

    // V now. Inside an invocation the gaps cannot change, and the counter alone is read.
    THAW_DETAIL_INLINE std::uint64_t active_now() const noexcept {
        if (invocation != nullptr) [[likely]] return process->source.ticks() - gaps;
        return process->clock.now(process->source);
    }

    // Where markers go that are not below a handler.
    [[nodiscard]] node* outside() noexcept { return &tree.background; }
};

struct thread_slot {
    thread_record* record;
    bool ended;  // the thread's record was handed over; it gets no other
};

[[gnu::visibility("hidden")]] inline constinit thread_record detached_thread{};

[[gnu::visibility("hidden"), gnu::tls_model("initial-exec")]] inline constinit thread_local thread_slot this_thread{&detached_thread,
                                                                                                               false};
static_assert(sizeof(thread_slot) <= 64, "a dlopen'd module draws on a small reserve of static thread-local storage");

// The key's destructor: hands the record over in the last round of destructors but one, because those of other keys, and of
// thread_local objects, may still enter scopes and allocate; the last round belongs to sanitizers, which take the thread down
// there.
inline void thread_ended(void* value) noexcept {
    auto* const r = static_cast<thread_record*>(value);
    if (++r->end_rounds < PTHREAD_DESTRUCTOR_ITERATIONS - 1 && ::pthread_setspecific(r->process->key, r) == 0) return;
    r->tree.settle();
    r->current = nullptr;
    r->invocation = nullptr;
    r->open_wait = nullptr;
    this_thread = {&detached_thread, true};
    store_release(r->in_use, 0u);  // pairs with the acquire in take_record
}

// A record that no thread owns, or a new one; null where the arena is used up.
inline thread_record* take_record(process_root& p) noexcept {
    for (thread_record* r = load_acquire(p.records); r != nullptr; r = r->next) {
        std::uint32_t unused = 0;
        // acquire: pairs with the release in thread_ended; the tree is this thread's now
        if (load_relaxed(r->in_use) == 0 && compare_exchange(r->in_use, unused, 1u)) return r;
    }
    void* const memory = p.memory.allocate(sizeof(thread_record));
    if (memory == nullptr) return nullptr;
    auto* const r = ::new (memory) thread_record;
    r->process = &p;
    r->in_use = 1;
    r->tree.start(p.memory, p.source, p.mode, p.process_entry, p.background_entry, p.overflow_entry);
    r->next = load_acquire(p.records);
    while (!compare_exchange(p.records, r->next, r)) {}  // pairs with the acquire of who walks the list
    return r;
}

// Gives the calling thread its record. Null: thaw is not active, the thread is ending, or there is no memory (counted).
THAW_DETAIL_COLD inline thread_record* attach_thread() noexcept {
    process_root* const p = find_process();
    if (p == nullptr || this_thread.ended) return nullptr;
    auto* r = static_cast<thread_record*>(::pthread_getspecific(p->key));
    if (r == nullptr) {
        if (load_relaxed(p->stopped) != 0) return nullptr;
        r = take_record(*p);
        if (r == nullptr) {
            shared_add(p->lost.threads, 1u);
            this_thread.ended = true;  // and is not asked again at every marker
            return nullptr;
        }
        r->end_rounds = 0;
        r->current = r->outside();
        if (::pthread_setspecific(p->key, r) != 0) {
            r->current = nullptr;
            store_release(r->in_use, 0u);
            return nullptr;
        }
    }
    this_thread.record = r;
    return r;
}

// The calling thread's record where it may record now; null otherwise. Cheap while thaw has not been started.
THAW_DETAIL_INLINE thread_record* recording_thread() noexcept {
    thread_record* const r = this_thread.record;
    if (r->current != nullptr) [[likely]] return r;
    if (r != &detached_thread) return nullptr;  // paused
    if (load_relaxed(this_module.process) == nullptr && load_relaxed(this_module.looked) != 0) return nullptr;
    thread_record* const attached = attach_thread();
    return attached != nullptr && attached->current != nullptr ? attached : nullptr;
}

// ---- entering and leaving a node that is timed ----

// The ticks from `since` to `now`; 0 where the counters of two processors disagree by a hair.
[[nodiscard]] constexpr std::uint64_t elapsed_ticks(std::uint64_t since, std::uint64_t now) noexcept {
    return static_cast<std::int64_t>(now - since) > 0 ? now - since : 0;
}

// Opens a node: the thread stands there from now on.
THAW_DETAIL_INLINE void open_node(thread_record& r, node& n, std::uint64_t now, std::uint32_t weight) noexcept {
    n.weight = weight;
    store_relaxed(n.open_since, now);
    store_relaxed(r.current, &n);
    signal_fence();
}

// Closes a node that is open, goes back to where the thread stood before, and books the duration, which is returned in ticks.
THAW_DETAIL_INLINE std::uint64_t close_node(thread_record& r, node& n, node* before, std::uint64_t now) noexcept {
    std::uint64_t const ticks = elapsed_ticks(n.open_since, now);
    signal_fence();
    store_relaxed(n.open_since, 0u);
    store_relaxed(r.current, before);
    r.tree.record(n, ticks, n.weight);
    return ticks;
}

// Leaves what lies below `n` on the way to where the thread stands, because a longjmp has: not booked, but counted. False
// where `n` is not on that way.
THAW_DETAIL_COLD inline bool abandon_below(thread_record& r, node const* n) noexcept {
    node* up = r.current;
    while (up != nullptr && up != n) up = up->parent;
    if (up == nullptr) return false;
    for (node* left = r.current; left != n; left = left->parent) {
        own_add(r.mismatched, 1u);
        store_relaxed(left->open_since, 0u);
    }
    store_relaxed(r.current, up);
    return true;
}

// Whether the thread stands in `n`, after leaving what a longjmp has left open below it.
THAW_DETAIL_INLINE bool stands_in(thread_record& r, node const* n) noexcept {
    return r.current == n || (r.current != nullptr && abandon_below(r, n));
}

// Keeps what the calling thread does out of the profile: thaw's own work, the reporter's included.
class recording_pause {
public:
    explicit recording_pause(thread_record& r) noexcept : m_record(r), m_current(r.current) {
        store_relaxed(r.current, static_cast<node*>(nullptr));
        signal_fence();
    }
    ~recording_pause() {
        signal_fence();
        store_relaxed(m_record.current, m_current);
    }
    recording_pause(recording_pause const&) = delete;
    recording_pause& operator=(recording_pause const&) = delete;

private:
    thread_record& m_record;
    node* m_current;
};

}

#endif
