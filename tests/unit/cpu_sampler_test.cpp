#include "burn.hpp"
#include "private_process.hpp"
#include "recorded.hpp"

#include <thaw/agent/profile_now.hpp>
#include <thaw/profile/symbolize.hpp>
#include <thaw/sampler/cpu_sampler.hpp>

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <new>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdexcept>
#include <string>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace thaw::testing;

namespace {

constexpr std::uint64_t ms = 1'000'000;

// Signals of a sanitizer arrive when it finds the time, not where the thread was.
constexpr bool exact_signals = THAW_TEST_TSAN == 0;

[[gnu::noinline]] void marked_work(std::uint64_t ns) {
    THAW_SCOPE("marked");
    burn(ns);
    __asm__ volatile("");
}

[[gnu::noinline]] void unmarked_work(std::uint64_t ns) {
    burn(ns);
    __asm__ volatile("");
}

void invoke(std::uint64_t ns) {
    THAW_HANDLER("h");
    unmarked_work(ns);
}

// The kernel's tick, which is the most that a sample can stand for.
std::uint64_t tick_ns() {
    timespec t{};
    ::clock_getres(CLOCK_MONOTONIC_COARSE, &t);
    return static_cast<std::uint64_t>(t.tv_nsec);
}

std::uint64_t samples_at(thaw::profile const& p, std::string_view path) {
    std::uint64_t sum = 0;
    for (thaw::cpu_stack const& s : p.cpu.stacks)
        if (path_of(p, s.node) == path) sum += s.samples;
    return sum;
}

std::uint64_t samples_in(thaw::profile p, std::string_view function) {
    thaw::symbolize(p);
    std::uint64_t sum = 0;
    for (thaw::cpu_stack const& s : p.cpu.stacks) {
        bool found = false;
        for (std::uint32_t i = 0; i < s.frame_count; ++i)
            found = found || p.cpu.locations[p.cpu.frames[s.first_frame + i]].function.find(function) != std::string::npos;
        if (found) sum += s.samples;
    }
    return sum;
}

void expect_sound(thaw::profile const& p) {
    std::uint64_t samples = 0, cpu_ns = p.cpu.unattributed_ns;
    for (thaw::cpu_stack const& s : p.cpu.stacks) {
        samples += s.samples, cpu_ns += s.cpu_ns;
        EXPECT(s.samples != 0);
        EXPECT(s.node < p.nodes.size());
        EXPECT(s.first_frame + s.frame_count <= p.cpu.frames.size());
    }
    for (std::uint32_t const f : p.cpu.frames) EXPECT(f < p.cpu.locations.size());
    for (thaw::code_location const& l : p.cpu.locations) {
        if (l.module == thaw::no_index) continue;
        EXPECT(l.module < p.cpu.modules.size());
        EXPECT(l.address >= p.cpu.modules[l.module].start && l.address < p.cpu.modules[l.module].limit);
    }
    EXPECT_EQUAL(samples, p.cpu.samples);
    EXPECT_EQUAL(cpu_ns, p.cpu.cpu_ns);
}

// Works until there are so many samples, for at most 5 s of CPU time. The profile at the end.
template <class F>
thaw::profile sample(std::uint64_t wanted, F&& work) {
    std::uint64_t const begin = thread_cpu_ns();
    thaw::profile p;
    do {
        work();
        p = profile_now();
    } while (p.cpu.samples < wanted && thread_cpu_ns() - begin < 5000 * ms);
    expect_sound(p);
    return p;
}

// In the kernel's words, where it says it.
int timers() {
    std::FILE* const f = std::fopen("/proc/self/timers", "r");
    if (f == nullptr) return -1;
    int n = 0;
    char line[256];
    while (std::fgets(line, sizeof line, f) != nullptr) n += std::strncmp(line, "ID:", 3) == 0;
    std::fclose(f);
    return n;
}

thaw::sampler::cpu_sampler& the_sampler() {
    return *static_cast<thaw::sampler::cpu_sampler*>(thaw::core::find_process()->cpu_sampler);
}

// Runs f() on a thread with a stack of that size.
template <class F>
void on_thread(std::size_t stack_bytes, F f) {
    pthread_attr_t attributes;
    ::pthread_attr_init(&attributes);
    EXPECT(::pthread_attr_setstacksize(&attributes, stack_bytes) == 0);
    pthread_t thread{};
    bool const made = ::pthread_create(&thread, &attributes, [](void* p) -> void* { return (*static_cast<F*>(p))(), nullptr; }, &f) == 0;
    EXPECT(made);
    if (made) ::pthread_join(thread, nullptr);
    ::pthread_attr_destroy(&attributes);
}

std::atomic<int> foreign_signals{0};
void foreign_handler(int) { foreign_signals.fetch_add(1); }

}

