#include "unwind_corpus.hpp"

#include <thaw/sampler/unwind.hpp>

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sampler = thaw::sampler;
namespace testing = thaw::testing;
using sampler::unwind_end;

namespace {

std::uint64_t volatile sink_of_handler;

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
    static void* const libgcc = ::dlopen("libgcc_s.so.1", RTLD_NOW | RTLD_NOLOAD);  // sanitizers have functions of these names
    static void* const functions[] = {::dlsym(libgcc, "_Unwind_RaiseException"), ::dlsym(libgcc, "_Unwind_Resume")};
    void* const function = pc == 0 ? nullptr : ::_Unwind_FindEnclosingFunction(reinterpret_cast<void*>(pc));
    return function != nullptr && (function == functions[0] || function == functions[1]);
}

// What a signal handler finds out, for the test to look at afterwards.
struct comparison {
    sampler::unwinder* unwinder = nullptr;
    sampler::stack_bounds bounds;
    std::uintptr_t bottom = 0;  // the thread's first frame
    std::uint64_t walks = 0;
    std::uint64_t different = 0;
    std::uint64_t lost = 0;       // neither reaches the bottom, since tables are wrong about a few instructions
    std::uint64_t invented = 0;   // but we say so
    std::uint64_t alone = 0;      // only we do: in the PLT of aarch64, which has no tables
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
        bool const reached = mine.frames[mine.count - 1] == bottom;
        ++(reached ? alone : lost);
        invented += !reached && result.end == unwind_end::complete;
    }
} seen;

// Begins a comparison on this thread.
void begin_comparison() {
    seen = {};
    seen.unwinder = &shared_unwinder();
    seen.bounds = sampler::current_thread_stack();
    goes_to_landing_pad(0);
    testing::stack const here = testing::stack_of_libgcc(0);
    BOOST_REQUIRE(here.count > 1u);
    seen.bottom = here.frames[here.count - 1];
}

void check_comparison(std::uint64_t may_be_lost = 0) {
    BOOST_TEST(seen.walks > 0u);
    BOOST_TEST(seen.different == 0u);
    BOOST_TEST(seen.invented == 0u);
    BOOST_TEST(seen.lost <= may_be_lost);
    if (seen.different != 0) BOOST_TEST_MESSAGE("ours   " << seen.ours.text() << "\ntheirs " << seen.theirs.text());
}

// A trampoline without tables, as musl has it.
extern "C" void thaw_test_restorer();
#if defined(__x86_64__)
__asm__(".pushsection .text\nnop\n.globl thaw_test_restorer\nthaw_test_restorer: mov $15, %rax\nsyscall\n.popsection");
#else
__asm__(".pushsection .text\nnop\n.globl thaw_test_restorer\nthaw_test_restorer: mov x8, #139\nsvc #0\n.popsection");
#endif

enum class trampoline { of_libc, without_tables };
#if defined(__x86_64__)
constexpr auto usual = trampoline::of_libc;
#else
constexpr auto usual = trampoline::without_tables;  // libc leaves it to the vDSO, which qemu-user has none of
#endif

