#include "in_child.hpp"

#include <thaw/agent/options.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace {

struct resolved {
    thaw::options options;
    std::vector<std::string> said;
};

resolved resolve(std::map<std::string, std::string> const& environment, thaw::options const& given = {}) {
    resolved r;
    r.options = thaw::detail::resolve_options(
        given,
        [&](char const* name) -> char const* {
            auto const found = environment.find(name);
            return found == environment.end() ? nullptr : found->second.c_str();
        },
        [&](std::string const& message) { r.said.push_back(message); });
    return r;
}

// A value that is not taken: one message of one line that names variable and value.
void check_refused(char const* name, std::string const& value, std::string const& shown) {
    resolved const r = resolve({{name, value}});
    BOOST_TEST_CONTEXT(name << "=" << shown) {
        BOOST_TEST_REQUIRE(r.said.size() == 1u);
        std::string const& m = r.said[0];
        BOOST_TEST(m.starts_with("thaw: "));
        BOOST_TEST(m.find(name) != std::string::npos, m);
        BOOST_TEST(m.find(shown) != std::string::npos, m);
        BOOST_TEST(m.size() < 400u);
        for (char const c : m) BOOST_TEST((static_cast<unsigned char>(c) >= 0x20 && c != 0x7f), "a control character is shown");
    }
}

thaw::options const standard;

}

BOOST_AUTO_TEST_SUITE(options)

BOOST_AUTO_TEST_CASE(without_an_environment_what_is_given_holds) {
    thaw::options const given{.app = "a", .version = "1", .environment = "e", .enabled = true, .timing = thaw::timing::none,
                              .cpu_time = false, .report_every_ms = 5, .report_budget_ms = 6, .memory_limit_bytes = 2u << 20,
                              .report = "text"};
    resolved const r = resolve({}, given);
    BOOST_TEST(r.said.empty());
    BOOST_TEST(r.options.app == "a");
    BOOST_TEST(r.options.version == "1");
    BOOST_TEST(r.options.environment == "e");
    BOOST_TEST(r.options.enabled);
    BOOST_TEST((r.options.timing == thaw::timing::none));
    BOOST_TEST(!r.options.cpu_time);
    BOOST_TEST(r.options.report_every_ms == 5u);
    BOOST_TEST(r.options.report_budget_ms == 6u);
    BOOST_TEST(r.options.memory_limit_bytes == 2u << 20);
    BOOST_TEST(r.options.report == "text");
}

BOOST_AUTO_TEST_CASE(the_environment_wins) {
    resolved const r = resolve({{"THAW_APP", "shop"}, {"THAW_VERSION", "2.0"}, {"THAW_ENVIRONMENT", "live"}, {"THAW_DISABLE", "1"},
                                {"THAW_TIMING", "none"}, {"THAW_CPU_TIME", "0"}, {"THAW_CPU", "0"}, {"THAW_STACKS", "frame_pointers"},
                                {"THAW_REPORT_EVERY_MS", "250"},
                                {"THAW_REPORT_BUDGET_MS", "7"}, {"THAW_MEMORY_LIMIT_BYTES", "1048576"}, {"THAW_REPORT", "json"}},
                               {.app = "a", .version = "1", .environment = "e", .report = "text"});
    BOOST_TEST(r.said.empty());
    BOOST_TEST(r.options.app == "shop");
    BOOST_TEST(r.options.version == "2.0");
    BOOST_TEST(r.options.environment == "live");
    BOOST_TEST(!r.options.enabled);
    BOOST_TEST((r.options.timing == thaw::timing::none));
    BOOST_TEST(!r.options.cpu_time);
    BOOST_TEST(!r.options.cpu);
    BOOST_TEST((r.options.stacks == thaw::stack_source::frame_pointers));
    BOOST_TEST(r.options.report_every_ms == 250u);
    BOOST_TEST(r.options.report_budget_ms == 7u);
    BOOST_TEST(r.options.memory_limit_bytes == 1048576u);
    BOOST_TEST(r.options.report == "json");
}

