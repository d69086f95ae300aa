#include <thaw/sampler/cfa.hpp>
#include <thaw/sampler/rule_cache.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <random>
#include <vector>

namespace sampler = thaw::sampler;
using sampler::registers;
using sampler::rule_kind;

namespace {

using bytes = std::vector<unsigned char>;

constexpr std::uintptr_t code = 0x1000;  // where the functions of the tables below begin
constexpr std::uint8_t ra = registers::return_address, sp = registers::sp, fp = registers::fp;

void append_word(bytes& b, std::uint32_t word) {
    unsigned char raw[4];
    std::memcpy(raw, &word, 4);
    b.insert(b.end(), raw, raw + 4);
}

// A CIE and an FDE with absolute code addresses; the common rules are CFA = sp + 8 and, below it, the return address.
bytes table(bytes const& program, bytes const& augmentation = {'z', 'R'}, bytes const& data = {0x03}) {
    bytes common{0, 0, 0, 0, 1};
    common.insert(common.end(), augmentation.begin(), augmentation.end());
    common.insert(common.end(), {0, 1, 0x78, ra});  // code alignment 1, data alignment -8
    common.push_back(static_cast<unsigned char>(data.size()));
    common.insert(common.end(), data.begin(), data.end());
    common.insert(common.end(), {0x0C, sp, 8, static_cast<unsigned char>(0x80 | ra), 1});
    while (common.size() % 4 != 0) common.push_back(0);
    bytes b;
    append_word(b, static_cast<std::uint32_t>(common.size()));
    b.insert(b.end(), common.begin(), common.end());
    bytes record;
    append_word(record, static_cast<std::uint32_t>(b.size() + 4));
    append_word(record, code);
    append_word(record, 0x100);
    record.push_back(0);
    record.insert(record.end(), program.begin(), program.end());
    append_word(b, static_cast<std::uint32_t>(record.size()));
    b.insert(b.end(), record.begin(), record.end());
    return b;
}

std::size_t description_at(bytes const& b) {
    std::uint32_t length;
    std::memcpy(&length, b.data(), 4);
    return length + 4;
}

// The bytes as if they stood at 0x10000, in a block of exactly their size.
struct placed {
    std::unique_ptr<unsigned char[]> copy;
    sampler::table_bytes tables;

    explicit placed(bytes const& b) : copy{new unsigned char[b.size() + 1]} {
        if (!b.empty()) std::memcpy(copy.get() + 1, b.data(), b.size());  // aligned to nothing
        tables = {0x10000, 0x10000 + b.size(), reinterpret_cast<std::uintptr_t>(copy.get() + 1) - 0x10000};
    }
};

struct outcome {
    bool understood = false;
    sampler::frame_rules rules;
};

outcome rules_at(bytes const& b, std::uintptr_t offset) {
    placed const p{b};
    outcome o;
    sampler::frame_description d;
    o.understood = sampler::read_description(p.tables, p.tables.begin + description_at(b), d) && d.begin == code &&
                   d.end == code + 0x100 && sampler::cfa_interpreter{d, o.rules}.run(code + offset);
    return o;
}

struct value {
    bool known = false;
    std::uintptr_t is = 0;
};

value evaluated(bytes expression, registers const& r = {}, sampler::stack_bounds stack = {}) {
    expression.insert(expression.begin(), static_cast<unsigned char>(expression.size()));
    placed const p{expression};
    value v;
    v.known = sampler::evaluate(p.tables, p.tables.begin, r, stack, nullptr, v.is);
    return v;
}

void expect(bytes const& expression, std::intptr_t result) {
    value const v = evaluated(expression);
    BOOST_TEST(v.known);
    BOOST_TEST(static_cast<std::intptr_t>(v.is) == result);
}

constexpr unsigned char lit(unsigned n) { return static_cast<unsigned char>(0x30 + n); }

}

BOOST_AUTO_TEST_SUITE(cfa)

BOOST_AUTO_TEST_CASE(a_prologue_and_an_epilogue_are_followed_address_by_address) {
    // push fp at 1; mov sp, fp at 4; pop fp at 0x20
    bytes const b = table({0x41, 0x0E, 16, 0x80 | fp, 2, 0x43, 0x0D, fp, 0x02, 0x1C, 0x0C, sp, 8, 0xC0 | fp});
    auto const check = [&b](std::uintptr_t offset, unsigned reg, std::int64_t distance, bool saved) {
        auto const o = rules_at(b, offset);
        BOOST_TEST(o.understood);
        BOOST_TEST(o.rules.cfa_register == reg);
        BOOST_TEST(o.rules.cfa_offset == distance);
        BOOST_TEST((o.rules.kind[fp] == (saved ? rule_kind::at_offset : rule_kind::same)));
        if (saved) BOOST_TEST(o.rules.operand[fp] == -16);
        BOOST_TEST((o.rules.kind[ra] == rule_kind::at_offset));
        BOOST_TEST(o.rules.operand[ra] == -8);
    };
    check(0, sp, 8, false);
    check(1, sp, 16, true);
    check(3, sp, 16, true);
    check(4, fp, 16, true);
    check(0x1F, fp, 16, true);
    check(0x20, sp, 8, false);
    check(0xFF, sp, 8, false);
}

