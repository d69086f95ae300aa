// thaw floor 3 report: the CPU samples of a profile as a pprof file (profile.proto), for `go tool pprof` and what else reads it.
//
//   std::string const bytes = thaw::report::pprof{}.format(p);
//   thaw::report::pprof{.scope_frames = true}(p, file);                      // a std::FILE*
//   thaw::report::pprof{}(p, thaw::sink::stream{.fd = fd});                  // anything called as sink(data, size)
//
// What is in it: the sample types samples/count and cpu/nanoseconds, of which cpu is shown by default; for each stack the labels
// "scope", the names of its scopes from the outermost on, joined with ';', and "handler"; functions under their demangled names.
// A place whose function is unknown keeps its address, so that the reader can look it up in the file of the same build id. The
// period is the CPU time that a sample came to stand for, and not the one that was asked of the kernel. Time and duration are
// those of the window, the time between the invocations included. What was lost is in the comments, as "name value".
//
// Strings are made valid UTF-8 (each malformed byte becomes U+FFFD) and are otherwise kept as they are. A number beyond 2^63 - 1
// stays there, and so does the sum over all samples. Linear in the size of the profile, but that of a stack inside of more than
// 64 scopes only the outermost and the 62 innermost are named. Thread-compatible; allocates; throws nothing but std::bad_alloc
// and what the sink throws; errno is kept.
#ifndef THAW_REPORT_PPROF_HPP
#define THAW_REPORT_PPROF_HPP

#include <thaw/core/config.hpp>
#include <thaw/profile/profile.hpp>
#include <thaw/report/gzip.hpp>
#include <thaw/report/protobuf.hpp>
#include <thaw/report/units.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace thaw::report {

struct pprof {
    bool gzip = true;          // in the gzip container, as the format wants it on disk; without compression
    bool scope_frames = false; // scopes are frames too, outside of the native ones; where there are none they always are

    // The bytes of the file. Requires: `p` is well formed (indices in range, parents before children).
    [[nodiscard]] std::string format(profile const& p) const;

    // Effects: writes the file to `out` and flushes it. A failure to write is not reported.
    void operator()(profile const& p, std::FILE* out) const {
        int const before = errno;
        std::string const file = format(p);
        std::fwrite(file.data(), 1, file.size(), out);
        std::fflush(out);
        errno = before;
    }

    // Effects: hands the file over in one call. Returns what the sink returns.
    template <class Sink>
        requires requires(Sink& sink, std::string const& s) { sink(s.data(), s.size()); }
    auto operator()(profile const& p, Sink&& sink) const {
        std::string const file = format(p);
        return sink(file.data(), file.size());
    }
};

namespace detail {

// What every pprof file consists of. Whose samples they are is up to the caller: it names the types, and then adds one value of
// each type for every sample.
class pprof_encoder {
public:
    pprof_encoder(profile const& p, bool scope_frames)
        : m_profile(p), m_scope_frames(scope_frames), m_slots(256), m_paths(p.nodes.size()), m_site_used(p.sites.size()) {
        m_message.reserve(1024 + (scope_frames ? 72u : 40u) * p.cpu.stacks.size() + 2 * p.cpu.frames.size() +
                          48 * p.cpu.locations.size());
        m_strings.reserve(1024 + 24 * p.cpu.locations.size());
        text(""); // the string of index 0
        m_scope_key = text("scope");
        m_handler_key = text("handler");
        find_handlers();
    }

    void sample_type(char const* type, char const* unit) {
        value_type(1, type, unit);
        m_left.push_back(INT64_MAX);
    }
    void default_sample_type(char const* type) { m_message.number(14, text(type)); }
    void period(char const* type, char const* unit, std::uint64_t value) {
        value_type(11, type, unit);
        m_message.number(12, signed_value(value));
    }
    void comment(std::string const& words) { m_message.number(13, text(words)); }
    void comment(char const* name, std::uint64_t value) {
        if (value != 0) comment(std::string(name) + ' ' + std::to_string(value));
    }

