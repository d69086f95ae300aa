#include "unwind_corpus.hpp"

#include <thaw/sampler/unwind.hpp>

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

namespace sampler = thaw::sampler;
namespace testing = thaw::testing;
using sampler::unwind_end;

namespace {

sampler::unwinder& shared_unwinder() {
    static auto const u = std::make_unique<sampler::unwinder>();
    BOOST_REQUIRE(u->modules.renew_if_changed());
    return *u;
}

// libgcc's unwinder reads what a frame's return address points to, and faults where that is nothing.
sigjmp_buf after_fault;
void leave_oracle(int, siginfo_t*, void*) { siglongjmp(after_fault, 1); }

// The functions by which libgcc goes to a landing pad end with the stack of the landing function and with tables that speak of
// their own. There the oracle reads what was left below sp.
bool goes_to_landing_pad(std::uintptr_t pc) {
    void* const function = ::_Unwind_FindEnclosingFunction(reinterpret_cast<void*>(pc));
    return function == reinterpret_cast<void*>(&::_Unwind_RaiseException) || function == reinterpret_cast<void*>(&::_Unwind_Resume);
}

// What a signal handler finds out, for the test to look at afterwards.
struct comparison {
    sampler::unwinder* unwinder = nullptr;
    sampler::stack_bounds bounds;
    std::uintptr_t bottom = 0;  // the thread's first frame
    std::uint64_t walks = 0;
    std::uint64_t different = 0;
    std::uint64_t lost = 0;     // the oracle does not reach the bottom, since tables are wrong about a few instructions
    std::uint64_t stubs = 0;     // but we do: in the PLT of aarch64, which has no tables
    std::uint64_t invented = 0;  // nor do we, but say so
    testing::stack ours, theirs;  // of the first difference

    void compare(ucontext_t const& context) {
        testing::stack mine;
        auto const result = unwinder->unwind(context, mine.frames.data(), testing::most_frames, bounds);
        mine.count = result.count;
        ++walks;
        if (sigsetjmp(after_fault, 1) == 0) {
            std::uintptr_t const pc = sampler::interrupted_registers(context).value[sampler::registers::pc];
            testing::stack const oracle = testing::stack_of_libgcc(pc);
            bool const declined = result.end == unwind_end::broken_stack && goes_to_landing_pad(pc);
            if (!declined && oracle.count > 0 && oracle.frames[oracle.count - 1] == bottom) {
                if ((!(mine == oracle) || result.end != unwind_end::complete) && different++ == 0) {
                    ours = mine;
                    theirs = oracle;
                }
                return;
            }
        }
        ++lost;
        stubs += result.end == unwind_end::complete && mine.frames[mine.count - 1] == bottom;
        invented += result.end == unwind_end::complete && mine.frames[mine.count - 1] != bottom;
    }
} seen;

// Begins a comparison on this thread.
void begin_comparison() {
    seen = {};
    seen.unwinder = &shared_unwinder();
    seen.bounds = sampler::current_thread_stack();
    testing::stack const here = testing::stack_of_libgcc(0);
    BOOST_REQUIRE(here.count > 1u);
    seen.bottom = here.frames[here.count - 1];
}

void check_comparison() {
    BOOST_TEST(seen.walks > 0u);
    BOOST_TEST(seen.different == 0u);
    BOOST_TEST(seen.invented == 0u);
    BOOST_TEST(seen.lost <= seen.walks / 100 + seen.stubs);
    if (seen.different != 0) BOOST_TEST_MESSAGE("ours   " << seen.ours.text() << "\ntheirs " << seen.theirs.text());
}

struct installed_handler {
    installed_handler(int number, void (*handler)(int, siginfo_t*, void*), int flags = 0) : m_number{number} {
        struct sigaction action {};
        action.sa_sigaction = handler;
        action.sa_flags = SA_SIGINFO | SA_RESTART | flags;
        ::sigaction(number, &action, &m_before);
    }
    ~installed_handler() { ::sigaction(m_number, &m_before, nullptr); }
    installed_handler(installed_handler const&) = delete;
    installed_handler& operator=(installed_handler const&) = delete;

private:
    int m_number;
    struct sigaction m_before {};
};

void compare_in_handler(int, siginfo_t*, void* context) { seen.compare(*static_cast<ucontext_t const*>(context)); }

#if defined(__x86_64__)
bool volatile stepping = false;

// After the first SIGTRAP another follows each instruction, until `stepping` is false.
void compare_in_step(int, siginfo_t*, void* context) {
    auto& c = *static_cast<ucontext_t*>(context);
    constexpr greg_t trap = 0x100;
    if (stepping) c.uc_mcontext.gregs[REG_EFL] |= trap;
    else c.uc_mcontext.gregs[REG_EFL] &= ~trap;
    seen.compare(c);
}
#endif

}

BOOST_AUTO_TEST_SUITE(unwind)

#if defined(__x86_64__)
BOOST_AUTO_TEST_CASE(at_every_instruction_of_the_corpus_the_stack_is_libgccs) {
    testing::corpus(1);
    begin_comparison();
    installed_handler const handler{SIGTRAP, compare_in_step};
    installed_handler const fault{SIGSEGV, leave_oracle};
    stepping = true;
    ::raise(SIGTRAP);
    testing::corpus(2);
    stepping = false;
    BOOST_TEST_MESSAGE(seen.walks << " instructions, " << seen.lost << " of them beyond libgcc");
    check_comparison();
    BOOST_TEST(seen.walks > 10'000u);
}
#endif

BOOST_AUTO_TEST_CASE(where_a_signal_interrupts_the_corpus_the_stack_is_libgccs) {
    testing::corpus(1);
    std::atomic<bool> done{false};
    installed_handler const handler{SIGUSR1, compare_in_handler};
    installed_handler const fault{SIGSEGV, leave_oracle};
    begin_comparison();
    std::thread sender([&done, target = ::pthread_self()] {
        while (!done) {
            ::pthread_kill(target, SIGUSR1);
            std::this_thread::yield();
        }
    });
    for (std::uint64_t n = 2; seen.walks < 3000; ++n) testing::corpus(n);
    done = true;
    sender.join();
    BOOST_TEST_MESSAGE(seen.walks << " signals, " << seen.lost << " of them beyond libgcc");
    check_comparison();
}

// Frame 0 differs by how it was captured.
void compare_captured() {
    testing::stack mine;
    sampler::registers here;
    here.capture();
    auto const result = seen.unwinder->unwind(here, mine.frames.data(), testing::most_frames, seen.bounds);
    mine.count = result.count;
    testing::stack oracle = testing::stack_of_libgcc(0);  // whose frame is the first of it
    ++seen.walks;
    bool same = result.end == unwind_end::complete && mine.count > 1 && mine.count + 1 == oracle.count;
    for (std::uint32_t i = 1; same && i < mine.count; ++i) same = mine.frames[i] == oracle.frames[i + 1];
    if (same || seen.different++ != 0) return;
    seen.ours = mine;
    seen.theirs = oracle;
}

BOOST_AUTO_TEST_CASE(from_captured_registers_the_stack_is_libgccs) {
    begin_comparison();
    testing::visit = compare_captured;
    testing::corpus(1);
    testing::visit = [] {};
    check_comparison();
    BOOST_TEST(seen.walks > 20u);
}

BOOST_AUTO_TEST_SUITE_END()
