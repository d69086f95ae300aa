// thaw floor 8 probe: waits. A wait guard measures every single blocking wait of the code it surrounds.
//
//   { THAW_WAIT("db.query"); db.query(event); }
//   auto answer = thaw::wait("queue.pop", [&] { return queue.pop(); });
//
// A wait is always timed, whatever the timing mode, since next to a wait a clock reading is cheap; percentiles are over single
// waits. Of nested waits the outermost counts alone. Time during which the process was frozen is not in it. A wait on a thread
// that works for no invocation is listed apart, as background.
//
// Thread-safe. Not for signal handlers. Never throws, allocates from the host or changes errno.
#ifndef THAW_PROBE_WAIT_HPP
#define THAW_PROBE_WAIT_HPP

#include <thaw/core/config.hpp>

#if THAW_ENABLED
#include <thaw/core/thread_record.hpp>
#endif

THAW_DETAIL_BEGIN

#if THAW_ENABLED

class [[nodiscard]] wait_guard {
public:
    // Effects: a wait begins, unless the thread is in one already.
    explicit wait_guard(core::site& s) noexcept {
        core::thread_record* const r = core::recording_thread();
        if (r != nullptr && r->open_wait == nullptr) begin(*r, s);
    }

    // The same with a name that is known at run time.
    wait_guard(char const* name, char const* function, char const* file, unsigned line) noexcept {
        core::thread_record* const r = core::recording_thread();
        if (r != nullptr && r->open_wait == nullptr)
            begin(*r, r->process->dynamic_site(name, __builtin_strlen(name), core::site_kind::wait, function, file, line));
    }

    // Effects: the wait that this guard began ends and is booked.
    ~wait_guard() {
        if (m_node != nullptr) end();
    }

    wait_guard(wait_guard const&) = delete;
    wait_guard& operator=(wait_guard const&) = delete;

private:
    THAW_DETAIL_NOINLINE void begin(core::thread_record& r, core::site& s) noexcept {
        core::node* const at = r.current;
        core::node* const n = r.child(at, s);
        core::own_add(n->count, 1u);
        if (n->resolved() != n || n->open_since != 0) return;  // the overflow node, entered again: counted, not timed
        m_node = n;
        m_before = at;
        r.open_wait = n;
        std::uint64_t const now = r.active_now();
        core::seen_at(r, now);
        core::open_node(r, *n, now, 1);
    }

    THAW_DETAIL_NOINLINE void end() noexcept {
        core::thread_record& r = core::own_thread();
        std::uint64_t const now = r.current != nullptr ? r.active_now() : 0;
        if (r.open_wait != m_node || !core::stands_in(r, m_node)) return core::own_add(r.mismatched, 1u);
        r.open_wait = nullptr;
        std::uint64_t const ticks = core::close_node(r, *m_node, m_before, now);
        if (r.invocation != nullptr) core::shared_add(r.invocation->wait_ticks, ticks);
    }

    core::node* m_node = nullptr;
    core::node* m_before = nullptr;
};

// Calls f() inside a wait of that name and returns what it returns. What f throws passes through.
template <class F>
decltype(auto) wait(char const* name, F&& f, char const* function = __builtin_FUNCTION(), char const* file = __builtin_FILE(),
                    unsigned line = __builtin_LINE()) {
    wait_guard const guard{name, function, file, line};
    return static_cast<F&&>(f)();
}

#else

template <class F>
decltype(auto) wait(char const*, F&& f) {
    return static_cast<F&&>(f)();
}

#endif

THAW_DETAIL_END

#if THAW_ENABLED
#define THAW_WAIT(name) \
    [[maybe_unused]] ::thaw::wait_guard const THAW_DETAIL_UNIQUE(thaw_wait_){THAW_DETAIL_SITE(name, __func__, wait)}
#else
#define THAW_WAIT(name) static_assert(true)
#endif

#endif
