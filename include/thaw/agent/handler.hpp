// thaw floor 8 agent: invocations: opening, suspending, resuming and closing them.
//
//   THAW_HANDLER("checkout");                                              // from here to the end of the block
//   THAW_HANDLER("checkout", thaw::invocation{.request_id = id});          // with what the host says of it
//
// Hosts that leave no block to put a guard in, because an invocation goes through callbacks, keep a handle instead:
//
//   thaw::invocation_handle h = THAW_INVOCATION("checkout", {.request_id = id});
//   ... { THAW_RESUME(h); first_piece(); }  ...  { THAW_RESUME(h); last_piece(); }  h.close();
//
// An invocation is closed on every way out, exceptions included; one that ends by an exception, or was marked by thaw::fail(), counts
// as an error. If a report is due when it closes, the reporter runs right then, on this thread. A handler inside another
// handler of the same thread is a scope of the outer one. Several invocations may be open at once, on different threads or,
// by handles, on one.
//
// A guard belongs to its thread; a handle may be moved between threads but not used by two at once. Never throws, allocates
// from the host (the reporter may) or changes errno.
#ifndef THAW_AGENT_HANDLER_HPP
#define THAW_AGENT_HANDLER_HPP

#include <thaw/core/config.hpp>

#include <cstdint>
#include <string_view>

#if THAW_ENABLED
#include <thaw/core/thread_record.hpp>

#include <cerrno>
#endif

THAW_DETAIL_BEGIN

// What the host says of an invocation. The texts are copied when it opens.
struct invocation {
    std::string_view request_id = {};        // 63 bytes are kept
    std::string_view trace_parent = {};      // 127 bytes are kept
    std::uint64_t deadline_unix_ns = 0;      // on CLOCK_REALTIME; 0: not known
};

#if THAW_ENABLED

