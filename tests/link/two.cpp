#include "all_headers.hpp"

int two();

int two() {
    THAW_SCOPE("link.two");
    { THAW_WAIT("link.wait"); }
    return 1;
}
