// thaw floor 6 core: what a process has once: the arena, the clock, the registered sites, the thread records.
//
// Thread-safe. Only thaw::start reserves memory. Registration takes no lock and is not for signal handlers.
#ifndef THAW_CORE_PROCESS_HPP
#define THAW_CORE_PROCESS_HPP

#include <thaw/core/allocation.hpp>
#include <thaw/core/arena.hpp>
#include <thaw/core/atomics.hpp>
#include <thaw/core/call_tree.hpp>
#include <thaw/core/clock.hpp>
#include <thaw/core/rendezvous.hpp>
#include <thaw/core/site.hpp>
#include <thaw/core/tick_word.hpp>

#include <cstddef>
#include <cstdint>

#include <pthread.h>

namespace thaw::core {

struct thread_record;
struct invocation_state;

inline constexpr std::uint32_t dynamic_name_count = 1024;    // distinct names of THAW_SCOPE_DYNAMIC
inline constexpr std::uint32_t dynamic_slot_count = 4096;
inline constexpr std::size_t dynamic_name_size = 4096;       // bytes of such a name that count
inline constexpr std::uint32_t builtin_entries = 4;

// What was lost, by reason. Several threads write, rarely.
struct loss_counts {
    std::uint64_t sites = 0;
    std::uint64_t names = 0;
    std::uint64_t threads = 0;
};

struct process_root {
    std::uint32_t pid = 0;
    std::uint32_t stopped = 0;  // 1 after thaw::stop and in the child of a fork: threads without a record get none
    bool use_counter_knob = THAW_HAS_COUNTER;  // of the module that started, for the check against the others
    timing mode = timing::all;
    marking_functions const* marking = nullptr;  // of the module that started
    bool measure_cpu = true;                   // of invocations, by two system calls each
    // Another number each time that threads are to be sampled from now on. A thread that works for an invocation and has seen
    // another one calls begin_sampling; both functions keep errno. Set before the number (release; acquire in begin_sampling).
    std::uint32_t sampling_round = 0;
    pthread_key_t key = 0;  // its destructor hands a thread's record over when the thread ends
    tick_source source;
    active_clock clock;
    counter_watch watch;
    std::uint32_t watching = 0;                            // 1: a thread is looking
    std::uint64_t long_gap_ticks = UINT64_MAX;             // a gap after which it is worth a look: 1 s; set by thaw::start
    std::uint64_t no_tick = 0;                             // what stands for the tick word where there is none
    std::uint64_t const volatile* tick_word = &no_tick;    // set by thaw::start where short scopes are not all timed
    arena memory;

    site_entry* entries = nullptr;   // the one registered last; the others by `next`
    std::uint32_t entry_count = builtin_entries;
    std::uint32_t slot_count = 2;    // allocator slots in use: 0 means "not registered", 1 is shared by those beyond the limit
    site_entry process_entry{.name = "process", .kind = site_kind::process};
    site_entry background_entry{.name = "[background]", .id = 1, .kind = site_kind::background};
    site_entry overflow_entry{.name = "[overflow]", .id = 2, .kind = site_kind::overflow};
    site_entry overflow_allocator{.name = "[overflow]", .id = 3, .slot = 1, .kind = site_kind::allocator};
    site* dynamic_sites[dynamic_slot_count] = {};
    std::uint32_t dynamic_count = 0;
    site other_scopes{"[other names]", "", "", 0, site_kind::scope};  // what dynamic names beyond the limit share
    site other_waits{"[other names]", "", "", 0, site_kind::wait};

    thread_record* records = nullptr;          // the one made last; the others by `next`; never removed
    std::uint64_t free_invocations = 0;        // a stack: the first one's arena offset, and a tag in the upper half
    loss_counts lost;

    // A report is due when the counter has reached this; 0: at once.
    std::uint64_t next_report_ticks = 0;
    // Set when an anomaly wants a report before its time.
    std::uint32_t report_wanted = 0;
    // Called at the end of an invocation when a report is due, on the thread that closed it. Set by the agent.
    void (*report)(process_root&, thread_record&, invocation_state const*) noexcept = nullptr;
    std::uint64_t report_sequence = 1;  // of the next report
    void (*begin_sampling)(thread_record&) noexcept = nullptr;
    void (*end_sampling)(thread_record&) noexcept = nullptr;
    void* cpu_sampler = nullptr;
    void* agent = nullptr;

