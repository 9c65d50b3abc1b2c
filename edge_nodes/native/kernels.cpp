// SPDX-License-Identifier: Apache-2.0
// Packing of matrices, half precision, and the choice of kernels.
#include "kernels.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

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

namespace {

struct Block {
  int codes[kGroup];
  uint16_t scale = 0, min = 0;
};

uint16_t read_u16(const uint8_t* p) { return uint16_t(p[0] | p[1] << 8); }

void read_nibbles(const uint8_t* p, int* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = p[i] & 15;
    codes[i + 16] = p[i] >> 4;
  }
}

Block read_q4_0(const uint8_t* p) {
  Block b;
  b.scale = read_u16(p);
  read_nibbles(p + 2, b.codes);
  return b;
}

Block read_q4_1(const uint8_t* p) {
  Block b;
  b.scale = read_u16(p);
  b.min = read_u16(p + 2);
  read_nibbles(p + 4, b.codes);
  return b;
}

Block read_q8_0(const uint8_t* p) {
  Block b;
  b.scale = read_u16(p);
  for (int i = 0; i < kGroup; ++i) b.codes[i] = int8_t(p[2 + i]) + 128;
  return b;
}

Block read_f32(const uint8_t* p, int count) {
  float x[kGroup] = {};
  std::memcpy(x, p, sizeof(float) * size_t(count));
  float largest = 0.0f;
  for (float v : x) largest = std::max(largest, std::fabs(v));
  Block b;
  b.scale = float_to_half(largest / 127.0f);
  const float scale = half_to_float(b.scale);
  for (int i = 0; i < kGroup; ++i) {
    const float code = scale > 0.0f ? std::nearbyint(x[i] / scale) : 0.0f;
    b.codes[i] = 128 + int(std::fmin(std::fmax(code, -128.0f), 127.0f));
  }
  return b;
}

Block read_block(Source source, const uint8_t* row, int group, int cols) {
  switch (source) {
    case Source::q4_0:
      return read_q4_0(row + size_t(group) * 18);
    case Source::q4_1:
      return read_q4_1(row + size_t(group) * 20);
    case Source::q8_0:
      return read_q8_0(row + size_t(group) * 34);
    default:
      break;
  }
  return read_f32(row + size_t(group) * kGroup * sizeof(float), std::min(kGroup, cols - group * kGroup));
}

void write_codes(uint8_t* group, int bits, int lane_row, const int* codes) {
  uint8_t* half = group + lane_row / kLanes * (bits * 64) + lane_row % kLanes * 4;
  for (int k = 0; k < kGroup; ++k) {
    if (bits == 8)
      half[k / 4 * 64 + k % 4] = uint8_t(codes[k]);
    else
      half[k % 16 / 4 * 64 + k % 4] |= uint8_t(codes[k] << (k < 16 ? 0 : 4));
  }
}

int read_code(const uint8_t* group, int bits, int lane_row, int k) {
  const uint8_t* half = group + lane_row / kLanes * (bits * 64) + lane_row % kLanes * 4;
  if (bits == 8) return half[k / 4 * 64 + k % 4];
  return half[k % 16 / 4 * 64 + k % 4] >> (k < 16 ? 0 : 4) & 15;
}

}  // namespace

void Matrix::pack(Source source, const uint8_t* data, size_t row_bytes, int rows_in, int cols_in) {
  rows = rows_in;
  cols = cols_in;
  tiles = (rows + kTile - 1) / kTile;
  groups = (cols + kGroup - 1) / kGroup;
  bits = source == Source::q4_0 || source == Source::q4_1 ? 4 : 8;
  zero = source == Source::q4_0 ? 8 : source == Source::q4_1 ? 0 : 128;
  has_min = source == Source::q4_1;
  const size_t blocks = size_t(tiles) * groups;
  codes.resize_zero(blocks * group_bytes());
  scales.resize_zero(blocks * kTile);
  if (has_min) mins.resize_zero(blocks * kTile);
  for (int r = 0; r < rows; ++r) {
    for (int g = 0; g < groups; ++g) {
      const Block b = read_block(source, data + row_bytes * size_t(r), g, cols);
      const size_t block = size_t(r / kTile) * groups + g;
      write_codes(codes.data() + block * group_bytes(), bits, r % kTile, b.codes);
      scales[block * kTile + r % kTile] = b.scale;
      if (has_min) mins[block * kTile + r % kTile] = b.min;
    }
  }
}

void Matrix::row(int r, float* out) const {
  for (int g = 0; g < groups; ++g) {
    const size_t block = size_t(r / kTile) * groups + g;
    const float scale = half_to_float(scales[block * kTile + r % kTile]);
    const float min = has_min ? half_to_float(mins[block * kTile + r % kTile]) : 0.0f;
    for (int k = 0; k < kGroup; ++k)
      out[g * kGroup + k] =
          scale * float(read_code(codes.data() + block * group_bytes(), bits, r % kTile, k) - zero) + min;
  }
}

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> list;
#if EDGE_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
    list.push_back(&avx512_kernels());
  if (avx2) list.push_back(&avx2_kernels());
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