BOOST_AUTO_TEST_SUITE(cpu_sampler)

BOOST_AUTO_TEST_CASE(samples_are_of_the_scope_in_which_the_thread_stands) {
    IN_CHILD {
        start_recording({.report_every_ms = 1000});
        thaw::profile const p = sample(25, [] {
            THAW_HANDLER("h");
            marked_work(20 * ms);
        });
        EXPECT_EQUAL(p.cpu.status, "on");
        EXPECT_EQUAL(p.cpu.period_ns, 50'000);
        EXPECT(p.cpu.samples >= 25);
        if (exact_signals) EXPECT(samples_at(p, "h/marked") * 10 >= p.cpu.samples * 9);
        EXPECT_EQUAL(p.cpu.overflow_stacks, 0);
    };
}

BOOST_AUTO_TEST_CASE(native_functions_show_up_without_any_mark_but_the_handler) {
    IN_CHILD {
        start_recording();
        thaw::profile const p = sample(25, [] { invoke(20 * ms); });
        EXPECT_EQUAL(samples_at(p, "h"), p.cpu.samples);
        if (exact_signals) EXPECT(samples_in(p, "unmarked_work") * 10 >= p.cpu.samples * 9);
    };
}

BOOST_AUTO_TEST_CASE(without_stacks_a_sample_knows_its_scope_only) {
    IN_CHILD {
        start_recording({.stacks = thaw::stack_source::none});
        thaw::profile const p = sample(10, [] {
            THAW_HANDLER("h");
            marked_work(20 * ms);
        });
        EXPECT(p.cpu.samples >= 10);
        EXPECT(p.cpu.frames.empty());
        EXPECT(p.cpu.stacks.size() <= 2);
        for (thaw::cpu_stack const& s : p.cpu.stacks) EXPECT_EQUAL(s.frame_count, 0);
    };
}

BOOST_AUTO_TEST_CASE(frame_pointers_give_at_least_the_function_that_was_interrupted) {
    IN_CHILD {
        start_recording({.stacks = thaw::stack_source::frame_pointers});
        thaw::profile const p = sample(10, [] { invoke(20 * ms); });
        EXPECT(p.cpu.samples >= 10);
        for (thaw::cpu_stack const& s : p.cpu.stacks) EXPECT(s.frame_count >= 1);
        if (exact_signals) EXPECT(samples_in(p, "unmarked_work") * 2 >= p.cpu.samples);
    };
}

BOOST_AUTO_TEST_CASE(switched_off_there_is_neither_handler_nor_timer) {
    IN_CHILD {
        start_recording({.cpu = false});
        invoke(20 * ms);
        struct sigaction now {};
        ::sigaction(SIGPROF, nullptr, &now);
        EXPECT(now.sa_handler == SIG_DFL);
        EXPECT(timers() <= 0);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.cpu.status, "off");
        EXPECT_EQUAL(p.cpu.samples, 0);
        EXPECT_EQUAL(p.cpu.cpu_ns, 0);
    };
}

