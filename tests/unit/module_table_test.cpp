#include <thaw/sampler/cfa.hpp>
#include <thaw/sampler/module_table.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <sys/auxv.h>

namespace sampler = thaw::sampler;

namespace {

constexpr char const* library_name = "libresolv.so.2";  // of the C library, and loaded by nobody else

struct library {
    void* handle = ::dlopen(library_name, RTLD_NOW);
    library() = default;
    ~library() { close(); }
    library(library const&) = delete;
    library& operator=(library const&) = delete;
    void close() {
        if (handle != nullptr) ::dlclose(handle);
        handle = nullptr;
    }
};

template <class F>
std::uintptr_t address_of(F* f) {
    return reinterpret_cast<std::uintptr_t>(f);
}

sampler::loaded_module const* named(sampler::module_table::reader const& g, std::string const& part) {
    for (std::uint32_t i = 0; i < g->count; ++i)
        if (std::string(g->modules[i].path).find(part) != std::string::npos) return g->modules + i;
    return nullptr;
}

void some_function() {}

long address_space_pages() {
    long pages = 0;
    if (std::FILE* const f = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(f, "%ld", &pages) != 1) pages = 0;
        std::fclose(f);
    }
    return pages;
}

bool same_rules(sampler::frame_rules const& a, sampler::frame_rules const& b) {
    return a.cfa_register == b.cfa_register && a.cfa_offset == b.cfa_offset && (a.cfa_expression == 0) == (b.cfa_expression == 0) &&
           std::memcmp(a.kind, b.kind, sizeof a.kind) == 0;
}

}

BOOST_AUTO_TEST_SUITE(module_table)

BOOST_AUTO_TEST_CASE(modules_are_sorted_and_found_by_their_code) {
    sampler::module_table table;
    BOOST_TEST(!sampler::module_table::reader{table});
    BOOST_REQUIRE(table.renew_if_changed());
    sampler::module_table::reader const g{table};
    BOOST_REQUIRE(static_cast<bool>(g));
    BOOST_TEST(g->number == 1u);
    for (std::uint32_t i = 0; i < g->count; ++i) {
        auto const& m = g->modules[i];
        BOOST_TEST(m.begin < m.end);
        if (i > 0) BOOST_TEST(g->modules[i - 1].end <= m.begin);
        BOOST_TEST(g->find(m.begin) == &m);
        BOOST_TEST(g->find(m.end - 1) == &m);
        BOOST_TEST((g->find(m.begin - 1) == nullptr || g->find(m.begin - 1)->end == m.begin));
    }
    BOOST_TEST(g->find(0) == nullptr);
    BOOST_TEST(g->find(~std::uintptr_t{0}) == nullptr);
    auto const* const own = g->find(address_of(&some_function));
    BOOST_REQUIRE(own != nullptr);
    BOOST_TEST(own->permanent);
    BOOST_TEST(own->index_count > 0u);
    BOOST_TEST(std::string(own->path).empty());
    if (auto const vdso = ::getauxval(AT_SYSINFO_EHDR)) {
        bool found = false;
        for (std::uint32_t i = 0; i < g->count; ++i) found |= g->modules[i].bias == vdso && g->modules[i].permanent;
        BOOST_TEST(found);
    }
}

BOOST_AUTO_TEST_CASE(every_description_of_every_module_is_found_and_understood) {
    sampler::module_table table;
    BOOST_REQUIRE(table.renew_if_changed());
    sampler::module_table::reader const g{table};
    std::uint64_t descriptions = 0, not_understood = 0;
    for (std::uint32_t i = 0; i < g->count; ++i) {
        auto const& m = g->modules[i];
        for (std::uint32_t k = 0; k < m.index_count; ++k) {
            std::uintptr_t const code = m.index_base + static_cast<std::uintptr_t>(std::intptr_t{m.index[k].code});
            sampler::frame_description d;
            BOOST_REQUIRE(sampler::read_description(m.tables, m.find_description(code), d));
            BOOST_REQUIRE(d.begin == code);
            sampler::frame_rules rules;
            ++descriptions;
            not_understood += !sampler::cfa_interpreter{d, rules}.run(d.end - 1);
        }
    }
    BOOST_TEST(descriptions > 1000u);
    BOOST_TEST(not_understood == 0u);
}

BOOST_AUTO_TEST_CASE(nothing_is_made_anew_while_no_module_changes) {
    sampler::module_table table;
    errno = 4711;
    BOOST_REQUIRE(table.renew_if_changed());
    std::size_t const used = table.used_bytes();
    BOOST_TEST(table.renew_if_changed());
    BOOST_TEST(errno == 4711);
    BOOST_TEST(table.used_bytes() == used);
    BOOST_TEST(sampler::module_table::reader{table}->number == 1u);
}

