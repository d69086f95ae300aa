// The function that articles about profiling serverless code use: it burns CPU, leaks a little on every invocation, and waits
// for somebody else's answer. Three markers, and the report names all three. Build and run it with examples/run.
#include <thaw/thaw.hpp>

#include <thaw/probe/containers.hpp>

#include <chrono>
#include <cstdint>
#include <future>
#include <string>
#include <thread>

namespace {

thaw::vector<thaw::string> seen{THAW_ALLOCATOR("seen.requests")};  // lives as long as the process: what goes in stays

std::uint64_t burn_cpu(std::uint64_t rounds) {
    THAW_SCOPE("hash.request");
    std::uint64_t h = 0x9E3779B97F4A7C15u;
    for (std::uint64_t i = 0; i < rounds; ++i) h = (h ^ i) * 0xBF58476D1CE4E5B9u, h ^= h >> 31;
    return h;
}

void leak_memory(std::uint64_t h) {
    THAW_SCOPE("remember.request");
    for (int i = 0; i < 1000; ++i)
        seen.emplace_back("request " + std::to_string(h + static_cast<unsigned>(i)) + " was here", THAW_ALLOCATOR("seen.text"));
}

int wait_for_answer() {
    std::promise<int> answer;
    std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        answer.set_value(42);
    });
    int const value = thaw::wait("backend.answer", [&] { return answer.get_future().get(); });
    other.join();
    return value;
}

void handle() {
    THAW_HANDLER("quickstart");
    leak_memory(burn_cpu(2'000'000));
    wait_for_answer();
}

}

int main() {
    thaw::start({.app = "quickstart", .version = "1.0.0"}, [](thaw::profile const& p) {
        if (p.window.invocations == 20) thaw::report::text{}(p, stdout);  // the first one comes after the first invocation
    });
    for (int i = 0; i < 20; ++i) handle();
    thaw::stop();
}