namespace detail {

// How many exceptions the calling thread has in flight: std::uncaught_exceptions() without its call, 2.5 ns. By the C++ ABI
// (Itanium, "Exception Handling", 2.2.2) it is the second word of the thread's __cxa_eh_globals, which stay where they are.
[[gnu::visibility("hidden"), gnu::tls_model(THAW_DETAIL_TLS_MODEL)]] inline constinit thread_local unsigned const* in_flight = nullptr;

// By a name of our own: libstdc++ declares it in <cxxabi.h>, libc++ does not.
extern "C" void* thaw_exception_globals() noexcept __asm__("__cxa_get_globals");

THAW_DETAIL_COLD inline unsigned const* find_in_flight() noexcept {
    return in_flight = reinterpret_cast<unsigned const*>(static_cast<char const*>(thaw_exception_globals()) + sizeof(void*));
}

THAW_DETAIL_INLINE unsigned exceptions_in_flight() noexcept {
    unsigned const* const known = in_flight;
    return *(known != nullptr ? known : find_in_flight());
}

inline core::invocation_state* make_invocation(core::process_root& p) noexcept {
    return static_cast<core::invocation_state*>(p.memory.allocate((sizeof(core::invocation_state) + 63) & ~std::size_t{63}));
}

// The state of a thread's own invocation, that of a guard: there is one at a time, which is never given back.
THAW_DETAIL_INLINE core::invocation_state* own_invocation(core::thread_record& r) noexcept {
    if (r.own_invocation == nullptr) [[unlikely]] r.own_invocation = make_invocation(*r.process);
    return r.own_invocation;
}

// The state of a handle's invocation, which any thread may give back. The tag keeps a pop from taking a stale `next_free`.
inline core::invocation_state* take_invocation(core::process_root& p) noexcept {
    for (std::uint64_t top = core::load_acquire(p.free_invocations); (top & UINT32_MAX) != 0;) {
        auto* const s = static_cast<core::invocation_state*>(p.memory.at(static_cast<std::uint32_t>(top)));
        std::uint64_t const rest = ((top >> 32) + 1) << 32 | core::load_relaxed(s->next_free);
        if (core::compare_exchange(p.free_invocations, top, rest)) return s;
    }
    return make_invocation(p);
}

inline void give_back_invocation(core::process_root& p, core::invocation_state& state) noexcept {
    std::uint64_t top = core::load_acquire(p.free_invocations);
    do core::store_relaxed(state.next_free, static_cast<std::uint32_t>(top));
    while (!core::compare_exchange(p.free_invocations, top, ((top >> 32) + 1) << 32 | p.memory.offset_of(&state)));
}

// Whether the state differs from that of an invocation that has used nothing, which is what a new one begins as.
THAW_DETAIL_INLINE bool is_marked(core::invocation_state const& s) noexcept {
    return (s.wait_ticks | s.allocated_bytes | s.cpu_ns) != 0 || s.failed || s.in_pieces;
}
inline void clear_marks(core::invocation_state& s) noexcept {
    s.wait_ticks = s.allocated_bytes = 0;
    core::store_relaxed(s.cpu_ns, 0u);
    s.failed = false;
    s.in_pieces = false;
}

// The CPU time of the thread is sampled from now on, or it is not to be; asked once a thread and start.
THAW_DETAIL_COLD inline void begin_sampling(core::thread_record& r) noexcept {
    r.sampling_round = core::load_acquire(r.process->sampling_round);  // pairs with the release by which it changed
    r.process->begin_sampling(r);
}

// Makes the thread work for the invocation; from now on its node is where the thread stands. In two steps, so that of a
// handler's opening as little as can be stands behind the reading of the clock.
THAW_DETAIL_INLINE void prepare_to_attach(core::thread_record& r, core::invocation_state& state) noexcept {
    state.allocated_started = r.allocated_bytes;
    if (r.open_wait != nullptr) r.open_wait = nullptr;
    if (r.sampling_round != core::load_relaxed(r.process->sampling_round)) [[unlikely]] begin_sampling(r);
}
THAW_DETAIL_INLINE void attach_invocation(core::thread_record& r, core::invocation_state& state, core::node& n) noexcept {
    r.gaps = state.gaps;
    core::store_relaxed(r.invocation, &state);
    core::store_release(r.current, &n);
    core::signal_fence();
    if (r.process->measure_cpu) core::store_relaxed(state.cpu_started_ns, core::read_clock_ns(CLOCK_THREAD_CPUTIME_ID));
}

// The opposite, in two steps likewise.
THAW_DETAIL_INLINE void prepare_to_detach(core::thread_record& r, core::invocation_state& state) noexcept {
    if (r.process->measure_cpu) core::own_add(state.cpu_ns, core::read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - state.cpu_started_ns);
}
THAW_DETAIL_INLINE void detach_invocation(core::thread_record& r, core::invocation_state& state, core::node* before,
                                          core::node* wait_before) noexcept {
    if (r.allocated_bytes != state.allocated_started) core::own_add(state.allocated_bytes, r.allocated_bytes - state.allocated_started);
    core::signal_fence();
    core::store_relaxed(r.invocation, static_cast<core::invocation_state*>(nullptr));
    if (r.open_wait != wait_before) r.open_wait = wait_before;
    core::store_release(r.current, before);
}

// The invocation is the slowest on this thread since the last report, as far as the thread's exemplar knows, or the first. A
// collector that is reading the exemplar right now keeps it from being replaced. False where nothing was kept.
THAW_DETAIL_NOINLINE inline bool replace_exemplar(core::thread_record& r, core::invocation_state const& state, std::uint64_t wall_ticks,
                                                  std::uint64_t sequence) noexcept {
    if (r.exemplar == nullptr) [[unlikely]]
        core::store_release(r.exemplar, static_cast<core::exemplar_record*>(r.process->memory.allocate(  // pairs with collect
                                            (sizeof(core::exemplar_record) + 63) & ~std::size_t{63})));
    core::exemplar_record* const e = r.exemplar;
    std::uint32_t unused = 0;
    if (e == nullptr || !core::compare_exchange(e->in_use, unused, 1u)) return false;  // pairs with the release of the collector
    std::uint32_t nodes = 0;
    core::node const* n = r.tree.first_made();
    for (; n != nullptr && nodes < core::exemplar_record::part_count; n = core::call_tree::next_created(*n), ++nodes) {
        core::exemplar_record::figures& base = e->baseline[nodes];
        std::uint64_t const total = core::total_ticks(*n);
        e->parts[nodes] = {n->count - base.count, core::elapsed_ticks(base.sum_ticks, total)};
        base = {n->count, total};
    }
    core::store_relaxed(e->sequence, sequence);
    core::store_relaxed(e->wall_ticks, wall_ticks);
    e->ended_unix_ns = core::read_realtime_ns();
    e->summary = state;
    e->nodes = state.in_pieces ? 0u : nodes;
    e->truncated = n != nullptr;
    core::store_release(e->in_use, 0u);  // pairs with the acquire of the collector
    return true;
}

// Keeps the breakdown of the slowest invocation since the last report: the growth of every node since the last invocation of
// this thread ended. Cost: a nanosecond for each node of the tree, 256 at most.
THAW_DETAIL_INLINE void keep_exemplar(core::thread_record& r, core::invocation_state const& state, std::uint64_t wall_ticks) noexcept {
    core::exemplar_record* const e = r.exemplar;
    std::uint64_t const sequence = core::load_relaxed(r.process->report_sequence);
    if (e == nullptr || core::load_relaxed(e->sequence) != sequence || wall_ticks > e->wall_ticks) [[unlikely]]
        if (replace_exemplar(r, state, wall_ticks, sequence) || e == nullptr) return;
    // A node that was not entered has not grown.
    core::exemplar_record::figures* base = e->baseline;
    core::node const* n = r.tree.first_made();
    for (; n != nullptr && base != e->baseline + core::exemplar_record::part_count; n = core::call_tree::next_created(*n), ++base)
        if (base->count != n->count) *base = {n->count, core::total_ticks(*n)};
}

THAW_DETAIL_NOINLINE inline void describe(core::invocation_state& state, invocation const& what) noexcept {
    state.deadline_unix_ns = what.deadline_unix_ns;
    core::invocation_state::assign(state.request_id, what.request_id.data(), what.request_id.size());
    core::invocation_state::assign(state.trace_parent, what.trace_parent.data(), what.trace_parent.size());
    state.described = what.deadline_unix_ns != 0 || !what.request_id.empty() || !what.trace_parent.empty();
}

// A second or more without an invocation: perhaps a snapshot was restored meanwhile.
THAW_DETAIL_COLD inline void look_at_counter(core::process_root& p) noexcept {
    std::uint32_t idle = 0;
    if (!core::compare_exchange(p.watching, idle, 1u)) return;  // pairs with the release below
    p.watch.look(p.source, p.source.ticks());
    core::store_release(p.watching, 0u);
}

THAW_DETAIL_COLD inline void report_if_wanted(core::process_root& p, core::thread_record& r, core::invocation_state const& state) noexcept {
    auto* const report = core::load_acquire(p.report);  // pairs with the release in thaw::start
    if (report == nullptr) return;
    int const saved = errno;
    report(p, r, &state);
    errno = saved;
}

// Prepares an invocation that is about to be opened. `what` is null where the host says nothing.
THAW_DETAIL_INLINE void prepare_invocation(core::thread_record& r, core::invocation_state& state, core::site& s,
                                           invocation const* what) noexcept {
    state.handler = &r.process->entry_of(s);
    if (what != nullptr || state.described) describe(state, what != nullptr ? *what : invocation{});
    core::store_relaxed(state.generation, state.generation + 1);
}

THAW_DETAIL_INLINE void open_invocation(core::thread_record& r, core::invocation_state& state) noexcept {
    core::process_root& p = *r.process;
    core::active_clock::opening const o = p.clock.open(p.source, &r);
    state.gaps = o.gaps;
    state.opened_at = o.ticks - o.gaps;
    if (o.gap > p.long_gap_ticks) [[unlikely]] look_at_counter(p);
}

// The node of an invocation's handler in this thread's tree.
inline core::node& handler_node(core::thread_record& r, core::site_entry& entry) noexcept {
    core::node* n = r.handler;
    if (n == nullptr || n->entry != &entry) r.handler = n = r.tree.child(&r.tree.root, entry);
    return *n;
}

THAW_DETAIL_NOINLINE inline void book_marks(core::thread_record& r, core::invocation_state& state, core::node& n) noexcept {
    core::own_add(r.sums.wait_ticks, state.wait_ticks);
    core::own_add(r.sums.cpu_ns, state.cpu_ns);
    core::own_add(r.sums.allocated_bytes, state.allocated_bytes);
    if (state.failed) {
        core::own_add(n.errors, 1u);
        core::own_add(r.sums.failed, 1u);
        core::store_relaxed(r.process->report_wanted, 1u);
    }
    clear_marks(state);
}

// Books an invocation, which no thread works for any more and which closed when the counter was at `ticks`, and reports if that is
// due.
THAW_DETAIL_INLINE void book_invocation(core::thread_record& r, core::invocation_state& state, core::node& n,
                                        std::uint64_t ticks) noexcept {
    core::process_root& p = *r.process;
    std::uint64_t const wall_ticks = core::elapsed_ticks(state.opened_at + state.gaps, ticks);
    r.tree.record(n, wall_ticks);
    keep_exemplar(r, state, wall_ticks);
    if (is_marked(state)) book_marks(r, state, n);
    core::own_add(r.sums.wall_ticks, wall_ticks);
    core::own_add_release(r.sums.completed, 1u);  // pairs with the acquire in collect
    core::store_relaxed(state.generation, state.generation + 1);
    if (ticks >= core::load_relaxed(p.next_report_ticks) || core::load_relaxed(p.report_wanted) != 0) [[unlikely]]
        report_if_wanted(p, r, state);
}

}

