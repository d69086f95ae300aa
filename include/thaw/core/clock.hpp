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

#include <cstdint>

#include <sched.h>
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
class active_clock {
public:
    // What changes together, behind the sequence lock.
    struct state {
        std::uint64_t gaps = 0;       // to subtract from the counter while open
        std::uint64_t closed_at = 0;  // the counter when the last invocation closed; V stands there while none is open
        std::uint64_t open_count = 0; // invocations that are open
        std::uint64_t opened = 0;     // invocations ever opened
    };

    // Before any other thread can see the clock.
    void start(std::uint64_t ticks) noexcept {
        m_state = {ticks - 1, ticks, 0, 0};
        m_pid = ::getpid();
    }

    // Opens an invocation at the counter's reading `ticks`. Returns the gaps, which stay what they are until the last open
    // invocation closes: V = counter - gaps for whoever works inside it. A counter that is behind the last reading (the
    // snapshot of a virtual machine was restored) shortens the gap below zero, and V goes on from where it stood.
    // `number` is set to the invocation's, `gap` to the ticks since the last one closed, 0 where others are open; a counter that
    // went back makes it huge.
    std::uint64_t open(std::uint64_t ticks, std::uint64_t* number = nullptr, std::uint64_t* gap = nullptr) noexcept {
        std::uint64_t const version = lock();
        if (gap != nullptr) *gap = m_state.open_count == 0 ? ticks - m_state.closed_at : 0;
        if (m_state.open_count == 0) {
            store_release(m_state.gaps, m_state.gaps + (ticks - m_state.closed_at));
            store_release(m_state.closed_at, ticks);
        }
        store_release(m_state.open_count, m_state.open_count + 1);
        store_release(m_state.opened, m_state.opened + 1);
        std::uint64_t const gaps = m_state.gaps;
        if (number != nullptr) *number = m_state.opened;
        unlock(version);
        return gaps;
    }

    // Closes one. `ticks` must have been read while it was open.
    void close(std::uint64_t ticks) noexcept {
        std::uint64_t const version = lock();
        if (m_state.open_count > 0) {
            // The latest of the closing times: two threads may get here in the other order than they read the counter.
            if (static_cast<std::int64_t>(ticks - m_state.closed_at) > 0) store_release(m_state.closed_at, ticks);
            store_release(m_state.open_count, m_state.open_count - 1);
        }
        unlock(version);
    }

    // A consistent copy. A reader that interrupted the writer in a signal handler would wait for ever, so it gives up after
    // some tries; then the copy is of the moment before or after and V is off by at most the gap being added.
    [[nodiscard]] state read() const noexcept {
        state s;
        for (int tries = 0; tries < 1000; ++tries) {
            std::uint64_t const before = load_acquire(m_version);  // pairs with the release in unlock()
            s = {load_acquire(m_state.gaps), load_acquire(m_state.closed_at), load_acquire(m_state.open_count),
                 load_acquire(m_state.opened)};  // acquire: the version below is read after these
            if ((before & 1u) == 0 && before == load_relaxed(m_version)) break;
        }
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
        for (int tries = 0; tries < 1000; ++tries) {
            std::uint64_t const before = load_acquire(m_version);  // pairs with the release in unlock()
            s = {load_acquire(m_state.gaps), load_acquire(m_state.closed_at), load_acquire(m_state.open_count),
                 load_acquire(m_state.opened)};
            ticks = source.ticks();
            signal_fence();
            if ((before & 1u) == 0 && before == load_relaxed(m_version)) break;
        }
        return at(s, ticks);
    }

private:
    // Writers exclude each other by an odd version. They hold it for a handful of instructions; one that finds it held gives
    // its processor away, so that a preempted holder gets on.
    std::uint64_t lock() noexcept {
        std::uint64_t version = load_relaxed(m_version);
        for (unsigned tries = 1;; ++tries) {
            // acquire: pairs with the release in unlock() of the writer before
            if ((version & 1u) == 0 && compare_exchange(m_version, version, version + 1)) return version;
            if (tries % 64 == 0) ::sched_yield();
            // In the child of a fork the holder may be a thread that was not copied.
            if (tries % 1024 == 0 && (version & 1u) != 0 && ::getpid() != m_pid && compare_exchange(m_version, version, version + 2))
                return version + 1;
            version = load_relaxed(m_version);
        }
    }
    void unlock(std::uint64_t version) noexcept { store_release(m_version, version + 2); }  // pairs with read() and lock()

    alignas(64) std::uint64_t m_version = 0;
    pid_t m_pid = 0;
    state m_state;
};

}

#endif
