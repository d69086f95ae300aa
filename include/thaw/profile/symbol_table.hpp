// thaw floor 2 profile: finds the functions around some addresses of an ELF file, in one pass over its symbols: nothing is sorted
// but the addresses, and only the names that are asked for are read.
//
// A function is the symbol that holds the address, of several the one that begins last. Of symbols at the same place a global one
// is taken before a local one, and then the cleanest name: the fewest leading underscores, then the shortest. A symbol without
// a size (hand-written assembly) reaches up to the next symbol of its section; in .dynsym, where the functions between two symbols
// are not listed, it does not. An address in a procedure linkage table is "name@plt" of what is called there.
//
// Thread-compatible; allocates; throws nothing but std::bad_alloc; changes errno. Templates, so that a unit that looks up no name
// does not pay for instantiating them.
#ifndef THAW_PROFILE_SYMBOL_TABLE_HPP
#define THAW_PROFILE_SYMBOL_TABLE_HPP

#include <thaw/core/config.hpp>
#include <thaw/profile/elf_file.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include <cxxabi.h>
#include <elf.h>

namespace thaw::detail {

// How much looking up names may take.
struct symbol_limits {
    std::uint64_t monotonic_ns = UINT64_MAX;   // no longer than until then, on CLOCK_MONOTONIC
    std::uint64_t table_bytes = 128ull << 20;  // of the symbols of a module; one with more of them is left without names

    [[nodiscard]] bool is_over() const noexcept {
        if (monotonic_ns == UINT64_MAX) return false;
        timespec now = {};
        clock_gettime(CLOCK_MONOTONIC, &now);
        return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec) >= monotonic_ns;
    }
};

// Addresses that have the same function, as they are in the file; without a name where none was found.
struct symbol_range {
    std::uint64_t first = 0;
    std::uint64_t limit = 0;
    std::string name; // as it stands in the file
};

template <class File>
class symbol_table {
public:
    explicit symbol_table(File const& file) : m_file(file) {
        for (std::uint32_t const type : {std::uint32_t{SHT_SYMTAB}, std::uint32_t{SHT_DYNSYM}})
            if (m_symbols == nullptr) use(file.section(type));
    }

    [[nodiscard]] bool exists() const noexcept { return m_symbols != nullptr; }
    [[nodiscard]] std::uint64_t size_bytes() const noexcept { return m_symbols == nullptr ? 0 : m_symbols->sh_size; }

    // Appends to `found` the ranges that hold the addresses, in their order, each range once. False where the time was not enough;
    // then nothing is appended. Requires: addresses are sorted and each is there once.
    template <class Addresses, class Ranges>
    [[nodiscard]] bool find(Addresses const& addresses, symbol_limits const& limits, Ranges& found) {
        if (addresses.empty()) return true;
        m_places.assign(addresses.size(), {});
        for (std::size_t i = 0; i < addresses.size(); ++i) m_places[i].address = addresses[i];
        index_places();
        if (m_symbols != nullptr && !scan(limits)) return false;
        spread();
        std::size_t const before = found.size();
        for (place const& p : m_places) {
            if (found.size() > before && p.address < found.back().limit) continue;
            if (limits.is_over()) {
                found.resize(before);
                return false;
            }
            found.push_back(range_of(p));
        }
        return true;
    }

private:
    using string = typename File::string;

    static constexpr std::uint64_t symbol_size = sizeof(Elf64_Sym);

    struct place {
        std::uint64_t address = 0;
        // The symbol that holds the address.
        std::uint64_t start = 0;
        std::uint64_t limit = 0; // 0: there is none
        std::uint32_t name = 0;
        bool global = false;
        // The last symbol that begins at or before it.
        bool preceded = false;
        bool sizeless = false;
        bool before_global = false;
        std::uint32_t before_name = 0;
        std::uint32_t before_section = 0;
        std::uint64_t before = 0;
        // Where the first symbol after it begins.
        std::uint64_t next = UINT64_MAX;
    };

