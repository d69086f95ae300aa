// thaw floor 13: the one header: markers, the agent, the profile and the text report.
//
//   int main() {
//       thaw::start({.app = "shop", .version = "1.4.2"});      // a text report on stderr, at handler exit
//       while (auto event = next_event()) {
//           THAW_HANDLER("checkout");
//           { THAW_SCOPE("price.rules"); apply_rules(*event); }
//           { THAW_WAIT("db.query"); db.query(*event); }
//       }
//   }
//
// Not included: containers with counting allocators (<thaw/probe/containers.hpp>) and sinks (<thaw/sink/...>). A translation
// unit that only carries markers may include <thaw/probe.hpp> instead, which is much cheaper.
#ifndef THAW_THAW_HPP
#define THAW_THAW_HPP

#include <thaw/agent/agent.hpp>
#include <thaw/agent/profile_now.hpp>
#include <thaw/probe.hpp>
#include <thaw/probe/allocator.hpp>
#include <thaw/profile/profile.hpp>
#include <thaw/report/text.hpp>

#endif
