// A shared object that carries the headers too, and may even start thaw.
#include "profiled.hpp"

#include <thaw/probe/containers.hpp>

#define EXPORTED extern "C" [[gnu::visibility("default")]]

namespace {
thaw::vector<int>* kept = nullptr;
}

EXPORTED int module_work(int (*back)()) {
    THAW_SCOPE("in.module");
    THAW_SCOPE_DYNAMIC("dynamic.in.module");
    thaw::wait("wait.in.module", [] {});
    thaw::vector<int> const numbers(10, 1, THAW_ALLOCATOR("module.numbers"));
    return back != nullptr ? back() : 0;
}

EXPORTED void module_handler() {
    THAW_HANDLER("module.handler");
    THAW_SCOPE("in.module.handler");
}

EXPORTED void module_keep(bool keep) {
    delete kept;
    kept = keep ? new thaw::vector<int>(100, 1, THAW_ALLOCATOR("module.kept")) : nullptr;
}

EXPORTED bool module_start(void (*reporter)(thaw::profile const&)) { return thaw::start({.report_every_ms = 0}, reporter); }

EXPORTED void module_stop() { thaw::stop(); }

EXPORTED void const* module_process() { return thaw::core::find_process(); }

EXPORTED void module_fail() { thaw::fail(); }

EXPORTED void module_wait() { THAW_WAIT("module.wait"); }
