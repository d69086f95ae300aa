// thaw floor 2 report: lines and tables of text that keep to a width. Knows nothing of profiles.
//
// Whoever puts text in makes it printable first (units.hpp); then no line is longer than the width, whatever the text is.
// Thread-compatible; allocates. Templates, so that a unit that makes no report does not pay for instantiating them.
//
//   static constexpr table_column columns[] = {{"calls", 1}, {"p95", 2}};   // the column of the lowest rank is the first to go
//   text_page<> page(100, false);
//   text_table<> table("waits", columns);
//   table.row(0, "db.query", " (wait)").cell("20").cell("200 ms");
//   table.write(page);
#ifndef THAW_REPORT_TABLE_HPP
#define THAW_REPORT_TABLE_HPP

#include <thaw/core/config.hpp>
#include <thaw/report/units.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace thaw::report::detail {

enum class style : unsigned char { plain, bold, dim, red, yellow, cyan };

// Text that grows line by line. Everything put into it is printable.
template <class String = std::string>
class text_page {
public:
    text_page(std::size_t width, bool colours) : m_width(width < 40 ? 40 : width), m_colours(colours) {}

    [[nodiscard]] std::size_t width() const noexcept { return m_width; }
    [[nodiscard]] String const& text() const noexcept { return m_text; }
    void blank_line() { m_text += '\n'; }

    void put(String const& s, style st = style::plain) {
        static constexpr char const* codes[] = {"", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[36m"};
        bool const painted = m_colours && st != style::plain;
        if (painted) m_text += codes[static_cast<unsigned>(st)];
        m_text += s;
        if (painted) m_text += "\x1b[0m";
    }

    // A label, then items, as many a line as fit; lines after the first are indented like the first item.
    void begin_items(String const& label, style st) {
        m_indent = m_at = columns_of(label);
        put(label, st);
    }
    void item(String const& text, String const& gap = "  ") {
        String const fitting = shortened(text, m_width - m_indent);
        std::size_t const wide = columns_of(fitting);
        if (m_at > m_indent && m_at + gap.size() + wide > m_width) {
            m_text.append(1, '\n').append(m_indent, ' ');
            m_at = m_indent;
        } else if (m_at > m_indent) {
            m_text += gap;
            m_at += gap.size();
        }
        m_text += fitting;
        m_at += wide;
    }
    void end_items() { blank_line(); }

    // A label and a sentence. A line does not end between a number and what follows it.
    void sentence(String const& label, style st, String const& words) {
        begin_items(label, st);
        String word;
        for (std::size_t i = 0; i < words.size(); ++i) {
            bool const after_digit = i > 0 && words[i - 1] >= '0' && words[i - 1] <= '9';
            if (words[i] == ' ' && !after_digit) {
                item(word, " ");
                word.clear();
            } else {
                word += words[i];
            }
        }
        item(word, " ");
        end_items();
    }

private:
    std::size_t m_width;
    bool m_colours;
    std::size_t m_indent = 0;
    std::size_t m_at = 0; // columns of the line that items are put on
    String m_text;
};

struct table_column {
    char const* title;
    unsigned rank;
};

// A name and right-aligned columns. What does not fit: first columns go, the ones with the lowest rank, then names are
// shortened.
template <class String = std::string>
class text_table {
public:
    // Requires: the title and the columns outlive the table.
    text_table(char const* title, table_column const* columns, std::size_t count)
        : m_columns(columns), m_count(count) {
        row(0, title);
        for (std::size_t c = 0; c < count; ++c) cell(columns[c].title);
    }
    template <std::size_t N>
    text_table(char const* title, table_column const (&columns)[N]) : text_table(title, columns, N) {}

    [[nodiscard]] bool empty() const noexcept { return size() == 1; }

    // Begins a row. The mark stands behind the name and is not shortened. Cells that are not given are empty.
    text_table& row(std::size_t indent, String const& name, String const& mark = "") {
        m_texts.resize(size() * (2 + m_count));
        m_indents.push_back(indent);
        return cell(name).cell(mark);
    }
    text_table& cell(String const& text) {
        m_texts.push_back(text);
        return *this;
    }

    void write(text_page<String>& page) {
        m_texts.resize(size() * (2 + m_count));
        std::size_t wanted = 0;
        std::size_t least = page.width() / 4 < 20 ? 20 : page.width() / 4; // of the name, before columns go
        std::vector<std::size_t> wide(m_count);                            // of the columns; 0: not shown
        for (std::size_t r = 0; r < size(); ++r) {
            std::size_t const mark = columns_of(texts(r)[1]);
            std::size_t const name = m_indents[r] + columns_of(texts(r)[0]) + mark;
            if (wanted < name) wanted = name;
            if (mark != 0 && least < m_indents[r] + 8 + mark) least = m_indents[r] + 8 + mark;
            for (std::size_t c = 0; c < m_count; ++c)
                if (std::size_t const w = columns_of(texts(r)[2 + c]); wide[c] < w) wide[c] = w;
        }
        if (least > page.width() / 2) least = page.width() / 2;
        if (least > wanted) least = wanted;
        std::size_t taken = 0;
        for (std::size_t const w : wide) taken += w + 2;
        while (taken > 0 && least + taken > page.width()) {
            std::size_t worst = m_count;
            for (std::size_t c = 0; c < m_count; ++c)
                if (wide[c] != 0 && (worst == m_count || m_columns[c].rank < m_columns[worst].rank)) worst = c;
            taken -= wide[worst] + 2;
            wide[worst] = 0;
        }
        std::size_t const name_width = wanted < page.width() - taken ? wanted : page.width() - taken;
        for (std::size_t r = 0; r < size(); ++r) {
            page.put(line(r, name_width, wide), r == 0 ? style::bold : style::plain);
            page.blank_line();
        }
    }

private:
    // The number of rows; the first one holds the titles.
    [[nodiscard]] std::size_t size() const noexcept { return m_indents.size(); }

    // Name, mark and cells of a row.
    [[nodiscard]] String const* texts(std::size_t r) const noexcept { return m_texts.data() + r * (2 + m_count); }

    [[nodiscard]] String line(std::size_t r, std::size_t name_width, std::vector<std::size_t> const& wide) const {
        String const* const text = texts(r);
        std::size_t const indent = m_indents[r] < name_width / 2 ? m_indents[r] : name_width / 2;
        std::size_t room = name_width - indent;
        std::size_t const mark = columns_of(text[1]);
        bool const marked = mark + 4 <= room;
        if (marked) room -= mark;
        String out = String(indent, ' ') + shortened(text[0], room);
        if (marked) out += text[1];
        std::size_t at = columns_of(out);
        std::size_t end = name_width;
        for (std::size_t c = 0; c < m_count; ++c) {
            if (wide[c] == 0) continue;
            end += wide[c] + 2;
            if (text[2 + c].empty()) continue;
            out.append(end - at - columns_of(text[2 + c]), ' ') += text[2 + c];
            at = end;
        }
        return out;
    }

    table_column const* m_columns;
    std::size_t m_count;
    std::vector<std::size_t> m_indents; // by row
    std::vector<String> m_texts;        // of all rows
};

}

#endif
