// thaw floor 8 probe: scopes. A scope counts the entries of a block and, depending on the timing mode, measures them.
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

// An entry of a node that is timed, or may be. `n` is the node that was found; the one that is left must be given back.
inline core::node* enter_timed(core::thread_record& r, core::node* at, core::node* n) noexcept {
    if (n->target != nullptr) {
        if (n->target->open_since != 0) return core::store_relaxed(r.current, n), n;
        n = n->target;  // what the alias stands for is not open: this entry opens it
    } else if (n->open_since != 0) [[unlikely]] {
        core::node* const alias = r.tree.alias_of(at, n);
        return core::store_relaxed(r.current, alias), alias;
    }
    std::uint32_t const weight = n->prediction == 0 ? 1 : core::short_weight;
    if (weight != 1) n->durations->stamp = 0;
    std::uint64_t const now = r.active_now();
    core::seen_at(r, now);
    core::open_node(r, *n, now, weight);
    return n;
}

// An entry in full: the first of a thread, the first after a tick, of a child that is not in the cache, or a timed one.
// Returns where the scope stands, null where thaw does not record; where the thread stood before is left in the record.
// Rejected: returning both in a struct of two registers, which g++ 12 moves through memory, 4 ns.
THAW_DETAIL_NOINLINE inline core::node* enter_slowly(core::site& s) noexcept {
    core::thread_record* const r = core::recording_thread();
    if (r == nullptr) return nullptr;
    if (*r->tick_word != r->tick_seen) [[unlikely]] core::notice_tick(*r);
    core::node* const at = r->entered_from = r->current;
    core::node* const n = r->child(at, s);
    core::own_add(n->count, 1u);
    if (n->count >= n->timed_at) [[likely]] {
        core::node* const entered = enter_timed(*r, at, n);
        if (entered != n && entered->target != nullptr) [[unlikely]] r->cache_slot(at, s) = {at, entered};
        return entered;
    }
    core::store_relaxed(r->current, n);
    return n;
}

// An entry of a node that is in the cache and not timed; otherwise enter_slowly.
THAW_DETAIL_INLINE core::node* enter(core::site& s, core::node*& before) noexcept {
    core::thread_record& r = *core::this_thread.record;
    core::node* const at = r.current;
    before = at;
    if (*r.tick_word == r.tick_seen) [[likely]] {
        core::cached_child const& slot = r.cache_slot(at, s);
        if (slot.at == at) [[likely]] {
            core::node* const n = slot.child;
            std::uint64_t const count = n->count + 1;
            // relaxed: nothing is read through the site's entry
            if (n->entry == core::load_relaxed(s.entry) && count < n->timed_at) [[likely]] {
                core::store_relaxed(n->count, count);
                core::store_relaxed(r.current, n);
                core::signal_fence();
                return n;
            }
        }
    } else if (core::load_relaxed(core::this_module.idle) != 0) {
        return nullptr;
    }
    core::node* const n = enter_slowly(s);
    before = core::this_thread.record->entered_from;
    return n;
}

// The way out of a scope that is short, or not where the thread stands.
THAW_DETAIL_NOINLINE inline void leave_short(core::thread_record& r, core::node* n, core::node* before) noexcept {
    if (!core::stands_in(r, n) && !core::abandon_to(r, n)) return core::own_add(r.mismatched, 1u);
    std::uint64_t const now = r.active_now();
    if (n->open_since != 0 && n->weight == 1) {
        core::close_node(r, *n, before, now);
        return;
    }
    // What the entry took after it was first seen is measured whether it was picked or not.
    std::uint64_t const since = n->open_since;
    std::uint32_t const weight = since == 0 ? 0 : n->weight;
    std::uint64_t const stamp = weight == 0 ? since : n->durations->stamp;
    std::uint64_t suffix = core::ticked_at_least(r, r.tick_word, r.longest_tick, now);
    if (std::uint64_t const stamped = stamp == 0 ? 0 : core::elapsed_ticks(stamp, now); stamped > suffix) suffix = stamped;
    core::store_relaxed(n->open_since, 0u);
    core::store_relaxed(r.current, before);
    if (n->prediction != 0 && (weight != 0 || suffix != 0))
        r.tree.record(*n, weight == 0 ? suffix : core::elapsed_ticks(since, now), weight, suffix);
    if (*r.tick_word != r.tick_seen) core::notice_tick(r);
}

// The way out of a scope that has a time, or during which a tick has passed, or that is not where the thread stands.
THAW_DETAIL_NOINLINE inline void leave_slowly(core::node* n, core::node* before) noexcept {
    core::thread_record& r = core::own_thread();
    if (r.current != n || n->open_since == 0 || n->weight != 1) [[unlikely]] return leave_short(r, n, before);
    core::close_node(r, *n, before, r.active_now());
}

}

class [[nodiscard]] scope {
public:
    // Effects: the thread stands in the node of `s` below where it stood. Post: nothing, where thaw does not record.
    THAW_DETAIL_INLINE explicit scope(core::site& s) noexcept { m_node = detail::enter(s, m_before); }

    // Effects: the thread stands where it stood before; the duration is booked where the entry was timed.
    THAW_DETAIL_INLINE ~scope() {
        if (m_node == nullptr) return;
        core::signal_fence();
        core::thread_record& r = *core::this_thread.record;
        if (r.current != m_node || m_node->open_since != 0 || *r.tick_word != r.tick_seen) [[unlikely]]
            detail::leave_slowly(m_node, m_before);
        else core::store_relaxed(r.current, m_before);
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
        core::thread_record* const r = core::recording_thread();
        if (r == nullptr) return;
        core::process_root& p = *r->process;
        if constexpr (requires { name.data(), name.size(); })
            m_node = detail::enter(p.dynamic_site(name.data(), name.size(), core::site_kind::scope, function, file, line), m_before);
        else
            m_node = detail::enter(
                p.dynamic_site(name, __builtin_strlen(name), core::site_kind::scope, function, file, line), m_before);
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
