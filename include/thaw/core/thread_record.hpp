// thaw floor 7 core: what a thread has: its call tree, where it stands in it, and what it works for.
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

// The longest that the kernel may let pass between two ticks while a thread runs: HZ is at least 100.
inline constexpr std::uint64_t longest_tick_ns = 10'000'000;

struct alignas(64) thread_record : recording_head {
    std::uint64_t seen = 0;                 // V when the thread last looked at the tick word and it had changed
    process_root* process = nullptr;
    invocation_state* invocation = nullptr; // what it works for; null: for none
    std::uint64_t gaps = 0;                 // of the active clock, while it works for an invocation
    bool reads_counter = false;             // the process's clock is the counter
    node* open_wait = nullptr;              // the outermost wait that is open
    void const* guard = nullptr;            // of the invocation it works for, where that has one
    std::uint64_t mismatched = 0;           // scopes that ended out of order or elsewhere
    node* paused_at = nullptr;              // where the thread stood when it stopped recording for a while
    std::uint64_t longest_tick = 0;         // longest_tick_ns in ticks
    call_tree tree;

    node* handler = nullptr;                // of the last invocation
    invocation_sums sums;
    exemplar_record* exemplar = nullptr;    // made for threads that run handlers
    std::uint32_t sampling_round = 0;       // the process's, when the thread last saw it
    void* sampler = nullptr;                // what the CPU sampler keeps of the thread; published with release
    invocation_state* own_invocation = nullptr;  // the state of the invocations that begin and end on this thread
    std::uint32_t in_use = 0;               // 1: a thread owns the record; taken with acquire, given up with release
    std::uint32_t end_rounds = 0;           // how often the key's destructor has run for the thread that ends
    thread_record* next = nullptr;

    // V now. Inside an invocation the gaps cannot change, and the counter alone is read.
    THAW_DETAIL_INLINE std::uint64_t active_now() const noexcept {
        if (invocation != nullptr) [[likely]] return process->source.ticks() - gaps;
        return process->clock.now(process->source);
    }

    // Whether V is the counter less the gaps right now.
    [[nodiscard]] THAW_DETAIL_INLINE bool in_plain_time() const noexcept { return (invocation != nullptr) & reads_counter; }

    // The child that an entry of `s` leads to, by way of the cache.
    THAW_DETAIL_NOINLINE node* find_child(node* at, site& s) noexcept {
        node* const n = tree.child(at, process->entry_of(s));
        if (n->entry == load_relaxed(s.entry) && n != &tree.overflow && n != &tree.overflow_again) {
            n->marker = &s;
            cache_slot(at, s) = {at, n};
        }
        return n;
    }
    THAW_DETAIL_INLINE node* child(node* at, site& s) noexcept {
        cached_child const& slot = cache_slot(at, s);
        if (slot.at != at || slot.child->marker != &s) [[unlikely]] return find_child(at, s);
        return slot.child;
    }

    // Forgets what was found before. A module that is loaded where another was unloaded may have a site at the address of one
    // of that; its threads come through here before its first marker counts.
    void forget_children() noexcept {
        for (cached_child& c : children) c = {nullptr, &tree.root};
    }

    // The calling thread owns the record from now on, and records.
    void begin() noexcept {
        end_rounds = 0;
        sampling_round = 0;
        forget_children();
        reads_counter = process->source.read == nullptr;
        tick_word = process->tick_word;
        store_relaxed(tick_seen, *tick_word);
        longest_tick = process->source.length.to_ticks(longest_tick_ns);
        store_relaxed(seen, active_now());
        store_release(current, outside());
    }

    // The owner records no more.
    void end() noexcept {
        tree.settle();
        store_release(current, static_cast<node*>(nullptr));
        tick_word = &always;
        store_relaxed(invocation, static_cast<invocation_state*>(nullptr));
        open_wait = nullptr;
    }

    // Where markers go that are not below a handler.
    [[nodiscard]] node* outside() noexcept { return &tree.background; }
};

