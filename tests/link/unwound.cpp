// Takes its own stack in a signal handler, below functions of its own and, where an argument names it, of a shared object that is
// loaded for that, and holds it against libgcc's. Ends with 0 if they are alike and complete.
#include <thaw/sampler/unwind.hpp>

#include <cstdint>
#include <cstdio>

#include <signal.h>
#include <ucontext.h>
#include <unwind.h>
#ifndef UNWOUND_ALONE
#include <dlfcn.h>
#endif

namespace sampler = thaw::sampler;

namespace {

sampler::unwinder unwinder;
sampler::stack_bounds bounds;
int compared, failures;
int volatile depth = 3;

struct frames {
    std::uintptr_t at[100];
    unsigned count;
};

void compare(int, siginfo_t*, void* context) {
    static frames ours, theirs;
    ours = theirs = {};
    auto const result = unwinder.unwind(*static_cast<ucontext_t const*>(context), ours.at, 100, bounds);
    ours.count = result.count;
    ::_Unwind_Backtrace(
        [](_Unwind_Context* c, void* out) {
            auto& f = *static_cast<frames*>(out);
            int before = 0;
            std::uintptr_t const ip = ::_Unwind_GetIPInfo(c, &before);
            if (before != 0) f.count = 0;  // the interrupted function comes first
            if (ip != 0 && f.count < 100) f.at[f.count++] = ip - (before != 0 ? 0 : 1);
            return _URC_NO_REASON;
        },
        &theirs);
    ++compared;
    bool same = result.end == sampler::unwind_end::complete && ours.count == theirs.count && ours.count > 4;
    for (unsigned i = 0; same && i < ours.count; ++i) same = ours.at[i] == theirs.at[i];
    if (same) return;
    ++failures;
    std::printf("ended by %u\n", static_cast<unsigned>(result.end));
    for (unsigned i = 0; i < ours.count || i < theirs.count; ++i)
        std::printf("%#zx %#zx\n", static_cast<std::size_t>(ours.at[i]), static_cast<std::size_t>(theirs.at[i]));
}

[[gnu::noinline]] int descend(int n) {
    int volatile words[20] = {};
    words[n] = n == 0 ? ::raise(SIGUSR1) : descend(n - 1);
    return words[n] + 1;
}

}

int main(int argc, char** argv) {
    struct sigaction action {};
    action.sa_sigaction = compare;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGUSR1, &action, nullptr);
    bounds = sampler::current_thread_stack();
    if (!unwinder.modules.renew_if_changed()) return 2;
    descend(depth);
    int expected = 1;
#ifndef UNWOUND_ALONE
    if (argc > 1) {
        void* const object = ::dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (object == nullptr) return 3;
        auto const call_back = reinterpret_cast<int (*)(int (*)(int), int)>(::dlsym(object, "unwound_call_back"));
        if (call_back == nullptr || !unwinder.modules.renew_if_changed()) return 4;
        call_back(descend, depth);
        ::dlclose(object);
        unwinder.modules.renew_if_changed();
        descend(depth);
        expected = 3;
    }
#else
    (void)argc;
    (void)argv;
#endif
    return failures == 0 && compared == expected ? 0 : 1;
}
