// thaw floor 11 agent: starting and stopping, and the report at the end of an invocation.
//
//   thaw::start({.app = "shop", .version = "1.4.2"}, [](thaw::profile const& p) { ... });
//   ...
//   thaw::stop();                                    // a last report; optional
//
// A report is due at the end of the first invocation of the process, then when `report_every_ms` have passed, after an
// invocation that failed, at thaw::stop() and at thaw::report_now(). It runs on the thread whose invocation has just ended and
// outside of it: neither collecting nor the reporter is in the profile. No thread, timer or socket exists in between.
//
// start, stop and report_now are thread-safe; none of them throws. Before start nothing is allocated or opened. They and what
// does their work are templates, so that only the unit that calls them pays for compiling them.
#ifndef THAW_AGENT_AGENT_HPP
#define THAW_AGENT_AGENT_HPP

#include <thaw/agent/handler.hpp>
#include <thaw/agent/options.hpp>
#include <thaw/core/config.hpp>
#include <thaw/profile/profile.hpp>
#include <thaw/profile/reporter.hpp>

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>

#if THAW_ENABLED
#include <thaw/agent/collect.hpp>
#include <thaw/core/marking.hpp>
#include <thaw/profile/symbolize.hpp>
#include <thaw/sampler/cpu_sampler.hpp>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace thaw::report {
struct text;
}

THAW_DETAIL_BEGIN

#if THAW_ENABLED

namespace detail {

// A report that can be named in THAW_REPORT. `make` is null where its header was not included.
struct named_report {
    char const* name;
    char const* header;
    any_reporter (*make)();
};

template <class R, class Tag>
constexpr named_report known_report(char const* name, char const* header) noexcept {
    if constexpr (requires { sizeof(R); }) return {name, header, [] { return any_reporter{R{}}; }};
    else return {name, header, nullptr};
}

// The reports this translation unit knows; Tag makes the question new for each caller, because the answer depends on what
// was included before.
template <class Tag>
inline constexpr named_report known_reports[] = {
    known_report<report::text, Tag>("text", "thaw/report/text.hpp"),
};

inline void say(std::string message) noexcept {
    message += '\n';
    [[maybe_unused]] auto const written = ::write(2, message.data(), message.size());
}

// What start makes: the reporter and what is needed to call it. One per process, made in host memory, never destroyed: a
// handler may end while the process exits.
template <class Process, class Symbols = symbol_cache>
class agent {
public:
    agent(Process& p, options o, any_reporter r)
        : m_process(p), m_options(std::move(o)), m_report(std::move(r)), m_started_unix_ns(core::read_realtime_ns()),
          m_scope_cost_ns(measure_clock_cost()) {
        char host[256] = {};
        ::gethostname(host, sizeof host - 1);
        m_identity.app = m_options.app;
        m_identity.version = m_options.version;
        m_identity.environment = m_options.environment;
        m_identity.instance = make_instance_id();
        m_identity.build_id = executable_build_id();
        m_identity.host = host;
        m_identity.pid = p.pid;
    }

    // A start after a stop: the instance, its sequence and its baseline go on.
    void restart(options o, any_reporter r) {
        lock(UINT64_MAX);
        m_options = std::move(o);
        m_report = std::move(r);
        m_identity.app = m_options.app;
        m_identity.version = m_options.version;
        m_identity.environment = m_options.environment;
        m_collector.skip_cpu();
        core::store_release(m_busy, 0u);
    }

    // What process_root::report points at: a report is due.
    static void on_due(core::process_root& p, core::thread_record& r, core::invocation_state const* ended) noexcept {
        if (static_cast<std::uint32_t>(::getpid()) != p.pid) {  // the child of a fork reports nothing of its parent's
            core::store_relaxed(p.stopped, 1u);
            core::store_release(p.report, nullptr);
            return;
        }
        auto& self = *static_cast<agent*>(core::load_acquire(p.agent));  // pairs with the release in start
        self.report(r, ended != nullptr ? ended->deadline_unix_ns : 0, ended != nullptr);
    }

    // Collects and calls the reporter, unless another thread is at it or, where it may be put off, there is no time for it.
    // Waits for that thread for at most `patience_ns`.
    bool report(core::thread_record& r, std::uint64_t deadline_unix_ns, bool may_put_off, std::uint64_t patience_ns = 0) noexcept {
        if (!lock(patience_ns)) return false;
        core::recording_pause const pause(r);
        bool const called = report_alone(deadline_unix_ns, may_put_off);
        core::store_release(m_busy, 0u);
        return called;
    }

