// thaw floor 7 core: what a thread has: its call tree, where it stands in it, and what it works for.
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
    figures parts[part_count];      // by the nodes' order of creation, from call_tree::first_made on
    figures baseline[part_count];   // the tree when the last invocation ended; owner only
};

// A child that was found before: `child` is where an entry from `at` leads.
struct cached_child {
    node* at = nullptr;
    node* child = nullptr;
};
inline constexpr std::size_t child_cache_size = 512;

// The longest that the kernel may let pass between two ticks while a thread runs: HZ is at least 100.
inline constexpr std::uint64_t longest_tick_ns = 10'000'000;

// A word that no thread has ever seen.
[[gnu::visibility("hidden")]] inline constexpr std::uint64_t always = UINT64_MAX;

struct alignas(64) thread_record {
    node* current = nullptr;                // where the thread stands; null: it does not record now
    // Where a marker looks whether there is anything special to do: the tick word, or, while the thread does not record, a word
    // that always differs from what was seen.
    std::uint64_t const volatile* tick_word = &always;
    std::uint64_t tick_seen = 0;            // the tick word when the thread last looked and it had changed
    std::uint64_t seen = 0;                 // V then
    process_root* process = nullptr;
    invocation_state* invocation = nullptr; // what it works for; null: for none
    std::uint64_t gaps = 0;                 // of the active clock, while it works for an invocation
    allocator_slot* allocator_slots = nullptr;  // allocator_slot_count of them; null until the first counted allocation
    node* open_wait = nullptr;              // the outermost wait that is open
    void const* guard = nullptr;            // of the invocation it works for, where that has one
    std::uint64_t allocated_bytes = 0;      // by counting allocators on this thread
    std::uint64_t mismatched = 0;           // scopes that ended out of order or elsewhere
    node* entered_from = nullptr;           // where the thread stood before its last entry that took the slow path
    node* paused_at = nullptr;              // where the thread stood when it stopped recording for a while
    std::uint64_t longest_tick = 0;         // longest_tick_ns in ticks
    call_tree tree;
    cached_child children[child_cache_size];

    node* handler = nullptr;                // of the last invocation
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

    // The place of a child in the cache. The site's address spreads the children of one node, the node's salt the nodes. Sites
    // are aligned to 8 and places take 16, so that twice the address is a number of bytes to a place, and no shift is needed.
    THAW_DETAIL_INLINE cached_child& cache_slot(node const* at, site const& s) noexcept {
        static_assert(alignof(site) == 8 && sizeof(cached_child) == 16);
        std::uintptr_t const bytes = (at->salt + 2 * reinterpret_cast<std::uintptr_t>(&s)) & (child_cache_size - 1) * sizeof(cached_child);
        return *reinterpret_cast<cached_child*>(reinterpret_cast<unsigned char*>(children) + bytes);
    }

    // The child that an entry of `s` leads to, by way of the cache.
    THAW_DETAIL_NOINLINE node* find_child(node* at, site& s) noexcept {
        node* const n = tree.child(at, process->entry_of(s));
        cache_slot(at, s) = {at, n};
        return n;
    }
    THAW_DETAIL_INLINE node* child(node* at, site& s) noexcept {
        cached_child const& slot = cache_slot(at, s);
        // relaxed: nothing is read through the site's entry. A site at the address of one whose module is gone has another.
        site_entry const* const entry = load_relaxed(s.entry);
        if (slot.at != at) [[unlikely]] return find_child(at, s);
        node* const n = slot.child;
        if (n->entry != entry) [[unlikely]] return find_child(at, s);
        return n;
    }

    // The calling thread owns the record from now on, and records.
    void begin() noexcept {
        end_rounds = 0;
        tick_word = process->tick_word;
        store_relaxed(tick_seen, *tick_word);
        longest_tick = process->source.length.to_ticks(longest_tick_ns);
        store_relaxed(seen, active_now());
        store_relaxed(current, outside());
    }

