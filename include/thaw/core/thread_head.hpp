// thaw floor 4 core: what a marker touches, and nothing else: the head of the calling thread's record, what its module knows of
// the process, and the table of the functions that do what is off the hot path.
//
// A marker finds the head through one thread-local pointer, constant-initialised and of the initial-exec model: reading it is
// one instruction and never allocates. A thread without a record points at `detached_thread`, so that a single test decides
// "not started", "paused", "first marker of this thread" and "a tick has passed" at once.
//
// Whatever is rare is done by functions of the module that started thaw, through a table that thaw::start hands to every
// module. So a translation unit that only carries markers neither reads nor compiles the rest of the core.
#ifndef THAW_CORE_THREAD_HEAD_HPP
#define THAW_CORE_THREAD_HEAD_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>
#include <thaw/core/node.hpp>
#include <thaw/core/site.hpp>

#include <cstdint>

namespace thaw::core {

struct process_root;
struct thread_record;
struct allocator_slot;

// A word that no thread has ever seen.
[[gnu::visibility("hidden")]] inline constexpr std::uint64_t always = UINT64_MAX;

// The head of a thread's record. The owner writes; a collector reads what it needs with relaxed loads.
struct thread_head {
    // Where the thread stands; null: it does not record now. Stored with release, so that a collector that finds it (acquire, in
    // agent/collect.hpp) sees the whole of a node that was just made.
    node* current = nullptr;
    // Where a marker looks whether there is anything special to do: the tick word, or, while the thread does not record, a word
    // that always differs from what was seen.
    std::uint64_t const volatile* tick_word = &always;
    std::uint64_t tick_seen = 0;            // the tick word when the thread last looked and it had changed
    node* entered_from = nullptr;           // where the thread stood before its last entry that took the slow path
    allocator_slot* allocator_slots = nullptr;  // allocator_slot_count of them; null until the first counted allocation
    std::uint64_t allocated_bytes = 0;      // by counting allocators on this thread
    thread_record* whole = nullptr;         // the record that this is the head of; null: no thread's
};

// A child that was found before: `child` is where an entry from `at` leads. Where there is none yet, `at` is null and `child` a
// node that no marker leads to, so that it may be read before `at` has been compared.
struct cached_child {
    node* at = nullptr;
    node* child = nullptr;
};
inline constexpr std::size_t child_cache_size = 512;

// Not 0 where two addresses differ. Markers join such answers with | and branch once: with a branch for each, the patterns of many
// sites took 0.3 to 0.5 ns more, because the code of a marker was larger.
[[nodiscard]] THAW_DETAIL_INLINE std::uintptr_t differ(void const* a, void const* b) noexcept {
    return reinterpret_cast<std::uintptr_t>(a) ^ reinterpret_cast<std::uintptr_t>(b);
}

// The head of a thread that records.
struct recording_head : thread_head {
    cached_child children[child_cache_size];

    // The place of a child in the cache. Nodes lie 128 bytes apart and sites 40, so that the mere sum spreads the children of a
    // node over all places, and those of different nodes too.
    THAW_DETAIL_INLINE cached_child& cache_slot(node const* at, site const& s) noexcept {
        static_assert(sizeof(site) == 40 && sizeof(node) == 128 && sizeof(cached_child) == 16);
        std::uintptr_t const sum = reinterpret_cast<std::uintptr_t>(at) + reinterpret_cast<std::uintptr_t>(&s);
        std::uintptr_t const bytes = sum & (child_cache_size - 1) * sizeof(cached_child);
        return *reinterpret_cast<cached_child*>(reinterpret_cast<unsigned char*>(children) + bytes);
    }
};

// A thread's record as a module knows it.
struct thread_slot {
    thread_head* record;
    bool ended;  // the thread's record was handed over; it gets no other
};

[[gnu::visibility("hidden")]] inline constinit thread_head detached_thread{};

// Code that can only become part of an executable addresses it directly; other code through the module's offset table, which
// is one instruction more. General-dynamic, the default of shared objects, is a call and may allocate.
#if defined(__PIC__) && !defined(__PIE__)
#define THAW_DETAIL_TLS_MODEL "initial-exec"
#else
#define THAW_DETAIL_TLS_MODEL "local-exec"
#endif
[[gnu::visibility("hidden"), gnu::tls_model(THAW_DETAIL_TLS_MODEL)]] inline constinit thread_local thread_slot this_thread{
    &detached_thread, false};
static_assert(sizeof(thread_slot) <= 64, "a dlopen'd module draws on a small reserve of static thread-local storage");

// What markers call off the hot path, with the calling module's slot of the thread; core/marking.hpp says what they do.
struct marking_functions {
    node* (*enter)(thread_slot&, site&) noexcept;
    node* (*enter_timed)(thread_slot&, node*) noexcept;
    void (*leave)(thread_slot&, node*, node*) noexcept;
    node* (*begin_wait)(thread_slot&, site&) noexcept;
    void (*end_wait)(thread_slot&, node*, node*) noexcept;
    site* (*named_site)(thread_slot&, site const&, std::size_t) noexcept;
    std::uint64_t (*cpu_ns)() noexcept;
    void (*add_cpu)(thread_slot&, node*, std::uint64_t) noexcept;
    bool (*allocation)(thread_slot&, allocator_site&, std::size_t) noexcept;
    bool (*free)(thread_slot&, allocator_site&, std::size_t) noexcept;
};

// What a module knows of the process. Written by thaw::start, and by the module itself when it was loaded later.
struct module_slot {
    process_root* process = nullptr;              // null: thaw has not been started, or this module has not looked for it yet
    marking_functions const* marking = nullptr;   // set before `process`
    std::uint32_t idle = 0;                       // not 0: there is nothing to look for. 1: until thaw::start says so; 2: disabled
    std::uint32_t use_counter = THAW_HAS_COUNTER;
};

// Hidden: each module has its own, whatever the visibility flags. The name is fixed, so that the module's ELF note can refer to
// it (core/rendezvous.hpp).
[[gnu::visibility("hidden"), gnu::used]] inline constinit module_slot this_module __asm__("thaw_module_slot");

}

#endif
