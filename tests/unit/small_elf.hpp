// Makes small ELF files, for the tests of what reads them.
//
//   small_elf e;
//   e.function("main", 0x100, 0x40);
//   std::string const bytes = e.image();      // .text is at small_elf::text in memory and in the symbols
#ifndef THAW_TESTS_UNIT_SMALL_ELF_HPP
#define THAW_TESTS_UNIT_SMALL_ELF_HPP

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <elf.h>

namespace thaw::testing {

struct small_elf {
    static constexpr std::uint64_t load = 0x10000; // where the file is mapped from offset 0 on, as its symbols have it
    static constexpr std::uint64_t text = 0x10400;
    static constexpr std::uint64_t text_size = 0x800;
    static constexpr std::uint64_t plt = 0x10c00;
    static constexpr std::uint64_t got = 0x20000;
    enum section : std::uint16_t { none, text_section, plt_section, symtab, strtab, dynsym, dynstr, rela, shstrtab, count };

    std::uint16_t machine = EM_X86_64;
    bool with_symtab = true;
    std::string build_id = "\x12\x34\x56\x78\x9a\xbc\xde\xf0";
    std::vector<unsigned char> plt_code;
    // Where the tables lie in the image.
    std::uint64_t names_at = 0, names_end = 0; // symbols and their names: a change of them cannot be noticed
    std::uint64_t sections_at = 0;

    void symbol(std::string const& name, std::uint64_t value, std::uint64_t size, unsigned bind, unsigned type,
                std::uint16_t in = text_section) {
        add(m_symbols, m_strings, name, value, size, bind, type, in);
    }
    void function(std::string const& name, std::uint64_t offset, std::uint64_t size, unsigned bind = STB_GLOBAL) {
        symbol(name, text + offset, size, bind, STT_FUNC);
    }
    void dynamic(std::string const& name, std::uint64_t value, std::uint64_t size, std::uint16_t in = text_section) {
        add(m_dynamic, m_dynamic_strings, name, value, size, STB_GLOBAL, STT_FUNC, in);
    }
    // The loader puts the address of the dynamic symbol of that number (from 1 on) into a slot of .got.
    void slot(std::uint64_t offset, std::uint32_t symbol_number) {
        m_relocations.push_back({got + offset, ELF64_R_INFO(symbol_number, R_X86_64_JUMP_SLOT), 0});
    }

