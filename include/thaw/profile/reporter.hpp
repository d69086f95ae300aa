// thaw floor 3 profile: what may be plugged in as a reporter, and how it is kept.
//
// A reporter is anything that can be called with `thaw::profile const&`, or with that and a `thaw::report_deadline`. It is
// called synchronously at the end of an invocation, on the thread that ran it, and never by two threads at once. What it
// throws is contained and counted.
#ifndef THAW_PROFILE_REPORTER_HPP
#define THAW_PROFILE_REPORTER_HPP

#include <thaw/core/config.hpp>
#include <thaw/profile/profile.hpp>

#include <cstdint>
#include <type_traits>
#include <utility>

namespace thaw {

// How long a reporter may take. It is asked to return in time; nothing interrupts it.
struct report_deadline {
    std::uint64_t monotonic_ns = UINT64_MAX;  // on CLOCK_MONOTONIC
    std::uint64_t budget_ns = UINT64_MAX;     // from the call
};

template <class R>
concept reporter = requires(R& r, profile const& p) { r(p); } ||
                   requires(R& r, profile const& p, report_deadline const& d) { r(p, d); };

// A reporter of any type, owned. Thread-compatible.
class any_reporter {
public:
    any_reporter() noexcept = default;

    template <class R>
        requires(!std::is_same_v<std::decay_t<R>, any_reporter> && reporter<std::decay_t<R>>)
    any_reporter(R&& r)  // NOLINT: implicit, as std::function
        : m_object(new std::decay_t<R>(std::forward<R>(r))), m_call(&call<std::decay_t<R>>),
          m_destroy(&destroy<std::decay_t<R>>) {}

    any_reporter(any_reporter&& other) noexcept { swap(other); }
    any_reporter& operator=(any_reporter&& other) noexcept {
        swap(other);
        return *this;
    }
    ~any_reporter() {
        if (m_object != nullptr) m_destroy(m_object);
    }

    [[nodiscard]] explicit operator bool() const noexcept { return m_object != nullptr; }

    // Where its code is: the module that made it must stay loaded.
    [[nodiscard]] void const* code() const noexcept { return reinterpret_cast<void const*>(m_call); }

    // Requires a reporter. Throws what it throws.
    void operator()(profile const& p, report_deadline const& deadline) { m_call(m_object, p, deadline); }

private:
    template <class R>
    static void call(void* object, profile const& p, report_deadline const& deadline) {
        auto& r = *static_cast<R*>(object);
        if constexpr (requires { r(p, deadline); }) r(p, deadline);
        else r(p);
    }
    template <class R>
    static void destroy(void* object) noexcept {
        delete static_cast<R*>(object);
    }
    void swap(any_reporter& other) noexcept {
        auto const exchange = [](auto& a, auto& b) noexcept {  // std::swap costs every unit that includes this more
            auto const was = a;
            a = b;
            b = was;
        };
        exchange(m_object, other.m_object);
        exchange(m_call, other.m_call);
        exchange(m_destroy, other.m_destroy);
    }

    void* m_object = nullptr;
    void (*m_call)(void*, profile const&, report_deadline const&) = nullptr;
    void (*m_destroy)(void*) noexcept = nullptr;
};

}

#endif
