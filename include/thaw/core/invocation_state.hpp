// thaw floor 3 core: one invocation of a handler, from its opening to its close: what is known of it and what it has used.
//
// States live in the arena and are recycled, never unmapped, so that a context that is kept too long finds a later generation
// and not a dangling pointer. The thread the invocation runs on writes; the sums that other threads may add to say so.
#ifndef THAW_CORE_INVOCATION_STATE_HPP
#define THAW_CORE_INVOCATION_STATE_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>
#include <thaw/core/site.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::core {

struct invocation_state {
    static constexpr std::size_t request_id_size = 64;
    static constexpr std::size_t trace_parent_size = 128;

    std::uint64_t generation = 0;        // odd while the invocation is open
    site_entry* handler = nullptr;
    std::uint64_t opened_at = 0;         // V
    std::uint64_t gaps = 0;              // of the active clock, constant while this invocation is open
    std::uint64_t deadline_unix_ns = 0;  // 0: none is known
    std::uint64_t wait_ticks = 0;        // outermost waits; several threads may add
    std::uint64_t allocated_bytes = 0;   // by counting allocators; several threads may add
    std::uint64_t cpu_ns = 0;            // CPU time of its pieces
    std::uint64_t cpu_started_ns = 0;    // the thread's CPU time when the piece that runs began
    std::uint64_t allocated_started = 0; // the thread's allocated bytes then
    bool in_pieces = false;              // it goes through a handle
    bool failed = false;
    bool described = false;              // the deadline or one of the texts is set
    std::uint32_t next_free = 0;         // arena offset
    char request_id[request_id_size] = {};      // zero-terminated, cut to fit
    char trace_parent[trace_parent_size] = {};  // likewise

    // Copies a text that need not be terminated, cut to fit.
    template <std::size_t N>
    static void assign(char (&to)[N], char const* text, std::size_t size) noexcept {
        if (size > N - 1) size = N - 1;
        if (size != 0) __builtin_memcpy(to, text, size);
        to[size] = '\0';
    }
};

}

#endif
