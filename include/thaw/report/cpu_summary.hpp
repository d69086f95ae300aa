// thaw floor 4 report: what the stacks of a CPU profile add up to: by scope and innermost function, and by function with what it
// calls.
//
// A function is its name; where it has none, its place in its module. A recursive function counts once for each sample.
// Thread-compatible; allocates. Templates, so that a unit that makes no report does not pay for instantiating them.
#ifndef THAW_REPORT_CPU_SUMMARY_HPP
#define THAW_REPORT_CPU_SUMMARY_HPP

#include <thaw/core/config.hpp>
#include <thaw/profile/profile.hpp>
#include <thaw/profile/symbolize.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace thaw::report::detail {

// Samples of which something is known. `function` is an index into cpu_summary::functions; no_index: no stack was taken.
struct cpu_sum {
    std::uint32_t site = no_index;
    std::uint32_t function = no_index;
    std::uint64_t samples = 0;
    std::uint64_t cpu_ns = 0;
    std::uint64_t total_samples = 0;  // of a function: with what it calls
    std::uint64_t total_cpu_ns = 0;
};

template <class Profile>
class cpu_summary {
public:
    // Requires: `p` is well formed and outlives the summary.
    explicit cpu_summary(Profile const& p) : m_profile(p), m_function_of(p.cpu.locations.size(), no_index) {
        for (cpu_stack const& s : p.cpu.stacks) add(s);
    }

    std::vector<std::string> functions;  // as shown; not yet printable
    std::vector<cpu_sum> places;         // by site and innermost function
    std::vector<cpu_sum> by_function;    // as functions
    std::vector<cpu_sum> by_site;        // by site alone

private:
    void add(cpu_stack const& s) {
        std::uint32_t const site = m_profile.nodes[s.node].site;
        auto const* const frame = m_profile.cpu.frames.data() + s.first_frame;
        std::uint32_t const innermost = s.frame_count == 0 ? no_index : function_of(frame[0]);
        take(sum_of(places, site, innermost), s);
        take(sum_of(by_site, site, no_index), s);
        if (innermost == no_index) return;
        take(by_function[innermost], s);
        for (std::uint32_t i = 0; i < s.frame_count; ++i) {
            std::uint32_t const f = function_of(frame[i]);
            bool again = false;
            for (std::uint32_t k = 0; k < i && !again; ++k) again = function_of(frame[k]) == f;
            if (again) continue;
            by_function[f].total_samples += s.samples;
            by_function[f].total_cpu_ns += s.cpu_ns;
        }
    }

    static void take(cpu_sum& to, cpu_stack const& s) noexcept {
        to.samples += s.samples;
        to.cpu_ns += s.cpu_ns;
    }

    static cpu_sum& sum_of(std::vector<cpu_sum>& sums, std::uint32_t site, std::uint32_t function) {
        for (cpu_sum& s : sums)
            if (s.site == site && s.function == function) return s;
        sums.push_back({site, function});
        return sums.back();
    }

    std::uint32_t function_of(std::uint32_t location) {
        std::uint32_t& known = m_function_of[location];
        if (known != no_index) return known;
        std::string const name = name_of(location);
        std::uint32_t at = 0;
        while (at < functions.size() && functions[at] != name) ++at;
        if (at == functions.size()) {
            functions.push_back(name);
            by_function.push_back({no_index, at});
        }
        return known = at;
    }

    // A place without a function counts with its module, as in pprof: a stripped library would otherwise take a line for each of
    // its instructions.
    std::string name_of(std::uint32_t location) const {
        code_location const& l = m_profile.cpu.locations[location];
        if (!l.function.empty() || l.module >= m_profile.cpu.modules.size()) return display_name(m_profile.cpu, location);
        std::string const& path = m_profile.cpu.modules[l.module].path;
        std::string name = path.substr(path.rfind('/') + 1);
        return name.empty() || name[0] != '[' ? '[' + name + ']' : name;  // the kernel's own are in brackets already
    }

    Profile const& m_profile;
    std::vector<std::uint32_t> m_function_of;  // by location
};

}

#endif
