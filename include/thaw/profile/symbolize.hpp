// thaw floor 3 profile: gives the places of a CPU profile the names of their functions, from the symbol tables of the files that
// this process has mapped. Off the hot path: it reads files and demangles.
//
// A file's names are used only if its build id is the module's, or if neither has one and its code is mapped as the module says.
// Where there is no name the place stays without one, and is shown as "module+0x12ab", an offset that addr2line understands.
// Thread-compatible; allocates; throws nothing but std::bad_alloc; errno is kept. Demangling takes some 100 KiB of stack.
// Templates, so that a unit that names no places does not pay for instantiating them.
//
//   thaw::symbol_cache cache;                          // lives as long as the agent does
//   thaw::symbolize(p, cache, {.monotonic_ns = soon});
//   thaw::display_name(p.cpu, p.cpu.frames[0]);
//
// Requires of a profile that is symbolized: it is of this process, or of one with the same files under the same paths.
#ifndef THAW_PROFILE_SYMBOLIZE_HPP
#define THAW_PROFILE_SYMBOLIZE_HPP

#include <thaw/core/config.hpp>
#include <thaw/profile/cpu_profile.hpp>
#include <thaw/profile/elf_file.hpp>
#include <thaw/profile/profile.hpp>
#include <thaw/profile/symbol_table.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace thaw {

using detail::symbol_limits;

struct symbolize_result {
    std::size_t named = 0;    // places that have a name now and had none
    std::size_t unnamed = 0;  // that have none in their file
    std::size_t put_off = 0;  // for which the time was not enough; asked again, they may get one
};

// What was found out about the files so far: the functions that were asked for. It is bounded: once it takes more than max_bytes
// it is forgotten at the next call, so that it takes at most max_bytes and the names of one profile. File: what reads files.
template <class File = detail::elf_file>
class basic_symbol_cache {
public:
    explicit basic_symbol_cache(std::size_t max_bytes = std::size_t{1} << 20) noexcept : m_max_bytes(max_bytes) {}

    [[nodiscard]] std::size_t bytes() const noexcept { return m_bytes; }

    // Effects: fills in the places that have no name. What takes longer than the limits allow is put off.
    symbolize_result name_places(cpu_profile& p, symbol_limits const& limits = {}) {
        int const before = errno;
        if (m_bytes > m_max_bytes) {
            m_modules.clear();
            m_bytes = 0;
        }
        symbolize_result r;
        std::vector<std::size_t> known(p.modules.size(), SIZE_MAX); // index into m_modules
        std::vector<question> questions;
        for (std::uint32_t i = 0; i < p.locations.size(); ++i) {
            code_location& l = p.locations[i];
            if (!l.function.empty()) continue;
            if (l.module >= p.modules.size()) {
                ++r.unnamed;
                continue;
            }
            std::size_t& at = known[l.module];
            if (at == SIZE_MAX) at = entry_of(p.modules[l.module]);
            question const q{l.address - p.modules[l.module].bias, l.module, i};
            if (m_modules[at].nameless) ++r.unnamed;
            else if (detail::symbol_range const* found = find(m_modules[at], q.address)) answer(l, *found, r);
            else questions.push_back(q);
        }
        if (!questions.empty()) std::qsort(questions.data(), questions.size(), sizeof(question), &compare);
        for (std::size_t first = 0; first < questions.size();) {
            std::size_t last = first + 1;
            while (last < questions.size() && questions[last].module == questions[first].module) ++last;
            code_module const& m = p.modules[questions[first].module];
            entry& e = m_modules[known[questions[first].module]];
            if (limits.is_over() || !look_up(e, m, questions.data() + first, last - first, limits)) {
                r.put_off += last - first;
            } else {
                for (std::size_t i = first; i < last; ++i) {
                    detail::symbol_range const* const found = find(e, questions[i].address);
                    if (found != nullptr) answer(p.locations[questions[i].location], *found, r);
                    else ++r.unnamed;
                }
            }
            first = last;
        }
        errno = before;
        return r;
    }

private:
    struct entry {
        std::string path;
        std::string build_id;
        bool nameless = false;  // there is no such file, or another one, or it has no symbols
        std::vector<detail::symbol_range> ranges; // sorted, with their names demangled
    };
    struct question {
        std::uint64_t address; // in the file
        std::uint32_t module;
        std::uint32_t location;
    };

    static int compare(void const* left, void const* right) noexcept {
        question const& a = *static_cast<question const*>(left);
        question const& b = *static_cast<question const*>(right);
        if (a.module != b.module) return a.module < b.module ? -1 : 1;
        return a.address < b.address ? -1 : a.address > b.address ? 1 : 0;
    }

