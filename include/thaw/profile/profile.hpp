// thaw floor 2 profile: the plain value that a reporter receives. Whoever writes a reporter needs this header only.
//
// A profile is cumulative: it covers everything from the start of the process (thaw::start) to the moment it was collected,
// and `identity.sequence` numbers the profiles of one instance. A lost profile therefore loses nothing, and a receiver that
// wants the difference of two subtracts them. It owns all it refers to, can be copied, and is not tied to the process that
// made it. Thread-compatible: any number of threads may read one profile.
//
//   void my_reporter(thaw::profile const& p) {
//       for (auto const& n : p.nodes)
//           std::printf("%s %lu calls, p95 %lu ns\n", p.name_of(n).c_str(), n.calls, p.quantile_ns(n, 0.95));
//   }
//
// Units are in the names. All durations are active time: the time during which the process was frozen between invocations is
// in none of them. Counts are exact; a figure that is estimated has an error beside it that is not 0.
#ifndef THAW_PROFILE_PROFILE_HPP
#define THAW_PROFILE_PROFILE_HPP

#include <thaw/core/config.hpp>
#include <thaw/core/histogram.hpp>
#include <thaw/profile/cpu_profile.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace thaw {

// What a site marks in the code.
enum class site_kind : std::uint8_t {
    scope,       // THAW_SCOPE, THAW_FUNCTION
    handler,     // THAW_HANDLER: the root of an invocation's tree
    wait,        // THAW_WAIT
    allocator,   // THAW_ALLOCATOR
    background,  // stands above what threads do that work for no invocation
    overflow,    // takes what no longer fits into the memory limit
    process,     // the root of the tree
};

// One marked place in the code. The strings are copies: the module they came from may have been unloaded since.
struct profile_site {
    std::string name;
    std::string function;
    std::string file;
    std::uint32_t line = 0;
    site_kind kind = site_kind::scope;
};

inline constexpr std::uint32_t no_index = UINT32_MAX;

// A node of the calling-context tree: a site under a parent, summed over all threads.
struct profile_node {
    std::uint32_t site = 0;           // index into profile::sites
    std::uint32_t parent = no_index;  // index into profile::nodes, less than this node's own; no_index for the root
    std::uint64_t calls = 0;          // entries, recursive ones and those still open included
    std::uint64_t open = 0;           // threads that stand inside this node right now, whose entry is not in the sums yet
    std::uint64_t open_ns = 0;        // how long the longest of these has lasted, at least
    std::uint64_t timed = 0;          // entries that were measured with the clock
    std::uint64_t total_ns = 0;       // inclusive time of the completed entries, the outermost ones of a recursion
    std::uint64_t total_error_ns = 0; // standard error of total_ns; 0 where every entry was timed
    std::uint64_t max_ns = 0;         // the longest timed entry
    std::uint64_t errors = 0;         // of a handler: entries left by an exception or marked as failed
    std::uint64_t allocations = 0;    // made directly in this node by counting allocators
    std::uint64_t allocated_bytes = 0;
    std::uint32_t first_bucket = 0;   // its durations: profile::buckets[first_bucket, first_bucket + bucket_count)
    std::uint32_t bucket_count = 0;
    std::uint64_t cpu_ns = 0;         // CPU time of the threads inside, of entries through THAW_SCOPE_CPU, the completed ones; exact
};

// What the counting allocators of one site have done, wherever in the tree.
struct memory_site {
    std::uint32_t site = 0;  // index into profile::sites
    std::uint64_t allocations = 0;
    std::uint64_t allocated_bytes = 0;
    std::uint64_t frees = 0;
    std::uint64_t freed_bytes = 0;
    std::int64_t baseline_live_bytes = 0;  // live bytes when the first invocation had ended

    // Bytes that were allocated here and not freed here. Negative where nodes were spliced here from another site.
    [[nodiscard]] std::int64_t live_bytes() const noexcept { return static_cast<std::int64_t>(allocated_bytes - freed_bytes); }
    [[nodiscard]] std::int64_t live_blocks() const noexcept { return static_cast<std::int64_t>(allocations - frees); }
};

// Who made the profile.
struct profile_identity {
    std::string app;
    std::string version;
    std::string environment;
    std::string instance;  // 16 hexadecimal digits, one per process (and per restored snapshot)
    std::string build_id;  // the linker's build id of the executable, in hexadecimal; empty if it has none
    std::string host;
    std::uint32_t pid = 0;
    std::uint64_t sequence = 0;  // 1 for the first profile of the instance
};

