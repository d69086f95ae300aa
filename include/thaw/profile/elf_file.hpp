// thaw floor 1 profile: reads an ELF file of 64 bits, little-endian, that may be damaged, cut off or no ELF file at all: headers,
// sections, the build id, strings. Everything is read with pread and checked before it is used, and nothing is mapped: a file that
// shrinks meanwhile ends a read and not the process.
//
// Thread-compatible; allocates; throws nothing but std::bad_alloc; changes errno.
#ifndef THAW_PROFILE_ELF_FILE_HPP
#define THAW_PROFILE_ELF_FILE_HPP

#include <thaw/core/config.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

namespace thaw::detail {

// What files are read into: an argument of templates, so that only a unit that reads files pays for instantiating them.
struct elf_types {
    using string = std::string;
    using segment_header = Elf64_Phdr;
    using section_header = Elf64_Shdr;
    using symbol = Elf64_Sym;
    using relocation = Elf64_Rela;
};

template <class Types = elf_types>
class basic_elf_file {
public:
    using types = Types;
    using string = typename Types::string;
    using section_headers = std::vector<typename Types::section_header>;

    // Opens a regular file; "[vdso]" is read from this process's memory. What is missing or no ELF file has no sections and no
    // build id.
    explicit basic_elf_file(string const& path) {
        if (path == "[vdso]") {
            m_base = ::getauxval(AT_SYSINFO_EHDR);
            if (m_base != 0) m_fd = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
        } else {
            m_fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); // a pipe must not hold us up
            struct stat status = {};
            if (m_fd >= 0 && (::fstat(m_fd, &status) != 0 || !S_ISREG(status.st_mode))) {
                ::close(m_fd);
                m_fd = -1;
                errno = ENOEXEC;
            }
        }
        m_open_error = m_fd < 0 ? errno : 0;
        read_headers();
    }
    basic_elf_file(basic_elf_file const&) = delete;
    basic_elf_file& operator=(basic_elf_file const&) = delete;
    ~basic_elf_file() {
        if (m_fd >= 0) ::close(m_fd);
    }

    [[nodiscard]] bool is_open() const noexcept { return m_fd >= 0; }
    // True where the file could not be opened for want of something that may be there later.
    [[nodiscard]] bool is_out_of_resources() const noexcept {
        return m_open_error == EMFILE || m_open_error == ENFILE || m_open_error == ENOMEM || m_open_error == EINTR;
    }

    [[nodiscard]] unsigned machine() const noexcept { return m_header.e_machine; }
    [[nodiscard]] section_headers const& sections() const noexcept { return m_sections; }

    // All of [offset, offset + size) or nothing.
    [[nodiscard]] bool read(std::uint64_t offset, void* to, std::size_t size) const noexcept {
        auto* at = static_cast<char*>(to);
        if (m_fd < 0 || offset > INT64_MAX - m_base || size > INT64_MAX - m_base - offset) return false;
        for (offset += m_base; size != 0;) {
            ssize_t const n = ::pread(m_fd, at, size, static_cast<off_t>(offset));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) return false;
            at += n;
            offset += static_cast<std::uint64_t>(n);
            size -= static_cast<std::size_t>(n);
        }
        return true;
    }

    // The linker's build id in hexadecimal; empty if there is none.
    [[nodiscard]] string build_id() const {
        for (Elf64_Phdr const& p : m_segments) {
            if (p.p_type != PT_NOTE || p.p_filesz > max_notes) continue;
            std::vector<unsigned char> notes(static_cast<std::size_t>(p.p_filesz));
            if (!read(p.p_offset, notes.data(), notes.size())) continue;
            string const id = build_id_in(notes, p.p_align == 8 ? 8 : 4);
            if (!id.empty()) return id;
        }
        return {};
    }

    // Whether code of the file is mapped so that `address` of its symbol table comes from `offset`.
    [[nodiscard]] bool has_code(std::uint64_t address, std::uint64_t offset) const noexcept {
        for (Elf64_Phdr const& p : m_segments)
            if (p.p_type == PT_LOAD && (p.p_flags & PF_X) != 0 && address - offset == p.p_vaddr - p.p_offset) return true;
        return false;
    }

    // The section that holds [address, address + 1) as code; null if there is none.
    [[nodiscard]] Elf64_Shdr const* code_section(std::uint64_t address) const noexcept {
        for (Elf64_Shdr const& s : m_sections)
            if (is_code(s) && address >= s.sh_addr && address - s.sh_addr < s.sh_size) return &s;
        return nullptr;
    }

    [[nodiscard]] static bool is_code(Elf64_Shdr const& s) noexcept {
        return s.sh_type == SHT_PROGBITS && (s.sh_flags & (SHF_ALLOC | SHF_EXECINSTR)) == (SHF_ALLOC | SHF_EXECINSTR);
    }

    // The first section of that type, or of that name; null if there is none.
    [[nodiscard]] Elf64_Shdr const* section(std::uint32_t type) const noexcept {
        for (Elf64_Shdr const& s : m_sections)
            if (s.sh_type == type) return &s;
        return nullptr;
    }
    [[nodiscard]] Elf64_Shdr const* section(char const* name) const {
        for (Elf64_Shdr const& s : m_sections)
            if (name_of(s) == name) return &s;
        return nullptr;
    }

    [[nodiscard]] string name_of(Elf64_Shdr const& s) const {
        if (m_header.e_shstrndx >= m_sections.size()) return {};
        string name;
        return string_at(m_sections[m_header.e_shstrndx], s.sh_name, name) ? name : string();
    }

    // Whether the section is a string table: it begins and ends with a zero.
    [[nodiscard]] bool is_string_table(Elf64_Shdr const& s) const noexcept {
        char first = 1;
        char last = 1;
        return s.sh_type == SHT_STRTAB && s.sh_size != 0 && read(s.sh_offset, &first, 1) &&
               s.sh_offset <= UINT64_MAX - s.sh_size && read(s.sh_offset + s.sh_size - 1, &last, 1) && first == 0 && last == 0;
    }

    // Reads a string of a string table. False where it is not within the table, or longer than max_string.
    [[nodiscard]] bool string_at(Elf64_Shdr const& table, std::uint64_t at, string& to) const {
        to.clear();
        for (;;) {
            if (at >= table.sh_size || to.size() > max_string || table.sh_offset > UINT64_MAX - table.sh_size) return false;
            std::uint64_t const wanted = table.sh_offset + at;
            if (wanted < m_window_at || wanted >= m_window_at + m_window_size) {
                std::uint64_t const rest = table.sh_size - at;
                std::size_t const size = rest < sizeof m_window ? static_cast<std::size_t>(rest) : sizeof m_window;
                m_window_size = 0;
                if (!read(wanted, m_window, size)) return false;
                m_window_at = wanted;
                m_window_size = size;
            }
            auto const skip = static_cast<std::size_t>(wanted - m_window_at);
            std::size_t size = m_window_size - skip;
            if (size > table.sh_size - at) size = static_cast<std::size_t>(table.sh_size - at);
            auto const* const end = static_cast<char const*>(__builtin_memchr(m_window + skip, 0, size));
            if (end != nullptr) size = static_cast<std::size_t>(end - (m_window + skip));
            to.append(m_window + skip, size);
            if (end != nullptr) return to.size() <= max_string;
            at += size;
        }
    }

