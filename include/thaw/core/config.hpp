// thaw floor 0 core: the knobs, the version, and the guard that refuses two configurations in one program.
//
// A knob is a macro that is defined before the first thaw header is included, the same in every translation unit.
//
//   THAW_ENABLED          1 (default): markers record once thaw::start has run.
//                         0: every macro expands to nothing that generates code, thaw::vector<T> is std::vector<T>.
//                         A translation unit with 0 may be linked with others that have 1.
//   THAW_USE_COUNTER      1 (default): durations come from the CPU's counter (rdtsc, cntvct_el0) where it is invariant.
//                         0: always from clock_gettime(CLOCK_MONOTONIC), about 25 ns more for every timed scope.
//   THAW_USE_CONFIG_GUARD 1 (default): a program whose translation units differ in a knob that changes layout or
//                         behaviour does not link. 0: the check is left to thaw::start, which reports it.
//
// Nothing here allocates, runs before main, or includes another header.
#ifndef THAW_CORE_CONFIG_HPP
#define THAW_CORE_CONFIG_HPP

#define THAW_VERSION_MAJOR 0
#define THAW_VERSION_MINOR 1
#define THAW_VERSION_PATCH 0

// The layout that several copies of the headers in one process share (see core/process.hpp). Raise it with every change
// of process_root, thread_record, node, site_entry or what they point to.
#define THAW_DETAIL_ABI 2

#if defined(THAW_ENABLED) && THAW_ENABLED != 0 && THAW_ENABLED != 1
#error "THAW_ENABLED must be 0 or 1"
#endif
#ifndef THAW_ENABLED
#define THAW_ENABLED 1
#endif

#if defined(THAW_USE_COUNTER) && THAW_USE_COUNTER != 0 && THAW_USE_COUNTER != 1
#error "THAW_USE_COUNTER must be 0 or 1"
#endif
#ifndef THAW_USE_COUNTER
#define THAW_USE_COUNTER 1
#endif

#if defined(THAW_USE_CONFIG_GUARD) && THAW_USE_CONFIG_GUARD != 0 && THAW_USE_CONFIG_GUARD != 1
#error "THAW_USE_CONFIG_GUARD must be 0 or 1"
#endif
#ifndef THAW_USE_CONFIG_GUARD
#define THAW_USE_CONFIG_GUARD 1
#endif

#if defined(THAW_HAS_COUNTER) || defined(THAW_HAS_EXCEPTIONS) || defined(THAW_HAS_RTTI)
#error "THAW_HAS_* macros are detected and cannot be set"
#endif

#if !defined(__linux__) || !(defined(__x86_64__) || defined(__aarch64__))
#error "thaw supports Linux on x86-64 and aarch64"
#endif
#if __cplusplus < 202002L
#error "thaw needs C++20"
#endif

#if THAW_USE_COUNTER
#define THAW_HAS_COUNTER 1
#else
#define THAW_HAS_COUNTER 0
#endif
#if defined(__cpp_exceptions)
#define THAW_HAS_EXCEPTIONS 1
#else
#define THAW_HAS_EXCEPTIONS 0
#endif
#if defined(__cpp_rtti)
#define THAW_HAS_RTTI 1
#else
#define THAW_HAS_RTTI 0
#endif

#define THAW_DETAIL_CONCAT_(a, b) a##b
#define THAW_DETAIL_CONCAT(a, b) THAW_DETAIL_CONCAT_(a, b)
// A name no other macro use has; __COUNTER__ and not __LINE__, since two markers may share a line.
#define THAW_DETAIL_UNIQUE(prefix) THAW_DETAIL_CONCAT(prefix, __COUNTER__)

// Code off the hot path: out of line, so that a marker stays small. Hidden, so that a module calls its own copy, which knows
// the module's thread-local pointer and slot, and not that of an executable that exports its symbols.
#define THAW_DETAIL_COLD [[gnu::noinline, gnu::cold, gnu::visibility("hidden")]]
#define THAW_DETAIL_NOINLINE [[gnu::noinline, gnu::visibility("hidden")]]
#define THAW_DETAIL_INLINE [[gnu::always_inline]] inline

// Types whose meaning depends on THAW_ENABLED live in an inline namespace named after it, so that translation units with
// and without thaw link into one program without sharing a name.
#if THAW_ENABLED
#define THAW_DETAIL_BEGIN namespace thaw { inline namespace on {
#else
#define THAW_DETAIL_BEGIN namespace thaw { inline namespace off {
#endif
#define THAW_DETAIL_END }}

// The guard. All translation units emit one COMDAT group of the same name, of which the linker keeps one; in it stands a
// symbol that is named after the configuration, and each unit refers to the symbol of its own configuration. A unit whose
// group was dropped in favour of another configuration's is left with an undefined reference that spells out both knobs.
// Under -flto the group is assembled once for all units, so that the check passes there: thaw::start repeats it.
#if THAW_ENABLED && THAW_USE_CONFIG_GUARD
#if THAW_USE_COUNTER
#define THAW_DETAIL_CONFIG_SYMBOL "thaw_configuration_differs_between_translation_units_here_THAW_USE_COUNTER_is_1"
#else
#define THAW_DETAIL_CONFIG_SYMBOL "thaw_configuration_differs_between_translation_units_here_THAW_USE_COUNTER_is_0"
#endif
__asm__(".pushsection .rodata.thaw_config,\"aG\",%progbits,thaw_configuration,comdat\n"
        ".ifndef " THAW_DETAIL_CONFIG_SYMBOL "\n"
        ".globl " THAW_DETAIL_CONFIG_SYMBOL "\n"
        ".hidden " THAW_DETAIL_CONFIG_SYMBOL "\n" THAW_DETAIL_CONFIG_SYMBOL ":\n"
        ".long 0\n"
        ".endif\n"
        ".popsection\n"
        ".pushsection .rodata.thaw_config_use,\"a\",%progbits\n"
        ".balign 4\n"
        ".long " THAW_DETAIL_CONFIG_SYMBOL " - .\n"
        ".popsection\n");
#endif

#endif