struct installed_handler {
    installed_handler(int number, void (*handler)(int, siginfo_t*, void*), unsigned long flags = 0, trampoline leaves_by = usual)
        : m_number{number} {
        kernel_action action{handler, SA_SIGINFO | SA_RESTART | flags, nullptr, 0};
        ::syscall(SYS_rt_sigaction, m_number, nullptr, &m_before, sizeof action.mask);
        if (leaves_by == trampoline::of_libc) {
            struct sigaction by_libc {};
            by_libc.sa_sigaction = handler;
            by_libc.sa_flags = static_cast<int>(action.flags);
            ::sigaction(m_number, &by_libc, nullptr);
        } else {
            action.flags |= 0x04000000;
            action.restorer = thaw_test_restorer;
            ::syscall(SYS_rt_sigaction, m_number, &action, nullptr, sizeof action.mask);
        }
    }
    ~installed_handler() { ::syscall(SYS_rt_sigaction, m_number, &m_before, nullptr, sizeof m_before.mask); }
    installed_handler(installed_handler const&) = delete;
    installed_handler& operator=(installed_handler const&) = delete;

private:
    struct kernel_action {
        void (*handler)(int, siginfo_t*, void*);
        unsigned long flags;
        void (*restorer)();
        unsigned long mask;
    };
    int m_number;
    kernel_action m_before{};
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

// A handler on the way, to be unwound through; innermost, it is interrupted in turn.
void interrupted_handler(int, siginfo_t*, void*) {
    testing::visit = [] { ::raise(SIGUSR1); };
    testing::with_middle_frame(3);
}

struct alternate_stack {
    explicit alternate_stack(void* memory, std::size_t size) {
        stack_t s{};
        s.ss_sp = memory;
        s.ss_size = size;
        BOOST_REQUIRE(::sigaltstack(&s, &m_before) == 0);
    }
    ~alternate_stack() { ::sigaltstack(&m_before, nullptr); }
    alternate_stack(alternate_stack const&) = delete;
    alternate_stack& operator=(alternate_stack const&) = delete;

private:
    stack_t m_before{};
};

// One walk from what `change` makes of the registers here.
template <class Change>
[[gnu::noinline]] sampler::unwind_result walk_from(Change change) {
    sampler::registers r;
    r.capture();
    change(r.value);
    std::uintptr_t frames[64];
    return shared_unwinder().unwind(r, frames, 64, sampler::current_thread_stack());
}

using pc_of = sampler::registers;

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
    check_comparison(seen.walks / 100);
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
    check_comparison(seen.walks / 10);
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

BOOST_AUTO_TEST_CASE(through_signal_frames_the_stack_is_libgccs) {
    begin_comparison();
    installed_handler const innermost{SIGUSR1, compare_in_handler};
    installed_handler const outer{SIGUSR2, interrupted_handler};
    testing::visit = [] { ::raise(SIGUSR2); };
    testing::with_alloca(5);
    testing::visit = [] {};
    check_comparison();
    BOOST_TEST(seen.walks == 1u);
}

BOOST_AUTO_TEST_CASE(through_a_signal_trampoline_without_tables_the_stack_is_libgccs) {
    begin_comparison();
    installed_handler const innermost{SIGUSR1, compare_in_handler};
    installed_handler const outer{SIGUSR2, interrupted_handler, 0, trampoline::without_tables};
    testing::visit = [] { ::raise(SIGUSR2); };
    testing::with_alloca(5);
    testing::visit = [] {};
    check_comparison();
    BOOST_TEST(seen.walks == 1u);
}

BOOST_AUTO_TEST_CASE(from_the_alternate_stack_the_walk_goes_on_to_the_threads_own) {
    begin_comparison();
    installed_handler const innermost{SIGUSR1, compare_in_handler};
    std::vector<unsigned char> memory(128 * 1024);
    unsigned char on_stack[128 * 1024];
    for (unsigned char* const place : {memory.data(), static_cast<unsigned char*>(on_stack)}) {
        alternate_stack const stack{place, memory.size()};
        installed_handler const outer{SIGUSR2, interrupted_handler, SA_ONSTACK};
        testing::visit = [] { ::raise(SIGUSR2); };
        testing::with_alloca(5);
        testing::visit = [] {};
    }
    check_comparison();
    BOOST_TEST(seen.walks == 2u);
}

BOOST_AUTO_TEST_CASE(on_another_thread_the_stack_is_complete) {
    bool complete = false;
    std::thread([&complete] {
        begin_comparison();
        testing::visit = compare_captured;
        testing::corpus(1);
        testing::visit = [] {};
        complete = seen.walks > 20 && seen.different == 0;
    }).join();
    BOOST_TEST(complete);
}

BOOST_AUTO_TEST_CASE(a_deep_stack_is_truncated_to_the_innermost_frames) {
    static std::uintptr_t frames[16];
    static sampler::unwind_result result;
    begin_comparison();
    std::uint64_t const before = seen.unwinder->counts.of(unwind_end::truncated);
    testing::visit = [] {
        sampler::registers r;
        r.capture();
        result = seen.unwinder->unwind(r, frames, 16, seen.bounds);
    };
    testing::recursive(2000);
    testing::visit = [] {};
    BOOST_TEST(result.count == 16u);
    BOOST_TEST((result.end == unwind_end::truncated));
    BOOST_TEST(std::set<std::uintptr_t>(frames, frames + 16).size() < 16u);
    BOOST_TEST(seen.unwinder->counts.of(unwind_end::truncated) == before + 1);
    BOOST_TEST(seen.unwinder->unwind(sampler::registers{}, frames, 0, seen.bounds).count == 0u);
}

BOOST_AUTO_TEST_CASE(a_stack_pointer_that_is_none_ends_the_walk_at_the_first_frame) {
    auto const bounds = sampler::current_thread_stack();
    std::uintptr_t const places[] = {0, 8, bounds.low - 8, bounds.top, bounds.top + 8, ~std::uintptr_t{7}, ~std::uintptr_t{0} << 47};
    for (std::uintptr_t const place : places) {
        auto const result = walk_from([place](std::uintptr_t* r) { r[pc_of::sp] = place; });
        BOOST_TEST(result.count == 1u);
        BOOST_TEST((result.end == unwind_end::broken_stack));
    }
    // Near the top, and not aligned: what is read there is not a return address, or is the end of the stack.
    for (std::uintptr_t back = 1; back < 300; ++back) {
        auto const result = walk_from([&](std::uintptr_t* r) { r[pc_of::sp] = r[pc_of::fp] = bounds.top - back; });
        BOOST_TEST(result.count >= 1u);
        BOOST_TEST((result.end != unwind_end::truncated));
    }
}

BOOST_AUTO_TEST_CASE(code_that_no_module_has_ends_the_walk_and_is_counted) {
    auto& u = shared_unwinder();
    std::uint64_t const before = u.counts.of(unwind_end::unknown_code);
    std::uintptr_t const places[] = {0, 1, 4096, reinterpret_cast<std::uintptr_t>(&u), ~std::uintptr_t{0}};
    for (std::uintptr_t const place : places) {
        auto const result = walk_from([place](std::uintptr_t* r) { r[pc_of::pc] = place; });
        BOOST_TEST(result.count == 1u);
        BOOST_TEST((result.end == unwind_end::unknown_code));
    }
    BOOST_TEST(u.counts.of(unwind_end::unknown_code) == before + std::size(places));
}

BOOST_AUTO_TEST_CASE(without_a_module_table_there_is_one_frame) {
    auto const u = std::make_unique<sampler::unwinder>();
    sampler::registers r;
    r.capture();
    std::uintptr_t frames[8];
    auto const result = u->unwind(r, frames, 8, sampler::current_thread_stack());
    BOOST_TEST(result.count == 1u);
    BOOST_TEST((result.end == unwind_end::unknown_code));
}

// Some code of this program whose frame is found by the frame pointer, and its rules.
struct framed_code {
    std::uintptr_t address = 0;
    sampler::frame_rules rules;

