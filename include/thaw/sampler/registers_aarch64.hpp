// thaw floor 1 sampler: the registers of aarch64 as an unwinder sees them, numbered as in DWARF. Signal-safe; allocates nothing.
#ifndef THAW_SAMPLER_REGISTERS_AARCH64_HPP
#define THAW_SAMPLER_REGISTERS_AARCH64_HPP

#include <thaw/core/config.hpp>

#if defined(__aarch64__)

#include <cstddef>
#include <cstdint>

#include <signal.h>
#include <ucontext.h>

namespace thaw::sampler {

// The word at `address`, read past the sanitizers: the stack's red zones and other frames' variables are among what is read.
// The caller has checked that the address is mapped.
THAW_DETAIL_INLINE std::uintptr_t peek(std::uintptr_t address) noexcept {
    std::uintptr_t word;
    __asm__ volatile("ldr %0, [%1]" : "=r"(word) : "r"(address));
    return word;
}

struct registers {
    static constexpr unsigned count = 33, fp = 29, sp = 31, pc = 32;
    static constexpr unsigned return_address = 30;  // the column that holds the caller's pc
    static constexpr unsigned char saved[] = {19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30};  // what a function may save
    static constexpr std::uintptr_t red_zone_bytes = 0;
    static constexpr bool call_needs_stack = false;       // a leaf function may leave sp alone
    static constexpr bool trusts_signal_rules = false;    // kernels before 5.8 describe the trampoline without the interrupted pc
    static constexpr std::uintptr_t context_offset = sizeof(siginfo_t);  // of the ucontext from sp in the signal trampoline
    static constexpr std::uint64_t signal_return[] = {0xD4000001D2801168};  // mov x8, #139; svc #0
    static constexpr std::size_t signal_return_bytes = 8;
    static constexpr std::size_t context_bytes = offsetof(ucontext_t, uc_mcontext.regs) + count * 8;

    std::uintptr_t value[count];

    // From the ucontext_t at `context`, all context_bytes of which are readable.
    static registers of(std::uintptr_t context) noexcept {
        static_assert(offsetof(ucontext_t, uc_mcontext.sp) == offsetof(ucontext_t, uc_mcontext.regs) + 31 * 8);
        static_assert(offsetof(ucontext_t, uc_mcontext.pc) == offsetof(ucontext_t, uc_mcontext.regs) + 32 * 8);
        registers r;
        for (unsigned i = 0; i < count; ++i) r.value[i] = peek(context + offsetof(ucontext_t, uc_mcontext.regs) + 8 * i);
        return r;
    }

    // What the function that this is inlined into has now, as far as a caller's frame can depend on it.
    THAW_DETAIL_INLINE void capture() noexcept {
        for (auto& v : value) v = 0;
        __asm__ volatile("stp x19, x20, [%0, #152]\n\tstp x21, x22, [%0, #168]\n\tstp x23, x24, [%0, #184]\n\t"
                         "stp x25, x26, [%0, #200]\n\tstp x27, x28, [%0, #216]\n\tstp x29, x30, [%0, #232]\n\t"
                         "mov x9, sp\n\tadr x10, .\n\tstp x9, x10, [%0, #248]"
                         :
                         : "r"(value)
                         : "x9", "x10", "memory");
    }

    // Without the signature that a function compiled with pointer authentication puts into its return address: xpaclri, which
    // processors without it take for a nop.
    static std::uintptr_t code_address(std::uintptr_t return_address_word) noexcept {
        register std::uintptr_t x30 __asm__("x30") = return_address_word;
        __asm__("hint #7" : "+r"(x30));
        return x30;
    }
};

}

#endif

#endif
