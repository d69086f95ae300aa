#include "recorded.hpp"

#include <thaw/probe/allocator.hpp>
#include <thaw/probe/containers.hpp>

#include <boost/test/unit_test.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <list>
#include <memory>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

using namespace thaw::testing;

namespace {

struct alignas(128) wide {
    unsigned char bytes[128];
};

// One site for each N, all of one name.
template <int N>
thaw::allocator_tag numbered_site() {
    return THAW_ALLOCATOR("numbered");
}

template <int... N>
std::vector<thaw::allocator_tag> numbered_sites(std::integer_sequence<int, N...>) {
    return {numbered_site<N>()...};
}

thaw::vector<int> numbers(std::size_t n) { return thaw::vector<int>(n, 1, THAW_ALLOCATOR("numbers")); }

// Has a constructor and a destructor that run as late as a program has any.
struct global_holder {
    thaw::vector<int>* kept = nullptr;
    ~global_holder() { delete kept; }
} global;

}

BOOST_AUTO_TEST_SUITE(allocator)

static_assert(std::allocator_traits<thaw::allocator<int>>::is_always_equal::value, "containers move and splice as with std's");
static_assert(std::allocator_traits<thaw::allocator<int>>::propagate_on_container_swap::value);
static_assert(std::is_same_v<std::allocator_traits<thaw::allocator<int>>::rebind_alloc<long>, thaw::allocator<long>>);
static_assert(std::is_nothrow_move_assignable_v<thaw::vector<int>>);
static_assert(sizeof(thaw::allocator<int>) == sizeof(void*));

BOOST_AUTO_TEST_CASE(bytes_and_blocks_are_exact_at_site_and_scope) {
    IN_CHILD {
        start_recording_by_hand();
        {
            THAW_HANDLER("h");
            thaw::vector<int> v{THAW_ALLOCATOR("v")};
            { THAW_SCOPE("a"); v.reserve(10); }
            { THAW_SCOPE("b"); v.reserve(100); }
            { THAW_SCOPE("c"); v.clear(), v.shrink_to_fit(); }
        }
        thaw::profile const p = profile_now();
        expect_well_formed(p);
        auto const m = memory_at(p, "v");
        EXPECT_EQUAL(m.allocations, 2);
        EXPECT_EQUAL(m.allocated_bytes, 110 * sizeof(int));
        EXPECT_EQUAL(m.frees, 2);
        EXPECT_EQUAL(m.freed_bytes, 110 * sizeof(int));
        EXPECT_EQUAL(m.live_bytes(), 0);
        EXPECT_EQUAL(node_at(p, "h/a").allocated_bytes, 10 * sizeof(int));
        EXPECT_EQUAL(node_at(p, "h/a").allocations, 1);
        EXPECT_EQUAL(node_at(p, "h/b").allocated_bytes, 100 * sizeof(int));
        EXPECT_EQUAL(node_at(p, "h/c").allocations, 0);
        EXPECT_EQUAL(node_at(p, "h").allocations, 0);
        EXPECT_EQUAL(caught()[0].slowest.allocated_bytes, 110 * sizeof(int));
        for (auto const& n : p.nodes) EXPECT(p.site_of(n).kind != thaw::site_kind::allocator);
    };
}

