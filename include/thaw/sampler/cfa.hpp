// thaw floor 3 sampler: call frame instructions: where the caller's registers are, at one address of a function, and what they
// are. Signal-safe; allocates nothing and does not recurse; reads the stack within the given bounds only.
#ifndef THAW_SAMPLER_CFA_HPP
#define THAW_SAMPLER_CFA_HPP

#include <thaw/core/config.hpp>
#include <thaw/sampler/frame_description.hpp>
#include <thaw/sampler/registers.hpp>
#include <thaw/sampler/stack_bounds.hpp>
#include <thaw/sampler/table_cursor.hpp>

#include <cstddef>
#include <cstdint>

namespace thaw::sampler {

enum class rule_kind : std::uint8_t {
    same,           // the register still has the caller's value
    undefined,      // the value is lost; of the return address: there is no caller
    at_offset,      // it is in memory at CFA + operand
    is_offset,      // it is CFA + operand
    in_register,    // it is in the register `operand`
    at_expression,  // it is in memory at the address that the expression at `operand` gives
    is_expression,  // it is what the expression at `operand` gives
};

// How the frame of one address is unwound. CFA, the canonical frame address, is what the caller's sp is after the call.
struct frame_rules {
    std::uintptr_t cfa_expression = 0;  // 0: CFA is cfa_register + cfa_offset
    std::uint64_t cfa_register = 0;
    std::int64_t cfa_offset = 0;
    rule_kind kind[registers::count] = {};
    std::int64_t operand[registers::count] = {};
};

// Executes the call frame instructions of a description up to one address.
class cfa_interpreter {
public:
    cfa_interpreter(frame_description const& d, frame_rules& rules) noexcept : m_description{d}, m_rules{rules} {}

    // False if the instructions make no sense, or are not known.
    bool run(std::uintptr_t address) noexcept {
        m_rules = {};
        m_initial = {};
        if (!execute(m_description.common_program, ~std::uintptr_t{0})) return false;
        m_initial = m_rules;
        return execute(m_description.program, address);
    }

private:
    static constexpr unsigned instruction_limit = 1u << 16;

    enum class event : std::uint8_t { none, remember, restore, bad };

    // A pair of remember_state and restore_state that both come before the address has no effect, and is stepped over; so no
    // state is ever kept.
    bool execute(table_cursor program, std::uintptr_t address) noexcept {
        std::uintptr_t code = m_description.begin;
        for (unsigned n = 0; !program.at_end(); ++n) {
            event const e = step(program, code, true);
            if (code > address) return true;
            if (e == event::bad || e == event::restore || n > instruction_limit) return false;
            if (e != event::remember) continue;
            table_cursor ahead = program;
            std::uintptr_t ahead_code = code;
            for (unsigned depth = 1; depth > 0 && !ahead.at_end() && n <= instruction_limit; ++n) {
                event const next = step(ahead, ahead_code, false);
                if (next == event::bad || ahead_code > address) break;
                if (next == event::remember) ++depth;
                if (next == event::restore && --depth == 0) {
                    program = ahead;
                    code = ahead_code;
                }
            }
        }
        return program.good();
    }

