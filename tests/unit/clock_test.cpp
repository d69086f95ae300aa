#include <thaw/core/clock.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/resource.h>

namespace core = thaw::core;

namespace {

__extension__ using wide = unsigned __int128;

// ns = floor(ticks * multiplier / 2^32) by long division, without a shift: the 128-bit product in two halves.
std::uint64_t exact_ns(std::uint64_t ticks, std::uint64_t multiplier) {
    wide const product = static_cast<wide>(ticks) * multiplier;
    wide const ns = product / (static_cast<wide>(1) << 32);
    return ns > UINT64_MAX ? UINT64_MAX : static_cast<std::uint64_t>(ns);
}

std::atomic<std::uint64_t> counter{0};
std::uint64_t read_fixed() noexcept { return counter.load(); }
std::uint64_t read_running() noexcept { return counter.fetch_add(1) + 1; }

// Opens and closes at a given reading of the counter.
core::active_clock::opening open_at(core::active_clock& clock, std::uint64_t ticks, void const* who = nullptr) {
    counter = ticks;
    return clock.open(core::tick_source{&read_fixed, {}}, who);
}
void close_at(core::active_clock& clock, std::uint64_t ticks, void const* who = nullptr) {
    counter = ticks;
    clock.close(core::tick_source{&read_fixed, {}}, who);
}

// A counter whose next reading comes after the invocation has closed, the process was frozen and another has opened.
core::active_clock* frozen_clock = nullptr;
std::uint64_t freeze_ticks = 0;
bool reopens = true;
std::uint64_t read_after_a_freeze() noexcept {
    if (core::active_clock* const clock = std::exchange(frozen_clock, nullptr)) {
        close_at(*clock, counter);
        counter += freeze_ticks;
        if (reopens) open_at(*clock, counter);
    }
    return counter;
}

std::uint64_t v_at(core::active_clock const& clock, std::uint64_t ticks) { return core::active_clock::at(clock.read(), ticks); }

}

