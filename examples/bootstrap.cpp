// A function for the custom runtime provided.al2023, profiled by thaw: it takes API Gateway proxy events with a JSON body
// {"text": "..."} and answers how many of the words it knows, and what the unknown ones may have been meant to be.
//
//   g++ -std=c++20 -O2 -Iinclude -pthread examples/bootstrap.cpp -o bootstrap
//   BOOTSTRAP_CORPUS=README.md:include ./bootstrap examples/events/http_v2.json      # without a host: events from files
//
//   AWS_LAMBDA_RUNTIME_API  host:port of the host's Runtime API; set by Lambda
//   BOOTSTRAP_CORPUS        files and directories with the known words, separated by ':'; default /usr/share/dict/words
//   BOOTSTRAP_REPORT        text: thaw's text report; otherwise one line of JSON for each report
#include "bootstrap/function.hpp"
#include "bootstrap/reporter.hpp"
#include "bootstrap/runtime_api.hpp"

#include <thaw/thaw.hpp>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

namespace {

using namespace bootstrap;

corpus read_corpus() {
    char const* const paths = std::getenv("BOOTSTRAP_CORPUS");
    return corpus::read(paths ? paths : "/usr/share/dict/words");
}

// The loop of the custom runtime. Returns the exit code once the host is gone.
int serve(char const* authority) {
    runtime_api host(authority);
    std::optional<word_function> function;
    try {
        function.emplace(read_corpus());
    } catch (std::exception const& e) {
        std::fprintf(stderr, "bootstrap: init: %s\n", e.what());
        host.fail_init("Function.InitError", e.what());
        return 1;
    }
    for (;;) {
        event e;
        try {
            e = host.next();
        } catch (http::error const& lost) {
            std::fprintf(stderr, "bootstrap: %s\n", lost.what());
            return 1;
        }
        ::setenv("_X_AMZN_TRACE_ID", e.trace.c_str(), 1);
        THAW_HANDLER(
            "score",
            thaw::invocation{.request_id = e.id, .trace_parent = e.trace, .deadline_unix_ns = e.deadline_ms * 1'000'000});
        std::string answer, error_type, error;
        try {
            answer = (*function)(e.body);
        } catch (gateway::event_error const& bad) {
            error_type = "Function.EventError";
            error = bad.what();
        } catch (std::exception const& failure) {
            error_type = "Function.Exception";
            error = failure.what();
        }
        THAW_WAIT("runtime.post");
        if (error_type.empty())
            host.respond(e.id, answer);
        else
            host.fail(e.id, error_type, error);
    }
}

// Without a host: one line on stdout for each file. Returns the exit code.
int answer_files(std::span<char*> paths) {
    if (paths.empty()) {
        std::fprintf(stderr, "bootstrap: neither AWS_LAMBDA_RUNTIME_API is set nor files with events are given\n");
        return 2;
    }
    int failures = 0;
    try {
        word_function function(read_corpus());
        for (char const* const path : paths) {
            std::ifstream in(path, std::ios::binary);
            std::string const body{std::istreambuf_iterator<char>(in), {}};
            if (!in) throw std::runtime_error(std::string("cannot read ") + path);
            THAW_HANDLER("score", thaw::invocation{.request_id = path, .trace_parent = {}, .deadline_unix_ns = 0});
            try {
                std::printf("%s\n", function(body).c_str());
            } catch (gateway::event_error const& e) {
                std::fprintf(stderr, "bootstrap: %s: %s\n", path, e.what());
                ++failures;
            }
        }
    } catch (std::exception const& e) {
        std::fprintf(stderr, "bootstrap: %s\n", e.what());
        return 1;
    }
    return failures ? 1 : 0;
}

}

int main(int argc, char** argv) {
    thaw::start({.app = "words", .version = "1.0.0"}, reporter{});
    char const* const authority = std::getenv("AWS_LAMBDA_RUNTIME_API");
    int const code = authority ? serve(authority) : answer_files(std::span(argv + 1, static_cast<std::size_t>(argc - 1)));
    thaw::stop();
    return code;
}
