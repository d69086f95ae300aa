// thaw floor 2 core: the arena, the one block of address space that all live data of a process comes from.
//
// It is reserved once, by mmap, and never returned; pages become resident when they are first written. Allocation is a
// fetch-and-add: thread-safe, signal-safe, and no call into the host's allocator. Beyond its size it answers null, and the
// caller counts the loss.
#ifndef THAW_CORE_ARENA_HPP
#define THAW_CORE_ARENA_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>

#include <sys/mman.h>

namespace thaw::core {

class arena {
public:
    // Reserves `size_bytes` (rounded up to pages). Returns whether it could; errno is the host's business and is kept by the
    // caller.
    [[nodiscard]] bool reserve(std::size_t size_bytes) noexcept {
        size_bytes = (size_bytes + 4095u) & ~std::size_t{4095};
        void* const p = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return false;
        // A huge page would make 2 MiB resident on the first write. Where the kernel has none this fails, harmlessly.
        ::madvise(p, size_bytes, MADV_NOHUGEPAGE);
        m_begin = static_cast<unsigned char*>(p);
        m_size = size_bytes;
        m_used = 0;
        return true;
    }

    // Gives the block back. Only for a process_root that could not be finished.
    void release() noexcept {
        if (m_begin != nullptr) ::munmap(m_begin, m_size);
        m_begin = nullptr;
        m_size = m_used = 0;
    }

    // Zeroed memory, aligned to 64 bytes where the size is a multiple of 64 and to 8 otherwise; null when it is used up.
    [[nodiscard]] void* allocate(std::size_t size_bytes) noexcept {
        std::size_t const align = size_bytes % 64 == 0 ? 64 : 8;
        std::size_t used = load_relaxed(m_used);
        for (;;) {
            std::size_t const begin = (used + align - 1) & ~(align - 1);
            if (begin > m_size || size_bytes > m_size - begin) return nullptr;
            if (compare_exchange(m_used, used, begin + size_bytes)) return m_begin + begin;
        }
    }

    // A block's place as a number that fits 32 bits: its distance from the beginning in units of 8 bytes. 0 is no block,
    // since the arena begins with the process_root.
    [[nodiscard]] std::uint32_t offset_of(void const* p) const noexcept {
        return static_cast<std::uint32_t>((static_cast<unsigned char const*>(p) - m_begin) / 8);
    }
    [[nodiscard]] void* at(std::uint32_t offset) const noexcept { return m_begin + std::size_t{offset} * 8; }

    // Whether all of [p, p + size_bytes) was allocated.
    [[nodiscard]] bool holds(void const* p, std::size_t size_bytes) const noexcept {
        auto const at = reinterpret_cast<std::uintptr_t>(p), begin = reinterpret_cast<std::uintptr_t>(m_begin);
        return at >= begin && at - begin <= m_size && load_relaxed(m_used) >= at - begin + size_bytes;
    }

    [[nodiscard]] std::size_t used_bytes() const noexcept { return load_relaxed(m_used); }
    [[nodiscard]] std::size_t size_bytes() const noexcept { return m_size; }

private:
    unsigned char* m_begin = nullptr;
    std::size_t m_size = 0;
    std::size_t m_used = 0;
};

}

#endif