    // A sample of a node: its native frames [frames, frames + count) as in cpu_profile, and a value of each sample type.
    void sample(std::uint32_t node, std::uint32_t const* frames, std::size_t count, std::uint64_t const* values) {
        path const& scopes = path_of(node);
        auto const whole = m_message.begin(2);
        auto const locations = m_message.begin(1);
        m_message.values(count, [frames](std::size_t i) { return std::uint64_t{frames[i]} + 1; });
        if (count == 0 || m_scope_frames) add_scope_frames(node);
        m_message.end(locations);
        auto const numbers = m_message.begin(2);
        m_message.values(m_left.size(), [&](std::size_t i) {
            std::uint64_t const v = values[i] < m_left[i] ? values[i] : m_left[i]; // readers add them up and would wrap
            m_left[i] -= v;
            return v;
        });
        m_message.end(numbers);
        m_message.append(m_labels.data() + scopes.labels, scopes.labels_size);
        m_message.end(whole);
    }

    // The whole message. To be called once, at the end.
    [[nodiscard]] std::string finish() {
        mappings();
        native_locations();
        native_functions();
        scope_locations();
        profile_window const& w = m_profile.window;
        m_message.number(9, signed_value(w.started_unix_ns));
        if (w.ended_unix_ns > w.started_unix_ns) m_message.number(10, signed_value(w.ended_unix_ns - w.started_unix_ns));
        m_message.append(m_strings.data(), m_strings.size());
        return m_message.take();
    }

private:
    static constexpr std::size_t max_scopes = 64;

    // What is known of a node; the labels are written when a sample first needs them.
    struct path {
        std::uint32_t top = no_index;     // the outermost node below the process
        std::uint32_t handler = no_index; // the outermost handler at or above: a node
        std::uint32_t depth = 0;          // 0 for the process
        bool labelled = false;
        std::size_t labels = 0;           // in m_labels: those of its samples
        std::size_t labels_size = 0;
    };
    struct string_place {
        std::uint64_t hash;
        std::size_t offset; // in m_strings, of the characters
        std::size_t size;
        std::uint32_t function; // the native one of this name; 0: there is none yet
    };

    [[nodiscard]] static std::uint64_t signed_value(std::uint64_t v) noexcept {
        return v <= INT64_MAX ? v : static_cast<std::uint64_t>(INT64_MAX);
    }

    void find_handlers() {
        std::vector<profile_node> const& nodes = m_profile.nodes;
        for (std::uint32_t i = 0; i < nodes.size(); ++i) {
            std::uint32_t const parent = nodes[i].parent;
            path& mine = m_paths[i];
            if (parent == no_index) continue;
            path const& above = m_paths[parent];
            mine.depth = above.depth + 1;
            mine.top = mine.depth == 1 ? i : above.top;
            mine.handler = above.handler;
            if (mine.handler == no_index && m_profile.site_of(nodes[i]).kind == site_kind::handler) mine.handler = i;
        }
    }

    // Calls f(node) for the scopes of a node, the innermost first, and f(no_index) where some are left out. The process itself
    // is a scope only where there is no other.
    template <class F>
    void for_each_scope(std::uint32_t node, F f) const {
        std::uint32_t const depth = m_paths[node].depth;
        std::size_t const innermost = depth <= max_scopes ? depth : max_scopes - 2;
        f(node);
        for (std::size_t i = 1; i < innermost; ++i) f(node = m_profile.nodes[node].parent);
        if (depth <= max_scopes) return;
        f(no_index);
        f(m_paths[node].top);
    }

    path const& path_of(std::uint32_t node) {
        path& found = m_paths[node];
        if (found.labelled) return found;
        found.labelled = true;
        found.labels = m_labels.size();
        if (found.depth != 0) {
            std::uint32_t scopes[max_scopes];
            std::size_t count = 0;
            for_each_scope(node, [&](std::uint32_t n) { scopes[count++] = n; });
            std::string words;
            while (count-- > 0) {
                words += scopes[count] == no_index ? "..." : name_of(scopes[count]);
                if (count != 0) words += ';';
            }
            label(m_scope_key, words);
        }
        if (found.handler != no_index) label(m_handler_key, name_of(found.handler));
        found.labels_size = m_labels.size() - found.labels;
        return found;
    }

