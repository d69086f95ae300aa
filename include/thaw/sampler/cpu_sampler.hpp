// thaw floor 8 sampler: CPU samples of the threads that work for invocations: their timers, the signal handler, and who owns SIGPROF.
//
// Each thread has a timer on its own CPU clock, which is delivered to that thread, is armed once and then left alone. The kernel
// looks at CPU clocks at its tick only, so that there are at most HZ samples a second whatever is asked; the interval asked is
// far below any tick, and one signal is one sample, however many intervals it stands for: weighing a signal by its overruns, or
// arming the timer anew for each invocation, charges late code with the CPU time of what ran before the tick (10 to 60
// percentage points wrong, measured). Rejected: a wall clock, which ends blocking calls with EINTR; setitimer, which survives
// exec and kills the new program.
//
// The handler reads and writes its own memory only; its one system call, gettid, does not fail and sets no errno. Once installed it stays: a signal
// that comes after stop() finds it and is ignored. System calls are made directly, since timer_create is in another library
// with glibc before 2.34.
#ifndef THAW_SAMPLER_CPU_SAMPLER_HPP
#define THAW_SAMPLER_CPU_SAMPLER_HPP

#include <thaw/core/config.hpp>
#include <thaw/core/thread_record.hpp>
#include <thaw/sampler/stack_table.hpp>
#include <thaw/sampler/unwind.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <new>

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

namespace thaw::sampler {

inline constexpr std::uint64_t asked_period_ns = 50'000;
inline constexpr std::uint32_t frame_limit = 64;

enum class sampling : std::uint8_t { off, on, signal_taken };

class cpu_sampler;

// What the sampler keeps of a thread record, in the arena. The owner of the record writes, signal handler included; a collector
// reads; any thread may take the timer away.
struct alignas(64) thread_sampler {
    static constexpr int no_timer = -1;

    thread_sampler* self = nullptr;  // what tells a thread's pointer from any other value of a signal
    core::thread_record* record = nullptr;
    int timer = no_timer;
    pid_t pid = 0;                   // of the process that made the timer: the child of a fork has none
    pid_t tid = 0;
    bool denied = false;             // the kernel gave no timer
    stack_bounds stack;
    std::uint64_t dropped = 0;       // samples outside of an invocation, or while the thread was paused
    std::uint64_t overflow = 0;      // samples whose stack found no room
    std::uint64_t truncated = 0;     // samples whose outermost frames are missing
    std::uint64_t failed = 0;        // samples with one frame, because there was no room to walk
    std::uint32_t newest = 0;        // stack of this record's nodes, as an index plus 1
    std::uintptr_t frames[frame_limit];

    // The thread's CPU clock, for any thread of the process: the encoding that pthread_getcpuclockid returns (Linux ABI).
    [[nodiscard]] clockid_t clock() const noexcept { return static_cast<clockid_t>(~static_cast<unsigned>(core::load_relaxed(tid)) << 3 | 6u); }
};

[[gnu::visibility("hidden")]] inline constinit cpu_sampler* active_sampler = nullptr;

// One per process, in its arena, all zero at first.
class cpu_sampler {
public:
    unwinder walker;
    stack_table stacks;

    explicit cpu_sampler(core::process_root& p) noexcept : m_process(p) {
        stacks.reserve(p.memory, p.memory.size_bytes() / 16);  // without it every stack is an overflow
        p.begin_sampling = &begin_thread;
        p.end_sampling = &end_thread;
    }

