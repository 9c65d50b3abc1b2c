// SPDX-License-Identifier: Apache-2.0
// Half precision, arrangements of activations, and the choice of kernels.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#if EDGE_X86
#include <cpuid.h>
#elif EDGE_ARM
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

namespace edge {

float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, rest = h & 0x7fffu;
  uint32_t bits;
  float value;
  if (rest >= 0x7c00u) {
    bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
  } else if (rest >= 0x400u) {
    bits = sign | ((rest << 13) + 0x38000000u);
  } else {
    value = float(rest) * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -value : value;
  }
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t float_to_half(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
  const float a = std::fabs(f);
  if (!(a < 65520.0f)) return sign | (std::isnan(f) ? 0x7e00u : 0x7c00u);
  if (a < 6.103515625e-5f) return sign | uint16_t(std::nearbyint(a * 16777216.0f));
  bits &= 0x7fffffffu;
  bits += 0xfffu + (bits >> 13 & 1u);  // round to nearest even
  return sign | uint16_t((bits - 0x38000000u) >> 13);
}

void block_activations(const TokenActivations& x, int begin, int end) {
  const int cols = x.cols(), tokens = end - begin;
  int8_t* out = x.blocked + size_t(begin) * cols;
  for (int t = 0; t < tokens; ++t) {
    const int8_t* q = x.q + size_t(begin + t) * cols;
    for (int k = 0; k < cols; k += 4) std::memcpy(out + size_t(k) * tokens + 4 * t, q + k, 4);
  }
}

namespace {

// Exchanges the bits of `a` above `shift` with those of `b` below it, in fields of twice as many bits.
void exchange(uint64_t& a, uint64_t& b, int shift, uint64_t mask) {
  const uint64_t difference = ((a >> shift) ^ b) & mask;
  a ^= difference << shift;
  b ^= difference;
}

// Transposes 8 x 8 bytes, little end first.
void transpose_bytes(uint64_t (&rows)[8]) {
  for (int i = 0; i < 4; ++i) exchange(rows[i], rows[i + 4], 32, 0x00000000ffffffffu);
  for (int i : {0, 1, 4, 5}) exchange(rows[i], rows[i + 2], 16, 0x0000ffff0000ffffu);
  for (int i = 0; i < 8; i += 2) exchange(rows[i], rows[i + 1], 8, 0x00ff00ff00ff00ffu);
}

}  // namespace

void column_activations(const TokenActivations& x, int begin, int end) {
  const int cols = x.cols(), tokens = end - begin;
  int8_t* out = x.columns + size_t(begin) * cols;
  for (int k = 0; k < cols; k += 8)
    for (int t = 0; t < kTableTokens; t += 8) {
      uint64_t block[8] = {};
      for (int i = 0; i < std::min(8, tokens - t); ++i) std::memcpy(block + i, x.q + size_t(begin + t + i) * cols + k, 8);
      transpose_bytes(block);
      for (int i = 0; i < 8; ++i) std::memcpy(out + size_t(k + i) * kTableTokens + t, block + i, 8);
    }
}

#if EDGE_X86
namespace {

// What __builtin_cpu_supports("avxvnni") would tell, which not every compiler knows.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

}  // namespace
#endif

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> list;
#if EDGE_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
    list.push_back(&avx512_kernels());
  if (avx2 && has_avx_vnni()) list.push_back(&avxvnni_kernels());
  if (avx2) list.push_back(&avx2_kernels());
#elif EDGE_ARM
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) list.push_back(&neondot_kernels());
  list.push_back(&neon_kernels());
#endif
  list.push_back(&portable_kernels());
  return list;
}

const Kernels& select_kernels(const std::string& name) {
  std::string known;
  for (const Kernels* k : supported_kernels()) {
    if (name == "auto" || name == k->name) return *k;
    known += std::string(known.empty() ? "" : ", ") + k->name;
  }
  throw std::invalid_argument("no kernel '" + name + "' on this processor; there are: auto, " + known);
}

}  // namespace edge
