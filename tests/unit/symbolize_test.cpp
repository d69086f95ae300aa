#include <thaw/core/elf_note.hpp>
#include <thaw/profile/symbolize.hpp>

#include "small_elf.hpp"

#include <boost/test/unit_test.hpp>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

using thaw::cpu_profile;
using thaw::symbol_cache;
using thaw::testing::small_elf;
using strings = std::vector<std::string>;

namespace {

class temporary_file {
public:
    temporary_file() : m_path((std::filesystem::temp_directory_path() / "thaw-symbolize-XXXXXX").string()) {
        int const fd = mkstemp(m_path.data());
        BOOST_REQUIRE(fd >= 0);
        close(fd);
    }
    explicit temporary_file(std::string const& bytes) : temporary_file() { write(bytes); }
    temporary_file(temporary_file const&) = delete;
    temporary_file& operator=(temporary_file const&) = delete;
    ~temporary_file() { unlink(m_path.c_str()); }

    void write(std::string const& bytes) const {
        std::ofstream file(m_path, std::ios::binary | std::ios::trunc);
        file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
    [[nodiscard]] std::string const& path() const { return m_path; }

private:
    std::string m_path;
};

constexpr std::uint64_t bias = 0x7f1200000000;
constexpr char build_id[] = "123456789abcdef0"; // of small_elf

cpu_profile profile_of(std::string const& path, std::vector<std::uint64_t> const& addresses, std::string const& id = build_id) {
    cpu_profile p;
    p.modules.push_back({path, id, bias + small_elf::load, bias + small_elf::load + 0x1000, 0, bias});
    for (std::uint64_t const a : addresses) p.locations.push_back({bias + a, 0, ""});
    return p;
}

strings functions_of(cpu_profile const& p) {
    strings r;
    for (auto const& l : p.locations) r.push_back(l.function);
    return r;
}

// The names of some offsets in .text of a file.
strings names_in(std::string const& image, std::vector<std::uint64_t> offsets, std::uint64_t base = small_elf::text) {
    temporary_file const file(image);
    for (auto& o : offsets) o += base;
    cpu_profile p = profile_of(file.path(), offsets);
    symbol_cache cache;
    static_cast<void>(cache.name_places(p));
    return functions_of(p);
}


// This process: its modules as the loader knows them, and the build ids that are mapped.
cpu_profile this_process() {
    cpu_profile p;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* opaque) -> int {
            auto& profile = *static_cast<cpu_profile*>(opaque);
            thaw::code_module m;
            m.path = info->dlpi_name;
            if (info->dlpi_addr == getauxval(AT_SYSINFO_EHDR)) m.path = "[vdso]";
            if (m.path.empty()) m.path = std::filesystem::read_symlink("/proc/self/exe").string();
            m.bias = info->dlpi_addr;
            for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
                auto const& s = info->dlpi_phdr[i];
                if (s.p_type == PT_LOAD && (s.p_flags & PF_X) != 0) {
                    m.start = info->dlpi_addr + s.p_vaddr;
                    m.limit = m.start + s.p_memsz;
                    m.file_offset = s.p_offset;
                }
                if (s.p_type != PT_NOTE) continue;
                auto const* const notes = reinterpret_cast<unsigned char const*>(info->dlpi_addr + s.p_vaddr);
                thaw::core::parse_notes(notes, notes + s.p_memsz, s.p_align, false, [](void* to, thaw::core::elf_note const& n) {
                    auto& id = static_cast<thaw::code_module*>(to)->build_id;
                    if (!n.is("GNU", NT_GNU_BUILD_ID)) return;
                    id.clear();
                    for (std::uint32_t k = 0; k < n.content_size; ++k) {
                        char text[3];
                        std::snprintf(text, sizeof text, "%02x", static_cast<unsigned>(n.content[k]));
                        id += text;
                    }
                }, &m);
            }
            profile.modules.push_back(m);
            return 0;
        },
        &p);
    return p;
}

void add_place(cpu_profile& p, std::uint64_t address) {
    thaw::code_location l;
    l.address = address;
    for (std::uint32_t m = 0; m < p.modules.size(); ++m)
        if (address >= p.modules[m].start && address < p.modules[m].limit) l.module = m;
    p.locations.push_back(l);
}

template <class T>
std::uint64_t code_of(T* function) {
    return reinterpret_cast<std::uint64_t>(function);
}

}