    std::size_t entry_of(code_module const& m) {
        for (std::size_t i = 0; i < m_modules.size(); ++i)
            if (m_modules[i].path == m.path && m_modules[i].build_id == m.build_id) return i;
        m_modules.emplace_back();
        m_modules.back().path = m.path;
        m_modules.back().build_id = m.build_id;
        m_bytes += sizeof(entry) + m.path.size() + m.build_id.size();
        return m_modules.size() - 1;
    }

    // The last range that begins at or before the address, if it holds it.
    [[nodiscard]] static detail::symbol_range const* find(entry const& e, std::uint64_t address) noexcept {
        std::size_t low = 0;
        std::size_t high = e.ranges.size();
        while (low < high) {
            std::size_t const middle = low + (high - low) / 2;
            if (e.ranges[middle].first <= address) low = middle + 1;
            else high = middle;
        }
        return low != 0 && address < e.ranges[low - 1].limit ? &e.ranges[low - 1] : nullptr;
    }

    static void answer(code_location& l, detail::symbol_range const& found, symbolize_result& r) {
        l.function = found.name;
        ++(found.name.empty() ? r.unnamed : r.named);
    }

    // False where it is to be tried again. Post otherwise: what has a name in the file is in the ranges of the entry.
    bool look_up(entry& e, code_module const& m, question const* questions, std::size_t count, symbol_limits const& limits) {
        File const named(m.path);
        if (named.is_out_of_resources()) return false;
        if (is_of(named, m)) return look_up(e, named, questions, count, limits);
        // The executable's path may be gone, or never have been known. This one may be the loader: then it has another build id.
        if (!m.build_id.empty() && m.path != "[vdso]") {
            File const executable("/proc/self/exe");
            if (is_of(executable, m)) return look_up(e, executable, questions, count, limits);
        }
        e.nameless = true;
        return true;
    }

    [[nodiscard]] static bool is_of(File const& file, code_module const& m) {
        return file.is_open() && file.build_id() == m.build_id &&
               (!m.build_id.empty() || file.has_code(m.start - m.bias, m.file_offset));
    }

    bool look_up(entry& e, File const& file, question const* questions, std::size_t count,
                 symbol_limits const& limits) {
        detail::symbol_table<File> table(file);
        if (file.sections().empty() || table.size_bytes() > limits.table_bytes) {
            e.nameless = true;
            return true;
        }
        std::vector<std::uint64_t> addresses;
        for (std::size_t i = 0; i < count; ++i)
            if (addresses.empty() || addresses.back() != questions[i].address) addresses.push_back(questions[i].address);
        std::vector<detail::symbol_range> found;
        if (!table.find(addresses, limits, found)) return false;
        std::vector<detail::symbol_range> all;
        all.reserve(e.ranges.size() + found.size());
        std::size_t old = 0;
        for (detail::symbol_range& r : found) {
            r.name = detail::demangled(r.name);
            m_bytes += sizeof r + r.name.size();
            while (old < e.ranges.size() && e.ranges[old].first <= r.first) all.push_back(std::move(e.ranges[old++]));
            all.push_back(std::move(r));
        }
        while (old < e.ranges.size()) all.push_back(std::move(e.ranges[old++]));
        e.ranges.swap(all);
        return true;
    }

    std::vector<entry> m_modules;
    std::size_t m_max_bytes;
    std::size_t m_bytes = 0;
};

using symbol_cache = basic_symbol_cache<>;

template <class File>
symbolize_result symbolize(profile& p, basic_symbol_cache<File>& cache, symbol_limits const& limits = {}) {
    return cache.name_places(p.cpu, limits);
}

template <class File = detail::elf_file>
symbolize_result symbolize(profile& p) {
    basic_symbol_cache<File> cache;
    return cache.name_places(p.cpu);
}

// What a report shows of a place: its function; else the module's file name and the offset in its symbols; else the address.
// Requires: `location` is an index into p.locations. Post: not empty; names are not made printable.
template <class CpuProfile>
[[nodiscard]] std::string display_name(CpuProfile const& p, std::uint32_t location) {
    auto const& l = p.locations[location];
    if (!l.function.empty()) return l.function;
    auto const hexadecimal = [](std::uint64_t value) {
        std::string r;
        do r.insert(r.begin(), "0123456789abcdef"[value & 15]);
        while ((value >>= 4) != 0);
        return "0x" + r;
    };
    if (l.module >= p.modules.size()) return hexadecimal(l.address);
    auto const& m = p.modules[l.module];
    return m.path.substr(m.path.rfind('/') + 1) + '+' + hexadecimal(l.address - m.bias);
}

}

#endif