BOOST_AUTO_TEST_CASE(the_environment_can_also_switch_on_what_the_program_switched_off) {
    resolved const r = resolve({{"THAW_DISABLE", "0"}, {"THAW_CPU_TIME", "1"}, {"THAW_TIMING", "all"}},
                               {.enabled = false, .timing = thaw::timing::none, .cpu_time = false});
    BOOST_TEST(r.said.empty());
    BOOST_TEST(r.options.enabled);
    BOOST_TEST(r.options.cpu_time);
    BOOST_TEST((r.options.timing == thaw::timing::all));
}

BOOST_AUTO_TEST_CASE(the_limits_themselves_are_in_range) {
    for (auto const& [name, values] : std::map<std::string, std::vector<std::string>>{
             {"THAW_REPORT_EVERY_MS", {"0", "86400000"}},
             {"THAW_REPORT_BUDGET_MS", {"1", "60000"}},
             {"THAW_MEMORY_LIMIT_BYTES", {"1048576", "4294967296"}}})
        for (auto const& value : values) BOOST_TEST(resolve({{name, value}}).said.empty(), name << "=" << value);
    BOOST_TEST(resolve({{"THAW_MEMORY_LIMIT_BYTES", "4294967296"}}).options.memory_limit_bytes == 4294967296u);
    BOOST_TEST(resolve({{"THAW_REPORT_EVERY_MS", "0"}}).options.report_every_ms == 0u);
}

BOOST_AUTO_TEST_CASE(a_number_that_is_none_is_a_message_and_the_default_holds) {
    for (char const* const name : {"THAW_REPORT_EVERY_MS", "THAW_REPORT_BUDGET_MS", "THAW_MEMORY_LIMIT_BYTES"}) {
        for (char const* const value : {"", "abc", "1e3", "10ms", "-1", "+5", " 5", "5 ", "0x10", "1.5", "18446744073709551616",
                                        "99999999999999999999999999"})
            check_refused(name, value, value);
        BOOST_TEST(resolve({{name, "abc"}}).options.report_every_ms == standard.report_every_ms);
        BOOST_TEST(resolve({{name, "abc"}}).options.report_budget_ms == standard.report_budget_ms);
        BOOST_TEST(resolve({{name, "abc"}}).options.memory_limit_bytes == standard.memory_limit_bytes);
    }
}

BOOST_AUTO_TEST_CASE(a_number_out_of_range_is_a_message_and_the_default_holds) {
    check_refused("THAW_REPORT_EVERY_MS", "86400001", "86400001");
    check_refused("THAW_REPORT_EVERY_MS", "4294967296", "4294967296");  // 2^32: 0 if it were cut
    check_refused("THAW_REPORT_BUDGET_MS", "0", "0");
    check_refused("THAW_REPORT_BUDGET_MS", "60001", "60001");
    check_refused("THAW_REPORT_BUDGET_MS", "4294967297", "4294967297");
    check_refused("THAW_MEMORY_LIMIT_BYTES", "1048575", "1048575");
    check_refused("THAW_MEMORY_LIMIT_BYTES", "4294967297", "4294967297");
    BOOST_TEST(resolve({{"THAW_REPORT_BUDGET_MS", "4294967297"}}).options.report_budget_ms == standard.report_budget_ms);
    std::string const m = resolve({{"THAW_REPORT_BUDGET_MS", "0"}}).said.at(0);
    BOOST_TEST(m.find("1 to 60000") != std::string::npos, m);
    BOOST_TEST(m.find("using 100") != std::string::npos, m);
}

BOOST_AUTO_TEST_CASE(a_refused_value_leaves_what_the_program_gave) {
    resolved const r = resolve({{"THAW_REPORT_EVERY_MS", "often"}, {"THAW_TIMING", "some"}, {"THAW_CPU_TIME", "maybe"},
                                {"THAW_DISABLE", "perhaps"}},
                               {.enabled = false, .timing = thaw::timing::none, .cpu_time = false, .report_every_ms = 5});
    BOOST_TEST(r.said.size() == 4u);
    BOOST_TEST(r.options.report_every_ms == 5u);
    BOOST_TEST((r.options.timing == thaw::timing::none));
    BOOST_TEST(!r.options.cpu_time);
    BOOST_TEST(!r.options.enabled);
}

