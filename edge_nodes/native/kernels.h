// SPDX-License-Identifier: Apache-2.0
// Low-bit matrices, quantised activations and the table of kernels that work on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "sum_tree.h"

#if defined(__x86_64__) || defined(_M_X64)
#define EDGE_X86 1
#else
#define EDGE_X86 0
#endif
#if defined(__aarch64__)
#define EDGE_ARM 1
#else
#define EDGE_ARM 0
#endif

namespace edge {

constexpr int kKernelVersion = 2;  // raised when what was measured about the kernels holds no longer
constexpr int kGroup = 32;      // consecutive weights of a row that are packed together and share one scale
constexpr int kHalf = 16;       // those that share one where weights have 6 bits, and an entry of Activations::sum
constexpr int kTile = 32;       // rows that are stored interleaved and multiplied together
constexpr int kLanes = 16;      // rows of one 64-byte line of codes: 4 codes for each
constexpr int kScratch = 1280;  // bytes a kernel needs to unpack one group of a tile: codes, scales and minima
constexpr int kKeyBlock = 16;   // positions that are interleaved in the key cache
constexpr int kDenseColumns = 20;  // of a line of dense ternary codes: 4 bytes of 5 trits
constexpr int kTernaryBlock = 256;  // columns that share a scale in GGUF's ternary and 6-bit types
constexpr int kTableTokens = 32;    // tokens of one row of a look-up table

inline int round_up(int n, int step) { return (n + step - 1) / step * step; }

// Memory aligned to cache lines; not initialised unless asked for, so that untouched pages cost nothing.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) { resize(count); }
  void resize(size_t count) {
    own_.reset(count ? static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))) : nullptr);
    data_ = own_.get();
    size_ = count;
  }
  void resize_zero(size_t count) {
    resize(count);
    for (size_t i = 0; i < count; ++i) data_[i] = T{};
  }
  // Looks at memory that somebody else keeps, such as a mapped file.
  void borrow(T* data, size_t count) {
    own_.reset();
    data_ = data;
    size_ = count;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> own_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

// What `Matrix::pack` reads: GGUF blocks, float rows, or int8 rows of -1, 0 and 1 (trits).
enum class Source { f32, q4_0, q4_1, q6_k, q8_0, tq1_0, tq2_0, i2_s, trits };

inline bool is_ternary(Source s) { return s >= Source::tq1_0; }

// Files hold packed matrices: raised with every change of their layout.
constexpr int kPacking = 1;

// Bytes of a group of a tile.
constexpr int packed_bytes(int bits) { return bits * kTile * kGroup / 8 + (bits == 6 ? 2 * kTile : 0); }

// Weights w[r][k] = scale[r][k/32] * (code - zero) + min[r][k/32], in tiles of 32 rows.
//   4-bit group of a tile: 2 halves x 4 lines of 64 bytes; byte 4*lane + j of line p has the code of column 4p + j in
//   its low and of column 16 + 4p + j in its high nibble. 8-bit: 2 halves x 8 lines; line s holds columns 4s + j.
//   6-bit: 2 halves x 6 lines; the low 4 bits of a code lie as a 4-bit one, the high 2 bits after them as a ternary one.
//   Then, for columns 0 .. 15 and 16 .. 31, a signed byte for each row. The scale of these columns is this byte times a
//   scale for 256 columns, as in GGUF's Q6_K: 6.56 bits a weight.
//   Missing rows and columns are filled with zero weights.
// Ternary weights (bits = 2, codes 0..2, zero = 1) have one scale for the matrix, or one per row and 256 columns if
// these differ. Group: 2 halves x 2 lines; byte 4*lane + j of line p has the code of column 16p + 4i + j at bits 2i.
// Dense ternary weights (1.60 bits, one scale): lines of 20 columns, [tile][line][half][64]; byte 4*lane + j has the sum
// of 3^i times the code of column 20 * line + 4i + j, i = 0..4.
struct Matrix {
  int rows = 0, cols = 0;
  int tiles = 0, groups = 0;
  int bits = 0;  // 2, 4, 6 or 8
  int zero = 0;  // the code that means 0
  bool has_min = false;
  bool dense = false;
  Buffer<uint8_t> codes;          // [tile][group][group_bytes()], or dense
  // Half precision: [tile][group][32]; 6 bits and ternary: [tile][block][32], or none if ternary scales are equal.
  Buffer<uint16_t> scales, mins;
  float scale = 1.0f;             // ternary: of the whole matrix

  // Fills the matrix from `rows` rows of `row_bytes` bytes each.
  // `tensor_scale` is used by types with one scale per matrix; `dense` by ternary types whose scales are all equal.
  void pack(Source source, const uint8_t* data, size_t row_bytes, int rows, int cols, float tensor_scale = 1.0f,
            bool dense = false);
  // Makes this a ternary matrix with memory for its codes, not initialised.
  void shape_ternary(int rows, int cols, bool dense);
  // Writes row r as floats into out[0 .. groups * 32).
  void row(int r, float* out) const;
  bool ternary() const { return bits == 2; }
  // Groups, or blocks, of a row that have a scale in `scales`.
  int scale_groups() const { return bits == 6 || ternary() ? blocks() : groups; }
  int blocks() const { return (groups * kGroup + kTernaryBlock - 1) / kTernaryBlock; }
  int group_bytes() const { return packed_bytes(bits); }
  int dense_lines() const { return (groups * kGroup + kDenseColumns - 1) / kDenseColumns; }
  size_t tile_bytes() const { return dense ? size_t(dense_lines()) * kTile * 4 : size_t(groups) * group_bytes(); }
  const uint8_t* tile_codes(int tile) const { return codes.data() + size_t(tile) * tile_bytes(); }
  size_t bytes() const { return codes.bytes() + scales.bytes() + mins.bytes(); }
  // Memory for the codes, not initialised.
  void resize_codes();
  // The same weights in the same memory, which must stay.
  Matrix view() const;

 private:
  std::shared_ptr<void> chunk_;  // where `codes` lie, unless they are borrowed

  void pack_ternary(Source source, const uint8_t* data, size_t row_bytes, float tensor_scale);
  void pack_row(int row, const uint8_t* codes);
  void pack_six_bits(const uint8_t* data, size_t row_bytes);
  void six_bit_row(int r, float* out) const;
  int code(int row, int column) const;
};

// n rows of int8 activations: x[t][k] = scale[t][k/32] * q[t][k], with sums beside them.
struct Activations {
  int groups = 0;
  int8_t* q = nullptr;          // [t][groups * 32]
  float* scale = nullptr;       // [t][groups]
  int32_t* sum = nullptr;       // [t][groups][2], sum of q over 16 columns
  float* scaled_sum = nullptr;  // [t][groups], scale * sum over 32
  const SumTree* tree = nullptr;  // how products are added up over the columns; null: one after the other
  size_t root_stride = 0;         // floats between the sums of the tree's roots, if it has several
};

// n tokens of int8 activations for ternary weights: x[t][k] = scale[t] * q[t][k].
struct TokenActivations {
  int groups = 0, blocks = 0;   // of 32 and 256 columns
  int8_t* q = nullptr;          // [t][groups * 32]
  int8_t* blocked = nullptr;    // [block of tokens][column / 4][token][4]; for products of 2 tokens and more
  int8_t* columns = nullptr;    // [t / 32][column][32]; for look-up tables
  float* scale = nullptr;       // [t]
  int32_t* sum = nullptr;       // [t][blocks], sum of q
  int32_t* total = nullptr;     // [t], sum of all q
  const SumTree* tree = nullptr;  // as of Activations; sums of weights with one scale are exact and need none
  size_t root_stride = 0;

  int cols() const { return groups * kGroup; }
  // Those of the tokens from `token` on; the memory for other arrangements is the same.
  TokenActivations from(int token) const {
    TokenActivations x = *this;
    x.q += size_t(token) * cols(), x.sum += size_t(token) * blocks;
    x.scale += token, x.total += token;
    return x;
  }
};

// One query block against one key/value head.
// Blocks of kKeyBlock positions that lie together in memory.
struct Run {
  int first, count;  // blocks of the sequence
  int at;            // where the first of them is, in blocks from the beginning of the memory
};

struct Attention {
  const float* q = nullptr;  // scaled and rotated: q[token * stride + head * head_dim + d]
  float* out = nullptr;      // the same layout
  int stride = 0;
  int tokens = 0;          // tokens of the block
  int heads_per_kv = 1;    // query rows per token
  int first_position = 0;  // position of the block's first token
  int head_dim = 0;
  bool half = false;             // keys and values are half-precision, not float
  const void* keys = nullptr;    // [position / 16][head_dim][16]
  const void* values = nullptr;  // [position][head_dim]
  const Run* runs = nullptr;     // where the positions are in them; null: all together from the beginning
  int run_count = 0;
  float* scores = nullptr;       // scratch [tokens * heads_per_kv][round_up(positions, 16)]

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
  void (*squared_relu)(const float* gate, const float* up, int n, float* y);
  void (*attend)(const Attention& a);
  void (*to_half)(const float* x, int n, uint16_t* y);
  Statistics (*statistics)(const float* logits, int n);

  // Ternary weights. Both products give the same bits; `scratch` as above, and lut_scratch(rows) bytes.
  int tokens;    // of a block of `TokenActivations::blocked`, at most
  int lut_from;  // with this many tokens or more, tables are the faster way
  void (*quantise_token)(const float* x, int cols, int8_t* q, float* scale, int32_t* sum, int32_t* total);
  void (*ternary_dot)(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                      bool add, uint8_t* scratch);
  void (*ternary_lut)(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                      bool add, uint8_t* scratch);
  // The same for dense codes.
  void (*dense_dot)(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                    bool add, uint8_t* scratch);
  void (*dense_lut)(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                    bool add, uint8_t* scratch);

  // What bounds these products, for measurements only.
  long (*product_peak)(long steps);  // products of int8 with int8 on registers only; how many were made (0: unknown)
  int (*table_rows)(const int16_t* table, const uint64_t* offsets, int count);  // adds up rows, 4 offsets of 16 bits each
  uint64_t (*read)(const uint8_t* data, size_t bytes);                          // reads a multiple of 1024 bytes
};

constexpr int kTableRows = 81 * 6;       // 6 tables of 3^4 patterns stay in the first-level cache
constexpr int kLutLines = 15;            // lines of 16 columns summed in int16: 240 * 128 < 2^15
constexpr int kLutPadding = 8;           // rows between the offsets of lines, which would share a set of the cache
constexpr int kLutTiles = 64;            // most tiles of rows that share a set of tables
constexpr int kLutGroups = 4;            // sets of 32 tokens for which the weights are unpacked once
inline size_t lut_scratch() {
  const size_t rows = size_t(kLutTiles) * kTile;
  return size_t(kTableRows) * 64 + (rows + kLutPadding) * kLutLines * 8 + rows * (64 + size_t(kLutGroups) * 256);
}

// Tokens of each of the blocks that n tokens are cut into: as equal as they come.
inline int block_tokens(int n, int most) {
  const int count = (n + most - 1) / most;
  return (n + count - 1) / count;
}
// Products of dense codes for many tokens: `unpack` writes a tile's codes at 2 bits into `scratch`, `multiply` uses them for
// all tokens.
template <typename Unpack, typename Multiply>
void multiply_unpacked(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                       bool add, uint8_t* scratch, Unpack* unpack, Multiply* multiply) {
  Matrix two = w.view();
  two.dense = false;
  two.codes.borrow(scratch, two.tile_bytes());
  for (int tile = begin; tile < end; ++tile) {
    unpack(w, tile, scratch);
    multiply(two, 0, 1, x, n, y + tile * kTile, y_stride, add, scratch);
  }
}
// Fills `blocked` for tokens [begin, end), which are a block; fills `columns` for the 32 tokens from `begin`.
void block_activations(const TokenActivations& x, int begin, int end);
void column_activations(const TokenActivations& x, int begin, int end);

const Kernels& portable_kernels();
#if EDGE_X86
const Kernels& avx2_kernels();
const Kernels& avxvnni_kernels();
const Kernels& avx512_kernels();
// `dense_dot` for processors with AVX-512 VBMI.
void dense_dot_vbmi(const Matrix& w, int begin, int end, const TokenActivations& x, int n, float* y, int y_stride,
                    bool add, uint8_t* scratch);
#endif
#if EDGE_ARM
const Kernels& neon_kernels();
const Kernels& neondot_kernels();
#endif

// Kernels this processor can run, fastest first.
std::vector<const Kernels*> supported_kernels();
// `name` is "auto" or one of the supported kernels; throws std::invalid_argument otherwise.
const Kernels& select_kernels(const std::string& name);

float half_to_float(uint16_t h);
uint16_t float_to_half(float f);

}  // namespace edge