    void label(std::uint32_t key, std::string const& value) {
        std::uint32_t const words = text(value);
        auto const l = m_labels.begin(3);
        m_labels.number(1, key);
        m_labels.number(2, words);
        m_labels.end(l);
    }

    [[nodiscard]] std::string name_of_site(std::size_t site) const {
        return m_profile.sites[site].name.empty() ? "(unnamed)" : m_profile.sites[site].name;
    }
    [[nodiscard]] std::string name_of(std::uint32_t node) const { return name_of_site(m_profile.nodes[node].site); }

    // Native locations have the ids from 1 on, then come those of the sites, then the one that stands for scopes left out.
    void add_scope_frames(std::uint32_t node) {
        std::uint64_t ids[max_scopes];
        std::size_t count = 0;
        for_each_scope(node, [&](std::uint32_t n) {
            std::size_t const site = n == no_index ? m_profile.sites.size() : m_profile.nodes[n].site;
            if (n == no_index) m_scopes_left_out = true;
            else m_site_used[site] = 1;
            ids[count++] = m_profile.cpu.locations.size() + site + 1;
        });
        m_message.values(count, [&ids](std::size_t i) { return ids[i]; });
    }

    void value_type(unsigned field, char const* type, char const* unit) {
        auto const m = m_message.begin(field);
        m_message.number(1, text(type));
        m_message.number(2, text(unit));
        m_message.end(m);
    }

    // The index of a string in the string table.
    std::uint32_t text(std::string const& s) {
        digest const d = digest_of(s);
        if (d.ascii || is_utf8(s)) return unique(s, d.hash);
        std::string valid;
        char const* const end = s.data() + s.size();
        for (char const* at = s.data(); at != end;) {
            char32_t code = 0;
            std::size_t const length = decode_utf8(at, end, code);
            if (length == 0) valid += replacement;
            else valid.append(at, length);
            at += length == 0 ? 1 : length;
        }
        return unique(valid, digest_of(valid).hash);
    }

    [[nodiscard]] static bool is_utf8(std::string const& s) noexcept {
        char const* const end = s.data() + s.size();
        for (char const* at = s.data(); at != end;) {
            char32_t code = 0;
            std::size_t const length = decode_utf8(at, end, code);
            if (length == 0) return false;
            at += length;
        }
        return true;
    }

    struct digest {
        std::uint64_t hash;
        bool ascii;
    };

    // Eight bytes at a time, the last of them possibly twice: a byte at a time would take longer than all the rest.
    [[nodiscard]] static digest digest_of(std::string const& s) noexcept {
        std::uint64_t hash = s.size();
        std::uint64_t all = 0;
        auto const mix = [&](std::uint64_t more) {
            all |= more;
            hash = (hash ^ more) * 0x9e3779b97f4a7c15u;
            hash ^= hash >> 32;
        };
        char const* at = s.data();
        char const* const end = at + s.size();
        for (; end - at > 8; at += 8) mix(eight_bytes(at));
        std::uint64_t few = 0;
        if (s.size() >= 8) few = eight_bytes(end - 8);
        else
            for (; at != end; ++at) few = few << 8 | static_cast<unsigned char>(*at);
        mix(few);
        return {hash, (all & 0x8080808080808080u) == 0};
    }

    [[nodiscard]] static std::uint64_t eight_bytes(char const* at) noexcept {
        std::uint64_t r = 0;
        __builtin_memcpy(&r, at, 8);
        return r;
    }

    std::uint32_t unique(std::string const& s, std::uint64_t hash) {
        if (2 * m_string_places.size() >= m_slots.size()) grow();
        std::uint32_t& slot = slot_of(hash, s.data(), s.size());
        if (slot == 0) {
            m_strings.bytes(6, s.data(), s.size());
            m_string_places.push_back({hash, m_strings.size() - s.size(), s.size(), 0});
            slot = static_cast<std::uint32_t>(m_string_places.size());
        }
        return slot - 1;
    }

