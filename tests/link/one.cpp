#include "all_headers.hpp"

int two();

namespace {

int one() {
    THAW_SCOPE("link.one");
    { THAW_WAIT("link.wait"); }
    return two() - 1;
}

}

int main() { return one(); }
