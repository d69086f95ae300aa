// thaw floor 6 probe: counting allocators. An allocator that knows its site and counts exactly what its containers allocate
// and free.
//
//   std::vector<line, thaw::allocator<line>> lines{THAW_ALLOCATOR("cart.lines")};
//   thaw::vector<line> lines{THAW_ALLOCATOR("cart.lines")};      // <thaw/probe/containers.hpp>
//
// An allocation is attributed to the scope the thread stands in and to the allocator's site, a free to the site. All
// allocators compare equal and travel with their container (copy assignment, move, swap), so containers behave as with
// std::allocator. Where nodes are spliced between containers of two sites, bytes move from one site's account to the other's,
// whose live bytes may then be negative; the sum stays exact.
//
// Counted from the first allocation of the program on, also before thaw::start; not at all where thaw is disabled by its
// environment. Thread-safe. Throws what std::allocator throws. Not for signal handlers.
#ifndef THAW_PROBE_ALLOCATOR_HPP
#define THAW_PROBE_ALLOCATOR_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <new>
#include <type_traits>

#if THAW_ENABLED
#include <thaw/core/allocation.hpp>
#include <thaw/core/rendezvous.hpp>
#else
#include <memory>
#endif

THAW_DETAIL_BEGIN

#if THAW_ENABLED

namespace detail {

// A thread's first allocation at a site, the first after it has moved in the tree, and those of threads that do not record.
THAW_DETAIL_NOINLINE inline void count_allocation_slowly(core::allocator_site& s, std::size_t bytes) noexcept {
    core::marking_functions const* const f = core::marking();
    if (f == nullptr || !f->allocation(core::this_thread, s, bytes)) core::count_early(s, bytes, false);
}

THAW_DETAIL_INLINE void count_allocation(core::allocator_site& s, std::size_t bytes) noexcept {
    core::thread_head& head = *core::this_thread.record;
    if (head.allocator_slots == nullptr || head.current == nullptr) [[unlikely]] return count_allocation_slowly(s, bytes);
    core::allocator_slot const& slot = head.allocator_slots[core::load_relaxed(s.slot)];
    if (slot.at != head.current) [[unlikely]] return count_allocation_slowly(s, bytes);
    core::own_add(head.allocated_bytes, bytes);
    core::record_allocation(*slot.where, bytes);
}

THAW_DETAIL_NOINLINE inline void count_free_slowly(core::allocator_site& s, std::size_t bytes) noexcept {
    core::marking_functions const* const f = core::marking();
    if (f == nullptr || !f->free(core::this_thread, s, bytes)) core::count_early(s, bytes, true);
}

THAW_DETAIL_INLINE void count_free(core::allocator_site& s, std::size_t bytes) noexcept {
    core::thread_head& head = *core::this_thread.record;
    std::uint32_t const index = core::load_relaxed(s.slot);  // another thread may be registering the site
    if (head.allocator_slots == nullptr || index == 0) [[unlikely]] return count_free_slowly(s, bytes);
    core::record_free(head.allocator_slots[index], bytes);
}

[[noreturn]] THAW_DETAIL_COLD inline void refuse_size() {
#if THAW_HAS_EXCEPTIONS
    throw std::bad_array_new_length();
#else
    __builtin_abort();
#endif
}

inline constinit core::allocator_site unnamed_allocations{{"[unnamed]", "", "", 0, core::site_kind::allocator}};

}

// What THAW_ALLOCATOR makes: converts to an allocator of any type.
struct allocator_tag {
    core::allocator_site* site;
};

template <class T>
class allocator {
public:
    using value_type = T;
    using size_type = std::size_t;
    using difference_type = std::ptrdiff_t;
    using propagate_on_container_copy_assignment = std::true_type;
    using propagate_on_container_move_assignment = std::true_type;
    using propagate_on_container_swap = std::true_type;
    using is_always_equal = std::true_type;

    // Counts at the site "[unnamed]".
    constexpr allocator() noexcept : m_site(&detail::unnamed_allocations) {}
    constexpr allocator(allocator_tag tag) noexcept : m_site(tag.site) {}  // NOLINT: implicit, a container's argument
    template <class U>
    constexpr allocator(allocator<U> const& other) noexcept : m_site(other.m_site) {}  // NOLINT: implicit, as the standard asks

    // Requires what std::allocator requires. Throws std::bad_alloc; nothing is counted then.
    [[nodiscard]] T* allocate(std::size_t n) {
        if (n > static_cast<std::size_t>(PTRDIFF_MAX) / sizeof(T)) [[unlikely]] detail::refuse_size();
        void* p = nullptr;
        if constexpr (alignof(T) > __STDCPP_DEFAULT_NEW_ALIGNMENT__)
            p = ::operator new(n * sizeof(T), std::align_val_t{alignof(T)});
        else p = ::operator new(n * sizeof(T));
        detail::count_allocation(*m_site, n * sizeof(T));
        return static_cast<T*>(p);
    }

    void deallocate(T* p, std::size_t n) noexcept {
        detail::count_free(*m_site, n * sizeof(T));
#if defined(__cpp_sized_deallocation)
        if constexpr (alignof(T) > __STDCPP_DEFAULT_NEW_ALIGNMENT__)
            ::operator delete(p, n * sizeof(T), std::align_val_t{alignof(T)});
        else ::operator delete(p, n * sizeof(T));
#else
        if constexpr (alignof(T) > __STDCPP_DEFAULT_NEW_ALIGNMENT__) ::operator delete(p, std::align_val_t{alignof(T)});
        else ::operator delete(p);
#endif
    }

    template <class U>
    friend constexpr bool operator==(allocator const&, allocator<U> const&) noexcept {
        return true;
    }

private:
    template <class>
    friend class allocator;

    // The static site of a marker; it lives as long as the module it stands in, and so must containers that carry it.
    core::allocator_site* m_site;
};

#define THAW_ALLOCATOR(name)                                                                                              \
    (::thaw::allocator_tag{[]() noexcept {                                                                                \
        static constinit ::thaw::core::allocator_site thaw_site{                                                          \
            {name, "", __FILE__, __LINE__, ::thaw::core::site_kind::allocator}};                                          \
        return &thaw_site;                                                                                                \
    }()})

#else

template <class T>
using allocator = std::allocator<T>;

struct allocator_tag {
    template <class T>
    constexpr operator std::allocator<T>() const noexcept {  // NOLINT: implicit, as the enabled one
        return {};
    }
};

#define THAW_ALLOCATOR(name) (::thaw::allocator_tag{})

#endif

THAW_DETAIL_END

#endif