    // One instruction. Without `applies` it is stepped over and moves `code` only.
    event step(table_cursor& c, std::uintptr_t& code, bool applies) noexcept {
        auto const set = [&](std::uint64_t reg, rule_kind kind, std::int64_t operand = 0) {
            if (!applies || reg >= registers::count) return;
            m_rules.kind[reg] = kind;
            m_rules.operand[reg] = operand;
        };
        auto const set_cfa = [&](std::uint64_t reg, std::int64_t offset, std::uintptr_t expression = 0) {
            if (!applies) return;
            m_rules.cfa_register = reg;
            m_rules.cfa_offset = offset;
            m_rules.cfa_expression = expression;
        };
        auto const restore = [&](std::uint64_t reg) {
            if (reg < registers::count) set(reg, m_initial.kind[reg], m_initial.operand[reg]);
        };
        auto const block = [&] {  // an expression: its length, its bytes
            std::uintptr_t const at = c.at();
            c.skip(c.uleb());
            return at;
        };
        auto const factored = [&](std::int64_t n) {
            return static_cast<std::int64_t>(static_cast<std::uint64_t>(n) * static_cast<std::uint64_t>(m_description.data_align));
        };
        auto const unsigned_offset = [&] { return static_cast<std::int64_t>(c.uleb()); };

        auto const op = c.read<std::uint8_t>();
        std::uint64_t const low = op & 0x3F;
        std::uint64_t reg = 0;
        switch (op & 0xC0) {
        case 0x40: code += low * m_description.code_align; return event::none;
        case 0x80: set(low, rule_kind::at_offset, factored(unsigned_offset())); return check(c);
        case 0xC0: restore(low); return event::none;
        default: break;
        }
        switch (op) {
        case 0x00: break;                                                                       // nop
        case 0x01: code = c.pointer(m_description.encoding); break;                             // set_loc
        case 0x02: code += c.read<std::uint8_t>() * m_description.code_align; break;            // advance_loc1
        case 0x03: code += c.read<std::uint16_t>() * m_description.code_align; break;           // advance_loc2
        case 0x04: code += c.read<std::uint32_t>() * m_description.code_align; break;           // advance_loc4
        case 0x05: reg = c.uleb(); set(reg, rule_kind::at_offset, factored(unsigned_offset())); break;
        case 0x06: restore(c.uleb()); break;
        case 0x07: set(c.uleb(), rule_kind::undefined); break;
        case 0x08: set(c.uleb(), rule_kind::same); break;
        case 0x09: reg = c.uleb(); set(reg, rule_kind::in_register, unsigned_offset()); break;
        case 0x0A: return event::remember;
        case 0x0B: return event::restore;
        case 0x0C: reg = c.uleb(); set_cfa(reg, unsigned_offset()); break;                      // def_cfa
        case 0x0D: set_cfa(c.uleb(), m_rules.cfa_offset); break;                                // def_cfa_register
        case 0x0E: set_cfa(m_rules.cfa_register, unsigned_offset()); break;                     // def_cfa_offset
        case 0x0F: set_cfa(0, 0, block()); break;                                               // def_cfa_expression
        case 0x10: reg = c.uleb(); set(reg, rule_kind::at_expression, static_cast<std::int64_t>(block())); break;
        case 0x11: reg = c.uleb(); set(reg, rule_kind::at_offset, factored(c.sleb())); break;   // offset_extended_sf
        case 0x12: reg = c.uleb(); set_cfa(reg, factored(c.sleb())); break;                     // def_cfa_sf
        case 0x13: set_cfa(m_rules.cfa_register, factored(c.sleb())); break;                    // def_cfa_offset_sf
        case 0x14: reg = c.uleb(); set(reg, rule_kind::is_offset, factored(unsigned_offset())); break;
        case 0x15: reg = c.uleb(); set(reg, rule_kind::is_offset, factored(c.sleb())); break;
        case 0x16: reg = c.uleb(); set(reg, rule_kind::is_expression, static_cast<std::int64_t>(block())); break;
        case 0x2C:
        case 0x2D: break;             // aarch64: the return address is signed from here on; signatures are stripped anyway
        case 0x2E: c.uleb(); break;   // GNU_args_size: of interest to a landing pad only
        case 0x2F: reg = c.uleb(); set(reg, rule_kind::at_offset, factored(-unsigned_offset())); break;
        default: return event::bad;
        }
        return check(c);
    }

    static event check(table_cursor const& c) noexcept { return c.good() ? event::none : event::bad; }

