// thaw floor 5 sampler: the native stack of a thread, taken in a signal handler: by unwind tables, which every function has,
// or by frame pointers, which few have, for a tenth of the price.
//
// Signal-safe, thread-safe, without a lock and without memory other than its own; faults on nothing that a broken stack may
// hold, since the stack is read between the interrupted sp and its top only, and tables where they are mapped for good (see
// module_table.hpp). It calls nothing that one libc has and another lacks. Rejected: _Unwind_Backtrace, which takes a lock
// with glibc before 2.35, with musl and in static programs, and needs 2 us for 20 frames.
//
//   unwinder u;                                    // 32 KiB, all zero: static, or in the arena
//   u.modules.renew_if_changed();                  // before the first sample, and at the end of invocations
//   in the handler, if enough_room(sp, bounds):    // bounds: current_thread_stack(), taken when the thread was registered
//       auto const result = u.unwind(context, frames, 64, bounds);
//
// A frame is the address to look up: for the interrupted function, and for one that was interrupted by a signal further down,
// the instruction that was next; for all others the last byte of the call.
#ifndef THAW_SAMPLER_UNWIND_HPP
#define THAW_SAMPLER_UNWIND_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>
#include <thaw/sampler/cfa.hpp>
#include <thaw/sampler/module_table.hpp>
#include <thaw/sampler/registers.hpp>
#include <thaw/sampler/rule_cache.hpp>
#include <thaw/sampler/stack_bounds.hpp>

#include <cstddef>
#include <cstdint>

#include <signal.h>
#include <ucontext.h>

namespace thaw::sampler {

enum class stack_source : std::uint8_t { none, frame_pointers, tables };

// Why a walk ended. Frames are as right as the tables they come from: those of a few instructions that leave for a landing pad
// are not, nor is a table whose module was replaced by another at its address before the next renewal.
enum class unwind_end : std::uint8_t {
    complete,       // the thread's first frame was reached
    truncated,      // there are more frames than were asked for
    unknown_code,   // no table describes the last frame's code: it was made at run time, or is of a module loaded since
    unknown_rules,  // its table could not be understood
    broken_stack,   // the last frame's caller is not on the stack, or the stack is none that is known
};
inline constexpr unsigned unwind_end_count = 5;

struct unwind_result {
    std::uint32_t count;
    unwind_end end;
};

// How many walks ended in which way. Several threads may add.
struct unwind_counts {
    std::uint64_t walks[unwind_end_count] = {};

    void add(unwind_result result) noexcept { core::shared_add(walks[static_cast<unsigned>(result.end)], std::uint64_t{1}); }
    [[nodiscard]] std::uint64_t of(unwind_end end) const noexcept { return core::load_relaxed(walks[static_cast<unsigned>(end)]); }
};

// The registers that the signal interrupted.
[[nodiscard]] inline registers interrupted_registers(ucontext_t const& context) noexcept {
    return registers::of(reinterpret_cast<std::uintptr_t>(&context));
}

// The stack that the interrupted code ran on, if it was the alternate signal stack.
[[nodiscard]] inline stack_bounds alternate_stack(ucontext_t const& context) noexcept {
    auto const low = reinterpret_cast<std::uintptr_t>(context.uc_stack.ss_sp);
    if ((context.uc_stack.ss_flags & SS_DISABLE) != 0 || low == 0) return {};
    return {low, low + context.uc_stack.ss_size};
}

// Follows the chain of frame pointers. A function compiled without them is left out or, if it uses the register for
// something else, ends the walk.
[[nodiscard]] inline unwind_result walk_frame_pointers(registers const& regs, std::uintptr_t* frames, std::uint32_t limit,
                                                       stack_bounds stack) noexcept {
    std::uint32_t count = 0;
    std::uintptr_t low = regs.value[registers::sp];
    std::uintptr_t fp = regs.value[registers::fp];
    std::uintptr_t next = regs.value[registers::pc];
    if (!stack.contains(low)) return {0, unwind_end::broken_stack};
    for (;;) {
        if (count == limit) return {count, unwind_end::truncated};
        frames[count++] = next;
        if (fp == 0) return {count, unwind_end::complete};
        if (fp < low || fp % sizeof fp != 0 || fp >= stack.top || stack.top - fp < 2 * sizeof fp) return {count, unwind_end::broken_stack};
        std::uintptr_t const caller = registers::code_address(peek(fp + sizeof fp));
        if (caller == 0) return {count, unwind_end::complete};
        next = caller - 1;
        low = fp + 2 * sizeof fp;
        fp = peek(fp);
    }
}

class unwinder {
public:
    module_table modules;
    rule_cache rules;
    unwind_counts counts;

    // The stack that the signal with this context interrupted, innermost frame first; at most `limit` frames. `thread` is the
    // stack of this thread; where code on another one was interrupted, be it a coroutine's, there is one frame.
    unwind_result unwind(ucontext_t const& context, std::uintptr_t* frames, std::uint32_t limit, stack_bounds thread) noexcept {
        return unwind(interrupted_registers(context), frames, limit, thread, alternate_stack(context));
    }

