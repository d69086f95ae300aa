// thaw floor 1 sink: writes bytes to a file descriptor, whole or not at all as far as the descriptor allows, and in bounded
// time.
//
// The host does not notice: errno is kept, SIGPIPE does not reach it, the descriptor's flags stay as they are. A reader that
// stalls costs at most `patience_ms`. Thread-safe; allocates nothing; throws nothing. Of writers of one pipe only pieces of
// up to 4096 bytes stay apart: who shares a pipe between threads holds a lock.
//
//   auto const sent = thaw::sink::stream{}(bytes.data(), bytes.size());   // to standard error
//   if (sent.error != 0) count_failure(sent.error, sent.written);
#ifndef THAW_SINK_STREAM_HPP
#define THAW_SINK_STREAM_HPP

#include <thaw/core/config.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <ctime>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace thaw::sink {

struct stream_result {
    std::size_t written = 0; // bytes the descriptor took
    int error = 0;           // an errno number; 0: everything was written. ETIMEDOUT: the reader took no more in time
};

namespace detail {

// Keeps the SIGPIPE of a write of this thread from the host.
// Effects: blocks SIGPIPE for the thread. Throws: nothing.
// Post (destructor): the thread's mask and errno are as before. Where pipe_is_broken was set, the SIGPIPE that came with
// EPIPE is gone, unless one was pending already: signals do not queue, so that this one then is the host's.
class sigpipe_guard {
public:
    sigpipe_guard() noexcept : m_errno(errno) {
        sigset_t pending;
        sigemptyset(&pending);
        sigpending(&pending);
        m_was_pending = sigismember(&pending, SIGPIPE) == 1;
        sigemptyset(&m_sigpipe);
        sigaddset(&m_sigpipe, SIGPIPE);
        m_blocked = pthread_sigmask(SIG_BLOCK, &m_sigpipe, &m_mask) == 0;
    }
    sigpipe_guard(sigpipe_guard const&) = delete;
    sigpipe_guard& operator=(sigpipe_guard const&) = delete;
    ~sigpipe_guard() {
        if (m_blocked) {
            timespec const at_once = {};
            if (pipe_is_broken && !m_was_pending)
                while (sigtimedwait(&m_sigpipe, nullptr, &at_once) < 0 && errno == EINTR) {}
            pthread_sigmask(SIG_SETMASK, &m_mask, nullptr);
        }
        errno = m_errno;
    }

    bool pipe_is_broken = false;

private:
    int m_errno;
    bool m_was_pending = false;
    bool m_blocked = false;
    sigset_t m_sigpipe;
    sigset_t m_mask;
};

[[nodiscard]] inline std::int64_t monotonic_ms() noexcept {
    timespec now = {};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

}

struct stream {
    int fd = 2;           // not owned: never closed
    int patience_ms = 50; // how long one call waits for a reader, all waits together; 0: not at all

    // Effects: writes all of [data, data + size), going on after a short write or a signal.
    // Throws: nothing. Post: errno and the thread's signal mask are as before.
    // A blocking pipe, terminal or socket is asked first and then given no more than it takes at once, so that patience_ms
    // holds for it too, unless another writer fills it in between. A regular file is written to without a limit.
    stream_result operator()(void const* data, std::size_t size) const noexcept {
        stream_result result;
        if (size == 0) return result;
        detail::sigpipe_guard guard;
        std::int64_t const deadline = detail::monotonic_ms() + (patience_ms > 0 ? patience_ms : 0);
        struct stat status = {};
        mode_t const type = fstat(fd, &status) == 0 ? status.st_mode & S_IFMT : 0;
        bool const may_block = type == S_IFIFO || type == S_IFCHR;
        auto const* bytes = static_cast<char const*>(data);
        while (result.written < size) {
            if (may_block && !wait_for_room(deadline)) {
                result.error = ETIMEDOUT;
                break;
            }
            std::size_t const wanted = may_block ? at_most_room(size - result.written) : size - result.written;
            ssize_t const n = type == S_IFSOCK ? send(fd, bytes + result.written, wanted, MSG_DONTWAIT | MSG_NOSIGNAL)
                                               : write(fd, bytes + result.written, wanted);
            if (n > 0) {
                result.written += static_cast<std::size_t>(n);
            } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
                if (!wait_for_room(deadline)) {
                    result.error = ETIMEDOUT;
                    break;
                }
            } else if (n == 0 || errno != EINTR) {
                result.error = n == 0 ? EIO : errno;
                guard.pipe_is_broken = result.error == EPIPE;
                break;
            }
        }
        return result;
    }

private:
    // True where a write can make progress or fail at once; false when the deadline has passed.
    [[nodiscard]] bool wait_for_room(std::int64_t deadline) const noexcept {
        for (;;) {
            std::int64_t const left = deadline - detail::monotonic_ms();
            pollfd asked = {.fd = fd, .events = POLLOUT, .revents = 0};
            int const ready = poll(&asked, 1, left > 0 ? static_cast<int>(left) : 0);
            if (ready > 0 || (ready < 0 && errno != EINTR)) return true;
            if (left <= 0) return false;
        }
    }

    // No more than a pipe that polled writable takes without blocking: its capacity where it is empty, else one page.
    [[nodiscard]] std::size_t at_most_room(std::size_t wanted) const noexcept {
        std::size_t room = 4096;
        int unread = 0;
        int const capacity = fcntl(fd, F_GETPIPE_SZ);
        if (capacity > 0 && ioctl(fd, FIONREAD, &unread) == 0 && unread == 0) room = static_cast<std::size_t>(capacity);
        return wanted < room ? wanted : room;
    }
};

}

#endif
