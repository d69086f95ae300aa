// thaw floor 6 report: a profile as text for a person, in a terminal or a log: answers first, then tables, the tree, and
// last what is uncertain or was lost.
//
// One call writes one report with one fwrite and one fflush. Lines are at most `width` columns long, whatever names contain:
// nothing from a name reaches the terminal unprintable. Colours only on a terminal, and not where NO_COLOR is set or TERM is
// "dumb". Thread-compatible; allocates; throws nothing but std::bad_alloc; errno is kept. What does the work are templates, so
// that a unit that makes no report does not pay for instantiating them.
//
//   thaw::report::text{}(p, stderr);
//   std::string const s = thaw::report::text{.width = 120, .max_rows = 50}.format(p);
//
// How to read it: "p95" is over single entries, never over means. "self" is the time in a node and in none of its children:
// it is wall time, so that an unmarked wait is in it too. "of latency" is the share of the time of all handlers; waits on
// several threads of an invocation may add up to more than 100 %. Bytes are those of counting allocators.
#ifndef THAW_REPORT_TEXT_HPP
#define THAW_REPORT_TEXT_HPP

#include <thaw/core/config.hpp>
#include <thaw/core/histogram.hpp>
#include <thaw/profile/profile.hpp>
#include <thaw/report/cpu_text.hpp>
#include <thaw/report/summary.hpp>
#include <thaw/report/table.hpp>
#include <thaw/report/units.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <sys/ioctl.h>
#include <unistd.h>

namespace thaw::report {

struct text {
    enum class colour : unsigned char { automatic, never, always };

    std::size_t width = 0;              // columns, at least 40; 0: those of the terminal, 100 where there is none
    colour colours = colour::automatic; // automatic: on a terminal
    std::size_t max_rows = 30;          // lines of the tree: the nodes that take the most time, and what is above them
    std::size_t max_depth = 16;         // levels of the tree
    std::size_t max_sites = 10;         // lines of each table

    // The report as a string. Requires: `p` is well formed (indices in range, parents before children).
    template <class = void>
    [[nodiscard]] std::string format(profile const& p) const;

    // Effects: writes the report to `out` and flushes it. A failure to write is not reported.
    template <class = void>
    void operator()(profile const& p, std::FILE* out = stderr) const;
};

template <class = void>
[[nodiscard]] std::string to_string(profile const& p) {
    return text{}.format(p);
}

namespace detail {

template <class Profile>
class text_writer {
public:
    text_writer(Profile const& p, text const& options, std::size_t width, bool colours)
        : m_profile(p), m_options(options), m_page(width, colours), m_summary(p), m_cpu(p, m_page, options.max_sites) {}

    [[nodiscard]] std::string write() {
        header();
        m_page.blank_line();
        verdicts();
        m_cpu.write();
        waits(in_handlers, "Latency bottlenecks");
        waits(in_background, "Background waits");
        memory();
        tree();
        slowest();
        m_page.blank_line();
        uncertain();
        return m_page.text();
    }

private:
    static constexpr double notable = 0.1;         // of a handler's time
    static constexpr std::size_t max_verdicts = 4; // of a kind
    static constexpr std::uint64_t verdict_invocations = 400;

    [[nodiscard]] std::string name(std::uint32_t site) const {
        std::string const& given = m_profile.sites[site].name;
        return given.empty() ? "(unnamed)" : printable(given);
    }
    // In a sentence a name takes no more than a third of a line.
    [[nodiscard]] std::string short_name(std::uint32_t site) const { return shortened(name(site), m_page.width() / 3); }

