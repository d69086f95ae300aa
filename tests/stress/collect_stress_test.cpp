// Three threads record as fast as they can while another makes one profile after the other: every profile must be one that
// could have been true, and the last one exact. THAW_TEST_LONG=1: for a minute.
#include <thaw/probe/containers.hpp>
#include <thaw/thaw.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace core = thaw::core;

namespace {

std::chrono::milliseconds run_time() {
    char const* const set = std::getenv("THAW_TEST_LONG");
    return std::chrono::milliseconds(set != nullptr && std::string(set) == "1" ? 60'000 : 2'500);
}

std::uint64_t spin(std::uint64_t x, unsigned turns) {
    for (unsigned i = 0; i < turns; ++i) x = x * 6364136223846793005u + 1442695040888963407u;
    return x;
}

// What a recorder has done, by the names of its sites.
struct done {
    std::uint64_t invocations = 0, failed = 0, scopes = 0, recursive = 0, waits = 0, background = 0, allocations = 0;
};

std::uint64_t recurse(unsigned depth, std::uint64_t x, done& d) {
    THAW_SCOPE("recursive");
    ++d.recursive;
    return depth == 0 ? spin(x, 3) : recurse(depth - 1, x, d);
}

void invocation_of(std::uint64_t i, done& d) {
    THAW_HANDLER("handler");
    ++d.invocations;
    if (i % 5000 == 4999) thaw::fail(), ++d.failed; // its report is made here, by the recorder
    for (unsigned k = 0; k < 20; ++k) {
        THAW_SCOPE("short");
        ++d.scopes;
        if (k % 4 == 0) {
            THAW_SCOPE("longer");
            ++d.scopes;
            spin(i, static_cast<unsigned>(i + k) % 1000);
        }
    }
    recurse(static_cast<unsigned>(i % 8), i, d);
    for (unsigned k = 0; k < 3; ++k) {
        THAW_WAIT("wait");
        ++d.waits;
        if ((i + k) % 257 == 0) std::this_thread::yield();
    }
    {
        THAW_SCOPE("allocates");
        ++d.scopes;
        thaw::vector<std::uint64_t> numbers{THAW_ALLOCATOR("numbers")};
        numbers.reserve(i % 100 + 1);
        ++d.allocations;
        thaw::list<int> list{THAW_ALLOCATOR("list")};
        list.assign(3, 7);
        d.allocations += 3;
    }
}

void record_until(std::atomic<bool> const& stop, std::uint64_t seed, done& d) {
    for (std::uint64_t i = seed; !stop.load(std::memory_order_relaxed); ++i) {
        invocation_of(i, d);
        THAW_SCOPE("between");
        ++d.background;
        thaw::string text{THAW_ALLOCATOR("text")};
        text.assign(100, 'x');
        ++d.allocations;
        if (i % 1000 == 0) std::this_thread::yield();
    }
}

// Judges profiles. Called under the agent's report lock, by whichever thread reports.
class judge {
public:
    void operator()(thaw::profile const& p) {
        ++m_profiles;
        if (p.losses.torn_nodes != 0) { // says of itself that some figures are not of one moment
            ++m_torn_profiles;
            m_torn_nodes += p.losses.torn_nodes;
            m_has_last = false;
            return;
        }
        check(p.identity.sequence == m_profiles, "the sequence counts profiles");
        check(p.losses.overflow_entries + p.losses.overflow_durations + p.losses.overflow_sites + p.losses.overflow_names +
                      p.losses.overflow_threads + p.losses.mismatched_scopes + p.losses.reports_failed == 0, "nothing is lost");
        std::map<std::string, std::uint64_t> now;
        std::vector<std::string> paths;
        for (auto const& n : p.nodes) {
            paths.push_back((n.parent == thaw::no_index ? "" : paths[n.parent] + "/") + p.name_of(n));
            figures(p, n, paths.back(), now);
        }
        for (auto const& m : p.memory) {
            std::string const& name = p.sites[m.site].name;
            check(m.live_bytes() >= 0 && m.live_blocks() >= 0, "what was freed had been allocated: " + name);
            now[name + " allocations"] = m.allocations;
            now[name + " allocated"] = m.allocated_bytes;
            now[name + " frees"] = m.frees;
            now[name + " freed"] = m.freed_bytes;
        }
        now["window invocations"] = p.window.invocations;
        now["window wall"] = p.window.wall_ns;
        now["window waits"] = p.window.wait_ns;
        now["window errors"] = p.window.errors;
        now["window active"] = p.window.active_ns;
        for (auto const& [name, value] : m_last)
            check(now[name] >= value, "figures never decrease: " + name + " from " + std::to_string(value) + " to " + std::to_string(now[name]));
        m_last = std::move(now);
        m_has_last = true;
    }

