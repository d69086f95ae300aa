// thaw floor 1 profile: where the CPU time went, found by sampling: by scope, and by native function.
//
// A CPU-time timer of each thread that works for an invocation interrupts it; each interruption is one sample, of the node in
// which the thread stood and, if asked, of its native call stack. A sample weighs the CPU time of its report window divided by
// the window's samples: one weight for all of a window, because scaling each invocation by itself is biased when short and
// long ones mix. CPU time of windows without a sample is in unattributed_ns and in no stack.
//
// Like the profile it belongs to, it is cumulative, a plain value, and owns what it refers to. Thread-compatible.
#ifndef THAW_PROFILE_CPU_PROFILE_HPP
#define THAW_PROFILE_CPU_PROFILE_HPP

#include <thaw/core/config.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace thaw {

// A file that code was sampled in, as it was mapped.
struct code_module {
    std::string path;           // as the dynamic linker or the kernel names it; "[vdso]"
    std::string build_id;       // of its ELF note, in hexadecimal; empty if it has none
    std::uint64_t start = 0;    // addresses of its executable mapping: [start, limit)
    std::uint64_t limit = 0;
    std::uint64_t file_offset = 0;  // of `start` in the file
    std::uint64_t bias = 0;     // address in memory minus address in the file's symbol table
};

// A place in the code: what is looked up is the function around it.
struct code_location {
    std::uint64_t address = 0;       // in memory, inside the instruction: for a caller, its return address less 1
    std::uint32_t module = UINT32_MAX;  // index into cpu_profile::modules; UINT32_MAX: in no known module
    std::string function;            // demangled; empty until profile/symbolize.hpp has found it, and where it is not found
};

// One distinct (node, call stack).
struct cpu_stack {
    std::uint32_t node = 0;         // index into profile::nodes: the scope in which the thread stood
    std::uint32_t first_frame = 0;  // cpu_profile::frames[first_frame, first_frame + frame_count), innermost first
    std::uint32_t frame_count = 0;  // 0 where native stacks are off, or none could be taken
    bool truncated = false;         // the outermost frames are missing
    std::uint64_t samples = 0;
    std::uint64_t cpu_ns = 0;       // samples times the weights of their windows
};

struct cpu_profile {
    std::string status;                  // "on", that with a restriction, or why there are no samples: "off", "unavailable (signal taken)", ...
    std::uint64_t period_ns = 0;         // CPU time between two samples as asked of the kernel, whose tick decides
    std::uint64_t samples = 0;           // of all stacks together
    std::uint64_t cpu_ns = 0;            // CPU time of the invocations that was covered, unattributed_ns included
    std::uint64_t unattributed_ns = 0;   // of windows without a sample
    std::uint64_t dropped = 0;           // samples of threads that worked for no invocation at that moment
    std::uint64_t overflow_stacks = 0;   // samples whose stack found no room any more: their stack is empty, their node known
    std::uint64_t truncated_stacks = 0;  // samples whose outermost frames are missing
    std::uint64_t failed_stacks = 0;     // samples whose stack could not be taken at all
    std::vector<code_module> modules;
    std::vector<code_location> locations;
    std::vector<std::uint32_t> frames;   // indices into locations
    std::vector<cpu_stack> stacks;

    // The standard error of a share, as a fraction, by the binomial distribution: sqrt(share (1 - share) / samples). Worked
    // value: a share of 0.6 among 254 samples has 0.031, 3.1 percentage points. 1 where there is no sample.
    [[nodiscard]] double share_error(double share) const noexcept {
        if (samples == 0) return 1;
        double const variance = share * (1 - share) / static_cast<double>(samples);
        return variance > 0 ? __builtin_sqrt(variance) : 0;
    }
};

}

#endif
