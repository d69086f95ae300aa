// Runs a scenario in a forked child. thaw is state of a process, so that whatever calls thaw::start does it there; the process
// of the tests itself never starts it. In the child EXPECT and EXPECT_EQUAL take the place of Boost's macros: what they find
// wrong goes through a pipe to the parent at once, so that it outlives a crash, and the parent reports it as one failure.
//
//   BOOST_AUTO_TEST_CASE(two_and_two_are_four) {
//       IN_CHILD { EXPECT_EQUAL(2 + 2, 4); };
//   }
#ifndef THAW_TESTS_IN_CHILD_HPP
#define THAW_TESTS_IN_CHILD_HPP

#include <boost/test/unit_test.hpp>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <optional>
#include <poll.h>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <type_traits>
#include <unistd.h>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#define THAW_TEST_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define THAW_TEST_TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(THAW_TEST_ASAN)
#define THAW_TEST_ASAN 1
#endif
#if __has_feature(thread_sanitizer) && !defined(THAW_TEST_TSAN)
#define THAW_TEST_TSAN 1
#endif
#endif
#ifndef THAW_TEST_ASAN
#define THAW_TEST_ASAN 0
#endif
#ifndef THAW_TEST_TSAN
#define THAW_TEST_TSAN 0
#endif

namespace thaw::testing {

inline int child_pipe = -1;  // in a child: where what is wrong is written
inline int child_failures = 0;

// A sanitizer or an emulator makes everything slower; time limits are for what hangs.
inline constexpr int default_limit_s = 60;

inline void write_all(int to, std::string_view text) noexcept {
    while (!text.empty()) {
        ssize_t const n = ::write(to, text.data(), text.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        text.remove_prefix(static_cast<std::size_t>(n));
    }
}

inline void fail_in_child(char const* file, int line, std::string const& what) {
    int const saved = errno;
    char const* const base = std::strrchr(file, '/');
    std::string const message = std::string(base == nullptr ? file : base + 1) + ":" + std::to_string(line) + ": " + what + "\n";
    __atomic_fetch_add(&child_failures, 1, __ATOMIC_RELAXED);
    write_all(child_pipe, message);
    errno = saved;
}

template <class T>
void show(std::ostream& out, T const& value) {
    if constexpr (std::is_enum_v<T>) out << static_cast<long long>(value);
    else if constexpr (requires { out << value; }) out << value;
    else out << "(not printable)";
}

template <class A, class B>
void expect_equal(A const& a, B const& b, char const* what, char const* file, int line) {
    bool equal = false;
    if constexpr (std::is_integral_v<A> && std::is_integral_v<B> && !std::is_same_v<A, bool> && !std::is_same_v<B, bool>)
        equal = std::cmp_equal(a, b);
    else equal = a == b;
    if (equal) return;
    std::ostringstream out;
    out << what << "  [";
    show(out, a), out << " != ", show(out, b), out << "]";
    fail_in_child(file, line, out.str());
}

#define EXPECT(...) \
    (static_cast<bool>(__VA_ARGS__) ? void() : ::thaw::testing::fail_in_child(__FILE__, __LINE__, #__VA_ARGS__))
#define EXPECT_EQUAL(a, ...) ::thaw::testing::expect_equal(a, __VA_ARGS__, #a " == " #__VA_ARGS__, __FILE__, __LINE__)

struct child_result {
    bool timed_out = false;
    int exit_code = -1;  // -1: ended by a signal
    int signal = 0;
    std::string said;

    [[nodiscard]] bool ok() const { return !timed_out && exit_code == 0 && said.empty(); }
    [[nodiscard]] std::string text() const {
        if (timed_out) return said + "the child hangs and was killed";
        if (signal != 0) return said + "the child was ended by signal " + std::to_string(signal);
        return said + "the child ended with " + std::to_string(exit_code);
    }
};

// Waits for `pid`, which holds the only other writing end of `from`, for at most `limit_s` seconds.
inline child_result wait_for_child(pid_t pid, int from, int limit_s) {
    child_result r;
    auto const end = std::chrono::steady_clock::now() + std::chrono::seconds(limit_s);
    auto left_ms = [&] {
        auto const left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
        return left < 0 ? 0 : static_cast<int>(left);
    };
    int status = 0;
    bool open = true, running = true;
    while (running) {
        if (left_ms() == 0) {
            r.timed_out = true;
            ::kill(pid, SIGKILL);
        }
        // The pipe closes when the child ends, unless a grandchild holds it: so the child is asked for as well.
        pollfd p{from, POLLIN, 0};
        if (open && ::poll(&p, 1, 20) > 0) {
            char buffer[4096];
            ssize_t const n = ::read(from, buffer, sizeof buffer);
            if (n > 0) r.said.append(buffer, static_cast<std::size_t>(n));
            else if (n == 0) open = false;
            if (n > 0) continue;
        } else if (!open) ::usleep(1000);
        running = ::waitpid(pid, &status, r.timed_out ? 0 : WNOHANG) != pid;
    }
    while (open) {  // what was written last
        pollfd p{from, POLLIN, 0};
        if (::poll(&p, 1, 0) <= 0) break;
        char buffer[4096];
        ssize_t const n = ::read(from, buffer, sizeof buffer);
        if (n <= 0) break;
        r.said.append(buffer, static_cast<std::size_t>(n));
    }
    if (WIFEXITED(status)) r.exit_code = WEXITSTATUS(status);
    else r.signal = WTERMSIG(status);
    return r;
}

// Runs f() in a child and returns how it ended. The child leaves by _exit, or by exit where `with_exit`: then the process's
// static objects are destroyed.
template <class F>
child_result run_in_child(F&& f, int limit_s = default_limit_s, bool with_exit = false) {
    int ends[2];
    BOOST_REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    std::fflush(nullptr);
    pid_t const pid = ::fork();
    BOOST_REQUIRE(pid >= 0);
    if (pid == 0) {
        ::close(ends[0]);
        child_pipe = ends[1];
        // Boost's handlers would take a crash for a failed test of the child's copy of the runner.
        for (int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM}) std::signal(s, SIG_DFL);
        // Names that the environment of the tests may happen to have.
        for (char const* name : {"THAW_APP", "THAW_VERSION", "THAW_ENVIRONMENT", "THAW_DISABLE", "THAW_TIMING", "THAW_CPU_TIME", "THAW_CPU", "THAW_STACKS",
                                 "THAW_REPORT", "THAW_REPORT_EVERY_MS", "THAW_REPORT_BUDGET_MS", "THAW_MEMORY_LIMIT_BYTES",
                                 "AWS_LAMBDA_FUNCTION_NAME"})
            ::unsetenv(name);
        try {
            f();
        } catch (std::exception const& e) {
            fail_in_child(__FILE__, __LINE__, std::string("an exception escaped: ") + e.what());
        } catch (...) {
            fail_in_child(__FILE__, __LINE__, "an exception escaped");
        }
        if (with_exit) std::exit(child_failures != 0);
        std::fflush(nullptr);
        ::_exit(child_failures != 0);
    }
    ::close(ends[1]);
    child_result r = wait_for_child(pid, ends[0], limit_s);
    ::close(ends[0]);
    return r;
}

struct in_child {
    int limit_s = default_limit_s;

    template <class F>
    void operator=(F&& f) const {  // NOLINT: reads as a block
        child_result const r = run_in_child(std::forward<F>(f), limit_s);
        BOOST_CHECK_MESSAGE(r.ok(), r.text());
    }
};

#define IN_CHILD ::thaw::testing::in_child{} = [&]()

// Where the child's fd 2 goes while it lives: a file that is read at the end.
class stderr_capture {
public:
    stderr_capture() : m_file(std::tmpfile()), m_before(::dup(2)) { ::dup2(::fileno(m_file), 2); }
    ~stderr_capture() { take(); }
    stderr_capture(stderr_capture const&) = delete;
    stderr_capture& operator=(stderr_capture const&) = delete;

    // What was written so far; fd 2 is the old one again.
    std::string take() {
        if (m_file == nullptr) return {};
        ::dup2(m_before, 2);
        ::close(m_before);
        std::string text;
        char buffer[4096];
        ::lseek(::fileno(m_file), 0, SEEK_SET);
        for (ssize_t n = 0; (n = ::read(::fileno(m_file), buffer, sizeof buffer)) > 0;)
            text.append(buffer, static_cast<std::size_t>(n));
        std::fclose(m_file);
        m_file = nullptr;
        return text;
    }

private:
    std::FILE* m_file;
    int m_before;
};

}

#endif
