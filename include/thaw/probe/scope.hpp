// thaw floor 6 probe: scopes. A scope counts the entries of a block and, depending on the timing mode, measures them.
//
//   THAW_SCOPE("price.rules");            // from here to the end of the block
//   THAW_FUNCTION();                      // the same, named after the function
//   THAW_SCOPE_CPU("price.rules");        // and its thread's CPU time, exactly: profile_node::cpu_ns
//   THAW_SCOPE_DYNAMIC(route.name());     // a name known at run time; copied, at most 1024 distinct ones per process
//   thaw::scope_as<"cache.fill"> guard;   // without a macro
//
// Each is one declaration: it may stand twice in a block, under an `if` without braces, in templates, lambdas and headers. It
// may not stand in a function that is evaluated at compile time, nor live across a co_await: a scope that ends on another
// thread, or out of order, is counted (profile_losses::mismatched_scopes) and changes nothing. After a longjmp the thread
// stands where it should again when the next enclosing scope or handler ends.
//
// Thread-safe. Not for signal handlers. Never throws, allocates from the host or changes errno.
#ifndef THAW_PROBE_SCOPE_HPP
#define THAW_PROBE_SCOPE_HPP

#include <thaw/core/config.hpp>

#include <cstddef>

#if THAW_ENABLED
#include <thaw/core/rendezvous.hpp>
#endif

THAW_DETAIL_BEGIN

// A string literal as a template argument.
template <std::size_t N>
struct fixed_string {
    char text[N];
    consteval fixed_string(char const (&literal)[N]) noexcept {  // NOLINT: implicit, so that scope_as<"name"> reads
        for (std::size_t i = 0; i < N; ++i) text[i] = literal[i];
    }
};

#if THAW_ENABLED

namespace detail {

// An entry in full: the first of a thread, the first after a tick, of a child that is not in the cache, or a timed one.
// Returns where the scope stands, null where thaw does not record; where the thread stood before is left in its head.
THAW_DETAIL_NOINLINE inline core::node* enter_slowly(core::site& s) noexcept {
    core::marking_functions const* const f = core::marking();
    return f == nullptr ? nullptr : f->enter(core::this_thread, s);
}

// An entry of a node that is in the cache, and timed or an alias. Returns what enter_slowly does, from the same place.
THAW_DETAIL_NOINLINE inline core::node* enter_timed(core::node* n) noexcept {
    return core::load_relaxed(core::this_module.marking)->enter_timed(core::this_thread, n);
}

// An entry of a node that is in the cache and not timed; otherwise one of the above.
THAW_DETAIL_INLINE core::node* enter(core::site& s, core::node*& before) noexcept {
    core::thread_head& head = *core::this_thread.record;
    before = head.current;
    do {
        if (*head.tick_word != head.tick_seen) [[unlikely]] {
            if (core::load_relaxed(core::this_module.idle) != 0) return nullptr;
            break;
        }
        core::cached_child const& slot = static_cast<core::recording_head&>(head).cache_slot(before, s);
        core::node* const n = slot.child;
        if ((core::differ(slot.at, before) | core::differ(n->marker, &s)) != 0) [[unlikely]] break;
        std::uint64_t const count = n->count + 1;
        if (count >= n->timed_at) [[unlikely]] return enter_timed(n);
        core::store_relaxed(n->count, count);
        core::store_release(head.current, n);
        core::signal_fence();
        return n;
    } while (false);
    core::node* const n = enter_slowly(s);
    before = core::this_thread.record->entered_from;
    return n;
}

// The way out of a scope that has a time, or during which a tick has passed, or that is not where the thread stands.
THAW_DETAIL_NOINLINE inline void leave_slowly(core::node* n, core::node* before) noexcept {
    core::load_relaxed(core::this_module.marking)->leave(core::this_thread, n, before);
}

}

class [[nodiscard]] scope {
public:
    // Effects: the thread stands in the node of `s` below where it stood. Post: nothing, where thaw does not record.
    THAW_DETAIL_INLINE explicit scope(core::site& s) noexcept {
        m_node = detail::enter(s, m_before);
#if defined(__clang__)
        // Keeps clang from compiling what follows twice, with a node and without: 1.0 instead of 1.4 ns where thaw is not active.
        // g++ does the same to better effect: 1.0 instead of 1.2 ns.
        __asm__("" : "+r"(m_node));
#endif
    }