// Marks the invocation that the calling thread works for as failed: for hosts where a failure is a return value and not an
// exception. It then counts as an error, and a report is due when it closes.
inline void fail() noexcept {
    core::thread_record const* const r = core::own_thread();
    if (r != nullptr && r->invocation != nullptr) r->invocation->failed = true;
}

// One invocation in a block. See the top of this file.
class [[nodiscard]] handler_guard {
public:
    explicit handler_guard(core::site& s) noexcept { open(s, nullptr); }
    handler_guard(core::site& s, invocation const& what) noexcept { open(s, &what); }

    ~handler_guard() {
        if (m_node != nullptr) close();
    }

    handler_guard(handler_guard const&) = delete;
    handler_guard& operator=(handler_guard const&) = delete;

private:
    THAW_DETAIL_NOINLINE void open(core::site& s, invocation const* what) noexcept {
        core::thread_record* const r = core::recording_thread();
        m_node = nullptr;
        if (r == nullptr) return;
        // A guard was here before, and a longjmp has left it; or it has ended on another thread.
        if (r->invocation != nullptr && (r->guard == this || (core::load_relaxed(r->invocation->generation) & 1u) == 0)) abandon(*r);
        m_before = r->current;
        m_wait_before = r->open_wait;
        m_exceptions = detail::exceptions_in_flight();
        if (r->invocation != nullptr) return open_nested(*r, s);
        core::invocation_state* const state = detail::own_invocation(*r);
        if (state == nullptr) return;
        detail::prepare_invocation(*r, *state, s, what);
        core::node& n = detail::handler_node(*r, *state->handler);
        m_state = state;
        m_node = &n;
        r->guard = this;
        core::own_add(n.count, 1u);
        if (n.weight != 1) n.weight = 1;
        detail::prepare_to_attach(*r, *state);
        detail::open_invocation(*r, *state);
        core::store_relaxed(n.open_since, state->opened_at);
        detail::attach_invocation(*r, *state, n);
    }