namespace symbolize_names {
struct sampled {
    void* stack[32];
    int depth = 0;
};
[[gnu::noinline]] void innermost(sampled& s, int) { s.depth = backtrace(s.stack, 32); }
template <class T>
[[gnu::noinline]] void middle(sampled& s, std::vector<T> const& v) {
    innermost(s, static_cast<int>(v.size()));
    __asm__ volatile("");
}
}
[[gnu::noinline]] static void a_local_function(symbolize_names::sampled& s) {
    symbolize_names::middle(s, std::vector<long>{1});
    __asm__ volatile("");
}

BOOST_AUTO_TEST_SUITE(symbolize)

BOOST_AUTO_TEST_CASE(a_place_has_the_function_that_holds_it) {
    small_elf e;
    e.function("first", 0, 0x100);
    e.function("_ZN4shop5priceEmPKc", 0x100, 0x80);
    e.function("last", 0x700, 0x100);
    BOOST_TEST((names_in(e.image(), {0, 1, 0xff, 0x100, 0x17f, 0x180, 0x6ff, 0x700, 0x7ff}) ==
                strings{"first", "first", "first", "shop::price(unsigned long, char const*)",
                        "shop::price(unsigned long, char const*)", "", "", "last", "last"}));
    BOOST_TEST((names_in(e.image(), {0x800}) == strings{""}));
    BOOST_TEST((names_in(e.image(), {0x7ff, 0, 0x100, 0, 0x7ff}) == // in any order, and more than once
                strings{"last", "first", "shop::price(unsigned long, char const*)", "first", "last"}));
}

BOOST_AUTO_TEST_CASE(of_several_functions_the_one_that_begins_last_is_meant) {
    small_elf e;
    e.function("outer", 0, 0x200);
    e.function("inner", 0x80, 0x40);
    for (auto const& offsets : {std::vector<std::uint64_t>{0x10, 0x90, 0xc0, 0x1ff}})
        BOOST_TEST((names_in(e.image(), offsets) == strings{"outer", "inner", "outer", "outer"}));
}

BOOST_AUTO_TEST_CASE(of_aliases_the_global_and_then_the_cleanest_is_meant) {
    struct {
        char const* name;
        unsigned bind;
    } const aliases[] = {{"write", STB_WEAK}, {"__write", STB_GLOBAL}, {"__libc_write", STB_GLOBAL}, {"w", STB_LOCAL}};
    for (std::size_t first = 0; first < std::size(aliases); ++first) { // whichever comes first
        small_elf e;
        for (std::size_t i = 0; i < std::size(aliases); ++i) {
            auto const& a = aliases[(first + i) % std::size(aliases)];
            e.function(a.name, 0x40, 0x20, a.bind);
        }
        BOOST_TEST((names_in(e.image(), {0x40, 0x5f}) == strings{"write", "write"}));
    }
    small_elf e;
    e.function("_ZN1aC2Ev", 0x40, 0x20, STB_WEAK);
    e.function("a_c_name_of_it", 0x40, 0x20);
    e.function("_ZN1aC1Ev", 0x40, 0x20);
    e.function("memcpy@@GLIBC_2.14", 0x80, 0x20);
    BOOST_TEST((names_in(e.image(), {0x40, 0x80}) == strings{"a::a()", "memcpy"}));
}

BOOST_AUTO_TEST_CASE(a_symbol_without_a_size_reaches_up_to_the_next) {
    small_elf e;
    e.function("sized", 0, 0x20);
    e.function("assembly", 0x40, 0);
    e.symbol("exported", small_elf::text + 0x80, 0, STB_GLOBAL, STT_NOTYPE);
    e.symbol("label", small_elf::text + 0x90, 0, STB_LOCAL, STT_NOTYPE);
    e.function("next", 0xa0, 0x10);
    e.function("same", 0x100, 0);
    e.function("same_sized", 0x100, 0x10);
    BOOST_TEST((names_in(e.image(), {0x1f, 0x20, 0x3f, 0x40, 0x7f, 0x80, 0x90, 0x9f, 0xa0, 0xb0, 0xff, 0x10f, 0x110, 0x200}) ==
                strings{"sized", "", "", "assembly", "assembly", "exported", "exported", "exported", "next", "", "",
                        "same_sized", "", ""}));
}

