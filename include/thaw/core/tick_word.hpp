// thaw floor 1 core: the tick word: a word of memory that the kernel changes with every timer tick, and that can be read in
// a third of a nanosecond.
//
// It answers one question, "has a tick passed since?", which is how a scope that is too short to be timed every time is found
// out when it hangs (core/call_tree.hpp). The kernel keeps the coarse clock for the vDSO in a page that is mapped into every
// process; the word is the nanoseconds of CLOCK_MONOTONIC_COARSE in it. Where it stands in the page differs between kernels,
// so it is searched for by its value. Where it is not found (time namespaces, valgrind, gVisor) there is no word, and hanging
// scopes are noticed by other events only. Rejected: clock_gettime(CLOCK_MONOTONIC_COARSE), the same word for ten times the
// price.
#ifndef THAW_CORE_TICK_WORD_HPP
#define THAW_CORE_TICK_WORD_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>

#include <fcntl.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

namespace thaw::core {

// Where in a page of `words` words the pair (seconds, nanoseconds) stands; the index of the nanoseconds, 0 where it does not.
[[nodiscard]] inline std::size_t find_clock_pair(std::uint64_t const volatile* page, std::size_t words, timespec const& t) noexcept {
    for (std::size_t i = 0; i + 1 < words; ++i)
        if (page[i] == static_cast<std::uint64_t>(t.tv_sec) && page[i + 1] == static_cast<std::uint64_t>(t.tv_nsec)) return i + 1;
    return 0;
}

// The beginning of the mapping called [vvar] in the text of /proc/self/maps; 0 where there is none.
[[nodiscard]] constexpr std::uintptr_t find_vvar(char const* maps, std::size_t size) noexcept {
    constexpr char wanted[] = "[vvar]";
    std::size_t line = 0;
    for (std::size_t i = 0; i < size; ++i) {
        if (maps[i] == '\n') {
            line = i + 1;
            continue;
        }
        std::size_t k = 0;
        while (k < sizeof wanted - 1 && i + k < size && maps[i + k] == wanted[k]) ++k;
        if (k != sizeof wanted - 1) continue;
        std::uintptr_t address = 0;
        for (std::size_t d = line; maps[d] != '-'; ++d) {
            char const c = maps[d];
            unsigned const digit = c >= '0' && c <= '9' ? static_cast<unsigned>(c - '0') : c >= 'a' && c <= 'f' ? static_cast<unsigned>(c - 'a') + 10 : 16;
            if (digit == 16) return 0;
            address = address << 4 | digit;
        }
        return address;
    }
    return 0;
}

// The process's tick word, or null. Reads /proc/self/maps; called once, by thaw::start.
[[nodiscard]] inline std::uint64_t const volatile* find_tick_word() noexcept {
    if (::getauxval(AT_SYSINFO_EHDR) == 0) return nullptr;
    int const fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return nullptr;
    // The mapping is among the last lines: keep the last two buffers' worth while reading on.
    char text[8192];
    std::size_t used = 0;
    for (;;) {
        ssize_t const n = ::read(fd, text + used, sizeof text - used);
        if (n <= 0) break;
        used += static_cast<std::size_t>(n);
        if (used == sizeof text) {
            __builtin_memcpy(text, text + sizeof text / 2, sizeof text / 2);
            used = sizeof text / 2;
        }
    }
    ::close(fd);
    auto const* const page = reinterpret_cast<std::uint64_t const volatile*>(find_vvar(text, used));
    if (page == nullptr) return nullptr;
    for (int tries = 0; tries < 3; ++tries) {  // a tick may come between reading the clock and the page
        timespec t{};
        if (::clock_gettime(CLOCK_MONOTONIC_COARSE, &t) != 0) return nullptr;
        if (std::size_t const i = find_clock_pair(page, 4096 / sizeof(std::uint64_t), t)) return page + i;
    }
    return nullptr;
}

}

#endif
