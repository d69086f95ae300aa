// thaw floor 1 sampler: where a thread's stack begins and ends, and whether there is room left on it.
#ifndef THAW_SAMPLER_STACK_BOUNDS_HPP
#define THAW_SAMPLER_STACK_BOUNDS_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>

#include <pthread.h>

namespace thaw::sampler {

// [low, top); a stack grows downward. Both 0: not known.
struct stack_bounds {
    std::uintptr_t low = 0;
    std::uintptr_t top = 0;

    [[nodiscard]] constexpr bool contains(std::uintptr_t address) const noexcept { return address >= low && address < top; }
    // Whether the whole word at `address` lies within.
    [[nodiscard]] constexpr bool holds_word(std::uintptr_t address) const noexcept {
        return address >= low && address < top && top - address >= sizeof(std::uintptr_t);
    }
};

// What unwinder::unwind and what it calls need below the caller's frame; unwind_test.cpp measures it.
inline constexpr std::size_t unwind_stack_bytes = 4096;

// Whether a walk may be started with the stack pointer at `sp`. False on a stack that is not the thread's own.
[[nodiscard]] constexpr bool enough_room(std::uintptr_t sp, stack_bounds bounds) noexcept {
    return bounds.contains(sp) && sp - bounds.low >= unwind_stack_bytes;
}

// The bounds of the calling thread's stack; unknown where they cannot be had. Allocates and, on the main thread, reads
// /proc/self/maps (50 us), so it is called when a thread is registered and never by a signal handler. May change errno.
[[nodiscard]] inline stack_bounds current_thread_stack() noexcept {
    pthread_attr_t attributes;
    if (::pthread_getattr_np(::pthread_self(), &attributes) != 0) return {};
    void* low = nullptr;
    std::size_t size_bytes = 0;
    bool const known = ::pthread_attr_getstack(&attributes, &low, &size_bytes) == 0;
    ::pthread_attr_destroy(&attributes);
    if (!known) return {};
    auto const begin = reinterpret_cast<std::uintptr_t>(low);
    return {begin, begin + size_bytes};
}

}

#endif
