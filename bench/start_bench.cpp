// What a cold start pays: one flat JSON object of numbers.
//
//   start_ns             thaw::start, the median over children that are forked before anything was touched
//   first_handler_ns     from the call of thaw::start into the body of the first handler, likewise
//   first_exit_ns        the end of the first handler, with its report: collecting, and a reporter that does nothing
//   threads              threads that exist after the first handler beyond the one that existed before
//   resident_bytes       growth of resident memory over thaw::start and the first handler with its report, in this process; pages
//                        of the executable and of libraries that the kernel maps on the way are in it
//   private_bytes        of these, memory that is the process's own
//   node_bytes           of the arena for a scope node with 50 durations over 3 octaves: the node, its histogram, its share
//                        of the hash table and of the sites (5 nodes a site)
//   function_bytes       of the arena for a function of 1,000 such nodes, with the root and the thread's record

#if !defined(NDEBUG) || !defined(__OPTIMIZE__)
#error "a benchmark of a debug build measures the debug build: compile with optimisation and -DNDEBUG"
#endif

#include "function_tree.hpp"

#include <thaw/thaw.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

namespace {

std::uint64_t monotonic_ns() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}

struct times {
    std::uint64_t start_ns = 0;
    std::uint64_t first_handler_ns = 0;
    std::uint64_t first_exit_ns = 0;
};

times start_and_handle() {
    times t;
    std::uint64_t body = 0;
    std::uint64_t const begin = monotonic_ns();
    thaw::start({.app = "bench", .version = "1.0"}, [](thaw::profile const&) {});
    t.start_ns = monotonic_ns() - begin;
    {
        THAW_HANDLER("bench.handler");
        body = monotonic_ns();
    }
    t.first_handler_ns = body - begin;
    t.first_exit_ns = monotonic_ns() - body;
    return t;
}

// What a child measures; the last children's figures if one fails.
times in_a_child() {
    int ends[2];
    if (pipe(ends) != 0) std::abort();
    pid_t const child = fork();
    if (child == 0) {
        times const t = start_and_handle();
        _exit(write(ends[1], &t, sizeof t) == static_cast<ssize_t>(sizeof t) ? 0 : 1);
    }
    close(ends[1]);
    times t;
    if (child < 0 || read(ends[0], &t, sizeof t) != static_cast<ssize_t>(sizeof t)) std::abort();
    close(ends[0]);
    waitpid(child, nullptr, 0);
    return t;
}

struct memory {
    long resident = 0;
    long shared = 0;
};

// In bytes, from /proc/self/statm, without the host's allocator.
memory resident() {
    char text[256] = {};
    int const file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, text, sizeof text - 1) <= 0) std::abort();
    close(file);
    char* at = text;
    std::strtol(at, &at, 10);
    memory m;
    m.resident = std::strtol(at, &at, 10) * sysconf(_SC_PAGESIZE);
    m.shared = std::strtol(at, &at, 10) * sysconf(_SC_PAGESIZE);
    return m;
}

long threads() {
    DIR* const folder = opendir("/proc/self/task");
    if (folder == nullptr) std::abort();
    long count = 0;
    while (dirent const* const entry = readdir(folder)) count += entry->d_name[0] != '.' ? 1 : 0;
    closedir(folder);
    return count;
}

std::uint64_t median(std::vector<times> const& all, std::uint64_t times::* member) {
    std::vector<std::uint64_t> values;
    for (times const& t : all) values.push_back(t.*member);
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
}

}

int main() {
    std::vector<times> all;
    for (int i = 0; i < 21; ++i) all.push_back(in_a_child());

    long const threads_before = threads();
    resident();
    memory const before = resident();
    start_and_handle();
    memory const after = resident();
    long const threads_after = threads();

    bench::function_tree function{1000, 50, 3.0};
    std::printf("{\"start_ns\": %llu, \"first_handler_ns\": %llu, \"first_exit_ns\": %llu, \"threads\": %ld, \"resident_bytes\": %ld, "
                "\"private_bytes\": %ld, \"node_bytes\": %.1f, \"function_bytes\": %zu}\n",
                static_cast<unsigned long long>(median(all, &times::start_ns)),
                static_cast<unsigned long long>(median(all, &times::first_handler_ns)),
                static_cast<unsigned long long>(median(all, &times::first_exit_ns)), threads_after - threads_before,
                after.resident - before.resident, (after.resident - after.shared) - (before.resident - before.shared),
                static_cast<double>(function.bytes()) / 1000.0, function.process().memory.used_bytes());
}
