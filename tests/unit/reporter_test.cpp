#include <thaw/profile/reporter.hpp>

#include <boost/test/unit_test.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace {

struct counts_its_life {
    int* alive;
    int* called;

    counts_its_life(int& a, int& c) : alive(&a), called(&c) { ++*alive; }
    counts_its_life(counts_its_life const& o) : alive(o.alive), called(o.called) { ++*alive; }
    ~counts_its_life() { --*alive; }
    void operator()(thaw::profile const&) const { ++*called; }
};

struct takes_both {
    int* which;
    void operator()(thaw::profile const&) const { *which = 1; }
    void operator()(thaw::profile const&, thaw::report_deadline const&) const { *which = 2; }
};

void plain_function(thaw::profile const& p) { BOOST_TEST(p.identity.app == "shop"); }

}

BOOST_AUTO_TEST_SUITE(reporter)

static_assert(thaw::reporter<void (*)(thaw::profile const&)>);
static_assert(thaw::reporter<decltype([](thaw::profile const&) {})>);
static_assert(thaw::reporter<decltype([](thaw::profile const&, thaw::report_deadline const&) {})>);
static_assert(thaw::reporter<decltype([](thaw::profile const&) { return 5; })>, "what it returns is its own business");
static_assert(thaw::reporter<decltype([](auto const&) {})>);
static_assert(thaw::reporter<decltype([n = 0](thaw::profile const&) mutable { return ++n; })>);
static_assert(!thaw::reporter<int>);
static_assert(!thaw::reporter<decltype([](int) {})>);
static_assert(!thaw::reporter<decltype([] {})>);
static_assert(!thaw::reporter<decltype([](thaw::profile&) {})>, "a reporter does not change the profile");

BOOST_AUTO_TEST_CASE(a_default_one_is_empty) {
    thaw::any_reporter const r;
    BOOST_TEST(!r);
}

BOOST_AUTO_TEST_CASE(it_calls_what_it_was_made_from) {
    thaw::profile p;
    p.identity.app = "shop";
    int calls = 0;
    thaw::any_reporter lambda([&](thaw::profile const& given) { calls += given.identity.app == "shop"; });
    lambda(p, {}), lambda(p, {});
    BOOST_TEST(calls == 2);
    thaw::any_reporter pointer(&plain_function);
    pointer(p, {});
    thaw::any_reporter function(plain_function);
    function(p, {});
    thaw::any_reporter stateful([n = 0, &calls](thaw::profile const&) mutable { calls = ++n; });
    stateful(p, {}), stateful(p, {}), stateful(p, {});
    BOOST_TEST(calls == 3);
}

BOOST_AUTO_TEST_CASE(one_that_takes_a_deadline_gets_it) {
    thaw::report_deadline seen;
    thaw::any_reporter r([&](thaw::profile const&, thaw::report_deadline const& d) { seen = d; });
    r({}, {.monotonic_ns = 7, .budget_ns = 9});
    BOOST_TEST(seen.monotonic_ns == 7u);
    BOOST_TEST(seen.budget_ns == 9u);
    int which = 0;
    thaw::any_reporter both(takes_both{&which});
    both({}, {});
    BOOST_TEST(which == 2);
}

BOOST_AUTO_TEST_CASE(it_owns_one_copy_and_destroys_it_once) {
    int alive = 0, called = 0;
    {
        thaw::any_reporter a(counts_its_life(alive, called));
        BOOST_TEST(alive == 1);
        thaw::any_reporter b(std::move(a));
        b({}, {});
        a = thaw::any_reporter(counts_its_life(alive, called));
        BOOST_TEST(alive == 2);
        a = std::move(b);
        a({}, {});
        BOOST_TEST(static_cast<bool>(a));
    }
    BOOST_TEST(alive == 0);
    BOOST_TEST(called == 2);
}

BOOST_AUTO_TEST_CASE(one_that_can_only_be_moved_is_taken) {
    int seen = 0;
    thaw::any_reporter r([value = std::make_unique<int>(5), &seen](thaw::profile const&) { seen = *value; });
    r({}, {});
    BOOST_TEST(seen == 5);
}

BOOST_AUTO_TEST_CASE(what_it_throws_passes_through) {
    thaw::any_reporter r([](thaw::profile const&) { throw std::runtime_error("sink"); });
    BOOST_CHECK_THROW(r({}, {}), std::runtime_error);
}

BOOST_AUTO_TEST_SUITE_END()
