// SPDX-License-Identifier: Apache-2.0
// Packing of matrices, half precision, and the choice of kernels.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <stdexcept>

#ifdef __linux__
#include <sys/mman.h>
#endif
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

// Codes 0..63 of 256 weights, a byte for each 16 that share it, and the scale of all in half precision.
struct SixBits {
  uint8_t codes[kTernaryBlock];
  const uint8_t* scales;
  uint16_t scale;
};

SixBits read_q6_k(const uint8_t* p) {
  SixBits b;
  for (int i = 0; i < kTernaryBlock; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, column = i % 32;
    const int low = p[half * 64 + quarter % 2 * 32 + column] >> (quarter / 2 * 4) & 15;
    b.codes[i] = uint8_t(low | (p[128 + half * 32 + column] >> (quarter * 2) & 3) << 4);
  }
  b.scales = p + 192;
  b.scale = read_u16(p + 208);
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

// Codes 0..2 of 256 weights, and their scale in half precision.
uint16_t read_tq2_0(const uint8_t* p, uint8_t* codes) {
  for (int i = 0; i < kTernaryBlock; ++i) codes[i] = p[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
  return read_u16(p + 64);
}

// Digit n (0 is the most significant) of a byte that holds ceil(q * 256 / 243).
uint8_t trit(uint8_t byte, int n) {
  static const uint8_t powers[] = {1, 3, 9, 27, 81};
  return uint8_t(uint16_t(uint8_t(byte * powers[n])) * 3 >> 8);
}

uint16_t read_tq1_0(const uint8_t* p, uint8_t* codes) {
  for (int i = 0; i < 160; ++i) codes[i] = trit(p[i % 32], i / 32);
  for (int i = 0; i < 80; ++i) codes[160 + i] = trit(p[32 + i % 16], i / 16);
  for (int i = 0; i < 16; ++i) codes[240 + i] = trit(p[48 + i % 4], i / 4);
  return read_u16(p + 52);
}

// Codes 0..2 of a whole row; scales of its blocks in half precision, if the type has them.
void read_ternary(Source source, const uint8_t* p, int cols, uint8_t* codes, uint16_t* scales) {
  if (source == Source::trits) {
    for (int i = 0; i < cols; ++i) codes[i] = uint8_t(int8_t(p[i]) + 1);
  } else if (source == Source::i2_s) {
    for (int i = 0; i < cols; ++i) codes[i] = p[i / 128 * 32 + i % 32] >> (6 - i % 128 / 32 * 2) & 3;
  } else {
    const int bytes = source == Source::tq2_0 ? 66 : 54;
    for (int b = 0; b < cols / kTernaryBlock; ++b, p += bytes, codes += kTernaryBlock) {
      scales[b] = (source == Source::tq2_0 ? read_tq2_0 : read_tq1_0)(p, codes);
      if (!(scales[b] & 0x7fffu)) std::memset(codes, 1, kTernaryBlock);
    }
  }
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

template <typename T>
void write_codes(uint8_t* group, int bits, int lane_row, const T* codes) {
  uint8_t* half = group + lane_row / kLanes * (bits * 64) + lane_row % kLanes * 4;
  for (int k = 0; k < kGroup; ++k) {
    if (bits == 2)
      half[k / 16 * 64 + k % 4] |= uint8_t(codes[k] << (k % 16 / 4 * 2));
    else if (bits == 8)
      half[k / 4 * 64 + k % 4] = uint8_t(codes[k]);
    else
      half[k % 16 / 4 * 64 + k % 4] |= uint8_t((codes[k] & 15) << (k < 16 ? 0 : 4));
    if (bits == 6) half[256 + k / 16 * 64 + k % 4] |= uint8_t(codes[k] >> 4 << (k % 16 / 4 * 2));
  }
}

int read_code(const uint8_t* group, int bits, int lane_row, int k) {
  const uint8_t* half = group + lane_row / kLanes * (bits * 64) + lane_row % kLanes * 4;
  if (bits == 2) return half[k / 16 * 64 + k % 4] >> (k % 16 / 4 * 2) & 3;
  if (bits == 8) return half[k / 4 * 64 + k % 4];
  const int low = half[k % 16 / 4 * 64 + k % 4] >> (k < 16 ? 0 : 4) & 15;
  return bits == 4 ? low : low | (half[256 + k / 16 * 64 + k % 4] >> (k % 16 / 4 * 2) & 3) << 4;
}

}  // namespace

namespace {

// Memory for the codes of many matrices, side by side in 2 MiB pages: one of 1.6 MB alone would get none, and at the
// edge of a small page a stream of weights waits for the table of pages. A chunk goes when all of its matrices have.
std::shared_ptr<void> take_codes(size_t bytes, uint8_t** data) {
  constexpr size_t kPage = size_t(1) << 21, kChunk = 64 * kPage, kLine = 64;
  static std::mutex mutex;
  static std::weak_ptr<uint8_t> newest;
  static size_t used = 0, size = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  bytes = (bytes + kLine - 1) / kLine * kLine;
  std::shared_ptr<uint8_t> chunk = newest.lock();
  if (!chunk || size - used < bytes) {
    size = std::max(kChunk, (bytes + kPage - 1) / kPage * kPage);
    used = 0;
    const auto free = [](uint8_t* p) { ::operator delete(p, std::align_val_t(kPage)); };
    chunk.reset(static_cast<uint8_t*>(::operator new(size, std::align_val_t(kPage))), free);
    newest = chunk;
#ifdef MADV_HUGEPAGE
    madvise(chunk.get(), size, MADV_HUGEPAGE);  // only a wish
#endif
  }
  *data = chunk.get() + used;
  used += bytes;
  return chunk;
}

}  // namespace

void Matrix::resize_codes() {
  const size_t bytes = size_t(tiles) * tile_bytes();
  uint8_t* data = nullptr;
  chunk_ = take_codes(bytes, &data);
  codes.borrow(data, bytes);
}

Matrix Matrix::view() const {
  Matrix m;
  m.rows = rows, m.cols = cols, m.tiles = tiles, m.groups = groups;
  m.bits = bits, m.zero = zero, m.has_min = has_min, m.scale = scale, m.dense = dense;
  m.codes.borrow(const_cast<uint8_t*>(codes.data()), codes.size());
  m.scales.borrow(const_cast<uint16_t*>(scales.data()), scales.size());
  m.mins.borrow(const_cast<uint16_t*>(mins.data()), mins.size());
  return m;
}

void Matrix::pack(Source source, const uint8_t* data, size_t row_bytes, int rows_in, int cols_in,
                  float tensor_scale, bool dense_in) {
  if (is_ternary(source)) {
    shape_ternary(rows_in, cols_in, dense_in);
    return pack_ternary(source, data, row_bytes, tensor_scale);
  }
  rows = rows_in;
  cols = cols_in;
  tiles = (rows + kTile - 1) / kTile;
  groups = (cols + kGroup - 1) / kGroup;
  bits = source == Source::q4_0 || source == Source::q4_1 ? 4 : source == Source::q6_k ? 6 : 8;
  zero = source == Source::q4_0 ? 8 : source == Source::q4_1 ? 0 : source == Source::q6_k ? 32 : 128;
  has_min = source == Source::q4_1;
  const size_t blocks = size_t(tiles) * scale_groups();
  resize_codes();
  std::memset(codes.data(), 0, codes.bytes());
  scales.resize_zero(blocks * kTile);
  if (has_min) mins.resize_zero(blocks * kTile);
  if (bits == 6) return pack_six_bits(data, row_bytes);
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

void Matrix::pack_six_bits(const uint8_t* data, size_t row_bytes) {
  constexpr int kGroups = kTernaryBlock / kGroup;
  for (int r = 0; r < rows; ++r)
    for (int b = 0; b < blocks(); ++b) {
      const SixBits block = read_q6_k(data + row_bytes * size_t(r) + size_t(b) * 210);
      uint8_t* group = codes.data() + size_t(r / kTile) * tile_bytes() + size_t(b) * kGroups * group_bytes();
      for (int g = 0; g < kGroups; ++g, group += group_bytes()) {
        write_codes(group, bits, r % kTile, block.codes + g * kGroup);
        uint8_t* own = group + group_bytes() - 2 * kTile + r % kTile;
        own[0] = block.scales[2 * g], own[kTile] = block.scales[2 * g + 1];
      }
      scales[(size_t(r / kTile) * blocks() + b) * kTile + r % kTile] = block.scale;
    }
}

void Matrix::shape_ternary(int rows_in, int cols_in, bool dense_in) {
  rows = rows_in, cols = cols_in, dense = dense_in;
  tiles = (rows + kTile - 1) / kTile;
  groups = (cols + kGroup - 1) / kGroup;
  bits = 2, zero = 1;
  scales.resize(0);
  resize_codes();
}

// `row_codes` has 0, 1 or 2 for each of groups * 32 columns.
void Matrix::pack_row(int row, const uint8_t* row_codes) {
  uint8_t* tile = codes.data() + size_t(row / kTile) * tile_bytes();
  if (!dense) {
    for (int g = 0; g < groups; ++g) {
      int values[kGroup];
      for (int k = 0; k < kGroup; ++k) values[k] = row_codes[g * kGroup + k];
      write_codes(tile + size_t(g) * group_bytes(), bits, row % kTile, values);
    }
    return;
  }
  static const int powers[] = {1, 3, 9, 27, 81};
  uint8_t* bytes = tile + row % kTile * 4;
  for (int k = 0; k < dense_lines() * kDenseColumns; ++k) {
    const int code = k < groups * kGroup ? row_codes[k] : 1;
    bytes[k / kDenseColumns * kTile * 4 + k % 4] += uint8_t(code * powers[k % kDenseColumns / 4]);
  }
}

int Matrix::code(int row, int k) const {
  const uint8_t* tile = tile_codes(row / kTile);
  if (!dense) return read_code(tile + size_t(k / kGroup) * group_bytes(), bits, row % kTile, k % kGroup);
  static const int powers[] = {1, 3, 9, 27, 81};
  return tile[k / kDenseColumns * kTile * 4 + row % kTile * 4 + k % 4] / powers[k % kDenseColumns / 4] % 3;
}

void Matrix::pack_ternary(Source source, const uint8_t* data, size_t row_bytes, float tensor_scale) {
  const bool blocked = source == Source::tq1_0 || source == Source::tq2_0;
  const int count = blocks();
  std::memset(codes.data(), 0, codes.bytes());
  if (blocked) scales.resize_zero(size_t(tiles) * count * kTile);
  std::vector<uint8_t> row(size_t(groups) * kGroup, 1);
  std::vector<uint16_t> row_scales(size_t(count), 0);
  uint16_t common = 0;
  bool equal = true;
  for (int r = 0; r < tiles * kTile; ++r) {
    if (r < rows) {
      read_ternary(source, data + row_bytes * size_t(r), cols, row.data(), row_scales.data());
      for (uint8_t code : row)
        if (code > 2) throw std::invalid_argument("the weights are not ternary");
    } else {
      std::fill(row.begin(), row.end(), uint8_t(1));
      std::fill(row_scales.begin(), row_scales.end(), uint16_t(0));
    }
    pack_row(r, row.data());
    for (int b = 0; b < count && blocked; ++b) {
      const uint16_t s = row_scales[size_t(b)];
      scales[(size_t(r / kTile) * count + b) * kTile + r % kTile] = s;
      if (s & 0x7fffu) {  // a scale of 0 has only zero weights: any scale will do
        equal = equal && (!common || s == common);
        common = s;
      }
    }
  }
  if (dense && !equal) return pack(source, data, row_bytes, rows, cols, tensor_scale);
  scale = blocked ? half_to_float(common) : tensor_scale;
  if (blocked && equal) scales.resize(0);
}

void Matrix::row(int r, float* out) const {
  if (ternary()) {
    for (int k = 0; k < groups * kGroup; ++k) {
      const size_t block = size_t(r / kTile) * blocks() + k / kTernaryBlock;
      const float s = scales.size() ? half_to_float(scales[block * kTile + r % kTile]) : scale;
      out[k] = s * float(code(r, k) - zero);
    }
    return;
  }
  if (bits == 6) return six_bit_row(r, out);
  for (int g = 0; g < groups; ++g) {
    const size_t block = size_t(r / kTile) * groups + g;
    const float scale = half_to_float(scales[block * kTile + r % kTile]);
    const float min = has_min ? half_to_float(mins[block * kTile + r % kTile]) : 0.0f;
    for (int k = 0; k < kGroup; ++k) out[g * kGroup + k] = scale * float(code(r, g * kGroup + k) - zero) + min;
  }
}

void Matrix::six_bit_row(int r, float* out) const {
  for (int k = 0; k < groups * kGroup; ++k) {
    const uint8_t* own = tile_codes(r / kTile) + size_t(k / kGroup + 1) * group_bytes() - 2 * kTile;
    const float block = half_to_float(scales[(size_t(r / kTile) * blocks() + k / kTernaryBlock) * kTile + r % kTile]);
    out[k] = block * float(int8_t(own[k % kGroup / kHalf * kTile + r % kTile])) * float(code(r, k) - zero);
  }
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
