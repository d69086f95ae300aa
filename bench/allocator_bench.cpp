// What counting adds to an allocator. The baseline is an allocator that only forwards: with libstdc++ no custom allocator is
// as fast as std::allocator where a vector grows, because only for std::allocator are its elements moved by memmove.
//
// A figure of BM_vector is the time of one push_back, of BM_pair that of an allocation of 64 bytes and its free.

#include "bench.hpp"

#include <cstddef>
#include <memory>
#include <new>
#include <vector>

namespace {

template <class T>
struct passthrough {
    using value_type = T;

    passthrough() = default;
    template <class U>
    passthrough(passthrough<U> const&) noexcept {}

    [[nodiscard]] T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T))); }
    void deallocate(T* p, std::size_t n) noexcept {
#if defined(__cpp_sized_deallocation)
        ::operator delete(p, n * sizeof(T));
#else
        static_cast<void>(n);
        ::operator delete(p);
#endif
    }
    friend bool operator==(passthrough const&, passthrough const&) noexcept { return true; }
};

template <class T>
struct standard {
    static std::allocator<T> make() { return {}; }
};
template <class T>
struct forwarding {
    static passthrough<T> make() { return {}; }
};
template <class T>
struct counted {
    static thaw::allocator<T> make() { return THAW_ALLOCATOR("bench.counted"); }
};

template <template <class> class Kind, int Size, bool Reserved>
void fill(benchmark::State& state) {
    THAW_HANDLER("bench.vector");
    for (auto _ : state) {
        std::vector<int, decltype(Kind<int>::make())> v(Kind<int>::make());
        if constexpr (Reserved) v.reserve(Size);
        for (int i = 0; i < Size; ++i) v.push_back(i);
        benchmark::DoNotOptimize(v.data());
        bench::fence();
    }
    state.SetItemsProcessed(state.iterations() * Size);
}

struct block {
    char bytes[64];
};

template <template <class> class Kind>
void pair(benchmark::State& state) {
    THAW_HANDLER("bench.pair");
    auto allocator = Kind<block>::make();
    for (auto _ : state) {
        block* p = allocator.allocate(1);
        benchmark::DoNotOptimize(p);
        allocator.deallocate(p, 1);
        bench::fence();
    }
}

constexpr bench::entry entries[] = {
    {nullptr, "BM_baseline_two_clock_reads", bench::two_clock_reads},

    {nullptr, "BM_vector_std/reserved/100", fill<standard, 100, true>},
    {nullptr, "BM_vector_std/reserved/10000", fill<standard, 10000, true>},
    {nullptr, "BM_vector_std/growing/100", fill<standard, 100, false>},
    {nullptr, "BM_vector_std/growing/10000", fill<standard, 10000, false>},
    {nullptr, "BM_pair_std", pair<standard>},

    {nullptr, "BM_vector_passthrough/reserved/100", fill<forwarding, 100, true>},
    {nullptr, "BM_vector_passthrough/reserved/10000", fill<forwarding, 10000, true>},
    {nullptr, "BM_vector_passthrough/growing/100", fill<forwarding, 100, false>},
    {nullptr, "BM_vector_passthrough/growing/10000", fill<forwarding, 10000, false>},
    {nullptr, "BM_pair_passthrough", pair<forwarding>},

    {nullptr, "BM_vector_counted/reserved/100", fill<counted, 100, true>},
    {nullptr, "BM_vector_counted/reserved/10000", fill<counted, 10000, true>},
    {nullptr, "BM_vector_counted/growing/100", fill<counted, 100, false>},
    {nullptr, "BM_vector_counted/growing/10000", fill<counted, 10000, false>},
    {nullptr, "BM_pair_counted", pair<counted>},
};

}

int main(int argc, char** argv) {
    return bench::run(argc, argv, entries, [](char const*) { bench::start({}); });
}