BOOST_AUTO_TEST_CASE(going_back_and_forth_between_scopes_keeps_their_shares) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::allocator<char> one{THAW_ALLOCATOR("one")}, two{THAW_ALLOCATOR("two")};
        {
            THAW_HANDLER("h");
            for (std::size_t i = 1; i <= 100; ++i) {
                one.deallocate(one.allocate(i), i);
                { THAW_SCOPE("a"); one.deallocate(one.allocate(1'000), 1'000), two.deallocate(two.allocate(3), 3); }
                two.deallocate(two.allocate(7), 7);
                one.deallocate(one.allocate(i), i);
            }
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(node_at(p, "h").allocations, 300);
        EXPECT_EQUAL(node_at(p, "h").allocated_bytes, 2 * 5'050 + 700);
        EXPECT_EQUAL(node_at(p, "h/a").allocated_bytes, 100 * 1'003);
        EXPECT_EQUAL(memory_at(p, "one").allocated_bytes, 2 * 5'050 + 100'000);
        EXPECT_EQUAL(memory_at(p, "two").allocated_bytes, 1'000);
        EXPECT_EQUAL(memory_of_all(p).live_bytes(), 0);
        EXPECT_EQUAL(memory_of_all(p).live_blocks(), 0);
    };
}

BOOST_AUTO_TEST_CASE(splicing_moves_bytes_between_sites) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::list<long> a{THAW_ALLOCATOR("a")}, b{THAW_ALLOCATOR("b")};
        for (long i = 0; i < 100; ++i) a.push_back(i);
        auto const node = memory_at(profile_now(), "a").live_bytes() / 100;
        b.splice(b.end(), a);
        thaw::profile p = profile_now();
        EXPECT_EQUAL(memory_at(p, "a").live_blocks(), 100);  // frees are counted where the container is now
        EXPECT_EQUAL(memory_at(p, "b").live_blocks(), 0);
        b.clear();
        p = profile_now();
        EXPECT_EQUAL(memory_at(p, "a").live_bytes(), 100 * node);
        EXPECT_EQUAL(memory_at(p, "b").live_bytes(), -100 * node);
        EXPECT_EQUAL(memory_of_all(p).live_bytes(), 0);
        EXPECT_EQUAL(memory_of_all(p).live_blocks(), 0);
    };
}

BOOST_AUTO_TEST_CASE(the_site_travels_with_copy_move_and_swap) {
    IN_CHILD {
        start_recording_by_hand();
        {
            thaw::vector<int> a(10, 1, THAW_ALLOCATOR("a")), b(100, 1, THAW_ALLOCATOR("b"));
            auto const live = [](char const* site) { return memory_at(profile_now(), site).live_bytes() / 4; };
            std::swap(a, b);
            a.push_back(1);  // at b's site: 100 to 200
            EXPECT_EQUAL(live("b"), 200);
            EXPECT_EQUAL(live("a"), 10);
            thaw::vector<int> c(a);  // a copy counts where it came from
            EXPECT_EQUAL(live("b"), 301);
            thaw::vector<int> d;
            d = b;  // and to where it goes
            EXPECT_EQUAL(live("a"), 20);
            EXPECT_EQUAL(live("[unnamed]"), 0);
            d = {1, 2, 3};  // elements alone: the allocator stays
            d.shrink_to_fit();
            EXPECT_EQUAL(live("a"), 13);
            b = std::move(a);
            EXPECT_EQUAL(live("b"), 301);
            EXPECT_EQUAL(live("a"), 3);
            thaw::vector<int> const e = std::move(b);
            EXPECT_EQUAL(e.size(), 101);
            EXPECT_EQUAL(live("b"), 301);
        }
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(memory_at(p, "a").live_bytes(), 0);
        EXPECT_EQUAL(memory_at(p, "b").live_bytes(), 0);
        EXPECT_EQUAL(memory_at(p, "b").live_blocks(), 0);
    };
}

// The storage stays and the site follows: bytes move between the accounts as with a splice.
BOOST_AUTO_TEST_CASE(a_copy_onto_other_elements_keeps_the_sum_exact) {
    IN_CHILD {
        start_recording_by_hand();
        {
            thaw::vector<int> a(10, 1, THAW_ALLOCATOR("a")), b(100, 1, THAW_ALLOCATOR("b"));
            b = a;
            EXPECT_EQUAL(memory_of_all(profile_now()).live_bytes(), static_cast<std::int64_t>((a.capacity() + b.capacity()) * sizeof(int)));
            b.shrink_to_fit();
            EXPECT_EQUAL(memory_of_all(profile_now()).live_bytes(), 20 * sizeof(int));
        }
        EXPECT_EQUAL(memory_of_all(profile_now()).live_bytes(), 0);
        EXPECT_EQUAL(memory_of_all(profile_now()).live_blocks(), 0);
    };
}

BOOST_AUTO_TEST_CASE(a_shared_object_is_counted_with_its_control_block) {
    IN_CHILD {
        start_recording_by_hand();
        {
            thaw::allocator<int> const where{THAW_ALLOCATOR("shared")};
            std::shared_ptr<int> const one = std::allocate_shared<int>(where, 7);
            std::shared_ptr<int> const two = one;
            std::shared_ptr<long> const own(new long(1), std::default_delete<long>{}, where);
            auto const m = memory_at(profile_now(), "shared");
            EXPECT_EQUAL(m.allocations, 2);
            EXPECT(m.live_bytes() >= static_cast<std::int64_t>(sizeof(int)));
            EXPECT_EQUAL(*two, 7);
        }
        auto const m = memory_at(profile_now(), "shared");
        EXPECT_EQUAL(m.frees, 2);
        EXPECT_EQUAL(m.live_bytes(), 0);
    };
}

BOOST_AUTO_TEST_CASE(over_aligned_elements_are_aligned) {
    IN_CHILD {
        start_recording_by_hand();
        {
            thaw::vector<wide> v{THAW_ALLOCATOR("wide")};
            for (int i = 0; i < 33; ++i) {
                v.emplace_back();
                EXPECT_EQUAL(reinterpret_cast<std::uintptr_t>(v.data()) % alignof(wide), 0);
            }
            thaw::list<wide> l{THAW_ALLOCATOR("wide.list")};
            for (int i = 0; i < 10; ++i) EXPECT_EQUAL(reinterpret_cast<std::uintptr_t>(&l.emplace_back()) % alignof(wide), 0);
            EXPECT_EQUAL(memory_at(profile_now(), "wide").live_bytes(), v.capacity() * sizeof(wide));
        }
        EXPECT_EQUAL(memory_of_all(profile_now()).live_bytes(), 0);
    };
}

BOOST_AUTO_TEST_CASE(too_many_elements_throw_and_count_nothing) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::allocator<long> a{THAW_ALLOCATOR("a")};
        a.deallocate(a.allocate(1), 1);
        for (std::size_t const n : {std::numeric_limits<std::size_t>::max(), std::numeric_limits<std::size_t>::max() / sizeof(long),
                                    std::numeric_limits<std::size_t>::max() / sizeof(long) + 2}) {
            bool thrown = false;
            try {
                [[maybe_unused]] long* volatile const never_made = a.allocate(n);
            } catch (std::bad_alloc const&) {
                thrown = true;
            }
            EXPECT(thrown);
        }
#if !THAW_TEST_ASAN && !THAW_TEST_TSAN
        bool thrown = false;  // by operator new
        try {
            std::size_t volatile const n = std::size_t{1} << 58;
            [[maybe_unused]] long* volatile const never_made = a.allocate(n);
        } catch (std::bad_alloc const&) {
            thrown = true;
        }
        EXPECT(thrown);
#endif
        auto const m = memory_at(profile_now(), "a");
        EXPECT_EQUAL(m.allocations, 1);
        EXPECT_EQUAL(m.allocated_bytes, sizeof(long));
        EXPECT_EQUAL(m.live_bytes(), 0);
    };
}

