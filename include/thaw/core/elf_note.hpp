// thaw floor 1 core: the ELF notes of the modules that are loaded. Takes the dynamic loader's lock; not for signal handlers.
#ifndef THAW_CORE_ELF_NOTE_HPP
#define THAW_CORE_ELF_NOTE_HPP

#include <thaw/core/config.hpp>

#include <cstddef>
#include <cstdint>

// As <link.h> declares them, which with <elf.h> costs a translation unit 6 ms.
struct dl_phdr_info;
extern "C" int dl_iterate_phdr(int (*)(dl_phdr_info*, std::size_t, void*), void*);

namespace thaw::core {

// The beginning of dl_phdr_info, and of a 64-bit program header.
struct [[gnu::may_alias]] program_header {
    std::uint32_t type;
    std::uint32_t flags;
    std::uint64_t offset;
    std::uint64_t address;
    std::uint64_t physical_address;
    std::uint64_t file_size;
    std::uint64_t memory_size;
    std::uint64_t align;
};
struct [[gnu::may_alias]] module_headers {
    std::uintptr_t bias;
    char const* path;
    program_header const* headers;
    std::uint16_t count;
};
inline constexpr std::uint32_t note_segment = 4;  // PT_NOTE

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

// Who is told of notes. `context` is passed on.
using note_visitor = void (*)(void* context, elf_note const&);

// Visits the notes in [at, end), which are aligned to 4 or 8 bytes. Stops at the first that does not fit.
inline void parse_notes(unsigned char const* at, unsigned char const* end, std::size_t align, bool first_module, note_visitor visit,
                        void* context) noexcept {
    align = align == 8 ? 8 : 4;
    while (static_cast<std::size_t>(end - at) >= 12) {
        std::uint32_t head[3];
        __builtin_memcpy(head, at, sizeof head);
        std::size_t const rest = static_cast<std::size_t>(end - at);
        // Head and name together are padded: with 8 bytes of alignment the content of a note "GNU" begins at 16, not at 20.
        std::size_t const content_at = (12 + std::size_t{head[0]} + align - 1) & ~(align - 1);
        if (content_at > rest || head[1] > rest - content_at) return;
        visit(context, elf_note{reinterpret_cast<char const*>(at + 12), head[0], head[2], at + content_at, head[1], first_module});
        std::size_t const size = (content_at + head[1] + align - 1) & ~(align - 1);
        if (size > rest) return;
        at += size;
    }
}

// Visits every note of every loaded module, the executable first.
inline void for_each_elf_note(note_visitor visit, void* context) noexcept {
    struct walk {
        note_visitor visit;
        void* context;
        bool first;
    } all{visit, context, true};
    ::dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* opaque) -> int {
            auto const& module = *reinterpret_cast<module_headers const*>(info);
            auto& w = *static_cast<walk*>(opaque);
            for (program_header const* h = module.headers; h != module.headers + module.count; ++h) {
                if (h->type != note_segment) continue;
                auto const* const begin = reinterpret_cast<unsigned char const*>(module.bias + h->address);
                parse_notes(begin, begin + h->memory_size, h->align, w.first, w.visit, w.context);
            }
            w.first = false;
            return 0;
        },
        &all);
}

}

#endif
