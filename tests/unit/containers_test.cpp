// Model-checked random work on all standard containers with counting allocators: what a site's account says is compared with
// what the containers are known to hold.
#include "recorded.hpp"

#include <thaw/probe/containers.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

using namespace thaw::testing;

namespace {

// The blocks that a container of nodes holds. libstdc++'s lists and trees keep their sentinel in the container itself; a hash
// table has an array of buckets as soon as it has more than one; and the empty ones of libc++ hold nothing either.
template <class C>
std::int64_t blocks_of(C const& c) {
    auto const size = static_cast<std::int64_t>(std::distance(c.begin(), c.end()));
    if constexpr (requires { c.bucket_count(); }) return size + (c.bucket_count() > 1 ? 1 : 0);
    else return size;
}

template <class T, class A>
std::int64_t blocks_of(std::vector<T, A> const& v) {
    return v.capacity() != 0 ? 1 : 0;
}

bool is_inline(thaw::string const& s) {
    auto const* const object = reinterpret_cast<char const*>(&s);
    return s.data() >= object && s.data() < object + sizeof s;
}

template <class C>
void churn(C& c, std::mt19937& random) {
    auto const key = static_cast<int>(random() % 200);
    bool const grow = random() % 3 != 0;
    if constexpr (requires { typename C::mapped_type; }) {
        if (grow) c.emplace(key, key);
        else c.erase(key);
    } else if constexpr (requires { typename C::key_type; }) {
        if (grow) c.insert(key);
        else c.erase(key);
    } else if constexpr (requires { c.push_front(key); }) {
        if (grow) c.push_front(key);
        else if (!c.empty()) c.pop_front();
    } else {
        if (grow) c.push_back(key);
        else if (!c.empty()) c.pop_back();
    }
    if (random() % 97 == 0) {
        C copy(c);
        copy.swap(c);
        C const moved(std::move(copy));
        if (random() % 3 == 0) c = moved;
    }
    if (random() % 251 == 0) c.clear();
}

// A hundred rounds on one container at one site of its own; `check` compares after each.
template <class C, class Check>
void exercise(thaw::allocator_tag where, char const* name, Check&& check) {
    std::mt19937 random(20'240'601);
    {
        C c{typename C::allocator_type{where}};
        for (int round = 0; round < 100; ++round) {
            for (int i = 0; i < 40; ++i) churn(c, random);
            check(c, memory_at(profile_now(), name), name);
        }
    }
    auto const m = memory_at(profile_now(), name);
    EXPECT(m.allocations > 10);
    EXPECT_EQUAL(m.live_bytes(), 0);
    EXPECT_EQUAL(m.live_blocks(), 0);
}

auto const nodes_agree = [](auto const& c, thaw::memory_site const& m, char const* name) {
    if (m.live_blocks() != blocks_of(c))
        fail_in_child(__FILE__, __LINE__, std::string(name) + ": " + std::to_string(m.live_blocks()) + " blocks are counted, " +
                                              std::to_string(blocks_of(c)) + " are held");
    EXPECT((m.live_bytes() == 0) == (m.live_blocks() == 0));
    EXPECT(m.live_bytes() >= 0);
};
auto const anything = [](auto const& c, thaw::memory_site const& m, char const*) {
    EXPECT(m.live_bytes() >= static_cast<std::int64_t>(c.size() * sizeof(*c.begin())));
};

}

BOOST_AUTO_TEST_SUITE(containers)

static_assert(std::is_same_v<thaw::vector<int>, std::vector<int, thaw::allocator<int>>>);
static_assert(std::is_same_v<thaw::map<int, long>::allocator_type, thaw::allocator<std::pair<int const, long>>>);
static_assert(std::is_same_v<thaw::string::value_type, char> && std::is_same_v<thaw::u16string::value_type, char16_t>);

BOOST_AUTO_TEST_CASE(accounts_of_containers_of_nodes_hold_what_they_hold) {
    IN_CHILD {
        start_recording_by_hand();
        THAW_HANDLER("h");
        exercise<thaw::list<int>>(THAW_ALLOCATOR("list"), "list", nodes_agree);
        exercise<thaw::forward_list<int>>(THAW_ALLOCATOR("forward_list"), "forward_list", nodes_agree);
        exercise<thaw::set<int>>(THAW_ALLOCATOR("set"), "set", nodes_agree);
        exercise<thaw::multiset<int>>(THAW_ALLOCATOR("multiset"), "multiset", nodes_agree);
        exercise<thaw::map<int, long>>(THAW_ALLOCATOR("map"), "map", nodes_agree);
        exercise<thaw::multimap<int, long>>(THAW_ALLOCATOR("multimap"), "multimap", nodes_agree);
    };
}

BOOST_AUTO_TEST_CASE(accounts_of_hash_tables_hold_nodes_and_buckets) {
    IN_CHILD {
        start_recording_by_hand();
        THAW_HANDLER("h");
        exercise<thaw::unordered_set<int>>(THAW_ALLOCATOR("unordered_set"), "unordered_set", nodes_agree);
        exercise<thaw::unordered_multiset<int>>(THAW_ALLOCATOR("unordered_multiset"), "unordered_multiset", nodes_agree);
        exercise<thaw::unordered_map<int, long>>(THAW_ALLOCATOR("unordered_map"), "unordered_map", nodes_agree);
        exercise<thaw::unordered_multimap<int, long>>(THAW_ALLOCATOR("unordered_multimap"), "unordered_multimap", nodes_agree);
    };
}

