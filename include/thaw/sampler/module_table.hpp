// thaw floor 3 sampler: the modules that are loaded, and where the unwind tables of each are, for a signal handler to look up.
//
// The table is made off the signal path, since dl_iterate_phdr takes a lock, and published as a whole; a handler reads the
// generation it found until it is done. What it reads must not vanish: the executable, the vDSO and what was loaded before
// main stay for good, and their tables are read where they are. Any other module may be unloaded while a handler looks
// into its tables, or another may have taken its place since, so its tables are copied. Rejected: pinning a module by
// dlopen, which the host would see; checking every read by a system call, 100 to 400 ns each.
//
// A generation that was replaced is unmapped when no handler is reading any. All memory comes from mmap.
#ifndef THAW_SAMPLER_MODULE_TABLE_HPP
#define THAW_SAMPLER_MODULE_TABLE_HPP

#include <thaw/core/atomics.hpp>
#include <thaw/core/config.hpp>
#include <thaw/sampler/frame_description.hpp>
#include <thaw/sampler/table_cursor.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <fcntl.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

namespace thaw::sampler {

struct index_entry {  // as in .eh_frame_hdr: both are distances from the same address
    std::int32_t code;
    std::int32_t description;
};

struct loaded_module {
    std::uintptr_t begin;       // [begin, end): its executable segments and what lies between them
    std::uintptr_t end;
    std::uintptr_t bias;        // what is added to the addresses in its file
    char const* path;           // as the loader knows it; empty for the executable. Lives as long as its generation
    bool permanent;             // it is never unloaded
    table_bytes tables;         // .eh_frame and .eh_frame_hdr; empty where there are none
    index_entry const* index;   // sorted by code; null where there are no tables
    std::uint32_t index_count;
    std::uintptr_t index_base;  // what the distances are counted from

    // The description that may cover `pc`: the last that does not begin behind it. 0: none.
    [[nodiscard]] std::uintptr_t find_description(std::uintptr_t pc) const noexcept {
        auto const distance = static_cast<std::int64_t>(pc - index_base);
        std::uint32_t low = 0, high = index_count;
        while (low < high) {
            std::uint32_t const middle = low + (high - low) / 2;
            if (index[middle].code <= distance) low = middle + 1;
            else high = middle;
        }
        return low == 0 ? 0 : index_base + static_cast<std::uintptr_t>(std::intptr_t{index[low - 1].description});
    }
};

// All modules of one moment, sorted by address.
struct module_generation {
    std::uint64_t loads;        // how many modules had been loaded and unloaded then
    std::uint64_t unloads;
    std::size_t size_bytes;     // of the mapping it lives in, together with paths, indexes and copied tables
    std::uint32_t number;       // 1, 2, ... in the order they were made
    std::uint32_t count;
    std::uint32_t without_tables;
    module_generation* replaced;  // the one before, while it is kept
    loaded_module* modules;

    // The module whose code is at `pc`, or null.
    [[nodiscard]] loaded_module const* find(std::uintptr_t pc) const noexcept {
        std::uint32_t low = 0, high = count;
        while (low < high) {
            std::uint32_t const middle = low + (high - low) / 2;
            if (modules[middle].end <= pc) low = middle + 1;
            else high = middle;
        }
        return low < count && modules[low].begin <= pc ? modules + low : nullptr;
    }
};

// In place, stable or not; quick on what is nearly sorted, as tables in the order of the linker are.
template <class T, class Key>
void sort_by(T* items, std::uint32_t count, Key key) noexcept {
    for (std::uint32_t gap = count / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11)
        for (std::uint32_t i = gap; i < count; ++i) {
            T const item = items[i];
            std::uint32_t at = i;
            for (; at >= gap && key(item) < key(items[at - gap]); at -= gap) items[at] = items[at - gap];
            items[at] = item;
        }
}

class module_table {
public:
    static constexpr std::uint32_t module_limit = 4096;
    static constexpr std::size_t copied_bytes_limit = std::size_t{16} << 20;  // tables beyond are left out, and counted

    // Makes a new generation if modules were loaded or unloaded since the last, or if there is none. Returns whether there is
    // an up-to-date one. Takes the loader's lock and maps memory: not for signal handlers, nor under locks of the host that
    // a module's constructor may take. Keeps errno. Of two threads that call it at once one does the work.
    bool renew_if_changed() noexcept {
        int const error = errno;
        bool current = false;
        std::uint32_t idle = 0;
        if (core::compare_exchange(m_renewing, idle, 1u)) {
            current = renew();
            core::store_release(m_renewing, 0u);  // pairs with the exchange above
        }
        errno = error;
        return current;
    }