BOOST_AUTO_TEST_CASE(what_is_no_function_names_nothing) {
    small_elf e;
    e.symbol("$x", small_elf::text, 0, STB_LOCAL, STT_NOTYPE);
    e.symbol("$d", small_elf::text + 0x10, 0, STB_LOCAL, STT_NOTYPE);
    e.symbol("data", small_elf::text + 0x20, 0x20, STB_GLOBAL, STT_OBJECT);
    e.symbol("thread_local", small_elf::text + 0x40, 0x20, STB_GLOBAL, STT_TLS);
    e.symbol("section", small_elf::text, 0x800, STB_LOCAL, STT_SECTION);
    e.symbol("undefined", small_elf::text + 0x60, 0x20, STB_GLOBAL, STT_FUNC, SHN_UNDEF);
    e.symbol("absolute", small_elf::text + 0x60, 0x20, STB_GLOBAL, STT_FUNC, SHN_ABS);
    e.symbol("elsewhere", small_elf::text + 0x60, 0x20, STB_GLOBAL, STT_FUNC, small_elf::strtab);
    e.symbol("too_long", small_elf::text + 0x60, 0x10000, STB_GLOBAL, STT_FUNC);
    e.symbol("resolver", small_elf::text + 0x100, 0x20, STB_GLOBAL, STT_GNU_IFUNC);
    BOOST_TEST((names_in(e.image(), {0, 0x10, 0x20, 0x40, 0x60, 0x100}) == strings{"", "", "", "", "", "resolver"}));
}

BOOST_AUTO_TEST_CASE(a_stripped_file_has_its_dynamic_symbols_and_guesses_none_between_them) {
    small_elf e;
    e.with_symtab = false;
    e.function("hidden", 0, 0x20);
    e.dynamic("exported", small_elf::text + 0x20, 0x20);
    e.dynamic("sizeless", small_elf::text + 0x80, 0);
    BOOST_TEST((names_in(e.image(), {0, 0x20, 0x3f, 0x40, 0x80, 0x90}) == strings{"", "exported", "exported", "", "", ""}));
    e.with_symtab = true;
    BOOST_TEST((names_in(e.image(), {0, 0x20}) == strings{"hidden", ""}));
}

BOOST_AUTO_TEST_CASE(entries_of_a_linkage_table_have_the_name_of_what_they_call) {
    small_elf e;
    e.dynamic("write", 0, 0, SHN_UNDEF);
    e.dynamic("read", 0, 0, SHN_UNDEF);
    e.slot(0x18, 2);
    e.slot(0x20, 1);
    auto const jump = [&e](std::vector<unsigned char> before, std::uint64_t slot) {
        std::uint64_t const next = small_elf::plt + e.plt_code.size() + before.size() + 6;
        auto const distance = static_cast<std::uint32_t>(small_elf::got + slot - next);
        before.insert(before.end(), {0xff, 0x25});
        for (int i = 0; i < 4; ++i) before.push_back(static_cast<unsigned char>(distance >> 8 * i));
        before.resize(16, 0x90);
        e.plt_code.insert(e.plt_code.end(), before.begin(), before.end());
    };
    e.plt_code.assign({0xff, 0x35, 0, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0}); // the header
    jump({}, 0x18);
    jump({0xf3, 0x0f, 0x1e, 0xfa}, 0x20);
    jump({0xf3, 0x0f, 0x1e, 0xfa, 0xf2}, 0x18);
    jump({}, 0x28); // a slot of no relocation
    BOOST_TEST((names_in(e.image(), {0, 0x10, 0x1f, 0x20, 0x34, 0x40, 0x50}, small_elf::plt) ==
                strings{"", "read@plt", "read@plt", "write@plt", "read@plt", "", ""}));

    small_elf arm;
    arm.machine = EM_AARCH64;
    arm.dynamic("write", 0, 0, SHN_UNDEF);
    arm.slot(0x18, 1);
    std::uint32_t const pages = (small_elf::got >> 12) - (small_elf::plt >> 12);
    for (std::uint32_t const word : {0x90000010u | (pages & 3) << 29 | (pages >> 2) << 5, 0xf9400211u | (0x18 / 8) << 10, 0x91006210u, 0xd61f0220u})
        for (int i = 0; i < 4; ++i) arm.plt_code.push_back(static_cast<unsigned char>(word >> 8 * i));
    BOOST_TEST((names_in(arm.image(), {0, 8}, small_elf::plt) == strings{"write@plt", "write@plt"}));
}