BOOST_AUTO_TEST_CASE(cpu_time_outside_of_invocations_is_dropped_and_counted) {
    IN_CHILD {
        start_recording();
        invoke(0);
        THAW_SCOPE("background");
        burn(100 * ms);
        thaw::profile const p = profile_now();
        EXPECT(p.cpu.dropped >= 1);
        EXPECT(p.cpu.samples <= 1);
        EXPECT(p.cpu.cpu_ns < 20 * ms);
        expect_sound(p);
    };
}

BOOST_AUTO_TEST_CASE(samples_of_one_window_weigh_the_same) {
    IN_CHILD {
        private_process p;
        void* const place = (*p).memory.allocate((sizeof(thaw::sampler::cpu_sampler) + 63) & ~std::size_t{63});
        auto* const sampler = ::new (place) thaw::sampler::cpu_sampler(*p);
        (*p).cpu_sampler = sampler;
        sampler->start(thaw::stack_source::none);
        thaw::detail::collector<thaw::core::process_root> c(*p);
        thaw::core::thread_record& r = *thaw::core::this_thread.record->whole;
        { THAW_SCOPE("a"); }
        { THAW_SCOPE("b"); }
        auto* const a = const_cast<thaw::core::node*>(p.find({"a"}));
        auto* const b = const_cast<thaw::core::node*>(p.find({"b"}));
        auto const cpu_of = [](thaw::profile const& of, std::string_view name) {
            for (thaw::cpu_stack const& s : of.cpu.stacks)
                if (of.name_of(of.nodes[s.node]) == name) return s.cpu_ns;
            return std::uint64_t{0};
        };
        a->samples = 1, b->samples = 2, r.sums.cpu_ns = 1000;
        thaw::profile const& first = c.collect();
        EXPECT_EQUAL(first.cpu.samples, 3);
        EXPECT_EQUAL(cpu_of(first, "a"), 333);
        EXPECT_EQUAL(cpu_of(first, "b"), 667);  // what does not divide is not lost
        a->samples = 5, r.sums.cpu_ns = 9000;   // 4 samples for 8000 ns
        thaw::profile const& second = c.collect();
        EXPECT_EQUAL(cpu_of(second, "a"), 333 + 8000);
        EXPECT_EQUAL(cpu_of(second, "b"), 667);
        r.sums.cpu_ns = 9500;
        thaw::profile const& third = c.collect();
        EXPECT_EQUAL(third.cpu.cpu_ns, 9500);
        EXPECT_EQUAL(third.cpu.unattributed_ns, 500);
        EXPECT_EQUAL(third.cpu.samples, 7);
        b->samples = 3;  // a sample before its CPU time was booked
        thaw::profile const& fourth = c.collect();
        EXPECT_EQUAL(fourth.cpu.samples, 8);
        EXPECT_EQUAL(fourth.cpu.cpu_ns, 9500);
        a->samples = UINT32_MAX;
        EXPECT_EQUAL(c.collect().cpu.samples, 3 + std::uint64_t{UINT32_MAX});
        a->samples = 2, r.sums.cpu_ns = 9512;  // the counter has wrapped: 3 samples
        thaw::profile const& last = c.collect();
        EXPECT_EQUAL(cpu_of(last, "a"), 333 + 8000 + 12);
        EXPECT_EQUAL(last.cpu.samples, 3 + std::uint64_t{UINT32_MAX} + 3);
    };
}

BOOST_AUTO_TEST_CASE(stacks_beyond_the_memory_are_refused_and_known_ones_still_count) {
    thaw::core::arena memory;
    BOOST_REQUIRE(memory.reserve(1u << 20));
    thaw::sampler::stack_table table;
    BOOST_REQUIRE(table.reserve(memory, 64u << 10));
    thaw::core::node n;
    std::uint32_t newest = 0;
    std::uintptr_t frames[4] = {1, 2, 3, 0};
    std::uint32_t taken = 0;
    for (std::uintptr_t i = 0; i < 100'000; ++i) {
        frames[3] = i;
        taken += table.add(&n, frames, 4, false, newest);
    }
    BOOST_TEST(taken == table.stack_limit());
    frames[3] = 0;
    for (int i = 0; i < 41; ++i) BOOST_TEST(table.add(&n, frames, 4, false, newest));
    BOOST_TEST(!table.add(&n, frames, 4, true, newest));
    BOOST_TEST(!table.add(&n, frames, 3, false, newest));
    std::uint32_t stacks = 0, samples = 0;
    for (std::uint32_t i = newest; i != 0; i = table.stack(i - 1).next) ++stacks, samples += table.stack(i - 1).samples;
    BOOST_TEST(stacks == taken);
    BOOST_TEST(samples == taken + 41);
    memory.release();
}

