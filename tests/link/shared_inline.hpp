// A scope in a header that several units, and several modules, include.
#ifndef THAW_TESTS_LINK_SHARED_INLINE_HPP
#define THAW_TESTS_LINK_SHARED_INLINE_HPP

#include <thaw/probe.hpp>

inline int in_header(int n) {
    THAW_SCOPE("in.header");
    return n + 1;
}

#endif
