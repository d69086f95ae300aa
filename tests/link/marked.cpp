// Half of a program, compiled once for each unit (THAW_TEST_UNIT is 1 or 2).
#include <thaw/probe.hpp>

int two();

#if THAW_TEST_UNIT == 1
int main() {
    THAW_SCOPE("link.one");
    return two() - 1;
}
#else
int two() {
    THAW_SCOPE("link.two");
    return 1;
}
#endif
