// bootstrap: the four requests of the Lambda Runtime API, version 2018-06-01. Owner-thread.
#ifndef BOOTSTRAP_RUNTIME_API_HPP
#define BOOTSTRAP_RUNTIME_API_HPP

#include "http.hpp"
#include "json.hpp"

#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace bootstrap {

struct event {
    std::string id, trace, function_arn;
    std::uint64_t deadline_ms = 0; // since 1970; 0: none
    std::string body;
};

class runtime_api {
public:
    explicit runtime_api(std::string_view authority) : m_http(authority) {}

    // Blocks until there is an event. Throws http::error once the host cannot be reached: the process has no more to do.
    [[nodiscard]] event next() {
        http::response r = send("GET", "/runtime/invocation/next");
        if (r.status != 200) throw http::error("GET next: status " + std::to_string(r.status) + ": " + r.body);
        event e{std::string(r.header("lambda-runtime-aws-request-id")), std::string(r.header("lambda-runtime-trace-id")),
                std::string(r.header("lambda-runtime-invoked-function-arn")), 0, std::move(r.body)};
        if (e.id.empty()) throw http::error("GET next: no request id");
        std::string_view const deadline = r.header("lambda-runtime-deadline-ms");
        std::from_chars(deadline.data(), deadline.data() + deadline.size(), e.deadline_ms);
        return e;
    }

    // These three say on stderr what the host did not take, and go on: /next tells whether it is still there.
    void respond(std::string_view id, std::string_view body) {
        post("/runtime/invocation/" + std::string(id) + "/response", {}, body);
    }
    void fail(std::string_view id, std::string_view type, std::string_view message) {
        post_error("/runtime/invocation/" + std::string(id) + "/error", type, message);
    }
    void fail_init(std::string_view type, std::string_view message) { post_error("/runtime/init/error", type, message); }

private:
    static constexpr int tries = 5;

    // 5xx answers and broken connections are tried again after 10, 20, 40, 80 ms.
    http::response send(std::string const& method, std::string const& path, std::string_view headers = {},
                        std::string_view body = {}) {
        for (int attempt = 1;; ++attempt) {
            try {
                http::response r = m_http.send(method, "/2018-06-01" + path, headers, body);
                if (r.status < 500 || attempt == tries) return r;
                std::fprintf(stderr, "bootstrap: %s %s: status %d, try %d of %d\n", method.c_str(), path.c_str(), r.status,
                             attempt, tries);
            } catch (http::error const& e) {
                if (attempt == tries) throw;
                std::fprintf(stderr, "bootstrap: %s, try %d of %d\n", e.what(), attempt, tries);
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(5 << attempt));
        }
    }

    void post(std::string const& path, std::string_view headers, std::string_view body) {
        try {
            auto const all_headers = std::string("Content-Type: application/json\r\n").append(headers);
            http::response const r = send("POST", path, all_headers, body);
            if (r.status < 300) return;
            std::fprintf(stderr, "bootstrap: POST %s: status %d: %s\n", path.c_str(), r.status, r.body.c_str());
        } catch (http::error const& e) {
            std::fprintf(stderr, "bootstrap: %s\n", e.what());
        }
    }

    void post_error(std::string const& path, std::string_view type, std::string_view message) {
        std::string body = "{\"errorType\":";
        json::append_quoted(body, type);
        body += ",\"errorMessage\":";
        json::append_quoted(body, message);
        body += ",\"stackTrace\":[]}";
        post(path, std::string("Lambda-Runtime-Function-Error-Type: ").append(type).append("\r\n"), body);
    }

    http::client m_http;
};

}

#endif