    [[nodiscard]] std::uint64_t patience_ns() const noexcept { return std::uint64_t{m_options.report_budget_ms} * 1'000'000u; }

private:
    bool lock(std::uint64_t patience_ns) noexcept {
        std::uint64_t const begin = patience_ns == 0 ? 0 : core::read_monotonic_ns();
        for (std::uint32_t idle = 0; !core::compare_exchange(m_busy, idle, 1u); idle = 0) {  // pairs with the release of the other
            if (patience_ns == 0 || core::read_monotonic_ns() - begin >= patience_ns) return false;
            ::sched_yield();
        }
        return true;
    }

    bool report_alone(std::uint64_t deadline_unix_ns, bool may_put_off) noexcept {
        std::uint64_t const begin_ns = core::read_monotonic_ns();
        std::uint64_t const budget_ns = budget(deadline_unix_ns);
        if (may_put_off && m_expected_ns > budget_ns) {
            ++m_put_off;
            m_expected_ns -= m_expected_ns / 8;  // one slow report must not silence the process for ever
            return false;
        }
        core::store_relaxed(m_process.report_wanted, 0u);
        std::uint64_t collected_ns = begin_ns;
        bool called = false;
#if THAW_HAS_EXCEPTIONS
        try {
#endif
            profile& p = m_collector.collect();
            collected_ns = core::read_monotonic_ns();
            m_collecting_ns += collected_ns - begin_ns;
            complete(p);
            // Not in the first report, which lies on a cold start's way; half of the time is the reporter's.
            if (m_reports != 0) m_symbols.name_places(p.cpu, {.monotonic_ns = begin_ns + budget_ns / 2});
            called = true;
            ++m_reports;
            m_report(p, report_deadline{begin_ns + budget_ns, budget_ns});
#if THAW_HAS_EXCEPTIONS
        } catch (...) {
            ++m_failed;
        }
#endif
        std::uint64_t const end_ns = core::read_monotonic_ns();
        m_reporting_ns += end_ns - collected_ns;
        std::uint64_t const took_ns = end_ns - begin_ns;
        m_expected_ns = took_ns > m_expected_ns ? took_ns : (m_expected_ns * 3 + took_ns) / 4;
        schedule();
        return called;
    }

    // What is left for a report: the option's budget, or four fifths of the time to the deadline if that is less.
    [[nodiscard]] std::uint64_t budget(std::uint64_t deadline_unix_ns) const noexcept {
        std::uint64_t const most = std::uint64_t{m_options.report_budget_ms} * 1'000'000u;
        if (deadline_unix_ns == 0) return most;
        std::uint64_t const now = core::read_realtime_ns();
        std::uint64_t const left = deadline_unix_ns > now ? (deadline_unix_ns - now) / 5 * 4 : 0;
        return left < most ? left : most;
    }

    void schedule() noexcept {
        std::uint64_t const every_ns = std::uint64_t{m_options.report_every_ms} * 1'000'000u;
        std::uint64_t const now = m_process.source.ticks();
        core::store_relaxed(m_process.next_report_ticks,
                            every_ns == 0 ? 0 : now + core::tick_length{m_process.source.length}.to_ticks(every_ns));
        core::store_relaxed(m_process.report_sequence, m_process.report_sequence + 1);
    }

    void complete(profile& p) {
        p.identity = m_identity;
        p.identity.sequence = ++m_sequence;
        p.window.started_unix_ns = m_started_unix_ns;
        p.window.ended_unix_ns = core::read_realtime_ns();
        p.losses.reports_put_off = m_put_off;
        p.losses.reports_failed = m_failed;
        p.cost.collecting_ns = m_collecting_ns;
        p.cost.reporting_ns = m_reporting_ns;
        p.cost.reports = m_reports;
        for (profile_node const& n : p.nodes)
            p.cost.recording_ns += n.calls * structure_cost_ns + static_cast<std::uint64_t>(static_cast<double>(n.timed) * m_scope_cost_ns);
        // The live bytes that a function holds anyway, once it has warmed up, are those after its first invocation.
        if (!m_has_baseline && p.window.invocations > 0) {
            for (memory_site const& m : p.memory) m_baseline.push_back({p.sites[m.site].name, p.sites[m.site].file, p.sites[m.site].line, m.live_bytes()});
            m_has_baseline = true;
        }
        for (memory_site& m : p.memory) {
            profile_site const& s = p.sites[m.site];
            for (baseline const& b : m_baseline)
                if (b.line == s.line && b.name == s.name && b.file == s.file) m.baseline_live_bytes = b.live_bytes;
        }
    }