    // Leaves an invocation that is over and was not booked.
    THAW_DETAIL_COLD static void abandon(core::thread_record& r) noexcept {
        core::invocation_state& state = *r.invocation;
        while (r.current != nullptr && r.current->entry != state.handler) {
            core::own_add(r.mismatched, 1u);
            core::store_relaxed(r.current->open_since, 0u);
            core::store_release(r.current, r.current->parent);
        }
        if (r.current != nullptr) core::store_relaxed(r.current->open_since, 0u);
        core::own_add(r.mismatched, 1u);
        detail::prepare_to_detach(r, state);
        detail::detach_invocation(r, state, r.outside(), nullptr);
        if ((core::load_relaxed(state.generation) & 1u) != 0) {
            r.process->clock.close(r.process->source, &r);
            core::store_relaxed(state.generation, state.generation + 1);
        }
        detail::clear_marks(state);
    }

    void open_nested(core::thread_record& r, core::site& s) noexcept {
        m_state = nullptr;
        core::node* const n = r.child(r.current, s);
        core::own_add(n->count, 1u);
        if (n->target != nullptr || n->open_since != 0) return;
        m_node = n;
        std::uint64_t const now = r.active_now();
        core::seen_at(r, now);
        core::open_node(r, *n, now, 1);
    }

