// Reads protobuf messages and pprof files for tests, strictly: whatever is malformed, unknown or dangling is an exception.
//
//   pprof_file const f = read_pprof(thaw::report::pprof{}.format(p));
//   f.samples[0].functions[0]   // the name of the innermost frame
#ifndef THAW_TESTS_UNIT_PPROF_READER_HPP
#define THAW_TESTS_UNIT_PPROF_READER_HPP

#include <thaw/report/units.hpp>

#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace thaw::testing {

struct protobuf_field {
    unsigned number = 0;
    std::uint64_t value = 0;   // of a varint
    std::string bytes;         // of a length-delimited field
    bool delimited = false;
};

inline std::uint64_t read_varint(std::string const& s, std::size_t& at) {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (at >= s.size()) throw std::runtime_error("a varint ends early");
        auto const byte = static_cast<unsigned char>(s[at++]);
        if (shift == 63 && byte > 1) throw std::runtime_error("a varint is over 64 bits");
        value |= std::uint64_t{byte & 0x7fu} << shift;
        if (byte < 0x80) {
            if (byte == 0 && shift != 0) throw std::runtime_error("a varint is longer than it has to be");
            return value;
        }
    }
    throw std::runtime_error("a varint is over ten bytes");
}

inline std::vector<protobuf_field> read_fields(std::string const& s) {
    std::vector<protobuf_field> fields;
    for (std::size_t at = 0; at < s.size();) {
        std::uint64_t const tag = read_varint(s, at);
        protobuf_field f;
        f.number = static_cast<unsigned>(tag >> 3);
        if (f.number == 0) throw std::runtime_error("field 0");
        if ((tag & 7) == 0) {
            f.value = read_varint(s, at);
        } else if ((tag & 7) == 2) {
            f.delimited = true;
            std::uint64_t const size = read_varint(s, at);
            if (size > s.size() - at) throw std::runtime_error("a field ends early");
            f.bytes = s.substr(at, size);
            at += size;
        } else {
            throw std::runtime_error("a wire type that is not in use");
        }
        fields.push_back(f);
    }
    return fields;
}

inline std::vector<std::uint64_t> read_packed(std::string const& s) {
    std::vector<std::uint64_t> values;
    for (std::size_t at = 0; at < s.size();) values.push_back(read_varint(s, at));
    return values;
}

// A file of stored blocks, without its checksum being looked at.
inline std::string read_gzip(std::string const& s) {
    auto const byte = [&s](std::size_t at) -> std::size_t { return static_cast<unsigned char>(s.at(at)); };
    if (s.substr(0, 4) != std::string("\x1f\x8b\x08\0", 4)) throw std::runtime_error("no gzip header");
    std::string r;
    std::size_t at = 10;
    for (bool last = false; !last;) {
        last = byte(at) == 1;
        if (byte(at) > 1) throw std::runtime_error("no stored block");
        std::size_t const size = byte(at + 1) | byte(at + 2) << 8;
        if ((byte(at + 3) | byte(at + 4) << 8) != (~size & 0xffff)) throw std::runtime_error("a length and no complement");
        at += 5;
        if (size > s.size() - at) throw std::runtime_error("a block ends early");
        r += s.substr(at, size);
        at += size;
    }
    if (s.size() - at != 8) throw std::runtime_error("no trailer");
    if ((byte(at + 4) | byte(at + 5) << 8 | byte(at + 6) << 16 | byte(at + 7) << 24) != (r.size() & 0xffffffff))
        throw std::runtime_error("another size in the trailer");
    return r;
}

inline bool is_utf8(std::string const& s) {
    char const* const end = s.data() + s.size();
    for (char const* at = s.data(); at != end;) {
        char32_t code = 0;
        std::size_t const length = report::detail::decode_utf8(at, end, code);
        if (length == 0) return false;
        at += length;
    }
    return true;
}

struct pprof_mapping {
    std::uint64_t start = 0, limit = 0, offset = 0;
    std::string file, build_id;
    bool has_functions = false;
    friend bool operator==(pprof_mapping const&, pprof_mapping const&) = default;
};

struct pprof_sample {
    std::vector<std::string> functions;    // innermost first; "" for a place without a line
    std::vector<std::uint64_t> addresses;  // as long
    std::vector<std::uint64_t> mappings;   // ids, as long; 0: none
    std::vector<std::int64_t> values;
    std::map<std::string, std::string> labels;
};

struct pprof_function {
    std::string name, system_name, file;
    std::uint64_t start_line = 0;
};

struct pprof_file {
    std::vector<std::pair<std::string, std::string>> sample_types; // type and unit
    std::vector<pprof_sample> samples;
    std::vector<pprof_mapping> mappings; // in the order of the file; ids count from 1 in it
    std::map<std::string, pprof_function> functions;
    std::vector<std::string> strings;
    std::vector<std::string> comments;
    std::pair<std::string, std::string> period_type;
    std::int64_t time_ns = 0, duration_ns = 0, period = 0;
    std::string default_sample_type;

    [[nodiscard]] std::int64_t total(std::size_t type) const {
        std::int64_t sum = 0;
        for (pprof_sample const& s : samples)
            if (__builtin_add_overflow(sum, s.values.at(type), &sum)) throw std::runtime_error("a sum overflows");
        return sum;
    }
};

