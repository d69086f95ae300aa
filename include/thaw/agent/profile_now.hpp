// thaw floor 12 agent: profiling one piece of work and reporting at once: for programs that live no longer than that.
//
//   thaw::start({.app = "import"});
//   auto const rows = thaw::profile_now([&] { return import_all(files); });
#ifndef THAW_AGENT_PROFILE_NOW_HPP
#define THAW_AGENT_PROFILE_NOW_HPP

#include <thaw/agent/agent.hpp>
#include <thaw/agent/handler.hpp>
#include <thaw/core/config.hpp>

#include <utility>

THAW_DETAIL_BEGIN

// Effects: calls f() as one invocation "profile_now" and makes a report, in this thread, also where f throws. Returns what f
// returns. Inside an invocation f is a scope of it, and the report comes before its end. Just calls f where thaw does not record.
template <class F>
decltype(auto) profile_now(F&& f) {
    struct report_at_the_end {
        report_at_the_end() noexcept = default;
        report_at_the_end(report_at_the_end const&) = delete;
        report_at_the_end& operator=(report_at_the_end const&) = delete;
        ~report_at_the_end() { report_now(); }
    };
    [[maybe_unused]] report_at_the_end const report;
    THAW_HANDLER("profile_now");
    return std::forward<F>(f)();
}

THAW_DETAIL_END

#endif