    // Holds on to the present generation. Signal-safe, and may be nested.
    class reader {
    public:
        // In the one order of sequentially consistent operations this increment comes before the load, and in renew() the
        // exchange before the look at m_readers: a reader that is not seen there finds the new generation.
        explicit reader(module_table& table) noexcept : m_table{table} {
            __atomic_fetch_add(&table.m_readers, 1u, __ATOMIC_SEQ_CST);
            m_generation = __atomic_load_n(&table.m_current, __ATOMIC_SEQ_CST);
        }
        ~reader() { __atomic_fetch_sub(&m_table.m_readers, 1u, __ATOMIC_SEQ_CST); }
        reader(reader const&) = delete;
        reader& operator=(reader const&) = delete;

        // Null before the first renew_if_changed().
        [[nodiscard]] module_generation const* operator->() const noexcept { return m_generation; }
        [[nodiscard]] explicit operator bool() const noexcept { return m_generation != nullptr; }

    private:
        module_table& m_table;
        module_generation const* m_generation;
    };

    // What the table occupies, replaced generations that are still kept included.
    [[nodiscard]] std::size_t used_bytes() const noexcept { return core::load_relaxed(m_used_bytes); }

private:
    // What a walk over the modules gathers; the first counts, the second fills `generation`.
    struct walk {
        module_generation* generation = nullptr;
        unsigned char* free = nullptr;  // of generation's mapping
        unsigned char* end = nullptr;
        std::uint64_t loads = 0;
        std::uint64_t unloads = 0;
        std::uint32_t count = 0;
        std::size_t extra_bytes = 0;
        std::size_t copied_bytes = 0;
        bool at_start = true;        // the modules so far were loaded before main
        bool vdso_seen = false;
        bool fits = true;

        static constexpr std::size_t round_up(std::size_t n) noexcept { return (n + 7) & ~std::size_t{7}; }

        void* take(std::size_t bytes) noexcept {
            extra_bytes += round_up(bytes);
            if (generation == nullptr) return nullptr;
            if (static_cast<std::size_t>(end - free) < round_up(bytes)) {
                fits = false;
                return nullptr;
            }
            void* const p = free;
            free += round_up(bytes);
            return p;
        }
    };

    bool renew() noexcept {
        if (!collect_garbage()) return false;
        std::uint64_t now[2] = {};
        ::dl_iterate_phdr(
            [](dl_phdr_info* info, std::size_t, void* out) {
                static_cast<std::uint64_t*>(out)[0] = info->dlpi_adds;
                static_cast<std::uint64_t*>(out)[1] = info->dlpi_subs;
                return 1;
            },
            now);
        module_generation* const before = m_current;
        if (before != nullptr && before->loads == now[0] && before->unloads == now[1]) return true;
        for (int tries = 0; tries < 3; ++tries) {  // modules may come and go between counting and filling
            walk counted;
            visit_all(counted);
            std::size_t const size = sizeof(module_generation) + sizeof(loaded_module) * counted.count + counted.extra_bytes;
            void* const p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED) return false;
            walk filled;
            filled.generation = static_cast<module_generation*>(p);
            filled.generation->modules = reinterpret_cast<loaded_module*>(filled.generation + 1);
            filled.free = reinterpret_cast<unsigned char*>(filled.generation->modules + counted.count);
            filled.end = static_cast<unsigned char*>(p) + size;
            visit_all(filled);
            if (!filled.fits || filled.loads != counted.loads || filled.unloads != counted.unloads) {
                ::munmap(p, size);
                continue;
            }
            module_generation& g = *filled.generation;
            g.loads = filled.loads;
            g.unloads = filled.unloads;
            g.size_bytes = size;
            g.number = before == nullptr ? 1 : before->number + 1;
            g.replaced = before;
            sort_by(g.modules, g.count, [](loaded_module const& m) { return m.begin; });
            core::store_relaxed(m_used_bytes, m_used_bytes + size);
            __atomic_store_n(&m_current, &g, __ATOMIC_SEQ_CST);
            collect_garbage();
            return true;
        }
        return false;
    }

