// bootstrap: text into words, a corpus of known words, and the corpus words nearest to an unknown one.
//
// A corpus is immutable once built: any number of threads may ask it. All answers depend on the words and their counts only,
// never on the order in which files were read.
#ifndef BOOTSTRAP_WORDS_HPP
#define BOOTSTRAP_WORDS_HPP

#include "utf8.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace bootstrap {

// Lower-case letter of c, or 0 if c is no letter. By block, not by the full Unicode tables.
[[nodiscard]] inline char32_t folded_letter(char32_t c) noexcept {
    if (c < 0x80) return c >= U'a' && c <= U'z' ? c : c >= U'A' && c <= U'Z' ? c + 32 : 0;
    if (c < 0xC0 || c == 0xD7 || c == 0xF7) return 0;
    if (c <= 0xDE || (c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F)) return c + 32;
    if (c >= 0x400 && c <= 0x40F) return c + 80;
    bool const symbol = (c >= 0x2000 && c <= 0x2BFF) || (c >= 0x3000 && c <= 0x303F) || (c >= 0xFE00 && c <= 0xFE0F) ||
                        (c >= 0xFF00 && c <= 0xFF20) || (c >= 0x1F000 && c <= 0x1FFFF) || c > 0x10FFFF;
    return symbol ? 0 : c;
}

// Calls visit(word) for each run of two letters or more, in lower case. Bytes that are no UTF-8 separate words.
template <class Visit>
void for_each_word(std::string_view text, Visit visit) {
    std::u32string word;
    for (std::size_t at = 0; at < text.size();) {
        if (char32_t const letter = folded_letter(next_code_point(text, at))) {
            word += letter;
            if (at < text.size()) continue;
        }
        if (word.size() > 1) visit(std::as_const(word));
        word.clear();
    }
}

struct word_count {
    std::u32string word;
    std::uint32_t count = 0;
};

// The distinct words of a text with their numbers, in the order of their first appearance.
class tally {
public:
    void add(std::string_view text) {
        for_each_word(text, [this](std::u32string const& w) {
            auto const [it, is_new] = m_index.try_emplace(w, m_words.size());
            if (is_new) m_words.push_back({w, 0});
            ++m_words[it->second].count;
        });
    }
    [[nodiscard]] std::vector<word_count> take() && noexcept { return std::move(m_words); }

private:
    std::vector<word_count> m_words;
    std::unordered_map<std::u32string, std::size_t> m_index;
};

inline constexpr std::size_t max_distance = 2;
inline constexpr std::size_t max_word = 32; // longer words have no neighbours

// The Levenshtein distance of a and b, or limit + 1 if it is larger. Only the cells within `limit` of the diagonal can hold
// a value that is not larger than limit, so only these are computed: O(min(|a|, |b|) * limit). Requires a.size() <= max_word
// and b.size() <= max_word + max_distance.
[[nodiscard]] inline std::size_t bounded_distance(std::u32string_view a, std::u32string_view b, std::size_t limit) noexcept {
    std::size_t const over = limit + 1;
    if (std::max(a.size(), b.size()) - std::min(a.size(), b.size()) > limit) return over;
    std::array<std::size_t, max_word + max_distance + 2> row;
    for (std::size_t j = 0; j <= b.size(); ++j) row[j] = std::min(j, over);
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t const first = i > limit ? i - limit : 1, last = std::min(b.size(), i + limit);
        std::size_t diagonal = row[first - 1], best = over;
        row[first - 1] = first == 1 ? std::min(i, over) : over;
        for (std::size_t j = first; j <= last; ++j) {
            std::size_t const above = j < i + limit ? row[j] : over;
            std::size_t const cell = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]), over});
            diagonal = row[j];
            row[j] = cell;
            best = std::min(best, cell);
        }
        if (best == over && row[first - 1] == over) return over;
    }
    return row[b.size()];
}

// The corpus words nearest to a word: those at the smallest distances, among equals the most frequent ones first.
struct neighbours {
    struct neighbour {
        word_count const* word = nullptr;
        std::size_t distance = 0;
    };
    std::array<neighbour, 3> found{};
    std::size_t size = 0;
};