BOOST_AUTO_TEST_CASE(switches_take_the_usual_words_and_nothing_else) {
    for (char const* const yes : {"1", "true", "on", "yes"}) {
        BOOST_TEST(!resolve({{"THAW_DISABLE", yes}}).options.enabled);
        BOOST_TEST(resolve({{"THAW_CPU_TIME", yes}}, {.cpu_time = false}).options.cpu_time);
    }
    for (char const* const no : {"0", "false", "off", "no"}) {
        BOOST_TEST(resolve({{"THAW_DISABLE", no}}).options.enabled);
        BOOST_TEST(!resolve({{"THAW_CPU_TIME", no}}).options.cpu_time);
    }
    for (char const* const name : {"THAW_DISABLE", "THAW_CPU_TIME"})
        for (char const* const value : {"", "2", "-1", "yess", "01", " 1", "1 ", "nein"}) check_refused(name, value, value);
    BOOST_TEST(resolve({{"THAW_DISABLE", ""}}).options.enabled);
}

BOOST_AUTO_TEST_CASE(timing_is_one_of_its_names) {
    for (char const* const value : {"", "ALL", "nothing", "al", "all ", "\xff\xfe"}) check_refused("THAW_TIMING", value, value);
    BOOST_TEST((resolve({{"THAW_TIMING", "x"}}).options.timing == standard.timing));
    for (char const* const value : {"", "TABLES", "dwarf", "frame_pointer"}) check_refused("THAW_STACKS", value, value);
    BOOST_TEST((resolve({{"THAW_STACKS", "x"}}).options.stacks == thaw::stack_source::tables));
    BOOST_TEST((resolve({{"THAW_STACKS", "none"}}, {.stacks = thaw::stack_source::tables}).options.stacks == thaw::stack_source::none));
}

BOOST_AUTO_TEST_CASE(hostile_values_make_one_short_line) {
    for (char const* const name : {"THAW_REPORT_EVERY_MS", "THAW_REPORT_BUDGET_MS", "THAW_MEMORY_LIMIT_BYTES", "THAW_DISABLE",
                                   "THAW_CPU_TIME", "THAW_TIMING"}) {
        check_refused(name, "a\nb\rc\x1b[31md\te\x7f", "a?b?c?[31md?e?");
        check_refused(name, std::string(100'000, 'x'), std::string(80, 'x') + "...");
        check_refused(name, "%s%n%p", "%s%n%p");
        check_refused(name, "\"; rm -rf", "\"; rm -rf");
    }
}

BOOST_AUTO_TEST_CASE(texts_are_taken_as_they_are) {
    for (char const* const name : {"THAW_APP", "THAW_VERSION", "THAW_ENVIRONMENT"})
        for (std::string const value : {"", "../../x", "a\nb", "\xff", "</script>"}) {
            resolved const r = resolve({{name, value}}, {.app = "a", .version = "a", .environment = "a"});
            BOOST_TEST(r.said.empty());
            BOOST_TEST((name == std::string("THAW_APP") ? r.options.app
                        : name == std::string("THAW_VERSION") ? r.options.version : r.options.environment) == value);
        }
}

BOOST_AUTO_TEST_CASE(options_of_the_program_that_are_out_of_range_are_messages_too) {
    resolved const r = resolve({}, {.report_every_ms = 86'400'001, .report_budget_ms = 0, .memory_limit_bytes = 1});
    BOOST_TEST_REQUIRE(r.said.size() == 3u);
    BOOST_TEST(r.said[0].find("report_every_ms = 86400001") != std::string::npos, r.said[0]);
    BOOST_TEST(r.said[1].find("report_budget_ms = 0") != std::string::npos, r.said[1]);
    BOOST_TEST(r.said[2].find("memory_limit_bytes = 1 ") != std::string::npos, r.said[2]);
    BOOST_TEST(r.options.report_every_ms == standard.report_every_ms);
    BOOST_TEST(r.options.report_budget_ms == standard.report_budget_ms);
    BOOST_TEST(r.options.memory_limit_bytes == standard.memory_limit_bytes);
}

BOOST_AUTO_TEST_CASE(a_good_environment_heals_a_bad_option) {
    resolved const r = resolve({{"THAW_REPORT_BUDGET_MS", "9"}}, {.report_budget_ms = 0});
    BOOST_TEST(r.said.size() == 1u);
    BOOST_TEST(r.options.report_budget_ms == 9u);
}

BOOST_AUTO_TEST_SUITE_END()