    // Unmaps the replaced generations unless somebody is reading. False if many had to be kept: a reader is stuck, as in the
    // child of a fork that had one.
    bool collect_garbage() noexcept {
        if (m_current == nullptr) return true;
        if (__atomic_load_n(&m_readers, __ATOMIC_SEQ_CST) != 0) {
            unsigned kept = 0;
            for (auto const* g = m_current->replaced; g != nullptr; g = g->replaced) ++kept;
            return kept < 8;
        }
        while (module_generation* const old = m_current->replaced) {
            m_current->replaced = old->replaced;
            core::store_relaxed(m_used_bytes, m_used_bytes - old->size_bytes);
            ::munmap(old, old->size_bytes);
        }
        return true;
    }

    static void visit_all(walk& w) noexcept {
        ::dl_iterate_phdr(
            [](dl_phdr_info* info, std::size_t, void* opaque) {
                auto& in = *static_cast<walk*>(opaque);
                in.loads = info->dlpi_adds;
                in.unloads = info->dlpi_subs;
                visit(in, *info);
                return 0;
            },
            &w);
        // A loader may not list the vDSO, as musl's in static programs.
        auto const* const vdso = reinterpret_cast<ElfW(Ehdr) const*>(::getauxval(AT_SYSINFO_EHDR));
        if (vdso == nullptr || w.vdso_seen) return;
        dl_phdr_info info{};
        info.dlpi_name = "linux-vdso.so.1";
        info.dlpi_phdr = reinterpret_cast<ElfW(Phdr) const*>(reinterpret_cast<std::uintptr_t>(vdso) + vdso->e_phoff);
        info.dlpi_phnum = vdso->e_phnum;
        for (unsigned i = info.dlpi_phnum; i-- > 0;)
            if (info.dlpi_phdr[i].p_type == PT_LOAD) info.dlpi_addr = reinterpret_cast<std::uintptr_t>(vdso) - info.dlpi_phdr[i].p_vaddr;
        visit(w, info);
    }

    static void visit(walk& w, dl_phdr_info const& info) noexcept {
        loaded_module m{};
        m.bias = info.dlpi_addr;
        std::uintptr_t header = 0, image = 0;
        for (unsigned i = 0; i < info.dlpi_phnum; ++i) {
            auto const& segment = info.dlpi_phdr[i];
            std::uintptr_t const begin = info.dlpi_addr + segment.p_vaddr;
            if (segment.p_type == PT_GNU_EH_FRAME) header = begin;
            if (segment.p_type != PT_LOAD) continue;
            if (image == 0) image = begin;
            if ((segment.p_flags & PF_X) == 0) continue;
            if (m.end == 0 || begin < m.begin) m.begin = begin;
            if (begin + segment.p_memsz > m.end) m.end = begin + segment.p_memsz;
        }
        bool const vdso = image != 0 && image == ::getauxval(AT_SYSINFO_EHDR);
        bool const executable = w.count == 0 && reinterpret_cast<std::uintptr_t>(info.dlpi_phdr) == ::getauxval(AT_PHDR);
        w.vdso_seen |= vdso;
        // Loaders list what was loaded before main in front of all else, and the dynamic loader itself among it.
        std::uintptr_t const loader = ::getauxval(AT_BASE);
        if (w.count == 0) w.at_start = executable;
        m.permanent = w.at_start || vdso;
        if (loader == 0 || info.dlpi_addr == loader) w.at_start = false;
        if (m.end == 0 || w.count >= module_limit) return;
        ++w.count;

        char const* const name = info.dlpi_name == nullptr ? "" : info.dlpi_name;
        std::size_t const name_bytes = __builtin_strlen(name) + 1;
        if (void* const p = w.take(name_bytes)) m.path = static_cast<char const*>(__builtin_memcpy(p, name, name_bytes));

        if (header != 0) read_header(w, m, info, header);
        else if (executable) make_index(w, m, info);
        if (w.generation == nullptr) return;
        if (m.index == nullptr) ++w.generation->without_tables;
        w.generation->modules[w.generation->count++] = m;
    }

    // The bytes of the segment around `address` from there on; empty if no segment of the file's contents holds it.
    static table_bytes rest_of_segment(dl_phdr_info const& info, std::uintptr_t address) noexcept {
        for (unsigned i = 0; i < info.dlpi_phnum; ++i) {
            auto const& segment = info.dlpi_phdr[i];
            std::uintptr_t const begin = info.dlpi_addr + segment.p_vaddr;
            if (segment.p_type == PT_LOAD && (segment.p_flags & PF_R) != 0 && address >= begin && address - begin < segment.p_filesz)
                return {address, begin + segment.p_filesz, 0};
        }
        return {};
    }