    // What a timed entry costs beyond the structure: two readings of the clock, measured, and the histogram.
    [[nodiscard]] double measure_clock_cost() const noexcept {
        constexpr int readings = 64;
        std::uint64_t const begin = m_process.source.ticks();
        for (int i = 0; i < readings; ++i) [[maybe_unused]] std::uint64_t volatile const t = m_process.source.ticks();
        return 2.0 * static_cast<double>(m_process.source.to_ns(m_process.source.ticks() - begin)) / readings + histogram_cost_ns;
    }

    static constexpr std::uint64_t structure_cost_ns = 2;  // scope_bench, BM_scope_structure
    static constexpr double histogram_cost_ns = 5.0;       // scope_bench, BM_scope_all less two clock readings

    struct baseline {
        std::string name;
        std::string file;
        std::uint32_t line;
        std::int64_t live_bytes;
    };

    // 16 hexadecimal digits that differ between processes. Never blocks: where the kernel has no randomness yet, the time, the
    // process id and the counter are mixed.
    [[nodiscard]] static std::string make_instance_id() {
        std::uint64_t id = 0;
        if (::getrandom(&id, sizeof id, GRND_NONBLOCK) != static_cast<ssize_t>(sizeof id)) {
            id = core::read_realtime_ns() ^ core::read_counter() << 20 ^ static_cast<std::uint64_t>(::getpid()) << 40;
            id = (id ^ id >> 31) * 0x9E3779B97F4A7C15u;
        }
        unsigned char bytes[sizeof id];
        __builtin_memcpy(bytes, &id, sizeof id);
        return hexadecimal(bytes, sizeof id);
    }

    [[nodiscard]] static std::string executable_build_id() {
        std::string id;
        core::for_each_elf_note(
            [](void* to, core::elf_note const& note) {
                auto& found = *static_cast<std::string*>(to);
                if (note.first_module && found.empty() && note.is("GNU", 3)) found = hexadecimal(note.content, note.content_size);
            },
            &id);
        return id;
    }