    void use(Elf64_Shdr const* symbols) {
        if (symbols == nullptr || symbols->sh_entsize != symbol_size || symbols->sh_size % symbol_size != 0 ||
            symbols->sh_size < symbol_size || symbols->sh_link >= m_file.sections().size())
            return;
        Elf64_Shdr const& strings = m_file.sections()[symbols->sh_link];
        Elf64_Sym first = {};
        Elf64_Sym const none = {};
        if (!m_file.is_string_table(strings) || !m_file.read(symbols->sh_offset, &first, sizeof first) ||
            __builtin_memcmp(&first, &none, sizeof none) != 0) // damaged: the first symbol stands for none
            return;
        m_symbols = symbols;
        m_strings = &strings;
    }

    // For a 2048th part of the range each, the first place in or behind it.
    void index_places() {
        std::uint64_t const width = m_places.back().address - m_places.front().address;
        m_shift = 0;
        while (width >> m_shift >= 2048) ++m_shift;
        m_first_place.assign(static_cast<std::size_t>(width >> m_shift) + 1, 0);
        std::size_t at = 0;
        for (std::size_t part = 0; part < m_first_place.size(); ++part) {
            while (at < m_places.size() && m_places[at].address - m_places.front().address < std::uint64_t{part} << m_shift) ++at;
            m_first_place[part] = static_cast<std::uint32_t>(at);
        }
    }

    // The first place at or behind an address.
    [[nodiscard]] std::size_t place_from(std::uint64_t address) const noexcept {
        if (address <= m_places.front().address) return 0;
        if (address > m_places.back().address) return m_places.size();
        std::size_t at = m_first_place[static_cast<std::size_t>((address - m_places.front().address) >> m_shift)];
        while (m_places[at].address < address) ++at;
        return at;
    }

    [[nodiscard]] bool scan(symbol_limits const& limits) {
        std::vector<typename File::types::symbol> part(2048);
        std::uint64_t left = m_symbols->sh_size / symbol_size;
        for (std::uint64_t at = m_symbols->sh_offset; left != 0;) {
            std::size_t const count = left < part.size() ? static_cast<std::size_t>(left) : part.size();
            if (limits.is_over()) return false;
            if (!m_file.read(at, part.data(), count * symbol_size)) { // cut off: what was seen so far may mislead
                for (place& p : m_places) p = {.address = p.address};
                return true;
            }
            for (std::size_t i = 0; i < count; ++i) see(part[i]);
            at += count * symbol_size;
            left -= count;
        }
        return true;
    }

    void see(Elf64_Sym const& s) {
        unsigned const type = ELF64_ST_TYPE(s.st_info);
        bool const global = ELF64_ST_BIND(s.st_info) != STB_LOCAL;
        // Without a type: what assembly exports. Its other labels, $x and $d of ARM among them, are no functions.
        if (type != STT_FUNC && type != STT_GNU_IFUNC && (type != STT_NOTYPE || !global)) return;
        if (s.st_shndx >= m_file.sections().size() || s.st_name == 0) return;
        Elf64_Shdr const& section = m_file.sections()[s.st_shndx];
        if (!File::is_code(section) || s.st_value < section.sh_addr || s.st_value - section.sh_addr >= section.sh_size ||
            s.st_size > section.sh_size - (s.st_value - section.sh_addr))
            return;
        std::size_t const from = place_from(s.st_value);
        if (from != 0 && s.st_value < m_places[from - 1].next) m_places[from - 1].next = s.st_value;
        if (from == m_places.size()) return;
        follow(m_places[from], s, global);
        std::uint64_t const limit = s.st_value + s.st_size;
        for (std::size_t i = from; i < m_places.size() && m_places[i].address < limit; ++i) {
            place& p = m_places[i];
            if (p.limit != 0 && (s.st_value < p.start || (s.st_value == p.start && !is_better(s, global, p.name, p.global)))) continue;
            p.start = s.st_value;
            p.limit = limit;
            p.name = s.st_name;
            p.global = global;
        }
    }