    // From .eh_frame_hdr, which has the index made by the linker.
    static void read_header(walk& w, loaded_module& m, dl_phdr_info const& info, std::uintptr_t header) noexcept {
        table_bytes tables = rest_of_segment(info, header);
        table_cursor c{tables, header};
        auto const version = c.read<std::uint8_t>();
        auto const frame_encoding = c.read<std::uint8_t>();
        auto const count_encoding = c.read<std::uint8_t>();
        auto const index_encoding = c.read<std::uint8_t>();
        std::uintptr_t const frames = c.pointer(frame_encoding, header);
        std::uintptr_t const count = c.pointer(count_encoding, header);
        if (!c.good() || version != 1 || index_encoding != 0x3B || count == 0) return;
        if (frames < header) tables = rest_of_segment(info, frames);
        std::uintptr_t const index = c.at();
        if (frames >= tables.end || index < tables.begin || index >= tables.end || index % alignof(index_entry) != 0) return;
        if (count > (tables.end - index) / sizeof(index_entry)) return;
        std::size_t const size = tables.end - tables.begin;
        if (!m.permanent) {
            if (size > copied_bytes_limit - w.copied_bytes) return;
            w.copied_bytes += size;
            void* const copy = w.take(size + 7);  // its words are aligned as the module has them
            if (copy == nullptr) return;
            std::uintptr_t const to = reinterpret_cast<std::uintptr_t>(copy) + (tables.begin & 7);
            __builtin_memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void const*>(tables.begin), size);
            tables.displacement = to - tables.begin;
        }
        m.tables = tables;
        m.index = reinterpret_cast<index_entry const*>(index + tables.displacement);
        m.index_count = static_cast<std::uint32_t>(count);
        m.index_base = header;
    }

    // For a static executable, which has .eh_frame without .eh_frame_hdr. Its place is known to the section table in the file
    // alone.
    static void make_index(walk& w, loaded_module& m, dl_phdr_info const& info) noexcept {
        int const file = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        if (file < 0) return;
        ElfW(Ehdr) head;
        ElfW(Shdr) names, section;
        auto const get = [file](auto& out, std::uint64_t offset) {
            return ::pread(file, &out, sizeof out, static_cast<off_t>(offset)) == static_cast<ssize_t>(sizeof out);
        };
        constexpr char wanted[10] = ".eh_frame";
        if (get(head, 0) && head.e_shentsize == sizeof section && get(names, head.e_shoff + sizeof section * head.e_shstrndx))
            for (unsigned i = 1; i < head.e_shnum && get(section, head.e_shoff + sizeof section * i); ++i) {
                char name[sizeof wanted];
                if ((section.sh_flags & SHF_ALLOC) == 0 || !get(name, names.sh_offset + section.sh_name)) continue;
                if (__builtin_memcmp(name, wanted, sizeof wanted) != 0) continue;
                table_bytes tables = rest_of_segment(info, info.dlpi_addr + section.sh_addr);
                if (section.sh_size < tables.end - tables.begin) tables.end = tables.begin + section.sh_size;
                index_frames(w, m, tables);
            }
        ::close(file);
    }

    static void index_frames(walk& w, loaded_module& m, table_bytes const& tables) noexcept {
        std::uint32_t count = 0;
        for_each_description(tables, [&count](std::uintptr_t) { ++count; });
        auto* const index = static_cast<index_entry*>(w.take(sizeof(index_entry) * count));
        if (index == nullptr) return;
        std::uint32_t used = 0;
        frame_description d;
        for_each_description(tables, [&](std::uintptr_t address) {
            if (!read_description(tables, address, d)) return;
            index[used++] = {static_cast<std::int32_t>(d.begin - tables.begin), static_cast<std::int32_t>(address - tables.begin)};
        });
        if (used == 0) return;
        sort_by(index, used, [](index_entry const& e) { return e.code; });
        m.tables = tables;
        m.index = index;
        m.index_count = used;
        m.index_base = tables.begin;
    }

    module_generation* m_current = nullptr;
    std::uint32_t m_readers = 0;
    std::uint32_t m_renewing = 0;
    std::size_t m_used_bytes = 0;
};

}

#endif
