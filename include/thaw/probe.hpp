// thaw floor 7 probe: the markers alone, nearly free to include: for translation units that are profiled and start nothing.
//
// Not included: counting allocators (<thaw/probe/allocator.hpp>, which needs <type_traits>, as costly as all of this again) and
// the containers with them (<thaw/probe/containers.hpp>); the agent, profiles and reports (<thaw/thaw.hpp>).
#ifndef THAW_PROBE_HPP
#define THAW_PROBE_HPP

#include <thaw/probe/scope.hpp>
#include <thaw/probe/wait.hpp>

#endif
