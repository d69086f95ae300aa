#include <thaw/core/elf_note.hpp>

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <link.h>

namespace core = thaw::core;

namespace {

using bytes = std::vector<unsigned char>;

void append_word(bytes& b, std::uint32_t word) {
    unsigned char raw[4];
    std::memcpy(raw, &word, 4);
    b.insert(b.end(), raw, raw + 4);
}

void pad(bytes& b, std::size_t align) {
    while (b.size() % align != 0) b.push_back(0);
}

// As the gABI has it: head and name padded together, then the content, padded.
void append_note(bytes& b, std::string const& name, std::uint32_t type, bytes const& content, std::size_t align) {
    append_word(b, static_cast<std::uint32_t>(name.size() + 1));
    append_word(b, static_cast<std::uint32_t>(content.size()));
    append_word(b, type);
    b.insert(b.end(), name.begin(), name.end());
    b.push_back(0);
    pad(b, align);
    b.insert(b.end(), content.begin(), content.end());
    pad(b, align);
}

struct note {
    std::string name;
    std::uint32_t type;
    bytes content;
    friend bool operator==(note const&, note const&) = default;
};

// Reads every byte that a note claims; the block is of exactly its size, so that the address sanitizer sees one too many.
std::vector<note> parse(bytes const& b, std::size_t size, std::size_t align) {
    auto const copy = std::make_unique<unsigned char[]>(size);
    if (size != 0) std::memcpy(copy.get(), b.data(), size);
    std::vector<note> notes;
    auto const keep = [](void* to, core::elf_note const& n) {
        std::string const name(n.name, n.name_size);
        static_cast<std::vector<note>*>(to)->push_back(
            {name.substr(0, name.find('\0')), n.type, bytes(n.content, n.content + n.content_size)});
    };
    core::parse_notes(copy.get(), copy.get() + size, align, false, keep, &notes);
    return notes;
}

std::vector<note> some_notes() {
    return {{"GNU", 3, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}},
            {"thaw", 1, {1, 2, 3, 4}},
            {"", 7, {}},
            {"a.longer.name", 0xFFFFFFFF, {9}}};
}

bytes encode(std::vector<note> const& notes, std::size_t align) {
    bytes b;
    for (note const& n : notes) append_note(b, n.name, n.type, n.content, align);
    return b;
}

}

BOOST_AUTO_TEST_SUITE(elf_note)

BOOST_AUTO_TEST_CASE(notes_aligned_to_4_bytes_are_read) {
    auto const notes = some_notes();
    bytes const b = encode(notes, 4);
    BOOST_TEST((parse(b, b.size(), 4) == notes));
    BOOST_TEST((parse(b, b.size(), 1) == notes)); // as the loaders do: what is not 8 is 4
    BOOST_TEST((parse(b, b.size(), 0) == notes));
}

BOOST_AUTO_TEST_CASE(notes_aligned_to_8_bytes_are_read) {
    auto const notes = some_notes();
    bytes const b = encode(notes, 8);
    BOOST_TEST((parse(b, b.size(), 8) == notes));
}

BOOST_AUTO_TEST_CASE(the_property_note_of_the_gnu_linker_is_read) {
    // readelf -x .note.gnu.property of an x86-64 program: NT_GNU_PROPERTY_TYPE_0, the content begins at 16
    bytes const b{4, 0, 0, 0, 16, 0, 0, 0, 5, 0, 0, 0, 'G', 'N', 'U', 0, 2, 0x80, 0, 0xc0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0};
    auto const notes = parse(b, b.size(), 8);
    BOOST_REQUIRE_EQUAL(notes.size(), 1u);
    BOOST_TEST(notes[0].name == "GNU");
    BOOST_TEST((notes[0].content == bytes(b.begin() + 16, b.end())));
}

BOOST_AUTO_TEST_CASE(of_notes_cut_at_any_byte_the_whole_ones_are_read) {
    for (std::size_t const align : {std::size_t{4}, std::size_t{8}}) {
        auto const notes = some_notes();
        bytes const b = encode(notes, align);
        for (std::size_t size = 0; size < b.size(); ++size) {
            auto const found = parse(b, size, align);
            BOOST_REQUIRE(found.size() <= notes.size());
            for (std::size_t i = 0; i < found.size(); ++i) BOOST_REQUIRE((found[i] == notes[i]));
            std::size_t whole = 0;
            while (whole < notes.size() && encode({notes.begin(), notes.begin() + static_cast<std::ptrdiff_t>(whole) + 1}, align).size() <= size)
                ++whole;
            BOOST_REQUIRE(found.size() >= whole); // the padding of the last may be cut
        }
    }
}