    // Effects: the thread stands where it stood before; the duration is booked where the entry was timed.
    THAW_DETAIL_INLINE ~scope() {
        if (m_node == nullptr) return;
        core::signal_fence();
        core::thread_head& head = *core::this_thread.record;
        if ((core::differ(head.current, m_node) | m_node->open_since | (*head.tick_word ^ head.tick_seen)) != 0) [[unlikely]]
            detail::leave_slowly(m_node, m_before);
        else core::store_release(head.current, m_before);
    }

    scope(scope const&) = delete;
    scope& operator=(scope const&) = delete;

protected:
    scope() noexcept = default;

    core::node* m_node = nullptr;
    core::node* m_before = nullptr;
};

// A scope whose name is the template argument; for code that avoids macros. It has no file and line.
template <fixed_string Name>
class [[nodiscard]] scope_as : scope {
    static inline constinit core::site s_site{Name.text, "", "", 0, core::site_kind::scope};

public:
    THAW_DETAIL_INLINE scope_as() noexcept : scope(s_site) {}
};

// A scope whose name is known at run time only: 20 to 40 ns for finding it again.
class [[nodiscard]] dynamic_scope : scope {
public:
    // `name` has data() and size(), or is a zero-terminated string. It is copied when it is new.
    template <class Name>
    explicit dynamic_scope(Name const& name, char const* function = __builtin_FUNCTION(), char const* file = __builtin_FILE(),
                           unsigned line = __builtin_LINE()) noexcept {
        if (core::load_relaxed(core::this_module.idle) != 0) return;
        if constexpr (requires { name.data(), name.size(); })
            enter_named({name.data(), function, file, line, core::site_kind::scope}, name.size());
        else enter_named({name, function, file, line, core::site_kind::scope}, __builtin_strlen(name));
    }

private:
    THAW_DETAIL_NOINLINE void enter_named(core::site const& described, std::size_t size) noexcept {
        core::marking_functions const* const f = core::marking();
        if (f == nullptr) return;
        if (core::site* const s = f->named_site(core::this_thread, described, size)) m_node = detail::enter(*s, m_before);
    }
};

// A scope that also measures the CPU time of its thread, exactly, with a system call at either end: 0.8 us.
class [[nodiscard]] cpu_scope : scope {
public:
    explicit cpu_scope(core::site& s) noexcept : scope(s) {
        if (m_node != nullptr) m_since_ns = core::load_relaxed(core::this_module.marking)->cpu_ns();
    }
    ~cpu_scope() {
        if (m_node != nullptr) core::load_relaxed(core::this_module.marking)->add_cpu(core::this_thread, m_node, m_since_ns);
    }

private:
    std::uint64_t m_since_ns = 0;
};

#else

class scope {};

template <fixed_string Name>
class [[maybe_unused]] scope_as {};

#endif

THAW_DETAIL_END

#if THAW_ENABLED
#define THAW_SCOPE(name) \
    [[maybe_unused]] ::thaw::scope THAW_DETAIL_UNIQUE(thaw_scope_){THAW_DETAIL_SITE(name, __func__, scope)}
#define THAW_SCOPE_CPU(name) \
    [[maybe_unused]] ::thaw::cpu_scope THAW_DETAIL_UNIQUE(thaw_scope_){THAW_DETAIL_SITE(name, __func__, scope)}
#define THAW_FUNCTION() \
    [[maybe_unused]] ::thaw::scope THAW_DETAIL_UNIQUE(thaw_scope_){THAW_DETAIL_SITE(__func__, __PRETTY_FUNCTION__, scope)}
#define THAW_SCOPE_DYNAMIC(view) [[maybe_unused]] ::thaw::dynamic_scope THAW_DETAIL_UNIQUE(thaw_scope_){view}
#else
#define THAW_SCOPE(name) static_assert(true)
#define THAW_SCOPE_CPU(name) static_assert(true)
#define THAW_FUNCTION() static_assert(true)
#define THAW_SCOPE_DYNAMIC(view) static_assert(true)
#endif

#endif