class corpus {
public:
    explicit corpus(std::vector<word_count> words) : m_words(std::move(words)) {
        std::sort(m_words.begin(), m_words.end(), [](word_count const& a, word_count const& b) {
            return a.word.size() != b.word.size() ? a.word.size() < b.word.size() : a.word < b.word;
        });
        for (std::size_t length = 0, i = 0; length < m_first.size(); ++length) {
            while (i < m_words.size() && m_words[i].word.size() < length) ++i;
            m_first[length] = i;
        }
    }

    // `paths` are files or directories, separated by ':'. Throws std::runtime_error, naming the path that cannot be read.
    [[nodiscard]] static corpus read(std::string_view paths) {
        tally words;
        auto const add = [&words](std::filesystem::path const& file) {
            std::ifstream in(file, std::ios::binary);
            std::string const text{std::istreambuf_iterator<char>(in), {}};
            if (!in) throw std::runtime_error("corpus: cannot read " + file.string());
            words.add(text);
        };
        for (std::size_t at = 0; at <= paths.size();) {
            std::size_t const end = std::min(paths.find(':', at), paths.size());
            std::filesystem::path const path(paths.substr(at, end - at));
            at = end + 1;
            if (path.empty()) continue;
            if (!std::filesystem::is_directory(path)) {
                add(path);
                continue;
            }
            for (auto const& entry : std::filesystem::recursive_directory_iterator(path))
                if (entry.is_regular_file()) add(entry.path());
        }
        corpus c(std::move(words).take());
        if (c.size() == 0) throw std::runtime_error("corpus: no words in " + std::string(paths));
        return c;
    }

    [[nodiscard]] std::size_t size() const noexcept { return m_words.size(); }

    [[nodiscard]] bool contains(std::u32string const& w) const noexcept {
        auto const [first, last] = of_length(w.size(), w.size());
        auto const it = std::lower_bound(first, last, w, [](word_count const& a, std::u32string const& b) {
            return a.word.size() != b.size() ? a.word.size() < b.size() : a.word < b;
        });
        return it != last && it->word == w;
    }

    [[nodiscard]] neighbours nearest(std::u32string const& w) const noexcept {
        neighbours n;
        if (w.size() > max_word) return n;
        std::size_t limit = max_distance;
        auto const [first, last] = of_length(w.size() > max_distance ? w.size() - max_distance : 0, w.size() + max_distance);
        for (auto it = first; it != last; ++it) {
            std::size_t const distance = bounded_distance(w, it->word, limit);
            if (distance > limit) continue;
            neighbours::neighbour const candidate{&*it, distance};
            if (n.size == n.found.size() && !before(candidate, n.found.back())) continue;
            std::size_t i = n.size < n.found.size() ? n.size++ : n.size - 1;
            for (; i > 0 && before(candidate, n.found[i - 1]); --i) n.found[i] = n.found[i - 1];
            n.found[i] = candidate;
            if (n.size == n.found.size()) limit = n.found.back().distance;
        }
        return n;
    }

private:
    using iterator = std::vector<word_count>::const_iterator;

    static bool before(neighbours::neighbour const& a, neighbours::neighbour const& b) noexcept {
        if (a.distance != b.distance) return a.distance < b.distance;
        if (a.word->count != b.word->count) return a.word->count > b.word->count;
        return a.word->word < b.word->word;
    }

    [[nodiscard]] std::pair<iterator, iterator> of_length(std::size_t shortest, std::size_t longest) const noexcept {
        auto const at = [this](std::size_t length) {
            return m_words.begin() + static_cast<std::ptrdiff_t>(length < m_first.size() ? m_first[length] : m_words.size());
        };
        if (shortest >= m_first.size()) return {at(m_first.size() - 1), m_words.end()};
        return {at(shortest), at(longest + 1)};
    }

    std::vector<word_count> m_words;                                // by length, then by word
    std::array<std::size_t, max_word + max_distance + 2> m_first{}; // index of the first word that is at least so long
};

}

#endif
