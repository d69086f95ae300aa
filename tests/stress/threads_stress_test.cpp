// Threads start and end under handlers, pass memory and invocations to each other, and are reported every millisecond; at the
// end every figure is what a model says it is. Two seconds, or a minute with THAW_TEST_LONG=1. Under TSan this is a race detector.
#include "../unit/recorded.hpp"

#include <thaw/probe/containers.hpp>

#include <boost/test/unit_test.hpp>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace thaw::testing;

namespace {

// What must be found at the end. Each worker has one of its own and adds it to the sum when it ends.
struct model {
    std::uint64_t invocations = 0, errors = 0, handlers = 0, by_handle = 0;
    std::uint64_t scopes = 0, inner = 0, waits = 0, dynamic = 0, recursive = 0;
    std::uint64_t background = 0, short_threads = 0;
    std::uint64_t lists = 0, list_bytes = 0;

    void add(model const& m) {
        invocations += m.invocations, errors += m.errors, handlers += m.handlers, by_handle += m.by_handle;
        scopes += m.scopes, inner += m.inner, waits += m.waits, dynamic += m.dynamic, recursive += m.recursive;
        background += m.background, short_threads += m.short_threads;
        lists += m.lists, list_bytes += m.list_bytes;
    }
};

// Blocks and invocations on their way from one thread to another.
template <class T>
class exchange {
public:
    void put(T value) {
        std::lock_guard const lock(m_mutex);
        m_values.push_back(std::move(value));
    }
    // The oldest but a few; a default one where there is none.
    T take() {
        std::lock_guard const lock(m_mutex);
        if (m_values.size() < 4) return T{};
        T value = std::move(m_values.front());
        m_values.erase(m_values.begin());
        return value;
    }
    void clear() {
        std::lock_guard const lock(m_mutex);
        m_values.clear();
    }

private:
    std::mutex m_mutex;
    std::vector<T> m_values;
};

using numbers = thaw::vector<int>;

numbers make_numbers(std::size_t n) { return numbers(n, 1, THAW_ALLOCATOR("numbers")); }

void recurse(int depth, model& m) {
    THAW_SCOPE("recursive");
    ++m.recursive;
    if (depth > 0) recurse(depth - 1, m);
}

void step(std::mt19937& random, model& m, exchange<numbers>& blocks) {
    THAW_SCOPE("scope");
    ++m.scopes;
    unsigned const what = random() % 8;
    if (what < 2) {
        THAW_SCOPE("inner");
        ++m.inner;
    } else if (what == 2) {
        THAW_WAIT("wait");
        ++m.waits;
        std::this_thread::yield();
    } else if (what == 3) {
        THAW_SCOPE_DYNAMIC("dynamic." + std::to_string(random() % 5));
        ++m.dynamic;
    } else if (what == 4) {
        recurse(static_cast<int>(random() % 6), m);
    } else {
        std::size_t const n = 1 + random() % 100;
        ++m.lists, m.list_bytes += n * sizeof(int);
        blocks.put(make_numbers(n));
        numbers const of_another = blocks.take();
    }
}

thaw::invocation_handle open_handle() { return THAW_INVOCATION("by.handle"); }

void work(unsigned seed, bool const& over, model& sum, exchange<numbers>& blocks, exchange<thaw::invocation_handle>& invocations) {
    std::mt19937 random(seed);
    model m;
    while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
        switch (random() % 4) {
        case 0:
        case 1: {
            ++m.invocations, ++m.handlers;
            bool const fails = random() % 16 == 0;
            try {
                THAW_HANDLER("handler");
                for (unsigned i = random() % 8; i > 0; --i) step(random, m, blocks);
                if (fails) throw seed;
            } catch (unsigned) {
                ++m.errors;
            }
            break;
        }
        case 2: {  // goes on with another thread's invocation
            thaw::invocation_handle h = invocations.take();
            if (!h) h = open_handle();
            {
                THAW_RESUME(h);
                step(random, m, blocks);
            }
            if (random() % 4 != 0) {
                invocations.put(std::move(h));
            } else {
                h.close();
                ++m.invocations, ++m.by_handle;
            }
            break;
        }
        default: {
            {
                THAW_SCOPE("background");
                ++m.background;
            }
            if (random() % 8 == 0) {
                ++m.short_threads;
                std::thread([&blocks] {
                    THAW_SCOPE("short");
                    numbers const of_another = blocks.take();
                }).join();
            }
        }
        }
    }
    static std::mutex mutex;
    std::lock_guard const lock(mutex);
    sum.add(m);
}

std::uint64_t calls_of(thaw::profile const& p, std::string_view name) {
    std::uint64_t calls = 0;
    for (auto const& n : p.nodes)
        if (p.name_of(n).starts_with(name)) calls += n.calls;
    return calls;
}