    void header() {
        profile_identity const& id = m_profile.identity;
        profile_window const& w = m_profile.window;
        own_cost const& c = m_profile.cost;
        m_page.begin_items("thaw  ", style::bold);
        std::string const program = printable(id.app + (id.app.empty() || id.version.empty() ? "" : " ") + id.version);
        if (!program.empty()) m_page.item(program);
        if (!id.instance.empty())
            m_page.item("instance " + printable(id.instance.size() == 16 ? id.instance.substr(0, 8) : id.instance));
        std::string details;
        auto const detail = [&details](std::uint64_t n, char const* what) {
            if (n != 0) details += (details.empty() ? " (" : ", ") + count_text(n) + what;
        };
        detail(w.cold, " cold");
        detail(w.errors, " failed");
        detail(w.open, " running");
        if (!details.empty()) details += ')';
        m_page.item(count_text(w.invocations) + (w.invocations == 1 ? " invocation" : " invocations") + details);
        m_page.item(duration_text(static_cast<double>(w.active_ns)) + " active");
        if (w.cpu_measured) m_page.item(duration_text(static_cast<double>(w.cpu_ns)) + " CPU");
        double const own =
            static_cast<double>(c.recording_ns) + static_cast<double>(c.collecting_ns) + static_cast<double>(c.reporting_ns);
        m_page.item("own cost " +
                    (w.active_ns == 0 ? duration_text(own) : share_text(own, static_cast<double>(w.active_ns))));
        m_page.end_items();
    }

    void verdicts() {
        slow_verdicts();
        growing_verdicts();
        if (!cpu_verdict()) busy_verdict();
        if (m_any_verdict) return;
        if (m_profile.window.invocations == 0)
            m_page.sentence("  ", style::plain, "no invocation has ended yet");
        else
            m_page.sentence(
                "  ", style::plain,
                "nothing stands out: no wait and no scope takes 10 % of a handler's time, and no memory site grows");
    }

    [[nodiscard]] double time_of(std::uint32_t handler) { return m_summary.handlers.of(0, handler).total; }

    void verdict(char const* label, style st, std::string const& words) {
        m_any_verdict = true;
        m_page.sentence(label, st, words);
    }

    void slow_verdicts() {
        std::vector<ranked> tops; // of each handler its longest wait
        for (site_sum const& handler : m_summary.handlers.all) {
            ranked top = {0, 0, no_index};
            for (std::uint32_t i = 0; i < m_summary.handler_waits.all.size(); ++i) {
                site_sum const& s = m_summary.handler_waits.all[i];
                if (s.group == handler.site && s.total > top.first) top = {s.total, 0, i};
            }
            if (top.index != no_index && top.first >= notable * handler.total) tops.push_back(top);
        }
        sort_ranked(tops);
        for (std::size_t i = 0; i < tops.size() && i < max_verdicts; ++i) {
            site_sum const& s = m_summary.handler_waits.all[tops[i].index];
            verdict("  slow     ", style::red,
                    share_text(s.total, time_of(s.group)) + " of " + short_name(s.group) + "'s time waits in " +
                        short_name(s.site) + " (p95 " + quantile(durations_of(s), 0.95, s.max_ns) + ")");
        }
    }

    // The growth of a site since the first invocation had ended. Merged profiles have a first invocation each.
    [[nodiscard]] static double growth(memory_site const& m) noexcept {
        return static_cast<double>(m.live_bytes()) - static_cast<double>(m.baseline_live_bytes);
    }
    [[nodiscard]] double later_invocations() const noexcept {
        profile_window const& w = m_profile.window;
        std::uint64_t const first = w.cold == 0 ? 1 : w.cold;
        return w.invocations > first ? static_cast<double>(w.invocations - first) : 0;
    }

    void growing_verdicts() {
        double const later = later_invocations();
        if (!(later > 0)) return;
        std::vector<ranked> sites;
        for (std::uint32_t i = 0; i < m_profile.memory.size(); ++i) {
            double const grown = growth(m_profile.memory[i]);
            if (grown >= 1024 && grown >= later && grown >= 0.02 * static_cast<double>(m_profile.memory[i].live_bytes()))
                sites.push_back({grown, 0, i});
        }
        sort_ranked(sites);
        for (std::size_t i = 0; i < sites.size() && i < max_verdicts; ++i) {
            std::string const few =
                m_profile.window.invocations < verdict_invocations ? "; a verdict needs 400 invocations" : "";
            verdict("  growing  ", style::yellow,
                    short_name(m_profile.memory[sites[i].index].site) + " gains " + bytes_text(sites[i].first / later) +
                        " an invocation (" + signed_bytes_text(sites[i].first) + " since the first" + few + ")");
        }
    }

