#include "shared_inline.hpp"

int in_second_unit() {
    THAW_SCOPE("in.second");
    return in_header(1);
}