    // The owner records no more.
    void end() noexcept {
        tree.settle();
        store_relaxed(current, static_cast<node*>(nullptr));
        tick_word = &always;
        invocation = nullptr;
        open_wait = nullptr;
    }

    // Where markers go that are not below a handler.
    [[nodiscard]] node* outside() noexcept { return &tree.background; }
};

struct thread_slot {
    thread_record* record;
    bool ended;  // the thread's record was handed over; it gets no other
};

[[gnu::visibility("hidden")]] inline constinit thread_record detached_thread{};

// Code that can only become part of an executable addresses it directly; other code through the module's offset table, which
// is one instruction more. General-dynamic, the default of shared objects, is a call and may allocate.
#if defined(__PIC__) && !defined(__PIE__)
#define THAW_DETAIL_TLS_MODEL "initial-exec"
#else
#define THAW_DETAIL_TLS_MODEL "local-exec"
#endif
[[gnu::visibility("hidden"), gnu::tls_model(THAW_DETAIL_TLS_MODEL)]] inline constinit thread_local thread_slot this_thread{
    &detached_thread, false};
static_assert(sizeof(thread_slot) <= 64, "a dlopen'd module draws on a small reserve of static thread-local storage");

// The key's destructor: hands the record over in the last round of destructors but one, because those of other keys, and of
// thread_local objects, may still enter scopes and allocate; the last round belongs to sanitizers, which take the thread down
// there.
THAW_DETAIL_NOINLINE inline void thread_ended(void* value) noexcept {
    auto* const r = static_cast<thread_record*>(value);
    if (++r->end_rounds < PTHREAD_DESTRUCTOR_ITERATIONS - 1 && ::pthread_setspecific(r->process->key, r) == 0) return;
    r->end();
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
        r->begin();
        if (::pthread_setspecific(p->key, r) != 0) {
            r->end();
            store_release(r->in_use, 0u);
            return nullptr;
        }
    }
    this_thread.record = r;
    return r;
}

// Null where the thread is paused, or cannot be given a record.
THAW_DETAIL_COLD inline thread_record* first_marker() noexcept {
    if (this_thread.record != &detached_thread) return nullptr;
    thread_record* const attached = attach_thread();
    return attached != nullptr && attached->current != nullptr ? attached : nullptr;
}

// The calling thread's record where it may record now; null otherwise. Cheap while thaw has not been started.
THAW_DETAIL_INLINE thread_record* recording_thread() noexcept {
    thread_record* const r = this_thread.record;
    if (r->current != nullptr) [[likely]] return r;
    return load_relaxed(this_module.idle) != 0 ? nullptr : first_marker();
}

// The calling thread's record, also where this module has not met the thread yet: what is left or ended need not have been
// begun by this module. The detached one where there is none.
THAW_DETAIL_INLINE thread_record& own_thread() noexcept {
    thread_record* const r = this_thread.record;
    if (r != &detached_thread) [[likely]] return *r;
    thread_record* const attached = attach_thread();
    return attached != nullptr ? *attached : *r;
}

// ---- entering and leaving a node that is timed ----

// The ticks from `since` to `now`; 0 where the counters of two processors disagree by a hair.
[[nodiscard]] constexpr std::uint64_t elapsed_ticks(std::uint64_t since, std::uint64_t now) noexcept {
    return static_cast<std::int64_t>(now - since) > 0 ? now - since : 0;
}

// Stamps the scopes that are open at `n` and above, and have no time yet, with `now`: they have lasted at least since then.
// Where one has a stamp, all above it have.
inline void stamp_open(node* n, std::uint64_t now) noexcept {
    for (; n != nullptr; n = n->parent) {
        if (n->target != nullptr) continue;
        if (n->entry->kind != site_kind::scope) return;
        if (n->open_since == 0) {
            n->weight = 0;
            store_relaxed(n->open_since, now);
        } else if (n->weight > 1 && n->durations != nullptr && n->durations->stamp == 0) {
            n->durations->stamp = now;
        } else {
            return;
        }
    }
}

