// The golden file lies in $THAW_GOLDEN_DIR/text, without it in $THAW_TEST_ROOT/tests/golden/text.
// THAW_UPDATE_GOLDEN=1 writes it anew; the difference is then to be read before it is committed.
#include "sample_profile.hpp"

#include <thaw/report/text.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

using thaw::site_kind;
using text_report = thaw::report::text;
using thaw::report::to_string;
using thaw::testing::quickstart_like;
using thaw::testing::ramp;
using thaw::testing::sample_profile;

namespace {

bool has(std::string const& s, std::string const& part) { return s.find(part) != std::string::npos; }

std::vector<std::string> lines_of(std::string const& s) {
    std::vector<std::string> lines;
    std::istringstream in(s);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

std::string line_with(std::string const& s, std::string const& part) {
    for (std::string const& line : lines_of(s))
        if (has(line, part)) return line;
    return "no line with " + part;
}

// Every line keeps to the width and holds nothing but printable, well-formed text.
void check_layout(std::string const& report, std::size_t width) {
    BOOST_TEST(report.ends_with("\n"));
    for (std::string const& line : lines_of(report)) {
        BOOST_TEST(thaw::report::columns_of(line) <= width, line);
        BOOST_TEST(thaw::report::printable("|" + line + "|") == "|" + line + "|");
        BOOST_TEST(!line.ends_with(" "), '"' + line + '"');
    }
}

std::string golden_path(std::string const& name) {
    if (char const* const dir = std::getenv("THAW_GOLDEN_DIR")) return std::string(dir) + "/text/" + name + ".txt";
    char const* const root = std::getenv("THAW_TEST_ROOT");
    return std::string(root != nullptr ? root : ".") + "/tests/golden/text/" + name + ".txt";
}

// One handler of 1 s with `n` calls, in a profile of `invocations`.
sample_profile one_handler(std::uint64_t invocations = 10) {
    sample_profile b;
    b.node(0, site_kind::handler, "checkout", ramp(10, 100'000'000, 0));
    b.p.window.invocations = invocations;
    b.p.window.cold = 1;
    b.p.window.active_ns = 1'000'000'000;
    return b;
}

// What the report writes to a terminal of 57 columns.
std::string on_a_terminal(text_report const& report, thaw::profile const& p) {
    int const master = posix_openpt(O_RDWR | O_NOCTTY);
    BOOST_REQUIRE(master >= 0);
    BOOST_REQUIRE(grantpt(master) == 0);
    BOOST_REQUIRE(unlockpt(master) == 0);
    int const terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    BOOST_REQUIRE(terminal >= 0);
    termios raw = {};
    tcgetattr(terminal, &raw);
    cfmakeraw(&raw);
    tcsetattr(terminal, TCSANOW, &raw);
    winsize size = {};
    size.ws_col = 57;
    ioctl(terminal, TIOCSWINSZ, &size);
    std::FILE* const out = fdopen(terminal, "w");
    report(p, out);
    std::fclose(out); // what was written stays readable; the end is EIO
    std::string all;
    char part[4096];
    for (ssize_t n = 0; (n = read(master, part, sizeof part)) > 0;) all.append(part, static_cast<std::size_t>(n));
    close(master);
    return all;
}

// What the report writes to a file.
std::string in_a_file(text_report const& report, thaw::profile const& p) {
    std::FILE* const out = std::tmpfile();
    report(p, out);
    std::string all(static_cast<std::size_t>(std::ftell(out)), '\0');
    std::rewind(out);
    BOOST_REQUIRE(std::fread(all.data(), 1, all.size(), out) == all.size());
    std::fclose(out);
    return all;
}

}

BOOST_AUTO_TEST_SUITE(text)

BOOST_AUTO_TEST_CASE(the_reports_are_the_golden_files) {
    for (auto const& [name, p] : {std::pair<std::string, thaw::profile>{"quickstart_like", quickstart_like()},
                                  {"computing_like", thaw::testing::computing_like()}}) {
        std::string const report = to_string(p);
        if (char const* const update = std::getenv("THAW_UPDATE_GOLDEN"); update != nullptr && *update == '1')
            std::ofstream(golden_path(name), std::ios::binary) << report;
        std::ifstream file(golden_path(name), std::ios::binary);
        BOOST_REQUIRE_MESSAGE(file, "cannot open " + golden_path(name));
        std::string const golden{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
        BOOST_TEST(lines_of(report) == lines_of(golden), boost::test_tools::per_element());
        BOOST_TEST((report == golden));
    }
}

BOOST_AUTO_TEST_CASE(places_without_a_name_are_one_by_module) {
    thaw::profile p = thaw::testing::computing_like();
    p.cpu.modules.resize(2);
    p.cpu.modules[0].path = "/lib/libm.so.6";
    p.cpu.modules[1].path = "[vdso]";
    for (thaw::code_location& l : p.cpu.locations) {
        l.module = l.function == "mix(unsigned long)" ? 1 : 0;
        l.function.clear();
    }
    std::string const text = to_string(p);
    BOOST_TEST(text.find("price.rules > [vdso]") != std::string::npos);
    BOOST_TEST(text.find("parse > [libm.so.6]") != std::string::npos);
    BOOST_TEST(text.find("+0x") == std::string::npos);
    std::size_t const second = text.find("parse > [libm.so.6]", text.find("parse > [libm.so.6]") + 1);
    BOOST_TEST(second == std::string::npos);
}

BOOST_AUTO_TEST_CASE(few_cpu_samples_are_no_answer) {
    thaw::profile p = thaw::testing::computing_like();
    BOOST_TEST(to_string(p).find("  cpu      61 % of the CPU is burned in price.rules") != std::string::npos);
    p.cpu.stacks.resize(1);
    p.cpu.stacks[0].samples = p.cpu.samples = 29;
    std::string report = to_string(p);
    BOOST_TEST(report.find("CPU hot spots") == std::string::npos);
    BOOST_TEST(report.find("burned") == std::string::npos);
    BOOST_TEST(report.find("  busy     ") != std::string::npos);
    BOOST_TEST(report.find("fewer than 30 CPU samples") != std::string::npos);
    p.cpu.stacks[0].samples = p.cpu.samples = 30;
    report = to_string(p);
    BOOST_TEST(report.find("CPU hot spots") != std::string::npos);
    BOOST_TEST(report.find("fewer than") == std::string::npos);
    p.cpu = {};
    p.cpu.status = "unavailable (signal taken)";
    report = to_string(p);
    BOOST_TEST(report.find("note  CPU samples: unavailable (signal taken)") != std::string::npos);
    p.cpu.status = "off";
    BOOST_TEST(to_string(p).find("CPU samples") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(answers_come_before_details_and_doubts_last) {
    thaw::profile p = quickstart_like();
    p.losses.torn_nodes = 1;
    std::string const report = to_string(p);
    std::size_t last = 0;
    for (char const* const part : {"thaw  shop", "  slow ", "  growing ", "Latency bottlenecks", "Background waits",
                                   "Memory hot spots", "Where the time goes", "Slowest invocation", "note ", "lost "}) {
        std::size_t const at = report.find(part);
        BOOST_REQUIRE_MESSAGE(at != std::string::npos, part);
        BOOST_TEST(at >= last, part);
        last = at;
    }
}

BOOST_AUTO_TEST_CASE(a_wait_of_a_tenth_of_its_handler_is_slow_and_less_is_not) {
    sample_profile b = one_handler();
    b.node(1, site_kind::wait, "db.query", ramp(10, 10'000'000, 0));
    BOOST_TEST(has(to_string(b.p), "slow     10 % of checkout's time waits in db.query (p95 10.0 ms)"));
    sample_profile c = one_handler();
    c.node(1, site_kind::wait, "db.query", ramp(10, 9'900'000, 0));
    BOOST_TEST(!has(to_string(c.p), "  slow"));
    BOOST_TEST(has(to_string(c.p), "busy     90 % of checkout's time is spent in checkout itself"));
}

BOOST_AUTO_TEST_CASE(each_handler_is_judged_by_its_own_waits) {
    sample_profile b = one_handler();
    auto const refund = b.node(0, site_kind::handler, "refund", ramp(2, 10'000'000, 0));
    auto const rules = b.node(refund, site_kind::scope, "rules", ramp(2, 9'000'000, 0));
    b.node(1, site_kind::wait, "db.query", ramp(10, 50'000'000, 0));
    b.node(rules, site_kind::wait, "db.query", ramp(2, 8'000'000, 0));
    std::string const report = to_string(b.p);
    BOOST_TEST(has(report, "50 % of checkout's time waits in db.query (p95 50"));
    BOOST_TEST(has(report, "80 % of refund's time waits in db.query (p95 8.00 ms)"));
    BOOST_TEST(report.find("of checkout's") < report.find("of refund's"));
}

BOOST_AUTO_TEST_CASE(the_p95_of_a_wait_is_over_all_its_nodes) {
    sample_profile b = one_handler();
    auto const x = b.node(1, site_kind::scope, "x", ramp(1, 500'000'000, 0));
    b.node(1, site_kind::wait, "lock", ramp(95, 32, 0));
    b.node(x, site_kind::wait, "lock", ramp(5, 60, 0));
    std::string const line = line_with(to_string(b.p), "  lock ");
    BOOST_TEST(has(line, "100  32 ns  32 ns  60 ns  60 ns  3.34 us"), line);
}

BOOST_AUTO_TEST_CASE(a_wait_inside_a_wait_counts_once) {
    sample_profile b = one_handler();
    auto const outer = b.node(1, site_kind::wait, "outer", ramp(1, 500'000'000, 0));
    b.node(outer, site_kind::wait, "inner", ramp(1, 400'000'000, 0));
    std::string const report = to_string(b.p);
    BOOST_TEST(has(line_with(report, "  outer"), "50 %"));
    std::string const tables = report.substr(0, report.find("Where the time goes"));
    BOOST_TEST(!has(tables, "inner"));
}

BOOST_AUTO_TEST_CASE(waits_outside_invocations_are_background) {
    sample_profile b = one_handler();
    auto const background = b.node(0, site_kind::background, "[background]", {});
    b.node(background, site_kind::wait, "queue.pop", ramp(1, 3'600'000'000'000, 0));
    std::string const report = to_string(b.p);
    BOOST_TEST(has(report, "Background waits"));
    BOOST_TEST(!has(report, "Latency bottlenecks"));
    BOOST_TEST(!has(report, "  slow"));
    BOOST_TEST(report.find("\ncheckout") < report.find("\n[background]"));
}

BOOST_AUTO_TEST_CASE(busy_is_the_largest_time_of_a_scope_itself) {
    sample_profile b = one_handler();
    auto const rules = b.node(1, site_kind::scope, "price.rules", ramp(10, 80'000'000, 0));
    b.node(rules, site_kind::wait, "db.query", ramp(10, 19'000'000, 0));
    std::string const report = to_string(b.p);
    BOOST_TEST(has(report, "busy     61 % of checkout's time is spent in price.rules itself\n"));
    BOOST_TEST(has(report, "how much of it is CPU was not sampled"));
}

BOOST_AUTO_TEST_CASE(growth_is_counted_from_the_end_of_the_first_invocation) {
    sample_profile b = one_handler(11);
    b.memory("cart.lines", 11, 11 * 2048).baseline_live_bytes = 2048;
    b.memory("cache", 1, 1 << 20).baseline_live_bytes = 1 << 20;
    std::string const report = to_string(b.p);
    BOOST_TEST(has(report, "growing  cart.lines gains 2.00 KiB an invocation (+20.0 KiB since the first; a verdict needs"));
    BOOST_TEST(!has(report, "cache gains"));
    BOOST_TEST(has(line_with(report, "  cache"), "steady"));
    b.p.window.invocations = 400;
    BOOST_TEST(!has(to_string(b.p), "a verdict needs"));
}

BOOST_AUTO_TEST_CASE(each_instance_of_a_merged_profile_has_a_first_invocation) {
    sample_profile b = one_handler(22);
    b.p.window.cold = 2;
    b.memory("cart.lines", 22, 22 * 2048).baseline_live_bytes = 2 * 2048;
    BOOST_TEST(has(to_string(b.p), "gains 2.00 KiB an invocation (+40.0 KiB since"));
}

BOOST_AUTO_TEST_CASE(one_invocation_proves_no_growth) {
    sample_profile b = one_handler(1);
    b.memory("cart.lines", 11, 11 * 2048);
    std::string const report = to_string(b.p);
    BOOST_TEST(!has(report, "growing"));
    BOOST_TEST(line_with(report, "  cart.lines").ends_with(" -"));
}

BOOST_AUTO_TEST_CASE(a_few_bytes_are_no_verdict_but_in_the_table) {
    sample_profile b = one_handler(11);
    b.memory("names", 11, 110).baseline_live_bytes = 10;
    std::string const report = to_string(b.p);
    BOOST_TEST(!has(report, "growing"));
    BOOST_TEST(line_with(report, "  names").ends_with("+10 B"));
}

BOOST_AUTO_TEST_CASE(where_nothing_is_notable_it_says_so) {
    sample_profile b = one_handler();
    for (char const* const name : {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"})
        b.node(1, site_kind::scope, name, ramp(10, 9'000'000, 0));
    std::string const report = to_string(b.p);
    BOOST_TEST(has(report, "nothing stands out"));
    BOOST_TEST(!has(report, "note "));
    BOOST_TEST(has(report, "\nnothing was lost\n"));
}

BOOST_AUTO_TEST_CASE(the_tree_is_sorted_by_total_and_indented_by_depth) {
    sample_profile b = one_handler();
    auto const small = b.node(1, site_kind::scope, "small", {10'000'000});
    auto const large = b.node(1, site_kind::scope, "large", {500'000'000});
    b.node(small, site_kind::scope, "small.part", {9'000'000});
    b.node(large, site_kind::scope, "large.part", {5'000'000});
    b.node(large, site_kind::scope, "large.rest", {6'000'000});
    std::string const report = to_string(b.p);
    std::size_t last = 0;
    for (char const* const part :
         {"\ncheckout", "\n  large ", "\n    large.rest", "\n    large.part", "\n  small ", "\n    small.part"}) {
        std::size_t const at = report.find(part);
        BOOST_REQUIRE_MESSAGE(at != std::string::npos, part);
        BOOST_TEST(at > last, part);
        last = at;
    }
    BOOST_TEST(has(line_with(report, "  large "), "  500 ms   489 ms"));
}

BOOST_AUTO_TEST_CASE(what_is_cut_is_the_least_and_is_counted) {
    sample_profile b = one_handler();
    for (std::uint64_t i = 1; i <= 50; ++i) {
        auto const n = b.node(1, site_kind::scope, "n" + std::to_string(i) + ".", {i * 1'000'000});
        b.node(n, site_kind::scope, "part" + std::to_string(i) + ".", {i * 100'000});
    }
    std::string const report = text_report{.max_rows = 41}.format(b.p);
    BOOST_TEST(has(report, "n11."));
    BOOST_TEST(!has(report, "n10."));
    BOOST_TEST(!has(report, "part"));
    // 10 scopes with their parts (55 ms, the parts being in it) and 40 parts of scopes that are shown (122 ms).
    BOOST_TEST(has(report, "  60 lines with 177 ms left out"), report);
    BOOST_TEST(!has(text_report{.max_rows = 101}.format(b.p), "left out"));
    BOOST_TEST(has(text_report{.max_rows = 100}.format(b.p), "  1 line with 100 us left out"));
    BOOST_TEST(has(text_report{.max_depth = 1}.format(b.p), "  100 lines with 1.27 s left out"));
}

BOOST_AUTO_TEST_CASE(a_child_that_outranks_its_parent_brings_it_along) {
    sample_profile b = one_handler();
    auto const open = b.node(1, site_kind::scope, "open.parent", {});
    b.p.nodes[open].calls = b.p.nodes[open].open = 1;
    b.node(open, site_kind::scope, "child", {900'000'000});
    b.node(1, site_kind::scope, "other", {100'000'000});
    std::string const report = text_report{.max_rows = 3}.format(b.p);
    BOOST_TEST(has(report, "\n  open.parent (1 open)"));
    BOOST_TEST(has(report, "\n    child"));
    BOOST_TEST(!has(report, "other "));
}

BOOST_AUTO_TEST_CASE(an_estimate_is_marked_and_explained) {
    sample_profile b = one_handler();
    auto const mix = b.node(1, site_kind::scope, "mix", ramp(100, 1'000'000, 0));
    b.p.nodes[mix].calls = 6400;
    b.p.nodes[mix].total_error_ns = 3'000'000;
    std::string const report = to_string(b.p);
    BOOST_TEST(has(line_with(report, "  mix "), "6400  ~100 ms  ~100 ms"));
    BOOST_TEST(has(line_with(report, "checkout  "), "  1.00 s  ~900 ms"));
    BOOST_TEST(has(report, "busy     ~90 %"));
    BOOST_TEST(has(report, "note  ~ is estimated"));
    BOOST_TEST(has(report, "3.0 %"));
    BOOST_TEST(!has(to_string(one_handler().p), "~"));
}

BOOST_AUTO_TEST_CASE(counted_but_untimed_nodes_show_no_times) {
    sample_profile b;
    b.node(0, site_kind::handler, "checkout", {});
    b.p.nodes[1].calls = 12;
    std::string const report = to_string(b.p);
    BOOST_TEST(has(line_with(report, "checkout "), "12      -     -    -    -    -    -"), report);
    BOOST_TEST(has(report, "note  - in the tree: counted, but not timed"));
}

BOOST_AUTO_TEST_CASE(open_failed_and_waiting_nodes_are_marked) {
    sample_profile b = one_handler();
    auto const wait = b.node(1, site_kind::wait, "db.query", {1000});
    b.p.nodes[wait].open = 2;
    b.p.nodes[wait].errors = 3;
    std::string const report = to_string(b.p);
    BOOST_TEST(has(report, "db.query (wait, 2 open, 3 failed)"));
    BOOST_TEST(has(report, "note  open: "));
}

BOOST_AUTO_TEST_CASE(the_slowest_invocation_shows_what_it_spent_outside_its_parts) {
    thaw::profile p = quickstart_like();
    p.slowest.failed = p.slowest.truncated = true;
    std::string const report = to_string(p);
    std::string const part = report.substr(report.find("Slowest invocation"));
    BOOST_TEST(has(part, "checkout  206 ms  97 % waiting"));
    BOOST_TEST(has(part, "failed"));
    BOOST_TEST(has(part, "further parts were not recorded"));
    BOOST_TEST(has(line_with(part, "  db.query (wait)"), "201 ms    97 %"));
    BOOST_TEST(has(line_with(part, "  price.rules"), "1.59 ms")); // 3.828 - 2.240
    p.slowest.handler_site = thaw::no_index;
    BOOST_TEST(!has(to_string(p), "Slowest"));
}

BOOST_AUTO_TEST_CASE(every_loss_is_told) {
    using losses = thaw::profile_losses;
    std::vector<std::uint64_t losses::*> const all = {
        &losses::overflow_entries, &losses::overflow_durations, &losses::overflow_sites,
        &losses::overflow_names,   &losses::overflow_threads,   &losses::mismatched_scopes,
        &losses::torn_nodes,       &losses::reports_put_off,    &losses::reports_failed};
    BOOST_TEST(all.size() * sizeof(std::uint64_t) == sizeof(losses));
    std::vector<std::string> told;
    for (auto const member : all) {
        thaw::profile p;
        p.losses.*member = 4711;
        std::string const report = to_string(p);
        BOOST_TEST(!has(report, "nothing was lost"));
        std::string const line = line_with(report, "4711");
        BOOST_TEST(line.starts_with("lost  "), line);
        for (std::string const& other : told) BOOST_TEST(line != other);
        told.push_back(line);
    }
    BOOST_TEST(has(to_string(thaw::profile()), "nothing was lost"));
}

BOOST_AUTO_TEST_CASE(the_header_tells_what_failed_and_what_runs) {
    sample_profile b = one_handler();
    b.p.window.errors = 2;
    b.p.window.open = 1;
    b.p.cost.recording_ns = b.p.cost.collecting_ns = b.p.cost.reporting_ns = 1'000'000;
    std::string const report = to_string(b.p);
    BOOST_TEST(has(report, "thaw  10 invocations (1 cold, 2 failed, 1 running)  1.00 s active  own cost 0.30 %\n"), report);
}

BOOST_AUTO_TEST_CASE(a_hostile_name_cannot_break_the_layout) {
    std::vector<std::string> const names = {"",
                                            "\x1b[2J\x1b[1;31mred",
                                            "two\nlines\r\nand\ttabs",
                                            std::string("nul\0nul", 7),
                                            "\xff\xfe\xc0\x80",
                                            "\xe2\x80\xae"
                                            "evil",
                                            "\xc2\x9b"
                                            "31m",
                                            "\x1b]0;title\x07",
                                            std::string(100'000, 'x'),
                                            std::string(5'000, '\x01'),
                                            "  lots of blanks  ",
                                            "\xe4\xbe\xa1\xe6\xa0\xbc\xe4\xbe\xa1\xe6\xa0\xbc\xe4\xbe\xa1\xe6\xa0\xbc\xe4"
                                            "\xbe\xa1\xe6\xa0\xbc\xe4\xbe\xa1\xe6\xa0\xbc",
                                            "e\xcc\x81\xcc\x82\xcc\x83\xcc\x84\xcc\x85\xcc\x86\xcc\x87\xcc\x88",
                                            "</script>\"'`$(rm -rf)",
                                            "%s%n%d",
                                            "cut \xe2\x82"};
    for (std::string const& name : names) {
        thaw::profile p = quickstart_like();
        for (thaw::profile_site& s : p.sites) s.name = s.function = s.file = name;
        p.identity = {name, name, name, name, name, name, 1, 1};
        p.slowest.request_id = name;
        for (std::size_t const width : {40u, 41u, 60u, 80u, 100u, 200u})
            check_layout(text_report{.width = width}.format(p), width);
    }
}

BOOST_AUTO_TEST_CASE(long_names_keep_both_ends_and_columns_stay_aligned) {
    thaw::profile p = quickstart_like();
    p.sites[p.nodes[2].site].name = "first" + std::string(200, '.') + "last";
    std::string const report = to_string(p);
    std::string const line = line_with(report, "  first.....");
    BOOST_TEST(has(line, "\xe2\x80\xa6"));
    BOOST_TEST(has(line, ".last"));
    std::string const other = line_with(report, "  parse ");
    auto const column = [](std::string const& s, std::string const& part) {
        return thaw::report::columns_of(s.substr(0, s.find(part) + part.size()));
    };
    BOOST_TEST(column(line, "3.83 ms") == column(other, " 446 us"));
}

BOOST_AUTO_TEST_CASE(every_width_is_kept) {
    thaw::profile const p = quickstart_like();
    for (std::size_t width = 40; width < 160; ++width) check_layout(text_report{.width = width}.format(p), width);
    check_layout(text_report{.width = 1}.format(p), 40);
    check_layout(text_report{.width = SIZE_MAX}.format(p), SIZE_MAX);
}

BOOST_AUTO_TEST_CASE(the_more_important_columns_stay_in_a_narrow_terminal) {
    std::string const report = text_report{.width = 60}.format(quickstart_like());
    std::string const titles = line_with(report, "Where the time goes");
    for (char const* const kept : {"calls", "total", "self", "p95"}) BOOST_TEST(has(titles, kept), titles);
    BOOST_TEST(!has(titles, "p99"));
}

BOOST_AUTO_TEST_CASE(profiles_without_content_have_a_report) {
    thaw::profile p;
    check_layout(to_string(p), 100);
    BOOST_TEST(has(to_string(p), "thaw  0 invocations  0 ns active  own cost 0 ns\n\n  no invocation has ended yet\n"));
    check_layout(to_string(sample_profile().p), 100);
    p.sites.resize(1);
    p.nodes.resize(1); // a scope as the root
    p.nodes[0].calls = 1;
    BOOST_TEST(has(to_string(p), "\n(unnamed) "));
    check_layout(to_string(p), 100);
    p.memory.resize(1);
    p.slowest.handler_site = 0;
    check_layout(to_string(p), 100);
    check_layout(text_report{.max_rows = 0, .max_depth = 0, .max_sites = 0}.format(quickstart_like()), 100);
}

BOOST_AUTO_TEST_CASE(figures_of_any_size_are_written) {
    std::mt19937_64 random(4711);
    std::vector<std::uint64_t> const extremes = {0,         1, 999, 1ull << 53, 1ull << 63, (1ull << 63) - 1, UINT64_MAX - 1,
                                                 UINT64_MAX};
    auto const any = [&] { return random() % 3 == 0 ? random() >> (random() % 64) : extremes[random() % extremes.size()]; };
    for (int round = 0; round < 300; ++round) {
        thaw::profile p = quickstart_like();
        for (auto& n : p.nodes)
            for (auto const member :
                 {&thaw::profile_node::calls, &thaw::profile_node::open, &thaw::profile_node::timed,
                  &thaw::profile_node::total_ns, &thaw::profile_node::total_error_ns, &thaw::profile_node::max_ns,
                  &thaw::profile_node::errors, &thaw::profile_node::allocations, &thaw::profile_node::allocated_bytes})
                n.*member = any();
        for (auto& b : p.buckets) b.count = any();
        for (auto& m : p.memory) {
            m.allocations = any();
            m.allocated_bytes = any();
            m.frees = any();
            m.freed_bytes = any();
            m.baseline_live_bytes = static_cast<std::int64_t>(any());
        }
        p.window = {any(), any(), any(), any(), any(), any(), any(), any(), any(), any(), true};
        p.losses = {any(), any(), any(), any(), any(), any(), any(), any(), any()};
        p.cost = {any(), any(), any(), any(), any()};
        p.slowest.wall_ns = any();
        p.slowest.wait_ns = any();
        for (auto& part : p.slowest.parts) part.total_ns = any();
        for (std::size_t const width : {40u, 100u}) {
            std::string const report = text_report{.width = width}.format(p);
            for (std::string const& line : lines_of(report))
                BOOST_REQUIRE_MESSAGE(thaw::report::columns_of(line) <= width, line);
        }
    }
}

BOOST_AUTO_TEST_CASE(any_tree_is_written_with_every_node_once) {
    std::mt19937 generator(42);
    auto const random = [&generator] { return static_cast<std::uint32_t>(generator()); };
    for (int round = 0; round < 50; ++round) {
        sample_profile b;
        std::uint32_t const count = random() % 60;
        for (std::uint32_t i = 1; i <= count; ++i)
            b.node(random() % i, static_cast<site_kind>(random() % 6), "n" + std::to_string(i) + ".",
                   {random() % 1000, random() % 1000});
        std::string const report = text_report{.width = 400, .max_rows = 1000, .max_depth = 1000}.format(b.p);
        std::string const tree = report.substr(std::min(report.find("Where the time goes"), report.size()));
        for (std::uint32_t i = 1; i <= count; ++i) {
            std::string const name = " n" + std::to_string(i) + ".";
            std::size_t const at =
                (" " + tree).find(name) == std::string::npos ? tree.find("\n" + name.substr(1)) : tree.find(name);
            BOOST_REQUIRE_MESSAGE(at != std::string::npos, name);
            BOOST_REQUIRE(tree.find(name, at + 1) == std::string::npos);
        }
        check_layout(text_report{.width = 50, .max_rows = 7}.format(b.p), 50);
    }
}

BOOST_AUTO_TEST_CASE(a_tree_of_a_hundred_thousand_levels_is_written) {
    sample_profile b = one_handler();
    auto const site = b.site(site_kind::scope, "deep");
    for (std::uint32_t i = 1; i < 100'000; ++i) {
        thaw::profile_node n;
        n.site = site;
        n.parent = i;
        n.calls = 1;
        b.p.nodes.push_back(n);
    }
    check_layout(to_string(b.p), 100);
    check_layout(text_report{.max_rows = 1'000, .max_depth = SIZE_MAX}.format(b.p), 100);
}

BOOST_AUTO_TEST_CASE(a_file_gets_a_hundred_columns_and_no_colours) {
    thaw::profile const p = quickstart_like();
    BOOST_TEST((in_a_file({}, p) == to_string(p)));
    BOOST_TEST(has(in_a_file({.colours = text_report::colour::always}, p), "\x1b[1m"));
}

BOOST_AUTO_TEST_CASE(a_terminal_gets_its_width_and_colours) {
    unsetenv("NO_COLOR");
    setenv("TERM", "xterm", 1);
    thaw::profile const p = quickstart_like();
    std::string const report = on_a_terminal({}, p);
    BOOST_TEST((report == text_report{.width = 57, .colours = text_report::colour::always}.format(p)));
    BOOST_TEST((on_a_terminal({.colours = text_report::colour::never}, p) == text_report{.width = 57}.format(p)));
}

BOOST_AUTO_TEST_CASE(colours_are_off_where_the_environment_says_so) {
    thaw::profile const p = quickstart_like();
    setenv("TERM", "xterm", 1);
    setenv("NO_COLOR", "1", 1);
    BOOST_TEST(!has(on_a_terminal({}, p), "\x1b"));
    setenv("NO_COLOR", "", 1);
    BOOST_TEST(has(on_a_terminal({}, p), "\x1b"));
    unsetenv("NO_COLOR");
    setenv("TERM", "dumb", 1);
    BOOST_TEST(!has(on_a_terminal({}, p), "\x1b"));
    setenv("TERM", "xterm", 1);
}

BOOST_AUTO_TEST_CASE(colours_change_nothing_but_colours) {
    thaw::profile const p = quickstart_like();
    std::string coloured = text_report{.colours = text_report::colour::always}.format(p);
    std::string plain;
    for (std::size_t i = 0; i < coloured.size(); ++i) {
        if (coloured[i] == '\x1b')
            i = coloured.find('m', i);
        else
            plain += coloured[i];
    }
    BOOST_TEST((plain == to_string(p)));
}

BOOST_AUTO_TEST_CASE(errno_is_kept_and_a_failing_stream_is_no_matter) {
    thaw::profile const p = quickstart_like();
    std::FILE* const full = std::fopen("/dev/full", "w");
    BOOST_REQUIRE(full != nullptr);
    errno = 4711;
    text_report{}(p, full);
    BOOST_TEST(errno == 4711);
    std::fclose(full);
}

BOOST_AUTO_TEST_SUITE_END()