BOOST_AUTO_TEST_CASE(long_stacks_use_up_the_frames_first) {
    thaw::core::arena memory;
    BOOST_REQUIRE(memory.reserve(1u << 20));
    thaw::sampler::stack_table table;
    BOOST_REQUIRE(table.reserve(memory, 64u << 10));
    thaw::core::node n;
    std::uint32_t newest = 0, taken = 0;
    std::uintptr_t frames[64] = {};
    for (std::uintptr_t i = 0; i < 100'000; ++i) {
        frames[7] = i;
        taken += table.add(&n, frames, 64, false, newest);
    }
    BOOST_TEST(taken == table.stack_limit() * 20 / 64);
    for (std::uint32_t i = newest; i != 0; i = table.stack(i - 1).next) {
        BOOST_TEST(table.stack(i - 1).frame_count == 64);
        BOOST_TEST(table.frames_of(table.stack(i - 1))[7] == i - 1);
    }
    memory.release();
}

BOOST_AUTO_TEST_CASE(a_table_without_memory_refuses_everything) {
    thaw::core::arena memory;
    BOOST_REQUIRE(memory.reserve(4096));
    thaw::sampler::stack_table table;
    BOOST_TEST(!table.reserve(memory, 1u << 20));
    thaw::core::node n;
    std::uint32_t newest = 0;
    std::uintptr_t const frame = 1;
    BOOST_TEST(!table.add(&n, &frame, 1, false, newest));
    memory.release();
}

BOOST_AUTO_TEST_CASE(a_sample_whose_stack_finds_no_room_keeps_its_scope) {
    IN_CHILD {
        start_recording();
        invoke(0);
        the_sampler().stacks = {};  // as full
        thaw::profile const p = sample(10, [] { invoke(20 * ms); });
        EXPECT(p.cpu.samples >= 10);
        EXPECT_EQUAL(p.cpu.overflow_stacks, p.cpu.samples);
        EXPECT_EQUAL(samples_at(p, "h"), p.cpu.samples);
    };
}

BOOST_AUTO_TEST_CASE(a_thread_for_which_there_is_no_memory_is_told_of) {
    IN_CHILD {
        start_recording();
        {
            THAW_SCOPE("makes the record");
        }
        thaw::core::arena& memory = thaw::core::find_process()->memory;
        // What is left is enough for the invocation.
        while (memory.size_bytes() - memory.used_bytes() >= sizeof(thaw::sampler::thread_sampler)) static_cast<void>(memory.allocate(64));
        invoke(20 * ms);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.cpu.status, "on; threads without a timer: 1");
        EXPECT_EQUAL(p.cpu.samples, 0);
    };
}

BOOST_AUTO_TEST_CASE(a_handler_that_is_there_stays_there) {
    IN_CHILD {
        std::signal(SIGPROF, &foreign_handler);
        start_recording();
        invoke(20 * ms);
        EXPECT_EQUAL(foreign_signals.load(), 0);
        ::raise(SIGPROF);
        EXPECT_EQUAL(foreign_signals.load(), 1);
        EXPECT(timers() <= 0);
        EXPECT_EQUAL(profile_now().cpu.status, "unavailable (signal taken)");
        thaw::stop();
        ::raise(SIGPROF);
        EXPECT_EQUAL(foreign_signals.load(), 2);
    };
}

