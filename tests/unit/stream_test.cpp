#include <thaw/sink/stream.hpp>

#include <boost/test/unit_test.hpp>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

using writer = thaw::sink::stream;
using thaw::sink::stream_result;

namespace {

// Two ends of a pipe or a socket pair; the reader takes nothing by itself.
class two_ends {
public:
    explicit two_ends(bool socket = false) {
        BOOST_REQUIRE((socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : pipe(ends)) == 0);
    }
    two_ends(two_ends const&) = delete;
    two_ends& operator=(two_ends const&) = delete;
    ~two_ends() {
        close_reader();
        close(ends[1]);
    }

    [[nodiscard]] int write_end() const { return ends[1]; }
    void close_reader() {
        if (ends[0] >= 0) close(ends[0]);
        ends[0] = -1;
    }
    void set_nonblocking() const { fcntl(ends[1], F_SETFL, fcntl(ends[1], F_GETFL) | O_NONBLOCK); }

    // Reads until `size` bytes have come or the other end is closed.
    [[nodiscard]] std::string take(std::size_t size, std::size_t at_a_time = 65536) const {
        std::string all;
        std::string piece(at_a_time, '\0');
        while (all.size() < size) {
            ssize_t const n = read(ends[0], piece.data(), piece.size());
            if (n <= 0) break;
            all.append(piece, 0, static_cast<std::size_t>(n));
        }
        return all;
    }

private:
    int ends[2] = {-1, -1};
};

std::string numbered(std::size_t size) {
    std::string s;
    while (s.size() < size) s += std::to_string(s.size()) + ' ';
    s.resize(size);
    return s;
}

stream_result write_all(writer const& s, std::string const& bytes) { return s(bytes.data(), bytes.size()); }

volatile std::sig_atomic_t signals_seen = 0;

// Counts a signal, and does not restart system calls, for its lifetime.
class counting_handler {
public:
    explicit counting_handler(int signal) : m_signal(signal) {
        signals_seen = 0;
        struct sigaction action = {};
        action.sa_handler = [](int) { signals_seen = signals_seen + 1; };
        sigaction(signal, &action, &m_before);
    }
    counting_handler(counting_handler const&) = delete;
    counting_handler& operator=(counting_handler const&) = delete;
    ~counting_handler() { sigaction(m_signal, &m_before, nullptr); }

private:
    int m_signal;
    struct sigaction m_before = {};
};

bool is_pending(int signal) {
    sigset_t pending;
    sigemptyset(&pending);
    sigpending(&pending);
    return sigismember(&pending, signal) == 1;
}

bool is_blocked(int signal) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    return sigismember(&mask, signal) == 1;
}

void set_blocked(int signal, bool blocked) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, nullptr);
}

template <class Function>
double seconds_of(Function&& function) {
    auto const start = std::chrono::steady_clock::now();
    function();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}

BOOST_AUTO_TEST_SUITE(stream)

BOOST_AUTO_TEST_CASE(a_file_gets_every_byte) {
    std::unique_ptr<std::FILE, int (*)(std::FILE*)> const file(std::tmpfile(), &std::fclose);
    BOOST_REQUIRE(file != nullptr);
    int const fd = fileno(file.get());
    std::string const bytes = numbered(3'000'000);
    stream_result const sent = write_all({.fd = fd}, bytes);
    BOOST_TEST(sent.error == 0);
    BOOST_TEST(sent.written == bytes.size());
    std::string back(bytes.size() + 1, '\0');
    BOOST_TEST(pread(fd, back.data(), back.size(), 0) == static_cast<ssize_t>(bytes.size()));
    back.resize(bytes.size());
    BOOST_TEST((back == bytes));
}

BOOST_AUTO_TEST_CASE(nothing_to_write_touches_nothing) {
    stream_result const sent = writer{.fd = -1}(nullptr, 0);
    BOOST_TEST(sent.error == 0);
    BOOST_TEST(sent.written == 0u);
}

