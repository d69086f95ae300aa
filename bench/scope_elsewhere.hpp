// What scope_bench measures in other translation units.
#ifndef THAW_BENCH_SCOPE_ELSEWHERE_HPP
#define THAW_BENCH_SCOPE_ELSEWHERE_HPP

namespace benchmark {
class State;
}

namespace bench {

// In a unit that is compiled with THAW_ENABLED=0.
void scope_compiled_out(benchmark::State& state);

// In a shared object with headers of its own.
[[gnu::visibility("default")]] void scope_in_shared_library();
[[gnu::visibility("default")]] void nothing_in_shared_library();

}

#endif