    std::uint64_t profiles() const { return m_profiles; }
    std::uint64_t torn_profiles() const { return m_torn_profiles; }
    std::uint64_t torn_nodes() const { return m_torn_nodes; }
    std::uint64_t faults() const { return m_faults; }
    std::vector<std::string> const& first_faults() const { return m_first_faults; }
    std::map<std::string, std::uint64_t> const& last() const { return m_last; }
    bool has_last() const { return m_has_last; }

private:
    void check(bool holds, std::string const& what) {
        if (holds) return;
        ++m_faults;
        if (m_first_faults.size() < 20) m_first_faults.push_back("profile " + std::to_string(m_profiles) + ": " + what);
    }

    void figures(thaw::profile const& p, thaw::profile_node const& n, std::string const& path, std::map<std::string, std::uint64_t>& now) {
        std::uint64_t counted = 0, least = 0, most = 0, top = 0;
        for (auto const& b : p.durations_of(n)) {
            check(b.count > 0 && (counted == 0 || b.index > top), "buckets ascend: " + path);
            counted += b.count;
            least += b.count * core::bucket_lower_ns(b.index);
            most += b.count * (core::bucket_upper_ns(b.index) + 1); // each was rounded down to a nanosecond
            top = b.index;
            now[path + " bucket " + std::to_string(b.index)] = b.count;
        }
        auto const kind = p.site_of(n).kind;
        if (kind == thaw::site_kind::scope || kind == thaw::site_kind::wait || kind == thaw::site_kind::handler) {
            check(counted == n.timed, "the buckets hold what was timed: " + path + ", " + std::to_string(counted) + " of " + std::to_string(n.timed));
            check(n.timed <= n.calls, "no more is timed than was entered: " + path + ", " + std::to_string(n.timed) + " of " + std::to_string(n.calls));
            check(n.total_ns >= least && n.total_ns <= most, "the total is that of the buckets: " + path + ", " + std::to_string(least) +
                                                                 " <= " + std::to_string(n.total_ns) + " <= " + std::to_string(most));
            check(counted == 0 ? n.max_ns == 0 : core::bucket_of(n.max_ns) == top, "the longest is in the last bucket: " + path);
            check(n.open <= 3, "a node is open once a thread: " + path);
        }
        now[path + " calls"] = n.calls;
        now[path + " timed"] = n.timed;
        now[path + " total"] = n.total_ns;
        now[path + " max"] = n.max_ns;
        now[path + " errors"] = n.errors;
        now[path + " allocations"] = n.allocations;
        now[path + " allocated"] = n.allocated_bytes;
    }

    std::uint64_t m_profiles = 0, m_torn_profiles = 0, m_torn_nodes = 0, m_faults = 0;
    bool m_has_last = false;
    std::map<std::string, std::uint64_t> m_last;
    std::vector<std::string> m_first_faults;
};

}

BOOST_AUTO_TEST_SUITE(collect_stress)