    // The place of that string in m_slots, or the free one where it belongs.
    [[nodiscard]] std::uint32_t& slot_of(std::uint64_t hash, char const* data, std::size_t size) noexcept {
        std::size_t const mask = m_slots.size() - 1;
        for (std::size_t at = static_cast<std::size_t>(hash) & mask;; at = (at + 1) & mask) {
            if (m_slots[at] == 0) return m_slots[at];
            string_place const& found = m_string_places[m_slots[at] - 1];
            if (found.hash == hash && found.size == size &&
                (size == 0 || __builtin_memcmp(m_strings.data() + found.offset, data, size) == 0))
                return m_slots[at];
        }
    }

    void grow() {
        std::vector<std::uint32_t> larger(2 * m_slots.size());
        std::size_t const mask = larger.size() - 1;
        for (std::uint32_t i = 0; i < m_string_places.size(); ++i) {
            std::size_t at = static_cast<std::size_t>(m_string_places[i].hash) & mask;
            while (larger[at] != 0) at = (at + 1) & mask;
            larger[at] = i + 1;
        }
        m_slots.swap(larger);
    }

    // The executable comes first, because readers take the first mapping for it.
    void mappings() {
        std::vector<code_module> const& modules = m_profile.cpu.modules;
        std::string const& id = m_profile.identity.build_id;
        for (std::size_t i = 0; i < modules.size() && !id.empty() && m_executable == no_index; ++i)
            if (modules[i].build_id == id) m_executable = static_cast<std::uint32_t>(i);
        std::vector<unsigned char> nameless(modules.size(), 2); // 0: all places have a name, 1: one has none, 2: there is no place
        for (code_location const& l : m_profile.cpu.locations)
            if (l.module < modules.size()) nameless[l.module] = (nameless[l.module] == 1 || l.function.empty()) ? 1 : 0;
        if (m_executable != no_index) mapping(m_executable, nameless[m_executable] == 0);
        for (std::uint32_t i = 0; i < modules.size(); ++i)
            if (i != m_executable) mapping(i, nameless[i] == 0);
    }

    [[nodiscard]] std::uint64_t mapping_id(std::uint32_t module) const noexcept {
        if (module >= m_profile.cpu.modules.size()) return 0;
        if (m_executable == no_index || module > m_executable) return std::uint64_t{module} + 1;
        return module == m_executable ? 1 : std::uint64_t{module} + 2;
    }

    void mapping(std::uint32_t module, bool has_functions) {
        code_module const& c = m_profile.cpu.modules[module];
        auto const m = m_message.begin(3);
        m_message.number(1, mapping_id(module));
        m_message.number(2, c.start);
        m_message.number(3, c.limit);
        m_message.number(4, c.file_offset);
        m_message.number(5, text(c.path));
        m_message.number(6, text(c.build_id));
        m_message.number(7, has_functions ? 1 : 0); // where this is 0, readers look up the names of all its places themselves
        m_message.end(m);
    }

    void native_locations() {
        std::uint64_t id = 0;
        for (code_location const& l : m_profile.cpu.locations) {
            auto const m = m_message.begin(4);
            m_message.number(1, ++id);
            m_message.number(2, mapping_id(l.module));
            m_message.number(3, l.address);
            if (!l.function.empty()) line(native_function(l.function), 0);
            m_message.end(m);
        }
    }

    void line(std::uint32_t function, std::uint32_t number) {
        auto const m = m_message.begin(4);
        m_message.number(1, function);
        m_message.number(2, number);
        m_message.end(m);
    }

    // The id of the function of that name.
    std::uint32_t native_function(std::string const& name) {
        std::uint32_t& id = m_string_places[text(name)].function;
        if (id == 0) id = ++m_functions;
        return id;
    }

