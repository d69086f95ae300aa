// An executable that carries the headers and works with shared objects that do; see shared_objects_test.py.
//   modules linked                    with module.cpp linked as a shared object
//   modules before|after|reload|starts|first_call MODULE...    with modules that are loaded
#include "profiled.hpp"

#include <cstdint>
#include <cstdlib>
#include <dlfcn.h>
#include <string>
#include <thread>

namespace {

struct module {
    void* handle = nullptr;
    int (*work)(int (*)()) = nullptr;
    void (*handler)() = nullptr;
    void (*keep)(bool) = nullptr;
    bool (*start)(void (*)(thaw::profile const&)) = nullptr;
    void (*stop)() = nullptr;
    void const* (*process)() = nullptr;
    void (*fail)() = nullptr;
    void (*wait)() = nullptr;

    explicit module(char const* path) {
        handle = path == nullptr ? RTLD_DEFAULT : ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (path != nullptr && handle == nullptr) {
            std::printf("%s\n", ::dlerror());
            std::exit(1);
        }
        find(work, "module_work"), find(handler, "module_handler"), find(keep, "module_keep");
        find(start, "module_start"), find(stop, "module_stop"), find(process, "module_process");
        find(fail, "module_fail"), find(wait, "module_wait");
    }
    template <class F>
    void find(F& f, char const* name) {
        f = reinterpret_cast<F>(::dlsym(handle, name));
        if (f == nullptr) std::printf("no %s\n", name), std::exit(1);
    }
};

int from_module() {
    THAW_SCOPE("back.in.executable");
    return 7;
}

void invoke(module const& m) {
    THAW_HANDLER("h");
    THAW_SCOPE("in.executable");
    EXPECT(m.work(&from_module) == 7);
    m.handler();  // nested: a scope of this invocation
}

char const* const below_work = "h/in.executable/in.module/dynamic.in.module";

std::string below(char const* name) { return std::string(below_work) + "/" + name; }

void expect_one_tree(std::uint64_t calls) {
    EXPECT(node_at("h").calls == calls);
    EXPECT(node_at("h/in.executable/in.module").calls == calls);
    EXPECT(node_at("h/in.executable/in.module").timed == calls);
    EXPECT(node_at(below_work).calls == calls);
    EXPECT(node_at(below("wait.in.module").c_str()).timed == calls);
    EXPECT(node_at(below("back.in.executable").c_str()).calls == calls);
    EXPECT(node_at("h/in.executable/module.handler/in.module.handler").calls == calls);
    EXPECT(last.window.invocations == calls);
    EXPECT(last.losses.mismatched_scopes == 0);
    EXPECT(live_bytes("module.numbers") == 0);
}

void keep_profile(thaw::profile const& p) { last = p, ++reports; }

}

int main(int argc, char** argv) {
    std::string const how = argc > 1 ? argv[1] : "";
    char const* const path = argc > 2 ? argv[2] : nullptr;
    if (how == "linked" || how == "before" || how == "after") {
        if (how == "after") EXPECT(start_profiling());
        module const m(how == "linked" ? nullptr : path);
        if (how != "after") {
            invoke(m);  // before start: nothing
            EXPECT(m.process() == nullptr);
            EXPECT(start_profiling());
        }
        invoke(m), invoke(m);
        EXPECT(reports == 2);
        EXPECT(m.process() == thaw::core::find_process() && m.process() != nullptr);
        expect_one_tree(2);
        EXPECT(last.nodes.size() == 9);
        std::thread([&] { m.handler(); }).join();
        EXPECT(node_at("module.handler").calls == 1);
        EXPECT(last.window.invocations == 3);
        std::thread([&] { m.work(&from_module); }).join();
        EXPECT(thaw::report_now());
        EXPECT(node_at("[background]/in.module").calls == 1);
        if (argc > 3) {  // and a second one, which also carries them
            module const other(argv[3]);
            invoke(other);
            EXPECT(other.process() == m.process());
            EXPECT(node_at("h/in.executable/in.module").calls == 3);
        }
    } else if (how == "reload") {
        EXPECT(start_profiling());
        for (std::uint64_t i = 1; i <= 3; ++i) {
            module const m(path);
            invoke(m);
            m.keep(true);
            EXPECT(thaw::report_now());
            EXPECT(live_bytes("module.kept") == 400);
            m.keep(false);
            EXPECT(::dlclose(m.handle) == 0);
            EXPECT(thaw::report_now());
            EXPECT(live_bytes("module.kept") == 0);
            expect_one_tree(i);  // the names outlive the module
        }
        EXPECT(last.losses.overflow_sites == 0);
    } else if (how == "starts") {
        // The module that starts thaw is unloaded: the process must not call into what is gone.
        module const m(path);
        EXPECT(m.start(&keep_profile));
        invoke(m);
        EXPECT(reports == 1);
        expect_one_tree(1);
        EXPECT(m.process() == thaw::core::find_process());
        bool stands = false, go = false;
        std::thread outlives([&] {
            { THAW_SCOPE("thread"); }
            __atomic_store_n(&stands, true, __ATOMIC_RELEASE);
            while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE)) {}
        });
        while (!__atomic_load_n(&stands, __ATOMIC_ACQUIRE)) {}
        ::dlclose(m.handle);
        __atomic_store_n(&go, true, __ATOMIC_RELEASE);
        outlives.join();
        { THAW_HANDLER("later"); }
        EXPECT(reports == 2);
        EXPECT(node_at("[background]/thread").calls == 1);
        thaw::stop();
        EXPECT(reports == 3);
    } else if (how == "first_call") {
        // What a module calls first on a thread that records already.
        EXPECT(start_profiling());
        module const m(path);
        {
            THAW_HANDLER("failing");
            m.fail();
        }
        EXPECT(last.window.errors == 1);
        std::thread([&] {
            THAW_HANDLER("waiting");
            m.wait();
            m.wait();
        }).join();
        EXPECT(node_at("waiting/module.wait").timed == 2);
        std::thread([&] {
            THAW_HANDLER("nesting");
            m.handler();
            m.handler();
        }).join();
        EXPECT(node_at("nesting/module.handler").timed == 2);
        EXPECT(node_at("nesting/module.handler/in.module.handler").timed == 2);
        EXPECT(last.losses.mismatched_scopes == 0);
        EXPECT(last.window.open == 0);
        std::thread([&] { m.handler(); }).join();
        EXPECT(node_at("module.handler").timed == 1);
        EXPECT(last.window.open == 0);
    } else return 2;
    return verdict();
}