    void follow(place& p, Elf64_Sym const& s, bool global) {
        if (p.preceded && s.st_value < p.before) return;
        bool const same = p.preceded && s.st_value == p.before;
        bool const better = !same || is_better(s, global, p.before_name, p.before_global);
        p.sizeless = s.st_size == 0 && (!same || p.sizeless);
        p.preceded = true;
        p.before = s.st_value;
        if (!better) return;
        p.before_name = s.st_name;
        p.before_global = global;
        p.before_section = s.st_shndx;
    }

    // Whether an alias has a better name than the one known. Many places of a function ask the same.
    [[nodiscard]] bool is_better(Elf64_Sym const& s, bool global, std::uint32_t known_name, bool known_global) {
        if (global != known_global) return global;
        if (s.st_name != m_compared || known_name != m_compared_with) {
            m_compared = s.st_name;
            m_compared_with = known_name;
            m_was_better = is_cleaner(s.st_name, known_name);
        }
        return m_was_better;
    }

    [[nodiscard]] bool is_cleaner(std::uint32_t name, std::uint32_t known_name) {
        if (name == known_name || !m_file.string_at(*m_strings, name, m_name) || m_name.empty()) return false;
        if (!m_file.string_at(*m_strings, known_name, m_known_name) || m_known_name.empty()) return true;
        std::size_t const dirt = underscores(m_name);
        std::size_t const known_dirt = underscores(m_known_name);
        if (dirt != known_dirt) return dirt < known_dirt;
        if (m_name.size() != m_known_name.size()) return m_name.size() < m_known_name.size();
        return m_name < m_known_name;
    }

    [[nodiscard]] static std::size_t underscores(string const& name) noexcept {
        if (name.compare(0, 2, "_Z") == 0) return 0;
        std::size_t count = 0;
        while (count < name.size() && name[count] == '_') ++count;
        return count;
    }

    void spread() {
        for (std::size_t i = 1; i < m_places.size(); ++i) {
            place& p = m_places[i];
            place const& left = m_places[i - 1];
            if (p.preceded || !left.preceded) continue;
            p.preceded = true;
            p.sizeless = left.sizeless;
            p.before = left.before;
            p.before_name = left.before_name;
            p.before_section = left.before_section;
        }
        for (std::size_t i = m_places.size() - 1; i-- > 0;)
            if (m_places[i + 1].next < m_places[i].next) m_places[i].next = m_places[i + 1].next;
    }

    [[nodiscard]] symbol_range range_of(place const& p) {
        symbol_range r;
        Elf64_Shdr const* const section = m_file.code_section(p.address);
        // Up to the next symbol the same ones hold every address, unless one of them ends.
        r.first = p.address;
        r.limit = p.next > p.address ? p.next : p.address + 1;
        if (section != nullptr && r.limit > section->sh_addr + section->sh_size) r.limit = section->sh_addr + section->sh_size;
        if (section == nullptr) {
            r.limit = p.address + 1;
        } else if (p.limit != 0) {
            if (p.limit < r.limit) r.limit = p.limit;
            if (p.start == p.before) r.first = p.start;
            take_name(p.name, r);
        } else if (p.preceded && p.sizeless && m_symbols->sh_type == SHT_SYMTAB &&
                   section == &m_file.sections()[p.before_section]) {
            r.first = p.before;
            take_name(p.before_name, r);
        } else {
            find_linkage(*section, p.address, r);
        }
        return r;
    }

    // Versions of a symbol ("memcpy@@GLIBC_2.14") are none of its name.
    void take_name(std::uint32_t name, symbol_range& r) const {
        if (!m_file.string_at(*m_strings, name, r.name)) r.name.clear();
        std::size_t const version = r.name.find('@');
        if (version != string::npos) r.name.resize(version);
    }

