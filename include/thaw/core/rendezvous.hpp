// thaw floor 5 core: the way by which several copies of these headers in one process find the same process_root.
//
// An executable and its shared objects may each carry the headers; whether their inline variables are one object or several
// depends on visibility, on the compiler and on how the object was loaded. So nothing relies on it: every module has a hidden
// slot of its own (this_module), and an ELF note that says where the slot is. thaw::start makes the process_root, in memory that
// belongs to no module, and writes its address into the slots of all loaded modules; a module that is loaded later finds it by
// looking through the notes of the others on its first hit. Rejected: a symbol of default visibility, which is one object or
// two depending on -rdynamic, RTLD_LOCAL and the compiler; an environment variable, which changes what the host sees.
//
// Thread-safe. Takes the dynamic loader's lock once per module; not for signal handlers.
#ifndef THAW_CORE_RENDEZVOUS_HPP
#define THAW_CORE_RENDEZVOUS_HPP

#include <thaw/core/elf_note.hpp>
#include <thaw/core/thread_head.hpp>

#include <cstdint>

extern "C" [[gnu::visibility("hidden")]] char const thaw_module_note[];

namespace thaw::core {

// The note: owner "thaw", type THAW_DETAIL_ABI, content: where the slot is, relative to the content.
#define THAW_DETAIL_STRING_(x) #x
#define THAW_DETAIL_STRING(x) THAW_DETAIL_STRING_(x)
__asm__(".pushsection .note.thaw,\"aG\",%note,thaw_module_note,comdat\n"
        ".ifndef thaw_module_note\n"
        ".globl thaw_module_note\n"
        ".hidden thaw_module_note\n"
        ".balign 4\n"
        "thaw_module_note:\n"
        ".long 5, 4, " THAW_DETAIL_STRING(THAW_DETAIL_ABI) "\n"
        ".asciz \"thaw\"\n"
        ".balign 4\n"
        ".long thaw_module_slot - .\n"
        ".endif\n"
        ".popsection\n");

// Calls f(context, slot) for every loaded module that carries these headers with the same layout, this one included.
inline void for_each_module(void (*f)(void*, module_slot&), void* context) noexcept {
    __asm__ volatile("" : : "r"(&thaw_module_note));  // keeps the note through --gc-sections
    struct visit {
        void (*f)(void*, module_slot&);
        void* context;
    } each{f, context};
    for_each_elf_note(
        [](void* opaque, elf_note const& note) {
            if (!note.is("thaw", THAW_DETAIL_ABI) || note.content_size != 4) return;
            std::int32_t distance = 0;
            __builtin_memcpy(&distance, note.content, sizeof distance);
            auto const& v = *static_cast<visit const*>(opaque);
            v.f(v.context, *reinterpret_cast<module_slot*>(reinterpret_cast<std::intptr_t>(note.content) + distance));
        },
        &each);
}

// The process's root, or null while thaw has not been started. The first call of a module looks for the others.
THAW_DETAIL_COLD inline process_root* find_process() noexcept {
    if (load_acquire(this_module.process) == nullptr && load_relaxed(this_module.idle) == 0) {
        for_each_module(
            [](void*, module_slot& other) {
                // acquire: pairs with the release by which thaw::start published a complete root, and what is read here after it
                process_root* const p = load_acquire(other.process);
                if (p == nullptr || p == load_relaxed(this_module.process)) return;
                store_relaxed(this_module.marking, load_relaxed(other.marking));
                store_release(this_module.process, p);  // pairs with the acquires in this function and in marking()
            },
            nullptr);
        if (load_relaxed(this_module.process) == nullptr) store_relaxed(this_module.idle, 1u);
    }
    return load_acquire(this_module.process);
}

// The functions for what is off the hot path; null while thaw has not been started.
THAW_DETAIL_INLINE marking_functions const* marking() noexcept {
    if (load_acquire(this_module.process) == nullptr && find_process() == nullptr) return nullptr;  // acquire: see find_process
    return load_relaxed(this_module.marking);
}

}

#endif
