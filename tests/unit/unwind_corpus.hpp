// Functions of many shapes, to be unwound from at any of their instructions, and the same stack as libgcc's unwinder sees it.
#ifndef THAW_TESTS_UNIT_UNWIND_CORPUS_HPP
#define THAW_TESTS_UNIT_UNWIND_CORPUS_HPP

#include <algorithm>
#include <array>
#include <coroutine>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <alloca.h>
#include <csetjmp>
#include <time.h>
#include <ucontext.h>
#include <unwind.h>

namespace thaw::testing {

inline constexpr std::uint32_t most_frames = 400;

// The addresses to look up, innermost first.
struct stack {
    std::array<std::uintptr_t, most_frames> frames;
    std::uint32_t count = 0;

    friend bool operator==(stack const& a, stack const& b) {
        return a.count == b.count && std::equal(a.frames.begin(), a.frames.begin() + a.count, b.frames.begin());
    }
    std::string text() const {
        std::string s;
        char word[32];
        for (std::uint32_t i = 0; i < count; ++i) {
            std::snprintf(word, sizeof word, "%s%#zx", i == 0 ? "" : " ", static_cast<std::size_t>(frames[i]));
            s += word;
        }
        return s;
    }
};

// What libgcc's unwinder finds, of which `first_pc` is the first frame if it is not 0. Empty if it is not among them.
// Whoever calls it from a signal handler has called it before.
[[gnu::noinline]] inline stack stack_of_libgcc(std::uintptr_t first_pc) {
    struct walk {
        stack found;
        bool exact[most_frames];
    } w;
    w.found.count = 0;
    ::_Unwind_Backtrace(
        [](_Unwind_Context* context, void* opaque) {
            auto& in = *static_cast<walk*>(opaque);
            int before = 0;
            std::uintptr_t const ip = ::_Unwind_GetIPInfo(context, &before);
            if (ip == 0) return _URC_NO_REASON;
            if (in.found.count == most_frames) return _URC_END_OF_STACK;
            in.exact[in.found.count] = before != 0;
            in.found.frames[in.found.count++] = ip;
            return _URC_NO_REASON;
        },
        &w);
    stack result;
    bool from_here = first_pc == 0;
    for (std::uint32_t i = 0; i < w.found.count; ++i) {
        bool const exact = w.exact[i] || (i + 1 < w.found.count && w.exact[i + 1]);  // interrupted, or the trampoline below
        if (!from_here) from_here = w.exact[i] && w.found.frames[i] == first_pc;
        if (from_here) result.frames[result.count++] = w.found.frames[i] - (exact ? 0 : 1);
    }
    return result;
}

// A visit is made at the innermost point of each function below; what it does is up to the test.
using visitor = void (*)();
inline visitor visit = [] {};
inline std::uint64_t volatile sink = 0;

#define THAW_TESTS_NOINLINE [[gnu::noinline]]

THAW_TESTS_NOINLINE inline std::uint64_t leaf(std::uint64_t x) { return (x ^ x >> 7) * 0x9E3779B97F4A7C15u; }

THAW_TESTS_NOINLINE inline std::uint64_t leaf_with_red_zone(std::uint64_t x) {
    std::uint64_t volatile words[8];
    for (unsigned i = 0; i < 8; ++i) words[i] = x + i;
    std::uint64_t sum = 0;
    for (unsigned i = 0; i < 8; ++i) sum += words[i] ^ i;
    return sum;
}

THAW_TESTS_NOINLINE inline std::uint64_t plain(std::uint64_t x) {
    visit();
    return leaf(x) + leaf_with_red_zone(x + 1);
}

THAW_TESTS_NOINLINE inline std::uint64_t with_alloca(std::uint64_t n) {
    auto* const p = static_cast<std::uint64_t volatile*>(alloca((n % 64 + 2) * sizeof(std::uint64_t)));
    for (unsigned i = 0; i < n % 64; ++i) p[i] = i;
    p[0] = plain(n);
    return p[0] + p[n % 64 / 2];
}

THAW_TESTS_NOINLINE inline std::uint64_t with_large_frame(std::uint64_t n) {
    std::uint64_t volatile words[9000];
    words[0] = n;
    words[8999] = plain(n);
    return words[0] + words[8999];
}

THAW_TESTS_NOINLINE inline std::uint64_t with_middle_frame(std::uint64_t n) {
    std::uint64_t volatile words[300];
    words[0] = n;
    words[299] = plain(n);
    return words[0] + words[299];
}

// The stack is realigned, so that CFA is found through a saved register.
THAW_TESTS_NOINLINE inline std::uint64_t with_aligned_frame(std::uint64_t n) {
    alignas(128) std::uint64_t volatile words[16];
    words[n % 16] = n;
    words[(n + 1) % 16] = plain(n);
    return words[n % 16] + words[(n + 1) % 16];
}

THAW_TESTS_NOINLINE inline std::uint64_t with_aligned_frame_and_alloca(std::uint64_t n) {
    alignas(64) std::uint64_t volatile words[16];
    auto* const p = static_cast<std::uint64_t volatile*>(alloca((n % 32 + 1) * sizeof(std::uint64_t)));
    p[n % 32] = n;
    words[n % 16] = with_alloca(n);
    return words[n % 16] + p[n % 32];
}

THAW_TESTS_NOINLINE inline std::uint64_t with_many_registers(std::uint64_t a, std::uint64_t b, std::uint64_t c, std::uint64_t d, std::uint64_t e,
                                                             std::uint64_t f, std::uint64_t g, std::uint64_t h) {
    std::uint64_t const x = plain(a), y = plain(b), z = plain(c);
    return x * a + y * b + z * c + d + e * f + g * h;
}

THAW_TESTS_NOINLINE inline std::uint64_t with_variable_arguments(int count, ...) {
    va_list list;
    va_start(list, count);
    std::uint64_t sum = 0;
    for (int i = 0; i < count; ++i) sum += va_arg(list, std::uint64_t);
    va_end(list);
    return plain(sum);
}

THAW_TESTS_NOINLINE inline std::uint64_t with_early_exits(std::uint64_t n) {
    if (n % 3 == 0) return leaf(n);
    std::uint64_t const x = plain(n);
    if (x % 2 == 0) return with_alloca(x);
    std::uint64_t const y = plain(x + n);
    if (y % 5 == 0) return x;
    return x + y + with_middle_frame(x ^ y);
}

THAW_TESTS_NOINLINE inline std::uint64_t recursive(unsigned depth) {
    if (depth == 0) return plain(1);
    std::uint64_t const below = recursive(depth - 1);
    sink = sink + below;
    return below * 3 + 1;
}

[[noreturn]] THAW_TESTS_NOINLINE inline void throws(std::uint64_t n) {
    visit();
    throw std::runtime_error(std::string(n % 3 + 40, 'x'));
}

struct cleanup {
    std::uint64_t n;
    ~cleanup() { sink = sink + plain(n); }
};

THAW_TESTS_NOINLINE inline std::uint64_t noreturn_tail(std::uint64_t n) {
    cleanup const c{n};
    if (n % 2 == 0) throws(n);
    return with_alloca(n);
}

THAW_TESTS_NOINLINE inline std::uint64_t with_exceptions(std::uint64_t n) {
    std::uint64_t sum = 0;
    for (std::uint64_t i = n; i < n + 2; ++i) {
        try {
            sum += noreturn_tail(i);
        } catch (std::runtime_error const& e) {
            sum += std::strlen(e.what());
            visit();
        }
    }
    return sum;
}

struct generator {
    struct promise_type {
        std::uint64_t value = 0;
        generator get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_always initial_suspend() { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        std::suspend_always yield_value(std::uint64_t v) {
            value = v;
            return {};
        }
        void return_void() {}
        void unhandled_exception() { std::terminate(); }
    };
    std::coroutine_handle<promise_type> handle;
};

inline generator numbers(std::uint64_t n) {
    for (std::uint64_t i = 0; i < n; ++i) co_yield plain(i);
}

THAW_TESTS_NOINLINE inline std::uint64_t with_coroutine(std::uint64_t n) {
    generator g = numbers(n);
    std::uint64_t sum = 0;
    for (g.handle.resume(); !g.handle.done(); g.handle.resume()) sum += g.handle.promise().value;
    g.handle.destroy();
    return sum;
}

inline int compare(void const* a, void const* b) {
    sink = sink + plain(3);
    auto const x = *static_cast<unsigned char const*>(a), y = *static_cast<unsigned char const*>(b);
    return (x > y) - (x < y);
}

THAW_TESTS_NOINLINE inline std::uint64_t within_libc(std::uint64_t n) {
    unsigned char bytes[] = {3, 1, 2, 9};
    std::qsort(bytes, sizeof bytes, 1, compare);
    char text[64];
    std::snprintf(text, sizeof text, "%llu %g %s", static_cast<unsigned long long>(n), 1.5, "text");
    std::jmp_buf place;
    if (setjmp(place) == 0) std::longjmp(place, 1);
    std::free(std::malloc(n % 1000 + 100'000));
    return std::strlen(text) + bytes[0] + std::strtoull(text, nullptr, 10);
}

THAW_TESTS_NOINLINE inline std::uint64_t within_libstdcxx(std::uint64_t n) {
    std::map<std::string, std::uint64_t> map;
    for (std::uint64_t i = 0; i < 3; ++i) map["a rather long key " + std::to_string(n + i)] = plain(i);
    std::function<std::uint64_t(std::uint64_t)> const f = [&map](std::uint64_t k) { return plain(k) + map.size(); };
    std::vector<std::uint64_t> v{5, 2, 4, n};
    std::sort(v.begin(), v.end(), [](std::uint64_t a, std::uint64_t b) { return leaf(a) < leaf(b); });
    return f(n) + v[0] + map.begin()->second;
}

struct base_one {
    virtual ~base_one() = default;
    virtual std::uint64_t one() = 0;
};
struct base_two {
    virtual ~base_two() = default;
    virtual std::uint64_t two(std::uint64_t n) = 0;
};
struct both final : base_one, base_two {
    std::uint64_t one() override { return plain(1); }
    std::uint64_t two(std::uint64_t n) override { return with_alloca(n); }
};

THAW_TESTS_NOINLINE inline std::uint64_t through_thunk(base_two& b, std::uint64_t n) { return b.two(n) + 1; }

THAW_TESTS_NOINLINE inline std::uint64_t within_vdso() {
    timespec t{};
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<std::uint64_t>(t.tv_nsec);
}

// All of them but those that throw.
THAW_TESTS_NOINLINE inline std::uint64_t corpus_without_exceptions(std::uint64_t n) {
    std::uint64_t sum = plain(n) + with_alloca(n) + with_large_frame(n) + with_middle_frame(n) + with_aligned_frame(n) +
                        with_aligned_frame_and_alloca(n) + with_many_registers(n, 2, 3, 4, 5, 6, 7, 8) +
                        with_variable_arguments(3, n, n, n) + with_early_exits(n) + with_early_exits(n + 1) + recursive(20) +
                        with_coroutine(2);
    both b;
    sum += through_thunk(b, n) + within_vdso();
    sum += within_libc(n) + within_libstdcxx(n);
    sink = sink + sum;
    return sum;
}

THAW_TESTS_NOINLINE inline std::uint64_t corpus(std::uint64_t n) { return corpus_without_exceptions(n) + with_exceptions(n); }

}

#endif