// What the profile covers.
struct profile_window {
    std::uint64_t started_unix_ns = 0;  // thaw::start
    std::uint64_t ended_unix_ns = 0;    // this profile
    std::uint64_t invocations = 0;      // completed ones
    std::uint64_t cold = 0;             // of these, the first of the process (0 or 1)
    std::uint64_t errors = 0;           // of these, left by an exception or marked as failed
    std::uint64_t open = 0;             // invocations that are still running
    std::uint64_t active_ns = 0;        // time during which at least one invocation was open
    std::uint64_t wall_ns = 0;          // sum over the invocations, which may overlap
    std::uint64_t cpu_ns = 0;           // CPU time of the invocations' threads; 0 where it was not measured
    std::uint64_t wait_ns = 0;          // time the invocations spent in waits
    bool cpu_measured = false;
    std::uint64_t counter_jumps = 0;    // how often the CPU's counter had jumped: a snapshot of the machine was restored
};

// One invocation in detail: the slowest since the last report.
struct invocation_exemplar {
    struct part {
        std::uint32_t node = 0;  // index into profile::nodes
        std::uint64_t calls = 0;
        std::uint64_t total_ns = 0;
    };
    std::string request_id;
    std::uint32_t handler_site = no_index;  // no_index: there is no exemplar
    std::uint64_t started_unix_ns = 0;
    std::uint64_t wall_ns = 0;
    std::uint64_t cpu_ns = 0;
    std::uint64_t wait_ns = 0;
    std::uint64_t allocated_bytes = 0;
    bool failed = false;
    bool truncated = false;  // the tree has more nodes than the breakdown covers
    std::vector<part> parts; // empty where the invocation was suspended and resumed
};

// Everything that is not in the profile, with the reason. All zero: nothing was lost.
struct profile_losses {
    std::uint64_t overflow_entries = 0;     // entries counted at [overflow]: the memory limit was reached
    std::uint64_t overflow_durations = 0;   // durations that are in a sum but in no histogram, for the same reason
    std::uint64_t overflow_sites = 0;       // sites that share the entry [overflow]
    std::uint64_t overflow_names = 0;       // dynamic names beyond the cap
    std::uint64_t overflow_threads = 0;     // threads that could not be given a record
    std::uint64_t mismatched_scopes = 0;    // scopes that ended out of order or on another thread
    std::uint64_t torn_nodes = 0;           // nodes whose figures changed while they were read, every time
    std::uint64_t reports_put_off = 0;      // reports that would not have fitted into the time left
    std::uint64_t reports_failed = 0;       // reporters that threw
};

// What thaw itself took.
struct own_cost {
    std::uint64_t recording_ns = 0;   // markers: counted entries times their calibrated costs
    std::uint64_t collecting_ns = 0;  // measured, this profile's included
    std::uint64_t reporting_ns = 0;   // measured, up to the previous report
    std::uint64_t reports = 0;        // reporters called before this one
    std::uint64_t memory_bytes = 0;   // address space used for records, trees and histograms
};

// A range of histogram buckets inside a profile.
struct bucket_range {
    core::histogram_bucket const* first = nullptr;
    core::histogram_bucket const* last = nullptr;

    [[nodiscard]] core::histogram_bucket const* begin() const noexcept { return first; }
    [[nodiscard]] core::histogram_bucket const* end() const noexcept { return last; }
    [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(last - first); }
};

struct profile {
    profile_identity identity;
    profile_window window;
    std::vector<profile_site> sites;
    std::vector<profile_node> nodes;  // nodes[0] is the process; a parent stands before its children
    std::vector<core::histogram_bucket> buckets;
    std::vector<memory_site> memory;
    cpu_profile cpu;
    invocation_exemplar slowest;
    profile_losses losses;
    own_cost cost;

    [[nodiscard]] profile_site const& site_of(profile_node const& n) const noexcept { return sites[n.site]; }
    [[nodiscard]] std::string const& name_of(profile_node const& n) const noexcept { return sites[n.site].name; }

    // The durations of a node's timed entries, weighted so that they stand for all entries.
    [[nodiscard]] bucket_range durations_of(profile_node const& n) const noexcept {
        return {buckets.data() + n.first_bucket, buckets.data() + n.first_bucket + n.bucket_count};
    }

    // The q-quantile of a node's durations in nanoseconds, within 1.6 %; 0 if none was recorded. Quantiles do not add along
    // the tree: for several nodes together, merge their buckets first.
    [[nodiscard]] std::uint64_t quantile_ns(profile_node const& n, double q) const noexcept {
        bucket_range const r = durations_of(n);
        return core::bucket_quantile_ns(r.first, r.last, q, n.max_ns);
    }
};

// For every node the time that is in none of its children. It may be slightly negative where totals are estimated, and where
// a recursion was folded: it is not clamped, so that the self times of a tree add up to the total of its root.
// A template, so that only the unit that asks for them pays for instantiating it.
template <class Profile>
[[nodiscard]] std::vector<std::int64_t> self_times_ns(Profile const& p) {
    std::vector<std::int64_t> self(p.nodes.size());
    for (std::size_t i = 0; i < p.nodes.size(); ++i) {
        auto const total = static_cast<std::int64_t>(p.nodes[i].total_ns);
        self[i] += total;
        if (p.nodes[i].parent != no_index) self[p.nodes[i].parent] -= total;
    }
    return self;
}

}

#endif
