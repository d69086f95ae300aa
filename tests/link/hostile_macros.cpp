// The standard headers first: what is asked is whether thaw's own code uses a name that others define as a macro.
#include "standard_headers.hpp"

// An expansion of any of these is a syntax error.
#undef linux
#undef unix
#undef major
#undef minor
#define min(a, b) @
#define max(a, b) @
#define small @
#define near @
#define far @
#define interface @
#define ERROR @
#define OK @
#define DEBUG @
#define INFO @
#define WARNING @
#define major @
#define minor @
#define unix @
#define linux @
#define IN @
#define OUT @
#define OPTIONAL @
#define DELETE @
#define CALLBACK @
#define TRUE @
#define FALSE @
#define None @
#define Bool @
#define Status @
#define Success @
#define Always @
#define True @
#define False @
#define emit @
#define slots @
#define signals @
#define foreach @
#define I @
#define PI @
#define VERSION @
#define PACKAGE @
#define PAGE_SIZE @
#define CHECK @
#define ASSERT @
#define LOG @

#include "all_headers.hpp"

int main() {
    THAW_SCOPE("link.hostile");
    { THAW_WAIT("link.wait"); }
    return 0;
}
