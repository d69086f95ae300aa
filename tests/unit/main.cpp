// The one definition of Boost.Test's main; every other file of a test program includes <boost/test/unit_test.hpp>.
// THAW_TEST_HEADERS_ONLY: there is no Boost library for the target, so that its runner is compiled in here.
#define BOOST_TEST_MODULE thaw
#ifdef THAW_TEST_HEADERS_ONLY
#include <boost/test/included/unit_test.hpp>
#else
#include <boost/test/unit_test.hpp>
#endif
