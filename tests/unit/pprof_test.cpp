#include <thaw/report/pprof.hpp>

#include "pprof_reader.hpp"
#include "sample_profile.hpp"

#include <boost/test/unit_test.hpp>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

using thaw::profile;
using thaw::site_kind;
using thaw::testing::pprof_file;
using thaw::testing::pprof_sample;
using thaw::testing::read_pprof;
using thaw::testing::sample_profile;
using strings = std::vector<std::string>;

namespace {

struct shop {
    sample_profile b;
    std::uint32_t checkout = b.node(0, site_kind::handler, "checkout", {1000});
    std::uint32_t rules = b.node(checkout, site_kind::scope, "price.rules", {500});
    std::uint32_t query = b.node(checkout, site_kind::wait, "db.query", {400});
    std::uint32_t background = b.node(0, site_kind::background, "[background]", {});
    thaw::cpu_profile& cpu = b.p.cpu;

    shop() {
        b.p.identity = {"shop", "1.4.2", "prod", "7f3a09c2d1e4b586", "aa11", "ip-10-0-0-7", 4711, 3};
        b.p.window.started_unix_ns = 1'700'000'000'000'000'000;
        b.p.window.ended_unix_ns = 1'700'000'060'000'000'000;
        cpu.status = "on";
        cpu.period_ns = 50'000;
        cpu.modules = {{"/lib/libc.so.6", "cc33", 0x7f0000001000, 0x7f0000100000, 0x1000, 0x7f0000000000},
                       {"/opt/shop", "aa11", 0x550000001000, 0x550000009000, 0x1000, 0x550000000000},
                       {"[vdso]", "", 0x7fff00000000, 0x7fff00002000, 0, 0x7fff00000000}};
        cpu.locations = {{0x550000001100, 1, "mix(unsigned long)"},
                         {0x550000001200, 1, "apply_rules(cart&)"},
                         {0x550000001280, 1, "apply_rules(cart&)"},
                         {0x550000001300, 1, "main"},
                         {0x7f0000001234, 0, ""},
                         {0x7f0000001300, 0, "memcpy"},
                         {0x7f1234567890, UINT32_MAX, ""}};
    }

    void stack(std::uint32_t node, std::vector<std::uint32_t> const& frames, std::uint64_t samples, std::uint64_t cpu_ns) {
        thaw::cpu_stack s;
        s.node = node;
        s.first_frame = static_cast<std::uint32_t>(cpu.frames.size());
        s.frame_count = static_cast<std::uint32_t>(frames.size());
        s.samples = samples;
        s.cpu_ns = cpu_ns;
        cpu.frames.insert(cpu.frames.end(), frames.begin(), frames.end());
        cpu.stacks.push_back(s);
        cpu.samples += samples;
        cpu.cpu_ns += cpu_ns;
    }

    void some_stacks() {
        stack(rules, {0, 1, 3}, 30, 120'000'000);
        stack(rules, {2, 3}, 10, 40'000'000);
        stack(checkout, {4, 3}, 5, 20'000'000);
        stack(background, {6}, 1, 4'000'000);
    }

    [[nodiscard]] pprof_file file(thaw::report::pprof const& options = {}) const { return read_pprof(options.format(b.p)); }
};

bool contains(strings const& all, std::string const& wanted) {
    for (std::string const& s : all)
        if (s == wanted) return true;
    return false;
}

}

BOOST_AUTO_TEST_SUITE(pprof)