    framed_code() {
        sampler::module_table::reader const g{shared_unwinder().modules};
        for (std::uint32_t i = 0; i < g->count && address == 0; ++i) {
            auto const& m = g->modules[i];
            for (std::uint32_t k = 0; k < m.index_count && address == 0; ++k) {
                sampler::frame_description d;
                std::uintptr_t const place = m.index_base + static_cast<std::uintptr_t>(std::intptr_t{m.index[k].description});
                if (!sampler::read_description(m.tables, place, d)) continue;
                for (std::uintptr_t at = d.begin; at < d.end && address == 0; at += 4) {
                    bool const framed = sampler::cfa_interpreter{d, rules}.run(at) && rules.cfa_expression == 0 &&
                                        rules.cfa_register == sampler::registers::fp && rules.cfa_offset <= 64 &&
                                        rules.kind[sampler::registers::fp] == sampler::rule_kind::at_offset;
                    if (framed) address = at;
                }
            }
        }
    }
};

BOOST_AUTO_TEST_CASE(a_stack_that_goes_in_circles_or_ends_in_nothing_ends_the_walk) {
    framed_code const code;
    BOOST_REQUIRE(code.address != 0u);
    std::uintptr_t stack[64] = {};
    auto const begin = reinterpret_cast<std::uintptr_t>(stack);
    sampler::stack_bounds const bounds{begin, begin + sizeof stack};
    sampler::registers r{};
    r.value[sampler::registers::pc] = code.address;
    r.value[sampler::registers::sp] = begin + 8;
    r.value[sampler::registers::fp] = begin + 80;
    auto const slot = [&](unsigned reg) -> std::uintptr_t& {
        std::uintptr_t const cfa = begin + 80 + static_cast<std::uintptr_t>(code.rules.cfa_offset);
        return stack[(cfa + static_cast<std::uintptr_t>(code.rules.operand[reg]) - begin) / 8];
    };
    auto& fp = slot(sampler::registers::fp);
    auto& ra = slot(sampler::registers::return_address);
    std::uintptr_t frames[50];
    auto const walk = [&] { return shared_unwinder().unwind(r, frames, 50, bounds); };
    for (int times = 0; times < 2; ++times) {  // by the tables, and by the cache
        ra = code.address + 1;
        fp = begin + 80;
        BOOST_TEST(walk().count == 2u);
        BOOST_TEST((walk().end == unwind_end::broken_stack));
        ra = 0;
        BOOST_TEST(walk().count == 1u);
        BOOST_TEST((walk().end == unwind_end::broken_stack));
        fp = 0;
        BOOST_TEST(walk().count == 1u);
        BOOST_TEST((walk().end == unwind_end::broken_stack));
    }
}

BOOST_AUTO_TEST_CASE(what_the_cache_holds_counts_until_modules_change) {
    auto const u = std::make_unique<sampler::unwinder>();
    BOOST_REQUIRE(u->modules.renew_if_changed());
    std::uintptr_t frames[64];
    auto const bounds = sampler::current_thread_stack();
    sampler::registers r;
    r.capture();
    auto const whole = u->unwind(r, frames, 64, bounds);
    BOOST_REQUIRE((whole.end == unwind_end::complete));
    BOOST_REQUIRE(whole.count > 4u);
    sampler::compact_rules outermost;
    outermost.outermost = true;
    u->rules.insert(frames[2] ^ std::uint64_t{sampler::module_table::reader{u->modules}->number} << 48, outermost);
    BOOST_TEST(u->unwind(r, frames, 64, bounds).count == 3u);
    void* const library = ::dlopen("libresolv.so.2", RTLD_NOW);
    BOOST_REQUIRE(library != nullptr);
    BOOST_REQUIRE(u->modules.renew_if_changed());
    BOOST_TEST(u->unwind(r, frames, 64, bounds).count == whole.count);
    ::dlclose(library);
}

// Stacks of words that point to code, to the stack itself, or nowhere, and registers alike, from any code of this program.
BOOST_AUTO_TEST_CASE(random_stacks_end_every_walk_without_a_fault) {
    auto& u = shared_unwinder();
    std::mt19937_64 random(5);
    std::vector<std::uintptr_t> stack(512);
    sampler::stack_bounds bounds;
    bounds.low = reinterpret_cast<std::uintptr_t>(stack.data());
    bounds.top = bounds.low + stack.size() * sizeof(std::uintptr_t);
    std::vector<sampler::loaded_module> modules;
    {
        sampler::module_table::reader const g{u.modules};
        modules.assign(g->modules, g->modules + g->count);
    }
    auto const code = [&] {
        auto const& m = modules[random() % modules.size()];
        return m.begin + random() % (m.end - m.begin);
    };
    auto const word = [&]() -> std::uintptr_t {
        switch (random() % 8) {
        case 0: return random();
        case 1: return random() % 3;
        case 2:
        case 3: return bounds.low + random() % (bounds.top - bounds.low);
        case 4: return bounds.low + random() % stack.size() * 8;
        default: return code();
        }
    };
    std::uint64_t frames_found = 0, ends[sampler::unwind_end_count] = {};
    for (int round = 0; round < 20'000; ++round) {
        for (int i = 0; i < 60; ++i) stack[random() % stack.size()] = word();
        sampler::registers r;
        for (auto& v : r.value) v = word();
        r.value[sampler::registers::pc] = code();
        r.value[sampler::registers::sp] = bounds.low + random() % stack.size() * 8;
        std::uintptr_t frames[100];
        auto const result = u.unwind(r, frames, 100, bounds, {bounds.low + 64, bounds.low + random() % 2048});
        BOOST_REQUIRE(result.count >= 1u);
        BOOST_REQUIRE(result.count <= 100u);
        frames_found += result.count;
        ++ends[static_cast<unsigned>(result.end)];
        auto const by_pointers = sampler::walk_frame_pointers(r, frames, 100, bounds);
        BOOST_REQUIRE(by_pointers.count <= 100u);
    }
    BOOST_TEST(frames_found > 30'000u);
    BOOST_TEST(ends[static_cast<unsigned>(unwind_end::broken_stack)] > 0u);
    BOOST_TEST(ends[static_cast<unsigned>(unwind_end::unknown_code)] > 0u);
}

BOOST_AUTO_TEST_CASE(a_chain_of_frame_pointers_is_followed_to_its_end) {
    std::uintptr_t stack[32] = {};
    sampler::stack_bounds const bounds{reinterpret_cast<std::uintptr_t>(stack), reinterpret_cast<std::uintptr_t>(stack + 32)};
    auto const at = [&stack](unsigned i) { return reinterpret_cast<std::uintptr_t>(stack + i); };
    sampler::registers r{};
    r.value[sampler::registers::sp] = at(2);
    r.value[sampler::registers::fp] = at(4);
    r.value[sampler::registers::pc] = 1000;
    stack[4] = at(8), stack[5] = 2001;
    stack[8] = at(20), stack[9] = 3001;
    stack[20] = 0, stack[21] = 4001;
    std::uintptr_t frames[8];
    auto const walk = [&](std::uint32_t limit = 8) { return sampler::walk_frame_pointers(r, frames, limit, bounds); };
    auto const whole = walk();
    BOOST_TEST((whole.end == unwind_end::complete));
    BOOST_REQUIRE(whole.count == 4u);
    BOOST_TEST(frames[0] == 1000u);
    BOOST_TEST(frames[1] == 2000u);
    BOOST_TEST(frames[2] == 3000u);
    BOOST_TEST(frames[3] == 4000u);
    BOOST_TEST((walk(3).end == unwind_end::truncated));
    BOOST_TEST(walk(3).count == 3u);

    std::uintptr_t const wrong[] = {at(8), at(4), at(2), at(9) + 1, at(31), at(32), 1, ~std::uintptr_t{7}};  // cycles first
    for (std::uintptr_t const next : wrong) {
        stack[8] = next;
        auto const broken = walk();
        BOOST_TEST(broken.count == 3u);
        BOOST_TEST((broken.end == unwind_end::broken_stack));
    }
    r.value[sampler::registers::sp] = at(32);
    BOOST_TEST((walk().end == unwind_end::broken_stack));
}

BOOST_AUTO_TEST_CASE(there_is_enough_room_only_on_the_threads_own_stack) {
    sampler::stack_bounds const bounds{0x10000, 0x20000};
    BOOST_TEST(sampler::enough_room(0x20000 - 8, bounds));
    BOOST_TEST(sampler::enough_room(0x10000 + sampler::unwind_stack_bytes, bounds));
    BOOST_TEST(!sampler::enough_room(0x10000 + sampler::unwind_stack_bytes - 8, bounds));
    BOOST_TEST(!sampler::enough_room(0x10000 - 8, bounds));
    BOOST_TEST(!sampler::enough_room(0x20000, bounds));
    BOOST_TEST(!sampler::enough_room(0x18000, {}));
    auto const here = sampler::current_thread_stack();
    BOOST_TEST(sampler::enough_room(reinterpret_cast<std::uintptr_t>(&here), here));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr std::size_t painted_bytes = 16 * 1024;

// Fills what is below the caller's frame, and returns its lowest byte. Its own frame counts as below.
[[gnu::noinline]] unsigned char* paint_below() {
    auto* const low = static_cast<unsigned char*>(__builtin_frame_address(0)) - painted_bytes;
    for (std::size_t i = 0; i < painted_bytes - 256; ++i) static_cast<unsigned char volatile*>(low)[i] = 0xA5;
    return low;
}

[[gnu::noinline]] std::uint32_t walk_here(sampler::unwinder& u, std::uintptr_t* frames, sampler::stack_bounds bounds) {
    sampler::registers r;
    r.capture();
    return u.unwind(r, frames, 64, bounds).count;
}

BOOST_AUTO_TEST_CASE(a_walk_takes_no_more_stack_than_it_says) {
    std::size_t used = 0;
    std::uint32_t count = 0;
    std::thread([&] {
        auto const u = std::make_unique<sampler::unwinder>();  // an empty cache: all rules are read
        u->modules.renew_if_changed();
        auto const bounds = sampler::current_thread_stack();
        std::uintptr_t frames[64];
        for (int i = 0; i < 2; ++i) {  // the first binds what is bound lazily
            u->rules = {};
            unsigned char* const low = paint_below();
            count = walk_here(*u, frames, bounds);
            unsigned char* p = low;
            while (*static_cast<unsigned char volatile*>(p) == 0xA5) ++p;
            used = static_cast<std::size_t>(low + painted_bytes - p);
        }
    }).join();
    BOOST_TEST_MESSAGE(used << " bytes of stack");
    BOOST_TEST(count > 3u);
    BOOST_TEST(used > 0u);
    BOOST_TEST(used <= sampler::unwind_stack_bytes);
}
#endif

// A library of the C library that is not loaded otherwise comes and goes while this thread is interrupted in it.
BOOST_AUTO_TEST_CASE(a_library_may_come_and_go_while_its_threads_stacks_are_walked) {
    static constexpr char const* name = "libresolv.so.2";
    begin_comparison();
    static std::uint64_t walks;
    walks = 0;
    installed_handler const handler{SIGUSR1, [](int, siginfo_t*, void* context) {
                                        std::uintptr_t frames[64];
                                        seen.unwinder->unwind(*static_cast<ucontext_t const*>(context), frames, 64, seen.bounds);
                                        ++walks;
                                    }};
    std::atomic<bool> done{false};
    std::thread sender([&done, target = ::pthread_self()] {
        while (!done) {
            ::pthread_kill(target, SIGUSR1);
            std::this_thread::yield();
        }
    });
    std::thread renewer([&done] {
        while (!done) seen.unwinder->modules.renew_if_changed();
    });
    unsigned loaded = 0;
    for (int i = 0; i < 300; ++i) {
        void* const library = ::dlopen(name, RTLD_NOW);
        if (library == nullptr) break;
        ++loaded;
        using to_name = int (*)(unsigned char const*, char*, std::size_t);
        if (auto const f = reinterpret_cast<to_name>(::dlsym(library, "ns_name_ntop"))) {
            unsigned char const encoded[] = {3, 'w', 'w', 'w', 7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0};
            char text[64];
            for (int k = 0; k < 20; ++k) sink_of_handler = sink_of_handler + static_cast<unsigned>(f(encoded, text, sizeof text));
        }
        ::dlclose(library);
    }
    done = true;
    sender.join();
    renewer.join();
    BOOST_TEST(loaded == 300u);
    BOOST_TEST(walks > 0u);
}

// The first thread's is told without /proc/self/maps; the libc's answer is the oracle. Its top is the page behind the frames, ours
// the program's name; arguments and environment lie between the two, in either order.
BOOST_AUTO_TEST_CASE(the_stack_of_the_first_thread_lies_where_the_libc_says) {
    auto const asked = [] {
        pthread_attr_t attributes;
        void* low = nullptr;
        std::size_t size = 0;
        BOOST_REQUIRE(pthread_getattr_np(pthread_self(), &attributes) == 0);
        BOOST_REQUIRE(pthread_attr_getstack(&attributes, &low, &size) == 0);
        pthread_attr_destroy(&attributes);
        auto const begin = reinterpret_cast<std::uintptr_t>(low);
        return sampler::stack_bounds{begin, begin + size};
    };
    BOOST_REQUIRE(gettid() == getpid());
    int local = 0;
    auto const ours = sampler::current_thread_stack(), theirs = asked();
    BOOST_TEST(ours.contains(reinterpret_cast<std::uintptr_t>(&local)));
    BOOST_TEST(ours.top > reinterpret_cast<std::uintptr_t>(environ));
    BOOST_TEST((ours.top > theirs.top ? ours.top - theirs.top : theirs.top - ours.top) < 1u << 20);
    BOOST_TEST(getauxval(AT_EXECFN) - ours.top < 16u);
    std::thread([&] {
        auto const mine = sampler::current_thread_stack(), libcs = asked();
        BOOST_TEST(mine.low == libcs.low);
        BOOST_TEST(mine.top == libcs.top);
    }).join();
}

BOOST_AUTO_TEST_SUITE_END()