// What holds of a profile that was made while others recorded.
void expect_consistent(thaw::profile const& p) {
    for (auto const& n : p.nodes) {
        std::uint64_t const in_buckets = thaw::core::bucket_total(p.durations_of(n).begin(), p.durations_of(n).end());
        EXPECT(n.timed <= n.calls);
        EXPECT_EQUAL(in_buckets, n.timed);
        EXPECT(n.max_ns <= n.total_ns);
    }
    for (auto const& m : p.memory) {
        EXPECT(m.frees <= m.allocations);
        EXPECT(m.freed_bytes <= m.allocated_bytes);
    }
    EXPECT(p.window.errors <= p.window.invocations + 4);
    EXPECT_EQUAL(p.losses.torn_nodes, 0);
}

}

BOOST_AUTO_TEST_SUITE(threads_stress)

BOOST_AUTO_TEST_CASE(totals_are_exact_whatever_threads_do) {
    bool const long_run = std::getenv("THAW_TEST_LONG") != nullptr && std::string_view(std::getenv("THAW_TEST_LONG")) == "1";
    auto const duration = std::chrono::seconds(long_run ? 60 : 2);
    child_result const r = run_in_child(
        [&] {
            static std::uint64_t reports = 0, last_sequence = 0;
            constexpr std::uint64_t memory_limit_bytes = 64u << 20;
            thaw::start({.timing = thaw::timing::all, .report_every_ms = 1, .report_budget_ms = 60'000, .memory_limit_bytes = memory_limit_bytes}, [](thaw::profile const& p) {
                ++reports;
                EXPECT(p.identity.sequence == last_sequence + 1);
                last_sequence = p.identity.sequence;
                expect_consistent(p);
                std::lock_guard const lock(caught_mutex());
                caught().assign(1, p);
            });
            profile_now();
            constexpr unsigned workers = 4;
            bool over = false;
            model expected;
            exchange<numbers> blocks;
            exchange<thaw::invocation_handle> invocations;
            std::vector<std::thread> threads;
            for (unsigned i = 0; i < workers; ++i)
                threads.emplace_back([&, i] { work(i, over, expected, blocks, invocations); });
            auto const end = std::chrono::steady_clock::now() + duration;
            while (std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(20));
            __atomic_store_n(&over, true, __ATOMIC_RELAXED);
            for (auto& t : threads) t.join();
            std::uint64_t const in_between = reports;
            std::uint64_t const open = profile_now().window.open;
            invocations.clear();
            blocks.clear();
            thaw::profile const p = profile_now();
            expect_well_formed(p);
            EXPECT(in_between > 20);
            EXPECT(expected.invocations > 100 && expected.short_threads > 10);
            EXPECT_EQUAL(p.window.invocations, expected.invocations + open);
            EXPECT_EQUAL(p.window.errors, expected.errors);
            EXPECT_EQUAL(p.window.open, 0);
            EXPECT_EQUAL(calls_of(p, "handler"), expected.handlers);
            EXPECT_EQUAL(calls_of(p, "by.handle"), expected.by_handle + open);
            EXPECT_EQUAL(calls_of(p, "scope"), expected.scopes);
            EXPECT_EQUAL(calls_of(p, "inner"), expected.inner);
            EXPECT_EQUAL(calls_of(p, "wait"), expected.waits);
            EXPECT_EQUAL(calls_of(p, "dynamic."), expected.dynamic);
            EXPECT_EQUAL(calls_of(p, "recursive"), expected.recursive);
            EXPECT_EQUAL(calls_of(p, "background"), expected.background);
            EXPECT_EQUAL(calls_of(p, "short"), expected.short_threads);
            EXPECT_EQUAL(memory_at(p, "numbers").allocations, expected.lists);
            EXPECT_EQUAL(memory_at(p, "numbers").allocated_bytes, expected.list_bytes);
            EXPECT_EQUAL(memory_at(p, "numbers").live_bytes(), 0);
            EXPECT_EQUAL(memory_at(p, "numbers").live_blocks(), 0);
            EXPECT_EQUAL(p.losses.mismatched_scopes, 0);
            EXPECT_EQUAL(p.losses.overflow_entries, 0);
            EXPECT_EQUAL(p.losses.overflow_threads, 0);
            EXPECT_EQUAL(p.losses.reports_failed, 0);
            // As many records as threads ran at once, and a state for each invocation that was open at once; beside the table of
            // native stacks, which takes a sixteenth of the limit from the start.
            EXPECT(p.cost.memory_bytes < (2u << 20) + memory_limit_bytes / 16);
        },
        long_run ? 170 : 100);
    BOOST_CHECK_MESSAGE(r.ok(), r.text().substr(0, 4'000));
}

BOOST_AUTO_TEST_SUITE_END()
