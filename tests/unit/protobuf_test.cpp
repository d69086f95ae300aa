#include <thaw/report/protobuf.hpp>

#include "pprof_reader.hpp"

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

using thaw::report::protobuf_writer;
using thaw::testing::read_fields;
using thaw::testing::read_packed;

BOOST_AUTO_TEST_SUITE(protobuf)

BOOST_AUTO_TEST_CASE(the_examples_of_the_format_come_out_byte_by_byte) {
    protobuf_writer w;
    w.number(1, 150);
    w.bytes(2, "testing", 7);
    auto const nested = w.begin(3);
    w.number(1, 150);
    w.end(nested);
    auto const packed = w.begin(6);
    std::uint64_t const values[] = {3, 270, 86942};
    w.values(3, [&](std::size_t i) { return values[i]; });
    w.end(packed);
    BOOST_TEST(w.take() == std::string("\x08\x96\x01\x12\x07testing\x1a\x03\x08\x96\x01\x32\x06\x03\x8e\x02\x9e\xa7\x05", 25));
}

BOOST_AUTO_TEST_CASE(numbers_of_every_size_come_back) {
    std::vector<std::uint64_t> numbers = {UINT64_MAX, INT64_MAX};
    for (unsigned bit = 0; bit < 64; ++bit)
        for (std::uint64_t const n : {1ull << bit, (1ull << bit) - 1, (1ull << bit) + 1}) numbers.push_back(n);
    protobuf_writer w;
    auto const list = w.begin(1);
    w.values(numbers.size(), [&](std::size_t i) { return numbers[i]; });
    w.end(list);
    for (std::uint64_t const n : numbers) w.number(2000, n);
    auto const fields = read_fields(w.take());
    BOOST_TEST((read_packed(fields.at(0).bytes) == numbers));
    std::size_t at = 1;
    for (std::uint64_t const n : numbers) {
        if (n == 0) continue; // as if it were missing
        BOOST_REQUIRE_EQUAL(fields.at(at).number, 2000u);
        BOOST_REQUIRE_EQUAL(fields.at(at).value, n);
        ++at;
    }
    BOOST_TEST(at == fields.size());
}

BOOST_AUTO_TEST_CASE(nested_messages_of_every_length_come_back) {
    for (std::size_t const size : {0u, 1u, 126u, 127u, 128u, 129u, 16382u, 16383u, 16384u, 16385u, 2097151u, 2097152u}) {
        std::string const content(size, 'x');
        protobuf_writer w;
        auto const outer = w.begin(1);
        auto const inner = w.begin(2);
        w.bytes(3, content.data(), content.size());
        w.end(inner);
        w.number(4, 5);
        w.end(outer);
        w.number(6, 7);
        auto const fields = read_fields(w.take());
        BOOST_REQUIRE_EQUAL(fields.size(), 2u);
        auto const outer_fields = read_fields(fields[0].bytes);
        BOOST_REQUIRE_EQUAL(outer_fields.size(), 2u);
        BOOST_TEST((read_fields(outer_fields[0].bytes).at(0).bytes == content));
        BOOST_TEST(outer_fields[1].value == 5u);
        BOOST_TEST(fields[1].value == 7u);
    }
}

BOOST_AUTO_TEST_CASE(random_trees_of_messages_come_back) {
    std::mt19937 random(7);
    for (int round = 0; round < 300; ++round) {
        protobuf_writer w;
        std::vector<protobuf_writer::mark> open;
        std::string said; // ( and ) for messages, n for numbers, b for bytes
        for (int step = 0; step < 200; ++step) switch (random() % 4) {
            case 0:
                open.push_back(w.begin(1));
                said += '(';
                break;
            case 1:
                if (open.empty()) break;
                w.end(open.back());
                open.pop_back();
                said += ')';
                break;
            case 2:
                w.number(2, 1 + (std::uint64_t{random()} << random() % 32));
                said += 'n';
                break;
            default:
                w.bytes(3, std::string(random() % 90, 'y').data(), 0);
                said += 'b';
            }
        for (; !open.empty(); open.pop_back()) {
            w.end(open.back());
            said += ')';
        }
        auto const spell = [](auto const& self, std::string const& message) -> std::string {
            std::string r;
            for (auto const& f : read_fields(message))
                r += f.number == 1 ? "(" + self(self, f.bytes) + ")" : f.number == 2 ? "n" : "b";
            return r;
        };
        BOOST_REQUIRE_EQUAL(spell(spell, w.take()), said);
    }
}

BOOST_AUTO_TEST_CASE(a_writer_that_was_taken_from_starts_anew) {
    protobuf_writer w;
    BOOST_TEST(w.take().empty());
    w.number(1, 2);
    BOOST_TEST(w.size() == 2u);
    BOOST_TEST(w.take() == "\x08\x02");
    BOOST_TEST(w.size() == 0u);
    w.bytes(1, nullptr, 0);
    w.append("\x10\x03", 2);
    BOOST_TEST(w.take() == std::string("\x0a\0\x10\x03", 4));
}

BOOST_AUTO_TEST_SUITE_END()
