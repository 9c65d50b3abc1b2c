// SPDX-License-Identifier: Apache-2.0
// Low-bit matrices, quantised activations and the table of kernels that work on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#define EDGE_X86 1
#else
#define EDGE_X86 0
#endif

namespace edge {

constexpr int kGroup = 32;      // consecutive weights of a row that share one scale
constexpr int kTile = 32;       // rows that are stored interleaved and multiplied together
constexpr int kLanes = 16;      // rows of one 64-byte line of codes: 4 codes for each
constexpr int kScratch = 1280;  // bytes a kernel needs to unpack one group of a tile: codes, scales and minima
constexpr int kKeyBlock = 16;   // positions that are interleaved in the key cache

inline int round_up(int n, int step) { return (n + step - 1) / step * step; }

// Memory aligned to cache lines; not initialised unless asked for, so that untouched pages cost nothing.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) { resize(count); }
  void resize(size_t count) {
    data_.reset(count ? static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))) : nullptr);
    size_ = count;
  }
  void resize_zero(size_t count) {
    resize(count);
    for (size_t i = 0; i < count; ++i) data_.get()[i] = T{};
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

enum class Source { f32, q4_0, q4_1, q8_0 };  // what `Matrix::pack` reads: GGUF blocks or float rows

// Weights w[r][k] = scale[r][k/32] * (code - zero) + min[r][k/32], in tiles of 32 rows.
//   4-bit group of a tile: 2 halves x 4 lines of 64 bytes; byte 4*lane + j of line p has the code of column 4p + j in
//   its low and of column 16 + 4p + j in its high nibble. 8-bit: 2 halves x 8 lines; line s holds columns 4s + j.
//   Missing rows and columns are filled with zero weights.
struct Matrix {
  int rows = 0, cols = 0;
  int tiles = 0, groups = 0;
  int bits = 0;  // 4 or 8
  int zero = 0;  // the code that means 0
  bool has_min = false;
  Buffer<uint8_t> codes;          // [tile][group][bits * 128]
  Buffer<uint16_t> scales, mins;  // [tile][group][32], half precision

  // Fills the matrix from `rows` rows of `row_bytes` bytes each.
  void pack(Source source, const uint8_t* data, size_t row_bytes, int rows, int cols);
  // Writes row r as floats into out[0 .. groups * 32).
  void row(int r, float* out) const;
  int group_bytes() const { return bits * kTile * kGroup / 8; }
  const uint8_t* tile_codes(int tile) const { return codes.data() + size_t(tile) * groups * group_bytes(); }
  size_t bytes() const { return codes.bytes() + scales.bytes() + mins.bytes(); }
};

// n rows of int8 activations: x[t][k] = scale[t][k/32] * q[t][k], with the sum of each group beside it.
struct Activations {
  int groups = 0;
  int8_t* q = nullptr;          // [t][groups * 32]
  float* scale = nullptr;       // [t][groups]
  int32_t* sum = nullptr;       // [t][groups], sum of q
  float* scaled_sum = nullptr;  // [t][groups], scale * sum
};

// One query block against one key/value head.
struct Attention {
  const float* q = nullptr;  // scaled and rotated: q[token * stride + head * head_dim + d]
  float* out = nullptr;      // the same layout
  int stride = 0;
  int tokens = 0;          // tokens of the block
  int heads_per_kv = 1;    // query rows per token
  int first_position = 0;  // position of the block's first token
  int head_dim = 0;
  const float* keys = nullptr;    // [position / 16][head_dim][16]
  const float* values = nullptr;  // [position][head_dim]
  float* scores = nullptr;        // scratch [tokens * heads_per_kv][round_up(positions, 16)]

  size_t row(int r) const { return size_t(r / heads_per_kv) * stride + size_t(r % heads_per_kv) * head_dim; }
};

struct Statistics {
  int argmax;
  float log_sum_exp;
  float entropy;  // nats
};

// The kernels of one instruction set. Lengths n are multiples of 32 (buffers are padded with zeros).
struct Kernels {
  const char* name;
  // y[t * y_stride + row] (+)= W x for the rows of tiles [begin, end); `scratch` holds groups * kScratch bytes.
  void (*multiply)(const Matrix& w, int begin, int end, const Activations& x, int n, float* y, int y_stride, bool add,
                   uint8_t* scratch);
  void (*quantise)(const float* x, int groups, int8_t* q, float* scale, int32_t* sum, float* scaled_sum);
  void (*rms_norm)(const float* x, const float* weight, int n, int padded, float eps, float* y);
  void (*swiglu)(const float* gate, const float* up, int n, float* y);
  void (*attend)(const Attention& a);
  Statistics (*statistics)(const float* logits, int n);
};

const Kernels& portable_kernels();
#if EDGE_X86
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
#endif

// Kernels this processor can run, fastest first.
std::vector<const Kernels*> supported_kernels();
// `name` is "auto" or one of the supported kernels; throws std::invalid_argument otherwise.
const Kernels& select_kernels(const std::string& name);

float half_to_float(uint16_t h);
uint16_t float_to_half(float f);

}  // namespace edge
