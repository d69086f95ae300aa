// A process_root of a test's own, with a clock that is set by hand, and this thread recording into it.
//
//   private_process p;                       // ticks are nanoseconds, and stand still
//   { THAW_SCOPE("a"); p.pass(5); }
//   core::node const* const a = p.find({"a"});
//
// One at a time, and markers on the thread that made it only.
#ifndef THAW_TESTS_UNIT_PRIVATE_PROCESS_HPP
#define THAW_TESTS_UNIT_PRIVATE_PROCESS_HPP

#include <thaw/agent/agent.hpp>
#include <thaw/core/thread_record.hpp>

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <pthread.h>

namespace thaw::testing {

inline std::uint64_t hand_clock = 0;
inline std::uint64_t read_hand_clock() noexcept { return core::load_relaxed(hand_clock); }

class private_process {
public:
    explicit private_process(std::uint64_t memory_bytes = 16u << 20, core::timing mode = core::timing::all,
                             core::tick_length length = {}) {
        options o;
        o.memory_limit_bytes = memory_bytes;
        o.timing = mode;
        m_process = detail::make_process(o);
        if (m_process == nullptr) throw std::runtime_error("no process_root");
        hand_clock = 1'000'000;
        m_process->source = {&read_hand_clock, length};
        m_process->clock.start(hand_clock);
        m_record = core::take_record(*m_process);
        if (m_record == nullptr) throw std::runtime_error("no thread_record");
        core::this_thread.record = m_record;
        core::this_module.marking = m_process->marking;
        core::this_module.process = m_process;
        m_process->clock.open(m_process->source); // otherwise time stands still
        m_record->begin();
    }
    ~private_process() {
        core::this_thread.record = &core::detached_thread;
        core::this_module.process = nullptr;
        ::pthread_key_delete(m_process->key);
        core::arena memory = m_process->memory;
        memory.release();
    }
    private_process(private_process const&) = delete;
    private_process& operator=(private_process const&) = delete;

    core::process_root& operator*() const { return *m_process; }
    core::process_root* operator->() const { return m_process; }
    core::thread_record& record() const { return *m_record; }
    core::call_tree& tree() const { return m_record->tree; }
    void pass(std::uint64_t ticks) const { core::store_relaxed(hand_clock, hand_clock + ticks); }

    // Takes what is left of the arena, but for `bytes`.
    void exhaust(std::size_t bytes = 0) const {
        core::arena& memory = m_process->memory;
        std::size_t const rest = memory.size_bytes() - memory.used_bytes();
        if (rest > bytes + 8) static_cast<void>(memory.allocate((rest - bytes) & ~std::size_t{63}));
        while (memory.size_bytes() - memory.used_bytes() >= bytes + 8 && memory.allocate(8) != nullptr) {}
    }

    // All nodes in the order of creation.
    std::vector<core::node const*> nodes() const {
        std::vector<core::node const*> all;
        for (core::node const* n = &m_record->tree.root; n != nullptr; n = core::call_tree::next_created(*n)) all.push_back(n);
        return all;
    }

    // The node of the tree, no alias, at that path below `from`; null where there is none.
    core::node const* find(std::initializer_list<std::string_view> path, core::node const* from = nullptr) const {
        core::node const* at = from != nullptr ? from : m_record->outside();
        for (std::string_view const name : path) {
            core::node const* found = nullptr;
            for (core::node const* n : nodes())
                if (n->target == nullptr && n->parent == at && n->entry->name == name) found = n;
            if (found == nullptr) return nullptr;
            at = found;
        }
        return at;
    }

    // How many entries there were of a node: its own, and those of the aliases that stand for it.
    std::uint64_t entries_of(core::node const* of) const {
        std::uint64_t count = 0;
        for (core::node const* n : nodes())
            if (n == of || n->target == of) count += n->count;
        return count;
    }

    struct figures {
        core::node_snapshot snapshot;
        std::map<unsigned, std::uint64_t> buckets;
    };
    figures read(core::node const& n) const {
        figures f;
        std::vector<core::histogram_bucket> buckets(core::histogram_bucket_count);
        f.snapshot = m_record->tree.read(n, buckets.data());
        for (auto const* b = buckets.data(); b != f.snapshot.buckets_end; ++b) f.buckets[b->index] += b->count;
        return f;
    }

private:
    core::process_root* m_process = nullptr;
    core::thread_record* m_record = nullptr;
};

// Sites made at run time, with names s0, s1, ...; their number is the constructor's argument.
class many_sites {
public:
    explicit many_sites(std::size_t count, core::site_kind kind = core::site_kind::scope) {
        for (std::size_t i = 0; i < count; ++i) {
            m_names.push_back(std::make_unique<std::string>("s" + std::to_string(i)));
            m_sites.push_back(std::make_unique<core::site>(
                core::site{m_names.back()->c_str(), "function", "file.cpp", static_cast<std::uint32_t>(i), kind}));
        }
    }
    core::site& operator[](std::size_t i) const { return *m_sites[i]; }
    std::size_t size() const { return m_sites.size(); }
    char const* name(std::size_t i) const { return m_names[i]->c_str(); }

private:
    std::vector<std::unique_ptr<std::string>> m_names;
    std::vector<std::unique_ptr<core::site>> m_sites;
};

}

#endif
