#include <thaw/core/histogram.hpp>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace core = thaw::core;

namespace {

// Buckets counted one by one, walking up from 0: what bucket_of computes, without its arithmetic.
std::vector<std::uint64_t> lower_bounds() {
    std::vector<std::uint64_t> lower;
    std::uint64_t value = 0;
    for (; value < 32; ++value) lower.push_back(value);
    for (std::uint64_t width = 1; value <= core::histogram_limit_ns; width *= 2)
        for (int step = 0; step < 32; ++step, value += width) lower.push_back(value);
    return lower;
}

class counted {
public:
    void add(std::uint64_t value_ns, std::uint64_t count = 1) {
        std::uint64_t& c = m_counts[core::bucket_of(value_ns)];
        c = core::saturating_add(c, count);
        m_max = std::max(m_max, value_ns);
    }
    void add(counted const& other) {
        for (auto const& [bucket, count] : other.m_counts) m_counts[bucket] = core::saturating_add(m_counts[bucket], count);
        m_max = std::max(m_max, other.m_max);
    }
    std::vector<core::histogram_bucket> buckets() const {
        std::vector<core::histogram_bucket> b;
        for (auto const& [bucket, count] : m_counts) b.push_back({bucket, count});
        return b;
    }
    std::uint64_t quantile(double q) const {
        auto const b = buckets();
        return core::bucket_quantile_ns(b.data(), b.data() + b.size(), q, m_max);
    }
    std::uint64_t total() const {
        auto const b = buckets();
        return core::bucket_total(b.data(), b.data() + b.size());
    }

private:
    std::map<unsigned, std::uint64_t> m_counts;
    std::uint64_t m_max = 0;
};

// The value of rank ceil(q n), q given in thousandths so that the rank is exact.
std::uint64_t exact_quantile(std::vector<std::uint64_t> const& sorted, std::uint64_t thousandths) {
    std::uint64_t const rank = std::max<std::uint64_t>((sorted.size() * thousandths + 999) / 1000, 1);
    return sorted[rank - 1];
}

}

BOOST_AUTO_TEST_SUITE(histogram)

BOOST_AUTO_TEST_CASE(every_bucket_begins_and_ends_where_counting_up_says) {
    auto const lower = lower_bounds();
    BOOST_REQUIRE_EQUAL(lower.size(), core::histogram_bucket_count);
    for (unsigned b = 0; b < lower.size(); ++b) {
        BOOST_REQUIRE_EQUAL(core::bucket_lower_ns(b), lower[b]);
        std::uint64_t const upper = b + 1 < lower.size() ? lower[b + 1] - 1 : core::histogram_limit_ns;
        BOOST_REQUIRE_EQUAL(core::bucket_upper_ns(b), upper);
        BOOST_REQUIRE_EQUAL(core::bucket_of(lower[b]), b);
        BOOST_REQUIRE_EQUAL(core::bucket_of(upper), b);
        std::uint64_t const middle = core::bucket_middle_ns(b);
        BOOST_REQUIRE(middle >= lower[b] && middle <= upper);
    }
}

BOOST_AUTO_TEST_CASE(around_every_octave_edge_a_value_falls_into_its_bucket) {
    auto const lower = lower_bounds();
    for (unsigned octave = 0; octave < 45; ++octave)
        for (std::uint64_t value = (1ull << octave) - std::min<std::uint64_t>(1ull << octave, 3); value <= (1ull << octave) + 3; ++value) {
            auto const expected = static_cast<unsigned>(std::upper_bound(lower.begin(), lower.end(), value) - lower.begin() - 1);
            BOOST_REQUIRE_EQUAL(core::bucket_of(value), expected);
        }
}

BOOST_AUTO_TEST_CASE(random_values_fall_into_the_bucket_a_search_finds) {
    auto const lower = lower_bounds();
    std::mt19937_64 random(1);
    for (int i = 0; i < 200'000; ++i) {
        std::uint64_t const value = random() >> (19 + random() % 45);
        auto const expected = static_cast<unsigned>(std::upper_bound(lower.begin(), lower.end(), value) - lower.begin() - 1);
        BOOST_REQUIRE_EQUAL(core::bucket_of(value), expected);
    }
}

