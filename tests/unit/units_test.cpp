#include <thaw/report/units.hpp>

#include <boost/test/unit_test.hpp>

#include <clocale>
#include <cstdint>
#include <string>

using namespace thaw::report;

BOOST_AUTO_TEST_SUITE(units)

BOOST_AUTO_TEST_CASE(durations_have_three_significant_digits) {
    BOOST_TEST(duration_text(0) == "0 ns");
    BOOST_TEST(duration_text(999) == "999 ns");
    BOOST_TEST(duration_text(1'000) == "1.00 us");
    BOOST_TEST(duration_text(12'100) == "12.1 us");
    BOOST_TEST(duration_text(206e6) == "206 ms");
    BOOST_TEST(duration_text(1.02e9) == "1.02 s");
    BOOST_TEST(duration_text(900e9) == "900 s");
    BOOST_TEST(duration_text(1000e9) == "16.7 min");
    BOOST_TEST(duration_text(7200e9) == "2.00 h");
    BOOST_TEST(duration_text(86400e9 * 3) == "3.00 d");
    BOOST_TEST(duration_text(static_cast<double>(UINT64_MAX)) == "213504 d");
    BOOST_TEST(duration_text(-5) == "0 ns");
}

BOOST_AUTO_TEST_CASE(rounding_carries_into_the_next_unit) {
    BOOST_TEST(duration_text(999.6) == "1.00 us");
    BOOST_TEST(duration_text(9'994) == "9.99 us");
    BOOST_TEST(duration_text(9'996) == "10.0 us");
    BOOST_TEST(duration_text(99'960) == "100 us");
    BOOST_TEST(duration_text(999'499) == "999 us");
    BOOST_TEST(duration_text(999'600) == "1.00 ms");
    BOOST_TEST(duration_text(999'999'999) == "1.00 s");
    BOOST_TEST(bytes_text(1023.6) == "1.00 KiB");
    BOOST_TEST(bytes_text(0x1p20 - 1) == "1.00 MiB");
}

BOOST_AUTO_TEST_CASE(bytes_are_binary) {
    BOOST_TEST(bytes_text(0) == "0 B");
    BOOST_TEST(bytes_text(1023) == "1023 B");
    BOOST_TEST(bytes_text(48'025) == "46.9 KiB");
    BOOST_TEST(bytes_text(960'512) == "938 KiB");
    BOOST_TEST(bytes_text(static_cast<double>(UINT64_MAX)) == "16.0 EiB");
    BOOST_TEST(signed_bytes_text(960'512) == "+938 KiB");
    BOOST_TEST(signed_bytes_text(-3) == "-3 B");
}

BOOST_AUTO_TEST_CASE(counts_are_exact_below_a_million) {
    BOOST_TEST(count_text(0) == "0");
    BOOST_TEST(count_text(999'999) == "999999");
    BOOST_TEST(count_text(1'000'000) == "1.00 M");
    BOOST_TEST(count_text(UINT64_MAX) == "18.4 E");
    BOOST_TEST(ratio_text(12) == "12");
    BOOST_TEST(ratio_text(0.5) == "0.50");
    BOOST_TEST(ratio_text(1.8446744073709552e19) == "18.4 E");
}

BOOST_AUTO_TEST_CASE(shares_tell_nothing_from_little) {
    BOOST_TEST(share_text(98, 100) == "98 %");
    BOOST_TEST(share_text(1.94, 100) == "1.9 %");
    BOOST_TEST(share_text(9.96, 100) == "10 %");
    BOOST_TEST(share_text(0.041, 100) == "0.04 %");
    BOOST_TEST(share_text(0.001, 100) == "<0.01 %");
    BOOST_TEST(share_text(0, 100) == "0 %");
    BOOST_TEST(share_text(-1, 100) == "0 %");
    BOOST_TEST(share_text(130, 100) == "130 %");
    BOOST_TEST(share_text(1e30, 1) == ">9999 %");
    BOOST_TEST(share_text(1, 0) == "-");
}

BOOST_AUTO_TEST_CASE(control_characters_are_told_by_their_code) {
    BOOST_TEST(printable("a\x1b[31mb") == "a\\x1b[31mb");
    BOOST_TEST(printable(std::string("a\nb\tc\0d\x7f", 8)) == "a\\x0ab\\x09c\\x00d\\x7f");
    BOOST_TEST(printable("\xc2\x9b") == "\xef\xbf\xbd"); // CSI as a C1 control
}

BOOST_AUTO_TEST_CASE(what_changes_direction_or_cannot_be_seen_is_replaced) {
    for (char const* const hidden :
         {"\xe2\x80\xae", "\xe2\x81\xa6", "\xe2\x80\x8b", "\xef\xbb\xbf", "\xe2\x80\xa8", "\xf3\xa0\x81\x81"})
        BOOST_TEST(printable(std::string("a") + hidden + "b") == "a\xef\xbf\xbd"
                                                                 "b");
}

BOOST_AUTO_TEST_CASE(blanks_at_the_ends_are_told_and_others_stay) {
    BOOST_TEST(printable(" a b ") == "\\x20a b\\x20");
    BOOST_TEST(printable("a\xc2\xa0"
                         "b") == "a\xef\xbf\xbd"
                                 "b");
}

BOOST_AUTO_TEST_CASE(malformed_utf8_is_replaced_byte_by_byte) {
    std::string const r = "\xef\xbf\xbd";
    BOOST_TEST(printable("\xff") == r);
    BOOST_TEST(printable("\xc0\xaf") == r + r);                 // overlong
    BOOST_TEST(printable("\xe0\x80\xaf") == r + r + r);         // overlong
    BOOST_TEST(printable("\xed\xa0\x80") == r + r + r);         // a surrogate
    BOOST_TEST(printable("\xf4\x90\x80\x80") == r + r + r + r); // over U+10FFFF
    BOOST_TEST(printable("a\xe2\x82") == "a" + r + r);          // cut off
    BOOST_TEST(printable("\xe2\x82z") == r + r + "z");
}

BOOST_AUTO_TEST_CASE(well_formed_text_stays_as_it_is) {
    for (char const* const text :
         {"", "db.query", "caf\xc3\xa9", "\xe4\xbe\xa1\xe6\xa0\xbc", "\xf0\x9f\x9b\x92", "\xf4\x8f\xbf\xbd"})
        BOOST_TEST(printable(text) == text);
}

BOOST_AUTO_TEST_CASE(columns_are_code_points_and_two_for_wide_ones) {
    BOOST_TEST(columns_of("") == 0u);
    BOOST_TEST(columns_of("caf\xc3\xa9") == 4u);
    BOOST_TEST(columns_of("\xe4\xbe\xa1\xe6\xa0\xbc") == 4u);
    BOOST_TEST(columns_of("\xf0\x9f\x9b\x92") == 2u);
}

BOOST_AUTO_TEST_CASE(a_long_text_loses_its_middle) {
    BOOST_TEST(shortened("0123456789", 10) == "0123456789");
    BOOST_TEST(shortened("0123456789", 9) == "0123\xe2\x80\xa6"
                                             "6789");
    BOOST_TEST(shortened("0123456789", 4) == "01\xe2\x80\xa6"
                                             "9");
    BOOST_TEST(shortened("0123456789", 1) == "\xe2\x80\xa6");
    std::string const wide = "\xe4\xbe\xa1\xe6\xa0\xbc\xe4\xbe\xa1\xe6\xa0\xbc"
                             "abc\xe4\xbe\xa1\xe6\xa0\xbc";
    for (std::size_t columns = 1; columns < 20; ++columns) {
        BOOST_TEST(columns_of(shortened(wide, columns)) <= columns);
        BOOST_TEST(printable(shortened(wide, columns)) == shortened(wide, columns));
    }
}

BOOST_AUTO_TEST_SUITE_END()