    // False where too few samples say where the CPU time goes.
    bool cpu_verdict() {
        cpu_sum const top = m_cpu.top_site();
        cpu_profile const& c = m_profile.cpu;
        if (c.samples < cpu_writer<Profile>::few_samples) return false;
        double const whole = static_cast<double>(c.samples);
        if (static_cast<double>(top.samples) >= notable * whole)
            verdict("  cpu      ", style::cyan,
                    share_text(static_cast<double>(top.samples), whole) + " of the CPU is burned in " + short_name(top.site));
        return true;
    }

    void busy_verdict() {
        site_sum const* top = nullptr;
        for (site_sum const& s : m_summary.busy.all)
            if (top == nullptr || s.self > top->self) top = &s;
        if (top == nullptr) return;
        double const whole = time_of(top->group);
        if (!(whole > 0) || top->self < notable * whole) return;
        std::string const tilde = top->self_estimated ? "~" : "";
        m_estimated |= top->self_estimated;
        m_busy_shown = true;
        verdict("  busy     ", style::cyan,
                tilde + share_text(top->self, whole) + " of " + short_name(top->group) + "'s time is spent in " +
                    short_name(top->site) + " itself" + (top->site == top->group ? ", outside its scopes and waits" : ""));
    }

    // The durations of all nodes of a sum, with a bucket for each index. Post: valid until the next call.
    [[nodiscard]] bucket_range durations_of(site_sum const& s) {
        std::uint32_t const last = core::histogram_bucket_count - 1;
        m_durations.assign(last + 1, {});
        for (std::uint32_t i = 0; i <= last; ++i) m_durations[i].index = i;
        for (std::uint32_t const node : s.nodes)
            for (core::histogram_bucket const& b : m_profile.durations_of(m_profile.nodes[node])) {
                std::uint64_t& count = m_durations[b.index < last ? b.index : last].count;
                count = core::saturating_add(count, b.count);
            }
        return {m_durations.data(), m_durations.data() + m_durations.size()};
    }

    // "-" where no duration was recorded.
    [[nodiscard]] static std::string quantile(bucket_range r, double q, std::uint64_t max_ns) {
        if (core::bucket_total(r.first, r.last) == 0) return "-";
        return duration_text(static_cast<double>(core::bucket_quantile_ns(r.first, r.last, q, max_ns)));
    }
    static void add_quantiles(text_table<>& table, bucket_range r, std::uint64_t max_ns) {
        for (double const q : {0.5, 0.95, 0.99}) table.cell(quantile(r, q, max_ns));
    }

    void waits(std::uint32_t group, char const* title) {
        std::vector<ranked> rows;
        for (std::uint32_t i = 0; i < m_summary.waits.all.size(); ++i)
            if (m_summary.waits.all[i].group == group)
                rows.push_back({m_summary.waits.all[i].total, static_cast<double>(m_summary.waits.all[i].calls), i});
        sort_ranked(rows);
        static constexpr table_column columns[] = {{"calls", 4}, {"p50", 2},   {"p95", 7},       {"p99", 1},
                                                   {"max", 3},   {"total", 6}, {"of latency", 5}};
        text_table<> table(title, columns, group == in_handlers ? 7 : 6);
        for (std::size_t i = 0; i < rows.size() && i < m_options.max_sites; ++i) {
            site_sum const& s = m_summary.waits.all[rows[i].index];
            bool const none = s.max_ns == 0 && !(s.total > 0);
            table.row(2, name(s.site)).cell(count_text(s.calls));
            add_quantiles(table, durations_of(s), s.max_ns);
            table.cell(none ? "-" : duration_text(static_cast<double>(s.max_ns)));
            table.cell(none ? "-" : duration_text(s.total));
            if (group == in_handlers) table.cell(share_text(s.total, m_summary.latency));
        }
        write(table, rows.size());
    }

