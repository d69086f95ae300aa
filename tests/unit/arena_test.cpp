#include <thaw/core/arena.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace core = thaw::core;

namespace {

struct reserved : core::arena {
    explicit reserved(std::size_t bytes) { BOOST_REQUIRE(reserve(bytes)); }
    ~reserved() { release(); }
    reserved(reserved const&) = delete;
    reserved& operator=(reserved const&) = delete;
};

using block = std::pair<unsigned char*, std::size_t>;

void require_apart(std::vector<block> blocks) {
    std::sort(blocks.begin(), blocks.end());
    for (std::size_t i = 1; i < blocks.size(); ++i)
        BOOST_REQUIRE(blocks[i - 1].first + blocks[i - 1].second <= blocks[i].first);
}

bool is_zero(block const& b) {
    return std::all_of(b.first, b.first + b.second, [](unsigned char c) { return c == 0; });
}

}

BOOST_AUTO_TEST_SUITE(arena)

BOOST_AUTO_TEST_CASE(blocks_are_zeroed_and_aligned_and_do_not_overlap) {
    reserved a(1 << 20);
    std::mt19937 random(1);
    std::vector<block> blocks;
    for (;;) {
        std::size_t const size = random() % 4 == 0 ? 64 * (random() % 8 + 1) : random() % 300 + 1;
        auto* const p = static_cast<unsigned char*>(a.allocate(size));
        if (p == nullptr) break;
        BOOST_REQUIRE_EQUAL(reinterpret_cast<std::uintptr_t>(p) % (size % 64 == 0 ? 64 : 8), 0u);
        BOOST_REQUIRE(is_zero({p, size}));
        std::memset(p, 0xFF, size);
        blocks.emplace_back(p, size);
    }
    BOOST_TEST(blocks.size() > 1000u);
    require_apart(blocks);
}

BOOST_AUTO_TEST_CASE(the_last_byte_can_be_had_and_none_beyond) {
    reserved a(4096);
    BOOST_TEST(a.size_bytes() == 4096u);
    auto* const all = static_cast<unsigned char*>(a.allocate(4096));
    BOOST_REQUIRE(all != nullptr);
    all[0] = all[4095] = 1;
    BOOST_TEST(a.allocate(1) == nullptr);
    BOOST_TEST(a.allocate(64) == nullptr);
    BOOST_TEST(a.used_bytes() == 4096u);
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_takes_nothing_away) {
    reserved a(4096);
    BOOST_REQUIRE(a.allocate(4000) != nullptr);
    std::size_t const used = a.used_bytes();
    for (std::size_t const size : {std::size_t{97}, std::size_t{128}, std::size_t{4096}, std::size_t{1} << 40,
                                   std::numeric_limits<std::size_t>::max(), std::numeric_limits<std::size_t>::max() - 63})
        BOOST_TEST(a.allocate(size) == nullptr);
    BOOST_TEST(a.used_bytes() == used);
    BOOST_TEST(a.allocate(8) != nullptr); // what does fit is still there
}

BOOST_AUTO_TEST_CASE(a_size_is_rounded_up_to_pages) {
    reserved a(5000);
    BOOST_TEST(a.size_bytes() == 8192u);
    BOOST_TEST(a.used_bytes() == 0u);
}

BOOST_AUTO_TEST_CASE(a_size_that_cannot_be_had_is_refused) {
    core::arena a;
    BOOST_TEST(!a.reserve(std::numeric_limits<std::size_t>::max()));
    BOOST_TEST(!a.reserve(std::size_t{1} << 60));
    BOOST_TEST(a.size_bytes() == 0u);
    BOOST_TEST(a.allocate(8) == nullptr);
    a.release();
}

BOOST_AUTO_TEST_CASE(an_offset_leads_back_to_its_block) {
    reserved a(1 << 20);
    BOOST_REQUIRE(a.allocate(64) != nullptr);
    for (std::size_t size = 8; size < 1000; size += 8) {
        void* const p = a.allocate(size);
        BOOST_REQUIRE(p != nullptr);
        std::uint32_t const offset = a.offset_of(p);
        BOOST_REQUIRE_NE(offset, 0u);
        BOOST_REQUIRE(a.at(offset) == p);
    }
}

BOOST_AUTO_TEST_CASE(offsets_reach_the_end_of_the_largest_arena) {
    core::arena a;
    if (!a.reserve(std::size_t{4} << 30)) {
        BOOST_TEST_MESSAGE("no 4 GiB of address space here");
        return;
    }
    BOOST_REQUIRE(a.allocate((std::size_t{4} << 30) - 64) != nullptr); // address space: nothing is written
    void* const last = a.allocate(64);
    BOOST_REQUIRE(last != nullptr);
    BOOST_TEST(a.at(a.offset_of(last)) == last);
    a.release();
}

BOOST_AUTO_TEST_CASE(threads_get_blocks_that_do_not_overlap_until_it_is_used_up) {
    reserved a(4 << 20);
    std::vector<block> blocks[4];
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t)
        threads.emplace_back([&a, &mine = blocks[t], t] {
            std::mt19937 random(t);
            for (;;) {
                std::size_t const size = random() % 200 + 1;
                auto* const p = static_cast<unsigned char*>(a.allocate(size));
                if (p == nullptr) return;
                mine.emplace_back(p, size);
                std::memset(p, static_cast<int>(t + 1), size);
            }
        });
    for (auto& t : threads) t.join();
    std::vector<block> all;
    for (unsigned t = 0; t < 4; ++t)
        for (block const& b : blocks[t]) {
            BOOST_REQUIRE(std::all_of(b.first, b.first + b.second, [t](unsigned char c) { return c == t + 1; }));
            all.push_back(b);
        }
    require_apart(all);
    BOOST_TEST(a.used_bytes() <= a.size_bytes());
    BOOST_TEST(a.used_bytes() + 208 > a.size_bytes());
}

BOOST_AUTO_TEST_SUITE_END()
