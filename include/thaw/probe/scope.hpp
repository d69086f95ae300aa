// thaw floor 6 probe: scopes. A scope counts the entries of a block and, depending on the timing mode, measures them.
//
//   THAW_SCOPE("price.rules");            // from here to the end of the block
//   THAW_FUNCTION();                      // the same, named after the function
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
#include <thaw/core/thread_record.hpp>
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

// The way of an entry that is timed, or may be. `n` is the node that was found; the one that is left must be given back.
THAW_DETAIL_NOINLINE inline core::node* enter_timed(core::thread_record& r, core::node* at, core::node* n) noexcept {
    if (n->target != nullptr) {
        if (n->target->open_since != 0) return core::store_relaxed(r.current, n), n;
        n = n->target;  // what the alias stands for is not open: this entry opens it
    } else if (n->open_since != 0) [[unlikely]] {
        core::node* const alias = r.tree.alias_of(at, n);
        return core::store_relaxed(r.current, alias), alias;
    }
    core::open_node(r, *n, r.active_now(), 1);
    return n;
}

// The way out of a scope that was timed, or is not where the thread stands.
THAW_DETAIL_NOINLINE inline void leave_slowly(core::node* n, core::node* before) noexcept {
    core::thread_record& r = *core::this_thread.record;
    if (!core::stands_in(r, n)) return core::own_add(r.mismatched, 1u);
    if (n->open_since != 0) core::close_node(r, *n, before, r.active_now());
    else core::store_relaxed(r.current, before);
}

}

class [[nodiscard]] scope {
public:
    // Effects: the thread stands in the node of `s` below where it stood. Post: nothing, where thaw does not record.
    THAW_DETAIL_INLINE explicit scope(core::site& s) noexcept {
        core::thread_record* r = core::this_thread.record;
        if (r->current == nullptr) [[unlikely]] {
            r = core::recording_thread();
            if (r == nullptr) return;
        }
        enter(*r, s);
    }

    // Effects: the thread stands where it stood before; the duration is booked where the entry was timed.
    THAW_DETAIL_INLINE ~scope() {
        if (m_node == nullptr) return;
        core::signal_fence();
        core::thread_record& r = *core::this_thread.record;
        if (r.current != m_node || m_node->open_since != 0) [[unlikely]] detail::leave_slowly(m_node, m_before);
        else core::store_relaxed(r.current, m_before);
    }

    scope(scope const&) = delete;
    scope& operator=(scope const&) = delete;

protected:
    scope() noexcept = default;

    THAW_DETAIL_INLINE void enter(core::thread_record& r, core::site& s) noexcept {
        core::node* const at = r.current;
        core::node* n = at->cached;
        if (n->entry != core::load_acquire(s.entry)) [[unlikely]] n = find_child(r, at, s);
        std::uint64_t const count = n->count + 1;
        core::store_relaxed(n->count, count);
        m_before = at;
        if (count >= n->timed_at) [[unlikely]] {
            m_node = detail::enter_timed(r, at, n);
        } else {
            m_node = n;
            core::store_relaxed(r.current, n);
        }
        core::signal_fence();
    }

private:
    THAW_DETAIL_NOINLINE static core::node* find_child(core::thread_record& r, core::node* at, core::site& s) noexcept {
        return at->cached = r.tree.child(at, r.process->entry_of(s));
    }

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
        core::thread_record* const r = core::recording_thread();
        if (r == nullptr) return;
        if constexpr (requires { name.data(), name.size(); })
            enter(*r, r->process->dynamic_site(name.data(), name.size(), core::site_kind::scope, function, file, line));
        else enter(*r, r->process->dynamic_site(name, __builtin_strlen(name), core::site_kind::scope, function, file, line));
    }
};

#else

class scope {};

template <fixed_string Name>
class [[maybe_unused]] scope_as {};

#endif

THAW_DETAIL_END

#if THAW_ENABLED
#define THAW_SCOPE(name) \
    [[maybe_unused]] ::thaw::scope const THAW_DETAIL_UNIQUE(thaw_scope_){THAW_DETAIL_SITE(name, __func__, scope)}
#define THAW_FUNCTION() \
    [[maybe_unused]] ::thaw::scope const THAW_DETAIL_UNIQUE(thaw_scope_){THAW_DETAIL_SITE(__func__, __PRETTY_FUNCTION__, scope)}
#define THAW_SCOPE_DYNAMIC(view) [[maybe_unused]] ::thaw::dynamic_scope const THAW_DETAIL_UNIQUE(thaw_scope_){view}
#else
#define THAW_SCOPE(name) static_assert(true)
#define THAW_FUNCTION() static_assert(true)
#define THAW_SCOPE_DYNAMIC(view) static_assert(true)
#endif

#endif