BOOST_AUTO_TEST_CASE(stacks_come_out_with_their_functions_values_and_labels) {
    shop s;
    s.some_stacks();
    pprof_file const f = s.file();
    BOOST_TEST((f.sample_types == std::vector<std::pair<std::string, std::string>>{{"samples", "count"}, {"cpu", "nanoseconds"}}));
    BOOST_TEST(f.default_sample_type == "cpu");
    BOOST_REQUIRE_EQUAL(f.samples.size(), 4u);
    BOOST_TEST((f.samples[0].functions == strings{"mix(unsigned long)", "apply_rules(cart&)", "main"}));
    BOOST_TEST((f.samples[0].values == std::vector<std::int64_t>{30, 120'000'000}));
    BOOST_TEST((f.samples[0].labels == std::map<std::string, std::string>{{"scope", "checkout;price.rules"}, {"handler", "checkout"}}));
    BOOST_TEST((f.samples[1].functions == strings{"apply_rules(cart&)", "main"}));
    BOOST_TEST((f.samples[1].addresses == std::vector<std::uint64_t>{0x550000001280, 0x550000001300}));
    BOOST_TEST((f.samples[2].functions == strings{"", "main"})); // its name is unknown: the reader may look it up
    BOOST_TEST((f.samples[2].labels == std::map<std::string, std::string>{{"scope", "checkout"}, {"handler", "checkout"}}));
    BOOST_TEST((f.samples[3].labels == std::map<std::string, std::string>{{"scope", "[background]"}}));
    BOOST_TEST((f.samples[3].mappings == std::vector<std::uint64_t>{0}));
    BOOST_TEST(f.total(0) == 46);
    BOOST_TEST(f.total(1) == 184'000'000);
    BOOST_TEST(f.functions.at("mix(unsigned long)").system_name == "mix(unsigned long)");
}

BOOST_AUTO_TEST_CASE(the_executable_is_the_first_mapping_and_only_whole_modules_have_functions) {
    shop s;
    s.some_stacks();
    pprof_file const f = s.file();
    BOOST_REQUIRE_EQUAL(f.mappings.size(), 3u);
    BOOST_TEST((f.mappings[0] == thaw::testing::pprof_mapping{0x550000001000, 0x550000009000, 0x1000, "/opt/shop", "aa11", true}));
    BOOST_TEST((f.mappings[1] == thaw::testing::pprof_mapping{0x7f0000001000, 0x7f0000100000, 0x1000, "/lib/libc.so.6", "cc33", false}));
    BOOST_TEST((f.mappings[2] == thaw::testing::pprof_mapping{0x7fff00000000, 0x7fff00002000, 0, "[vdso]", "", false}));
    BOOST_TEST((f.samples[0].mappings == std::vector<std::uint64_t>{1, 1, 1}));
    BOOST_TEST((f.samples[2].mappings == std::vector<std::uint64_t>{2, 1}));
    s.b.p.identity.build_id.clear();
    pprof_file const other = s.file();
    BOOST_TEST(other.mappings[0].file == "/lib/libc.so.6");
    BOOST_TEST((other.samples[2].mappings == std::vector<std::uint64_t>{1, 2}));
}

