// thaw floor 4 profile: adds the CPU samples of two profiles.
//
// Instances load their modules at different addresses. So a place is the same in both where it lies in the same file (path and
// build id) at the same distance from where the file was loaded, and in the sum it has the address of the first; a stack is the
// same where its node and all its places are. Places in no known module are the same at the same address.
//
// Thread-compatible; allocates; throws std::bad_alloc only. Linear in modules squared, places and frames.
#ifndef THAW_PROFILE_MERGE_CPU_HPP
#define THAW_PROFILE_MERGE_CPU_HPP

#include <thaw/core/config.hpp>
#include <thaw/core/histogram.hpp>
#include <thaw/profile/cpu_profile.hpp>
#include <thaw/profile/key_index.hpp>

#include <cstdint>
#include <vector>

namespace thaw::detail {

class cpu_merge {
public:
    // `node_of`: for each node of the added profile the sum's. All three outlive the object.
    cpu_merge(cpu_profile& sum, cpu_profile const& added, std::vector<std::uint32_t> const& node_of)
        : m_sum(sum), m_added(added), m_node_of(node_of), m_places(sum.locations.size() + added.locations.size()),
          m_stacks(sum.stacks.size() + added.stacks.size()) {}

    void add() {
        if (m_added.stacks.empty() && m_added.status.empty()) return;
        add_figures();
        for (code_module const& m : m_added.modules) m_module_of.push_back(module_of(m));
        for (std::uint32_t i = 0; i < m_sum.locations.size(); ++i) place_slot(m_sum.locations[i]) = i;
        for (code_location const& l : m_added.locations) m_place_of.push_back(place_of(l));
        for (std::uint32_t i = 0; i < m_sum.stacks.size(); ++i) stack_slot(m_sum.stacks[i], m_sum.frames.data()) = i;
        for (cpu_stack const& s : m_added.stacks) add_stack(s);
    }

private:
    void add_figures() {
        if (m_sum.status.empty()) m_sum.status = m_added.status;
        if (m_sum.status != m_added.status) m_sum.status = "differs between instances";
        if (m_sum.period_ns != m_added.period_ns) m_sum.period_ns = m_sum.period_ns == 0 ? m_added.period_ns : 0;
        std::uint64_t cpu_profile::*const figures[] = {&cpu_profile::samples,          &cpu_profile::cpu_ns,
                                                       &cpu_profile::unattributed_ns,  &cpu_profile::dropped,
                                                       &cpu_profile::overflow_stacks,  &cpu_profile::truncated_stacks,
                                                       &cpu_profile::failed_stacks};
        for (auto const figure : figures) m_sum.*figure = core::saturating_add(m_sum.*figure, m_added.*figure);
    }

    std::uint32_t module_of(code_module const& m) {
        for (std::uint32_t i = 0; i < m_sum.modules.size(); ++i)
            if (m_sum.modules[i].path == m.path && m_sum.modules[i].build_id == m.build_id) return i;
        m_sum.modules.push_back(m);
        return static_cast<std::uint32_t>(m_sum.modules.size() - 1);
    }

    std::uint32_t place_of(code_location l) {
        if (l.module < m_module_of.size()) {
            std::uint64_t const distance = l.address - m_added.modules[l.module].bias;
            l.module = m_module_of[l.module];
            l.address = m_sum.modules[l.module].bias + distance;
        }
        std::uint32_t& at = place_slot(l);
        if (at == no_index) {
            at = static_cast<std::uint32_t>(m_sum.locations.size());
            m_sum.locations.push_back(l);
        } else if (m_sum.locations[at].function.empty()) {
            m_sum.locations[at].function = l.function;
        }
        return at;
    }

    void add_stack(cpu_stack s) {
        m_frames.clear();
        for (std::uint32_t i = 0; i < s.frame_count; ++i) m_frames.push_back(m_place_of[m_added.frames[s.first_frame + i]]);
        s.node = m_node_of[s.node];
        s.first_frame = 0;
        std::uint32_t& at = stack_slot(s, m_frames.data());
        if (at == no_index) {
            at = static_cast<std::uint32_t>(m_sum.stacks.size());
            s.first_frame = static_cast<std::uint32_t>(m_sum.frames.size());
            m_sum.frames.insert(m_sum.frames.end(), m_frames.begin(), m_frames.end());
            m_sum.stacks.push_back(s);
            return;
        }
        cpu_stack& to = m_sum.stacks[at];
        to.samples = core::saturating_add(to.samples, s.samples);
        to.cpu_ns = core::saturating_add(to.cpu_ns, s.cpu_ns);
    }

    static std::uint64_t mixed(std::uint64_t hash, std::uint64_t value) noexcept {
        hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
        return hash ^ hash >> 29;
    }

    // Where the index of an equal place or stack of the sum stands, or no_index. Keys are hashes; equal ones are told apart.
    std::uint32_t& place_slot(code_location const& l) {
        for (std::uint64_t key = mixed(l.module, l.address);; ++key) {
            std::uint32_t& at = m_places[key];
            if (at == no_index || (m_sum.locations[at].module == l.module && m_sum.locations[at].address == l.address)) return at;
        }
    }
    std::uint32_t& stack_slot(cpu_stack const& s, std::uint32_t const* frames) {
        std::uint32_t const* const first = frames + s.first_frame;
        std::uint64_t key = mixed(s.node, s.frame_count + (s.truncated ? 1ull << 32 : 0));
        for (std::uint32_t i = 0; i < s.frame_count; ++i) key = mixed(key, first[i]);
        for (;; ++key) {
            std::uint32_t& at = m_stacks[key];
            if (at == no_index || same_stack(m_sum.stacks[at], s, first)) return at;
        }
    }
    bool same_stack(cpu_stack const& a, cpu_stack const& b, std::uint32_t const* frames_of_b) const noexcept {
        if (a.node != b.node || a.frame_count != b.frame_count || a.truncated != b.truncated) return false;
        for (std::uint32_t i = 0; i < a.frame_count; ++i)
            if (m_sum.frames[a.first_frame + i] != frames_of_b[i]) return false;
        return true;
    }

    cpu_profile& m_sum;
    cpu_profile const& m_added;
    std::vector<std::uint32_t> const& m_node_of;
    std::vector<std::uint32_t> m_module_of;  // of the added profile's modules, in the sum
    std::vector<std::uint32_t> m_place_of;   // likewise of its locations
    std::vector<std::uint32_t> m_frames;     // of the stack that is being added
    key_index m_places;
    key_index m_stacks;
};

}

#endif