    void native_functions() {
        for (std::size_t words = 0; words < m_string_places.size(); ++words) {
            if (m_string_places[words].function == 0) continue;
            auto const m = m_message.begin(5);
            m_message.number(1, m_string_places[words].function);
            m_message.number(2, words);
            m_message.number(3, words); // as the name, so that a reader may shorten it: it leaves out arguments by default
            m_message.end(m);
        }
    }

    void scope_locations() {
        std::size_t const sites = m_profile.sites.size();
        for (std::size_t i = 0; i <= sites; ++i) {
            bool const left_out = i == sites;
            if (left_out ? !m_scopes_left_out : m_site_used[i] == 0) continue;
            std::uint32_t const number = left_out ? 0 : m_profile.sites[i].line;
            auto const m = m_message.begin(4);
            m_message.number(1, m_profile.cpu.locations.size() + i + 1);
            line(++m_functions, number);
            m_message.end(m);
            auto const f = m_message.begin(5);
            m_message.number(1, m_functions);
            m_message.number(2, left_out ? text("...") : text(name_of_site(i)));
            if (!left_out) {
                m_message.number(4, text(m_profile.sites[i].file));
                m_message.number(5, number);
            }
            m_message.end(f);
        }
    }

    profile const& m_profile;
    bool m_scope_frames;
    protobuf_writer m_message;
    protobuf_writer m_strings; // the string table
    protobuf_writer m_labels;  // of the nodes that have samples
    std::vector<string_place> m_string_places;
    std::vector<std::uint32_t> m_slots; // a hash table of the strings: open addressing, at most half full; index + 1, 0 is free
    std::vector<path> m_paths;       // by node
    std::vector<unsigned char> m_site_used; // as a frame
    bool m_scopes_left_out = false;
    std::vector<std::uint64_t> m_left; // by sample type: what may be added to its sum
    std::uint32_t m_executable = no_index;
    std::uint32_t m_functions = 0;
    std::uint32_t m_scope_key = 0;
    std::uint32_t m_handler_key = 0;
};

inline void encode_cpu(pprof_encoder& e, profile const& p) {
    cpu_profile const& c = p.cpu;
    e.sample_type("samples", "count");
    e.sample_type("cpu", "nanoseconds");
    e.default_sample_type("cpu");
    for (cpu_stack const& s : c.stacks) {
        std::uint64_t const values[] = {s.samples, s.cpu_ns};
        e.sample(s.node, c.frames.data() + s.first_frame, s.frame_count, values);
    }
    std::uint64_t const attributed = c.cpu_ns > c.unattributed_ns ? c.cpu_ns - c.unattributed_ns : 0;
    e.period("cpu", "nanoseconds", c.samples != 0 ? attributed / c.samples : c.period_ns);
    if (!c.status.empty()) e.comment("cpu " + c.status);
    e.comment("cpu_unattributed_ns", c.unattributed_ns);
    e.comment("cpu_samples_dropped", c.dropped);
    e.comment("cpu_overflow_stacks", c.overflow_stacks);
    e.comment("cpu_truncated_stacks", c.truncated_stacks);
    e.comment("cpu_failed_stacks", c.failed_stacks);
}

inline void encode_identity(pprof_encoder& e, profile const& p) {
    profile_identity const& id = p.identity;
    struct {
        char const* name;
        std::string const& value;
    } const known[] = {{"app ", id.app},           {"version ", id.version}, {"environment ", id.environment},
                       {"instance ", id.instance}, {"host ", id.host}};
    for (auto const& k : known)
        if (!k.value.empty()) e.comment(k.name + k.value);
    e.comment("sequence", id.sequence);
    e.comment("invocations", p.window.invocations);
    e.comment("active_ns", p.window.active_ns);
}

}

inline std::string pprof::format(profile const& p) const {
    detail::pprof_encoder e(p, scope_frames);
    detail::encode_cpu(e, p);
    detail::encode_identity(e, p);
    std::string file = e.finish();
    if (gzip) wrap_in_gzip(file);
    return file;
}

}

#endif
