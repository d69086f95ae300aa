// thaw floor 5 report: the CPU section of the text report. Part of report/text.hpp.
#ifndef THAW_REPORT_CPU_TEXT_HPP
#define THAW_REPORT_CPU_TEXT_HPP

#include <thaw/core/config.hpp>
#include <thaw/profile/profile.hpp>
#include <thaw/report/cpu_summary.hpp>
#include <thaw/report/summary.hpp>
#include <thaw/report/table.hpp>
#include <thaw/report/units.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace thaw::report::detail {

// Two tables: the places where the CPU time goes, each a scope and the function that ran in it; and the functions with what they
// call. The error is the standard error of a share.
template <class Profile>
class cpu_writer {
public:
    cpu_writer(Profile const& p, text_page<>& page, std::size_t max_rows)
        : m_profile(p), m_page(page), m_max_rows(max_rows), m_summary(p) {}

    static constexpr std::uint64_t few_samples = 30; // below, the error of a share may be more than 9 percentage points

    // The site in whose own code most samples are, and how many; no_index where there are none.
    [[nodiscard]] cpu_sum top_site() const {
        cpu_sum top;
        for (cpu_sum const& s : m_summary.by_site)
            if (s.samples > top.samples) top = s;
        return top;
    }

    void write() {
        cpu_profile const& c = m_profile.cpu;
        if (c.samples < few_samples) return;
        m_page.blank_line();
        m_page.begin_items("CPU hot spots  ", style::bold);
        auto const cpu_ns = static_cast<double>(c.cpu_ns - c.unattributed_ns);
        std::string said = count_text(c.samples) + (c.samples == 1 ? " sample" : " samples");
        if (cpu_ns > 0) said += " at " + fixed_text(static_cast<double>(c.samples) * 1e9 / cpu_ns, 0) + "/s";
        if (cpu_ns > 0) m_page.item(duration_text(cpu_ns));
        m_page.item(said);
        m_page.item("+-" + fixed_text(100 * c.share_error(0.5), 1) + " pp at most");
        m_page.end_items();
        places();
        functions();
    }

    // What is uncertain, each as note(words).
    template <class Note>
    void write_notes(Note const& note) const {
        cpu_profile const& c = m_profile.cpu;
        if (c.status.empty() || c.status == "off") return;
        if (c.status != "on") note("CPU samples: " + printable(c.status));
        if (c.samples < few_samples) {
            if (c.status == "on") note("fewer than " + count_text(few_samples) + " CPU samples, too few to say where the CPU time goes");
            return;
        }
        if (c.unattributed_ns != 0)
            note(share_text(static_cast<double>(c.unattributed_ns), static_cast<double>(c.cpu_ns)) +
                 " of the CPU time passed between two reports without a sample");
        if (c.truncated_stacks != 0) note(count_text(c.truncated_stacks) + " CPU samples lack their outermost functions");
    }

private:
    [[nodiscard]] std::string scope(std::uint32_t site) const {
        std::string const& given = m_profile.sites[site].name;
        return given.empty() ? "(unnamed)" : printable(given);
    }

    void places() {
        static constexpr table_column columns[] = {{"share", 3}, {"error", 1}, {"CPU", 2}};
        text_table<> table("  where", columns);
        std::vector<ranked> const rows = sorted(m_summary.places, &cpu_sum::samples);
        for (std::size_t i = 0; i < rows.size() && i < m_max_rows; ++i) {
            cpu_sum const& s = m_summary.places[rows[i].index];
            std::string name = scope(s.site);
            if (s.function != no_index) name += " > " + printable(m_summary.functions[s.function]);
            table.row(2, name).cell(share(s.samples)).cell(error(s.samples)).cell(duration_text(static_cast<double>(s.cpu_ns)));
        }
        table.write(m_page);
        more(rows.size());
    }

    void functions() {
        std::vector<ranked> const rows = sorted(m_summary.by_function, &cpu_sum::total_samples);
        if (rows.empty()) return;
        static constexpr table_column columns[] = {{"self", 3}, {"total", 4}, {"error", 1}, {"CPU, total", 2}};
        text_table<> table("  functions, with what they call", columns);
        for (std::size_t i = 0; i < rows.size() && i < m_max_rows; ++i) {
            cpu_sum const& s = m_summary.by_function[rows[i].index];
            table.row(2, printable(m_summary.functions[s.function])).cell(share(s.samples)).cell(share(s.total_samples));
            table.cell(error(s.total_samples)).cell(duration_text(static_cast<double>(s.total_cpu_ns)));
        }
        table.write(m_page);
        more(rows.size());
    }

    [[nodiscard]] static std::vector<ranked> sorted(std::vector<cpu_sum> const& sums, std::uint64_t cpu_sum::*by) {
        std::vector<ranked> rows;
        for (std::uint32_t i = 0; i < sums.size(); ++i)
            rows.push_back({static_cast<double>(sums[i].*by), static_cast<double>(sums[i].samples), i});
        sort_ranked(rows);
        return rows;
    }

    void more(std::size_t all) {
        if (all > m_max_rows) m_page.sentence("  ", style::dim, "and " + count_text(all - m_max_rows) + " more");
    }

    [[nodiscard]] std::string share(std::uint64_t samples) const {
        return share_text(static_cast<double>(samples), static_cast<double>(m_profile.cpu.samples));
    }
    [[nodiscard]] std::string error(std::uint64_t samples) const {
        double const part = static_cast<double>(samples) / static_cast<double>(m_profile.cpu.samples);
        return "+-" + fixed_text(100 * m_profile.cpu.share_error(part), 1) + " pp";
    }

    Profile const& m_profile;
    text_page<>& m_page;
    std::size_t m_max_rows;
    cpu_summary<Profile> m_summary;
};

}

#endif