BOOST_AUTO_TEST_CASE(a_library_that_was_loaded_later_is_copied_and_gone_when_it_is_unloaded) {
    sampler::module_table table;
    BOOST_REQUIRE(table.renew_if_changed());
    std::size_t const before = table.used_bytes();
    library resolv;
    BOOST_REQUIRE(resolv.handle != nullptr);
    BOOST_TEST(table.renew_if_changed());
    std::uintptr_t code = 0;
    {
        sampler::module_table::reader const g{table};
        BOOST_TEST(g->number == 2u);
        auto const* const m = named(g, "libresolv");
        BOOST_REQUIRE(m != nullptr);
        BOOST_TEST(!m->permanent);
        BOOST_REQUIRE(m->index != nullptr);
        code = m->begin;

        // What is read from the copy is what is read from the library.
        sampler::table_bytes original = m->tables;
        BOOST_TEST(original.displacement != 0u);
        original.displacement = 0;
        std::size_t compared = 0;
        for (std::uint32_t i = 0; i < m->index_count; ++i) {
            sampler::frame_description a, b;
            std::uintptr_t const place = m->index_base + static_cast<std::uintptr_t>(std::intptr_t{m->index[i].description});
            BOOST_REQUIRE(sampler::read_description(m->tables, place, a));
            BOOST_REQUIRE(sampler::read_description(original, place, b));
            BOOST_REQUIRE(a.begin == b.begin);
            for (std::uintptr_t at = a.begin; at < a.end; at += 3) {
                sampler::frame_rules of_a, of_b;
                BOOST_REQUIRE((sampler::cfa_interpreter{a, of_a}.run(at)));
                BOOST_REQUIRE((sampler::cfa_interpreter{b, of_b}.run(at)));
                BOOST_REQUIRE(same_rules(of_a, of_b));
                ++compared;
            }
        }
        BOOST_TEST(compared > 1000u);

        std::uintptr_t const any_description = m->index_base + static_cast<std::uintptr_t>(std::intptr_t{m->index[0].description});
        resolv.close();
        BOOST_TEST(table.renew_if_changed());
        BOOST_TEST(g->find(code) == m);  // who reads keeps what it reads
        sampler::frame_description d;
        BOOST_TEST(sampler::read_description(m->tables, any_description, d));
    }
    {
        sampler::module_table::reader const g{table};
        BOOST_TEST(g->number == 3u);
        BOOST_TEST(named(g, "libresolv") == nullptr);
    }
    library const again;
    BOOST_TEST(table.renew_if_changed());
    BOOST_TEST(table.used_bytes() > before);
}

BOOST_AUTO_TEST_CASE(memory_does_not_grow_with_the_number_of_changes) {
    sampler::module_table table;
    std::size_t with = 0, without = 0;
    long pages = 0;
    for (int i = 0; i < 100; ++i) {
        library resolv;
        BOOST_REQUIRE(resolv.handle != nullptr);
        BOOST_REQUIRE(table.renew_if_changed());
        if (i == 0) with = table.used_bytes();
        BOOST_REQUIRE_EQUAL(table.used_bytes(), with);
        resolv.close();
        BOOST_REQUIRE(table.renew_if_changed());
        if (i == 0) without = table.used_bytes();
        BOOST_REQUIRE_EQUAL(table.used_bytes(), without);
        if (i == 0) pages = address_space_pages();
    }
    BOOST_TEST(pages > 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which map memory of their own
    BOOST_TEST(address_space_pages() - pages < 100);  // of 198 generations
#endif
    BOOST_TEST(without < with);
}

BOOST_AUTO_TEST_CASE(a_reader_that_never_ends_stops_the_renewal_and_not_the_process) {
    sampler::module_table table;
    BOOST_REQUIRE(table.renew_if_changed());
    bool stopped = false;
    {
        sampler::module_table::reader const stuck{table};
        for (int i = 0; i < 20; ++i) {
            library resolv;
            BOOST_REQUIRE(resolv.handle != nullptr);
            stopped |= !table.renew_if_changed();
        }
        BOOST_TEST(stuck->number == 1u);
        BOOST_TEST(stuck->find(address_of(&some_function)) != nullptr);
    }
    BOOST_TEST(stopped);
    library const resolv;
    BOOST_TEST(table.renew_if_changed());
    BOOST_TEST(named(sampler::module_table::reader{table}, "libresolv") != nullptr);
}

BOOST_AUTO_TEST_CASE(readers_see_whole_generations_while_modules_come_and_go) {
    sampler::module_table table;
    BOOST_REQUIRE(table.renew_if_changed());
    std::atomic<bool> done{false};
    std::atomic<std::uint64_t> reads{0}, wrong{0};
    std::vector<std::thread> readers;
    for (int t = 0; t < 2; ++t)
        readers.emplace_back([&] {
            while (!done) {
                sampler::module_table::reader const g{table};
                auto const* const own = g->find(address_of(&some_function));
                std::uint64_t bad = own == nullptr;
                for (std::uint32_t i = 0; i < g->count; ++i) {
                    auto const& m = g->modules[i];
                    sampler::frame_description d;
                    bad += std::strlen(m.path) > 1000;
                    if (!m.permanent && m.index != nullptr) bad += !sampler::read_description(m.tables, m.find_description(m.end), d);
                }
                wrong += bad;
                ++reads;
            }
        });
    for (int i = 0; i < 200; ++i) {
        library resolv;
        table.renew_if_changed();
        resolv.close();
        table.renew_if_changed();
    }
    done = true;
    for (auto& t : readers) t.join();
    BOOST_TEST(reads > 0u);
    BOOST_TEST(wrong == 0u);
}

BOOST_AUTO_TEST_CASE(sorting_puts_every_order_right) {
    std::mt19937 random(3);
    for (std::uint32_t count : {0u, 1u, 2u, 3u, 10u, 1000u}) {
        for (int round = 0; round < 20; ++round) {
            std::vector<std::uint32_t> v(count);
            for (auto& x : v) x = static_cast<std::uint32_t>(random() % (round % 2 == 0 ? 7 : 100'000));
            auto expected = v;
            std::sort(expected.begin(), expected.end());
            sampler::sort_by(v.data(), count, [](std::uint32_t x) { return x; });
            BOOST_REQUIRE((v == expected));
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