namespace of_core { // the suite's name is also that of a function of <time.h>
BOOST_AUTO_TEST_SUITE(clock)

BOOST_AUTO_TEST_CASE(a_tick_length_converts_as_exact_arithmetic_does) {
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> multipliers{1, (1ull << 32) / 1000, 1651910498, (1ull << 32) - 1, 1ull << 32, (1ull << 32) + 1, 1000ull << 32};
    for (int i = 0; i < 200; ++i) multipliers.push_back((random() >> (random() % 30 + 22)) + 1);
    std::vector<std::uint64_t> amounts{0, 1, 2, 1ull << 32, 1ull << 63, UINT64_MAX - 1, UINT64_MAX};
    for (int i = 0; i < 500; ++i) amounts.push_back(random() >> (random() % 64));
    for (std::uint64_t const m : multipliers)
        for (std::uint64_t const a : amounts) {
            core::tick_length const length{m};
            BOOST_REQUIRE_EQUAL(length.to_ns(a), exact_ns(a, m));
            wide const ticks = (static_cast<wide>(a) << 32) / m;
            BOOST_REQUIRE_EQUAL(length.to_ticks(a), ticks > UINT64_MAX ? UINT64_MAX : static_cast<std::uint64_t>(ticks));
            // There and back loses less than a tick and a nanosecond.
            std::uint64_t const back = length.to_ns(length.to_ticks(a));
            if (length.to_ticks(a) != UINT64_MAX) BOOST_REQUIRE(back <= a && a - back <= (m >> 32) + 1);
        }
}

BOOST_AUTO_TEST_CASE(a_tick_length_is_found_from_a_pair_of_readings) {
    for (double const gigahertz : {0.024, 0.0245, 1.0, 2.6, 3.0, 5.1, 100.0}) {
        std::uint64_t const ns = 1'000'000'000;
        auto const ticks = static_cast<std::uint64_t>(gigahertz * 1e9);
        auto const length = core::tick_length::from(ticks, ns);
        BOOST_TEST(length.multiplier == static_cast<std::uint64_t>((static_cast<wide>(ns) << 32) / ticks));
        BOOST_TEST(std::abs(static_cast<double>(length.to_ns(ticks)) - 1e9) <= 2.0 + static_cast<double>(ticks) / 4294967296.0);
    }
}

BOOST_AUTO_TEST_CASE(a_rate_that_no_counter_has_is_refused) {
    BOOST_TEST(core::tick_length::from(0, 100'000).multiplier == 0u);      // it stands still
    BOOST_TEST(core::tick_length::from(99, 100'000).multiplier == 0u);     // below 1 MHz
    BOOST_TEST(core::tick_length::from(1, UINT64_MAX).multiplier == 0u);
    BOOST_TEST(core::tick_length::from(UINT64_MAX, 100'000).multiplier == 0u);
    BOOST_TEST(core::tick_length::from(200'000'000, 100'000).multiplier == 0u); // above 1 THz
    BOOST_TEST(core::tick_length::from(100, 100'000).multiplier == 1000ull << 32);
    BOOST_TEST(core::tick_length::from(240'000, 100'000).multiplier != 0u);
}

// Best of several, since a preemption between two readings may spoil one: 1 % is twenty times the stated error.
BOOST_AUTO_TEST_CASE(a_calibrated_tick_is_within_1_percent_of_the_monotonic_clock) {
    double best = 1e9;
    for (int i = 0; i < 20 && best > 0.01; ++i) {
        core::tick_source source;
        source.calibrate();
        std::uint64_t const ns_before = core::read_monotonic_ns(), ticks_before = source.ticks();
        while (core::read_monotonic_ns() - ns_before < 2'000'000) {}
        std::uint64_t const ticks = source.ticks() - ticks_before, ns = core::read_monotonic_ns() - ns_before;
        best = std::min(best, std::abs(static_cast<double>(source.to_ns(ticks)) / static_cast<double>(ns) - 1.0));
    }
    BOOST_TEST_MESSAGE("off by " << best * 100 << " %");
    BOOST_TEST(best <= 0.01);
}

BOOST_AUTO_TEST_CASE(calibration_takes_less_than_2_ms) {
    std::uint64_t best = UINT64_MAX;
    for (int i = 0; i < 20; ++i) {
        core::tick_source source;
        std::uint64_t const before = core::read_monotonic_ns();
        source.calibrate();
        best = std::min(best, core::read_monotonic_ns() - before);
    }
    BOOST_TEST(best <= 2'000'000u);
}

BOOST_AUTO_TEST_CASE(a_pair_is_read_between_the_readings_around_it) {
    for (int i = 0; i < 100; ++i) {
        std::uint64_t const ticks = core::read_counter(), ns = core::read_monotonic_ns();
        auto const pair = core::clock_pair::take();
        BOOST_TEST(pair.ns >= ns);
        BOOST_TEST(pair.ns <= core::read_monotonic_ns());
        BOOST_TEST(pair.ticks - ticks < 1ull << 40);
    }
}

BOOST_AUTO_TEST_CASE(a_source_reads_what_was_put_in) {
    counter = 77;
    core::tick_source const source{&read_fixed, {3ull << 31}};
    BOOST_TEST(source.ticks() == 77u);
    BOOST_TEST(source.to_ns(77) == 115u);
}

BOOST_AUTO_TEST_CASE(active_time_begins_at_1_and_stands_still_until_something_opens) {
    core::active_clock clock;
    clock.start(1000);
    for (std::uint64_t const ticks : {1000ull, 5000ull, 1ull << 60}) BOOST_TEST(v_at(clock, ticks) == 1u);
    std::uint64_t const gaps = open_at(clock, 6000).gaps;
    BOOST_TEST(clock.read().opened == 1u);
    BOOST_TEST(6000 - gaps == 1u);
    BOOST_TEST(v_at(clock, 6010) == 11u);
    close_at(clock, 6010);
    BOOST_TEST(v_at(clock, 1ull << 60) == 11u);
    BOOST_TEST(open_at(clock, 1ull << 60).ticks == 1ull << 60);
    BOOST_TEST(clock.read().opened == 2u);
    BOOST_TEST(v_at(clock, (1ull << 60) + 5) == 16u);
}

BOOST_AUTO_TEST_CASE(while_several_are_open_time_runs_until_the_last_closes) {
    core::active_clock clock;
    clock.start(100);
    std::uint64_t const first = open_at(clock, 200).gaps, second = open_at(clock, 210).gaps;
    BOOST_TEST(first == second);
    close_at(clock, 230);
    BOOST_TEST(v_at(clock, 240) == 41u);
    BOOST_TEST(open_at(clock, 250).gaps == first);
    close_at(clock, 260);
    BOOST_TEST(v_at(clock, 265) == 66u);
    close_at(clock, 270);
    BOOST_TEST(v_at(clock, 999) == 71u);
    BOOST_TEST(clock.read().open_count == 0u);
    BOOST_TEST(clock.read().opened == 3u);
}

BOOST_AUTO_TEST_CASE(a_close_without_an_open_is_harmless) {
    core::active_clock clock;
    clock.start(100);
    close_at(clock, 500);
    BOOST_TEST(v_at(clock, 600) == 1u);
    open_at(clock, 1000);
    close_at(clock, 1010);
    close_at(clock, 5000);
    BOOST_TEST(clock.read().open_count == 0u);
    BOOST_TEST(v_at(clock, 9000) == 11u);
    open_at(clock, 10000);
    BOOST_TEST(v_at(clock, 10001) == 12u);
}

BOOST_AUTO_TEST_CASE(a_counter_that_was_set_back_while_closed_leaves_time_continuous) {
    core::active_clock clock;
    clock.start(1'000'000);
    open_at(clock, 1'000'000);
    close_at(clock, 1'000'050);
    open_at(clock, 10); // a restored snapshot
    BOOST_TEST(v_at(clock, 10) == 51u);
    BOOST_TEST(v_at(clock, 20) == 61u);
    close_at(clock, 20);
    BOOST_TEST(v_at(clock, 0) == 61u);
    open_at(clock, 5);
    BOOST_TEST(v_at(clock, 7) == 63u);
}

BOOST_AUTO_TEST_CASE(a_counter_may_wrap) {
    core::active_clock clock;
    clock.start(UINT64_MAX - 10);
    open_at(clock, UINT64_MAX - 5);
    BOOST_TEST(v_at(clock, 4) == 11u);
    close_at(clock, 4);
    open_at(clock, 100);
    BOOST_TEST(v_at(clock, 101) == 12u);
}

// Against a model that adds up the open stretches.
BOOST_AUTO_TEST_CASE(any_sequence_of_opens_and_closes_gives_the_sum_of_the_open_stretches) {
    std::mt19937_64 random(2);
    for (int round = 0; round < 300; ++round) {
        std::uint64_t now = random(), v = 1, opened = 0;
        unsigned open = 0;
        core::active_clock clock;
        clock.start(now, core::active_clock::announce_barrier() && round % 2 != 0);
        // Of half of the clocks that may have an owner it is the only one to write, until the end or until another comes.
        void const* const who[] = {round % 4 == 1 ? &clock : static_cast<void const*>(&open), &clock};
        std::vector<std::uint64_t> gaps_of_open; // what each invocation was told: it must hold until the last one closes
        for (int step = 0; step < 200; ++step) {
            std::uint64_t const passed = random() >> (20 + random() % 44);
            now += passed;
            if (open > 0) v += passed;
            BOOST_REQUIRE_EQUAL(v_at(clock, now), v);
            for (std::uint64_t const gaps : gaps_of_open) BOOST_REQUIRE_EQUAL(now - gaps, v);
            switch (random() % 5) {
            case 0:
            case 1: {
                gaps_of_open.push_back(open_at(clock, now, who[random() % 8 != 0]).gaps);
                ++open;
                ++opened;
                break;
            }
            case 2:
            case 3: // without an open at times
                close_at(clock, now, who[random() % 8 != 0]);
                if (open > 0) --open, gaps_of_open.pop_back();
                break;
            default:
                if (open == 0) now -= random() >> (20 + random() % 44); // set back, in a frozen process
            }
            BOOST_REQUIRE_EQUAL(v_at(clock, now), v);
            BOOST_REQUIRE_EQUAL(clock.read().open_count, open);
            BOOST_REQUIRE_EQUAL(clock.read().opened, opened);
        }
    }
}

BOOST_AUTO_TEST_CASE(a_freeze_between_two_readings_of_now_is_not_in_it) {
    core::tick_source const source{&read_after_a_freeze, {}};
    for (bool const again : {true, false}) {
        core::active_clock clock;
        counter = 1000;
        clock.start(counter);
        open_at(clock, counter);
        counter += 50;
        BOOST_TEST(clock.now(source) == 51u);
        frozen_clock = &clock, freeze_ticks = 1'000'000'000, reopens = again;
        BOOST_TEST(clock.now(source) == 51u); // it looked at the clock, and was frozen before it read the counter
        BOOST_TEST(clock.now(source) == 51u);
    }
}

// One counter for all, that only moves when it is read, and by a thousand million while nothing is open. No reading is behind the
// last one or ahead by a gap, but where the writer lost its processor inside the lock and the reader gave up on it: once as it
// goes and once as it comes back. How often it lost its processor at all is the kernel's to say.
std::uint64_t processor_lost() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return static_cast<std::uint64_t>(usage.ru_nivcsw + usage.ru_nvcsw);  // of its own accord in a sanitizer
}

void read_while_one_opens_and_closes(bool owned) {
    constexpr std::uint64_t gap = 1'000'000'000;
    constexpr std::uint64_t slack = gap / 2; // all readings of the test together are fewer
    counter = 1000;
    core::active_clock clock;
    clock.start(counter, owned && core::active_clock::announce_barrier());
    void const* const who = owned ? &clock : nullptr;
    core::tick_source const source{&read_running, {}};
    std::atomic<bool> stop{false};
    struct verdict {
        std::uint64_t readings = 0, backwards = 0, ahead = 0;
    };
    std::array<verdict, 2> seen;
    std::vector<std::thread> readers;
    for (auto& mine : seen)
        readers.emplace_back([&] {
            std::uint64_t last = 0;
            while (!stop.load(std::memory_order_relaxed)) {
                std::uint64_t const v = clock.now(source);
                if (v < last) ++mine.backwards;
                if (v > last + slack) ++mine.ahead;
                last = v;
                ++mine.readings;
            }
        });
    std::uint64_t const end = core::read_monotonic_ns() + 300'000'000;
    std::uint64_t const lost_before = processor_lost();
    std::uint64_t freezes = 0;
    while (core::read_monotonic_ns() < end) {
        clock.open(source, who);
        for (int i = 0; i < 20; ++i) clock.open(source, who), clock.close(source, who);
        clock.close(source, who);
        counter += gap;
        ++freezes;
    }
    std::uint64_t const lost = processor_lost() - lost_before;
    stop = true;
    for (auto& r : readers) r.join();
    for (verdict const& v : seen) {
        std::uint64_t const allowed = 2 * lost + 2;
        BOOST_TEST_MESSAGE(v.readings << " readings over " << freezes << " freezes, " << v.backwards << " backwards of " << allowed);
        BOOST_TEST(v.readings > 0u);
        BOOST_TEST(v.backwards <= allowed);
        BOOST_TEST(v.ahead <= allowed);
    }
    BOOST_TEST(clock.now(source) < slack);
    BOOST_TEST(clock.read().open_count == 0u);
}
BOOST_AUTO_TEST_CASE(readers_see_no_gap_and_no_step_back_while_writers_open_and_close) { read_while_one_opens_and_closes(false); }
BOOST_AUTO_TEST_CASE(readers_see_no_gap_and_no_step_back_while_an_owner_opens_and_closes) { read_while_one_opens_and_closes(true); }

// The owner is at it all the time while the others come, each at a moment of its own.
BOOST_AUTO_TEST_CASE(an_ownership_that_ends_under_way_loses_nothing) {
    if (!core::active_clock::announce_barrier()) return; // no clock has an owner here
    std::uint64_t wrong = 0, uncounted = 0, left_open = 0;
    for (int round = 0; round < 100; ++round) {
        counter = 1;
        core::active_clock clock;
        clock.start(counter, true);
        core::tick_source const source{&read_running, {}};
        std::atomic<std::uint64_t> all{0}, changed{0};
        std::atomic<int> others{0};
        auto const write = [&](void const* who, auto goes_on) {
            std::uint64_t turns = 0;
            for (; goes_on(turns); ++turns) {
                std::uint64_t const gaps = clock.open(source, who).gaps;
                if (clock.read().gaps != gaps) changed.fetch_add(1, std::memory_order_relaxed);
                clock.close(source, who);
            }
            all += turns;
        };
        clock.open(source, &clock); // the owner
        clock.close(source, &clock);
        std::vector<std::thread> threads;
        for (int t = 0; t < 2; ++t)
            threads.emplace_back([&, t] {
                for (int i = 0; i < round * 3 * (t + 1); ++i) static_cast<void>(clock.now(source));
                write(t == 0 ? static_cast<void const*>(&others) : nullptr, [](std::uint64_t turns) { return turns < 100; });
                ++others;
            });
        write(&clock, [&](std::uint64_t) { return others < 2; });
        for (auto& t : threads) t.join();
        wrong += changed;
        uncounted += clock.read().opened != all + 1;
        left_open += clock.read().open_count;
    }
    BOOST_TEST(wrong == 0u);
    BOOST_TEST(uncounted == 0u);
    BOOST_TEST(left_open == 0u);
}

BOOST_AUTO_TEST_CASE(opens_and_closes_of_many_threads_are_all_counted) {
    counter = 1;
    core::active_clock clock;
    clock.start(counter);
    core::tick_source const source{&read_running, {}};
    std::vector<std::thread> threads;
    std::atomic<std::uint64_t> wrong{0};
    std::atomic<int> ready{0};
    std::atomic<std::uint64_t> all{0};
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
            ++ready;
            while (ready.load() < 4) std::this_thread::yield();
            // Long enough to run beside each other also where other programs have the processors.
            std::uint64_t const end = core::read_monotonic_ns() + 300'000'000;
            std::uint64_t i = 0;
            for (; i % 256 != 0 || core::read_monotonic_ns() < end; ++i) {
                std::uint64_t const gaps = clock.open(source).gaps;
                if (clock.read().gaps != gaps) wrong.fetch_add(1, std::memory_order_relaxed);
                clock.close(source);
            }
            all += i;
        });
    for (auto& t : threads) t.join();
    auto const s = clock.read();
    BOOST_TEST(s.opened == all.load());
    BOOST_TEST(s.open_count == 0u);
    BOOST_TEST(wrong.load() == 0u); // the gaps hold while an invocation is open
}

BOOST_AUTO_TEST_CASE(a_counter_that_keeps_time_is_left_alone) {
    core::tick_source source;
    source.calibrate();
    if (source.read != nullptr) return; // no invariant counter: there is nothing to watch
    core::counter_watch watch;
    watch.start(source.ticks());
    std::uint64_t const multiplier = source.length.multiplier;
    for (int i = 0; i < 1000; ++i) watch.look(source, source.ticks());
    BOOST_TEST(watch.jumps == 0u);
    BOOST_TEST(source.length.multiplier == multiplier);
}

BOOST_AUTO_TEST_CASE(a_counter_that_has_jumped_is_measured_again) {
    core::tick_source source;
    source.calibrate();
    if (source.read != nullptr) return;
    std::uint64_t const right = source.length.multiplier;
    for (std::int64_t const jump_s : {-3600, 3600}) {
        core::counter_watch watch;
        watch.start(source.ticks());
        watch.ticks -= static_cast<std::uint64_t>(jump_s) * source.length.to_ticks(1'000'000'000);
        source.length.multiplier = right * 2; // of the machine the snapshot was made on
        watch.look(source, source.ticks());
        BOOST_TEST(watch.jumps == 1u);
        BOOST_TEST(static_cast<double>(source.length.multiplier) == static_cast<double>(right), boost::test_tools::tolerance(0.05));
        watch.look(source, source.ticks());
        BOOST_TEST(watch.jumps == 1u);
    }
}

BOOST_AUTO_TEST_CASE(opening_tells_the_gap_and_a_counter_that_went_back_makes_it_huge) {
    core::active_clock clock;
    clock.start(1000);
    BOOST_TEST(open_at(clock, 1500).gap == 500u);
    BOOST_TEST(open_at(clock, 1600).gap == 0u);
    close_at(clock, 1700);
    close_at(clock, 1800);
    BOOST_TEST(open_at(clock, 900).gap > UINT64_MAX / 2);
}

BOOST_AUTO_TEST_SUITE_END()
}