BOOST_AUTO_TEST_CASE(remembered_states_return_at_any_depth) {
    // at 1: cfa 16, remember; at 2: cfa 24, remember; at 3: cfa 32; at 4: restore; at 5: restore; at 6: cfa 40
    bytes const b = table({0x41, 0x0E, 16, 0x0A, 0x41, 0x0E, 24, 0x0A, 0x41, 0x0E, 32, 0x41, 0x0B, 0x41, 0x0B, 0x41, 0x0E, 40});
    std::int64_t const expected[] = {8, 16, 24, 32, 24, 16, 40, 40};
    for (std::uintptr_t offset = 0; offset < std::size(expected); ++offset) {
        auto const o = rules_at(b, offset);
        BOOST_TEST(o.understood);
        BOOST_TEST(o.rules.cfa_offset == expected[offset]);
    }
    // The pair is in the past, and what stood between is forgotten, an undefined register included.
    auto const o = rules_at(table({0x0A, 0x07, fp, 0x41, 0x0B, 0x41, 0x0E, 16}), 2);
    BOOST_TEST(o.understood);
    BOOST_TEST((o.rules.kind[fp] == rule_kind::same));
    BOOST_TEST(o.rules.cfa_offset == 16);
    BOOST_TEST(!rules_at(table({0x0B}), 0).understood);  // nothing was remembered
}

BOOST_AUTO_TEST_CASE(a_restored_register_has_the_common_rule_again) {
    for (bytes const& restore : {bytes{0xC0 | ra}, bytes{0x06, ra}}) {
        bytes program{0x07, ra, 0x41};
        program.insert(program.end(), restore.begin(), restore.end());
        BOOST_TEST((rules_at(table(program), 0).rules.kind[ra] == rule_kind::undefined));
        auto const o = rules_at(table(program), 1);
        BOOST_TEST(o.understood);
        BOOST_TEST((o.rules.kind[ra] == rule_kind::at_offset));
        BOOST_TEST(o.rules.operand[ra] == -8);
    }
}

BOOST_AUTO_TEST_CASE(every_kind_of_rule_is_read) {
    auto const o = rules_at(table({0x05, 1, 3, 0x11, 2, 0x7D, 0x14, 3, 2, 0x15, 4, 0x7E, 0x09, 5, 6, 0x10, 8, 1, 0x31, 0x16, 9, 1, 0x32,
                                   0x07, 10, 0x08, 11, 0x2F, 12, 4, 0x2E, 32, 0x13, 0x7E}), 0);
    BOOST_REQUIRE(o.understood);
    auto const is = [&o](unsigned reg, rule_kind kind, std::int64_t operand) {
        BOOST_TEST((o.rules.kind[reg] == kind));
        BOOST_TEST(o.rules.operand[reg] == operand);
    };
    is(1, rule_kind::at_offset, -24);
    is(2, rule_kind::at_offset, 24);
    is(3, rule_kind::is_offset, -16);
    is(4, rule_kind::is_offset, 16);
    is(5, rule_kind::in_register, 6);
    BOOST_TEST((o.rules.kind[8] == rule_kind::at_expression));
    BOOST_TEST((o.rules.kind[9] == rule_kind::is_expression));
    is(10, rule_kind::undefined, 0);
    is(11, rule_kind::same, 0);
    is(12, rule_kind::at_offset, 32);
    BOOST_TEST(o.rules.cfa_offset == 16);
}

BOOST_AUTO_TEST_CASE(augmentations_are_read_and_unknown_ones_refused) {
    BOOST_TEST(rules_at(table({}, {'z', 'P', 'L', 'R', 'S'}, {0x03, 1, 2, 3, 4, 0x1B, 0x03}), 0).understood);
    BOOST_TEST(rules_at(table({}, {'z', 'R', 'B', 'G'}), 0).understood);
    BOOST_TEST(!rules_at(table({}, {'z', 'R', 'x'}), 0).understood);
    BOOST_TEST(!rules_at(table({}, {'e', 'h'}), 0).understood);
    bytes b = table({}, {'z', 'R', 'S'});
    placed const p{b};
    sampler::frame_description d;
    BOOST_TEST(sampler::read_description(p.tables, p.tables.begin + description_at(b), d));
    BOOST_TEST(d.signal_frame);
    BOOST_TEST(d.return_address == ra);
}

