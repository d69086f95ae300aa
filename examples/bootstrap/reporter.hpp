// bootstrap: a reporter of its own that writes a profile as one line of JSON, which log services index without further help.
#ifndef BOOTSTRAP_REPORTER_HPP
#define BOOTSTRAP_REPORTER_HPP

#include "json.hpp"

#include <thaw/thaw.hpp>

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace bootstrap {

inline std::string_view name_of(thaw::site_kind kind) noexcept {
    switch (kind) {
    case thaw::site_kind::scope:
        return "scope";
    case thaw::site_kind::handler:
        return "handler";
    case thaw::site_kind::wait:
        return "wait";
    case thaw::site_kind::allocator:
        return "allocator";
    case thaw::site_kind::background:
        return "background";
    case thaw::site_kind::overflow:
        return "overflow";
    case thaw::site_kind::process:
        return "process";
    }
    return "unknown";
}

// {"thaw":1,"sequence":...,"nodes":[{"path":"score > parse","kind":"scope","calls":...},...]}; the root is left out.
inline std::string json_line(thaw::profile const& p) {
    std::string out = "{\"thaw\":1";
    auto const number = [&out](std::string_view key, std::uint64_t n) {
        out.append(",\"").append(key).append("\":").append(std::to_string(n));
    };
    number("sequence", p.identity.sequence);
    number("invocations", p.window.invocations);
    number("active_ns", p.window.active_ns);
    number("wall_ns", p.window.wall_ns);
    number("recording_ns", p.cost.recording_ns);
    number("collecting_ns", p.cost.collecting_ns);
    number("reporting_ns", p.cost.reporting_ns);
    out += ",\"nodes\":[";
    std::vector<std::string> paths(p.nodes.size());
    for (std::size_t i = 0; i < p.nodes.size(); ++i) {
        thaw::profile_node const& n = p.nodes[i];
        if (n.parent == thaw::no_index) continue;
        paths[i] = paths[n.parent].empty() ? p.name_of(n) : paths[n.parent] + " > " + p.name_of(n);
        out += out.back() == '[' ? "{\"path\":" : ",{\"path\":";
        json::append_quoted(out, paths[i]);
        out.append(",\"kind\":\"").append(name_of(p.site_of(n).kind)).append("\"");
        number("calls", n.calls);
        number("total_ns", n.total_ns);
        number("max_ns", n.max_ns);
        out += '}';
    }
    return out += "]}\n";
}

// One write, so that lines of several threads or processes do not mix; goes on only where a pipe took less than all of it.
inline void write_line(std::string_view line) noexcept {
    while (!line.empty()) {
        ssize_t const n = ::write(STDERR_FILENO, line.data(), line.size());
        if (n < 0 && errno != EINTR) return;
        if (n > 0) line.remove_prefix(static_cast<std::size_t>(n));
    }
}

// What thaw calls at the end of an invocation. BOOTSTRAP_REPORT=text asks for thaw's own report instead.
struct reporter {
    void operator()(thaw::profile const& p) const {
        char const* const format = std::getenv("BOOTSTRAP_REPORT");
        if (format && std::string_view(format) == "text")
            thaw::report::text{}(p, stderr);
        else
            write_line(json_line(p));
    }
};

}

#endif
