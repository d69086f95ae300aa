#include "recorded.hpp"

#include <thaw/core/thread_record.hpp>
#include <thaw/probe/containers.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <pthread.h>
#include <thread>
#include <vector>

using namespace thaw::testing;

namespace {

unsigned records() {
    unsigned n = 0;
    for (auto* r = thaw::core::find_process()->records; r != nullptr; r = r->next) ++n;
    return n;
}

void work(std::uint64_t ns) {
    THAW_SCOPE("work");
    advance(ns);
    thaw::vector<char> const bytes(ns, 'x', THAW_ALLOCATOR("bytes"));
}

struct works_at_its_end {
    bool armed = false;
    ~works_at_its_end() {
        if (armed) work(10);
    }
};
thread_local works_at_its_end late;
works_at_its_end very_late;

}

BOOST_AUTO_TEST_SUITE(thread_record)

BOOST_AUTO_TEST_CASE(ten_thousand_short_threads_leave_resident_memory_flat) {
    IN_CHILD {
        constexpr int threads = THAW_TEST_TSAN ? 1'000 : 10'000;
        start_recording_by_hand();
        auto const run = [](int count) {
            for (int i = 0; i < count; ++i)
                std::thread([] {
                    work(3);
                    THAW_HANDLER("h");
                    work(5);
                }).join();
        };
        profile_now();  // this thread has its record
        run(100);
        auto const memory_before = profile_now().cost.memory_bytes;
        std::size_t const resident_before = resident_pages();
        run(threads);
        std::size_t const resident_after = resident_pages();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(p.cost.memory_bytes, memory_before);
        // 64 pages: what malloc and a sanitizer keep of their own
        if (!THAW_TEST_ASAN && !THAW_TEST_TSAN) EXPECT(resident_after <= resident_before + 64);
        EXPECT_EQUAL(records(), 2);
        EXPECT_EQUAL(node_at(p, "h/work").calls, threads + 100);
        EXPECT_EQUAL(node_at(p, "[background]/work").calls, threads + 100);
        EXPECT_EQUAL(p.window.invocations, threads + 100);
        EXPECT_EQUAL(memory_at(p, "bytes").allocations, 2 * (threads + 100));
        EXPECT_EQUAL(memory_at(p, "bytes").live_bytes(), 0);
        EXPECT_EQUAL(p.losses.overflow_threads, 0);
    };
}

BOOST_AUTO_TEST_CASE(there_are_as_many_records_as_threads_ran_at_once) {
    IN_CHILD {
        start_recording();
        work(1);
        for (int round = 0; round < 5; ++round) {
            steps turn;
            std::vector<std::thread> threads;
            for (int i = 0; i < 8; ++i)
                threads.emplace_back([&turn, i] {
                    turn.await(i);
                    work(1);
                    turn.announce(i + 1);
                    turn.await(8);
                });
            for (auto& t : threads) t.join();
        }
        EXPECT_EQUAL(records(), 9);
        EXPECT_EQUAL(node_at(profile_now(), "[background]/work").calls, 41);
    };
}

BOOST_AUTO_TEST_CASE(destructors_of_thread_locals_still_record) {
    IN_CHILD {
        start_recording_by_hand();
        for (int i = 0; i < 10; ++i)
            std::thread([] {
                late.armed = true;
                work(1);
            }).join();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "[background]/work").calls, 20);
        EXPECT_EQUAL(memory_at(p, "bytes").allocated_bytes, 110);
        EXPECT_EQUAL(memory_at(p, "bytes").live_bytes(), 0);
    };
}

// Keys made before and after thaw's own, whose destructors run in every round.
BOOST_AUTO_TEST_CASE(destructors_of_thread_specific_data_still_record_and_are_exact) {
    IN_CHILD {
        static pthread_key_t keys[2];
        static int ran = 0;
        constexpr std::uintptr_t rounds = THAW_TEST_TSAN ? 2 : 4;  // TSan takes a thread down in the last
        auto const destructor = [](void* value) {
            work(2);
            __atomic_add_fetch(&ran, 1, __ATOMIC_RELAXED);
            auto const left = reinterpret_cast<std::uintptr_t>(value) - 1;
            // In the last round the record may be another thread's already.
            if (rounds == 4 && left == 0) EXPECT(thaw::core::this_thread.record == &thaw::core::detached_thread);
            if (left > 0) {
                for (auto const key : keys)
                    if (::pthread_getspecific(key) == nullptr) {
                        ::pthread_setspecific(key, reinterpret_cast<void*>(left));
                        break;
                    }
            }
        };
        EXPECT(::pthread_key_create(&keys[0], destructor) == 0);
        start_recording_by_hand();
        EXPECT(::pthread_key_create(&keys[1], destructor) == 0);
        for (int i = 0; i < 20; ++i)
            std::thread([] {
                work(2);
                for (auto const key : keys) ::pthread_setspecific(key, reinterpret_cast<void*>(rounds));
            }).join();
        thaw::profile const p = profile_now();
        auto const calls = node_at(p, "[background]/work").calls;
        EXPECT(ran > 40);
        EXPECT(calls >= 20 + 40);                               // the first rounds at least
        EXPECT(calls <= 20 + static_cast<std::uint64_t>(ran));
        EXPECT_EQUAL(memory_at(p, "bytes").allocations, 20 + ran);  // allocations in all of them
        EXPECT_EQUAL(memory_at(p, "bytes").live_bytes(), 0);
        EXPECT(records() <= 2);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(markers_in_static_destructors_and_at_exit_are_harmless) {
    child_result const r = run_in_child(
        [] {
            start_recording();
            work(1);
            very_late.armed = late.armed = true;
            std::atexit([] {
                work(1);
                THAW_HANDLER("at.exit");
                THAW_WAIT("w");
            });
            std::atexit([] { thaw::stop(); });
        },
        default_limit_s, true);
    BOOST_CHECK_MESSAGE(r.ok(), r.text());
}

BOOST_AUTO_TEST_CASE(a_thread_that_ends_by_pthread_exit_gives_its_record_back) {
    IN_CHILD {
        start_recording_by_hand();
        for (int i = 0; i < 10; ++i) {
            pthread_t thread{};
            EXPECT(::pthread_create(
                       &thread, nullptr,
                       [](void*) -> void* {
                           THAW_SCOPE("outer");
                           THAW_WAIT("w");
                           advance(5);
                           ::pthread_exit(nullptr);
                       },
                       nullptr) == 0);
            ::pthread_join(thread, nullptr);
        }
        EXPECT(records() <= 2);
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "[background]/outer").calls, 10);
        EXPECT_EQUAL(node_at(p, "[background]/outer/w").timed, 10);
        EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
    };
}

BOOST_AUTO_TEST_CASE(threads_without_a_record_are_counted_and_run_on) {
    IN_CHILD {
        start_recording_by_hand({.memory_limit_bytes = 1u << 20});
        work(1);
        steps turn;
        std::vector<std::thread> threads;
        for (int i = 0; i < 200; ++i)
            threads.emplace_back([&] {
                work(1);
                turn.await(1);
                work(1);
            });
        turn.announce(1);
        for (auto& t : threads) t.join();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(memory_at(p, "bytes").allocations, 401);
        EXPECT_EQUAL(memory_at(p, "bytes").live_bytes(), 0);
        EXPECT(p.cost.memory_bytes <= 1u << 20);
    };
}

BOOST_AUTO_TEST_SUITE_END()
