// thaw floor 2 core: the site, a static descriptor of one marked place in the code, and the entry it is registered under.
//
// A site is a constant-initialised static that a marker's macro makes: no guard variable, no code before main. Its entry is
// made on the first hit after thaw::start, in thaw's own memory and with copies of the strings, so that trees and reports
// outlive the module the site stands in. Trees refer to entries, never to sites.
#ifndef THAW_CORE_SITE_HPP
#define THAW_CORE_SITE_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>

#include <cstdint>

namespace thaw::core {

// What a site marks. The same values as thaw::site_kind of the profile (checked in agent/collect.hpp).
enum class site_kind : std::uint8_t { scope, handler, wait, allocator, background, overflow, process };

// What the counting allocators of a site did on threads that have no record: before thaw::start, and after a thread's end.
// Several threads write.
struct early_counts {
    std::uint64_t allocations = 0;
    std::uint64_t allocated_bytes = 0;
    std::uint64_t frees = 0;
    std::uint64_t freed_bytes = 0;
};

struct site_entry {
    char const* name = "";
    char const* function = "";
    char const* file = "";
    std::uint32_t line = 0;
    std::uint32_t id = 0;          // dense, from 0, in the order of registration
    std::uint32_t slot = 0;        // allocator sites: index of the per-thread slot, from 1
    site_kind kind = site_kind::scope;
    early_counts early{};
    site_entry* next = nullptr;    // the entry registered before this one
};

struct site {
    char const* name;
    char const* function;
    char const* file;
    std::uint32_t line;
    site_kind kind;
    // Null until the first hit. Written once with release by process_root::register_site, read with acquire.
    site_entry* entry = nullptr;
};

// The site of an allocator carries its own counters, because containers may be built before thaw::start.
struct allocator_site : site {
    std::uint32_t slot = 0;  // of its entry; 0 until it is registered
    early_counts early{};
};

}

// A site that is made in place, once per place. An expression, so that a marker is one declaration and may
// stand under an `if` without braces; __extension__ keeps -Wpedantic silent about the statement expression.
#define THAW_DETAIL_SITE(site_name, site_function, site_kind_name)                                                        \
    (*__extension__({                                                                                                     \
        alignas(8) static constinit ::thaw::core::site thaw_site{site_name, site_function, __FILE__, __LINE__,                       \
                                                      ::thaw::core::site_kind::site_kind_name};                           \
        &thaw_site;                                                                                                       \
    }))

#endif
