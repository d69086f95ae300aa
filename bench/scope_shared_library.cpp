// A part of scope_bench: a scope in a shared object, which finds its thread's record through a module of its own.
#include "scope_elsewhere.hpp"

#include <thaw/probe.hpp>

void bench::scope_in_shared_library() {
    THAW_SCOPE("bench.shared_library");
    __asm__ volatile("" : : : "memory");
}

void bench::nothing_in_shared_library() { __asm__ volatile("" : : : "memory"); }
