// thaw floor 2 agent: the code that is loaded now, as a CPU profile lists it: files, where they are mapped, build ids.
//
// Takes the dynamic loader's lock, and allocates, though not at the same time. Not for signal handlers. Templates, so that
// they are compiled where a report is made.
#ifndef THAW_AGENT_LOADED_CODE_HPP
#define THAW_AGENT_LOADED_CODE_HPP

#include <thaw/core/config.hpp>

#if THAW_ENABLED

#include <thaw/core/elf_note.hpp>
#include <thaw/profile/cpu_profile.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <link.h>
#include <sys/auxv.h>
#include <unistd.h>

THAW_DETAIL_BEGIN
namespace detail {

template <class String = std::string>
[[nodiscard]] String hexadecimal(unsigned char const* bytes, std::size_t size) {
    String s;
    for (std::size_t i = 0; i < size; ++i) s += "0123456789abcdef"[bytes[i] >> 4], s += "0123456789abcdef"[bytes[i] & 15];
    return s;
}

template <class Module>
class loaded_code {
public:
    // Lists what is loaded, unless it is what was loaded the last time. True where it is new.
    bool renew() {
        for (int tries = 0; tries < 3; ++tries) {  // modules may come and go between counting and filling
            walk w{*this};
            ::dl_iterate_phdr(&visit, &w);
            if (w.fits && m_known && w.changes == m_changes) return false;
            if (w.fits) {
                m_changes = w.changes;
                finish(w);
                m_known = true;
                return true;
            }
            m_known = false;
            m_segments.resize(w.segments + 16);
            m_paths.resize(w.path_bytes + 1024);
        }
        return false;
    }

    [[nodiscard]] std::vector<Module> const& modules() const noexcept { return m_modules; }

private:
    struct segment {
        std::uintptr_t start, limit, bias;
        std::uint64_t file_offset;
        std::size_t path_at, path_size;
        unsigned char id[64];
        std::size_t id_size;
        bool executable, vdso;
    };

    struct walk {
        loaded_code& self;
        std::size_t segments = 0;
        std::size_t path_bytes = 0;
        std::uint64_t changes = 0;
        bool fits = true;
        bool first = true;
    };

    static int visit(dl_phdr_info* info, std::size_t, void* opaque) {
        auto& w = *static_cast<walk*>(opaque);
        loaded_code& self = w.self;
        w.changes = static_cast<std::uint64_t>(info->dlpi_adds) + static_cast<std::uint64_t>(info->dlpi_subs);
        segment s{};
        s.bias = info->dlpi_addr;
        s.executable = w.first;
        w.first = false;
        std::uintptr_t const vdso = ::getauxval(AT_SYSINFO_EHDR);
        for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
            auto const& h = info->dlpi_phdr[i];
            std::uintptr_t const at = s.bias + h.p_vaddr;
            if (h.p_type == PT_LOAD && vdso != 0 && vdso >= at && vdso - at < h.p_memsz) s.vdso = true;
            if (h.p_type != PT_NOTE) continue;
            auto const* const notes = reinterpret_cast<unsigned char const*>(at);
            core::parse_notes(
                notes, notes + h.p_memsz, h.p_align, s.executable,
                [](void* to, core::elf_note const& note) {
                    auto& of = *static_cast<segment*>(to);
                    if (!note.is("GNU", 3) || note.content_size > sizeof of.id) return;
                    __builtin_memcpy(of.id, note.content, of.id_size = note.content_size);
                },
                &s);
        }
        s.path_at = w.path_bytes;
        s.path_size = info->dlpi_name == nullptr ? 0 : __builtin_strlen(info->dlpi_name);
        w.path_bytes += s.path_size;
        if (w.path_bytes > self.m_paths.size()) w.fits = false;
        else if (s.path_size != 0) __builtin_memcpy(self.m_paths.data() + s.path_at, info->dlpi_name, s.path_size);
        for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
            auto const& h = info->dlpi_phdr[i];
            if (h.p_type != PT_LOAD || (h.p_flags & PF_X) == 0) continue;
            s.start = s.bias + h.p_vaddr;
            s.limit = s.start + h.p_memsz;
            s.file_offset = h.p_offset;
            if (w.segments < self.m_segments.size()) self.m_segments[w.segments] = s;
            else w.fits = false;
            ++w.segments;
        }
        return 0;
    }

    void finish(walk const& w) {
        m_modules.clear();
        for (std::size_t i = 0; i < w.segments; ++i) {
            segment const& s = m_segments[i];
            std::string path(m_paths.data() + s.path_at, s.path_size);
            if (s.vdso) path = "[vdso]";
            else if (s.executable) path = executable_path();
            m_modules.push_back({path, hexadecimal(s.id, s.id_size), s.start, s.limit, s.file_offset, s.bias});
        }
    }

    [[nodiscard]] static std::string executable_path() {
        std::string path(4096, '\0');
        ssize_t const size = ::readlink("/proc/self/exe", path.data(), path.size());
        path.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
        return path;
    }

    std::vector<Module> m_modules;
    std::vector<segment> m_segments;
    std::vector<char> m_paths;
    std::uint64_t m_changes = 0;
    bool m_known = false;
};

}
THAW_DETAIL_END

#endif

#endif
