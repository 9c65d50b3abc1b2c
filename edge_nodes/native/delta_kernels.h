// SPDX-License-Identifier: Apache-2.0
// Attention over coded keys: changes against the last propagated value, or plain int8; 16 keys to a tile.
#pragma once

#include <cstdint>
#include <string>

#include "kernels.h"

namespace edge {

constexpr int kRefreshTiles = 16;  // tiles after which keys are coded from zero again: running sums restart there
constexpr int kCodePad = 64;       // bytes beyond the codes that kernels may read
constexpr int kLargestCode = 127;

// What a change has beyond the range of a code.
struct Escape {
  int32_t tile;
  int16_t key, channel;
  int32_t extra;
};

// Keys of one head: changes in steps of `step[channel]`, the zeros left out. Tile t has `quads` masks (of 4 channels):
// bit 4 * key + channel says whether the change is there; those that are follow each other in `codes`, in that order.
struct DeltaTiles {
  int tiles = 0, quads = 0;
  const uint64_t* masks = nullptr;
  const int8_t* codes = nullptr;
  const uint32_t* starts = nullptr;  // [tile], of its codes
  const Escape* escapes = nullptr;  // by tile
  size_t escape_count = 0;
  // Values to fetch meanwhile: spreading the changes leaves the memory idle.
  const char* values = nullptr;
  size_t value_bytes = 0;  // of a tile
};

// Rows of queries in 8 bits: q[channel] = scale * code, or in 14 if `fine`: scale * (128 * code + low).
// Codes are bytes, with the kernel's `code_zero` added; `low` is 0 to 127.
struct CodedQueries {
  int rows = 0, quads = 0;
  bool fine = false;
  uint32_t* codes = nullptr;  // [row][quad], 4 channels to a word
  uint32_t* low = nullptr;    // the same; unused unless fine
  float* scale = nullptr;     // [row]
};

// Integer products are exact, so that a row's result never depends on the rows beside it.
struct DeltaKernels {
  const char* name;
  int code_zero, fine_zero;  // byte that stands for a query's code 0
  // What has to change of `reference` (in steps) to follow a key: nothing within theta, unless `full`. The reference
  // follows. Returns how many changes are zero.
  int (*code_key)(const float* key, const float* theta, const float* step, int dim, bool full, int32_t* reference,
                  int32_t* change);
  // Masks and packed codes of a tile [quad][16 keys][4 channels]; `codes` has room for 64 bytes a quad. Returns the
  // number of codes.
  int (*pack_tile)(const int8_t* lines, int quads, uint64_t* masks, int8_t* codes);
  // Codes `rows` of `queries` from floats, each channel times `step` (if any) first.
  void (*code_queries)(const Attention& a, const float* step, const CodedQueries& queries);
  // Scores of keys [first, until[row]) by running sums of the products with the changes.
  void (*delta_scores)(const DeltaTiles& keys, const CodedQueries& queries, int first, const int* until, float* scores,
                       int stride);
  // Scores of all keys of tiles [tile][quad][16 keys][4 channels], each times its scale.
  void (*int8_scores)(const int8_t* keys, const float* key_scales, int tiles, const CodedQueries& queries,
                      float* scores, int stride);
  // Scores of half-precision keys in blocks [begin, end) of 16; `a.keys` is block `begin`.
  void (*exact_scores)(const Attention& a, int begin, int end, int stride);
  // Softmax of the scores, and the values' mean: half precision, or int8 with a scale per position.
  void (*weigh)(const Attention& a, int stride);
  void (*weigh_int8)(const Attention& a, const float* value_scales, int stride);
};

const DeltaKernels& portable_delta_kernels();
#if EDGE_X86
const DeltaKernels& avx2_delta_kernels();
const DeltaKernels& avx512_delta_kernels();
#endif

// The kernels for the instruction set `name` (of `Kernels`), or the best below it that the processor has.
const DeltaKernels& delta_kernels(const std::string& name);
}  // namespace edge