BOOST_AUTO_TEST_CASE(values_below_64_ns_are_exact) {
    for (std::uint64_t value = 0; value < 64; ++value) {
        BOOST_TEST(core::bucket_of(value) == value);
        BOOST_TEST(core::bucket_middle_ns(static_cast<unsigned>(value)) == value);
    }
}

BOOST_AUTO_TEST_CASE(a_bucket_is_at_most_a_32nd_of_its_lower_bound_wide) {
    for (unsigned b = 32; b < core::histogram_bucket_count; ++b) {
        std::uint64_t const width = core::bucket_upper_ns(b) - core::bucket_lower_ns(b) + 1;
        BOOST_REQUIRE(width * 32 <= core::bucket_lower_ns(b));
    }
}

BOOST_AUTO_TEST_CASE(what_is_beyond_the_limit_counts_in_the_last_bucket) {
    for (std::uint64_t const value : {core::histogram_limit_ns, core::histogram_limit_ns + 1, std::uint64_t{1} << 62, UINT64_MAX})
        BOOST_TEST(core::bucket_of(value) == core::histogram_bucket_count - 1);
}

BOOST_AUTO_TEST_CASE(quantiles_are_within_1_6_percent_of_the_exact_ones) {
    std::mt19937_64 random(2);
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    std::lognormal_distribution<double> lognormal(11.0, 2.5);
    std::exponential_distribution<double> exponential(1e-6);
    struct distribution {
        char const* name;
        std::vector<std::uint64_t> values;
    };
    std::vector<distribution> all{{"uniform", {}}, {"lognormal", {}}, {"exponential", {}}, {"bimodal", {}}, {"pareto", {}},
                                  {"constant", {}}, {"short", {}}};
    for (int i = 0; i < 50'000; ++i) {
        auto const ns = [](double v) { return static_cast<std::uint64_t>(std::min(v, 3e13)); };
        all[0].values.push_back(ns(1e6 + 9e6 * uniform(random)));
        all[1].values.push_back(ns(lognormal(random)));
        all[2].values.push_back(ns(exponential(random)));
        all[3].values.push_back(ns(uniform(random) < 0.94 ? 200 + 50 * uniform(random) : 2e8 + 1e7 * uniform(random)));
        all[4].values.push_back(ns(100.0 / std::pow(1.0 - uniform(random), 1.0 / 1.1)));
        all[5].values.push_back(200'000'000);
        all[6].values.push_back(random() % 100);
    }
    for (auto& d : all) {
        counted h;
        for (std::uint64_t const v : d.values) h.add(v);
        std::sort(d.values.begin(), d.values.end());
        for (std::uint64_t q = 0; q <= 1000; ++q) {
            auto const exact = static_cast<double>(exact_quantile(d.values, q));
            auto const answer = static_cast<double>(h.quantile(static_cast<double>(q) / 1000));
            BOOST_REQUIRE_MESSAGE(std::abs(answer - exact) <= exact / 64,
                                  d.name << " q " << q << ": " << answer << ", exactly " << exact);
        }
    }
}

BOOST_AUTO_TEST_CASE(small_sets_answer_the_value_of_rank_ceil_q_n) {
    for (std::uint64_t n = 1; n <= 60; ++n) { // exact buckets: a rank that is off by one shows
        counted h;
        std::vector<std::uint64_t> sorted;
        for (std::uint64_t i = 0; i < n; ++i) h.add(i), sorted.push_back(i);
        for (std::uint64_t const q : {0u, 1u, 250u, 500u, 900u, 950u, 990u, 999u, 1000u})
            BOOST_REQUIRE_EQUAL(h.quantile(static_cast<double>(q) / 1000), exact_quantile(sorted, q));
    }
}

BOOST_AUTO_TEST_CASE(of_20_waits_the_p95_is_the_19th_and_the_p100_is_the_longest) {
    counted h;
    for (std::uint64_t i = 1; i <= 20; ++i) h.add(i);
    BOOST_TEST(h.quantile(0.95) == 19u);
    BOOST_TEST(h.quantile(0.96) == 20u);
    BOOST_TEST(h.quantile(1.0) == 20u);
}

