// What instruction_counts_test.py single-steps: functions of one marker each, around a call of a body that does nothing.
//
//   instruction_counts idle|disabled|structure|every|adaptive|defaults
//
// prints a line `FUNCTION ADDRESS...` for every round of each function that the mode knows: the instructions that were
// executed. The processor's trap flag steps, and a handler of SIGTRAP writes down where the thread stands.
#include <thaw/thaw.hpp>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>

#include <ucontext.h>

namespace {

thaw::allocator<std::uint64_t> counted{THAW_ALLOCATOR("golden.block")};
std::allocator<std::uint64_t> uncounted;
std::uint64_t* block;

}

// C names, by which the test knows them.
extern "C" {

// Its code is out of the compiler's sight, so that it is called like any function.
void body();
__asm__(".pushsection .text\n.globl body\n.type body, @function\nbody: ret\n.size body, . - body\n.popsection");

[[gnu::noinline]] void bare() {
    body();
    __asm__ volatile("" : : : "memory");  // keeps the call from being the last thing, which would be a jump
}

[[gnu::noinline]] void in_scope() {
    THAW_SCOPE("golden.scope");
    body();
}

[[gnu::noinline]] void in_long_scope() {
    THAW_SCOPE("golden.long_scope");
    body();
}

[[gnu::noinline]] void in_wait() {
    THAW_WAIT("golden.wait");
    body();
}

[[gnu::noinline]] void in_handler() {
    THAW_HANDLER("golden.handler");
    body();
}

[[gnu::noinline]] void bare_allocate() { block = uncounted.allocate(1); }
[[gnu::noinline]] void bare_deallocate() { uncounted.deallocate(block, 1); }
[[gnu::noinline]] void allocate() { block = counted.allocate(1); }
[[gnu::noinline]] void deallocate() { counted.deallocate(block, 1); }
}

namespace {

constexpr int rounds = 41;
constexpr unsigned capacity = 4096;
std::uint64_t trace[capacity];
unsigned volatile steps;

// A breakpoint begins or ends the stepping; a step notes the instruction that comes next.
void on_trap(int, siginfo_t* info, void* context) {
    constexpr greg_t trap_flag = 0x100;
    greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    if (info->si_code != TRAP_TRACE) registers[REG_EFL] ^= trap_flag;
    trace[steps % capacity] = static_cast<std::uint64_t>(registers[REG_RIP]);
    steps = steps + 1;
}

struct path {
    char const* modes;
    char const* name;
    void (*stepped)();
    int warm_up = 0;  // calls before each round, not stepped
    void (*before)() = nullptr;
    void (*after)() = nullptr;
};

constexpr path paths[] = {
    {"idle", "bare", bare, 9},
    {"idle", "bare_allocate", bare_allocate, 0, nullptr, bare_deallocate},
    {"idle", "bare_deallocate", bare_deallocate, 0, bare_allocate},
    {"idle disabled structure every", "in_scope", in_scope, 9},
    // Single steps make an entry long. Left alone the node becomes short again, and most of its entries are not timed.
    {"adaptive", "in_scope", in_scope, 1000},
    {"adaptive", "in_long_scope", in_long_scope},
    {"idle disabled adaptive", "in_wait", in_wait, 9},
    {"idle disabled adaptive", "allocate", allocate, 0, nullptr, deallocate},
    {"idle disabled adaptive", "deallocate", deallocate, 0, allocate},
    {"idle disabled structure defaults", "in_handler", in_handler, 9},
};

void step(path const& p) {
    for (int round = 0; round < rounds; ++round) {
        for (int i = 0; i < p.warm_up; ++i) p.stepped();
        if (p.before != nullptr) p.before();
        steps = 0;
        __asm__ volatile("int3" : : : "memory");
        p.stepped();
        __asm__ volatile("int3" : : : "memory");
        if (p.after != nullptr) p.after();
        std::printf("%s", p.name);
        for (unsigned i = 0; i < steps && i < capacity; ++i) std::printf(" %llx", static_cast<unsigned long long>(trace[i]));
        std::printf("\n");
    }
}

}

int main(int argc, char** argv) {
    char const* const mode = argc == 2 ? argv[1] : "";
    struct sigaction action {};
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, nullptr);

    auto const is = [mode](char const* name) { return std::strcmp(mode, name) == 0; };
    thaw::options const options{
        .app = "golden",
        .enabled = !is("disabled"),
        .timing = is("structure") ? thaw::timing::none : is("every") ? thaw::timing::all : thaw::timing::adaptive,
        .cpu_time = is("defaults"),
        .report_every_ms = 86'400'000,  // none comes due
    };
    if (!is("idle") && thaw::start(options, [](thaw::profile const&) {}) == is("disabled")) return 1;
    { THAW_HANDLER("golden.first"); }
    for (path const& p : paths) {
        if (std::strstr(p.modes, mode) == nullptr) continue;
        if (p.stepped == in_handler) {
            step(p);
        } else {
            THAW_HANDLER("golden.invocation");
            step(p);
        }
    }
}
