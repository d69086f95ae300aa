// thaw floor 2 sampler: the registers of this architecture.
#ifndef THAW_SAMPLER_REGISTERS_HPP
#define THAW_SAMPLER_REGISTERS_HPP

#if defined(__x86_64__)
#include <thaw/sampler/registers_x86_64.hpp>
#else
#include <thaw/sampler/registers_aarch64.hpp>
#endif

#endif
