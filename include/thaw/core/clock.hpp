// thaw floor 2 core: the clock. Ticks of the CPU's counter, their length in nanoseconds, and the active clock, which stands
// still while no invocation is open, because then the process may be frozen.
//
// No duration is ever the difference of two counter readings on both sides of a freeze. Durations are differences of the
// active clock V = counter - gaps: while at least one invocation is open V runs with the counter; when the last one closes V
// stops, and the time until the next one opens is added to the gaps. It makes no difference whether the host stops the
// counter during a freeze or lets it run, nor whether CLOCK_MONOTONIC is suspended: no clock is read across it.
//
// Thread-safe; reading is signal-safe (now() never waits for a writer for more than a few hundred tries). Nothing allocates.
#ifndef THAW_CORE_CLOCK_HPP
#define THAW_CORE_CLOCK_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>

#include <cerrno>
#include <cstdint>

#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace thaw::core {

// The CPU's counter. Not ordered with the code around it, which would cost as much again: a scope of some nanoseconds is not
// measured but estimated anyway.
THAW_DETAIL_INLINE std::uint64_t read_counter() noexcept {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    std::uint64_t value;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(value));
    return value;
#endif
}

[[nodiscard]] inline std::uint64_t read_clock_ns(clockid_t id) noexcept {
    timespec t{};
    if (::clock_gettime(id, &t) != 0) return 0;
    return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(t.tv_nsec);
}

[[nodiscard]] inline std::uint64_t read_monotonic_ns() noexcept { return read_clock_ns(CLOCK_MONOTONIC); }
[[nodiscard]] inline std::uint64_t read_realtime_ns() noexcept { return read_clock_ns(CLOCK_REALTIME); }

// Whether the counter runs at one rate whatever the core's frequency and sleep state.
[[nodiscard]] inline bool counter_is_invariant() noexcept {
#if !THAW_HAS_COUNTER
    return false;
#elif defined(__x86_64__)
    unsigned a = 0x80000000u, b = 0, c = 0, d = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (a < 0x80000007u) return false;
    a = 0x80000007u, c = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (d >> 8 & 1u) != 0;
#else
    return true;  // the architecture's generic timer has a fixed frequency
#endif
}

// Nanoseconds in a tick, as a fixed-point number: ns = ticks * multiplier / 2^32.
// Worked value: at 2.6 GHz a tick is 0.384615 ns, the multiplier 1651910498, and 2 600 000 ticks are 999 999 ns.
struct tick_length {
    std::uint64_t multiplier = 1ull << 32;

