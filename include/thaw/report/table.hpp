// thaw floor 2 report: lines and tables of text that keep to a width. Knows nothing of profiles.
//
// Whoever puts text in makes it printable first (units.hpp); then no line is longer than the width, whatever the text is.
// Thread-compatible; allocates.
//
//   text_page page(100, false);
//   text_table table("waits", {{"calls", 1}, {"p95", 2}});   // the column of the lowest rank is the first to go
//   table.add({0, "db.query", " (wait)", {"20", "200 ms"}});
//   table.write(page);
#ifndef THAW_REPORT_TABLE_HPP
#define THAW_REPORT_TABLE_HPP

#include <thaw/core/config.hpp>
#include <thaw/report/units.hpp>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace thaw::report::detail {

enum class style : unsigned char { plain, bold, dim, red, yellow, cyan };

// Text that grows line by line. Everything put into it is printable.
class text_page {
public:
    text_page(std::size_t width, bool colours) : m_width(width < 40 ? 40 : width), m_colours(colours) {}

    [[nodiscard]] std::size_t width() const noexcept { return m_width; }
    [[nodiscard]] std::string take() { return std::move(m_text); }
    void blank_line() { m_text += '\n'; }

    void put(std::string const& s, style st = style::plain) {
        static constexpr char const* codes[] = {"", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[36m"};
        bool const painted = m_colours && st != style::plain;
        if (painted) m_text += codes[static_cast<unsigned>(st)];
        m_text += s;
        if (painted) m_text += "\x1b[0m";
    }

    // A label, then items, as many a line as fit; lines after the first are indented like the first item.
    void items(std::string const& label, style label_style, std::vector<std::string> const& list, char const* separator) {
        std::size_t const indent = columns_of(label);
        std::string const gap = separator;
        put(label, label_style);
        std::size_t at = indent;
        for (std::string const& item : list) {
            std::string const fitting = shortened(item, m_width - indent);
            std::size_t const wide = columns_of(fitting);
            if (at > indent && at + gap.size() + wide > m_width) {
                m_text.append(1, '\n').append(indent, ' ');
                at = indent;
            } else if (at > indent) {
                m_text += gap;
                at += gap.size();
            }
            m_text += fitting;
            at += wide;
        }
        m_text += '\n';
    }

    // A label and a sentence. A line does not end between a number and what follows it.
    void sentence(std::string const& label, style label_style, std::string const& words) {
        std::vector<std::string> list(1);
        for (std::size_t i = 0; i < words.size(); ++i) {
            bool const after_digit = i > 0 && words[i - 1] >= '0' && words[i - 1] <= '9';
            if (words[i] == ' ' && !after_digit)
                list.emplace_back();
            else
                list.back() += words[i];
        }
        items(label, label_style, list, " ");
    }

private:
    std::size_t m_width;
    bool m_colours;
    std::string m_text;
};

// A name and right-aligned columns. What does not fit: first columns go, the ones with the lowest rank, then names are
// shortened.
class text_table {
public:
    struct column {
        char const* title;
        unsigned rank;
    };
    struct row {
        std::size_t indent;
        std::string name;
        std::string mark; // stands behind the name and is not shortened
        std::vector<std::string> cells;
    };

    text_table(char const* title, std::vector<column> columns) : m_title(title), m_columns(std::move(columns)) {}

    [[nodiscard]] bool empty() const noexcept { return m_rows.empty(); }
    void add(row r) { m_rows.push_back(std::move(r)); }

    void write(text_page& page) const {
        std::size_t wanted = columns_of(m_title);
        std::size_t least = page.width() / 4 < 20 ? 20 : page.width() / 4; // of the name, before columns go
        std::vector<std::size_t> wide;
        for (column const& c : m_columns) wide.push_back(columns_of(c.title));
        for (row const& r : m_rows) {
            std::size_t const mark = columns_of(r.mark);
            std::size_t const name = r.indent + columns_of(r.name) + mark;
            if (wanted < name) wanted = name;
            if (mark != 0 && least < r.indent + 8 + mark) least = r.indent + 8 + mark;
            for (std::size_t c = 0; c < wide.size(); ++c)
                if (wide[c] < columns_of(r.cells[c])) wide[c] = columns_of(r.cells[c]);
        }
        if (least > page.width() / 2) least = page.width() / 2;
        if (least > wanted) least = wanted;
        std::vector<bool> shown(wide.size(), true);
        std::size_t taken = 0;
        for (std::size_t const w : wide) taken += w + 2;
        while (taken > 0 && least + taken > page.width()) {
            std::size_t worst = wide.size();
            for (std::size_t c = 0; c < wide.size(); ++c)
                if (shown[c] && (worst == wide.size() || m_columns[c].rank < m_columns[worst].rank)) worst = c;
            shown[worst] = false;
            taken -= wide[worst] + 2;
        }
        std::size_t const name_width = wanted < page.width() - taken ? wanted : page.width() - taken;

        std::vector<std::string> titles;
        for (column const& c : m_columns) titles.emplace_back(c.title);
        page.put(line({0, m_title, "", titles}, name_width, wide, shown), style::bold);
        page.blank_line();
        for (row const& r : m_rows) {
            page.put(line(r, name_width, wide, shown));
            page.blank_line();
        }
    }

private:
    [[nodiscard]] static std::string line(row const& r, std::size_t name_width, std::vector<std::size_t> const& wide,
                                          std::vector<bool> const& shown) {
        std::size_t const indent = r.indent < name_width / 2 ? r.indent : name_width / 2;
        std::size_t room = name_width - indent;
        std::size_t const mark = columns_of(r.mark);
        bool const marked = mark + 4 <= room;
        if (marked) room -= mark;
        std::string out = std::string(indent, ' ') + shortened(r.name, room);
        if (marked) out += r.mark;
        std::size_t at = columns_of(out);
        std::size_t end = name_width;
        for (std::size_t c = 0; c < wide.size(); ++c) {
            if (!shown[c]) continue;
            end += wide[c] + 2;
            if (r.cells[c].empty()) continue;
            out.append(end - at - columns_of(r.cells[c]), ' ') += r.cells[c];
            at = end;
        }
        return out;
    }

    std::string m_title;
    std::vector<column> m_columns;
    std::vector<row> m_rows;
};

}

#endif