BOOST_AUTO_TEST_CASE(accounts_of_contiguous_containers_hold_their_capacity) {
    IN_CHILD {
        start_recording_by_hand();
        THAW_HANDLER("h");
        exercise<thaw::vector<int>>(THAW_ALLOCATOR("vector"), "vector", [](auto const& c, thaw::memory_site const& m, char const*) {
            EXPECT_EQUAL(m.live_bytes(), c.capacity() * sizeof(int));
            EXPECT_EQUAL(m.live_blocks(), blocks_of(c));
        });
        exercise<thaw::deque<int>>(THAW_ALLOCATOR("deque"), "deque", anything);
        std::mt19937 random(7);
        {
            thaw::string s{THAW_ALLOCATOR("string")};
            for (int i = 0; i < 300; ++i) {
                if (random() % 4 != 0) s.append(random() % 40, 'x');
                else s = thaw::string(random() % 30, 'y', s.get_allocator()), s.shrink_to_fit();
                auto const m = memory_at(profile_now(), "string");
                EXPECT_EQUAL(m.live_bytes(), is_inline(s) ? 0 : s.capacity() + 1);
                EXPECT_EQUAL(m.live_blocks(), is_inline(s) ? 0 : 1);
            }
        }
        EXPECT_EQUAL(memory_at(profile_now(), "string").live_bytes(), 0);
    };
}

// Nodes wander between lists, maps and hash tables of eight sites: what single accounts hold is where nodes came from, their sum never errs.
BOOST_AUTO_TEST_CASE(the_sum_over_sites_survives_splices_merges_and_node_handles) {
    IN_CHILD {
        start_recording_by_hand();
        std::array<thaw::allocator_tag, 8> const tags{
            THAW_ALLOCATOR("0"), THAW_ALLOCATOR("1"), THAW_ALLOCATOR("2"), THAW_ALLOCATOR("3"),
            THAW_ALLOCATOR("4"), THAW_ALLOCATOR("5"), THAW_ALLOCATOR("6"), THAW_ALLOCATOR("7")};
        {
            std::vector<thaw::list<int>> lists;
            std::vector<thaw::map<int, int>> maps;
            std::vector<thaw::unordered_multiset<int>> tables;
            for (auto const tag : tags) lists.emplace_back(tag), maps.emplace_back(tag), tables.emplace_back(tag);
            std::mt19937 random(1);
            for (int round = 0; round < 300; ++round) {
                THAW_HANDLER("h");
                for (int i = 0; i < 20; ++i) {
                    auto const a = random() % 8, b = random() % 8;
                    auto const key = static_cast<int>(random() % 500);
                    switch (random() % 14) {
                    case 0: lists[a].splice(lists[a].begin(), lists[b].size() > 0 && a != b ? lists[b] : lists[a], lists[a].end()); break;
                    case 1: if (a != b) lists[a].splice(lists[a].end(), lists[b]); break;
                    case 2: if (a != b && !lists[b].empty()) lists[a].splice(lists[a].end(), lists[b], lists[b].begin()); break;
                    case 3: lists[a].sort(), lists[b].sort(), a != b ? lists[a].merge(lists[b]) : void(); break;
                    case 4: std::swap(lists[a], lists[b]); break;
                    case 5: if (a != b) lists[a] = std::move(lists[b]), lists[b].clear(); break;
                    case 6: lists[a] = lists[b]; break;
                    case 7: if (auto node = maps[a].extract(key)) maps[b].insert(std::move(node)); break;
                    case 8: if (a != b) maps[a].merge(maps[b]); break;
                    case 9: std::swap(maps[a], maps[b]); break;
                    case 10: if (!tables[a].empty()) tables[b].insert(tables[a].extract(tables[a].begin())); break;
                    case 11: lists[a].clear(); break;
                    case 12: maps[a].erase(key); break;
                    default: lists[a].push_back(key), maps[a].emplace(key, key), tables[a].insert(key); break;
                    }
                    lists[b].push_back(key), maps[b].emplace(key, key);
                }
                std::int64_t held = 0;
                for (auto const& c : lists) held += blocks_of(c);
                for (auto const& c : maps) held += blocks_of(c);
                for (auto const& c : tables) held += blocks_of(c);
                EXPECT_EQUAL(memory_of_all(profile_now()).live_blocks(), held);
            }
        }
        EXPECT_EQUAL(memory_of_all(profile_now()).live_bytes(), 0);
        EXPECT_EQUAL(memory_of_all(profile_now()).live_blocks(), 0);
    };
}

BOOST_AUTO_TEST_CASE(elements_keep_allocators_of_their_own) {
    IN_CHILD {
        start_recording_by_hand();
        thaw::vector<thaw::string> names{THAW_ALLOCATOR("names")};
        names.emplace_back(100, 'x', THAW_ALLOCATOR("text"));
        thaw::profile const p = profile_now();
        EXPECT_EQUAL(memory_at(p, "names").live_bytes(), names.capacity() * sizeof(thaw::string));
        EXPECT_EQUAL(memory_at(p, "text").live_bytes(), names[0].capacity() + 1);
    };
}

BOOST_AUTO_TEST_SUITE_END()