BOOST_AUTO_TEST_CASE(a_slow_reader_gets_every_byte_in_order) {
    for (int const kind : {0, 1, 2, 3}) {
        two_ends ends(kind >= 2);
        if (kind % 2 == 1) ends.set_nonblocking();
        std::string const bytes = numbered(1'000'000);
        std::string back;
        std::thread reader([&] { back = ends.take(bytes.size(), 1'000); });
        stream_result const sent = write_all({.fd = ends.write_end(), .patience_ms = 20'000}, bytes);
        if (sent.error != 0) shutdown(ends.write_end(), SHUT_RDWR);
        BOOST_TEST(sent.error == 0);
        BOOST_TEST(sent.written == bytes.size());
        reader.join();
        BOOST_TEST((back == bytes));
    }
}

BOOST_AUTO_TEST_CASE(a_reader_that_stalls_costs_no_more_than_the_patience) {
    for (int const kind : {0, 1, 2, 3}) {
        two_ends ends(kind >= 2);
        if (kind % 2 == 1) ends.set_nonblocking();
        std::string const bytes = numbered(4'000'000);
        stream_result sent;
        double const took = seconds_of([&] { sent = write_all({.fd = ends.write_end(), .patience_ms = 30}, bytes); });
        BOOST_TEST(sent.error == ETIMEDOUT);
        BOOST_TEST(sent.written > 0u);
        BOOST_TEST(sent.written < bytes.size());
        BOOST_TEST(took >= 0.029);
        BOOST_TEST(took < 5.0);
        BOOST_TEST((ends.take(sent.written) == bytes.substr(0, sent.written)));
    }
}

BOOST_AUTO_TEST_CASE(a_report_goes_into_an_empty_pipe_in_one_piece) {
    two_ends ends;
    std::string const bytes = numbered(60'000);
    stream_result const sent = write_all({.fd = ends.write_end(), .patience_ms = 0}, bytes);
    BOOST_TEST(sent.error == 0);
    BOOST_TEST((ends.take(bytes.size()) == bytes));
}

BOOST_AUTO_TEST_CASE(a_broken_pipe_is_an_error_and_no_signal) {
    for (bool const socket : {false, true}) {
        two_ends ends(socket);
        ends.close_reader();
        counting_handler const handler(SIGPIPE);
        stream_result const sent = write_all({.fd = ends.write_end()}, "lost");
        BOOST_TEST(sent.error == EPIPE);
        BOOST_TEST(sent.written == 0u);
        BOOST_TEST(signals_seen == 0);
        BOOST_TEST(!is_pending(SIGPIPE));
        BOOST_TEST(!is_blocked(SIGPIPE));
    }
}

BOOST_AUTO_TEST_CASE(a_pipe_that_breaks_while_it_is_written_is_an_error) {
    two_ends ends;
    counting_handler const handler(SIGPIPE);
    std::thread reader([&] {
        static_cast<void>(ends.take(100'000, 1'000));
        ends.close_reader();
    });
    stream_result const sent = write_all({.fd = ends.write_end(), .patience_ms = 20'000}, numbered(1'000'000));
    reader.join();
    BOOST_TEST(sent.error == EPIPE);
    BOOST_TEST(sent.written >= 100'000u);
    BOOST_TEST(signals_seen == 0);
}

BOOST_AUTO_TEST_CASE(a_sigpipe_of_the_host_that_was_pending_stays_pending) {
    two_ends ends;
    ends.close_reader();
    counting_handler const handler(SIGPIPE);
    set_blocked(SIGPIPE, true);
    raise(SIGPIPE);
    BOOST_TEST(write_all({.fd = ends.write_end()}, "lost").error == EPIPE);
    BOOST_TEST(is_blocked(SIGPIPE));
    BOOST_TEST(is_pending(SIGPIPE));
    BOOST_TEST(signals_seen == 0);
    set_blocked(SIGPIPE, false);
    BOOST_TEST(signals_seen == 1);
}

BOOST_AUTO_TEST_CASE(a_host_that_blocks_sigpipe_finds_none_pending) {
    two_ends ends;
    ends.close_reader();
    set_blocked(SIGPIPE, true);
    BOOST_TEST(write_all({.fd = ends.write_end()}, "lost").error == EPIPE);
    BOOST_TEST(is_blocked(SIGPIPE));
    BOOST_TEST(!is_pending(SIGPIPE));
    set_blocked(SIGPIPE, false);
}

BOOST_AUTO_TEST_CASE(errors_are_values_and_errno_is_kept) {
    int const full = open("/dev/full", O_WRONLY);
    int const closed = dup(full);
    close(closed);
    int const read_only = open("/dev/null", O_RDONLY);
    two_ends stalled;
    two_ends broken;
    broken.close_reader();
    errno = 4711;
    BOOST_TEST(write_all({.fd = full}, "x").error == ENOSPC);
    BOOST_TEST(errno == 4711);
    BOOST_TEST(write_all({.fd = closed}, "x").error == EBADF);
    BOOST_TEST(write_all({.fd = -1}, "x").error == EBADF);
    BOOST_TEST(write_all({.fd = read_only}, "x").error == EBADF);
    BOOST_TEST(write_all({.fd = broken.write_end()}, "x").error == EPIPE);
    BOOST_TEST(write_all({.fd = stalled.write_end(), .patience_ms = 1}, numbered(1'000'000)).error == ETIMEDOUT);
    BOOST_TEST(errno == 4711);
    close(full);
    close(read_only);
}

BOOST_AUTO_TEST_CASE(signals_interrupt_nothing) {
    for (int const kind : {0, 1, 2}) {
        two_ends ends(kind == 2);
        if (kind == 1) ends.set_nonblocking();
        counting_handler const handler(SIGUSR1);
        std::string const bytes = numbered(1'000'000);
        std::string back;
        pthread_t const self = pthread_self();
        std::thread reader([&] {
            std::string piece;
            while (back.size() < bytes.size() && !(piece = ends.take(1, 5'000)).empty()) {
                pthread_kill(self, SIGUSR1);
                back += piece;
            }
        });
        stream_result const sent = write_all({.fd = ends.write_end(), .patience_ms = 20'000}, bytes);
        if (sent.error != 0) close(dup2(open("/dev/null", O_WRONLY), ends.write_end()));
        reader.join();
        BOOST_TEST(sent.error == 0);
        BOOST_TEST((back == bytes));
        BOOST_TEST(signals_seen > 0);
    }
}

BOOST_AUTO_TEST_CASE(signals_do_not_lengthen_the_patience) {
    std::string const bytes = numbered(1'000'000);
    for (int const signals : {5, 6, 200}) { // they end before the patience does, or long after
        two_ends ends;
        counting_handler const handler(SIGUSR1);
        pthread_t const self = pthread_self();
        std::thread sender([&] {
            for (int i = 0; i < signals; ++i) {
                std::this_thread::sleep_for(std::chrono::milliseconds(2));
                pthread_kill(self, SIGUSR1);
            }
        });
        stream_result sent;
        double const took = seconds_of([&] { sent = write_all({.fd = ends.write_end(), .patience_ms = 60}, bytes); });
        sender.join();
        BOOST_TEST(sent.error == ETIMEDOUT);
        BOOST_TEST(took >= 0.059);
        BOOST_TEST(took < 0.35);
    }
}

BOOST_AUTO_TEST_CASE(a_pipe_with_something_in_it_gets_no_more_than_it_takes) {
    two_ends ends;
    BOOST_REQUIRE(write_all({.fd = ends.write_end()}, "before").error == 0);
    stream_result const sent = write_all({.fd = ends.write_end(), .patience_ms = 1}, numbered(65'536));
    BOOST_TEST(sent.error == ETIMEDOUT);
    BOOST_TEST(sent.written >= 65'536u - 2 * 4'096u);
    BOOST_TEST((ends.take(6 + sent.written) == "before" + numbered(65'536).substr(0, sent.written)));
}

BOOST_AUTO_TEST_CASE(the_flags_of_the_descriptor_stay_as_they_are) {
    two_ends ends;
    int const before = fcntl(ends.write_end(), F_GETFL);
    BOOST_TEST(write_all({.fd = ends.write_end()}, "x").error == 0);
    BOOST_TEST(fcntl(ends.write_end(), F_GETFL) == before);
}

BOOST_AUTO_TEST_SUITE_END()
