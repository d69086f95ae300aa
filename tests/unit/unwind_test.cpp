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

// libgcc's unwinder reads what a frame's return address points to, and faults where that is nothing: in its own epilogue that
// leaves for a landing pad, of which the tables know nothing.
sigjmp_buf after_fault;
void leave_oracle(int, siginfo_t*, void*) { siglongjmp(after_fault, 1); }

// What a signal handler finds out, for the test to look at afterwards.
struct comparison {
    sampler::unwinder* unwinder = nullptr;
    sampler::stack_bounds bounds;
    std::uint64_t walks = 0;
    std::uint64_t different = 0;
    std::uint64_t incomplete = 0;
    std::uint64_t oracle_faults = 0;
    testing::stack ours, theirs;  // of the first difference

    void compare(ucontext_t const& context) {
        testing::stack mine;
        auto const result = unwinder->unwind(context, mine.frames.data(), testing::most_frames, bounds);
        mine.count = result.count;
        ++walks;
        if (sigsetjmp(after_fault, 1) != 0) {
            ++oracle_faults;
            return;
        }
        testing::stack const oracle = testing::stack_of_libgcc(sampler::interrupted_registers(context).value[sampler::registers::pc]);
        incomplete += result.end != unwind_end::complete;
        if ((mine == oracle && result.end == unwind_end::complete) || different++ != 0) return;
        ours = mine;
        theirs = oracle;
    }
} seen;

// Begins a comparison on this thread.
void begin_comparison() {
    seen = {};
    seen.unwinder = &shared_unwinder();
    seen.bounds = sampler::current_thread_stack();
    testing::stack_of_libgcc(0);
}

void check_comparison() {
    BOOST_TEST(seen.walks > 0u);
    BOOST_TEST(seen.different == 0u);
    BOOST_TEST(seen.incomplete == 0u);
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
// A SIGTRAP follows each instruction between the two.
[[gnu::always_inline]] inline void begin_steps() { __asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq" : : : "memory", "cc"); }
[[gnu::always_inline]] inline void end_steps() { __asm__ volatile("pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq" : : : "memory", "cc"); }
#endif

}

BOOST_AUTO_TEST_SUITE(unwind)

#if defined(__x86_64__)
BOOST_AUTO_TEST_CASE(at_every_instruction_of_the_corpus_the_stack_is_libgccs) {
    testing::corpus(1);
    begin_comparison();
    installed_handler const handler{SIGTRAP, compare_in_handler};
    installed_handler const fault{SIGSEGV, leave_oracle};
    begin_steps();
    testing::corpus(2);
    end_steps();
    BOOST_TEST_MESSAGE(seen.walks << " instructions, " << seen.oracle_faults << " of them beyond libgcc");
    check_comparison();
    BOOST_TEST(seen.walks > 10'000u);
}
#endif

BOOST_AUTO_TEST_SUITE_END()
