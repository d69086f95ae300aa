// thaw floor 1 sampler: the registers of x86-64 as an unwinder sees them, numbered as in DWARF. Signal-safe; allocates nothing.
#ifndef THAW_SAMPLER_REGISTERS_X86_64_HPP
#define THAW_SAMPLER_REGISTERS_X86_64_HPP

#include <thaw/core/config.hpp>

#if defined(__x86_64__)

#include <cstddef>
#include <cstdint>

#include <ucontext.h>

namespace thaw::sampler {

// The word at `address`, read past the sanitizers: the stack's red zones and other frames' variables are among what is read.
// The caller has checked that the address is mapped.
THAW_DETAIL_INLINE std::uintptr_t peek(std::uintptr_t address) noexcept {
    std::uintptr_t word;
    __asm__ volatile("movq (%1), %0" : "=r"(word) : "r"(address));
    return word;
}

struct registers {
    static constexpr unsigned count = 17, fp = 6, sp = 7, pc = 16;
    static constexpr unsigned return_address = 16;                        // the column that holds the caller's pc
    static constexpr unsigned char saved[] = {3, 6, 12, 13, 14, 15, 16};  // what a function may save for its caller
    static constexpr std::uintptr_t red_zone_bytes = 128;                 // below sp, in use by the interrupted function
    static constexpr bool call_needs_stack = true;                        // a call alone moves sp
    static constexpr bool trusts_signal_rules = true;                     // CFI of the signal trampoline restores everything
    static constexpr std::uintptr_t context_offset = 0;                   // of the ucontext from sp in the signal trampoline
    static constexpr std::uint64_t signal_return[] = {0x0F0000000FC0C748, 0x05};  // mov $15, %rax; syscall
    static constexpr std::size_t signal_return_bytes = 9;
    static constexpr std::size_t context_bytes = offsetof(ucontext_t, uc_mcontext.gregs) + 17 * 8;

    std::uintptr_t value[count];

    // From the ucontext_t at `context`, all context_bytes of which are readable.
    static registers of(std::uintptr_t context) noexcept {
        // Where the kernel keeps each: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
        constexpr unsigned char place[count] = {13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7, 16};
        registers r;
        for (unsigned i = 0; i < count; ++i)
            r.value[i] = peek(context + offsetof(ucontext_t, uc_mcontext.gregs) + std::uintptr_t{8} * place[i]);
        return r;
    }

    // What the function that this is inlined into has now, as far as a caller's frame can depend on it.
    THAW_DETAIL_INLINE void capture() noexcept {
        for (auto& v : value) v = 0;
        __asm__ volatile("movq %%rbx, 24(%0)\n\tmovq %%rbp, 48(%0)\n\tmovq %%rsp, 56(%0)\n\tmovq %%r12, 96(%0)\n\t"
                         "movq %%r13, 104(%0)\n\tmovq %%r14, 112(%0)\n\tmovq %%r15, 120(%0)\n\t"
                         "0: leaq 0b(%%rip), %%rax\n\tmovq %%rax, 128(%0)"
                         :
                         : "r"(value)
                         : "rax", "memory");
    }

    static constexpr std::uintptr_t code_address(std::uintptr_t return_address_word) noexcept { return return_address_word; }
};

}

#endif

#endif