    // The same from registers, which may be captured: the stack from the function on that captured them.
    THAW_DETAIL_NOINLINE unwind_result unwind(registers const& from, std::uintptr_t* frames, std::uint32_t limit,
                                              stack_bounds thread, stack_bounds alternate = {}) noexcept {
        module_table::reader const generation{modules};
        walk w{from, {}, thread, alternate};
        unwind_result result{0, unwind_end::truncated};
        bool more = true;
        while (more && result.count < limit) {
            std::uintptr_t& frame = frames[result.count++] = w.address();
            if (result.count == 1 && !w.enter_stack(0)) {
                more = w.stop(unwind_end::broken_stack);
            } else {
                std::uintptr_t const pc = w.regs.value[registers::pc];
                bool const called = !w.exact;
                more = generation ? step(*generation.operator->(), w) : w.stop(unwind_end::unknown_code);
                if (more && called && w.exact) frame = pc;  // the signal trampoline, which was never called
            }
        }
        if (!more) result.end = w.end;
        counts.add(result);
        return result;
    }

private:
    struct walk {
        registers regs;
        stack_bounds stack;      // what may be read of the one that sp is on
        stack_bounds thread;
        stack_bounds alternate;  // empty once it was left
        bool exact = true;       // pc is an instruction that was interrupted, and no return address
        unwind_end end = unwind_end::truncated;

        [[nodiscard]] std::uintptr_t address() const noexcept { return regs.value[registers::pc] - (exact ? 0 : 1); }

        // Finds the stack that sp is on, at the beginning and behind a signal frame whose own sp was `below`.
        bool enter_stack(std::uintptr_t below) noexcept {
            std::uintptr_t const sp = regs.value[registers::sp];
            if (stack.contains(sp) && sp <= below) return false;
            if (alternate.contains(sp)) {  // which may lie within the thread's own
                stack = alternate;
            } else if (thread.contains(sp)) {
                stack = thread;
                alternate = {};
            } else {
                return false;
            }
            if (sp - stack.low > registers::red_zone_bytes) stack.low = sp - registers::red_zone_bytes;
            return true;
        }

        // Ends the walk.
        bool stop(unwind_end reason) noexcept {
            end = reason;
            return false;
        }

        // The caller's frame begins at `cfa` and its registers are set, except sp and pc.
        bool to_caller(std::uintptr_t cfa) noexcept {
            regs.value[registers::sp] = cfa;
            std::uintptr_t const pc = registers::code_address(regs.value[registers::return_address]);
            if (pc == 0) return stop(unwind_end::broken_stack);  // tables say of the first frame that it has no caller
            regs.value[registers::pc] = pc;
            exact = false;
            return true;
        }

        // Whether the caller's sp may be `to`. Only a function that was interrupted may have taken nothing from the stack.
        [[nodiscard]] bool moves_up(std::uintptr_t to, bool by_call) const noexcept {
            std::uintptr_t const sp = regs.value[registers::sp];
            return to % sizeof to == 0 && to <= stack.top && (to > sp || (to == sp && exact && !by_call));
        }

        // To the interrupted function, from the signal trampoline.
        bool to_interrupted() noexcept {
            std::uintptr_t const sp = regs.value[registers::sp];
            std::uintptr_t const context = sp + registers::context_offset;
            if (!stack.contains(sp) || stack.top - sp < registers::context_offset + registers::context_bytes)
                return stop(unwind_end::broken_stack);
            regs = registers::of(context);
            exact = true;
            return enter_stack(sp) || stop(unwind_end::broken_stack);
        }
    };

    // Goes from one frame to its caller. False if there is none that can be found.
    bool step(module_generation const& generation, walk& w) noexcept {
        std::uint64_t const key = w.address() ^ std::uint64_t{generation.number} << 48;
        compact_rules known;
        if (!rules.find(key, known)) return slow_step(generation, w, key);
        if (known.outermost) return w.stop(unwind_end::complete);
        std::uintptr_t const base = w.regs.value[(known.cfa & compact_rules::from_fp) != 0 ? registers::fp : registers::sp];
        std::uintptr_t const cfa = base + std::uintptr_t{8} * (known.cfa & (compact_rules::from_fp - 1u));
        if (!w.moves_up(cfa, registers::call_needs_stack)) return w.stop(unwind_end::broken_stack);
        for (unsigned i = 0; i < compact_rules::saved_count; ++i) {
            if (known.slot[i] == 0) continue;
            std::uintptr_t const place = cfa - std::uintptr_t{8} * known.slot[i];
            unsigned const reg = registers::saved[i];
            if (!w.stack.holds_word(place) && reg == registers::return_address) return w.stop(unwind_end::broken_stack);
            w.regs.value[reg] = w.stack.holds_word(place) ? peek(place) : 0;
        }
        return w.to_caller(cfa);
    }

