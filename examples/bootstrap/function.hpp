// bootstrap: the function itself. An event comes in, a spelling score goes out; the same event gives the same bytes.
#ifndef BOOTSTRAP_FUNCTION_HPP
#define BOOTSTRAP_FUNCTION_HPP

#include "gateway.hpp"
#include "words.hpp"
#include "worker.hpp"

#include <thaw/probe/containers.hpp>
#include <thaw/thaw.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace bootstrap {

class word_function {
public:
    static constexpr std::size_t max_text = 256 * 1024;
    static constexpr std::size_t max_searched = 2000; // unknown words that get suggestions: bounds the work of one event

    explicit word_function(corpus known) : m_corpus(std::move(known)), m_worker(m_corpus) {}

    // Owner-thread. Throws gateway::event_error where the event is none of API Gateway's.
    [[nodiscard]] std::string operator()(std::string_view event) {
        try {
            return score(parse(event));
        } catch (gateway::bad_request const& e) {
            std::string body = "{\"message\":";
            json::append_quoted(body, e.what());
            return gateway::answer(e.status, body += '}');
        }
    }

private:
    struct suggestion {
        word_count const* unknown = nullptr;
        neighbours near;
    };

    static std::vector<word_count> parse(std::string_view event) {
        THAW_SCOPE("parse");
        std::string const text = gateway::text_of(event);
        if (text.size() > max_text)
            throw gateway::bad_request(413, "text: more than " + std::to_string(max_text) + " bytes");
        THAW_SCOPE("parse.words");
        tally words;
        words.add(text);
        return std::move(words).take();
    }

    std::string score(std::vector<word_count> const& words) {
        THAW_SCOPE("score.text");
        thaw::vector<suggestion> suggestions{THAW_ALLOCATOR("suggestions")};
        std::uint64_t total = 0, known = 0;
        for (word_count const& w : words) {
            total += w.count;
            if (m_corpus.contains(w.word))
                known += w.count;
            else if (suggestions.size() < max_searched)
                suggestions.push_back({&w, {}});
        }
        search(suggestions);

        THAW_SCOPE("render");
        std::uint64_t points =
            1000 * known; // an unknown word is worth a part of a known one, by the distance to the nearest
        std::string list;
        for (suggestion const& s : suggestions) {
            if (s.near.size == 0) continue;
            std::size_t const distance = s.near.found[0].distance;
            points += (distance == 1 ? 500u : 250u) * std::uint64_t{s.unknown->count};
            list += list.empty() ? "{\"word\":" : ",{\"word\":";
            append_word(list, s.unknown->word);
            list += ",\"count\":" + std::to_string(s.unknown->count) + ",\"distance\":" + std::to_string(distance);
            list += ",\"nearest\":";
            for (std::size_t i = 0; i < s.near.size; ++i) {
                list += i == 0 ? '[' : ',';
                append_word(list, s.near.found[i].word->word);
            }
            list += "]}";
        }
        std::string body = "{\"words\":" + std::to_string(total) + ",\"known\":" + std::to_string(known);
        body += ",\"unknown\":" + std::to_string(total - known) + ",\"score\":" + std::to_string(total ? points / total : 0);
        return gateway::answer(200, body + ",\"suggestions\":[" + list + "]}");
    }

    // The second half goes to the worker while this thread does the first.
    void search(thaw::vector<suggestion>& suggestions) {
        std::size_t const half = suggestions.size() - suggestions.size() / 2;
        std::vector<std::u32string> rest;
        for (std::size_t i = half; i < suggestions.size(); ++i) rest.push_back(suggestions[i].unknown->word);
        auto const job = m_worker.submit(std::move(rest));
        for (std::size_t i = 0; i < half && i < suggestions.size(); ++i) {
            THAW_SCOPE("nearest");
            suggestions[i].near = m_corpus.nearest(suggestions[i].unknown->word);
        }
        m_worker.wait_for(*job);
        for (std::size_t i = half; i < suggestions.size(); ++i) suggestions[i].near = job->found[i - half];
    }

    static void append_word(std::string& out, std::u32string const& w) {
        std::string bytes;
        for (char32_t const c : w) append_utf8(bytes, c);
        json::append_quoted(out, bytes);
    }

    corpus m_corpus;
    worker m_worker;
};

}

#endif
