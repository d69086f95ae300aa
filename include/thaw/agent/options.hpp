// thaw floor 6 agent: the options of thaw::start, and how the environment overrides them.
//
// A value from the environment wins over one from the program, because an operator changes a function's environment without a
// rebuild. A value that does not parse or is out of range is a message that names the variable and the value, and what held
// before holds on. Pure functions over a given environment; nothing here reads the process's own.
#ifndef THAW_AGENT_OPTIONS_HPP
#define THAW_AGENT_OPTIONS_HPP

#include <thaw/core/config.hpp>

#include <cstdint>
#include <string>

#if THAW_ENABLED
#include <thaw/core/call_tree.hpp>
#include <thaw/sampler/unwind.hpp>
namespace thaw {
using core::timing;
using sampler::stack_source;
}
#else
namespace thaw {
enum class timing : std::uint8_t { none, all, adaptive };
enum class stack_source : std::uint8_t { none, frame_pointers, tables };
}
#endif

THAW_DETAIL_BEGIN

// Every member may be left out: thaw::start({.app = "shop", .version = "1.4.2"}, reporter).
struct options {
    // What runs: shown in reports and used to tell profiles apart. THAW_APP, THAW_VERSION, THAW_ENVIRONMENT. An empty app is
    // AWS_LAMBDA_FUNCTION_NAME, or the executable's name.
    std::string app = {};
    std::string version = {};
    std::string environment = {};

    // THAW_DISABLE=1: false. Nothing is reserved, recorded or reported; a marker costs a branch.
    bool enabled = true;

    // THAW_TIMING = adaptive | all | none. all: each entry of a scope is timed, about 25 ns. none: entries are counted only,
    // about 2 ns. adaptive: scopes that take more than about 1 us are timed each time, of shorter ones one entry in 64, about 3
    // ns, and their totals are estimates that come with their error. Waits and invocations are always timed.
    thaw::timing timing = thaw::timing::adaptive;

    // THAW_CPU_TIME = 1 | 0. The CPU time of invocations, by two system calls of 0.4 us for each.
    bool cpu_time = true;

    // THAW_CPU = 1 | 0. Samples where the CPU time of invocations goes, as often as the kernel's timer ticks, by SIGPROF; off where
    // the program has a handler for it. Costs 2 to 4 us a sample.
    bool cpu = true;

    // THAW_STACKS = tables | frame_pointers | none. What a sample knows besides its scope: the native call stack, by unwind
    // tables, which all code has, or by frame pointers, which code has that was compiled with -fno-omit-frame-pointer.
    stack_source stacks = stack_source::tables;

    // THAW_REPORT_EVERY_MS, 0 to 86400000. A report is due at the end of the first invocation that ends this long after the
    // last report; 0: of every invocation.
    std::uint32_t report_every_ms = 60'000;

    // THAW_REPORT_BUDGET_MS, 1 to 60000. What one report may take, collecting included. One that is expected to take longer,
    // or longer than the invocation's deadline leaves, is put off and counted.
    std::uint32_t report_budget_ms = 100;

    // THAW_MEMORY_LIMIT_BYTES, 1 MiB to 4 GiB. The address space that trees, histograms and thread records may use; what does
    // not fit goes to [overflow]. Only what is used becomes resident.
    std::uint64_t memory_limit_bytes = 16u << 20;

    // THAW_REPORT: the report's name; wins over the reporter of thaw::start. Empty: that reporter, or text.
    std::string report = {};
};

namespace detail {

struct option_limits {
    std::uint64_t least;
    std::uint64_t most;
};
inline constexpr option_limits report_every_limits{0, 86'400'000};
inline constexpr option_limits report_budget_limits{1, 60'000};
inline constexpr option_limits memory_limits{1u << 20, 4ull << 30};

// A decimal number; false where the text is anything else or does not fit.
[[nodiscard]] constexpr bool parse_number(char const* text, std::uint64_t& value) noexcept {
    std::uint64_t n = 0;
    for (char const* at = text; *at != '\0'; ++at) {
        if (*at < '0' || *at > '9') return false;
        if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, static_cast<unsigned>(*at - '0'), &n)) return false;
    }
    if (*text == '\0') return false;
    value = n;
    return true;
}

