// Loads and stores with cache hints: plain accesses here.
#pragma once

#include <type_traits>

#define FK_EMU_LOAD(name)    \
  template <class T>         \
  T name(const T* address) { \
    return *address;         \
  }
FK_EMU_LOAD(__ldg)
FK_EMU_LOAD(__ldca)
FK_EMU_LOAD(__ldcg)
FK_EMU_LOAD(__ldcs)
FK_EMU_LOAD(__ldlu)
FK_EMU_LOAD(__ldcv)
#undef FK_EMU_LOAD

#define FK_EMU_STORE(name)                               \
  template <class T>                                     \
  void name(T* address, std::type_identity_t<T> value) { \
    *address = value;                                    \
  }
FK_EMU_STORE(__stcg)
FK_EMU_STORE(__stcs)
FK_EMU_STORE(__stwb)
FK_EMU_STORE(__stwt)
#undef FK_EMU_STORE