// Before a timed event at `now`, which begins below where the thread stands.
THAW_DETAIL_INLINE void seen_at(thread_record& r, std::uint64_t now) noexcept {
    node* const at = r.current;
    if ((at->open_since == 0 || at->weight > 1) && r.tree.mode() == timing::adaptive) [[unlikely]] stamp_open(at, now);
}

// A tick has passed since the thread last looked, and it is not inside an entry that is ending.
THAW_DETAIL_NOINLINE inline void notice_tick(thread_record& r) noexcept {
    std::uint64_t const now = r.active_now();
    store_relaxed(r.tick_seen, *r.tick_word);
    store_relaxed(r.seen, now);
    stamp_open(r.current, now);
}

// How long an entry that is open at `now` has lasted at least, if the tick word says that a tick has passed since it began: it
// began after the thread last looked, and before the tick that came next. For any thread; `word` is the process's tick word.
[[nodiscard]] inline std::uint64_t ticked_at_least(thread_record const& r, std::uint64_t const volatile* word, std::uint64_t longest_tick,
                                                   std::uint64_t now) noexcept {
    if (*word == load_relaxed(r.tick_seen)) return 0;
    return elapsed_ticks(load_relaxed(r.seen) + longest_tick, now);
}

// Opens a node: the thread stands there from now on.
THAW_DETAIL_INLINE void open_node(thread_record& r, node& n, std::uint64_t now, std::uint32_t weight) noexcept {
    n.weight = weight;
    store_relaxed(n.open_since, now);
    store_relaxed(r.current, &n);
    signal_fence();
}

// Closes a node that is open and was timed from its beginning, goes back to where the thread stood before, and books the duration, which is returned in ticks.
THAW_DETAIL_INLINE std::uint64_t close_node(thread_record& r, node& n, node* before, std::uint64_t now) noexcept {
    std::uint64_t const ticks = elapsed_ticks(n.open_since, now);
    signal_fence();
    store_relaxed(n.open_since, 0u);
    store_relaxed(r.current, before);
    r.tree.record(n, ticks);
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
        if (left == r.open_wait) r.open_wait = nullptr;
    }
    store_relaxed(r.current, up);
    return true;
}

// Whether the thread stands in `n`, after leaving what a longjmp has left open below it.
THAW_DETAIL_INLINE bool stands_in(thread_record& r, node const* n) noexcept {
    return r.current == n || (r.current != nullptr && abandon_below(r, n));
}

// The same where `n` is open and of this tree, but not on that way, because a recursion was folded.
THAW_DETAIL_COLD inline bool abandon_to(thread_record& r, node const* n) noexcept {
    auto const is_above = [n](node const* at) {
        for (node const* up = n; up != nullptr; up = up->parent)
            if (up == at) return true;
        return false;
    };
    if (r.current == nullptr || n->open_since == 0 || !is_above(&r.tree.root)) return false;
    for (node* left = r.current; !is_above(left); left = left->parent) {
        own_add(r.mismatched, 1u);
        store_relaxed(left->open_since, 0u);
        if (left == r.open_wait) r.open_wait = nullptr;
    }
    return true;
}

// Keeps what the calling thread does out of the profile: thaw's own work, the reporter's included.
class recording_pause {
public:
    explicit recording_pause(thread_record& r) noexcept : m_record(r), m_current(r.current), m_tick_word(r.tick_word) {
        store_relaxed(r.paused_at, m_current);
        r.tick_word = &always;
        store_relaxed(r.current, static_cast<node*>(nullptr));
        signal_fence();
    }
    ~recording_pause() {
        signal_fence();
        m_record.tick_word = m_tick_word;
        store_relaxed(m_record.current, m_current);
        store_relaxed(m_record.paused_at, static_cast<node*>(nullptr));
    }
    recording_pause(recording_pause const&) = delete;
    recording_pause& operator=(recording_pause const&) = delete;

private:
    thread_record& m_record;
    node* m_current;
    std::uint64_t const volatile* m_tick_word;
};

}

#endif
