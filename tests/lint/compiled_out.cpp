// What compiled_out_test.py compiles: with -DMARKED functions with every marker, under THAW_ENABLED=0, and without it the same
// functions, written as by someone who has never heard of thaw. With -DSTATEMENTS_ONLY what holds without optimisation too.
//
// THAW_ALLOCATOR stands where the other writes std::allocator: compilers inline a container's constructor without an allocator
// in another order than that with one.
#include "standard_headers.hpp"

#ifdef MARKED
#define THAW_ENABLED 0
#include <thaw/probe/containers.hpp>
#include <thaw/thaw.hpp>
#define MARKER(...) __VA_ARGS__;
#else
#define MARKER(...)
#endif

int opaque(int);

// ---- markers that are statements ----

int function_of_markers(int x) {
    MARKER(THAW_FUNCTION())
    int sum = opaque(x);
    {
        MARKER(THAW_SCOPE("block"))
        MARKER(THAW_SCOPE("block, once more"))
        sum += opaque(sum);
    }
    for (int i = 0; i < x; ++i) {
        MARKER(THAW_WAIT("wait"))
        sum ^= opaque(i);
    }
    return sum;
}

int handler(int x, std::string_view id) {
    MARKER(THAW_HANDLER("handler", thaw::invocation{.request_id = id}))
    if (x < 0) throw static_cast<int>(id.size());
    MARKER(THAW_SCOPE_CPU("price.total"))
    MARKER(THAW_SCOPE_DYNAMIC(id))
    return opaque(x);
}

template <class T>
T generic(T x) {
    MARKER(THAW_HANDLER("generic"))
    auto const twice = [](T y) {
        MARKER(THAW_SCOPE("lambda"))
        return y + y;
    };
    return twice(x);
}
template long generic(long);

// ---- markers that are objects or expressions ----

#ifndef STATEMENTS_ONLY

int guarded(int x) {
    MARKER(thaw::scope_as<"without a macro"> const guard)
#ifdef MARKED
    return thaw::wait("wait", [&] { return opaque(x); });
#else
    return opaque(x);
#endif
}

int in_callbacks(int x) {
    MARKER(auto handle = THAW_INVOCATION("callbacks", {.request_id = "1"}))
    int sum = 0;
    {
        MARKER(THAW_RESUME(handle))
        sum = opaque(x);
    }
    MARKER(if (sum < 0) handle.fail())
    MARKER(if (sum < 1) thaw::fail())
    MARKER(handle.close())
    return sum;
}

#ifdef MARKED
using numbers_type = thaw::vector<int>;
using text_type = thaw::string;
using counts_type = thaw::map<thaw::string, int>;
using table_type = thaw::unordered_map<int, int>;
#define ALLOCATOR(type, name) THAW_ALLOCATOR(name)
#else
using numbers_type = std::vector<int>;
using text_type = std::string;
using counts_type = std::map<std::string, int>;
using table_type = std::unordered_map<int, int>;
#define ALLOCATOR(type, name) type::allocator_type()
#endif

numbers_type filled(int n) {
    numbers_type numbers{ALLOCATOR(numbers_type, "numbers")};
    for (int i = 0; i < n; ++i) numbers.push_back(opaque(i));
    return numbers;
}

std::size_t joined(int n) {
    text_type text{ALLOCATOR(text_type, "text")};
    for (int i = 0; i < n; ++i) text.push_back(static_cast<char>(opaque(i)));
    return text.find('x');
}

// Types that are the same are so in every signature.
counts_type counted(table_type const& table, text_type const& name) {
    counts_type counts;
    for (auto const& [key, value] : table) counts[name] += key * value;
    return counts;
}

#endif

#ifdef MARKED

struct less : std::less<int> {};
struct hash : std::hash<int> {};
struct equal : std::equal_to<int> {};

template <class A, class B>
concept same = std::is_same_v<A, B>;

static_assert(same<thaw::allocator<int>, std::allocator<int>>);
static_assert(same<thaw::vector<int>, std::vector<int>>);
static_assert(same<thaw::vector<bool>, std::vector<bool>>);
static_assert(same<thaw::deque<int>, std::deque<int>>);
static_assert(same<thaw::list<int>, std::list<int>>);
static_assert(same<thaw::forward_list<int>, std::forward_list<int>>);
static_assert(same<thaw::basic_string<char>, std::string>);
static_assert(same<thaw::string, std::string>);
static_assert(same<thaw::wstring, std::wstring>);
static_assert(same<thaw::u8string, std::u8string>);
static_assert(same<thaw::u16string, std::u16string>);
static_assert(same<thaw::u32string, std::u32string>);
static_assert(same<thaw::set<int>, std::set<int>> && same<thaw::set<int, less>, std::set<int, less>>);
static_assert(same<thaw::multiset<int>, std::multiset<int>> && same<thaw::multiset<int, less>, std::multiset<int, less>>);
static_assert(same<thaw::map<int, long>, std::map<int, long>> && same<thaw::map<int, long, less>, std::map<int, long, less>>);
static_assert(same<thaw::multimap<int, long>, std::multimap<int, long>>);
static_assert(same<thaw::multimap<int, long, less>, std::multimap<int, long, less>>);
static_assert(same<thaw::unordered_set<int>, std::unordered_set<int>>);
static_assert(same<thaw::unordered_set<int, hash, equal>, std::unordered_set<int, hash, equal>>);
static_assert(same<thaw::unordered_multiset<int>, std::unordered_multiset<int>>);
static_assert(same<thaw::unordered_multiset<int, hash, equal>, std::unordered_multiset<int, hash, equal>>);
static_assert(same<thaw::unordered_map<int, long>, std::unordered_map<int, long>>);
static_assert(same<thaw::unordered_map<int, long, hash, equal>, std::unordered_map<int, long, hash, equal>>);
static_assert(same<thaw::unordered_multimap<int, long>, std::unordered_multimap<int, long>>);
static_assert(same<thaw::unordered_multimap<int, long, hash, equal>, std::unordered_multimap<int, long, hash, equal>>);

#endif