BOOST_AUTO_TEST_CASE(containers_older_than_start_and_younger_than_stop_are_exact) {
    IN_CHILD {
        auto before = numbers(100);
        auto freed_before = numbers(50);
        freed_before = {};
        freed_before.shrink_to_fit();
        EXPECT(thaw::core::find_process() == nullptr);
        start_recording_by_hand();
        auto during = numbers(10);
        thaw::profile p = profile_now();
        EXPECT_EQUAL(memory_at(p, "numbers").allocations, 3);
        EXPECT_EQUAL(memory_at(p, "numbers").live_bytes(), 110 * sizeof(int));
        thaw::stop();
        auto after = numbers(1);
        { auto const gone = std::move(before); }
        start_recording();
        p = profile_now();
        EXPECT_EQUAL(memory_at(p, "numbers").live_bytes(), 11 * sizeof(int));
        { auto const gone = std::move(during); }
        { auto const gone = std::move(after); }
        p = profile_now();
        EXPECT_EQUAL(memory_at(p, "numbers").live_bytes(), 0);
        EXPECT_EQUAL(memory_at(p, "numbers").live_blocks(), 0);
    };
}

BOOST_AUTO_TEST_CASE(a_block_that_was_made_before_start_is_freed_from_its_account) {
    IN_CHILD {
        {
            auto const before = numbers(100);
            start_recording_by_hand();
        }
        auto const m = memory_at(profile_now(), "numbers");
        EXPECT_EQUAL(m.allocated_bytes, 100 * sizeof(int));
        EXPECT_EQUAL(m.live_bytes(), 0);
    };
}

