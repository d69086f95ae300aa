// thaw floor 9 probe: the markers alone, nearly free to include: for translation units that are profiled and start nothing.
//
// Not included: the containers with counting allocators (<thaw/probe/containers.hpp>), the agent, profiles and reports
// (<thaw/thaw.hpp>).
#ifndef THAW_PROBE_HPP
#define THAW_PROBE_HPP

#include <thaw/probe/allocator.hpp>
#include <thaw/probe/scope.hpp>
#include <thaw/probe/wait.hpp>

#endif