BOOST_AUTO_TEST_CASE(an_ignored_signal_stays_ignored) {
    IN_CHILD {
        std::signal(SIGPROF, SIG_IGN);
        start_recording();
        invoke(ms);
        struct sigaction now {};
        ::sigaction(SIGPROF, nullptr, &now);
        EXPECT(now.sa_handler == SIG_IGN);
        EXPECT_EQUAL(profile_now().cpu.status, "unavailable (signal taken)");
    };
}

BOOST_AUTO_TEST_CASE(a_handler_that_comes_later_gets_the_signal_to_itself) {
    IN_CHILD {
        start_recording();
        invoke(20 * ms);
        std::signal(SIGPROF, &foreign_handler);
        EXPECT_EQUAL(profile_now().cpu.status, "unavailable (signal taken)");
        EXPECT(timers() <= 0);
        int const before = foreign_signals.load();
        invoke(40 * ms);
        EXPECT_EQUAL(foreign_signals.load(), before);
    };
}

BOOST_AUTO_TEST_CASE(after_stop_a_stray_signal_is_harmless_and_start_samples_again) {
    IN_CHILD {
        start_recording();
        invoke(10 * ms);
        thaw::stop();
        EXPECT(timers() <= 0);
        ::raise(SIGPROF);
        std::uint64_t const before = last_profile().cpu.samples;
        invoke(20 * ms);
        start_recording();
        EXPECT_EQUAL(profile_now().cpu.samples, before);
        thaw::profile const p = sample(before + 10, [] { invoke(20 * ms); });
        EXPECT(p.cpu.samples >= before + 10);
        EXPECT_EQUAL(p.cpu.status, "on");
        EXPECT(p.cpu.cpu_ns + 20 * ms <= p.window.cpu_ns);  // what ran between stop and start is not covered
    };
}

BOOST_AUTO_TEST_CASE(a_thousand_starts_and_stops_under_fire) {
    IN_CHILD {
        std::atomic<bool> done{false};
        start_recording();
        std::thread other([&] {
            while (!done.load()) invoke(ms);
        });
        for (int i = 0; i < 1000; ++i) {
            thaw::stop();
            start_recording();
            if (i % 16 == 0) invoke(ms);
        }
        done = true;
        other.join();
        expect_sound(profile_now());
        thaw::stop();
        EXPECT(timers() <= 0);
    };
}

BOOST_AUTO_TEST_CASE(signals_of_others_are_ignored) {
    IN_CHILD {
        start_recording();
        invoke(ms);
        std::uint64_t const before = profile_now().cpu.samples;
        auto& memory = thaw::core::find_process()->memory;
        void* const block = memory.allocate(64);
        for (void* const value : {static_cast<void*>(nullptr), static_cast<void*>(&memory), block, reinterpret_cast<void*>(-1),
                                  static_cast<void*>(static_cast<char*>(block) + 8)}) {
            THAW_HANDLER("h");
            sigval v{};
            v.sival_ptr = value;
            EXPECT(::sigqueue(::getpid(), SIGPROF, v) == 0);
            sigevent event{};
            event.sigev_notify = SIGEV_SIGNAL;
            event.sigev_signo = SIGPROF;
            event.sigev_value = v;
            int timer = 0;
            EXPECT(::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) == 0);
            itimerspec const soon{{0, 0}, {0, 1}};
            ::syscall(SYS_timer_settime, timer, 0, &soon, nullptr);
            ::usleep(1000);
            ::syscall(SYS_timer_delete, timer);
        }
        sigval own{};
        own.sival_ptr = thaw::core::this_thread.record->whole->sampler;
        for (int i = 0; i < 10; ++i) {
            THAW_HANDLER("h");
            EXPECT(::sigqueue(::getpid(), SIGPROF, own) == 0);
        }
        EXPECT(profile_now().cpu.samples <= before + 1);
    };
}