BOOST_AUTO_TEST_CASE(tables_cut_or_changed_at_any_byte_are_never_read_beyond_their_end) {
    bytes const whole = table({0x41, 0x0E, 16, 0x0A, 0x02, 1, 0x16, 9, 1, 0x32, 0x0B, 0x0F, 2, 0x77, 8, 0x10, fp, 2, 0x77, 0});
    std::mt19937 random(9);
    std::uint64_t understood = 0, refused = 0;
    for (int round = 0; round < 50'000; ++round) {
        bytes b = whole;
        b.resize(random() % (b.size() + 1));
        for (auto n = random() % 4; n > 0 && !b.empty(); --n) b[random() % b.size()] = static_cast<unsigned char>(random());
        placed const p{b};
        for (std::uintptr_t const at : {std::uintptr_t{0x10000}, 0x10000 + description_at(whole)}) {
            sampler::frame_description d;
            sampler::frame_rules rules;
            bool const good = sampler::read_description(p.tables, at, d) && sampler::cfa_interpreter{d, rules}.run(d.begin + random() % 8);
            ++(good ? understood : refused);
            std::uintptr_t result = 0;
            if (good && rules.cfa_expression != 0) sampler::evaluate(p.tables, rules.cfa_expression, {}, {}, nullptr, result);
        }
    }
    BOOST_TEST(understood > 100u);
    BOOST_TEST(refused > 100u);
}

BOOST_AUTO_TEST_CASE(expressions_compute) {
    expect({lit(5)}, 5);
    expect({0x08, 200}, 200);
    expect({0x09, 0xFF}, -1);
    expect({0x0B, 0xFE, 0xFF}, -2);
    expect({0x0D, 0xFD, 0xFF, 0xFF, 0xFF}, -3);
    expect({0x10, 0x80, 0x01}, 128);
    expect({0x11, 0x7F}, -1);
    expect({lit(7), lit(3), 0x1C}, 4);
    expect({lit(7), lit(3), 0x22}, 10);
    expect({lit(7), lit(3), 0x1E}, 21);
    expect({lit(7), lit(3), 0x1A}, 3);
    expect({lit(4), lit(3), 0x21}, 7);
    expect({lit(7), lit(3), 0x27}, 4);
    expect({lit(1), lit(3), 0x24}, 8);
    expect({lit(8), lit(3), 0x25}, 1);
    expect({0x09, 0xF0, lit(2), 0x26}, -4);
    expect({lit(3), 0x1F}, -3);
    expect({lit(0), 0x20}, -1);
    expect({lit(3), 0x23, 0x09}, 12);
    expect({lit(3), 0x12, 0x22}, 6);
    expect({lit(3), lit(4), 0x13}, 3);
    expect({lit(3), lit(4), 0x14, 0x1C}, 1);
    expect({0x09, 0xFF, lit(0), 0x2D}, 1);  // signed
    expect({0x09, 0xFF, lit(0), 0x2B}, 0);
    expect({lit(4), lit(4), 0x29}, 1);
    expect({lit(4), lit(4), 0x2E}, 0);
    expect({lit(4), lit(4), 0x2A}, 1);
    expect({lit(4), lit(4), 0x2C}, 1);
}

BOOST_AUTO_TEST_CASE(the_expression_of_a_plt_stub_knows_both_halves_of_it) {
    // breg7 8; breg16 0; lit15; and; lit11; ge; lit3; shl; plus, with this architecture's sp and a pc of its own
    bytes const stub{static_cast<unsigned char>(0x70 + sp % 32), 8, 0x70 + 16, 0, lit(15), 0x1A, lit(11), 0x2A, lit(3), 0x24, 0x22};
    registers r{};
    r.value[sp] = 1000;
    r.value[16] = 0x20;
    BOOST_TEST(evaluated(stub, r).is == 1008u);
    r.value[16] = 0x2B;
    BOOST_TEST(evaluated(stub, r).is == 1016u);
}

BOOST_AUTO_TEST_CASE(expressions_read_the_stack_and_nothing_else) {
    std::uintptr_t stack[4] = {1, 2, 3, 4};
    auto const at = [&stack](int i) { return reinterpret_cast<std::uintptr_t>(stack) + static_cast<std::uintptr_t>(i * 8); };
    sampler::stack_bounds const bounds{at(1), at(3)};
    registers r{};
    for (int i = 0; i < 4; ++i) {
        r.value[0] = at(i);
        auto const v = evaluated({0x70, 0, 0x06}, r, bounds);
        BOOST_TEST(v.known == (i == 1 || i == 2));
        if (v.known) BOOST_TEST(v.is == stack[i]);
    }
    r.value[0] = at(3) - 7;  // not whole
    BOOST_TEST(!evaluated({0x70, 0, 0x06}, r, bounds).known);
}