    void write(text_table<>& table, std::size_t all) {
        if (all == 0) return;
        m_page.blank_line();
        table.write(m_page);
        if (all > m_options.max_sites)
            m_page.sentence("  ", style::plain, "and " + count_text(all - m_options.max_sites) + " more");
    }

    void memory() {
        std::vector<ranked> rows;
        for (std::uint32_t i = 0; i < m_profile.memory.size(); ++i) {
            memory_site const& m = m_profile.memory[i];
            rows.push_back({static_cast<double>(m.allocated_bytes), static_cast<double>(m.allocations), i});
        }
        sort_ranked(rows);
        static constexpr table_column columns[] = {
            {"a call", 4}, {"allocations a call", 1}, {"live", 2}, {"growth a call", 3}};
        text_table<> table("Memory hot spots", columns);
        auto const invocations = static_cast<double>(m_profile.window.invocations);
        for (std::size_t i = 0; i < rows.size() && i < m_options.max_sites; ++i) {
            memory_site const& m = m_profile.memory[rows[i].index];
            bool const called = m_profile.window.invocations > 0;
            auto const live = static_cast<double>(m.live_bytes());
            double const later = later_invocations();
            double const change = later > 0 ? growth(m) / later : 0;
            table.row(2, name(m.site)).cell(called ? bytes_text(rows[i].first / invocations) : "-");
            table.cell(called ? ratio_text(rows[i].second / invocations) : "-");
            table.cell(live < 0 ? signed_bytes_text(live) : bytes_text(live));
            table.cell(!(later > 0)                    ? "-"
                       : change < 0.5 && change > -0.5 ? "steady"
                                                       : signed_bytes_text(change));
        }
        write(table, rows.size());
    }

    void tree() {
        std::vector<profile_node> const& nodes = m_profile.nodes;
        std::vector<ranked> order;
        std::vector<ranked> background;
        for (std::uint32_t i = 0; i < nodes.size(); ++i) {
            node_facts const& f = m_summary.nodes[i];
            if (m_summary.is_root(i) || (!(f.subtree_total > 0) && !(f.subtree_calls > 0))) continue;
            (f.with_handler ? order : background).push_back({f.subtree_total, f.subtree_calls, i});
        }
        sort_ranked(order);
        sort_ranked(background);
        order.insert(order.end(), background.begin(), background.end());
        if (order.empty()) return;

        // A parent stands before its children in this order, so that the first lines are a tree too.
        std::vector<std::uint32_t> shown(nodes.size());
        std::vector<std::uint32_t> kept;
        double left_out = 0;
        for (ranked const& r : order) {
            std::uint32_t const parent = nodes[r.index].parent;
            if (kept.size() < m_options.max_rows && m_summary.nodes[r.index].depth < m_options.max_depth) {
                shown[r.index] = 1;
                kept.push_back(r.index);
            } else if (m_summary.is_root(parent) || shown[parent] != 0) {
                left_out += m_summary.nodes[r.index].total;
            }
        }
        std::vector<std::uint32_t> first(nodes.size(), no_index);
        std::vector<std::uint32_t> next(nodes.size(), no_index);
        std::uint32_t top = no_index;
        for (std::size_t i = kept.size(); i-- > 0;) {
            std::uint32_t& head = m_summary.is_root(nodes[kept[i]].parent) ? top : first[nodes[kept[i]].parent];
            next[kept[i]] = head;
            head = kept[i];
        }

        static constexpr table_column columns[] = {{"calls", 5}, {"total", 8}, {"self", 6}, {"p50", 2},
                                                   {"p95", 7},   {"p99", 1},   {"max", 3},  {"allocated", 4}};
        text_table<> table("Where the time goes", columns);
        for (std::uint32_t at = top; at != no_index;) {
            add_row(table, at);
            std::uint32_t to = first[at];
            while (to == no_index && at != no_index) {
                to = next[at];
                at = m_summary.is_root(nodes[at].parent) ? no_index : nodes[at].parent;
            }
            at = to;
        }
        m_page.blank_line();
        table.write(m_page);
        if (std::size_t const cut = order.size() - kept.size(); cut != 0)
            m_page.sentence("  ", style::dim,
                            count_text(cut) + (cut == 1 ? " line" : " lines") + " with " + duration_text(left_out) +
                                " left out");
    }

