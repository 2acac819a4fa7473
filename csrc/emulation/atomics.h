// atomicAdd and its relatives, for the types that CUDA has.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <type_traits>

#include "half_types.h"

namespace facekernels::emulation {

#if defined(__SANITIZE_THREAD__)
#define FK_EMU_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FK_EMU_THREAD_SANITIZER 1
#endif
#endif

// CUDA atomics are relaxed. ThreadSanitizer knows nothing of __threadfence, so there the atomics
// carry the order instead: "fence, then ticket" kernels count as ordered.
#if defined(FK_EMU_THREAD_SANITIZER)
inline constexpr std::memory_order kAtomicOrder = std::memory_order_acq_rel;
#else
inline constexpr std::memory_order kAtomicOrder = std::memory_order_relaxed;
#endif

template <class T>
inline constexpr bool kIsAtomicInteger =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;
template <class T>
inline constexpr bool kIsAtomicWideInteger = kIsAtomicInteger<T> || std::is_same_v<T, long long>;
template <class T>
inline constexpr bool kIsAtomicFloat = std::is_same_v<T, float> || std::is_same_v<T, double>;

// Replaces *address by update(old) and returns old.
template <class T, class Update>
T atomic_update(T* address, Update update) {
  std::atomic_ref<T> target(*address);
  T old = target.load(std::memory_order_relaxed);
  while (!target.compare_exchange_weak(old, update(old), kAtomicOrder, std::memory_order_relaxed)) {
  }
  return old;
}

// The same for the half-precision types, which std::atomic_ref cannot hold.
template <class T, class Update>
T atomic_update_16_bits(T* address, Update update) {
  const uint16_t old = atomic_update(reinterpret_cast<uint16_t*>(address), [&](uint16_t bits) {
    return std::bit_cast<uint16_t>(update(std::bit_cast<T>(bits)));
  });
  return std::bit_cast<T>(old);
}

}  // namespace facekernels::emulation

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value)
  requires facekernels::emulation::kIsAtomicInteger<T>
{
  return std::atomic_ref<T>(*address).fetch_add(value, facekernels::emulation::kAtomicOrder);
}

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value)
  requires facekernels::emulation::kIsAtomicFloat<T>
{
  return facekernels::emulation::atomic_update(address, [value](T old) { return old + value; });
}

// Pairs are added element by element: CUDA does not promise more.
#define FK_EMU_ATOMIC_ADD_HALF(T, Pair)                                                           \
  inline T atomicAdd(T* address, T value) {                                                       \
    return facekernels::emulation::atomic_update_16_bits(address,                                 \
                                                         [value](T old) { return old + value; }); \
  }                                                                                               \
  inline Pair atomicAdd(Pair* address, Pair value) {                                              \
    return {atomicAdd(&address->x, value.x), atomicAdd(&address->y, value.y)};                    \
  }
FK_EMU_ATOMIC_ADD_HALF(__half, __half2)
FK_EMU_ATOMIC_ADD_HALF(__nv_bfloat16, __nv_bfloat162)
#undef FK_EMU_ATOMIC_ADD_HALF

template <class T>
T atomicSub(T* address, std::type_identity_t<T> value)
  requires(std::is_same_v<T, int> || std::is_same_v<T, unsigned>)
{
  return std::atomic_ref<T>(*address).fetch_sub(value, facekernels::emulation::kAtomicOrder);
}

template <class T>
T atomicMax(T* address, std::type_identity_t<T> value)
  requires facekernels::emulation::kIsAtomicWideInteger<T>
{
  return facekernels::emulation::atomic_update(
      address, [value](T old) { return old < value ? value : old; });
}

template <class T>
T atomicMin(T* address, std::type_identity_t<T> value)
  requires facekernels::emulation::kIsAtomicWideInteger<T>
{
  return facekernels::emulation::atomic_update(
      address, [value](T old) { return value < old ? value : old; });
}

template <class T>
T atomicExch(T* address, std::type_identity_t<T> value)
  requires(facekernels::emulation::kIsAtomicInteger<T> || std::is_same_v<T, float>)
{
  return std::atomic_ref<T>(*address).exchange(value, facekernels::emulation::kAtomicOrder);
}

template <class T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value)
  requires(facekernels::emulation::kIsAtomicInteger<T> || std::is_same_v<T, unsigned short>)
{
  std::atomic_ref<T>(*address).compare_exchange_strong(
      expected, value, facekernels::emulation::kAtomicOrder, std::memory_order_relaxed);
  return expected;
}

#define FK_EMU_ATOMIC_BITWISE(name, method)                                                  \
  template <class T>                                                                         \
  T name(T* address, std::type_identity_t<T> value)                                          \
    requires facekernels::emulation::kIsAtomicInteger<T>                                     \
  {                                                                                          \
    return std::atomic_ref<T>(*address).method(value, facekernels::emulation::kAtomicOrder); \
  }
FK_EMU_ATOMIC_BITWISE(atomicAnd, fetch_and)
FK_EMU_ATOMIC_BITWISE(atomicOr, fetch_or)
FK_EMU_ATOMIC_BITWISE(atomicXor, fetch_xor)
#undef FK_EMU_ATOMIC_BITWISE

inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return facekernels::emulation::atomic_update(
      address, [limit](unsigned old) { return old >= limit ? 0u : old + 1; });
}

inline unsigned atomicDec(unsigned* address, unsigned limit) {
  return facekernels::emulation::atomic_update(
      address, [limit](unsigned old) { return old == 0 || old > limit ? limit : old - 1; });
}

// The scopes do not differ here.
#define FK_EMU_ATOMIC_SCOPES(name)                       \
  template <class T>                                     \
  T name##_block(T* a, std::type_identity_t<T> value) {  \
    return name(a, value);                               \
  }                                                      \
  template <class T>                                     \
  T name##_system(T* a, std::type_identity_t<T> value) { \
    return name(a, value);                               \
  }
FK_EMU_ATOMIC_SCOPES(atomicAdd)
FK_EMU_ATOMIC_SCOPES(atomicMax)
FK_EMU_ATOMIC_SCOPES(atomicMin)
#undef FK_EMU_ATOMIC_SCOPES
