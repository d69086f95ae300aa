// Writes pprof files for pprof_test.py into a folder:
//
//   shop.pb.gz, later.pb.gz   made by hand; `later` has twice the samples of one of the stacks
//   scopes.pb.gz              the first, with scopes as frames
//   empty.pb.gz               no samples
//   own.pb.gz                 the stack of this program in shop_price, its places without names
//   named.pb.gz               the same with the names that thaw finds
//
// and says on stdout what is in them, as lines "key value".

#include <thaw/profile/symbolize.hpp>
#include <thaw/report/pprof.hpp>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <link.h>
#include <unistd.h>

extern "C" int shop_checkout(void** stack, int size);

namespace {

void write(std::string const& folder, char const* name, thaw::profile const& p, thaw::report::pprof const& report = {}) {
    std::FILE* const file = std::fopen((folder + '/' + name).c_str(), "wb");
    if (file == nullptr) return;
    report(p, file);
    std::fclose(file);
}

thaw::profile with_scopes() {
    thaw::profile p;
    p.identity = {"shop", "1.4.2", "prod", "7f3a09c2d1e4b586", "", "host", 4711, 3};
    p.window.started_unix_ns = 1'700'000'000'000'000'000;
    p.window.ended_unix_ns = 1'700'000'060'000'000'000;
    p.sites = {{"process", "", "", 0, thaw::site_kind::process},
               {"checkout", "handle", "shop.cpp", 10, thaw::site_kind::handler},
               {"price.rules", "rules", "shop.cpp", 20, thaw::site_kind::scope},
               {"hostile \"name\" <b>\xff", "f", "shop.cpp", 30, thaw::site_kind::scope}};
    p.nodes = {{.site = 0}, {.site = 1, .parent = 0}, {.site = 2, .parent = 1}, {.site = 3, .parent = 1}};
    p.cpu.status = "on";
    p.cpu.period_ns = 50'000;
    return p;
}

void add_stack(thaw::cpu_profile& c, std::uint32_t node, std::vector<std::uint32_t> const& frames, std::uint64_t samples) {
    c.stacks.push_back({.node = node, .first_frame = static_cast<std::uint32_t>(c.frames.size()),
                        .frame_count = static_cast<std::uint32_t>(frames.size()), .samples = samples,
                        .cpu_ns = samples * 4'000'000});
    c.frames.insert(c.frames.end(), frames.begin(), frames.end());
    c.samples += samples;
    c.cpu_ns += samples * 4'000'000;
}

thaw::profile by_hand(std::uint64_t factor) {
    thaw::profile p = with_scopes();
    thaw::cpu_profile& c = p.cpu;
    c.modules = {{"/opt/shop", "0123456789abcdef", 0x400000, 0x500000, 0, 0}};
    c.locations = {{0x400100, 0, "shop::mix(unsigned long)"}, {0x400200, 0, "shop::apply_rules(cart&)"},
                   {0x400240, 0, "shop::apply_rules(cart&)"}, {0x400300, 0, "main"}};
    add_stack(c, 2, {0, 1, 3}, 60 * factor);
    add_stack(c, 2, {2, 3}, 25);
    add_stack(c, 1, {3}, 10);
    add_stack(c, 3, {}, 5);
    return p;
}

}

int main(int, char** argv) {
    std::string const folder = argv[1];
    thaw::profile const shop_profile = by_hand(1);
    write(folder, "shop.pb.gz", shop_profile);
    write(folder, "scopes.pb.gz", shop_profile, {.scope_frames = true});
    write(folder, "later.pb.gz", by_hand(2));
    write(folder, "empty.pb.gz", thaw::profile{});
    std::printf("samples %" PRIu64 "\ncpu_ns %" PRIu64 "\n", shop_profile.cpu.samples, shop_profile.cpu.cpu_ns);

    void* stack[16];
    int const depth = shop_checkout(stack, 16);
    thaw::profile own = with_scopes();
    char path[4096] = {};
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return 1;
    own.identity.build_id = thaw::detail::elf_file(path).build_id();
    thaw::code_module m;
    m.path = path;
    m.build_id = own.identity.build_id;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* opaque) -> int {
            auto& module = *static_cast<thaw::code_module*>(opaque);
            module.bias = info->dlpi_addr;
            for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
                auto const& segment = info->dlpi_phdr[i];
                if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
                module.start = info->dlpi_addr + segment.p_vaddr;
                module.limit = module.start + segment.p_memsz;
                module.file_offset = segment.p_offset;
            }
            return 1; // the executable comes first
        },
        &m);
    own.cpu.modules.push_back(m);
    std::vector<std::uint32_t> frames;
    for (int i = 0; i < depth; ++i) {
        std::uint64_t const address = reinterpret_cast<std::uint64_t>(stack[i]) - 1;
        if (address < m.start || address >= m.limit) continue;
        frames.push_back(static_cast<std::uint32_t>(own.cpu.locations.size()));
        own.cpu.locations.push_back({address, 0, ""});
    }
    add_stack(own.cpu, 2, frames, 7);
    write(folder, "own.pb.gz", own);
    std::printf("build_id %s\nown_frames %zu\n", m.build_id.c_str(), frames.size());
    auto const found = thaw::symbolize(own);
    std::printf("named %zu\n", found.named);
    for (auto const& l : own.cpu.locations) std::printf("function %s\n", l.function.c_str());
    write(folder, "named.pb.gz", own);
    return 0;
}
