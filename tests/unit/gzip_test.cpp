#include <thaw/report/gzip.hpp>

#include "pprof_reader.hpp"

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <random>
#include <string>

namespace report = thaw::report;

namespace {

// Bit by bit, as the polynomial is defined.
std::uint32_t plain_crc32(std::string const& s) {
    std::uint32_t crc = 0xffffffffu;
    for (char const c : s) {
        crc ^= static_cast<unsigned char>(c);
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

std::string random_bytes(std::mt19937& random, std::size_t size) {
    std::string s(size, '\0');
    for (char& c : s) c = static_cast<char>(random());
    return s;
}

}

BOOST_AUTO_TEST_SUITE(gzip)

BOOST_AUTO_TEST_CASE(the_checksum_is_that_of_the_definition_on_every_way_to_it) {
    BOOST_TEST(report::crc32("123456789", 9) == 0xcbf43926u);
    BOOST_TEST(report::crc32(nullptr, 0) == 0u);
    std::mt19937 random(3);
    for (std::size_t size = 0; size < 600; ++size) {
        std::string const s = random_bytes(random, size);
        BOOST_REQUIRE_EQUAL(report::crc32(s.data(), size), plain_crc32(s));
        BOOST_REQUIRE_EQUAL(~report::detail::crc32_by_table(0xffffffffu, s.data(), size), plain_crc32(s));
    }
    std::string const large = random_bytes(random, 1'000'003);
    BOOST_TEST(report::crc32(large.data() + 1, large.size() - 1) == plain_crc32(large.substr(1)));
}

BOOST_AUTO_TEST_CASE(bytes_of_every_number_of_blocks_come_back) {
    std::mt19937 random(4);
    for (std::size_t const size : {0u, 1u, 100u, 65534u, 65535u, 65536u, 131069u, 131070u, 131071u, 400000u}) {
        std::string const bytes = random_bytes(random, size);
        std::string file = bytes;
        report::wrap_in_gzip(file);
        BOOST_TEST((thaw::testing::read_gzip(file) == bytes));
        std::uint32_t sum = 0;
        for (std::size_t i = 0; i < 4; ++i)
            sum |= std::uint32_t{static_cast<unsigned char>(file[file.size() - 8 + i])} << 8 * i;
        BOOST_TEST(sum == plain_crc32(bytes));
    }
}

BOOST_AUTO_TEST_SUITE_END()