BOOST_AUTO_TEST_CASE(where_seccomp_denies_the_timer_the_run_goes_on) {
    IN_CHILD {
        sock_filter program[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_timer_create, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        sock_fprog const filter{4, program};
        ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) return;
        start_recording();
        errno = 0;
        invoke(20 * ms);
        EXPECT_EQUAL(errno, 0);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.cpu.status, "unavailable (timer denied)");
        EXPECT_EQUAL(p.window.invocations, 1);
    };
}

BOOST_AUTO_TEST_CASE(where_the_limit_of_pending_signals_is_zero_the_run_goes_on) {
    IN_CHILD {
        rlimit const none{0, 0};
        if (::setrlimit(RLIMIT_SIGPENDING, &none) != 0) return;
        start_recording();
        invoke(20 * ms);
        EXPECT_EQUAL(profile_now().cpu.status, "unavailable (timer denied)");
    };
}

BOOST_AUTO_TEST_CASE(small_stacks_are_not_overrun) {
    IN_CHILD {
        start_recording();
        for (std::size_t const bytes : {std::size_t{16384}, std::size_t{20480}, std::size_t{65536}}) {
            if (bytes < 65536 && (THAW_TEST_ASAN || THAW_TEST_TSAN)) continue;
            on_thread(bytes, [] {
                THAW_HANDLER("h");
                burn(60 * ms);
            });
        }
        thaw::profile const p = profile_now();
        expect_sound(p);
        if (exact_signals) EXPECT(p.cpu.samples >= 3);
        for (thaw::cpu_stack const& s : p.cpu.stacks) EXPECT(s.frame_count >= 1);
    };
}

BOOST_AUTO_TEST_CASE(alternate_stacks_are_used_and_not_overrun) {
    IN_CHILD {
        start_recording();
        std::size_t const least = static_cast<std::size_t>(::sysconf(_SC_MINSIGSTKSZ));
        for (std::size_t const bytes : {least + 1024, std::size_t{8192}, std::size_t{65536}}) {
            if (bytes < least + 1024 || (bytes < 65536 && (THAW_TEST_ASAN || THAW_TEST_TSAN))) continue;
            on_thread(256u << 10, [bytes] {
                std::vector<unsigned char> memory(bytes + 4096, 0xA5);
                stack_t alternate{};
                alternate.ss_sp = memory.data() + 4096;
                alternate.ss_size = bytes;
                EXPECT(::sigaltstack(&alternate, nullptr) == 0);
                invoke(60 * ms);
                alternate.ss_flags = SS_DISABLE;
                ::sigaltstack(&alternate, nullptr);
                for (std::size_t i = 0; i < 4096; ++i)
                    if (memory[i] != 0xA5) return fail_in_child(__FILE__, __LINE__, "below the alternate stack something was written");
            });
        }
        thaw::profile const p = profile_now();
        expect_sound(p);
        if (exact_signals) EXPECT(p.cpu.samples >= 3);
        if (exact_signals) EXPECT(samples_in(p, "unmarked_work") >= 3);
    };
}

BOOST_AUTO_TEST_CASE(the_child_of_a_fork_is_not_sampled_until_it_starts) {
    IN_CHILD {
        start_recording();
        invoke(10 * ms);
        std::vector<char> touched(THAW_TEST_TSAN ? 1u << 20 : 256u << 20, 1);
        for (int i = 0; i < 4; ++i) {
            THAW_HANDLER("forks");
            pid_t const pid = ::fork();
            if (pid == 0) {
                int const made = timers();
                burn(20 * ms);
                ::_exit(made > 0 ? 1 : 7);
            }
            burn(10 * ms);
            int status = 0;
            EXPECT(::waitpid(pid, &status, 0) == pid);
            EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 7);
        }
        pid_t const pid = ::fork();
        if (pid == 0) {
            std::size_t const before = caught_count();
            invoke(1);  // finds out that this is a child
            start_recording();
            std::uint64_t const inherited = profile_now().cpu.samples;
            thaw::profile const p = sample(inherited + 10, [] { invoke(20 * ms); });
            ::_exit(p.cpu.samples >= inherited + 10 && caught_count() > before ? 7 : 1);
        }
        int status = 0;
        EXPECT(::waitpid(pid, &status, 0) == pid);
        EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 7);
        expect_sound(profile_now());
    };
}

