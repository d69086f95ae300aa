// thaw floor 9 agent: how CPU samples become the CPU part of a profile: nodes, places in the code, and weights.
//
// The time from one collect to the next is a window. Its samples share the CPU time that the invocations used in it, equally: a
// stack's cpu_ns is the sum of such shares. They are whole numbers that add up to the CPU time exactly. CPU time of a window
// without a sample is unattributed. What was found out about the code is kept from one collect to the next.
//
// Part of the collector, and used by it only: begin, read each tree, finish.
#ifndef THAW_AGENT_COLLECT_CPU_HPP
#define THAW_AGENT_COLLECT_CPU_HPP

#include <thaw/core/config.hpp>

#if THAW_ENABLED

#include <thaw/agent/loaded_code.hpp>
#include <thaw/core/thread_record.hpp>
#include <thaw/profile/cpu_profile.hpp>
#include <thaw/profile/key_index.hpp>
#include <thaw/sampler/cpu_sampler.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

THAW_DETAIL_BEGIN
namespace detail {

template <class Process, class Code = loaded_code<code_module>, class Index = key_index>
class cpu_collector {
public:
    explicit cpu_collector(Process& p) : m_process(p) {}

    // `kept` is the CPU part of the last profile.
    void begin(cpu_profile& to, cpu_profile&& kept) {
        to.modules = std::move(kept.modules);
        to.locations = std::move(kept.locations);
        to.frames = std::move(kept.frames);
        to.stacks = std::move(kept.stacks);
        to.stacks.clear();
        m_rows.clear();
        m_sampler = static_cast<sampler::cpu_sampler*>(m_process.cpu_sampler);
        if (m_sampler != nullptr) m_sampler->look_at_signal();
        m_looked_at_code = false;
    }

    // The samples of a node that have no stack of their own. `index` is the profile's node.
    void read_node(core::node const& n, std::uint32_t index) {
        std::uint32_t const samples = core::load_relaxed(n.samples);
        if (samples != 0) [[unlikely]] add_row(reinterpret_cast<std::uintptr_t>(&n), index, samples);
    }

    // The stacks of a tree. `node_of` has the profile's nodes, by ordinal.
    void read_stacks(cpu_profile& to, core::thread_record const& r, std::vector<std::uint32_t> const& node_of) {
        auto const* const t = static_cast<sampler::thread_sampler const*>(core::load_acquire(r.sampler));  // pairs with begin()
        if (t == nullptr) return;
        to.dropped += core::load_relaxed(t->dropped);
        to.overflow_stacks += core::load_relaxed(t->overflow);
        to.truncated_stacks += core::load_relaxed(t->truncated);
        to.failed_stacks += core::load_relaxed(t->failed);
        core::load_relaxed(t->denied) ? ++m_denied : ++m_sampled;
        for (std::uint32_t i = core::load_acquire(t->newest); i != 0;) {  // pairs with the release in stack_table::add
            sampler::sampled_stack const& s = m_sampler->stacks.stack(i - 1);
            if (s.at->ordinal < node_of.size() && node_of[s.at->ordinal] != no_index) {
                std::uint32_t const at = add_row(i, node_of[s.at->ordinal], core::load_relaxed(s.samples));
                if (m_sources[at].sequence == no_index) m_sources[at].sequence = sequence_of(to, s);
            }
            i = s.next;
        }
    }