BOOST_AUTO_TEST_CASE(what_another_thread_frees_is_freed) {
    IN_CHILD {
        start_recording_by_hand();
        auto const many = [] {
            std::vector<thaw::vector<int>> all;
            for (std::size_t i = 1; i <= 100; ++i) all.push_back(numbers(i));
            return all;
        };
        auto mine = many();
        std::vector<thaw::vector<int>> theirs;
        std::thread([&] {
            theirs = many();
            mine.clear();
        }).join();
        EXPECT_EQUAL(memory_at(profile_now(), "numbers").live_bytes(), 5'050 * sizeof(int));
        std::thread([&] { theirs.clear(); }).join();
        auto const m = memory_at(profile_now(), "numbers");
        EXPECT_EQUAL(m.allocations, 200);
        EXPECT_EQUAL(m.frees, 200);
        EXPECT_EQUAL(m.live_bytes(), 0);
    };
}

BOOST_AUTO_TEST_CASE(threads_at_one_site_add_up_exactly) {
    IN_CHILD {
        start_recording();
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < 4; ++t)
            threads.emplace_back([] {
                THAW_SCOPE("worker");
                for (std::size_t i = 1; i <= 1'000; ++i) numbers(i);
            });
        for (auto& t : threads) t.join();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(memory_at(p, "numbers").allocations, 4'000);
        EXPECT_EQUAL(memory_at(p, "numbers").allocated_bytes, 4 * 500'500 * sizeof(int));
        EXPECT_EQUAL(memory_at(p, "numbers").live_bytes(), 0);
        EXPECT_EQUAL(node_at(p, "[background]/worker").allocations, 4'000);
    };
}

BOOST_AUTO_TEST_CASE(sites_beyond_the_limit_share_one_account_and_totals_stay_exact) {
    IN_CHILD {
        constexpr unsigned sites = 600;
        constexpr unsigned own = thaw::core::allocator_slot_count - 2;  // of the slots, one means none and one is shared
        start_recording_by_hand();
        auto const tags = numbered_sites(std::make_integer_sequence<int, sites>{});
        std::vector<thaw::vector<char>> kept;
        {
            THAW_HANDLER("h");
            for (unsigned round = 0; round < 3; ++round)
                for (auto const tag : tags) {
                    thaw::vector<char> passing(3, 'x', tag);
                    if (round == 1) kept.emplace_back(100, 'x', tag);
                }
        }
        thaw::profile p = profile_now();
        EXPECT_EQUAL(p.losses.overflow_sites, sites - own);
        EXPECT_EQUAL(memory_at(p, "numbered").allocations, 4 * own);
        EXPECT_EQUAL(memory_at(p, "[overflow]").allocations, 4 * (sites - own));
        EXPECT_EQUAL(memory_at(p, "[overflow]").live_bytes(), 100 * (sites - own));
        EXPECT_EQUAL(memory_of_all(p).allocated_bytes, sites * 109);
        EXPECT_EQUAL(memory_of_all(p).live_bytes(), sites * 100);
        EXPECT_EQUAL(node_at(p, "h").allocated_bytes, sites * 109);
        EXPECT_EQUAL(p.memory.size(), own + 1);
        std::thread([&] { kept.clear(); }).join();
        p = profile_now();
        EXPECT_EQUAL(memory_of_all(p).live_bytes(), 0);
        EXPECT_EQUAL(memory_at(p, "[overflow]").live_blocks(), 0);
    };
}

// Threads that register sites beyond the limit while reports are made.
BOOST_AUTO_TEST_CASE(sites_beyond_the_limit_may_come_while_reports_are_made) {
    IN_CHILD {
        start_recording();
        auto const tags = numbered_sites(std::make_integer_sequence<int, 1'200>{});
        std::vector<std::thread> threads;
        for (unsigned t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                for (std::size_t i = t; i < tags.size(); i += 3) thaw::vector<char>(3, 'x', tags[i]);
            });
        for (int i = 0; i < 20; ++i) profile_now();
        for (auto& t : threads) t.join();
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(memory_of_all(p).allocations, 1'200);
        EXPECT_EQUAL(memory_of_all(p).live_bytes(), 0);
    };
}

BOOST_AUTO_TEST_CASE(an_allocator_without_a_name_is_counted_as_unnamed) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::vector<int> v;
        v.reserve(5);
        EXPECT_EQUAL(memory_at(profile_now(), "[unnamed]").live_bytes(), 5 * sizeof(int));
    };
}

BOOST_AUTO_TEST_CASE(counted_containers_may_be_destroyed_by_static_destructors) {
    child_result const r = run_in_child(
        [] {
            start_recording();
            global.kept = new thaw::vector<int>(numbers(10));
            std::atexit([] {
                THAW_SCOPE("at.exit");
                numbers(3);
            });
            EXPECT_EQUAL(memory_at(profile_now(), "numbers").live_bytes(), 10 * sizeof(int));
        },
        default_limit_s, true);
    BOOST_CHECK_MESSAGE(r.ok(), r.text());
}

BOOST_AUTO_TEST_CASE(growth_is_measured_from_the_end_of_the_first_invocation) {
    IN_CHILD {
        start_recording_by_hand({.report_every_ms = 0});
        std::vector<thaw::vector<int>> leak;
        for (int i = 0; i < 5; ++i) {
            THAW_HANDLER("h");
            leak.push_back(numbers(25));
        }
        std::int64_t expected = 100;
        for (thaw::profile const& p : caught()) {
            EXPECT_EQUAL(memory_at(p, "numbers").baseline_live_bytes, 100);
            EXPECT_EQUAL(memory_at(p, "numbers").live_bytes(), expected);
            expected += 100;
        }
        EXPECT_EQUAL(expected, 600);
    };
}

BOOST_AUTO_TEST_SUITE_END()