BOOST_AUTO_TEST_CASE(time_duration_and_period_are_those_of_the_window) {
    shop s;
    s.some_stacks();
    s.cpu.cpu_ns += 9'000'000;
    s.cpu.unattributed_ns = 9'000'000;
    pprof_file f = s.file();
    BOOST_TEST(f.time_ns == 1'700'000'000'000'000'000);
    BOOST_TEST(f.duration_ns == 60'000'000'000);
    BOOST_TEST((f.period_type == std::pair<std::string, std::string>{"cpu", "nanoseconds"}));
    BOOST_TEST(f.period == 4'000'000); // what a sample stands for: 184 ms / 46
    s.b.p.window.ended_unix_ns = 5;
    s.cpu.samples = 0;
    f = s.file();
    BOOST_TEST(f.duration_ns == 0);
    BOOST_TEST(f.period == 50'000);
}

BOOST_AUTO_TEST_CASE(who_made_it_and_what_was_lost_is_in_the_comments) {
    shop s;
    s.cpu.unattributed_ns = 17;
    s.cpu.truncated_stacks = 3;
    pprof_file const f = s.file();
    for (char const* words : {"app shop", "version 1.4.2", "environment prod", "instance 7f3a09c2d1e4b586", "host ip-10-0-0-7",
                              "sequence 3", "cpu on", "cpu_unattributed_ns 17", "cpu_truncated_stacks 3"})
        BOOST_TEST(contains(f.comments, words), words);
    BOOST_TEST(!contains(f.comments, "cpu_failed_stacks 0"));
}

BOOST_AUTO_TEST_CASE(scopes_are_frames_where_there_are_no_native_ones) {
    shop s;
    s.stack(s.rules, {}, 3, 12);
    s.stack(0, {}, 1, 4);
    s.stack(s.query, {3}, 1, 4);
    pprof_file const f = s.file();
    BOOST_TEST((f.samples[0].functions == strings{"price.rules", "checkout"}));
    BOOST_TEST((f.samples[0].addresses == std::vector<std::uint64_t>{0, 0}));
    BOOST_TEST((f.samples[1].functions == strings{"process"}));
    BOOST_TEST(f.samples[1].labels.empty());
    BOOST_TEST((f.samples[2].functions == strings{"main"}));
    BOOST_TEST(f.functions.at("price.rules").file == "sample.cpp");
    BOOST_TEST(f.functions.at("price.rules").start_line == s.b.p.sites[s.b.p.nodes[s.rules].site].line);
    BOOST_TEST(f.functions.at("price.rules").system_name == ""); // a reader is not to take it for a mangled name
    BOOST_TEST(f.functions.count("db.query") == 0u);
}

BOOST_AUTO_TEST_CASE(scopes_are_frames_outside_of_the_native_ones_where_they_are_asked_for) {
    shop s;
    s.stack(s.rules, {0, 3}, 3, 12);
    s.stack(s.query, {3}, 1, 4);
    s.stack(0, {3}, 1, 4);
    pprof_file const f = s.file({.scope_frames = true});
    BOOST_TEST((f.samples[0].functions == strings{"mix(unsigned long)", "main", "price.rules", "checkout"}));
    BOOST_TEST((f.samples[1].functions == strings{"main", "db.query", "checkout"}));
    BOOST_TEST((f.samples[2].functions == strings{"main", "process"}));
}

BOOST_AUTO_TEST_CASE(an_empty_profile_is_a_valid_file) {
    for (bool const gzip : {true, false}) {
        std::string const file = thaw::report::pprof{.gzip = gzip}.format(profile{});
        pprof_file const f = gzip ? read_pprof(file) : thaw::testing::read_pprof_message(file);
        BOOST_TEST(f.samples.empty());
        BOOST_TEST(f.sample_types.size() == 2u);
        BOOST_TEST(f.time_ns == 0);
    }
    pprof_file const f = read_pprof(thaw::report::pprof{}.format(thaw::testing::quickstart_like()));
    BOOST_TEST(f.samples.empty());
}

BOOST_AUTO_TEST_CASE(numbers_beyond_2_to_the_63_stay_there_and_so_do_their_sums) {
    shop s;
    s.stack(s.rules, {0}, 1, UINT64_MAX);
    s.stack(s.checkout, {0}, UINT64_MAX - 1, 5);
    s.stack(s.query, {0}, 5, static_cast<std::uint64_t>(INT64_MAX));
    s.b.p.window.started_unix_ns = UINT64_MAX - 5;
    s.b.p.window.ended_unix_ns = UINT64_MAX;
    s.cpu.period_ns = UINT64_MAX;
    s.cpu.samples = 0;
    pprof_file const f = s.file();
    BOOST_TEST(f.samples[0].values[1] == INT64_MAX);
    BOOST_TEST(f.samples[1].values[0] == INT64_MAX - 1);
    BOOST_TEST(f.total(0) == INT64_MAX);
    BOOST_TEST(f.total(1) == INT64_MAX);
    BOOST_TEST(f.time_ns == INT64_MAX);
    BOOST_TEST(f.duration_ns == 5);
    BOOST_TEST(f.period == INT64_MAX);
}

BOOST_AUTO_TEST_CASE(hostile_names_are_valid_utf8_and_otherwise_kept) {
    struct {
        std::string given, wanted;
    } const names[] = {
        {"quote\" back\\slash 'single'", "quote\" back\\slash 'single'"},
        {"line\nfeed\r\ttab\x1b[31m", "line\nfeed\r\ttab\x1b[31m"},
        {std::string("nul\0inside", 10), std::string("nul\0inside", 10)},
        {"bad \xff\xfe byte", "bad \xef\xbf\xbd\xef\xbf\xbd byte"},
        {"cut \xe2\x82", "cut \xef\xbf\xbd\xef\xbf\xbd"},
        {"lone \xed\xa0\x80 surrogate", "lone \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd surrogate"},
        {"overlong \xc0\xaf", "overlong \xef\xbf\xbd\xef\xbf\xbd"},
        {"\xff", "\xef\xbf\xbd"},
        {"fine \xe2\x82\xac \xf0\x9f\x98\x80", "fine \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"</script><b>%s%n;a;b", "</script><b>%s%n;a;b"},
        {std::string(10'000, 'n'), std::string(10'000, 'n')},
        {std::string(10'000, '\x80'), [] {
             std::string s;
             for (int i = 0; i < 10'000; ++i) s += "\xef\xbf\xbd";
             return s;
         }()},
    };
    for (auto const& n : names) {
        shop s;
        auto const node = s.b.node(s.checkout, site_kind::scope, n.given, {1});
        s.cpu.locations[0].function = n.given;
        s.cpu.modules[0].path = n.given;
        s.b.p.identity.app = n.given;
        s.b.p.sites[s.b.p.nodes[node].site].file = n.given;
        s.stack(node, {0}, 1, 1);
        s.stack(node, {}, 1, 1);
        pprof_file const f = s.file(); // reading checks that every string is valid and there only once
        BOOST_TEST((f.samples[0].functions == strings{n.wanted}));
        BOOST_TEST((f.samples[1].functions == strings{n.wanted, "checkout"}));
        BOOST_TEST(f.samples[0].labels.at("scope") == "checkout;" + n.wanted);
        BOOST_TEST(f.mappings[1].file == n.wanted);
        BOOST_TEST(contains(f.comments, "app " + n.wanted));
    }
}

BOOST_AUTO_TEST_CASE(names_without_a_character_have_a_frame_too) {
    shop s;
    auto const node = s.b.node(s.checkout, site_kind::scope, "", {1});
    s.stack(node, {}, 1, 1);
    pprof_file const f = s.file();
    BOOST_TEST((f.samples[0].functions == strings{"(unnamed)", "checkout"}));
    BOOST_TEST(f.samples[0].labels.at("scope") == "checkout;(unnamed)");
}

BOOST_AUTO_TEST_CASE(of_many_scopes_within_each_other_the_outermost_and_the_innermost_are_named) {
    for (int const depth : {63, 64, 65, 1000}) {
        shop s;
        std::uint32_t node = s.checkout;
        for (int i = 2; i <= depth; ++i) node = s.b.node(node, site_kind::scope, "s" + std::to_string(i), {1});
        s.stack(node, {}, 1, 1);
        pprof_sample const got = s.file().samples.at(0);
        strings wanted;
        std::string path;
        for (int i = 1; i <= depth; ++i) {
            if (depth > 64 && i > 1 && i <= depth - 62) {
                if (i == 2) wanted.insert(wanted.begin(), "...");
                continue;
            }
            wanted.insert(wanted.begin(), i == 1 ? "checkout" : "s" + std::to_string(i));
        }
        for (std::size_t i = wanted.size(); i-- > 0;) path += wanted[i] + (i != 0 ? ";" : "");
        BOOST_TEST((got.functions == wanted));
        BOOST_TEST(got.labels.at("scope") == path);
        BOOST_TEST(got.functions.size() <= 64u);
    }
}

BOOST_AUTO_TEST_CASE(a_stack_of_a_thousand_frames_comes_out_whole) {
    shop s;
    std::vector<std::uint32_t> frames(1000, 1);
    frames.back() = 3;
    s.stack(s.rules, frames, 1, 1);
    pprof_sample const got = s.file().samples.at(0);
    BOOST_REQUIRE_EQUAL(got.functions.size(), 1000u);
    BOOST_TEST(got.functions[0] == "apply_rules(cart&)");
    BOOST_TEST(got.functions[999] == "main");
}

BOOST_AUTO_TEST_CASE(random_profiles_come_back_stack_by_stack) {
    for (unsigned seed = 1; seed <= 20; ++seed) {
        std::mt19937 random(seed);
        shop s;
        s.cpu.locations.clear();
        for (std::uint64_t i = 0; i < 700; ++i)
            s.cpu.locations.push_back({0x550000001000 + i * 7, random() % 4 == 0 ? UINT32_MAX : static_cast<std::uint32_t>(random() % 3),
                                       random() % 5 == 0 ? "" : "f" + std::string(random() % 40, 'x') + std::to_string(random() % 300)});
        for (int i = 0; i < 300; ++i) {
            std::vector<std::uint32_t> frames(random() % 30);
            for (auto& frame : frames) frame = static_cast<std::uint32_t>(random() % 700);
            s.stack(random() % 2 == 0 ? s.rules : s.query, frames, random(), std::uint64_t{random()} << random() % 20);
        }
        pprof_file const f = s.file();
        BOOST_REQUIRE_EQUAL(f.samples.size(), s.cpu.stacks.size());
        for (std::size_t i = 0; i < f.samples.size(); ++i) {
            auto const& stack = s.cpu.stacks[i];
            BOOST_REQUIRE_EQUAL(f.samples[i].values[0], static_cast<std::int64_t>(stack.samples));
            BOOST_REQUIRE_EQUAL(f.samples[i].values[1], static_cast<std::int64_t>(stack.cpu_ns));
            if (stack.frame_count == 0) continue;
            BOOST_REQUIRE_EQUAL(f.samples[i].functions.size(), stack.frame_count);
            for (std::uint32_t k = 0; k < stack.frame_count; ++k) {
                auto const& l = s.cpu.locations[s.cpu.frames[stack.first_frame + k]];
                BOOST_REQUIRE_EQUAL(f.samples[i].functions[k], l.function);
                BOOST_REQUIRE_EQUAL(f.samples[i].addresses[k], l.address);
                std::string const file = l.module == UINT32_MAX ? "" : s.cpu.modules[l.module].path;
                std::uint64_t const m = f.samples[i].mappings[k];
                BOOST_REQUIRE_EQUAL(m == 0 ? "" : f.mappings[m - 1].file, file);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(the_file_goes_to_a_stream_or_to_any_sink_in_one_piece) {
    shop s;
    s.some_stacks();
    thaw::report::pprof const report;
    std::string const wanted = report.format(s.b.p);
    std::vector<std::string> pieces;
    auto const answer = report(s.b.p, [&pieces](void const* data, std::size_t size) {
        pieces.emplace_back(static_cast<char const*>(data), size);
        return 42;
    });
    BOOST_TEST(answer == 42);
    BOOST_TEST((pieces == strings{wanted}));
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> const file(std::tmpfile(), &std::fclose);
    BOOST_REQUIRE(file != nullptr);
    errno = 4711;
    report(s.b.p, file.get());
    BOOST_TEST(errno == 4711);
    std::string back(wanted.size() + 1, '\0');
    BOOST_TEST(pread(fileno(file.get()), back.data(), back.size(), 0) == static_cast<ssize_t>(wanted.size()));
    back.resize(wanted.size());
    BOOST_TEST((back == wanted));
}

BOOST_AUTO_TEST_SUITE_END()