    // On another thread: the invocation is over, but nowhere to be booked.
    THAW_DETAIL_COLD void end_elsewhere(core::thread_record& r) noexcept {
        core::own_add(r.mismatched, 1u);
        if (m_state == nullptr) return;
        core::store_relaxed(m_state->generation, m_state->generation + 1);
        r.process->clock.close(r.process->source, &r);
    }

    THAW_DETAIL_NOINLINE void close() noexcept {
        core::thread_record* known = core::this_thread.record->whole;
        if (known == nullptr || known->current != m_node) [[unlikely]] {
            known = core::own_thread();
            if (known == nullptr) return;
            if (!core::stands_in(*known, m_node)) return end_elsewhere(*known);
        }
        core::thread_record& r = *known;
        bool const failed = detail::exceptions_in_flight() > m_exceptions;
        if (m_state == nullptr) {
            if (failed) core::own_add(m_node->errors, 1u);
            core::close_node(r, *m_node, m_before, r.active_now());
            return;
        }
        detail::prepare_to_detach(r, *m_state);
        std::uint64_t const ticks = r.process->clock.close(r.process->source, &r);
        core::store_relaxed(m_node->open_since, 0u);
        detail::detach_invocation(r, *m_state, m_before, m_wait_before);
        if (failed) m_state->failed = true;
        detail::book_invocation(r, *m_state, *m_node, ticks);
    }

    core::node* m_node;  // null: nothing is open, and nothing else is set
    core::invocation_state* m_state;  // null: the guard is a scope of another's invocation
    core::node* m_before;
    core::node* m_wait_before;
    unsigned m_exceptions;
};

// One invocation that goes through callbacks. Movable; closed by close() or by its destructor, on any thread. Its wall time
// runs from opening to close, its CPU time and its scopes are those of the pieces that ran under THAW_RESUME.
class [[nodiscard]] invocation_handle {
public:
    invocation_handle() noexcept = default;
    explicit invocation_handle(core::site& s, invocation const& what = {}) noexcept {
        core::thread_record* const r = core::recording_thread();
        if (r == nullptr) return;
        m_state = detail::take_invocation(*r->process);
        if (m_state == nullptr) return;
        detail::prepare_invocation(*r, *m_state, s, &what);
        m_state->in_pieces = true;
        detail::open_invocation(*r, *m_state);
    }
    invocation_handle(invocation_handle&& other) noexcept : m_state(other.m_state) { other.m_state = nullptr; }
    invocation_handle& operator=(invocation_handle&& other) noexcept {
        if (this != &other) {
            close();
            m_state = other.m_state;
            other.m_state = nullptr;
        }
        return *this;
    }
    ~invocation_handle() { close(); }