BOOST_AUTO_TEST_CASE(expressions_that_make_no_sense_are_refused) {
    for (bytes const& b : std::initializer_list<bytes>{{}, {0x22}, {lit(1), 0x22}, {0x06}, {0x13}, {0x14}, {0xFF}, {0x08}, {0x0D, 1}, {lit(1), 0x13}})
        BOOST_TEST(!evaluated(b).known);
    BOOST_TEST(evaluated(bytes(16, lit(1))).known);
    BOOST_TEST(!evaluated(bytes(17, lit(1))).known);
}

BOOST_AUTO_TEST_CASE(numbers_of_any_length_are_read) {
    placed const p{{0xE5, 0x8E, 0x26, 0x80, 0x7F, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0x80, 0x80}};
    sampler::table_cursor c{p.tables, p.tables.begin};
    BOOST_TEST(c.uleb() == 624485u);
    BOOST_TEST(c.sleb() == -128);
    BOOST_TEST(c.sleb() == -1);
    BOOST_TEST(c.uleb() == ~std::uint64_t{0});
    BOOST_TEST(c.good());
    BOOST_TEST((c.uleb(), !c.good()));  // cut
    BOOST_TEST(c.at_end());
    BOOST_TEST((!sampler::table_cursor{p.tables, p.tables.begin - 1}.good()));
    BOOST_TEST((!sampler::table_cursor{p.tables, p.tables.end + 1}.good()));
}

BOOST_AUTO_TEST_CASE(rules_of_the_usual_shape_fit_sixteen_bytes_and_others_do_not) {
    sampler::frame_rules full;
    full.cfa_register = sp;
    full.cfa_offset = 64;
    full.kind[ra] = rule_kind::at_offset;
    full.operand[ra] = -8;
    full.kind[fp] = rule_kind::at_offset;
    full.operand[fp] = -2040;
    sampler::compact_rules c;
    BOOST_REQUIRE(c.assign(full));
    BOOST_TEST(c.cfa == 8u);
    BOOST_TEST(!c.outermost);
    for (unsigned i = 0; i < sampler::compact_rules::saved_count; ++i)
        BOOST_TEST(c.slot[i] == (registers::saved[i] == ra ? 1u : registers::saved[i] == fp ? 255u : 0u));

    auto const refused = [&full](auto change) {
        sampler::frame_rules other = full;
        change(other);
        sampler::compact_rules r;
        return !r.assign(other);
    };
    BOOST_TEST(refused([](auto& r) { r.cfa_register = 1; }));
    BOOST_TEST(refused([](auto& r) { r.cfa_expression = 1; }));
    BOOST_TEST(refused([](auto& r) { r.cfa_offset = -8; }));
    BOOST_TEST(refused([](auto& r) { r.cfa_offset = 12; }));
    BOOST_TEST(refused([](auto& r) { r.cfa_offset = 8 << 15; }));
    BOOST_TEST(!refused([](auto& r) { r.cfa_offset = (8 << 15) - 8; }));
    BOOST_TEST(refused([](auto& r) { r.operand[fp] = -2048; }));
    BOOST_TEST(refused([](auto& r) { r.operand[fp] = 8; }));
    BOOST_TEST(refused([](auto& r) { r.operand[fp] = -12; }));
    BOOST_TEST(refused([](auto& r) { r.kind[fp] = rule_kind::in_register; }));
    BOOST_TEST(refused([](auto& r) { r.kind[0] = rule_kind::at_offset; }));  // which no function saves
    full.kind[ra] = rule_kind::undefined;
    BOOST_TEST((c.assign(full) && c.outermost));
}

BOOST_AUTO_TEST_CASE(the_cache_returns_what_was_put_in_under_the_same_key) {
    auto const cache = std::make_unique<sampler::rule_cache>();
    sampler::compact_rules in, out;
    BOOST_TEST(!cache->find(1, out));
    in.cfa = 77;
    in.slot[3] = 9;
    std::uint64_t found = 0;
    for (std::uint64_t key = 1; key <= 5000; ++key) {
        in.cfa = static_cast<std::uint16_t>(key);
        cache->insert(key, in);
        BOOST_REQUIRE(cache->find(key, out));
        BOOST_REQUIRE(out.cfa == in.cfa);
        BOOST_REQUIRE(out.slot[3] == 9u);
        BOOST_REQUIRE(!cache->find(key | std::uint64_t{1} << 48, out));
    }
    for (std::uint64_t key = 1; key <= 5000; ++key) {
        if (!cache->find(key, out)) continue;
        ++found;
        BOOST_REQUIRE(out.cfa == static_cast<std::uint16_t>(key));
    }
    BOOST_TEST(found > 500u);
    BOOST_TEST(found <= 1024u);
}

BOOST_AUTO_TEST_SUITE_END()