private:
    static constexpr std::size_t max_string = 16384;
    static constexpr std::size_t max_notes = 65536;
    static constexpr std::size_t max_headers = 4096; // of each kind; linked files have some forty

    void read_headers() {
        Elf64_Ehdr& h = m_header;
        bool const known = read(0, &h, sizeof h) && __builtin_memcmp(h.e_ident, ELFMAG, SELFMAG) == 0 &&
                           h.e_ident[EI_CLASS] == ELFCLASS64 && h.e_ident[EI_DATA] == ELFDATA2LSB &&
                           (h.e_type == ET_EXEC || h.e_type == ET_DYN);
        if (!known) {
            h = {};
            return;
        }
        if (h.e_phentsize == sizeof(Elf64_Phdr)) read_table(h.e_phoff, h.e_phnum, m_segments);
        if (h.e_shentsize == sizeof(Elf64_Shdr)) read_table(h.e_shoff, h.e_shnum, m_sections);
    }

    template <class Header>
    void read_table(std::uint64_t offset, std::size_t count, std::vector<Header>& to) {
        if (count > max_headers) return;
        to.resize(count);
        if (!read(offset, to.data(), count * sizeof(Header))) to.clear();
    }

    [[nodiscard]] static string build_id_in(std::vector<unsigned char> const& notes, std::size_t align) {
        static constexpr char digits[] = "0123456789abcdef";
        std::size_t const size = notes.size();
        auto const padded = [align](std::size_t n) { return (n + align - 1) & ~(align - 1); };
        for (std::size_t at = 0; size - at >= 16;) {
            std::uint32_t head[3];
            __builtin_memcpy(head, notes.data() + at, sizeof head);
            std::size_t const content = at + padded(12 + std::size_t{head[0]}); // head and name are padded together
            if (content > size || head[1] > size - content) break;
            if (head[2] == NT_GNU_BUILD_ID && head[0] == 4 && __builtin_memcmp(notes.data() + at + 12, "GNU", 4) == 0) {
                string id;
                for (std::size_t i = content; i < content + head[1]; ++i)
                    id.append(1, digits[notes[i] >> 4]).append(1, digits[notes[i] & 15]);
                return id;
            }
            at = padded(content + head[1]);
            if (at > size) break;
        }
        return {};
    }

    int m_fd = -1;
    int m_open_error = 0;
    std::uint64_t m_base = 0; // of the image within what is read
    Elf64_Ehdr m_header = {};
    std::vector<typename Types::segment_header> m_segments;
    section_headers m_sections;
    mutable std::uint64_t m_window_at = 0; // what was read last of the strings, for those beside them
    mutable std::size_t m_window_size = 0;
    mutable char m_window[4096];
};

using elf_file = basic_elf_file<>;

}

#endif