BOOST_AUTO_TEST_CASE(a_program_that_is_executed_under_fire_survives) {
    IN_CHILD {
        start_recording();
        for (int i = 0; i < 20; ++i) {
            pid_t const pid = ::fork();
            if (pid == 0) {
                start_recording();
                THAW_HANDLER("h");
                burn(5 * ms);
                ::execl("/bin/sh", "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 7", nullptr);
                ::_exit(1);
            }
            int status = 0;
            EXPECT(::waitpid(pid, &status, 0) == pid);
            EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 7);
        }
    };
}

BOOST_AUTO_TEST_CASE(threads_that_end_under_fire_leave_nothing_behind) {
    IN_CHILD {
        start_recording();
        int const threads = THAW_TEST_TSAN ? 200 : 2000;
        std::size_t pages = 0;
        for (int i = 0; i < threads; ++i) {
            if (i == threads / 2) pages = resident_pages();
            std::thread([] { invoke(ms); }).join();
        }
        EXPECT(timers() <= 0);
        if (!THAW_TEST_ASAN && !THAW_TEST_TSAN) EXPECT(resident_pages() <= pages + 64);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, threads);
        EXPECT_EQUAL(p.cpu.status, "on");
        expect_sound(p);
        if (exact_signals) EXPECT(p.cpu.samples >= static_cast<std::uint64_t>(threads) * ms / tick_ns() / 4);
    };
}

struct burns_at_the_end {
    ~burns_at_the_end() { invoke(30 * ms); }
};

BOOST_AUTO_TEST_CASE(destructors_of_thread_locals_are_sampled) {
    IN_CHILD {
        start_recording();
        for (int i = 0; i < 4; ++i)
            std::thread([] {
                thread_local burns_at_the_end last;
                __asm__ volatile("" : : "r"(&last));
                invoke(1);
            }).join();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.window.invocations, 8);
        EXPECT(timers() <= 0);
        expect_sound(p);
        if (exact_signals) EXPECT(samples_in(p, "burns_at_the_end") >= 4);
    };
}

BOOST_AUTO_TEST_CASE(a_record_that_is_used_again_is_sampled_again) {
    IN_CHILD {
        start_recording();
        std::uint64_t before = 0;
        for (int i = 0; i < 3; ++i) {
            std::thread([] { invoke(60 * ms); }).join();
            std::uint64_t const now = profile_now().cpu.samples;
            if (exact_signals) EXPECT(now >= before + 3);
            before = now;
        }
    };
}

BOOST_AUTO_TEST_CASE(modules_may_come_and_go_under_fire) {
    IN_CHILD {
        start_recording({.report_every_ms = 1});
        std::uint64_t const begin = thread_cpu_ns();
        while (thread_cpu_ns() - begin < 400 * ms) {
            THAW_HANDLER("h");
            for (char const* const name : {"libresolv.so.2", "libBrokenLocale.so.1", "libnsl.so.1", "libutil.so.1", "libanl.so.1"})
                if (void* const module = ::dlopen(name, RTLD_NOW)) ::dlclose(module);
        }
        expect_sound(profile_now());
    };
}

BOOST_AUTO_TEST_CASE(exceptions_may_fly_under_fire) {
    IN_CHILD {
        start_recording({.report_every_ms = 1});
        std::uint64_t caught = 0, thrown = 0;
        std::uint64_t const begin = thread_cpu_ns();
        while (thread_cpu_ns() - begin < 400 * ms) {
            THAW_HANDLER("h");
            for (int i = 0; i < 50; ++i) {
                try {
                    ++thrown;
                    THAW_SCOPE("throws");
                    throw std::runtime_error("x");
                } catch (std::runtime_error const&) {
                    ++caught;
                }
            }
        }
        EXPECT_EQUAL(caught, thrown);
        thaw::profile const p = profile_now();
        expect_sound(p);
        EXPECT_EQUAL(node_at(p, "h/throws").calls, thrown);
    };
}