    void add_row(text_table<>& table, std::uint32_t node) {
        profile_node const& n = m_profile.nodes[node];
        node_facts const& f = m_summary.nodes[node];
        std::string mark;
        auto const add_mark = [&mark](std::string const& what) { mark += (mark.empty() ? " (" : ", ") + what; };
        if (m_summary.kind_of(node) == site_kind::wait) add_mark("wait");
        if (n.open != 0) add_mark(count_text(n.open) + " open");
        if (n.errors != 0) add_mark(count_text(n.errors) + " failed");
        if (n.cpu_ns != 0) add_mark(duration_text(static_cast<double>(n.cpu_ns)) + " CPU");
        if (!mark.empty()) mark += ')';
        m_open |= n.open != 0;

        bool const untimed = !(f.total > 0) && n.timed == 0;
        bool const estimated = n.total_error_ns != 0;
        if (estimated && n.total_ns != 0) {
            double const relative = static_cast<double>(n.total_error_ns) / static_cast<double>(n.total_ns);
            if (m_largest_error < relative) m_largest_error = relative;
        }
        m_estimated |= !untimed && (estimated || f.self_estimated);
        m_untimed |= untimed && n.calls > n.open;
        table.row(2 * static_cast<std::size_t>(f.depth), name(n.site), mark);
        if (n.calls == 0 && n.timed == 0) { // what others stand under
            table.cell("").cell(f.total > 0 ? duration_text(f.total) : "").cell("").cell("").cell("").cell("").cell("");
        } else {
            table.cell(count_text(n.calls));
            table.cell(untimed ? "-" : (estimated ? "~" : "") + duration_text(f.total));
            table.cell(untimed ? "-" : (f.self_estimated ? "~" : "") + duration_text(f.self));
            add_quantiles(table, m_profile.durations_of(n), n.max_ns);
            table.cell(untimed && n.max_ns == 0 ? "-" : duration_text(static_cast<double>(n.max_ns)));
        }
        if (n.allocated_bytes != 0) table.cell(bytes_text(static_cast<double>(n.allocated_bytes)));
    }

    void slowest() {
        invocation_exemplar const& e = m_profile.slowest;
        if (e.handler_site == no_index) return;
        auto const wall = static_cast<double>(e.wall_ns);
        m_page.blank_line();
        m_page.begin_items("Slowest invocation  ", style::bold);
        m_page.item(name(e.handler_site));
        m_page.item(duration_text(wall));
        m_page.item(share_text(static_cast<double>(e.wait_ns), wall) + " waiting");
        if (!e.request_id.empty()) m_page.item("request " + printable(e.request_id));
        if (e.allocated_bytes != 0) m_page.item(bytes_text(static_cast<double>(e.allocated_bytes)) + " allocated");
        if (e.failed) m_page.item("failed");
        m_page.end_items();

        // Of each part the time that is in no other part, so that the parts add up to the whole.
        std::vector<double> self(m_profile.nodes.size());
        for (invocation_exemplar::part const& part : e.parts) {
            self[part.node] += static_cast<double>(part.total_ns);
            if (std::uint32_t const parent = m_profile.nodes[part.node].parent; parent != no_index)
                self[parent] -= static_cast<double>(part.total_ns);
        }
        std::vector<ranked> rows;
        for (std::uint32_t i = 0; i < e.parts.size(); ++i) rows.push_back({self[e.parts[i].node], 0, i});
        sort_ranked(rows);
        static constexpr table_column columns[] = {{"calls", 1}, {"self", 3}, {"of it", 2}};
        text_table<> table("  its largest parts", columns);
        for (std::size_t i = 0; i < rows.size() && i < 5 && rows[i].first > 0; ++i) {
            invocation_exemplar::part const& part = e.parts[rows[i].index];
            table.row(2, name(m_profile.nodes[part.node].site), m_summary.kind_of(part.node) == site_kind::wait ? " (wait)" : "");
            table.cell(count_text(part.calls)).cell(duration_text(rows[i].first)).cell(share_text(rows[i].first, wall));
        }
        if (!table.empty()) table.write(m_page);
        if (e.truncated)
            m_page.sentence("  ", style::dim,
                            "further parts were not recorded: the tree has more nodes than the breakdown covers");
    }