BOOST_AUTO_TEST_CASE(hostile_sizes_end_the_walk) {
    std::uint32_t const sizes[] = {0, 1, 3, 4, 5, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFF4, 0xFFFFFFFC, 0xFFFFFFFF};
    for (std::size_t const align : {std::size_t{4}, std::size_t{8}})
        for (std::uint32_t const name_size : sizes)
            for (std::uint32_t const content_size : sizes) {
                bytes b;
                append_word(b, name_size);
                append_word(b, content_size);
                append_word(b, 1);
                for (int i = 0; i < 5; ++i) b.push_back(static_cast<unsigned char>(i));
                auto const found = parse(b, b.size(), align);
                for (note const& n : found) BOOST_REQUIRE(n.content.size() <= 5u);
                if (name_size > 5 || content_size > 5) BOOST_REQUIRE(found.empty());
            }
}

BOOST_AUTO_TEST_CASE(random_bytes_are_never_read_beyond_their_end) {
    std::mt19937 random(1);
    std::size_t found = 0;
    for (int round = 0; round < 20'000; ++round) {
        bytes b(random() % 64);
        // Mostly small numbers of 32 bits, so that sizes often fit.
        for (std::size_t i = 0; i < b.size(); ++i)
            b[i] = static_cast<unsigned char>(random() % 20 == 0 ? random() : i % 4 == 0 ? random() % 8 : 0);
        for (note const& n : parse(b, b.size(), random() % 2 == 0 ? 4 : 8)) {
            ++found;
            BOOST_REQUIRE(n.content.size() <= b.size());
        }
    }
    BOOST_TEST(found > 0u);
}

BOOST_AUTO_TEST_CASE(a_note_is_told_by_its_whole_name_and_its_type) {
    bytes b;
    append_note(b, "thaw", 1, {1, 2, 3, 4}, 4);
    int seen = 0;
    auto const check = [](void* count, core::elf_note const& n) {
        ++*static_cast<int*>(count);
        BOOST_TEST(n.is("thaw", 1));
        BOOST_TEST(!n.is("thaw", 2));
        BOOST_TEST(!n.is("tha", 1));
        BOOST_TEST(!n.is("thaws", 1));
        BOOST_TEST(!n.is("", 1));
        BOOST_TEST(n.first_module);
    };
    core::parse_notes(b.data(), b.data() + b.size(), 4, true, check, &seen);
    BOOST_TEST(seen == 1);
}

BOOST_AUTO_TEST_CASE(the_notes_of_this_program_come_first_and_are_whole) {
    struct {
        bool later = false;
        unsigned of_this = 0;
    } seen;
    auto const look = [](void* context, core::elf_note const& n) {
        auto& s = *static_cast<decltype(seen)*>(context);
        if (n.first_module) BOOST_TEST(!s.later);
        else s.later = true;
        s.of_this += n.first_module ? 1 : 0;
        unsigned sum = 0;
        for (std::uint32_t i = 0; i < n.content_size; ++i) sum += n.content[i];
        BOOST_TEST(sum <= 255u * n.content_size);
    };
    core::for_each_elf_note(look, &seen);
    BOOST_TEST(seen.of_this > 0u);
}

// What the header declares itself is what <link.h> declares.
BOOST_AUTO_TEST_CASE(the_loaders_structures_are_laid_out_as_assumed) {
    BOOST_TEST(offsetof(core::module_headers, bias) == offsetof(dl_phdr_info, dlpi_addr));
    BOOST_TEST(offsetof(core::module_headers, path) == offsetof(dl_phdr_info, dlpi_name));
    BOOST_TEST(offsetof(core::module_headers, headers) == offsetof(dl_phdr_info, dlpi_phdr));
    BOOST_TEST(offsetof(core::module_headers, count) == offsetof(dl_phdr_info, dlpi_phnum));
    BOOST_TEST(sizeof(core::module_headers::count) == sizeof(dl_phdr_info::dlpi_phnum));
    BOOST_TEST(sizeof(core::program_header) == sizeof(ElfW(Phdr)));
    BOOST_TEST(offsetof(core::program_header, type) == offsetof(ElfW(Phdr), p_type));
    BOOST_TEST(offsetof(core::program_header, address) == offsetof(ElfW(Phdr), p_vaddr));
    BOOST_TEST(offsetof(core::program_header, memory_size) == offsetof(ElfW(Phdr), p_memsz));
    BOOST_TEST(offsetof(core::program_header, align) == offsetof(ElfW(Phdr), p_align));
    BOOST_TEST(core::note_segment == PT_NOTE);
}

BOOST_AUTO_TEST_SUITE_END()