BOOST_AUTO_TEST_CASE(every_profile_made_while_threads_record_could_have_been_true) {
    static judge verdict;
    thaw::options o;
    o.app = "collect_stress";
    o.report_every_ms = 86'400'000;
    o.report_budget_ms = 60'000;
    o.timing = thaw::timing::all;
    o.cpu_time = false; // two system calls an invocation: fewer entries, and nothing of what is tested here
    o.memory_limit_bytes = 64u << 20;
    BOOST_REQUIRE(thaw::start(o, [](thaw::profile const& p) { verdict(p); }));

    std::atomic<bool> stop{false};
    std::array<done, 3> did;
    std::vector<std::thread> recorders;
    for (std::size_t t = 0; t < did.size(); ++t) recorders.emplace_back([&, t] { record_until(stop, t * 1000, did[t]); });
    auto const end = std::chrono::steady_clock::now() + run_time();
    std::uint64_t busy = 0;
    while (std::chrono::steady_clock::now() < end)
        if (!thaw::report_now()) ++busy, std::this_thread::yield(); // a failed invocation's report
    stop = true;
    for (auto& r : recorders) r.join();
    BOOST_REQUIRE(thaw::report_now());

    BOOST_TEST_MESSAGE(verdict.profiles() << " profiles, " << verdict.torn_profiles() << " of them with " << verdict.torn_nodes()
                                          << " torn nodes; " << busy << " times another thread was reporting; "
                                          << did[0].invocations + did[1].invocations + did[2].invocations << " invocations");
    for (std::string const& f : verdict.first_faults()) BOOST_TEST_MESSAGE(f);
    BOOST_TEST(verdict.profiles() > 10u);
    BOOST_TEST(verdict.faults() == 0u);
    BOOST_TEST(verdict.torn_nodes() == 0u);

    // The last profile was made when all had ended, and is exact.
    BOOST_REQUIRE(verdict.has_last());
    done all;
    for (done const& d : did) {
        all.invocations += d.invocations, all.failed += d.failed, all.scopes += d.scopes, all.recursive += d.recursive;
        all.waits += d.waits, all.background += d.background, all.allocations += d.allocations;
    }
    auto const last = [](std::string const& name) {
        auto const it = verdict.last().find(name);
        return it == verdict.last().end() ? 0 : it->second;
    };
    auto const sum = [&last](char const* figure, std::vector<std::string> const& names) {
        std::uint64_t total = 0;
        for (auto const& n : names) total += last(n + figure);
        return total;
    };
    std::string const handler = "process/handler", between = "process/[background]/between";
    std::vector<std::string> const scopes{handler + "/short", handler + "/short/longer", handler + "/allocates"};
    BOOST_TEST(last(handler + " calls") == all.invocations);
    BOOST_TEST(last(handler + " timed") == all.invocations);
    BOOST_TEST(last(handler + " errors") == all.failed);
    BOOST_TEST(last("window invocations") == all.invocations);
    BOOST_TEST(last("window errors") == all.failed);
    BOOST_TEST(sum(" calls", scopes) == all.scopes);
    BOOST_TEST(sum(" timed", scopes) == all.scopes);
    BOOST_TEST(last(handler + "/recursive calls") == all.recursive);
    BOOST_TEST(last(handler + "/recursive timed") == all.invocations);
    BOOST_TEST(last(handler + "/wait calls") == all.waits);
    BOOST_TEST(last(handler + "/wait timed") == all.waits);
    BOOST_TEST(last(between + " calls") == all.background);
    BOOST_TEST(last(between + " timed") == all.background);
    BOOST_TEST(sum(" allocations", {"numbers", "list", "text"}) == all.allocations);
    for (char const* const site : {"numbers", "list", "text"}) {
        BOOST_TEST(sum(" frees", {site}) == sum(" allocations", {site}));
        BOOST_TEST(sum(" freed", {site}) == sum(" allocated", {site}));
    }
}

BOOST_AUTO_TEST_SUITE_END()