    void uncertain() {
        auto const note = [this](std::string const& words) { m_page.sentence("note  ", style::dim, words); };
        if (m_estimated)
            note("~ is estimated: of short scopes only some entries are timed" +
                 (m_largest_error > 0
                      ? " (the largest standard error of a total above is " + share_text(m_largest_error, 1) + ")"
                      : std::string()));
        if (m_untimed) note("- in the tree: counted, but not timed");
        if (m_open) note("open: entered and not left yet, in the calls but not in the times");
        if (m_busy_shown) note("busy is time outside every marked wait; how much of it is CPU was not sampled");
        m_cpu.write_notes(note);

        profile_losses const& l = m_profile.losses;
        bool lost = false;
        auto const loss = [this, &lost](std::uint64_t n, char const* what) {
            if (n == 0) return;
            lost = true;
            m_page.sentence("lost  ", style::yellow, what + (": " + count_text(n)));
        };
        loss(m_profile.cpu.overflow_stacks, "native stacks of CPU samples, because the memory for them was full");
        loss(l.overflow_entries, "entries counted at [overflow], because the memory limit was reached");
        loss(l.overflow_durations, "durations in a total but in no percentile, because the memory limit was reached");
        loss(l.overflow_sites, "sites that share the name [overflow]");
        loss(l.overflow_names, "dynamic names beyond the cap");
        loss(l.overflow_threads, "threads that were not recorded, because there was no room for them");
        loss(l.mismatched_scopes, "scopes that ended out of order or on another thread");
        loss(l.torn_nodes, "nodes whose figures changed each time they were read");
        loss(l.reports_put_off, "reports put off, because the time left was too short");
        loss(l.reports_failed, "reports that failed");
        static_assert(sizeof(profile_losses) == 9 * sizeof(std::uint64_t), "a new kind of loss is to be told here");
        if (!lost) m_page.sentence("", style::plain, "nothing was lost");
    }

    Profile const& m_profile;
    text const& m_options;
    text_page<> m_page;
    profile_summary<Profile> m_summary;
    cpu_writer<Profile> m_cpu;
    std::vector<core::histogram_bucket> m_durations;
    double m_largest_error = 0;
    bool m_any_verdict = false;
    bool m_estimated = false;
    bool m_untimed = false;
    bool m_open = false;
    bool m_busy_shown = false;
};

}

template <class>
std::string text::format(profile const& p) const {
    return detail::text_writer<profile>(p, *this, width == 0 ? 100 : width, colours == colour::always).write();
}

template <class>
void text::operator()(profile const& p, std::FILE* out) const {
    int const before = errno;
    int const fd = fileno(out);
    bool const terminal = fd >= 0 && isatty(fd) == 1;
    std::size_t columns = width == 0 ? 100 : width;
    winsize size = {};
    if (width == 0 && terminal && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col != 0) columns = size.ws_col;
    char const* const no_colour = std::getenv("NO_COLOR");
    char const* const term = std::getenv("TERM");
    bool const wanted =
        terminal && (no_colour == nullptr || *no_colour == '\0') && (term == nullptr || std::string(term) != "dumb");
    bool const painted = colours == colour::always || (colours == colour::automatic && wanted);
    std::string const report = detail::text_writer<profile>(p, *this, columns, painted).write();
    std::fwrite(report.data(), 1, report.size(), out);
    std::fflush(out);
    errno = before;
}

}

#endif