// The key's destructor: hands the record over in the last round of destructors but one, because those of other keys, and of
// thread_local objects, may still enter scopes and allocate; the last round belongs to sanitizers, which take the thread down
// there.
THAW_DETAIL_NOINLINE inline void thread_ended(void* value) noexcept {
    auto* const r = static_cast<thread_record*>(value);
    if (++r->end_rounds < PTHREAD_DESTRUCTOR_ITERATIONS - 1 && ::pthread_setspecific(r->process->key, r) == 0) return;
    if (r->sampler != nullptr) r->process->end_sampling(*r);
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
    r->whole = r;
    r->process = &p;
    r->in_use = 1;
    r->tree.start(p.memory, p.source, p.mode, p.process_entry, p.background_entry, p.overflow_entry);
    r->next = load_acquire(p.records);
    while (!compare_exchange(p.records, r->next, r)) {}  // pairs with the acquire of who walks the list
    return r;
}

// Gives the calling thread its record, in the slot of a module that has not met it yet. Null: thaw is not active, the thread is
// ending, or there is no memory (counted).
THAW_DETAIL_COLD inline thread_record* attach_thread(thread_slot& me) noexcept {
    process_root* const p = find_process();
    if (p == nullptr || me.ended) return nullptr;
    auto* r = static_cast<thread_record*>(::pthread_getspecific(p->key));
    if (r == nullptr) {
        if (load_relaxed(p->stopped) != 0) return nullptr;
        r = take_record(*p);
        if (r == nullptr) {
            shared_add(p->lost.threads, 1u);
            me.ended = true;  // and is not asked again at every marker
            return nullptr;
        }
        r->begin();
        if (::pthread_setspecific(p->key, r) != 0) {
            r->end();
            store_release(r->in_use, 0u);
            return nullptr;
        }
    } else {
        r->forget_children();
    }
    me.record = r;
    return r;
}

// The calling thread's record where it may record now; null otherwise: thaw is not active, or the thread is paused.
THAW_DETAIL_INLINE thread_record* recording_thread(thread_slot& me = this_thread) noexcept {
    if (me.record->current != nullptr) [[likely]] return me.record->whole;
    if (me.record->whole != nullptr) return nullptr;
    thread_record* const attached = attach_thread(me);
    return attached != nullptr && attached->current != nullptr ? attached : nullptr;
}

// The calling thread's record, also where this module has not met the thread yet: what is left or ended need not have been
// begun by this module. Null where there is none.
THAW_DETAIL_INLINE thread_record* own_thread(thread_slot& me = this_thread) noexcept {
    thread_record* const r = me.record->whole;
    return r != nullptr ? r : attach_thread(me);
}

// ---- entering and leaving a node that is timed ----

// The ticks from `since` to `now`; 0 where the counters of two processors disagree by a hair.
[[nodiscard]] constexpr std::uint64_t elapsed_ticks(std::uint64_t since, std::uint64_t now) noexcept {
    std::uint64_t const ticks = now - since;
    if (static_cast<std::int64_t>(ticks) < 0) [[unlikely]] return 0;
    return ticks;
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
    store_release(r.current, &n);
    signal_fence();
}

// Closes a node that is open and was timed from its beginning, goes back to where the thread stood before, and books the duration, which is returned in ticks.
THAW_DETAIL_INLINE std::uint64_t close_node(thread_record& r, node& n, node* before, std::uint64_t now) noexcept {
    std::uint64_t const ticks = elapsed_ticks(n.open_since, now);
    signal_fence();
    store_relaxed(n.open_since, 0u);
    store_release(r.current, before);
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
    store_release(r.current, up);
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
        store_release(r.paused_at, m_current);
        r.tick_word = &always;
        store_release(r.current, static_cast<node*>(nullptr));
        signal_fence();
    }
    ~recording_pause() {
        signal_fence();
        m_record.tick_word = m_tick_word;
        store_release(m_record.current, m_current);
        store_release(m_record.paused_at, static_cast<node*>(nullptr));
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