    // The same where the cache does not know the rules, or they are not of its shape.
    THAW_DETAIL_NOINLINE bool slow_step(module_generation const& generation, walk& w, std::uint64_t key) noexcept {
        std::uintptr_t const address = w.address();
        loaded_module const* const module = generation.find(address);
        if (module == nullptr || module->index == nullptr) return step_without_rules(generation, module, w);
        std::uintptr_t const place = module->find_description(address);
        frame_description d;
        if (place == 0) return step_without_rules(generation, module, w);
        if (!read_description(module->tables, place, d)) return w.stop(unwind_end::unknown_rules);
        if (address < d.begin || address >= d.end) return step_without_rules(generation, module, w);
        if (d.signal_frame && !registers::trusts_signal_rules) return step_without_rules(generation, module, w);
        frame_rules full;
        if (d.return_address != registers::return_address || !cfa_interpreter{d, full}.run(address))
            return w.stop(unwind_end::unknown_rules);
        compact_rules compact;
        if (!d.signal_frame && compact.assign(full)) rules.insert(key, compact);
        return apply(module->tables, full, d.signal_frame, w);
    }

    static bool apply(table_bytes const& tables, frame_rules const& rules, bool signal_frame, walk& w) noexcept {
        registers const& now = w.regs;
        if (rules.kind[registers::return_address] == rule_kind::undefined) return w.stop(unwind_end::complete);
        std::uintptr_t cfa = 0;
        if (rules.cfa_expression != 0) {
            if (!evaluate(tables, rules.cfa_expression, now, w.stack, nullptr, cfa)) return w.stop(unwind_end::broken_stack);
        } else {
            if (rules.cfa_register >= registers::count) return w.stop(unwind_end::unknown_rules);
            cfa = now.value[rules.cfa_register] + static_cast<std::uintptr_t>(rules.cfa_offset);
        }
        std::uintptr_t const sp = now.value[registers::sp];
        registers caller = now;
        caller.value[registers::sp] = cfa;
        for (unsigned i = 0; i < registers::count; ++i) {
            rule_kind const kind = rules.kind[i];
            if (kind == rule_kind::same || kind == rule_kind::undefined) continue;
            auto const operand = static_cast<std::uintptr_t>(rules.operand[i]);
            std::uintptr_t value = cfa + operand;
            bool known = true;
            if (kind == rule_kind::in_register) {
                known = operand < registers::count;
                if (known) value = now.value[operand];
            } else if (kind == rule_kind::at_expression || kind == rule_kind::is_expression) {
                known = evaluate(tables, operand, now, w.stack, &cfa, value);
            }
            if (known && (kind == rule_kind::at_offset || kind == rule_kind::at_expression)) {
                known = w.stack.holds_word(value);
                if (known) value = peek(value);
            }
            // In the epilogue of a realigned frame the tables of g++ are wrong about registers that are restored already.
            if (!known && (i == registers::return_address || i == registers::sp)) return w.stop(unwind_end::broken_stack);
            caller.value[i] = known ? value : 0;
        }
        bool const by_call = registers::call_needs_stack && rules.kind[registers::sp] == rule_kind::same;  // longjmp does not
        if (!signal_frame && !w.moves_up(caller.value[registers::sp], by_call)) return w.stop(unwind_end::broken_stack);
        w.regs = caller;
        if (!w.to_caller(caller.value[registers::sp])) return false;
        w.exact = signal_frame;
        return !signal_frame || w.enter_stack(sp) || w.stop(unwind_end::broken_stack);
    }

    // Code that no table describes: the signal trampoline, as musl and the vDSO of aarch64 have it; a stub of the PLT of aarch64,
    // which has changed neither sp nor the return address; the code that begins a thread and has, by the ABI, no frame pointer; or
    // a hole.
    static bool step_without_rules(module_generation const& generation, loaded_module const* module, walk& w) noexcept {
        std::uintptr_t const pc = w.regs.value[registers::pc];
        if (module == nullptr) return w.stop(unwind_end::unknown_code);
        if (module->permanent && pc >= module->begin && module->end - pc >= sizeof registers::signal_return) {
            constexpr std::size_t size = registers::signal_return_bytes;
            if (__builtin_memcmp(reinterpret_cast<void const*>(pc), registers::signal_return, size) == 0) return w.to_interrupted();
        }
        if (w.exact && !registers::call_needs_stack) {
            std::uintptr_t const caller = registers::code_address(w.regs.value[registers::return_address]);
            if (caller != pc && generation.find(caller - 1) != nullptr) return w.to_caller(w.regs.value[registers::sp]);
        }
        return w.stop(!w.exact && w.regs.value[registers::fp] == 0 ? unwind_end::complete : unwind_end::unknown_code);
    }
};

}

#endif
