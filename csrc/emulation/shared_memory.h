// Shared memory declarations. A variable is looked up by the address of a function-local static,
// so every instantiation of a template gets its own, as in CUDA.
#pragma once

#include "runtime.h"

#define FK_SHARED(T, name, dims)                                                        \
  typedef T name##_fk_type dims;                                                        \
  static char name##_fk_key;                                                            \
  auto& name = *static_cast<name##_fk_type*>(::facekernels::emulation::shared_variable( \
      &name##_fk_key, sizeof(name##_fk_type), alignof(name##_fk_type), #name,           \
      ::facekernels::emulation::SourceLocation::current()))

#define FK_DYN_SHARED(T, name) \
  T* const name = static_cast<T*>(::facekernels::emulation::dynamic_shared_memory())