BOOST_AUTO_TEST_CASE(no_quantile_exceeds_the_longest_value_and_they_never_decrease) {
    std::mt19937_64 random(3);
    for (int round = 0; round < 200; ++round) {
        counted h;
        std::uint64_t longest = 0;
        for (std::uint64_t i = random() % 50 + 1; i > 0; --i) {
            std::uint64_t const value = random() >> (10 + random() % 54);
            h.add(value);
            longest = std::max(longest, value);
        }
        std::uint64_t before = 0;
        for (int q = 0; q <= 100; ++q) {
            std::uint64_t const answer = h.quantile(q / 100.0);
            BOOST_REQUIRE(answer >= before && answer <= longest);
            before = answer;
        }
        BOOST_REQUIRE_EQUAL(h.quantile(1.0), longest);
    }
}

BOOST_AUTO_TEST_CASE(values_at_the_lower_end_of_a_bucket_are_not_answered_with_its_middle) {
    counted h;
    h.add(1 << 20, 2);
    BOOST_TEST(core::bucket_middle_ns(core::bucket_of(1 << 20)) > 1u << 20);
    BOOST_TEST(h.quantile(0.5) == 1u << 20);
}

BOOST_AUTO_TEST_CASE(an_empty_histogram_answers_0) {
    BOOST_TEST(core::bucket_total(nullptr, nullptr) == 0u);
    for (double const q : {0.0, 0.5, 1.0}) BOOST_TEST(core::bucket_quantile_ns(nullptr, nullptr, q, 7) == 0u);
}

BOOST_AUTO_TEST_CASE(merge_is_commutative) {
    std::mt19937_64 random(4);
    counted a, b, both;
    for (int i = 0; i < 1000; ++i) {
        std::uint64_t const x = random() >> (19 + random() % 45), y = random() >> (19 + random() % 45);
        a.add(x), b.add(y), both.add(x), both.add(y);
    }
    counted ab = a, ba = b;
    ab.add(b), ba.add(a);
    BOOST_TEST((ab.buckets() == both.buckets()));
    BOOST_TEST((ba.buckets() == both.buckets()));
    BOOST_TEST(ab.total() == a.total() + b.total());
    BOOST_TEST(ab.quantile(0.95) == both.quantile(0.95));
}

BOOST_AUTO_TEST_CASE(counts_stay_at_the_maximum) {
    BOOST_TEST(core::saturating_add(UINT64_MAX - 1, 1) == UINT64_MAX);
    BOOST_TEST(core::saturating_add(UINT64_MAX, 1) == UINT64_MAX);
    BOOST_TEST(core::saturating_add(UINT64_MAX, UINT64_MAX) == UINT64_MAX);
    BOOST_TEST(core::saturating_add(3, 4) == 7u);
    counted h;
    h.add(1, UINT64_MAX - 10);
    h.add(2, UINT64_MAX - 10);
    h.add(3, 5);
    BOOST_TEST(h.total() == UINT64_MAX);
    h.add(h);
    BOOST_TEST(h.buckets()[0].count == UINT64_MAX);
}

BOOST_AUTO_TEST_CASE(quantiles_of_a_saturated_histogram_stay_in_order) {
    counted h;
    h.add(5, UINT64_MAX - 1);
    h.add(40, 5);
    BOOST_TEST(h.quantile(0.0) == 5u);
    BOOST_TEST(h.quantile(0.5) == 5u);
    BOOST_TEST(h.quantile(1.0) == 40u);
}

BOOST_AUTO_TEST_CASE(bucket_arithmetic_works_at_compile_time) {
    static constexpr core::histogram_bucket buckets[] = {{10, 19}, {20, 1}};
    static_assert(core::bucket_quantile_ns(buckets, buckets + 2, 0.95, 20) == 10);
    static_assert(core::bucket_quantile_ns(buckets, buckets + 2, 1.0, 20) == 20);
    static_assert(core::bucket_total(buckets, buckets + 2) == 20);
    BOOST_TEST(core::bucket_of(200'000'000) == 751u);
}

BOOST_AUTO_TEST_SUITE_END()
