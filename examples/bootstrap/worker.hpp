// bootstrap: the thread that lives across invocations and looks up neighbours. Thread-safe.
#ifndef BOOTSTRAP_WORKER_HPP
#define BOOTSTRAP_WORKER_HPP

#include "words.hpp"

#include <thaw/thaw.hpp>

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace bootstrap {

class worker {
public:
    // The worker and the handler share it, so that a handler that is left by an exception takes nothing away.
    struct job {
        std::vector<std::u32string> words;
        std::vector<neighbours> found; // one for each word
        std::exception_ptr failure;
        bool done = false; // guarded by m_mutex; what the job found may be read once it is true
    };

    // Requires that `known` outlives the worker.
    explicit worker(corpus const& known) : m_corpus(known), m_thread([this] { run(); }) {}

    ~worker() {
        {
            std::lock_guard const lock(m_mutex);
            m_stop = true;
        }
        m_work.notify_one();
        m_thread.join();
    }
    worker(worker const&) = delete;
    worker& operator=(worker const&) = delete;

    [[nodiscard]] std::shared_ptr<job> submit(std::vector<std::u32string> words) {
        auto j = std::make_shared<job>();
        j->words = std::move(words);
        {
            std::lock_guard const lock(m_mutex);
            m_queue.push_back(j);
        }
        m_work.notify_one();
        return j;
    }

    // Blocks until the job is done. Throws what its work threw.
    void wait_for(job const& j) {
        {
            THAW_WAIT("worker.answer");
            std::unique_lock lock(m_mutex);
            m_answer.wait(lock, [&j] { return j.done; });
        }
        if (j.failure) std::rethrow_exception(j.failure);
    }

private:
    // Null once the worker is to stop.
    std::shared_ptr<job> next_job() {
        THAW_WAIT("worker.idle");
        std::unique_lock lock(m_mutex);
        m_work.wait(lock, [this] { return m_stop || !m_queue.empty(); });
        if (m_stop) return nullptr;
        auto j = std::move(m_queue.front());
        m_queue.pop_front();
        return j;
    }

    void run() {
        while (auto const j = next_job()) {
            try {
                THAW_SCOPE("worker.score");
                j->found.reserve(j->words.size());
                for (auto const& w : j->words) {
                    THAW_SCOPE("nearest");
                    j->found.push_back(m_corpus.nearest(w));
                }
            } catch (...) {
                j->failure = std::current_exception();
            }
            {
                std::lock_guard const lock(m_mutex);
                j->done = true;
            }
            m_answer.notify_all();
        }
    }

    corpus const& m_corpus;
    std::mutex m_mutex;
    std::condition_variable m_work, m_answer;
    std::deque<std::shared_ptr<job>> m_queue;
    bool m_stop = false;
    std::thread m_thread; // last: it uses all of the above
};

}

#endif