    // Weighs the samples and adds the stacks.
    void finish(cpu_profile& to) {
        to.period_ns = sampler::asked_period_ns;
        to.status = status();
        m_denied = m_sampled = 0;
        std::uint64_t const before = m_cpu_seen_ns;
        std::uint64_t const now = used_cpu_ns();
        m_stack_of = Index(m_rows.size());
        for (row const& r : m_rows) {  // makes what allocates before it changes what is kept
            std::uint32_t const sequence = m_sources[r.source].sequence;
            std::uint32_t& found = m_stack_of(r.node, sequence);
            if (found != no_index) continue;
            found = static_cast<std::uint32_t>(to.stacks.size());
            cpu_stack s;
            s.node = r.node;
            if (sequence != no_index) {
                s.first_frame = m_sequences[sequence].first_frame;
                s.frame_count = m_sequences[sequence].frame_count;
                s.truncated = m_sequences[sequence].truncated;
            }
            to.stacks.push_back(s);
        }
        std::uint64_t window_samples = 0;
        for (row const& r : m_rows) window_samples += grown(r);
        if (now > before) {
            m_cpu_seen_ns = now;
            if (m_sampler != nullptr && (m_was_on || window_samples != 0)) {
                m_covered_ns += now - before;
                if (window_samples == 0) m_unattributed_ns += now - before;
            }
        }
        std::uint64_t const shared_ns = window_samples == 0 || now <= before ? 0 : now - before;
        std::uint64_t const each = window_samples == 0 ? 0 : shared_ns / window_samples;
        std::uint64_t const rest = shared_ns - each * window_samples;  // less than there are samples, fewer than 2^32
        std::uint64_t shared_out = 0, done = 0;
        for (row const& r : m_rows) {
            source& s = m_sources[r.source];
            std::uint32_t const samples = grown(r);
            done += samples;
            std::uint64_t const up_to = window_samples == 0 ? 0 : each * done + rest * done / window_samples;
            s.samples += samples;
            s.seen = r.samples;
            s.cpu_ns += up_to - shared_out;
            shared_out = up_to;
            cpu_stack& in = to.stacks[m_stack_of(r.node, s.sequence)];
            in.samples += s.samples;
            in.cpu_ns += s.cpu_ns;
            to.samples += s.samples;
        }
        to.cpu_ns = m_covered_ns;
        to.unattributed_ns = m_unattributed_ns;
        m_was_on = m_sampler != nullptr && m_sampler->state() == sampler::sampling::on;
    }

    // What was used until now is not covered: sampling was off.
    void skip() noexcept { m_cpu_seen_ns = used_cpu_ns(); }

private:
    struct source {  // a node, or a stack of the table
        std::uint32_t sequence = no_index;
        std::uint32_t seen = 0;  // its samples at the last collect, modulo 2^32
        std::uint64_t samples = 0;
        std::uint64_t cpu_ns = 0;
    };
    struct row {
        std::uint32_t node;
        std::uint32_t source;
        std::uint32_t samples;
    };
    struct frame_sequence {
        std::uint32_t first_frame;
        std::uint32_t frame_count;
        bool truncated;
        std::uint32_t next;  // with the same hash
    };

    [[nodiscard]] std::uint32_t grown(row const& r) const noexcept { return r.samples - m_sources[r.source].seen; }

    std::uint32_t add_row(std::uint64_t key, std::uint32_t node, std::uint32_t samples) {
        if (m_sources.size() == m_sources.capacity()) m_sources.reserve(m_sources.size() * 2 + 64);
        std::uint32_t& found = m_source_of[key];
        if (found == no_index) {
            found = static_cast<std::uint32_t>(m_sources.size());
            m_sources.push_back({});
        }
        m_rows.push_back({node, found, samples});
        return found;
    }

    // CPU time of all invocations so far, of open ones where they run now included. A piece that ends while this reads is
    // left to the next window.
    [[nodiscard]] std::uint64_t used_cpu_ns() const noexcept {
        std::uint64_t sum = 0;
        for (auto* r = core::load_acquire(m_process.records); r != nullptr; r = r->next) {  // pairs with take_record
            sum += core::load_relaxed(r->sums.cpu_ns);
            auto const* const open = core::load_relaxed(r->invocation);
            auto const* const t = static_cast<sampler::thread_sampler const*>(core::load_acquire(r->sampler));
            if (open == nullptr || t == nullptr || !m_process.measure_cpu) continue;
            std::uint64_t const began = core::load_relaxed(open->cpu_started_ns), now = core::read_clock_ns(t->clock());
            sum += core::load_relaxed(open->cpu_ns) + (now > began ? now - began : 0);
        }
        return sum;
    }

    [[nodiscard]] std::string status() const {
        if (m_sampler == nullptr || m_sampler->state() == sampler::sampling::off) return "off";
        if (m_sampler->state() == sampler::sampling::signal_taken) return "unavailable (signal taken)";
        if (m_denied != 0 && m_sampled == 0) return "unavailable (timer denied)";
        std::uint32_t const without = m_denied + m_sampler->unsampled_threads();
        if (without != 0) return "on; threads without a timer: " + std::to_string(without);
        return "on";
    }

