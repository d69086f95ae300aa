// bootstrap: an HTTP/1.1 client for one plain-text server, with one connection that is kept alive. Owner-thread.
//
// A request that finds its kept connection dead before a byte of the answer came is sent once more on a new one: every
// request of the Runtime API carries its invocation's id and may be repeated. There is no timeout: /next blocks for as long
// as no event comes, and the host kills what takes too long.
#ifndef BOOTSTRAP_HTTP_HPP
#define BOOTSTRAP_HTTP_HPP

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace bootstrap::http {

struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::string lower(std::string_view s) {
    std::string out(s);
    for (char& c : out)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
    return out;
}

struct response {
    int status = 0;
    std::vector<std::pair<std::string, std::string>> headers; // names in lower case
    std::string body;

    // The value of the header with this lower-case name; empty if there is none.
    [[nodiscard]] std::string_view header(std::string_view name) const noexcept {
        for (auto const& [n, v] : headers)
            if (n == name) return v;
        return {};
    }
};

class client {
public:
    // `authority` is host:port, as in AWS_LAMBDA_RUNTIME_API.
    explicit client(std::string_view authority) : m_authority(authority) {
        std::size_t const colon = authority.rfind(':');
        m_host = authority.substr(0, colon);
        m_port = colon == std::string_view::npos ? "80" : authority.substr(colon + 1);
        if (m_host.size() > 2 && m_host.front() == '[') m_host = m_host.substr(1, m_host.size() - 2);
    }
    ~client() { disconnect(); }
    client(client const&) = delete;
    client& operator=(client const&) = delete;

    // `headers` are complete lines, each with its CRLF. Throws error if there is no complete answer.
    response send(std::string_view method, std::string_view path, std::string_view headers = {},
                  std::string_view body = {}) {
        std::string request(method);
        request.append(" ").append(path).append(" HTTP/1.1\r\nHost: ").append(m_authority).append("\r\n").append(headers);
        if (method != "GET") request += "Content-Length: " + std::to_string(body.size()) + "\r\n";
        request.append("\r\n").append(body);
        for (;;) {
            bool const reused = m_fd >= 0;
            try {
                if (!reused) connect();
                write(request);
                return receive();
            } catch (error const& e) {
                bool const stale = reused && m_buffer.empty();
                disconnect();
                if (!stale) throw error(std::string(method).append(" ").append(m_authority).append(path) + ": " + e.what());
            }
        }
    }

private:
    static constexpr std::size_t max_head = 64 * 1024;
    static constexpr std::size_t max_body = 64 * 1024 * 1024;

    [[noreturn]] static void fail(char const* call, int e) {
        throw error(std::string(call) + ": " + std::generic_category().message(e));
    }

    void connect() {
        addrinfo hints{};
        hints.ai_socktype = SOCK_STREAM;
        addrinfo* found = nullptr;
        int const unresolved = ::getaddrinfo(m_host.c_str(), m_port.c_str(), &hints, &found);
        if (unresolved) throw error(std::string("getaddrinfo: ") + ::gai_strerror(unresolved));
        int why = 0;
        for (addrinfo const* a = found; a && m_fd < 0; a = a->ai_next) {
            m_fd = ::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
            if (m_fd >= 0 && ::connect(m_fd, a->ai_addr, a->ai_addrlen) == 0) break;
            why = errno;
            disconnect();
        }
        ::freeaddrinfo(found);
        if (m_fd < 0) fail("connect", why);
        int const on = 1;
        ::setsockopt(m_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }

    void disconnect() noexcept {
        if (m_fd >= 0) ::close(m_fd);
        m_fd = -1;
        m_buffer.clear();
        m_at = 0;
    }

    void write(std::string_view bytes) {
        m_buffer.clear();
        m_at = 0;
        while (!bytes.empty()) {
            ssize_t const n = ::send(m_fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (n < 0 && errno != EINTR) fail("send", errno);
            if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
        }
    }

    // Appends what came to the buffer; false at the end of the stream.
    bool fill() {
        char bytes[16 * 1024];
        for (;;) {
            ssize_t const n = ::recv(m_fd, bytes, sizeof bytes, 0);
            if (n < 0 && errno != EINTR) fail("recv", errno);
            if (n >= 0) return m_buffer.append(bytes, static_cast<std::size_t>(n)), n > 0;
        }
    }

    std::string read_line() {
        std::size_t end;
        while ((end = m_buffer.find('\n', m_at)) == std::string::npos) {
            if (m_buffer.size() - m_at > max_head) throw error("line too long");
            if (!fill()) throw error("connection closed inside an answer");
        }
        std::string line = m_buffer.substr(m_at, end - m_at);
        m_at = end + 1;
        if (!line.empty() && line.back() == '\r') line.pop_back();
        return line;
    }

    void read_into(std::string& out, std::size_t count) {
        if (count > max_body - out.size()) throw error("answer too large");
        while (m_buffer.size() - m_at < count)
            if (!fill()) throw error("connection closed inside an answer");
        out.append(m_buffer, m_at, count);
        m_at += count;
    }

    static std::size_t number(std::string_view digits, int base, char const* what) {
        std::size_t n = 0;
        auto const r = std::from_chars(digits.data(), digits.data() + digits.size(), n, base);
        if (r.ec != std::errc{} || r.ptr != digits.data() + digits.size()) throw error(std::string("malformed ") + what);
        return n;
    }

    void read_chunks(std::string& out) {
        for (;;) {
            std::string const line = read_line();
            std::size_t const size = number(std::string_view(line).substr(0, line.find_first_of("; \t")), 16, "chunk size");
            if (size == 0) break;
            read_into(out, size);
            if (!read_line().empty()) throw error("malformed chunk");
        }
        while (!read_line().empty()) {}
    }

    response receive() {
        response r;
        std::string head;
        do {
            head = read_line();
            if (head.size() < 12 || !head.starts_with("HTTP/1.")) throw error("malformed status line");
            r.status = static_cast<int>(number(std::string_view(head).substr(9, 3), 10, "status"));
            r.headers.clear();
            for (std::string line = read_line(); !line.empty(); line = read_line()) {
                std::size_t const colon = line.find(':');
                if (colon == std::string::npos || m_at > max_head) throw error("malformed header");
                std::size_t const value = std::min(line.find_first_not_of(" \t", colon + 1), line.size());
                r.headers.emplace_back(lower(std::string_view(line).substr(0, colon)), line.substr(value));
            }
        } while (r.status >= 100 && r.status < 200);

        bool keep = head.starts_with("HTTP/1.1") && lower(r.header("connection")) != "close";
        if (lower(r.header("transfer-encoding")).ends_with("chunked")) {
            read_chunks(r.body);
        } else if (std::string_view const length = r.header("content-length"); !length.empty()) {
            read_into(r.body, number(length, 10, "content-length"));
        } else if (r.status != 204 && r.status != 304) {
            keep = false;
            while (fill())
                if (m_buffer.size() > max_body) throw error("answer too large");
            r.body = m_buffer.substr(m_at);
        }
        if (!keep) disconnect();
        return r;
    }

    std::string m_authority, m_host, m_port;
    int m_fd = -1;
    std::string m_buffer; // of the answer being read; bytes before m_at are consumed
    std::size_t m_at = 0;
};

}

#endif