    // Samples the threads that open or resume an invocation from now on, unless somebody else has the signal. One at a time.
    void start(stack_source source) noexcept {
        int const saved = errno;
        core::store_relaxed(active_sampler, this);
        core::store_relaxed(m_source, static_cast<std::uint8_t>(source));
        struct sigaction now {};
        ::sigaction(SIGPROF, nullptr, &now);
        bool taken = !is_ours(now);
        if (taken && (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == SIG_DFL) {
            struct sigaction ours {};
            ours.sa_sigaction = &on_signal;
            ours.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
            ::sigemptyset(&ours.sa_mask);
            core::store_relaxed(m_handler, &on_signal);
            taken = ::sigaction(SIGPROF, &ours, nullptr) != 0;
        }
        set_state(taken ? sampling::signal_taken : sampling::on);
        core::own_add_release(m_process.sampling_round, 1u);  // pairs with the acquire in begin_sampling of agent/handler.hpp
        errno = saved;
    }

    // No thread is sampled any more. Thread-safe.
    void stop(sampling why = sampling::off) noexcept {
        if (state() != sampling::on) return;
        // In the one order of sequentially consistent operations this comes before the timers are taken away, and in begin()
        // a timer is shown before the state is looked at: one that is not seen here is seen there.
        set_state(why);
        for (auto* r = core::load_acquire(m_process.records); r != nullptr; r = r->next)  // pairs with take_record
            if (auto* const t = static_cast<thread_sampler*>(core::load_acquire(r->sampler))) drop_timer(*t);
    }

    // Gives up where the host has taken the signal meanwhile: its handler is not to get our signals.
    void look_at_signal() noexcept {
        if (state() != sampling::on) return;
        struct sigaction now {};
        if (::sigaction(SIGPROF, nullptr, &now) != 0 || !is_ours(now)) stop(sampling::signal_taken);
    }

    [[nodiscard]] sampling state() const noexcept { return static_cast<sampling>(__atomic_load_n(&m_state, __ATOMIC_SEQ_CST)); }
    [[nodiscard]] stack_source source() const noexcept { return static_cast<stack_source>(core::load_relaxed(m_source)); }

    // One sample of the thread, which the signal with this context interrupted.
    void take(thread_sampler& t, ucontext_t const& context) noexcept {
        core::thread_record& r = *t.record;
        core::node* const at = core::load_relaxed(r.current);
        if (at == nullptr || core::load_relaxed(r.invocation) == nullptr) return core::own_add(t.dropped, 1u);
        stack_source const how = source();
        if (how == stack_source::none) return core::own_add(at->samples, 1u);
        auto const sp = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
        unwind_result walked{1, unwind_end::broken_stack};
        if (how == stack_source::frame_pointers) {
            walked = walk_frame_pointers(interrupted_registers(context), t.frames, frame_limit, t.stack);
            if (walked.count == 0) t.frames[0] = interrupted_registers(context).value[registers::pc], walked.count = 1;
        } else if (enough_room(sp, t.stack) || enough_room(sp, alternate_stack(context))) {
            walked = walker.unwind(context, t.frames, frame_limit, t.stack);
        } else {
            t.frames[0] = interrupted_registers(context).value[registers::pc];
            core::own_add(t.failed, 1u);
        }
        bool const truncated = walked.end != unwind_end::complete;
        if (truncated) core::own_add(t.truncated, 1u);
        if (stacks.add(at, t.frames, walked.count, truncated, t.newest)) return;
        core::own_add(t.overflow, 1u);
        core::own_add(at->samples, 1u);
    }

    // Threads that are not sampled because there was no memory for it.
    [[nodiscard]] std::uint32_t unsampled_threads() const noexcept { return core::load_relaxed(m_unsampled_threads); }

    // Whether `value` is the address of a thread_sampler.
    [[nodiscard]] thread_sampler* registered(void* value) const noexcept {
        if (!m_process.memory.holds(value, sizeof(thread_sampler)) || reinterpret_cast<std::uintptr_t>(value) % alignof(thread_sampler) != 0)
            return nullptr;
        auto* const t = static_cast<thread_sampler*>(value);
        return t->self == t ? t : nullptr;
    }

private:
    static void on_signal(int, siginfo_t* info, void* context) noexcept {
        cpu_sampler* const self = core::load_relaxed(active_sampler);
        if (self == nullptr || info->si_code != SI_TIMER) return;
        thread_sampler* const t = self->registered(info->si_value.sival_ptr);
        // A signal of a timer that is gone may come late, when the record is another thread's. Rejected: comparing si_timerid,
        // which under QEMU is not what timer_create gave.
        if (t == nullptr || core::load_relaxed(t->timer) == thread_sampler::no_timer) return;
        if (core::load_relaxed(t->tid) != static_cast<pid_t>(::syscall(SYS_gettid))) return;
        self->take(*t, *static_cast<ucontext_t const*>(context));
    }

    void set_state(sampling s) noexcept { __atomic_store_n(&m_state, static_cast<std::uint32_t>(s), __ATOMIC_SEQ_CST); }

    [[nodiscard]] bool is_ours(struct sigaction const& now) const noexcept {
        return (now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == core::load_relaxed(m_handler);
    }

    static void begin_thread(core::thread_record& r) noexcept {
        int const saved = errno;
        static_cast<cpu_sampler*>(r.process->cpu_sampler)->begin(r);
        errno = saved;
    }
    static void end_thread(core::thread_record& r) noexcept {
        int const saved = errno;
        drop_timer(*static_cast<thread_sampler*>(r.sampler));
        errno = saved;
    }

    // On the thread that owns the record.
    void begin(core::thread_record& r) noexcept {
        if (state() != sampling::on) return;
        auto* t = static_cast<thread_sampler*>(r.sampler);
        if (t == nullptr) {
            void* const memory = m_process.memory.allocate(sizeof(thread_sampler));
            if (memory == nullptr) {
                core::shared_add(m_unsampled_threads, 1u);
                return;
            }
            t = ::new (memory) thread_sampler;
            t->record = &r;
            t->self = t;
        }
        drop_timer(*t);
        core::store_relaxed(t->pid, ::getpid());
        core::store_relaxed(t->tid, static_cast<pid_t>(::syscall(SYS_gettid)));
        if (source() != stack_source::none) {
            t->stack = current_thread_stack();
            walker.modules.renew_if_changed();
        }
        core::store_release(r.sampler, static_cast<void*>(t));  // pairs with the acquires of stop() and of the collector
        sigevent event{};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGPROF;
        event.sigev_value.sival_ptr = t;
        __builtin_memcpy(reinterpret_cast<unsigned char*>(&event) + thread_id_offset, &t->tid, sizeof t->tid);
        int timer = thread_sampler::no_timer;
        bool const made = ::syscall(SYS_timer_create, CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0;
        core::store_relaxed(t->denied, !made);
        if (!made) return;
        __atomic_store_n(&t->timer, timer, __ATOMIC_SEQ_CST);
        if (state() != sampling::on) return drop_timer(*t);  // stop() ran meanwhile
        itimerspec const period{{0, asked_period_ns}, {0, asked_period_ns}};
        ::syscall(SYS_timer_settime, timer, 0, &period, nullptr);
    }

    static void drop_timer(thread_sampler& t) noexcept {
        int const timer = __atomic_exchange_n(&t.timer, thread_sampler::no_timer, __ATOMIC_SEQ_CST);
        if (timer != thread_sampler::no_timer && core::load_relaxed(t.pid) == ::getpid()) ::syscall(SYS_timer_delete, timer);
    }

    // Where the kernel's sigevent has the thread: behind value, signal and kind. libcs disagree about its name.
    static constexpr std::size_t thread_id_offset = sizeof(sigval) + 2 * sizeof(int);

    core::process_root& m_process;
    std::uint32_t m_state = 0;  // a sampling
    std::uint8_t m_source = 0;  // a stack_source
    void (*m_handler)(int, siginfo_t*, void*) = nullptr;  // the one that was installed, of whichever module
    std::uint32_t m_unsampled_threads = 0;
};

}

#endif
