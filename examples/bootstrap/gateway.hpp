// bootstrap: API Gateway proxy events (REST, format 1.0; HTTP API, format 2.0) and their answers. Pure functions.
#ifndef BOOTSTRAP_GATEWAY_HPP
#define BOOTSTRAP_GATEWAY_HPP

#include "json.hpp"

#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

namespace bootstrap::gateway {

// The caller's fault: becomes an answer with this status.
struct bad_request : std::runtime_error {
    bad_request(int s, std::string const& what) : std::runtime_error(what), status(s) {}
    int status;
};

// No proxy event at all: nobody is there to read an HTTP answer, so the invocation fails.
struct event_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// RFC 4648, with padding. Throws bad_request naming the offset.
inline std::string decode_base64(std::string_view in) {
    static constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::array<unsigned char, 256> digit;
    digit.fill(64);
    for (unsigned char i = 0; i < 64; ++i) digit[static_cast<unsigned char>(alphabet[i])] = i;

    if (in.size() % 4 != 0) throw bad_request(400, "body: base64 of incomplete length");
    std::size_t const padding = in.ends_with("==") ? 2 : in.ends_with("=") ? 1 : 0;
    std::string out;
    unsigned bits = 0;
    for (std::size_t i = 0; i < in.size() - padding; ++i) {
        unsigned const d = digit[static_cast<unsigned char>(in[i])];
        if (d == 64) throw bad_request(400, "body: offset " + std::to_string(i) + ": not base64");
        bits = (bits << 6 | d) & 0xFFFFFF;
        if (i % 4 != 0) out += static_cast<char>(static_cast<unsigned char>(bits >> (6 - 2 * (i % 4)) & 0xFF));
    }
    return out;
}

// The text that a proxy event asks about: the member "text" of its JSON body.
inline std::string text_of(std::string_view event) {
    json::value root;
    try {
        root = json::parse(event);
    } catch (json::error const& e) {
        throw event_error(std::string("event: ") + e.what());
    }
    json::value const* method = root.find("httpMethod");
    if (json::value const* const context = root.find("requestContext"); !method && context)
        if (json::value const* const http = context->find("http")) method = http->find("method");
    if (!method || !method->string()) throw event_error("event: not an API Gateway proxy event");
    if (*method->string() != "POST") throw bad_request(405, "only POST is allowed");

    json::value const* const body = root.find("body");
    if (!body || !body->string() || body->string()->empty()) throw bad_request(400, "body: empty");
    json::value const* const encoded = root.find("isBase64Encoded");
    json::value parsed;
    try {
        parsed = json::parse(encoded && encoded->is_true() ? decode_base64(*body->string()) : *body->string());
    } catch (json::error const& e) {
        throw bad_request(400, std::string("body: ") + e.what());
    }
    json::value const* const text = parsed.find("text");
    if (!text || !text->string()) throw bad_request(400, "body: expected {\"text\": \"...\"}");
    return *text->string();
}

// A proxy answer, valid for both formats. `body` is JSON.
inline std::string answer(int status, std::string_view body) {
    std::string out = "{\"statusCode\":" + std::to_string(status);
    out += ",\"headers\":{\"content-type\":\"application/json; charset=utf-8\"";
    if (status == 405) out += ",\"allow\":\"POST\"";
    out += "},\"isBase64Encoded\":false,\"body\":";
    json::append_quoted(out, body);
    return out += '}';
}

}

#endif