BOOST_AUTO_TEST_CASE(names_of_a_file_of_another_build_id_are_not_used) {
    small_elf e;
    e.function("first", 0, 0x100);
    temporary_file const file(e.image());
    for (auto const& [id, name] : std::map<std::string, std::string>{
             {build_id, "first"}, {"123456789abcdef1", ""}, {"", ""}, {"12345678", ""}, {"123456789abcdef000", ""}}) {
        cpu_profile p = profile_of(file.path(), {small_elf::text}, id);
        symbol_cache cache;
        auto const r = cache.name_places(p);
        BOOST_TEST(p.locations[0].function == name);
        BOOST_TEST(r.named == (name.empty() ? 0u : 1u));
        BOOST_TEST(r.unnamed == (name.empty() ? 1u : 0u));
    }
}

BOOST_AUTO_TEST_CASE(without_build_ids_the_file_is_to_be_mapped_as_the_module_says) {
    small_elf e;
    e.build_id.clear();
    e.function("first", 0, 0x100);
    temporary_file const file(e.image());
    for (std::uint64_t const wrong : {0u, 0x1000u}) {
        cpu_profile p = profile_of(file.path(), {small_elf::text}, "");
        p.modules[0].file_offset += wrong;
        symbol_cache cache;
        static_cast<void>(cache.name_places(p));
        BOOST_TEST(p.locations[0].function == (wrong == 0 ? "first" : ""));
    }
}

