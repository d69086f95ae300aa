// Uses up CPU time, by the thread's own clock: time during which the thread does not run does not count.
#ifndef THAW_TESTS_BURN_HPP
#define THAW_TESTS_BURN_HPP

#include <cstdint>

#include <time.h>

namespace thaw::testing {

inline std::uint64_t thread_cpu_ns() noexcept {
    timespec t{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}

// At least `ns`. Mostly in the function that it is inlined into.
[[gnu::always_inline]] inline void burn(std::uint64_t ns) noexcept {
    std::uint64_t const end = thread_cpu_ns() + ns;
    while (thread_cpu_ns() < end)
        for (int i = 0; i < 4000; ++i) __asm__ volatile("" : : "r"(i));
}

}

#endif