inline pprof_file read_pprof_message(std::string const& message) {
    pprof_file r;
    auto const fields = read_fields(message);
    std::set<std::string> unique;
    for (auto const& f : fields)
        if (f.number == 6) {
            if (!is_utf8(f.bytes)) throw std::runtime_error("a string is not UTF-8");
            if (!unique.insert(f.bytes).second) throw std::runtime_error("a string is there twice");
            r.strings.push_back(f.bytes);
        }
    if (r.strings.empty() || !r.strings[0].empty()) throw std::runtime_error("the first string is not empty");
    auto const text = [&r](std::uint64_t i) { return r.strings.at(i); };
    auto const value_type = [&](std::string const& s) {
        std::pair<std::string, std::string> p;
        for (auto const& f : read_fields(s)) (f.number == 1 ? p.first : p.second) = text(f.value);
        return p;
    };
    std::map<std::uint64_t, pprof_function> functions;
    struct place {
        std::uint64_t mapping = 0, address = 0, function = 0;
    };
    std::map<std::uint64_t, place> places;
    for (auto const& f : fields) {
        if (f.number == 5) {
            pprof_function fn;
            std::uint64_t id = 0;
            for (auto const& g : read_fields(f.bytes)) {
                if (g.number == 1) id = g.value;
                else if (g.number == 2) fn.name = text(g.value);
                else if (g.number == 3) fn.system_name = text(g.value);
                else if (g.number == 4) fn.file = text(g.value);
                else if (g.number == 5) fn.start_line = g.value;
                else throw std::runtime_error("a field of a function that is not in the format");
            }
            if (id == 0 || !functions.emplace(id, fn).second) throw std::runtime_error("the id of a function");
            r.functions[fn.name] = fn;
        } else if (f.number == 4) {
            place p;
            std::uint64_t id = 0;
            for (auto const& g : read_fields(f.bytes)) {
                if (g.number == 1) id = g.value;
                else if (g.number == 2) p.mapping = g.value;
                else if (g.number == 3) p.address = g.value;
                else if (g.number == 4) p.function = read_fields(g.bytes).at(0).value;
                else throw std::runtime_error("a field of a location that is not in the format");
            }
            if (id == 0 || !places.emplace(id, p).second) throw std::runtime_error("the id of a location");
        } else if (f.number == 3) {
            pprof_mapping m;
            std::uint64_t id = 0;
            for (auto const& g : read_fields(f.bytes)) {
                if (g.number == 1) id = g.value;
                else if (g.number == 2) m.start = g.value;
                else if (g.number == 3) m.limit = g.value;
                else if (g.number == 4) m.offset = g.value;
                else if (g.number == 5) m.file = text(g.value);
                else if (g.number == 6) m.build_id = text(g.value);
                else if (g.number == 7) m.has_functions = g.value == 1;
                else throw std::runtime_error("a field of a mapping that is not in the format");
            }
            r.mappings.push_back(m);
            if (id != r.mappings.size()) throw std::runtime_error("the id of a mapping");
        }
    }
    for (auto const& [id, p] : places) {
        if (p.mapping > r.mappings.size()) throw std::runtime_error("a location of no mapping");
        if (p.function != 0 && functions.count(p.function) == 0) throw std::runtime_error("a location of no function");
    }
    for (auto const& f : fields) {
        if (f.number == 1) r.sample_types.push_back(value_type(f.bytes));
        else if (f.number == 9) r.time_ns = static_cast<std::int64_t>(f.value);
        else if (f.number == 10) r.duration_ns = static_cast<std::int64_t>(f.value);
        else if (f.number == 11) r.period_type = value_type(f.bytes);
        else if (f.number == 12) r.period = static_cast<std::int64_t>(f.value);
        else if (f.number == 13) r.comments.push_back(text(f.value));
        else if (f.number == 14) r.default_sample_type = text(f.value);
        else if (f.number == 2) {
            pprof_sample s;
            for (auto const& g : read_fields(f.bytes)) {
                if (g.number == 1) {
                    for (std::uint64_t const id : read_packed(g.bytes)) {
                        place const& p = places.at(id);
                        s.functions.push_back(p.function == 0 ? "" : functions.at(p.function).name);
                        s.addresses.push_back(p.address);
                        s.mappings.push_back(p.mapping);
                    }
                } else if (g.number == 2) {
                    for (std::uint64_t const v : read_packed(g.bytes)) s.values.push_back(static_cast<std::int64_t>(v));
                } else if (g.number == 3) {
                    std::string key, words;
                    for (auto const& h : read_fields(g.bytes)) (h.number == 1 ? key : words) = text(h.value);
                    if (key.empty() || !s.labels.emplace(key, words).second) throw std::runtime_error("the key of a label");
                } else {
                    throw std::runtime_error("a field of a sample that is not in the format");
                }
            }
            r.samples.push_back(s);
        } else if (f.number < 3 || f.number > 6) {
            throw std::runtime_error("a field of a profile that is not in the format");
        }
    }
    for (pprof_sample const& s : r.samples)
        if (s.values.size() != r.sample_types.size()) throw std::runtime_error("not a value for each sample type");
    return r;
}

inline pprof_file read_pprof(std::string const& file) { return read_pprof_message(read_gzip(file)); }

}

#endif
