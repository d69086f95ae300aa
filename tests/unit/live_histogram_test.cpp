#include <thaw/core/live_histogram.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <vector>

namespace core = thaw::core;

namespace {

struct memory {
    core::arena arena;
    explicit memory(std::size_t bytes) {
        BOOST_REQUIRE(arena.reserve(bytes));
        BOOST_REQUIRE(arena.allocate(64) != nullptr); // as in a process: offset 0 is no page
    }
    ~memory() { arena.release(); }
    memory(memory const&) = delete;
    memory& operator=(memory const&) = delete;

    void exhaust() {
        while (arena.allocate(8) != nullptr) {}
    }
};

// The counts by bucket; ascending order is required on the way.
std::map<unsigned, std::uint64_t> counts_of(core::live_histogram const& h, core::arena const& arena) {
    std::map<unsigned, std::uint64_t> counts;
    std::int64_t last = -1;
    std::vector<core::histogram_bucket> buckets(core::histogram_bucket_count);
    auto const* const end = h.copy(arena, buckets.data());
    for (auto const* b = buckets.data(); b != end; ++b) {
        BOOST_REQUIRE_GT(static_cast<std::int64_t>(b->index), last);
        BOOST_REQUIRE_GT(b->count, 0u);
        last = b->index;
        counts[b->index] = b->count;
    }
    return counts;
}

}

BOOST_AUTO_TEST_SUITE(live_histogram)

BOOST_AUTO_TEST_CASE(an_empty_one_has_no_buckets) {
    memory m(4096);
    core::live_histogram const h;
    BOOST_TEST(counts_of(h, m.arena).empty());
}

BOOST_AUTO_TEST_CASE(every_value_is_counted_in_its_bucket_and_buckets_come_in_ascending_order) {
    memory m(1 << 20);
    auto const h = std::make_unique<core::live_histogram>();
    std::map<unsigned, std::uint64_t> expected;
    std::mt19937_64 random(1);
    for (int i = 0; i < 100'000; ++i) {
        std::uint64_t const value = random() >> (random() % 64);
        auto const weight = static_cast<std::uint32_t>(random() % 100 + 1);
        BOOST_REQUIRE(h->add(m.arena, value, weight));
        expected[core::bucket_of(value)] += weight;
    }
    BOOST_TEST((counts_of(*h, m.arena) == expected));
}

BOOST_AUTO_TEST_CASE(both_ends_of_every_bucket_are_counted_there) {
    memory m(1 << 20);
    auto const h = std::make_unique<core::live_histogram>();
    for (unsigned b = 0; b < core::histogram_bucket_count; ++b) {
        BOOST_REQUIRE(h->add(m.arena, core::bucket_lower_ns(b), 1));
        BOOST_REQUIRE(h->add(m.arena, core::bucket_upper_ns(b), 2));
    }
    auto const counts = counts_of(*h, m.arena);
    BOOST_TEST(counts.size() == core::histogram_bucket_count);
    for (auto const& [bucket, count] : counts) BOOST_REQUIRE_EQUAL(count, 3u);
}

BOOST_AUTO_TEST_CASE(counts_go_on_beyond_32_bits) {
    memory m(1 << 16);
    core::live_histogram h;
    std::uint64_t expected = 0;
    std::mt19937_64 random(2);
    for (int i = 0; i < 1000; ++i) {
        auto const weight = static_cast<std::uint32_t>(random());
        BOOST_REQUIRE(h.add(m.arena, 1000, weight));
        expected += weight;
        BOOST_REQUIRE_EQUAL(counts_of(h, m.arena)[core::bucket_of(1000)], expected);
    }
    BOOST_TEST(expected > 1ull << 40);
}

BOOST_AUTO_TEST_CASE(a_count_that_wraps_to_zero_is_still_there) {
    memory m(1 << 16);
    core::live_histogram h;
    BOOST_REQUIRE(h.add(m.arena, 7, UINT32_MAX));
    BOOST_TEST(counts_of(h, m.arena)[7] == UINT32_MAX);
    BOOST_REQUIRE(h.add(m.arena, 7, 1)); // exactly 2^32: the lower half is 0
    BOOST_TEST(counts_of(h, m.arena)[7] == 1ull << 32);
    BOOST_REQUIRE(h.add(m.arena, 8, 5)); // a neighbour does not share the upper half
    BOOST_TEST(counts_of(h, m.arena)[8] == 5u);
}

BOOST_AUTO_TEST_CASE(without_memory_for_a_page_add_says_so_and_counts_nothing) {
    memory m(4096);
    core::live_histogram h;
    BOOST_REQUIRE(h.add(m.arena, 10, 1));
    m.exhaust();
    BOOST_TEST(!h.add(m.arena, 1000, 1));
    BOOST_TEST(!h.add(m.arena, 1ull << 40, 1));
    BOOST_TEST(h.add(m.arena, 11, 2)); // its page exists
    std::map<unsigned, std::uint64_t> const expected{{10, 1}, {11, 2}};
    BOOST_TEST((counts_of(h, m.arena) == expected));
}

BOOST_AUTO_TEST_CASE(without_memory_for_the_upper_halves_a_count_never_goes_back) {
    memory m(4096);
    core::live_histogram h;
    BOOST_REQUIRE(h.add(m.arena, 7, UINT32_MAX - 1));
    m.exhaust();
    BOOST_TEST(h.add(m.arena, 7, 1));
    for (int i = 0; i < 3; ++i) {
        h.add(m.arena, 7, 10);
        BOOST_TEST(counts_of(h, m.arena)[7] == UINT32_MAX);
    }
}

BOOST_AUTO_TEST_CASE(what_is_not_counted_is_said_so_that_it_can_be_counted_as_lost) {
    memory m(4096);
    core::live_histogram h;
    BOOST_REQUIRE(h.add(m.arena, 7, UINT32_MAX));
    m.exhaust();
    BOOST_TEST(!h.add(m.arena, 7, 1));
}

BOOST_AUTO_TEST_CASE(a_page_is_made_for_each_octave_that_occurs) {
    memory m(1 << 16);
    core::live_histogram h;
    std::size_t const before = m.arena.used_bytes();
    for (std::uint64_t v = 1024; v < 2048; ++v) BOOST_REQUIRE(h.add(m.arena, v, 1));
    BOOST_TEST(m.arena.used_bytes() - before == sizeof(core::histogram_page));
    for (std::uint64_t v = 2048; v < 16384; ++v) BOOST_REQUIRE(h.add(m.arena, v, 1));
    BOOST_TEST(m.arena.used_bytes() - before == 4 * sizeof(core::histogram_page));
}

BOOST_AUTO_TEST_SUITE_END()
