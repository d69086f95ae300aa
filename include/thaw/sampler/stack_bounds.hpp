// thaw floor 1 sampler: where a thread's stack begins and ends, and whether there is room left on it.
#ifndef THAW_SAMPLER_STACK_BOUNDS_HPP
#define THAW_SAMPLER_STACK_BOUNDS_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>

#include <pthread.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

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

// The stack of the thread that the process began with; unknown where it cannot be told. The kernel puts the program's name above
// all of its frames; how far down the stack may grow is a limit of the process.
[[nodiscard]] inline stack_bounds first_thread_stack() noexcept {
    std::uintptr_t const top = ::getauxval(AT_EXECFN) & ~std::uintptr_t{15};
    rlimit limit{};
    if (top == 0 || ::getrlimit(RLIMIT_STACK, &limit) != 0) return {};
    constexpr std::uintptr_t most = std::uintptr_t{1} << 30;  // of a stack without a limit
    return {top - (limit.rlim_cur < most ? static_cast<std::uintptr_t>(limit.rlim_cur) : most), top};
}

// The bounds of the calling thread's stack; unknown where they cannot be had. Allocates for all threads but the first, so it is
// called when a thread is registered and never by a signal handler. May change errno. Rejected for the first thread:
// pthread_getattr_np, which reads /proc/self/maps by way of stdio, 50 us and 300 KiB of libc's pages.
[[nodiscard]] inline stack_bounds current_thread_stack() noexcept {
    if (::syscall(SYS_gettid) == ::getpid())  // in the child of a fork this may be a thread with another stack
        if (stack_bounds const first = first_thread_stack(); first.contains(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0))))
            return first;
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
