// thaw floor 1 core: the ELF notes of the modules that are loaded. Takes the dynamic loader's lock; not for signal handlers.
#ifndef THAW_CORE_ELF_NOTE_HPP
#define THAW_CORE_ELF_NOTE_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>

#include <link.h>

namespace thaw::core {

struct elf_note {
    char const* name;              // with its terminating zero, name_size bytes
    std::uint32_t name_size;
    std::uint32_t type;
    unsigned char const* content;
    std::uint32_t content_size;
    bool first_module;             // the note belongs to the executable

    [[nodiscard]] bool is(char const* wanted_name, std::uint32_t wanted_type) const noexcept {
        return type == wanted_type && name_size == __builtin_strlen(wanted_name) + 1 &&
               __builtin_memcmp(name, wanted_name, name_size) == 0;
    }
};

// Calls f(elf_note) for the notes in [at, end), which are aligned to 4 or 8 bytes. Stops at the first that does not fit.
template <class F>
void parse_notes(unsigned char const* at, unsigned char const* end, std::size_t align, bool first_module, F&& f) noexcept {
    align = align == 8 ? 8 : 4;
    while (static_cast<std::size_t>(end - at) >= 12) {
        std::uint32_t head[3];
        __builtin_memcpy(head, at, sizeof head);
        std::size_t const rest = static_cast<std::size_t>(end - at);
        // Head and name together are padded: with 8 bytes of alignment the content of a note "GNU" begins at 16, not at 20.
        std::size_t const content_at = (12 + std::size_t{head[0]} + align - 1) & ~(align - 1);
        if (content_at > rest || head[1] > rest - content_at) return;
        f(elf_note{reinterpret_cast<char const*>(at + 12), head[0], head[2], at + content_at, head[1], first_module});
        std::size_t const size = (content_at + head[1] + align - 1) & ~(align - 1);
        if (size > rest) return;
        at += size;
    }
}

// Calls f(elf_note) for every note of every loaded module, the executable first.
template <class F>
void for_each_elf_note(F f) noexcept {
    struct walk {
        F& f;
        bool first;
    } context{f, true};
    ::dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* opaque) -> int {
            auto& w = *static_cast<walk*>(opaque);
            for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
                auto const& segment = info->dlpi_phdr[i];
                if (segment.p_type != PT_NOTE) continue;
                auto const* const begin = reinterpret_cast<unsigned char const*>(info->dlpi_addr + segment.p_vaddr);
                parse_notes(begin, begin + segment.p_memsz, segment.p_align, w.first, w.f);
            }
            w.first = false;
            return 0;
        },
        &context);
}

}

#endif
