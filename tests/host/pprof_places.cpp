// The functions that pprof_test.py looks for in a file that was not stripped. `go tool pprof` finds a function by its debug
// information alone, by the name without arguments, and only in a unit whose code is in one piece: so it stands alone.

#include <execinfo.h>

extern "C" [[gnu::noinline]] int shop_price(void** stack, int size) {
    int const depth = backtrace(stack, size);
    __asm__ volatile("");
    return depth;
}

extern "C" [[gnu::noinline]] int shop_checkout(void** stack, int size) {
    int const depth = shop_price(stack, size);
    __asm__ volatile("");
    return depth;
}
