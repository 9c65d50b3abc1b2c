// SPDX-License-Identifier: Apache-2.0
// From blocks of GGUF files to the kernels' layout, and back to floats. Codes are bytes in between, so that four
// columns, or eight, are handled as one word whatever the processor has.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "kernels.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace edge {

namespace {

uint16_t read_u16(const uint8_t* p) { return uint16_t(p[0] | p[1] << 8); }

template <typename Word>
Word load_word(const uint8_t* p) {
  Word word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

template <typename Word>
void store_word(uint8_t* p, Word word) {
  std::memcpy(p, &word, sizeof word);
}

constexpr uint64_t each_byte(uint8_t value) { return 0x0101010101010101u * value; }

// Of 32 bytes, the `bits` lowest bits above `shift`.
void take_bits(const uint8_t* p, int shift, int bits, uint8_t* codes) {
  const uint64_t mask = each_byte(uint8_t((1 << bits) - 1));
  for (int i = 0; i < kGroup; i += 8) store_word(codes + i, load_word<uint64_t>(p + i) >> shift & mask);
}

// --- what files hold: codes of 32 weights with their scale and minimum in half precision ---

struct Block {
  uint8_t codes[kGroup];
  uint16_t scale = 0, min = 0;
};

void read_nibbles(const uint8_t* p, uint8_t* codes) {
  for (int i = 0; i < 16; i += 8) {
    const uint64_t both = load_word<uint64_t>(p + i);
    store_word(codes + i, both & each_byte(15));
    store_word(codes + 16 + i, both >> 4 & each_byte(15));
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
  for (int i = 0; i < kGroup; i += 8) store_word(b.codes + i, load_word<uint64_t>(p + 2 + i) ^ each_byte(128));
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
    b.codes[i] = uint8_t(128 + int(std::fmin(std::fmax(code, -128.0f), 127.0f)));
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

// Codes 0..63 of 256 weights; a byte for each 16 that share it follows at 192, the scale of all in half precision at 208.
void read_q6_k(const uint8_t* p, uint8_t* codes) {
  for (int part = 0; part < kTernaryBlock / kGroup; ++part, codes += kGroup) {
    const int half = part / 4, quarter = part % 4;
    uint8_t high[kGroup];
    take_bits(p + half * 64 + quarter % 2 * 32, quarter / 2 * 4, 4, codes);
    take_bits(p + 128 + half * 32, quarter * 2, 2, high);
    for (int i = 0; i < kGroup; ++i) codes[i] = uint8_t(codes[i] | high[i] << 4);
  }
}

// Codes 0..2 of 256 weights, and their scale in half precision.
uint16_t read_tq2_0(const uint8_t* p, uint8_t* codes) {
  for (int part = 0; part < kTernaryBlock / kGroup; ++part)
    take_bits(p + part / 4 * 32, part % 4 * 2, 2, codes + part * kGroup);
  return read_u16(p + 64);
}

// Digit n of a byte that holds ceil(q * 256 / 243), 0 being the most significant; `power` is 3^n.
uint8_t trit(uint8_t byte, uint8_t power) { return uint8_t(uint16_t(uint8_t(byte * power)) * 3 >> 8); }

uint16_t read_tq1_0(const uint8_t* p, uint8_t* codes) {
  static constexpr struct {
    int bytes, digits;
  } parts[] = {{32, 5}, {16, 5}, {4, 4}};
  const uint8_t* from = p;
  for (const auto& part : parts) {
    uint8_t power = 1;
    for (int n = 0; n < part.digits; ++n, codes += part.bytes, power = uint8_t(power * 3))
      for (int i = 0; i < part.bytes; ++i) codes[i] = trit(from[i], power);
    from += part.bytes;
  }
  return read_u16(p + 52);
}

// Codes 0..2 of a whole row; scales of its blocks in half precision, if the type has them.
void read_ternary(Source source, const uint8_t* p, int cols, uint8_t* codes, uint16_t* scales) {
  if (source == Source::trits) {
    for (int i = 0; i < cols; ++i) codes[i] = uint8_t(p[i] + 1);
  } else if (source == Source::i2_s) {
    for (int i = 0; i < cols; i += kGroup) take_bits(p + i / 128 * 32, 6 - i % 128 / 32 * 2, 2, codes + i);
  } else {
    const int bytes = source == Source::tq2_0 ? 66 : 54;
    for (int b = 0; b < cols / kTernaryBlock; ++b, p += bytes, codes += kTernaryBlock) {
      scales[b] = (source == Source::tq2_0 ? read_tq2_0 : read_tq1_0)(p, codes);
      if (!(scales[b] & 0x7fffu)) std::memset(codes, 1, kTernaryBlock);
    }
  }
}

// Whether all blocks have the same scale, but for those that have only zero weights.
bool one_scale(Source source, const uint8_t* data, size_t row_bytes, int rows, int cols) {
  if (source != Source::tq1_0 && source != Source::tq2_0) return true;
  const size_t bytes = source == Source::tq2_0 ? 66 : 54;  // the last two are the scale
  uint16_t common = 0;
  for (int r = 0; r < rows; ++r)
    for (int b = 0; b < cols / kTernaryBlock; ++b) {
      const uint16_t s = read_u16(data + row_bytes * size_t(r) + bytes * size_t(b + 1) - 2);
      if (!(s & 0x7fffu)) continue;
      if (common && s != common) return false;
      common = s;
    }
  return true;
}

bool all_ternary(const uint8_t* codes, size_t count) {
  uint8_t largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, codes[i]);
  return largest <= 2;
}

// --- what kernels read: see `Matrix` ---

// Four words of 4 columns each to one, with 2 bits for each column.
uint32_t four_places(const uint32_t* c) { return c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6; }

// Of 32 columns, the codes of one row.
void write_codes(uint8_t* group, int bits, int row, const uint8_t* codes) {
  constexpr int kQuads = kGroup / 4, kLine = 64;
  uint8_t* half = group + row / kLanes * (bits * kLine) + row % kLanes * 4;
  uint32_t quads[kQuads];
  std::memcpy(quads, codes, sizeof quads);
  if (bits == 2) {
    for (int line = 0; line < 2; ++line) store_word(half + line * kLine, four_places(quads + line * 4));
    return;
  }
  if (bits == 8) {
    for (int s = 0; s < kQuads; ++s) store_word(half + s * kLine, quads[s]);
    return;
  }
  for (int line = 0; line < 4; ++line)
    store_word(half + line * kLine, (quads[line] & 0x0f0f0f0fu) | (quads[line + 4] & 0x0f0f0f0fu) << 4);
  if (bits != 6) return;
  for (uint32_t& quad : quads) quad = quad >> 4 & 0x03030303u;
  for (int line = 0; line < 2; ++line) store_word(half + 256 + line * kLine, four_places(quads + line * 4));
}

int read_code(const uint8_t* group, int bits, int lane_row, int k) {
  const uint8_t* half = group + lane_row / kLanes * (bits * 64) + lane_row % kLanes * 4;
  if (bits == 2) return half[k / 16 * 64 + k % 4] >> (k % 16 / 4 * 2) & 3;
  if (bits == 8) return half[k / 4 * 64 + k % 4];
  const int low = half[k % 16 / 4 * 64 + k % 4] >> (k < 16 ? 0 : 4) & 15;
  return bits == 4 ? low : low | (half[256 + k / 16 * 64 + k % 4] >> (k % 16 / 4 * 2) & 3) << 4;
}

// --- where they lie ---

struct Chunk {
  std::weak_ptr<uint8_t> memory;
  size_t used, size;
};

constexpr size_t kPage = size_t(1) << 21;

std::shared_ptr<uint8_t> take_pages(size_t bytes) {
  const auto free = [](uint8_t* p) { ::operator delete(p, std::align_val_t(kPage)); };
  std::shared_ptr<uint8_t> memory(static_cast<uint8_t*>(::operator new(bytes, std::align_val_t(kPage))), free);
#ifdef MADV_HUGEPAGE
  madvise(memory.get(), bytes, MADV_HUGEPAGE);  // only a wish
#endif
  return memory;
}

// Memory for the codes of many matrices, side by side in 2 MiB pages: one of 1.6 MB alone would get none, and at the
// edge of a small page a stream of weights waits for the table of pages. A chunk goes when all of its matrices have;
// until then what is left of it is for matrices that fit.
std::shared_ptr<void> take_codes(size_t bytes, uint8_t** data) {
  constexpr size_t kChunk = 64 * kPage, kLine = 64;
  static std::mutex mutex;
  static std::vector<Chunk> chunks;
  const std::lock_guard<std::mutex> lock(mutex);
  bytes = (bytes + kLine - 1) / kLine * kLine;
  chunks.erase(std::remove_if(chunks.begin(), chunks.end(), [](const Chunk& c) { return c.memory.expired(); }),
               chunks.end());
  for (Chunk& chunk : chunks)
    if (std::shared_ptr<uint8_t> memory = chunk.memory.lock(); memory && chunk.size - chunk.used >= bytes) {
      *data = memory.get() + chunk.used;
      chunk.used += bytes;
      return memory;
    }
  const size_t size = std::max(kChunk, (bytes + kPage - 1) / kPage * kPage);
  std::shared_ptr<uint8_t> memory = take_pages(size);
  chunks.push_back({memory, bytes, size});
  *data = memory.get();
  return memory;
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
    shape_ternary(rows_in, cols_in, dense_in && one_scale(source, data, row_bytes, rows_in, cols_in));
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
  if (rows % kTile) std::memset(codes.data() + size_t(tiles - 1) * tile_bytes(), 0, tile_bytes());
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
      const uint8_t* block = data + row_bytes * size_t(r) + size_t(b) * 210;
      uint8_t row_codes[kTernaryBlock];
      read_q6_k(block, row_codes);
      uint8_t* group = codes.data() + size_t(r / kTile) * tile_bytes() + size_t(b) * kGroups * group_bytes();
      for (int g = 0; g < kGroups; ++g, group += group_bytes()) {
        write_codes(group, bits, r % kTile, row_codes + g * kGroup);
        uint8_t* own = group + group_bytes() - 2 * kTile + r % kTile;
        own[0] = block[192 + 2 * g], own[kTile] = block[192 + 2 * g + 1];
      }
      scales[(size_t(r / kTile) * blocks() + b) * kTile + r % kTile] = read_u16(block + 208);
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
    for (int g = 0; g < groups; ++g)
      write_codes(tile + size_t(g) * group_bytes(), bits, row % kTile, row_codes + g * kGroup);
    return;
  }
  for (int line = 0; line < dense_lines(); ++line) {
    uint8_t line_codes[kDenseColumns];
    const int count = std::min(kDenseColumns, groups * kGroup - line * kDenseColumns);
    std::memset(line_codes, 1, sizeof line_codes);
    std::memcpy(line_codes, row_codes + line * kDenseColumns, size_t(count));
    uint32_t sums = 0;  // 4 bytes, none above 242
    for (int i = kDenseColumns - 4; i >= 0; i -= 4) sums = sums * 3 + load_word<uint32_t>(line_codes + i);
    store_word(tile + line * kTile * 4 + row % kTile * 4, sums);
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
  if (blocked) scales.resize_zero(size_t(tiles) * count * kTile);
  std::vector<uint8_t> row(size_t(groups) * kGroup, 1);
  std::vector<uint16_t> row_scales(size_t(count), 0);
  uint16_t common = 0;
  bool equal = true;
  for (int r = 0; r < tiles * kTile; ++r) {
    if (r < rows) {
      read_ternary(source, data + row_bytes * size_t(r), cols, row.data(), row_scales.data());
      if (!all_ternary(row.data(), row.size())) throw std::invalid_argument("the weights are not ternary");
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

}  // namespace edge
