// thaw floor 6 probe: waits. A wait guard measures every single blocking wait of the code it surrounds.
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
#include <thaw/core/rendezvous.hpp>
#endif

THAW_DETAIL_BEGIN

#if THAW_ENABLED

class [[nodiscard]] wait_guard {
public:
    // Effects: a wait begins, unless the thread is in one already.
    THAW_DETAIL_INLINE explicit wait_guard(core::site& s) noexcept {
        if (core::load_relaxed(core::this_module.idle) == 0) begin(s);
    }

    // The same with a name that is known at run time.
    wait_guard(char const* name, char const* function, char const* file, unsigned line) noexcept {
        if (core::load_relaxed(core::this_module.idle) == 0)
            begin_named({name, function, file, line, core::site_kind::wait});
    }

    // Effects: the wait that this guard began ends and is booked.
    THAW_DETAIL_INLINE ~wait_guard() {
        if (m_node != nullptr) end();
    }

    wait_guard(wait_guard const&) = delete;
    wait_guard& operator=(wait_guard const&) = delete;

private:
    THAW_DETAIL_NOINLINE void begin(core::site& s) noexcept {
        core::marking_functions const* const f = core::marking();
        if (f == nullptr) return;
        m_node = f->begin_wait(core::this_thread, s);
        m_before = core::this_thread.record->entered_from;
    }

    THAW_DETAIL_NOINLINE void begin_named(core::site const& described) noexcept {
        core::marking_functions const* const f = core::marking();
        if (f == nullptr) return;
        if (core::site* const s = f->named_site(core::this_thread, described, __builtin_strlen(described.name))) begin(*s);
    }

    THAW_DETAIL_NOINLINE void end() noexcept {
        core::load_relaxed(core::this_module.marking)->end_wait(core::this_thread, m_node, m_before);
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
    [[maybe_unused]] ::thaw::wait_guard THAW_DETAIL_UNIQUE(thaw_wait_){THAW_DETAIL_SITE(name, __func__, wait)}
#else
#define THAW_WAIT(name) static_assert(true)
#endif

#endif
