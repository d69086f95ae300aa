// A tiny function, built in many ways by programs_test.py: it prints its build id, and what is wrong.
#include "profiled.hpp"
#include "shared_inline.hpp"

#include <thaw/probe/containers.hpp>

#include <thread>
#include <vector>

int in_second_unit();

namespace {

int run(int n) {
    THAW_HANDLER("tiny", {.request_id = "r"});
    THAW_SCOPE("scope");
    thaw::vector<int> numbers(static_cast<unsigned>(n), 1, THAW_ALLOCATOR("numbers"));
    int sum = in_header(0) + in_second_unit();
    for (int const x : numbers) sum += thaw::wait("wait", [&] { return x; });
    return sum;
}

}

int main() {
    EXPECT(start_profiling());
    for (int i = 0; i < 3; ++i) EXPECT(run(10) == 13);
    EXPECT(reports == 3);
    EXPECT(last.window.invocations == 3);
    EXPECT(node_at("tiny").calls == 3 && node_at("tiny").timed == 3);
    EXPECT(node_at("tiny/scope").calls == 3);
    EXPECT(node_at("tiny/scope/wait").timed == 30);
    EXPECT(node_at("tiny").total_ns >= node_at("tiny/scope").total_ns);
    EXPECT(node_at("tiny/scope").total_ns >= node_at("tiny/scope/wait").total_ns);
    EXPECT(node_at("tiny").total_ns > 0 && node_at("tiny").total_ns < 60'000'000'000u);
    EXPECT(last.slowest.request_id == "r");
    EXPECT(last.memory.size() == 1 && last.memory[0].allocated_bytes == 3 * 10 * sizeof(int) && live_bytes("numbers") == 0);
    // A scope in a header that two units include is one site.
    unsigned found = 0;
    EXPECT(node_at("tiny/scope/in.header", &found).calls == 3 && found == 1);
    EXPECT(node_at("tiny/scope/in.second", &found).calls == 3 && found == 1);
    unsigned in_header_sites = 0;
    for (auto const& s : last.sites) in_header_sites += s.name == "in.header";
    EXPECT(in_header_sites == 1);
    EXPECT(node_at("tiny/scope/in.second/in.header", &found).calls == 3 && found == 1);
    std::thread([] { THAW_SCOPE("thread"); }).join();
    thaw::stop();
    EXPECT(node_at("[background]/thread").calls == 1);
    std::printf("build id %s\n", last.identity.build_id.c_str());
    return verdict();
}