    Process& m_process;
    options m_options;
    any_reporter m_report;
    profile_identity m_identity;
    std::uint64_t m_started_unix_ns;
    double m_scope_cost_ns;
    std::uint32_t m_busy = 0;  // 1: a thread is reporting, and owns everything below
    bool m_has_baseline = false;
    std::vector<baseline> m_baseline;
    collector<Process> m_collector{m_process};
    Symbols m_symbols;
    std::uint64_t m_sequence = 0;
    std::uint64_t m_reports = 0;
    std::uint64_t m_put_off = 0;
    std::uint64_t m_failed = 0;
    std::uint64_t m_collecting_ns = 0;
    std::uint64_t m_reporting_ns = 0;
    std::uint64_t m_expected_ns = 0;  // what the next report is expected to take
};

// The agent of this module, if it is the one that started. Besides process_root::agent, so that leak checkers find it.
[[gnu::visibility("hidden")]] inline constinit void* own_agent = nullptr;

// The module that starts thaw is called when threads and invocations end: dlclose must not unload it.
extern "C" [[gnu::weak]] int dladdr(void const*, Dl_info*) noexcept;
extern "C" [[gnu::weak]] void* dlopen(char const*, int) noexcept;
inline void keep_module_loaded(void const* address) noexcept {
    Dl_info info{};
    if (&dladdr == nullptr || &dlopen == nullptr) return;  // a static program
    if (dladdr(address, &info) != 0 && info.dli_fname != nullptr)
        [[maybe_unused]] void* const kept = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

// Makes the process's root and shows it to every module that is loaded; null where there is no memory.
[[nodiscard]] inline core::process_root* make_process(options const& o) noexcept {
    core::arena memory;
    if (!memory.reserve(o.memory_limit_bytes)) return nullptr;
    void* const place = memory.allocate((sizeof(core::process_root) + 63) & ~std::size_t{63});
    if (place == nullptr) return memory.release(), nullptr;
    auto* const p = ::new (place) core::process_root;
    p->memory = memory;
    p->marking = &core::marks::functions;
    p->pid = static_cast<std::uint32_t>(::getpid());
    p->mode = o.timing;
    p->measure_cpu = o.cpu_time;
    if (::pthread_key_create(&p->key, &core::thread_ended) != 0) return memory.release(), nullptr;
    p->source.calibrate([&] {
        if (o.timing != timing::adaptive) return;
        if (auto const* const word = core::find_tick_word()) p->tick_word = word;
    });
    // Later threads of the process, if any, end the ownership when they open an invocation.
    struct stat tasks{};
    bool const alone = ::stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink == 3;
    p->clock.start(p->source.ticks(), alone && core::active_clock::announce_barrier());
    p->watch.start(p->source.ticks());
    p->long_gap_ticks = p->source.length.to_ticks(1'000'000'000);
    return p;
}

// Samples the CPU time of threads that work for invocations from now on, if the options say so and there is memory for it.
inline void start_sampling(core::process_root& p, options const& o) noexcept {
    if (!o.cpu) return;
    if (p.cpu_sampler == nullptr) {
        void* const place = p.memory.allocate((sizeof(sampler::cpu_sampler) + 63) & ~std::size_t{63});
        if (place == nullptr) return;
        p.cpu_sampler = ::new (place) sampler::cpu_sampler(p);
    }
    static_cast<sampler::cpu_sampler*>(p.cpu_sampler)->start(o.stacks);
}

// Shows the process's root to every module that is loaded. Returns whether all of them have the same configuration.
inline bool publish(core::process_root& p) noexcept {
    struct view {
        core::process_root& process;
        bool same;
    } all{p, true};
    core::for_each_module(
        [](void* opaque, core::module_slot& m) {
            auto& v = *static_cast<view*>(opaque);
            core::store_relaxed(m.marking, v.process.marking);
            core::store_release(m.process, &v.process);  // pairs with the acquires of core/rendezvous.hpp: the root is complete
            core::store_relaxed(m.idle, 0u);
            v.same = v.same && m.use_counter == THAW_HAS_COUNTER;
        },
        &all);
    return all.same;
}

// The name of the executable's file.
[[nodiscard]] inline char const* executable_name(char (&path)[4096]) noexcept {
    ssize_t const size = ::readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0) return "unknown";
    path[size] = '\0';
    char const* const slash = __builtin_strrchr(path, '/');
    return slash == nullptr ? path : slash + 1;
}

// Returns whether markers record now.
template <class Process, class Options, std::size_t N>
bool start(Options const& given, any_reporter reporter, named_report const (&reports)[N]) {
    using own = agent<Process>;
    static_assert(sizeof(core::exemplar_record) < 16384);
    Options o = resolve_options(given, [](char const* name) { return std::getenv(name); }, say);
    if (o.app.empty()) {
        char const* const function = std::getenv("AWS_LAMBDA_FUNCTION_NAME");
        char path[4096];
        o.app = function != nullptr ? function : executable_name(path);
    }
    if (!o.report.empty() || !reporter) {
        std::string const wanted = o.report.empty() ? "text" : o.report;
        named_report const* found = nullptr;
        for (named_report const& known : reports)
            if (wanted == known.name) found = &known;
        if (found == nullptr) say("thaw: THAW_REPORT=\"" + shown(wanted.data()) + "\" is not the name of a report (text)");
        else if (found->make == nullptr)
            say("thaw: the report \"" + wanted + "\" needs #include <" + found->header + "> where thaw::start is called");
        else reporter = found->make();
        if (!reporter) reporter = [](profile const&) {};
    }
    static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
    struct one_at_a_time {
        one_at_a_time() noexcept { ::pthread_mutex_lock(&starting); }
        ~one_at_a_time() { ::pthread_mutex_unlock(&starting); }
    } const alone;
    Process* p = core::find_process();
    if (p != nullptr && p->pid == static_cast<std::uint32_t>(::getpid()) && core::load_relaxed(p->stopped) == 0) {
        say("thaw: already started; the first start holds");
        return true;
    }
    if (!o.enabled) {
        core::for_each_module([](void*, core::module_slot& m) { core::store_relaxed(m.idle, 2u); }, nullptr);
        return false;
    }
    if (p == nullptr) p = make_process(o);
    if (p == nullptr) {
        say("thaw: no memory for " + std::to_string(o.memory_limit_bytes) + " bytes of records; nothing is recorded");
        return false;
    }
    bool const goes_on = p->agent != nullptr && p->pid == static_cast<std::uint32_t>(::getpid());
    if (!goes_on) p->pid = static_cast<std::uint32_t>(::getpid());
    options const chosen = o;
    if (goes_on) {
        static_cast<own*>(p->agent)->restart(std::move(o), std::move(reporter));
    } else {
        // Not always one module: a function of a header may be another's.
        for (void const* const address : {reinterpret_cast<void const*>(&core::thread_ended), reinterpret_cast<void const*>(&own::on_due),
                                          static_cast<void const*>(&core::this_module),
                                          reinterpret_cast<void const*>(core::marks::functions.enter), reporter.code()})
            keep_module_loaded(address);
        own_agent = new own(*p, std::move(o), std::move(reporter));
        core::store_release(p->agent, own_agent);
    }
    core::store_release(p->report, &own::on_due);
    core::store_relaxed(p->next_report_ticks, 0u);
    core::store_relaxed(p->stopped, 0u);
    start_sampling(*p, chosen);
    if (!publish(*p)) say("thaw: modules of this process differ in THAW_USE_COUNTER; the one that called thaw::start holds");
    return true;
}

// A report that does not wait for the end of an invocation; false where none was made.
template <class Process>
bool report_from_here(bool patient = false) noexcept {
    core::thread_record* const r = core::recording_thread();
    if (r == nullptr || static_cast<std::uint32_t>(::getpid()) != r->process->pid) return false;
    auto* const a = static_cast<agent<Process>*>(core::load_acquire(r->process->agent));
    if (a == nullptr) return false;
    int const saved = errno;
    bool const called = a->report(*r, 0, false, patient ? a->patience_ns() : 0);
    errno = saved;
    return called;
}

}

// Starts profiling. Returns whether markers record from now on: false where thaw is disabled or there is no memory, which is
// said on stderr. Requires nothing; the first call holds, later ones are a message. `r` is anything a profile can be given to
// (see profile/reporter.hpp) and is kept until the process ends.
template <class R, class Tag = decltype([] {})>
bool start(options const& o, R&& r) {
    static_assert(reporter<std::remove_cvref_t<R>>,
                  "a reporter is called with (thaw::profile const&), or with (thaw::profile const&, thaw::report_deadline const&)");
    if constexpr (reporter<std::remove_cvref_t<R>>)
        return detail::start<core::process_root>(o, any_reporter(std::forward<R>(r)), detail::known_reports<Tag>);
    else return false;
}

// The same with the report that THAW_REPORT names, or text on stderr.
template <class Tag = decltype([] {})>
bool start(options const& o = {}) {
    return detail::start<core::process_root>(o, any_reporter{}, detail::known_reports<Tag>);
}

// Makes a report now, in the calling thread, whether one is due or not. Returns whether the reporter was called. Inside an
// invocation, that invocation is in the profile as open.
template <class Process = core::process_root>
bool report_now() noexcept {
    return detail::report_from_here<Process>();
}

// Makes a last report and stops reporting and sampling. Threads that record go on doing so, into bounded memory; start may be called again
// and goes on from there.
template <class Process = core::process_root>
void stop() noexcept {
    Process* const p = core::find_process();
    if (p == nullptr || core::load_relaxed(p->stopped) != 0) return;
    detail::report_from_here<Process>(true);
    core::store_release(p->report, nullptr);
    core::store_relaxed(p->stopped, 1u);
    if (p->cpu_sampler != nullptr) static_cast<sampler::cpu_sampler*>(p->cpu_sampler)->stop();
}

#else

template <class R>
bool start(options const&, R&&) noexcept {
    static_assert(reporter<std::remove_cvref_t<R>>,
                  "a reporter is called with (thaw::profile const&), or with (thaw::profile const&, thaw::report_deadline const&)");
    return false;
}
inline bool start(options const& = {}) noexcept { return false; }
inline bool report_now() noexcept { return false; }
inline void stop() noexcept {}

#endif

THAW_DETAIL_END

#endif
