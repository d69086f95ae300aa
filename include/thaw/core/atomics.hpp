// thaw floor 1 core: the few atomic operations that the core needs, over the compiler's builtins, because <atomic> costs every
// translation unit 200 ms. Nothing here allocates; all of it is signal-safe and thread-safe on naturally aligned words.
//
// Most counters have one writer, so an increment is a relaxed load and a relaxed store and never a locked instruction. Which
// operation an acquire or a release pairs with is said where it is used.
#ifndef THAW_CORE_ATOMICS_HPP
#define THAW_CORE_ATOMICS_HPP

#include <thaw/core/config.hpp>

namespace thaw::core {

template <class T>
THAW_DETAIL_INLINE T load_relaxed(T const& word) noexcept {
    return __atomic_load_n(&word, __ATOMIC_RELAXED);
}

template <class T>
THAW_DETAIL_INLINE T load_acquire(T const& word) noexcept {
    return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}

template <class T>
THAW_DETAIL_INLINE void store_relaxed(T& word, decltype(T{}) value) noexcept {
    __atomic_store_n(&word, value, __ATOMIC_RELAXED);
}

template <class T>
THAW_DETAIL_INLINE void store_release(T& word, decltype(T{}) value) noexcept {
    __atomic_store_n(&word, value, __ATOMIC_RELEASE);
}

// Adds to a counter that only this thread writes. Other threads may read it at any time.
template <class T>
THAW_DETAIL_INLINE void own_add(T& word, decltype(T{}) value) noexcept {
    store_relaxed(word, static_cast<T>(load_relaxed(word) + value));
}

// The same, where a reader who sees the sum must also see what its increments followed (pairs with an acquire load).
template <class T>
THAW_DETAIL_INLINE void own_add_release(T& word, decltype(T{}) value) noexcept {
    store_release(word, static_cast<T>(load_relaxed(word) + value));
}

// Adds to a counter that several threads write; returns the value before.
template <class T>
THAW_DETAIL_INLINE T shared_add(T& word, decltype(T{}) value) noexcept {
    return __atomic_fetch_add(&word, value, __ATOMIC_RELAXED);
}

template <class T>
THAW_DETAIL_INLINE bool compare_exchange(T& word, T& expected, decltype(T{}) desired) noexcept {
    return __atomic_compare_exchange_n(&word, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// Keeps the compiler from moving memory accesses across; no instruction. A signal handler of the same thread sees what
// stands before it.
THAW_DETAIL_INLINE void signal_fence() noexcept { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

}

#endif