    // The entry of a site, made on its first hit. Never null: without memory it is an overflow entry, and that is counted.
    THAW_DETAIL_COLD site_entry& register_site(site& s) noexcept {
        site_entry* made = make_entry(s);
        if (made == nullptr) {
            shared_add(lost.sites, 1u);
            made = s.kind == site_kind::allocator ? &overflow_allocator : &overflow_entry;
        }
        site_entry* expected = nullptr;
        // release: who reads the entry from the site (acquire, in entry_of) sees it complete
        if (!compare_exchange(s.entry, expected, made)) return *expected;
        if (made != &overflow_allocator && made != &overflow_entry) {
            made->next = load_acquire(entries);
            while (!compare_exchange(entries, made->next, made)) {}  // pairs with the acquire of who walks the list
        }
        return *made;
    }

    THAW_DETAIL_INLINE site_entry& entry_of(site& s) noexcept {
        if (site_entry* const e = load_acquire(s.entry)) [[likely]] return *e;  // pairs with register_site
        return register_site(s);
    }

    // The site of a name that is known at run time only; one per distinct name and kind, up to dynamic_name_count, then one for all
    // others. The name is copied. Lock-free: two threads that bring a new name at once agree on one site.
    THAW_DETAIL_COLD site& dynamic_site(char const* name, std::size_t size, site_kind kind, char const* function, char const* file,
                                        std::uint32_t line) noexcept {
        if (size > dynamic_name_size) size = dynamic_name_size;
        for (std::size_t i = 0; i < size; ++i)
            if (name[i] == '\0') size = i;  // as it will be read
        std::uint64_t h = 0xCBF29CE484222325u ^ static_cast<std::uint64_t>(kind);
        for (std::size_t i = 0; i < size; ++i) h = (h ^ static_cast<unsigned char>(name[i])) * 0x100000001B3u;
        site* made = nullptr;
        for (std::uint64_t i = h ^ h >> 32;; ++i) {
            site*& slot = dynamic_sites[i % dynamic_slot_count];
            site* found = load_acquire(slot);
            if (found == nullptr) {
                if (made == nullptr) made = make_dynamic(name, size, kind, function, file, line);
                if (made == nullptr) {
                    shared_add(lost.names, 1u);
                    return kind == site_kind::wait ? other_waits : other_scopes;
                }
                if (compare_exchange(slot, found, made)) return *made;
            }
            if (found->kind == kind && same(found->name, name, size)) return *found;
        }
    }

    // Copies a string into the arena; null where there is no room.
    [[nodiscard]] char const* copy(char const* text, std::size_t size) noexcept {
        auto* const to = static_cast<char*>(memory.allocate((size + 8) & ~std::size_t{7}));
        if (to != nullptr)
            for (std::size_t i = 0; i < size; ++i) to[i] = text[i];
        return to;
    }

private:
    [[nodiscard]] char const* copy(char const* text) noexcept {
        return text == nullptr ? "" : copy(text, __builtin_strlen(text));
    }

    site_entry* make_entry(site const& s) noexcept {
        std::uint32_t slot = 0;
        if (s.kind == site_kind::allocator) {
            slot = shared_add(slot_count, 1u);
            if (slot >= allocator_slot_count) {
                store_relaxed(slot_count, allocator_slot_count);
                return nullptr;
            }
        }
        auto* const e = static_cast<site_entry*>(memory.allocate(sizeof(site_entry)));
        if (e == nullptr) return nullptr;
        *e = {.name = copy(s.name), .function = copy(s.function), .file = copy(s.file), .line = s.line,
              .id = shared_add(entry_count, 1u), .slot = slot, .kind = s.kind};
        return e->name == nullptr || e->function == nullptr || e->file == nullptr ? nullptr : e;
    }

    site* make_dynamic(char const* name, std::size_t size, site_kind kind, char const* function, char const* file,
                       std::uint32_t line) noexcept {
        if (load_relaxed(dynamic_count) >= dynamic_name_count) return nullptr;
        auto* const made = static_cast<site*>(memory.allocate(sizeof(site)));
        char const* const text = made == nullptr ? nullptr : copy(name, size);
        if (text == nullptr) return nullptr;
        shared_add(dynamic_count, 1u);
        *made = {text, function, file, line, kind};
        return made;
    }

    static bool same(char const* stored, char const* name, std::size_t size) noexcept {
        for (std::size_t i = 0; i < size; ++i)
            if (stored[i] != name[i] || stored[i] == '\0') return false;
        return stored[size] == '\0';
    }
};

}

#endif