    [[nodiscard]] std::uint32_t sequence_of(cpu_profile& to, sampler::sampled_stack const& s) {
        look_at_code();
        m_new_frames.clear();
        std::uint64_t hash = s.truncated;
        for (std::uint32_t i = 0; i < s.frame_count; ++i) {
            m_new_frames.push_back(location_of(to, m_sampler->stacks.frames_of(s)[i]));
            hash = (hash ^ hash >> 29 ^ m_new_frames.back()) * 0x9E3779B97F4A7C15u + 1;
        }
        if (m_sequences.size() == m_sequences.capacity()) m_sequences.reserve(m_sequences.size() * 2 + 64);
        std::uint32_t& first = m_sequence_of[hash];
        for (std::uint32_t i = first; i != no_index; i = m_sequences[i].next) {
            frame_sequence const& known = m_sequences[i];
            bool same = known.frame_count == s.frame_count && known.truncated == s.truncated;
            for (std::uint32_t f = 0; same && f < s.frame_count; ++f) same = to.frames[known.first_frame + f] == m_new_frames[f];
            if (same) return i;
        }
        std::uint32_t const before = first;
        first = static_cast<std::uint32_t>(m_sequences.size());
        m_sequences.push_back({static_cast<std::uint32_t>(to.frames.size()), s.frame_count, s.truncated, before});
        to.frames.insert(to.frames.end(), m_new_frames.begin(), m_new_frames.end());
        return first;
    }

    // An address is another place once modules were loaded or unloaded.
    void look_at_code() {
        if (m_looked_at_code) return;
        m_looked_at_code = true;
        if (!m_code.renew()) return;
        m_location_of = Index();
        m_module_of.assign(m_code.modules().size(), no_index);
    }

    [[nodiscard]] std::uint32_t location_of(cpu_profile& to, std::uintptr_t address) {
        if (to.locations.size() == to.locations.capacity()) to.locations.reserve(to.locations.size() * 2 + 64);
        std::uint32_t& found = m_location_of[address];
        if (found != no_index) return found;
        found = static_cast<std::uint32_t>(to.locations.size());
        to.locations.push_back({address, module_of(to, address), {}});
        return found;
    }

    [[nodiscard]] std::uint32_t module_of(cpu_profile& to, std::uintptr_t address) {
        for (std::size_t i = 0; i < m_code.modules().size(); ++i) {
            code_module const& m = m_code.modules()[i];
            if (address < m.start || address >= m.limit) continue;
            if (m_module_of[i] != no_index) return m_module_of[i];
            std::uint32_t at = 0;
            while (at < to.modules.size() && !same(to.modules[at], m)) ++at;
            if (at == to.modules.size()) to.modules.push_back(m);
            return m_module_of[i] = at;
        }
        return no_index;
    }

    [[nodiscard]] static bool same(code_module const& a, code_module const& b) {
        return a.start == b.start && a.limit == b.limit && a.bias == b.bias && a.path == b.path && a.build_id == b.build_id;
    }

    Process& m_process;
    sampler::cpu_sampler* m_sampler = nullptr;
    // From one collect to the next:
    std::vector<source> m_sources;
    Index m_source_of;         // by the address of a node, or by a stack's index plus 1
    std::vector<frame_sequence> m_sequences;
    Index m_sequence_of;       // the newest of a hash
    Index m_location_of;       // by address
    Code m_code;
    std::vector<std::uint32_t> m_module_of;  // the profile's, by index into m_code
    std::uint64_t m_cpu_seen_ns = 0;
    std::uint64_t m_covered_ns = 0;
    std::uint64_t m_unattributed_ns = 0;
    bool m_was_on = true;
    // During one:
    std::vector<row> m_rows;
    Index m_stack_of;          // the profile's stacks, by node and sequence
    std::vector<std::uint32_t> m_new_frames;
    std::uint32_t m_denied = 0;
    std::uint32_t m_sampled = 0;
    bool m_looked_at_code = false;
};

}
THAW_DETAIL_END

#endif

#endif