BOOST_AUTO_TEST_CASE(errno_is_the_hosts) {
    IN_CHILD {
        start_recording();
        errno = 0;
        std::uint64_t const begin = thread_cpu_ns();
        while (thread_cpu_ns() - begin < 200 * ms) {
            errno = 77;
            invoke(ms);
            if (errno != 77) return fail_in_child(__FILE__, __LINE__, "errno was changed");
        }
    };
}

BOOST_AUTO_TEST_CASE(no_blocking_call_is_interrupted) {
    IN_CHILD {
        start_recording();
        int ends[2];
        EXPECT(::pipe(ends) == 0);
        int const epoll = ::epoll_create1(0);
        sem_t semaphore;
        ::sem_init(&semaphore, 0, 0);
        std::atomic<bool> done{false};
        std::thread writer([&] {
            while (!done.load()) {
                ::usleep(300);
                [[maybe_unused]] auto const n = ::write(ends[1], "x", 1);
            }
        });
        int interrupted = 0, calls = 0;
        auto const look = [&](bool failed) {
            ++calls;
            interrupted += failed && errno == EINTR;
        };
        for (int i = 0; i < 400; ++i) {
            THAW_HANDLER("h");
            burn(ms / 4);
            timespec const little{0, 200'000};
            errno = 0;
            if (::nanosleep(&little, nullptr) != 0) look(true);
            look(::poll(nullptr, 0, 1) < 0);
            epoll_event event{};
            look(::epoll_wait(epoll, &event, 1, 1) < 0);
            timespec until{};
            ::clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += 200'000;
            if (until.tv_nsec >= 1'000'000'000) until.tv_nsec -= 1'000'000'000, ++until.tv_sec;
            look(::sem_timedwait(&semaphore, &until) != 0);
            char c = 0;
            look(::read(ends[0], &c, 1) < 0);
        }
        done = true;
        writer.join();
        EXPECT(calls >= 1600);
        EXPECT_EQUAL(interrupted, 0);
        thaw::profile const p = profile_now();
        if (exact_signals) EXPECT(p.cpu.samples >= 5);
    };
}

BOOST_AUTO_TEST_CASE(profile_now_profiles_one_call_and_reports_at_once) {
    IN_CHILD {
        start_recording({.report_every_ms = 1'000'000});
        { THAW_HANDLER("first"); }  // whose end is a report of its own
        std::size_t const before = caught_count();
        int const result = thaw::profile_now([] {
            unmarked_work(60 * ms);
            return 42;
        });
        EXPECT_EQUAL(result, 42);
        EXPECT_EQUAL(caught_count(), before + 1);
        EXPECT_EQUAL(node_at(last_profile(), "profile_now").calls, 1);
        if (exact_signals) EXPECT(samples_at(last_profile(), "profile_now") >= 3);
        bool caught_it = false;
        try {
            thaw::profile_now([] { throw std::runtime_error("x"); });
        } catch (std::runtime_error const&) {
            caught_it = true;
        }
        EXPECT(caught_it);
        EXPECT(caught_count() > before + 1);
        EXPECT_EQUAL(last_profile().window.errors, 1);
    };
}

BOOST_AUTO_TEST_CASE(an_open_invocation_has_its_cpu_time_so_far) {
    IN_CHILD {
        start_recording();
        THAW_HANDLER("h");
        burn(60 * ms);
        thaw::profile const first = profile_now();
        EXPECT(first.cpu.cpu_ns >= 60 * ms);
        EXPECT_EQUAL(first.window.invocations, 0);
        expect_sound(first);
        burn(20 * ms);
        thaw::profile const second = profile_now();
        EXPECT(second.cpu.cpu_ns >= first.cpu.cpu_ns + 20 * ms);
        expect_sound(second);
    };
}

BOOST_AUTO_TEST_SUITE_END()