BOOST_AUTO_TEST_CASE(what_cannot_be_read_leaves_places_without_a_name) {
    temporary_file const empty;
    std::string const folder = std::filesystem::temp_directory_path().string();
    std::string const pipe = empty.path() + ".pipe";
    BOOST_REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    errno = 4711;
    for (std::string const& path : {std::string(), std::string("no/such/file"), std::string("[heap]"), folder, pipe, empty.path(),
                                    std::string("/dev/zero"), std::string("/proc/self/mem"), std::string(100'000, 'x'),
                                    std::string("nul\0inside", 10)}) {
        for (char const* id : {"", build_id}) {
            cpu_profile p = profile_of(path, {small_elf::text, 0, UINT64_MAX - bias}, id);
            symbol_cache cache;
            auto const r = cache.name_places(p);
            BOOST_TEST(r.unnamed == 3u);
            BOOST_TEST((functions_of(p) == strings{"", "", ""}));
        }
    }
    BOOST_TEST(errno == 4711);
    unlink(pipe.c_str());
    cpu_profile none;
    symbol_cache cache;
    BOOST_TEST(cache.name_places(none).unnamed == 0u);
    none.locations.resize(2); // in no module
    BOOST_TEST(cache.name_places(none).unnamed == 2u);
}

BOOST_AUTO_TEST_CASE(an_executable_whose_path_is_gone_is_found_by_its_build_id) {
    cpu_profile p = this_process();
    p.modules[0].path += " (deleted)";
    add_place(p, code_of(&a_local_function) + 4);
    symbol_cache cache;
    static_cast<void>(cache.name_places(p));
    bool const has_id = !p.modules[0].build_id.empty();
    BOOST_TEST(p.locations[0].function == (has_id ? "a_local_function(symbolize_names::sampled&)" : ""), "build id " << p.modules[0].build_id);
}

BOOST_AUTO_TEST_CASE(the_stack_of_this_process_has_its_names) {
    symbolize_names::sampled s;
    a_local_function(s);
    BOOST_REQUIRE(s.depth > 4);
    cpu_profile p = this_process();
    for (int i = 0; i < s.depth; ++i) add_place(p, reinterpret_cast<std::uint64_t>(s.stack[i]) - 1);
    symbol_cache cache;
    static_cast<void>(cache.name_places(p));
    auto const contains = [&p](std::string const& wanted) {
        for (auto const& l : p.locations)
            if (l.function.find(wanted) != std::string::npos) return true;
        return false;
    };
    for (char const* name : {"symbolize_names::innermost(symbolize_names::sampled&, int)",
                             "void symbolize_names::middle<long>(symbolize_names::sampled&, std::vector<long", "a_local_function(symbolize_names::sampled&)", "main"})
        BOOST_TEST(contains(name), name);
}

BOOST_AUTO_TEST_CASE(functions_of_shared_libraries_and_of_the_vdso_have_their_names) {
    cpu_profile p = this_process();
    void* const known = dlsym(RTLD_DEFAULT, "qsort");
    BOOST_REQUIRE(known != nullptr);
    add_place(p, reinterpret_cast<std::uint64_t>(known) + 1);
    for (std::uint32_t m = 0; m < p.modules.size(); ++m)
        if (p.modules[m].path == "[vdso]")
            for (std::uint64_t a = p.modules[m].start; a < p.modules[m].limit; a += 4) add_place(p, a);
    symbol_cache cache;
    static_cast<void>(cache.name_places(p));
    BOOST_TEST(p.locations[0].function.find("qsort") != std::string::npos, p.locations[0].function);
    std::size_t clocks = 0;
    for (auto const& l : p.locations) clocks += l.function.find("clock_gettime") != std::string::npos ? 1u : 0u;
    bool const has_vdso = getauxval(AT_SYSINFO_EHDR) != 0 && access("/proc/self/mem", R_OK) == 0 && p.locations.size() > 1;
    BOOST_TEST((clocks > 0 || !has_vdso));
}

BOOST_AUTO_TEST_CASE(a_cache_answers_what_it_knows_without_the_file) {
    small_elf e;
    e.function("first", 0, 0x100);
    e.function("second", 0x100, 0x100);
    temporary_file const file(e.image());
    symbol_cache cache;
    cpu_profile p = profile_of(file.path(), {small_elf::text + 5, small_elf::text + 0x700});
    BOOST_TEST(cache.name_places(p).named == 1u);
    file.write("");
    cpu_profile again = profile_of(file.path(), {small_elf::text + 0xfe, small_elf::text + 0x101, small_elf::text + 0x701});
    auto const r = cache.name_places(again); // other places: one of the known function, one that was never asked, one of none
    BOOST_TEST((functions_of(again) == strings{"first", "", ""}));
    BOOST_TEST(r.named == 1u);
    BOOST_TEST(cache.name_places(again).named == 0u); // what has a name keeps it
    again.locations[0].function = "given";
    static_cast<void>(cache.name_places(again));
    BOOST_TEST(again.locations[0].function == "given");
}

BOOST_AUTO_TEST_CASE(a_cache_stays_within_its_bound_and_the_names_of_one_profile) {
    small_elf e;
    for (std::uint64_t i = 0; i < 128; ++i) e.function("f" + std::string(1000, 'x') + std::to_string(i), i * 16, 16);
    temporary_file const file(e.image());
    symbol_cache cache(20'000);
    std::size_t most = 0;
    for (int round = 0; round < 3; ++round)
        for (std::uint64_t i = 0; i < 128; ++i) {
            cpu_profile p = profile_of(file.path(), {small_elf::text + i * 16 + 3});
            BOOST_REQUIRE_EQUAL(cache.name_places(p).named, 1u);
            BOOST_REQUIRE_EQUAL(p.locations[0].function, "f" + std::string(1000, 'x') + std::to_string(i));
            most = cache.bytes() > most ? cache.bytes() : most;
        }
    BOOST_TEST(most > 15'000u);
    BOOST_TEST(most < 22'000u);
}

BOOST_AUTO_TEST_CASE(what_there_is_no_time_for_is_put_off_and_found_later) {
    small_elf e;
    e.function("first", 0, 0x100);
    temporary_file const file(e.image());
    symbol_cache cache;
    cpu_profile p = profile_of(file.path(), {small_elf::text, small_elf::text + 0x700});
    auto r = cache.name_places(p, {.monotonic_ns = 1});
    BOOST_TEST(r.put_off == 2u);
    BOOST_TEST(r.named == 0u);
    BOOST_TEST((functions_of(p) == strings{"", ""}));
    r = cache.name_places(p);
    BOOST_TEST(r.named == 1u);
    BOOST_TEST(r.unnamed == 1u);
    BOOST_TEST(r.put_off == 0u);
    cpu_profile known = profile_of(file.path(), {small_elf::text});
    BOOST_TEST(cache.name_places(known, {.monotonic_ns = 1}).named == 1u); // that takes no time
    symbol_cache other;
    cpu_profile large = profile_of(file.path(), {small_elf::text});
    BOOST_TEST(other.name_places(large, {.table_bytes = 47}).unnamed == 1u);
    symbol_cache third;
    BOOST_TEST(third.name_places(large, {.table_bytes = 48}).named == 1u);
}

BOOST_AUTO_TEST_CASE(names_of_ten_thousand_bytes_are_whole_and_endless_ones_are_none) {
    small_elf e;
    std::string const long_name(10'000, 'n');
    e.function(long_name, 0, 0x10);
    e.function(std::string(20'000, 'm'), 0x10, 0x10);
    e.function("_Z" + std::string(9'000, 'P') + "v", 0x20, 0x10); // damaged
    auto const names = names_in(e.image(), {0, 0x10, 0x20});
    BOOST_TEST((names[0] == long_name));
    BOOST_TEST((names[1] == ""));
    BOOST_TEST((names[2] == "_Z" + std::string(9'000, 'P') + "v"));
}

BOOST_AUTO_TEST_CASE(a_file_that_is_cut_off_at_any_byte_has_right_names_or_none) {
    small_elf e;
    e.function("first", 0, 0x100);
    e.function("second", 0x100, 0x100);
    e.function("sizeless", 0x300, 0);
    e.function("after", 0x400, 0x10);
    e.dynamic("exported", small_elf::text + 0x500, 0x100);
    std::string const image = e.image();
    strings const wanted = {"first", "second", "sizeless", "exported"};
    temporary_file const file(image);
    std::size_t named = 0;
    for (std::size_t size = image.size(); size-- > 0;) {
        BOOST_REQUIRE(truncate(file.path().c_str(), static_cast<off_t>(size)) == 0);
        for (char const* id : {build_id, ""}) {
            cpu_profile p = profile_of(file.path(), {small_elf::text + 1, small_elf::text + 0x101, small_elf::text + 0x301,
                                                     small_elf::text + 0x501}, id);
            symbol_cache cache;
            static_cast<void>(cache.name_places(p));
            for (std::size_t i = 0; i < wanted.size(); ++i) {
                std::string const& got = p.locations[i].function;
                BOOST_REQUIRE_MESSAGE(got.empty() || got == wanted[i], got << " and not " << wanted[i] << ", cut at " << size);
                named += got.empty() ? 0u : 1u;
            }
        }
    }
    BOOST_TEST(named > 0u);
}

BOOST_AUTO_TEST_CASE(of_symbols_that_are_cut_off_or_out_of_step_none_is_used) {
    small_elf e;
    e.function("outer", 0, 0x200);
    for (int i = 0; i < 3000; ++i) e.function("f", 0x600, 0x10);
    e.function("inner", 0x100, 0x10);
    std::string const image = e.image();
    temporary_file const file(image);
    auto const name = [&file] {
        cpu_profile p = profile_of(file.path(), {small_elf::text + 0x101});
        symbol_cache cache;
        static_cast<void>(cache.name_places(p));
        return p.locations[0].function;
    };
    BOOST_TEST(name() == "inner");
    Elf64_Shdr symbols = {};
    std::memcpy(&symbols, image.data() + e.sections_at + sizeof symbols * small_elf::symtab, sizeof symbols);
    std::string damaged = image;
    damaged[symbols.sh_offset + 3] = 1; // the first symbol stands for none and is all zeros
    file.write(damaged);
    BOOST_TEST(name() == "");
    file.write(image.substr(0, symbols.sh_offset + 2500 * sizeof(Elf64_Sym)));
    BOOST_TEST(name() == "");
}

BOOST_AUTO_TEST_CASE(a_file_with_damaged_headers_has_right_names_or_none) {
    small_elf e;
    e.function("first", 0, 0x100);
    e.function("second", 0x100, 0x100);
    e.function("third", 0x300, 0x100, STB_LOCAL);
    e.dynamic("exported", small_elf::text + 0x500, 0x100);
    std::string const image = e.image();
    strings const wanted = {"first", "second", "third", "exported"};
    temporary_file const file;
    std::mt19937 random(11);
    std::size_t named = 0;
    for (int round = 0; round < 6000; ++round) {
        std::string damaged = image;
        std::string where;
        for (auto left = 1 + random() % 3; left != 0; --left) {
            std::size_t const at = random() % e.names_at; // headers, code and the names of sections
            // Which string table belongs to the symbols is said once only.
            std::size_t const link = e.sections_at + sizeof(Elf64_Shdr) * small_elf::symtab + offsetof(Elf64_Shdr, sh_link);
            if (at >= link && at < link + 4) continue;
            damaged[at] = static_cast<char>(random() % 3 == 0 ? random() : static_cast<unsigned char>(damaged[at]) ^ 1u << random() % 8);
            where += std::to_string(at) + ' ';
        }
        file.write(damaged);
        cpu_profile p = profile_of(file.path(), {small_elf::text + 1, small_elf::text + 0x101, small_elf::text + 0x301,
                                                 small_elf::text + 0x501});
        symbol_cache cache;
        static_cast<void>(cache.name_places(p));
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            std::string const& got = p.locations[i].function;
            BOOST_REQUIRE_MESSAGE(got.empty() || got == wanted[i], got << " and not " << wanted[i] << ", damaged at " << where);
            named += got.empty() ? 0u : 1u;
        }
    }
    BOOST_TEST(named > 6000u);
}

BOOST_AUTO_TEST_CASE(no_damage_anywhere_does_harm) {
    small_elf e;
    e.function("_ZN4shop5priceEmPKc", 0, 0x100);
    e.function("second", 0x100, 0x100);
    e.function("second_alias", 0x100, 0x100);
    e.function("sizeless", 0x300, 0);
    e.dynamic("write", 0, 0, SHN_UNDEF);
    e.slot(0x18, 1);
    e.plt_code.assign({0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    std::string const image = e.image();
    temporary_file const file;
    std::mt19937 random(12);
    std::size_t places = 0;
    for (int round = 0; round < 6000; ++round) {
        std::string damaged = image;
        for (auto left = 1 + random() % 8; left != 0; --left) {
            std::size_t const at = random() % damaged.size();
            static constexpr unsigned char hostile[] = {0, 1, 0x7f, 0x80, 0xff, 0xfe};
            damaged[at] = static_cast<char>(random() % 2 == 0 ? random() : hostile[random() % 6]);
        }
        file.write(damaged);
        cpu_profile p = profile_of(file.path(), {small_elf::text + 1, small_elf::text + 0x101, small_elf::text + 0x301, small_elf::plt + 2,
                                                 0, UINT64_MAX - bias, random()});
        symbol_cache cache;
        auto const r = cache.name_places(p);
        places += r.named + r.unnamed;
    }
    BOOST_TEST(places == 6000u * 7u);
}

BOOST_AUTO_TEST_CASE(places_of_many_functions_are_all_found) {
    small_elf e;
    std::mt19937 random(5);
    std::vector<std::uint64_t> starts;
    for (std::uint64_t at = 0; at < small_elf::text_size - 16; at += 1 + random() % 12) starts.push_back(at);
    for (std::size_t i = starts.size(); i-- > 0;) // from the last on, and no two in one place
        e.function("f" + std::to_string(i), starts[i], (i + 1 < starts.size() ? starts[i + 1] : small_elf::text_size) - starts[i]);
    std::vector<std::uint64_t> offsets;
    strings wanted;
    for (std::size_t i = 0; i < starts.size(); ++i)
        for (std::uint64_t at = starts[i]; at < (i + 1 < starts.size() ? starts[i + 1] : small_elf::text_size); ++at)
            if (random() % 2 == 0) {
                offsets.push_back(at);
                wanted.push_back("f" + std::to_string(i));
            }
    BOOST_TEST((names_in(e.image(), offsets) == wanted));
}

BOOST_AUTO_TEST_CASE(a_place_is_shown_by_its_function_or_its_module_or_its_address) {
    cpu_profile p;
    p.modules.push_back({"/opt/shop/bin/shop", "", 0x1000, 0x9000, 0, 0x1000});
    p.modules.push_back({"[vdso]", "", 0x20000, 0x30000, 0, 0x20000});
    p.locations = {{0x2234, 0, "main"}, {0x2234, 0, ""}, {0x20000, 1, ""}, {0xabcdef, UINT32_MAX, ""}, {0, UINT32_MAX, ""}};
    strings shown;
    for (std::uint32_t i = 0; i < p.locations.size(); ++i) shown.push_back(thaw::display_name(p, i));
    BOOST_TEST((shown == strings{"main", "shop+0x1234", "[vdso]+0x0", "0xabcdef", "0x0"}));
}

BOOST_AUTO_TEST_CASE(a_whole_profile_is_symbolized) {
    thaw::profile p;
    p.cpu = this_process();
    add_place(p.cpu, code_of(&a_local_function) + 4);
    BOOST_TEST(thaw::symbolize(p).named == 1u);
    BOOST_TEST(p.cpu.locations[0].function == "a_local_function(symbolize_names::sampled&)");
}

BOOST_AUTO_TEST_SUITE_END()