    // Whether an invocation is open. False also where thaw does not record.
    [[nodiscard]] explicit operator bool() const noexcept { return m_state != nullptr; }

    // Marks the invocation as failed.
    void fail() noexcept {
        if (m_state != nullptr) m_state->failed = true;
    }

    // Ends the invocation. Requires that no thread is inside THAW_RESUME of it. Does nothing the second time.
    void close() noexcept {
        core::invocation_state* const state = m_state;
        m_state = nullptr;
        if (state == nullptr) return;
        core::thread_record* const r = core::recording_thread();
        if (r == nullptr) {  // the thread has no record: the invocation is over, but nowhere to be booked
            if (core::process_root* const p = core::find_process()) p->clock.close(p->source);
            return;
        }
        core::node& n = detail::handler_node(*r, *state->handler);
        core::own_add(n.count, 1u);
        detail::book_invocation(*r, *state, n, r->process->clock.close(r->process->source, r));
        detail::give_back_invocation(*r->process, *state);
    }

private:
    friend class resume_guard;
    core::invocation_state* m_state = nullptr;
};

// Makes the thread work for a handle's invocation from here to the end of the block.
class [[nodiscard]] resume_guard {
public:
    explicit resume_guard(invocation_handle& h) noexcept {
        core::thread_record* const r = core::recording_thread();
        if (r == nullptr || h.m_state == nullptr || r->invocation != nullptr) return;
        m_state = h.m_state;
        m_before = r->current;
        m_wait_before = r->open_wait;
        m_exceptions = detail::exceptions_in_flight();
        m_node = &detail::handler_node(*r, *m_state->handler);
        r->guard = nullptr;
        detail::prepare_to_attach(*r, *m_state);
        detail::attach_invocation(*r, *m_state, *m_node);
    }
    ~resume_guard() {
        if (m_state == nullptr) return;
        core::thread_record* const own = core::own_thread();
        if (own == nullptr) return;
        core::thread_record& r = *own;
        if (!core::stands_in(r, m_node)) {
            core::own_add(r.mismatched, 1u);
            return;
        }
        detail::prepare_to_detach(r, *m_state);
        detail::detach_invocation(r, *m_state, m_before, m_wait_before);
        if (detail::exceptions_in_flight() > m_exceptions) m_state->failed = true;
    }
    resume_guard(resume_guard const&) = delete;
    resume_guard& operator=(resume_guard const&) = delete;

private:
    core::invocation_state* m_state = nullptr;
    core::node* m_node = nullptr;
    core::node* m_before = nullptr;
    core::node* m_wait_before = nullptr;
    unsigned m_exceptions = 0;
};

#else

inline void fail() noexcept {}

class handler_guard {};

class invocation_handle {
public:
    [[nodiscard]] explicit operator bool() const noexcept { return false; }
    void fail() noexcept {}
    void close() noexcept {}
};

#endif

THAW_DETAIL_END

// THAW_HANDLER(name) or THAW_HANDLER(name, invocation).
#if THAW_ENABLED
#define THAW_HANDLER(name, ...)                                                                                           \
    [[maybe_unused]] ::thaw::handler_guard THAW_DETAIL_UNIQUE(thaw_handler_) {                                      \
        THAW_DETAIL_SITE(name, __func__, handler) __VA_OPT__(, ) __VA_ARGS__                                              \
    }
#define THAW_INVOCATION(name, ...) \
    (::thaw::invocation_handle{THAW_DETAIL_SITE(name, __func__, handler) __VA_OPT__(, ::thaw::invocation) __VA_ARGS__})
#define THAW_RESUME(handle) [[maybe_unused]] ::thaw::resume_guard THAW_DETAIL_UNIQUE(thaw_resume_){handle}
#else
#define THAW_HANDLER(name, ...) static_assert(true)
#define THAW_INVOCATION(name, ...) (::thaw::invocation_handle{})
#define THAW_RESUME(handle) static_cast<void>(handle)
#endif

#endif