    [[nodiscard]] constexpr std::uint64_t to_ns(std::uint64_t ticks) const noexcept {
        __extension__ using wide = unsigned __int128;
        wide const ns = static_cast<wide>(ticks) * multiplier >> 32;
        return ns > UINT64_MAX ? UINT64_MAX : static_cast<std::uint64_t>(ns);
    }
    // The same for durations that last less than 500 years; longer ones wrap.
    [[nodiscard]] constexpr std::uint64_t to_ns_within_500_years(std::uint64_t ticks) const noexcept {
        __extension__ using wide = unsigned __int128;
        return static_cast<std::uint64_t>(static_cast<wide>(ticks) * multiplier >> 32);
    }
    [[nodiscard]] constexpr std::uint64_t to_ticks(std::uint64_t ns) const noexcept {
        __extension__ using wide = unsigned __int128;
        wide const ticks = (static_cast<wide>(ns) << 32) / multiplier;
        return ticks > UINT64_MAX ? UINT64_MAX : static_cast<std::uint64_t>(ticks);
    }
    // The length that makes `ticks` last `ns`; 0 where that cannot be a counter's rate (below 1 MHz or above 1 THz).
    [[nodiscard]] static constexpr tick_length from(std::uint64_t ticks, std::uint64_t ns) noexcept {
        __extension__ using wide = unsigned __int128;
        if (ticks == 0) return {0};
        wide const multiplier = (static_cast<wide>(ns) << 32) / ticks;
        if (multiplier < (1ull << 32) / 1000 || multiplier > (1000ull << 32)) return {0};
        return {static_cast<std::uint64_t>(multiplier)};
    }
};
static_assert(tick_length{1651910498}.to_ns(2'600'000) == 999'999);

// The counter and CLOCK_MONOTONIC read at the same moment, as nearly as can be.
struct clock_pair {
    std::uint64_t ticks = 0;
    std::uint64_t ns = 0;

    // Reads the counter around the clock a few times and keeps the narrowest bracket, so that an interrupt in between costs
    // nothing. Error: half the bracket, some 20 ns.
    [[nodiscard]] static clock_pair take() noexcept {
        clock_pair best;
        std::uint64_t narrowest = UINT64_MAX;
        for (int i = 0; i < 5; ++i) {
            std::uint64_t const before = read_counter();
            std::uint64_t const ns = read_monotonic_ns();
            std::uint64_t const width = read_counter() - before;
            if (width < narrowest) narrowest = width, best = {before + width / 2, ns};
        }
        return best;
    }
};

// Where ticks come from. One in a process. `read` is written by thaw::start only, before any reader exists; the length is
// refined later and read with relaxed loads.
struct tick_source {
    // Null: the counter. Otherwise a function that is called for every reading: CLOCK_MONOTONIC where the counter is not
    // invariant, a hand-set clock in tests.
    std::uint64_t (*read)() noexcept = nullptr;
    tick_length length;

    THAW_DETAIL_INLINE std::uint64_t ticks() const noexcept {
        if (auto* const f = read) [[unlikely]] return f();
        return read_counter();
    }

    [[nodiscard]] std::uint64_t to_ns(std::uint64_t ticks) const noexcept {
        return tick_length{load_relaxed(length.multiplier)}.to_ns(ticks);
    }

    void calibrate() noexcept {
        calibrate([] {});
    }

    // Chooses the counter where it is invariant, CLOCK_MONOTONIC where not, and measures the length of a tick without
    // sleeping: 100 us on x86-64, an error of at most 50 ns / 100 us = 5e-4; on aarch64 the rate is read. meanwhile() is called
    // once, and the time it takes is used.
    template <class F>
    void calibrate(F&& meanwhile) noexcept {
        if (!counter_is_invariant()) {
            *this = {&read_monotonic_ns, {}};
            meanwhile();
            return;
        }
#if defined(__aarch64__)
        std::uint64_t hertz = 0;
        __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(hertz));
        tick_length const measured = tick_length::from(hertz, 1'000'000'000);
        meanwhile();
#else
        clock_pair const first = clock_pair::take();
        meanwhile();
        while (read_monotonic_ns() - first.ns < 100'000) {}
        clock_pair const last = clock_pair::take();
        tick_length const measured = tick_length::from(last.ticks - first.ticks, last.ns - first.ns);
#endif
        if (measured.multiplier == 0) *this = {&read_monotonic_ns, {}};
        else *this = {nullptr, measured};
    }
};

// Notices that the counter has jumped, or runs at another rate than it did: a snapshot of the machine was restored, here or
// elsewhere. Compares the counter with CLOCK_REALTIME since the last look, for that purpose only; no duration comes of it. Where
// the two disagree by more than 5 % and 50 ms, the length of a tick is measured again. A clock that the host has set meanwhile
// costs a measurement of 100 us and does no other harm. Thread-compatible: one look at a time.
struct counter_watch {
    std::uint64_t ticks = 0;        // at the last look
    std::uint64_t realtime_ns = 0;  // likewise
    std::uint64_t jumps = 0;

    void start(std::uint64_t now_ticks) noexcept { ticks = now_ticks, realtime_ns = read_realtime_ns(); }

    // Whether `elapsed_ticks` ticks can be what passed in `elapsed_ns` of real time.
    [[nodiscard]] static constexpr bool agree(tick_length length, std::uint64_t elapsed_ticks, std::uint64_t elapsed_ns) noexcept {
        std::uint64_t const by_counter = length.to_ns(elapsed_ticks);
        std::uint64_t const off = by_counter > elapsed_ns ? by_counter - elapsed_ns : elapsed_ns - by_counter;
        return off <= elapsed_ns / 20 + 50'000'000u;
    }

    THAW_DETAIL_COLD void look(tick_source& source, std::uint64_t now_ticks) noexcept {
        std::uint64_t const realtime = read_realtime_ns();
        if (source.read == nullptr && !agree(source.length, now_ticks - ticks, realtime - realtime_ns)) {
            tick_source again;
            again.calibrate();
            if (again.read == nullptr) store_relaxed(source.length.multiplier, again.length.multiplier);
            own_add(jumps, 1u);
        }
        ticks = now_ticks;
        realtime_ns = realtime;
    }
};
static_assert(counter_watch::agree({1ull << 32}, 1'000'000'000, 1'040'000'000));
static_assert(!counter_watch::agree({1ull << 32}, 1'000'000'000, 1'200'000'000));

// The active clock. Its unit is the tick. It starts at 1, so that 0 can mean "no time".
//
// Writers read the counter while they hold the lock, so that their readings are in the order of their turns and a reader who
// finds the lock free finds a closed clock standing where no earlier reading has passed it, to a hair: as far as two
// processors agree on the counter, and as long as a store takes to be seen.
//
// Usually one thread opens and closes all invocations, and two locked instructions, which beside a reading of the counter take
// 11 ns each, would be a third of a handler's cost. So the first to open becomes the clock's owner and takes the lock with plain
// stores: it makes its own version odd, then looks whether it still is the owner. Another writer ends the ownership, for good: it
// marks the owner's word, makes every processor pass a full barrier (membarrier), so that the owner either sees the mark or is
// seen with an odd version, and waits until that is even. From then on writers exclude each other by a version that all share.
class active_clock {
public:
    struct state {
        std::uint64_t gaps = 0;       // to subtract from the counter while open
        std::uint64_t closed_at = 0;  // the counter when the last invocation closed; V stands there while none is open
        std::uint64_t open_count = 0; // invocations that are open
        std::uint64_t opened = 0;     // invocations ever opened
    };

    struct opening {
        std::uint64_t ticks = 0;   // the counter
        std::uint64_t gaps = 0;    // stay what they are until the last open invocation closes: V = counter - gaps for who works in it
        std::uint64_t gap = 0;     // ticks since the last one closed, 0 where others are open; huge where the counter went back
    };

    // Before any other thread can see the clock. `owned`: the first that opens becomes its owner; requires announce_barrier().
    void start(std::uint64_t ticks, bool owned = false) noexcept {
        m_gaps = ticks - 1;
        m_closed_at = ticks;
        m_pid = ::getpid();
        m_owner = owned ? nobody : shared;
    }

    // Tells the kernel that the process will want the barrier; false where there is none. Takes 3 us while the process has one
    // thread, and 10 ms when it has more.
    static bool announce_barrier() noexcept {
        return ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
    }

    // Opens an invocation. A counter that is behind the last reading (the snapshot of a virtual machine was restored) shortens the
    // gap below zero, and V goes on from where it stood. `who` is what the calling thread is known by, an address that no other
    // thread uses at the same time; null: nobody, who can be no owner.
    THAW_DETAIL_INLINE opening open(tick_source const& source, void const* who = nullptr) noexcept {
        std::uint64_t* const turn = lock(who);
        std::uint64_t const ticks = source.ticks();
        std::uint64_t gap = 0;
        std::uint64_t gaps = m_gaps;
        if (m_closed == m_opened) {
            gap = ticks - m_closed_at;
            gaps += gap;
            store_release(m_gaps, gaps);
        }
        store_release(m_opened, m_opened + 1);
        unlock(turn);
        return {ticks, gaps, gap};
    }

    // Closes one. Returns the counter's reading that it ended at.
    THAW_DETAIL_INLINE std::uint64_t close(tick_source const& source, void const* who = nullptr) noexcept {
        std::uint64_t* const turn = lock(who);
        std::uint64_t const ticks = source.ticks();
        if (m_closed != m_opened) {
            if (m_closed + 1 == m_opened) store_release(m_closed_at, ticks);
            store_release(m_closed, m_closed + 1);
        }
        unlock(turn);
        return ticks;
    }

    // A consistent copy. A reader that interrupted the writer in a signal handler would wait for ever, so it gives up after
    // some tries; then the copy is of the moment before or after and V is off by at most the gap being added.
    [[nodiscard]] state read() const noexcept {
        state s;
        read(s, [] {});
        return s;
    }

    // V at the counter's reading `ticks`, which the caller has just taken.
    [[nodiscard]] static std::uint64_t at(state const& s, std::uint64_t ticks) noexcept {
        return (s.open_count == 0 ? s.closed_at : ticks) - s.gaps;
    }

    // V now, for any thread. The counter is read together with the state: a reading before or after it would fall into a gap.
    [[nodiscard]] std::uint64_t now(tick_source const& source) const noexcept {
        state s;
        std::uint64_t ticks = 0;
        read(s, [&] { ticks = source.ticks(); });
        return at(s, ticks);
    }

private:
    // Calls meanwhile() between two looks at the versions.
    template <class F>
    void read(state& s, F meanwhile) const noexcept {
        for (int tries = 0; tries < 1000; ++tries) {
            std::uint64_t const before = load_acquire(m_version), owners = load_acquire(m_owners_version);  // pair with unlock()
            // acquire: the versions below are read after these
            std::uint64_t const opened = load_acquire(m_opened);
            s = {load_acquire(m_gaps), load_acquire(m_closed_at), opened - load_acquire(m_closed), opened};
            meanwhile();
            signal_fence();
            if (((before | owners) & 1u) == 0 && before == load_relaxed(m_version) && owners == load_relaxed(m_owners_version)) break;
        }
    }

    // What the owner's word says besides the address of one.
    static constexpr std::uintptr_t ending = 1;  // added to the address: another writer waits until the owner is outside
    static constexpr std::uintptr_t shared = 2;  // there is no owner any more
    static constexpr std::uintptr_t nobody = 4;  // there is none yet

    // Returns the version that is odd now. Everything that is written in a turn is written with release, so that a reader who
    // sees it sees the odd version too.
    THAW_DETAIL_INLINE std::uint64_t* lock(void const* who) noexcept {
        if (load_relaxed(m_owner) != reinterpret_cast<std::uintptr_t>(who)) [[unlikely]] return lock_slowly(who);
        own_add(m_owners_version, 1u);
        signal_fence();  // the processor's order is the business of end_ownership()
        if (load_relaxed(m_owner) == reinterpret_cast<std::uintptr_t>(who)) [[likely]] return &m_owners_version;
        own_add_release(m_owners_version, 1u);
        return lock_slowly(who);
    }

    THAW_DETAIL_INLINE void unlock(std::uint64_t* turn) noexcept {
        own_add_release(*turn, 1u);  // pairs with read(), lock_slowly() and end_ownership()
    }

    // Where there is no owner, the shared version is odd while a writer holds the lock, for a handful of instructions. One that
    // finds it held gives its processor away, so that a preempted holder gets on.
    THAW_DETAIL_NOINLINE std::uint64_t* lock_slowly(void const* who) noexcept {
        for (std::uintptr_t owner = load_acquire(m_owner); owner != shared; owner = load_acquire(m_owner)) {  // pairs with end_ownership()
            if (owner != nobody) end_ownership(owner);
            else if (who == nullptr) compare_exchange(m_owner, owner, shared);
            else if (compare_exchange(m_owner, owner, reinterpret_cast<std::uintptr_t>(who))) return lock(who);
        }
        std::uint64_t version = load_relaxed(m_version);
        for (unsigned tries = 1;; ++tries) {
            // acquire: pairs with the release in unlock() of the writer before
            if ((version & 1u) == 0 && compare_exchange(m_version, version, version + 1)) break;
            if (tries % 64 == 0) ::sched_yield();
            // In the child of a fork the holder may be a thread that was not copied.
            if (tries % 1024 == 0 && (version & 1u) != 0 && ::getpid() != m_pid && compare_exchange(m_version, version, version + 2))
                break;
            version = load_relaxed(m_version);
        }
        return &m_version;
    }

    // After this there is no owner. Several writers may do it at once.
    THAW_DETAIL_COLD void end_ownership(std::uintptr_t owner) noexcept {
        std::uintptr_t expected = owner & ~ending;
        compare_exchange(m_owner, expected, owner | ending);
        int const saved = errno;
        // Should the process have forbidden itself the call meanwhile: a store is seen sooner than in a millisecond.
        if (::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0) {
            timespec const millisecond{0, 1'000'000};
            ::nanosleep(&millisecond, nullptr);
        }
        errno = saved;
        for (unsigned tries = 1; (load_acquire(m_owners_version) & 1u) != 0; ++tries) {  // pairs with the release in unlock()
            if (tries % 64 == 0) ::sched_yield();
            std::uint64_t version = load_relaxed(m_owners_version);
            if (tries % 1024 == 0 && (version & 1u) != 0 && ::getpid() != m_pid)  // see lock_slowly
                compare_exchange(m_owners_version, version, version + 1);
        }
        expected = owner | ending;
        compare_exchange(m_owner, expected, shared);
    }

    alignas(64) std::uintptr_t m_owner = shared;
    std::uint64_t m_owners_version = 0;  // odd while the owner writes; written by the owner
    std::uint64_t m_version = 0;         // odd while another writes
    // What changes together.
    std::uint64_t m_gaps = 0;
    std::uint64_t m_closed_at = 0;
    std::uint64_t m_opened = 0;
    std::uint64_t m_closed = 0;
    pid_t m_pid = 0;
};

}

#endif