    [[nodiscard]] std::string image() {
        std::string r(0x400, '\0');
        std::string note;
        std::uint32_t const head[3] = {4, static_cast<std::uint32_t>(build_id.size()), NT_GNU_BUILD_ID};
        note.append(reinterpret_cast<char const*>(head), sizeof head).append("GNU", 4).append(build_id);
        while (note.size() % 4 != 0) note += '\0';
        r.append(text_size, '\xcc'); // not zeros, so that nothing that is read by mistake looks empty
        r.append(reinterpret_cast<char const*>(plt_code.data()), plt_code.size());
        while (r.size() % 16 != 0) r += '\xcc';

        Elf64_Shdr headers[count] = {};
        static constexpr char section_names[] =
            "\0.text\0.plt\0.symtab\0.strtab\0.dynsym\0.dynstr\0.rela.plt\0.shstrtab";
        std::uint32_t name = 1;
        for (int i = 1; i < count; ++i) {
            headers[i].sh_name = name;
            name += static_cast<std::uint32_t>(std::strlen(section_names + name) + 1);
        }
        auto const place = [&](section s, std::uint32_t type, void const* data, std::size_t size, std::uint64_t entry,
                               std::uint32_t link) {
            headers[s].sh_type = type;
            headers[s].sh_offset = r.size();
            headers[s].sh_size = size;
            headers[s].sh_entsize = entry;
            headers[s].sh_link = link;
            r.append(static_cast<char const*>(data), size);
            while (r.size() % 8 != 0) r += '\xcc';
        };
        auto const code = [&](section s, std::uint64_t address, std::uint64_t size) {
            headers[s].sh_type = SHT_PROGBITS;
            headers[s].sh_flags = SHF_ALLOC | SHF_EXECINSTR;
            headers[s].sh_addr = address;
            headers[s].sh_offset = address - load;
            headers[s].sh_size = size;
        };
        code(text_section, text, text_size);
        code(plt_section, plt, plt_code.size());
        place(shstrtab, SHT_STRTAB, section_names, sizeof section_names, 0, 0);
        names_at = r.size();
        place(strtab, with_symtab ? SHT_STRTAB : SHT_NULL, m_strings.c_str(), m_strings.size() + 1, 0, 0);
        place(symtab, with_symtab ? SHT_SYMTAB : SHT_NULL, m_symbols.data(), m_symbols.size() * sizeof(Elf64_Sym),
              sizeof(Elf64_Sym), strtab);
        place(dynstr, SHT_STRTAB, m_dynamic_strings.c_str(), m_dynamic_strings.size() + 1, 0, 0);
        place(dynsym, SHT_DYNSYM, m_dynamic.data(), m_dynamic.size() * sizeof(Elf64_Sym), sizeof(Elf64_Sym), dynstr);
        names_end = r.size();
        place(rela, SHT_RELA, m_relocations.data(), m_relocations.size() * sizeof(Elf64_Rela), sizeof(Elf64_Rela), dynsym);

        Elf64_Ehdr h = {};
        std::memcpy(h.e_ident, ELFMAG, SELFMAG);
        h.e_ident[EI_CLASS] = ELFCLASS64;
        h.e_ident[EI_DATA] = ELFDATA2LSB;
        h.e_ident[EI_VERSION] = EV_CURRENT;
        h.e_type = ET_DYN;
        h.e_machine = machine;
        h.e_ehsize = sizeof h;
        h.e_phentsize = sizeof(Elf64_Phdr);
        h.e_shentsize = sizeof(Elf64_Shdr);
        h.e_phoff = sizeof h;
        h.e_phnum = 2;
        Elf64_Phdr const segments[2] = {
            {PT_LOAD, PF_R | PF_X, 0, load, load, 0x1000, 0x1000, 0x1000},
            {PT_NOTE, PF_R, 0xb0, load + 0xb0, load + 0xb0, build_id.empty() ? 0 : note.size(), note.size(), 4}};
        sections_at = 0x100; // in front, so that a file that is cut off still has them
        h.e_shoff = sections_at;
        h.e_shnum = count;
        h.e_shstrndx = shstrtab;
        std::memcpy(&r[0], &h, sizeof h);
        std::memcpy(&r[sizeof h], segments, sizeof segments);
        std::memcpy(&r[0xb0], note.data(), note.size());
        static_assert(sizeof h + sizeof segments <= 0xb0 && 0x100 + sizeof headers <= 0x400);
        std::memcpy(&r[sections_at], headers, sizeof headers);
        return r;
    }

private:
    static void add(std::vector<Elf64_Sym>& to, std::string& strings, std::string const& name, std::uint64_t value,
                    std::uint64_t size, unsigned bind, unsigned type, std::uint16_t in) {
        Elf64_Sym s = {};
        s.st_name = static_cast<std::uint32_t>(strings.size());
        s.st_info = static_cast<unsigned char>(ELF64_ST_INFO(bind, type));
        s.st_shndx = in;
        s.st_value = value;
        s.st_size = size;
        to.push_back(s);
        strings += name;
        strings += '\0';
    }

    // Both tables begin with an empty entry; std::string's own zero ends the strings.
    std::vector<Elf64_Sym> m_symbols{Elf64_Sym{}};
    std::vector<Elf64_Sym> m_dynamic{Elf64_Sym{}};
    std::string m_strings = std::string(1, '\0');
    std::string m_dynamic_strings = std::string(1, '\0');
    std::vector<Elf64_Rela> m_relocations;
};

}

#endif