    frame_description const& m_description;
    frame_rules& m_rules;
    frame_rules m_initial;  // after the common part, for DW_CFA_restore
};

// The value of the DWARF expression at `at` (its length, its bytes), begun with `initial` on its stack if that is asked for.
// False if it makes no sense, is not known, or reads beyond `stack`.
inline bool evaluate(table_bytes const& tables, std::uintptr_t at, registers const& regs, stack_bounds stack,
                     std::uintptr_t const* initial, std::uintptr_t& result) noexcept {
    constexpr unsigned depth_limit = 16, operation_limit = 256;
    table_cursor whole{tables, at};
    whole = whole.take(whole.uleb());
    table_cursor c = whole;
    std::uintptr_t values[depth_limit];
    unsigned depth = 0;
    if (initial != nullptr) values[depth++] = *initial;
    for (unsigned n = 0; !c.at_end(); ++n) {
        if (n == operation_limit) return false;
        auto const op = c.read<std::uint8_t>();
        bool const binary = op == 0x1A || op == 0x1C || op == 0x1E || op == 0x21 || op == 0x22 || (op >= 0x24 && op <= 0x27) ||
                            (op >= 0x29 && op <= 0x2E);
        bool const unary = op == 0x06 || op == 0x12 || op == 0x13 || op == 0x1F || op == 0x20 || op == 0x23;
        if (depth < (binary ? 2u : unary ? 1u : 0u)) return false;
        if (binary) {
            std::uintptr_t const b = values[--depth];
            std::uintptr_t& a = values[depth - 1];
            auto const sa = static_cast<std::intptr_t>(a);
            auto const sb = static_cast<std::intptr_t>(b);
            switch (op) {
            case 0x1A: a &= b; break;
            case 0x1C: a -= b; break;
            case 0x1E: a *= b; break;
            case 0x21: a |= b; break;
            case 0x22: a += b; break;
            case 0x24: a = b < 64 ? a << b : 0; break;
            case 0x25: a = b < 64 ? a >> b : 0; break;
            case 0x26: a = static_cast<std::uintptr_t>(sa >> (b < 64 ? b : 63)); break;
            case 0x27: a ^= b; break;
            case 0x29: a = a == b; break;
            case 0x2A: a = sa >= sb; break;
            case 0x2B: a = sa > sb; break;
            case 0x2C: a = sa <= sb; break;
            case 0x2D: a = sa < sb; break;
            default: a = a != b; break;
            }
            continue;
        }
        std::uintptr_t value = 0;
        if (op >= 0x30 && op <= 0x4F) {
            value = op - 0x30u;  // lit0 to lit31
        } else if (op >= 0x70 && op <= 0x8F) {
            unsigned const reg = op - 0x70u;  // breg0 to breg31
            if (reg >= registers::count) return false;
            value = regs.value[reg] + static_cast<std::uintptr_t>(c.sleb());
        } else switch (op) {
            case 0x03: value = c.read<std::uint64_t>(); break;  // addr
            case 0x06:                                          // deref
                if (!stack.holds_word(values[depth - 1])) return false;
                value = peek(values[--depth]);
                break;
            case 0x08: value = c.read<std::uint8_t>(); break;  // const1u and so on
            case 0x09: value = static_cast<std::uintptr_t>(std::intptr_t{c.read<std::int8_t>()}); break;
            case 0x0A: value = c.read<std::uint16_t>(); break;
            case 0x0B: value = static_cast<std::uintptr_t>(std::intptr_t{c.read<std::int16_t>()}); break;
            case 0x0C: value = c.read<std::uint32_t>(); break;
            case 0x0D: value = static_cast<std::uintptr_t>(std::intptr_t{c.read<std::int32_t>()}); break;
            case 0x0E:
            case 0x0F: value = c.read<std::uint64_t>(); break;
            case 0x10: value = c.uleb(); break;
            case 0x11: value = static_cast<std::uintptr_t>(c.sleb()); break;
            case 0x12: value = values[depth - 1]; break;                                      // dup
            case 0x13: --depth; continue;                                                     // drop
            case 0x14: if (depth < 2) return false; value = values[depth - 2]; break;         // over
            case 0x1F: value = 0 - values[--depth]; break;                                    // neg
            case 0x20: value = ~values[--depth]; break;                                       // not
            case 0x23: value = values[--depth] + c.uleb(); break;                             // plus_uconst
            case 0x96: continue;                                                              // nop
            default: return false;
            }
        if (depth == depth_limit) return false;
        values[depth++] = value;
    }
    if (depth == 0 || !c.good()) return false;
    result = values[depth - 1];
    return true;
}

}

#endif