[[nodiscard]] inline bool parse_switch(char const* text, bool& value) noexcept {
    for (char const* const word : {"1", "true", "on", "yes"})
        if (__builtin_strcmp(text, word) == 0) return value = true, true;
    for (char const* const word : {"0", "false", "off", "no"})
        if (__builtin_strcmp(text, word) == 0) return value = false, true;
    return false;
}

// Makes one line of it: control characters and what is long are cut, since a value may be anything. A template, so that only
// the unit that starts thaw pays for instantiating it.
template <class String = std::string>
[[nodiscard]] String shown(char const* text) {
    String s;
    for (; *text != '\0' && s.size() < 80; ++text) s += static_cast<unsigned char>(*text) < 0x20 || *text == 0x7f ? '?' : *text;
    if (*text != '\0') s += "...";
    return s;
}

// Applies the environment, read by get(name) -> char const* (null: not set), and checks what the program gave. say(message)
// is called for every value that is not taken.
template <class Get, class Say>
[[nodiscard]] options resolve_options(options o, Get&& get, Say&& say) {
    options const standard;
    auto in_range = [](std::uint64_t value, option_limits limits) { return value >= limits.least && value <= limits.most; };
    auto range = [](option_limits limits) { return std::to_string(limits.least) + " to " + std::to_string(limits.most); };
    auto check = [&](char const* name, auto& value, auto fallback, option_limits limits) {
        if (in_range(value, limits)) return;
        say("thaw: option " + std::string(name) + " = " + std::to_string(value) + " is out of range (" + range(limits) + "); using " +
            std::to_string(fallback));
        value = fallback;
    };
    check("report_every_ms", o.report_every_ms, standard.report_every_ms, report_every_limits);
    check("report_budget_ms", o.report_budget_ms, standard.report_budget_ms, report_budget_limits);
    check("memory_limit_bytes", o.memory_limit_bytes, standard.memory_limit_bytes, memory_limits);

    auto refuse = [&](char const* name, char const* value, std::string const& wanted, std::string const& holds) {
        say("thaw: " + std::string(name) + "=\"" + shown(value) + "\" is not " + wanted + "; using " + holds);
    };
    auto number = [&](char const* name, auto& value, option_limits limits) {
        char const* const text = get(name);
        if (text == nullptr) return;
        std::uint64_t n = 0;
        if (parse_number(text, n) && in_range(n, limits)) value = static_cast<std::remove_reference_t<decltype(value)>>(n);
        else refuse(name, text, "a number from " + range(limits), std::to_string(value));
    };
    auto flag = [&](char const* name, bool value) {
        char const* const text = get(name);
        if (text != nullptr && !parse_switch(text, value)) refuse(name, text, "1 or 0", value ? "1" : "0");
        return value;
    };
    auto text = [&](char const* name, std::string& value) {
        if (char const* const t = get(name)) value = t;
    };
    text("THAW_APP", o.app);
    text("THAW_VERSION", o.version);
    text("THAW_ENVIRONMENT", o.environment);
    text("THAW_REPORT", o.report);
    o.enabled = !flag("THAW_DISABLE", !o.enabled);
    o.cpu_time = flag("THAW_CPU_TIME", o.cpu_time);
    o.cpu = flag("THAW_CPU", o.cpu);
    number("THAW_REPORT_EVERY_MS", o.report_every_ms, report_every_limits);
    number("THAW_REPORT_BUDGET_MS", o.report_budget_ms, report_budget_limits);
    number("THAW_MEMORY_LIMIT_BYTES", o.memory_limit_bytes, memory_limits);
    // `names` in the order of the enumerators.
    auto choice = [&](char const* name, auto& value, char const* const (&names)[3], char const* wanted) {
        char const* const t = get(name);
        if (t == nullptr) return;
        unsigned i = 0;
        while (i < 3 && __builtin_strcmp(t, names[i]) != 0) ++i;
        if (i < 3) value = static_cast<std::remove_reference_t<decltype(value)>>(i);
        else refuse(name, t, wanted, names[static_cast<unsigned>(value)]);
    };
    choice("THAW_TIMING", o.timing, {"none", "all", "adaptive"}, "adaptive, all or none");
    choice("THAW_STACKS", o.stacks, {"none", "frame_pointers", "tables"}, "tables, frame_pointers or none");
    return o;
}

}

THAW_DETAIL_END

#endif