    // The code of an entry says which slot it jumps through, and a relocation says what the loader puts there.
    void find_linkage(Elf64_Shdr const& section, std::uint64_t address, symbol_range& r) const {
        string const section_name = m_file.name_of(section);
        if (section_name.compare(0, 4, ".plt") != 0) return;
        std::uint64_t const entry = address - (address - section.sh_addr) % 16;
        r.limit = entry + 16;
        unsigned char code[16];
        std::uint64_t slot = 0;
        if (!m_file.read(section.sh_offset + (entry - section.sh_addr), code, sizeof code) || !slot_of(code, entry, slot)) return;
        Elf64_Shdr const* const relocations = m_file.section(section_name == ".plt.got" ? ".rela.dyn" : ".rela.plt");
        if (relocations == nullptr || relocations->sh_type != SHT_RELA || relocations->sh_link >= m_file.sections().size()) return;
        Elf64_Shdr const& symbols = m_file.sections()[relocations->sh_link];
        if (symbols.sh_type != SHT_DYNSYM || symbols.sh_link >= m_file.sections().size()) return;
        std::vector<typename File::types::relocation> part(512);
        std::uint64_t left = relocations->sh_size / sizeof(Elf64_Rela);
        for (std::uint64_t at = relocations->sh_offset; left != 0;) {
            std::size_t const count = left < part.size() ? static_cast<std::size_t>(left) : part.size();
            if (!m_file.read(at, part.data(), count * sizeof(Elf64_Rela))) return;
            for (std::size_t i = 0; i < count; ++i) {
                if (part[i].r_offset != slot) continue;
                Elf64_Sym s = {};
                std::uint64_t const number = ELF64_R_SYM(part[i].r_info);
                if (number != 0 && number < symbols.sh_size / symbol_size &&
                    m_file.read(symbols.sh_offset + number * symbol_size, &s, sizeof s) &&
                    m_file.string_at(m_file.sections()[symbols.sh_link], s.st_name, r.name) && !r.name.empty()) {
                    r.name += "@plt";
                    r.first = entry;
                } else {
                    r.name.clear();
                }
                return;
            }
            at += count * sizeof(Elf64_Rela);
            left -= count;
        }
    }

    [[nodiscard]] bool slot_of(unsigned char const (&code)[16], std::uint64_t entry, std::uint64_t& slot) const noexcept {
        if (m_file.machine() == EM_X86_64) { // [endbr64] [bnd] jmp *slot(%rip)
            unsigned at = code[0] == 0xf3 && code[1] == 0x0f && code[2] == 0x1e && code[3] == 0xfa ? 4 : 0;
            if (code[at] == 0xf2) ++at;
            if (code[at] != 0xff || code[at + 1] != 0x25) return false;
            std::int32_t distance = 0;
            __builtin_memcpy(&distance, code + at + 2, 4);
            slot = entry + at + 6 + static_cast<std::uint64_t>(std::int64_t{distance});
            return true;
        }
        std::uint32_t words[2]; // adrp x16, page; ldr x17, [x16, #slot in page]
        __builtin_memcpy(words, code, sizeof words);
        if (m_file.machine() != EM_AARCH64 || (words[0] & 0x9f00001f) != 0x90000010 || (words[1] & 0xffc003ff) != 0xf9400211)
            return false;
        std::uint64_t const pages = (words[0] >> 29 & 3) | (words[0] >> 5 & 0x7ffff) << 2;
        std::uint64_t const signed_pages = (pages ^ 0x100000) - 0x100000;
        slot = (entry & ~std::uint64_t{0xfff}) + (signed_pages << 12) + ((words[1] >> 10 & 0xfff) << 3);
        return true;
    }

    File const& m_file;
    Elf64_Shdr const* m_symbols = nullptr;
    Elf64_Shdr const* m_strings = nullptr;
    std::vector<place> m_places;
    std::vector<std::uint32_t> m_first_place;
    unsigned m_shift = 0;
    std::uint32_t m_compared = 0; // the last two aliases, and which is better
    std::uint32_t m_compared_with = 0;
    bool m_was_better = false;
    string m_name;
    string m_known_name;
};

// The name as it was written in C++, where it comes from there; otherwise as it is.
template <class String>
[[nodiscard]] String demangled(String const& name) {
    if (name.compare(0, 2, "_Z") != 0) return name;
    int status = 0;
    char* const text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    String r = text != nullptr && status == 0 ? text : name;
    std::free(text);
    return r;
}

}

#endif
