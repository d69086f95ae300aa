// thaw floor 3 core: the node of a calling-context tree. Data and its meaning only; core/call_tree.hpp makes nodes and books
// entries, core/durations.hpp says how they are timed.
//
// One thread writes a node, any may read it at the same time; which fields belong together says core/call_tree.hpp.
#ifndef THAW_CORE_NODE_HPP
#define THAW_CORE_NODE_HPP

#include <thaw/core/site.hpp>

#include <cstdint>

namespace thaw::core {

struct duration_record;

// Two cache lines: the first holds what an entry and an exit touch, the second what a timed exit adds.
struct alignas(64) node {
    site const* marker = nullptr;  // that an entry to this node goes through; null where it always takes the slow path. Owner only
    node* parent = nullptr;
    std::uint64_t count = 0;       // entries; of an allocator: allocations
    std::uint64_t timed_at = 0;    // the entry from which on a scope takes its timed path: 0 always, `never` not at all
    std::uint64_t open_since = 0;  // V at the entry that is open, or when it was first seen (weight 0); 0: not open, or not seen
    node* target = nullptr;        // an alias: the open node it stands for; otherwise null
    std::uint64_t prediction = 0;  // of a short node: ticks that each entry is expected to take; 0: the node is long
    std::uint32_t weight = 0;      // of the open entry: how many entries it stands for; 0: it was not timed from its beginning
    std::uint32_t ordinal = 0;     // position in the order of creation, from 0

    site_entry* entry = nullptr;
    std::uint32_t version = 0;     // odd while those below change; a reader that sees 2^31 changes as none is not feared
    std::uint32_t samples = 0;     // CPU samples without a stack taken while the thread stood here; by a signal handler of the owner
    std::uint64_t sum_ticks = 0;   // of the completed entries, without the predictions of the last ones; of an allocator: bytes
    std::uint64_t max_ticks = 0;
    std::uint64_t timed = 0;       // entries that were timed, wholly or from a stamp on
    duration_record* durations = nullptr;
    node* created_next = nullptr;  // published with release by call_tree::append
    std::uint32_t errors = 0;      // of a handler: entries left by an exception or marked as failed

    [[nodiscard]] node* resolved() noexcept { return target != nullptr ? target : this; }
};
static_assert(sizeof(node) == 128, "an entry touches one cache line, and a node is two");

}

#endif
