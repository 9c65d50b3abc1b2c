// SPDX-License-Identifier: Apache-2.0
// Float kernels, written once in vector extensions; each kernels_*.cpp includes this inside its own namespace and
// under its own target, so include no header and define nothing with external linkage here. The includer defines
// kFloats, the floats of one register: compilers take wider vectors apart lane by lane.

typedef float Vec __attribute__((vector_size(4 * kFloats)));
typedef float VecAny __attribute__((vector_size(4 * kFloats), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(4 * kFloats)));
#define EDGE_INLINE static inline __attribute__((always_inline))

EDGE_INLINE Vec load(const float* p) { return *reinterpret_cast<const VecAny*>(p); }
EDGE_INLINE void store(float* p, const Vec& v) { *reinterpret_cast<VecAny*>(p) = v; }

#ifdef EDGE_LOAD_HALF
EDGE_INLINE Vec load(const uint16_t* p) { return (Vec)EDGE_LOAD_HALF(p); }
#else
typedef uint16_t HalfAny __attribute__((vector_size(2 * kFloats), aligned(2), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * kFloats)));
EDGE_INLINE Vec load(const uint16_t* p) {
  const Bits h = __builtin_convertvector(*reinterpret_cast<const HalfAny*>(p), Bits);
  const Vec magnitude = (Vec)((h & 0x7fff) << 13) * 5.192296858534828e33f;  // 2^112: the difference of the biases
  return (Vec)((Bits)magnitude | (h & 0x8000) << 16);
}
#endif

static void to_half(const float* x, int n, uint16_t* y) {
#ifdef EDGE_STORE_HALF
  for (int i = 0; i < n; i += kFloats) EDGE_STORE_HALF(y + i, load(x + i));
#else
  for (int i = 0; i < n; ++i) y[i] = float_to_half(x[i]);
#endif
}

EDGE_INLINE Vec load(const int8_t* p) {
#ifdef EDGE_LOAD_BYTES
  return (Vec)EDGE_LOAD_BYTES(p);
#else
  typedef int8_t BytesAny __attribute__((vector_size(kFloats), aligned(1), may_alias));
  return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const BytesAny*>(p), IntVec), Vec);
#endif
}

EDGE_INLINE Vec splat(float x) { return x - Vec{}; }
EDGE_INLINE Vec larger(const Vec& a, const Vec& b) { return a > b ? a : b; }

EDGE_INLINE float sum_lanes(const Vec& v) {
  float s[kFloats];
  store(s, v);
  for (int step = kFloats / 2; step; step /= 2)
    for (int i = 0; i < step; ++i) s[i] += s[i + step];
  return s[0];
}

EDGE_INLINE float max_lanes(const Vec& v) {
  float m = v[0];
  for (int i = 1; i < kFloats; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x to 2 units in the last place for x in [-87, 88]; smaller x give 0.
EDGE_INLINE Vec exponential(const Vec& value) {
  Vec x = value;
  const Vec low = splat(-87.0f), high = splat(88.0f);
  const IntVec underflow = x < low;
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = (x * 1.44269504f + magic) - magic;
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
  p = p * (Vec)power;
  return underflow ? Vec{} : p;
}

static void quantise(const float* x, int groups, int8_t* q, float* scale, int32_t* sum, float* scaled_sum) {
  for (int g = 0; g < groups; ++g, x += kGroup, q += kGroup) {
    Vec most{};
    for (int i = 0; i < kGroup; i += kFloats) most = larger(most, larger(load(x + i), -load(x + i)));
    const float largest = max_lanes(most);
    const float inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    for (int half = 0; half < 2; ++half) {
      int total = 0;
      for (int i = half * kHalf; i < (half + 1) * kHalf; ++i) {
        const int code = int(__builtin_rintf(x[i] * inverse));
        q[i] = int8_t(code);
        total += code;
      }
      sum[2 * g + half] = total;
    }
    scale[g] = largest / 127.0f;
    scaled_sum[g] = scale[g] * float(sum[2 * g] + sum[2 * g + 1]);
  }
}

// One scale for the whole token: BitNet's rule, with 1e-5 as the least maximum.
static void quantise_token(const float* x, int cols, int8_t* q, float* scale, int32_t* sum, int32_t* total) {
  Vec most{};
  for (int i = 0; i < cols; i += kFloats) most = larger(most, larger(load(x + i), -load(x + i)));
  const float top = max_lanes(most), largest = top > 1e-5f ? top : 1e-5f, inverse = 127.0f / largest;
  *total = 0;
  for (int begin = 0; begin < cols; begin += kTernaryBlock) {
    const int end = begin + kTernaryBlock < cols ? begin + kTernaryBlock : cols;
    int block = 0;
    for (int i = begin; i < end; ++i) {
      const int code = int(__builtin_rintf(x[i] * inverse));
      q[i] = int8_t(code);
      block += code;
    }
    *sum++ = block;
    *total += block;
  }
  *scale = largest / 127.0f;
}

static void rms_norm(const float* x, const float* weight, int n, int padded, float eps, float* y) {
  Vec squares{};
  for (int i = 0; i < padded; i += kFloats) squares += load(x + i) * load(x + i);
  const float r = 1.0f / __builtin_sqrtf(sum_lanes(squares) / float(n) + eps);
  for (int i = 0; i < padded; i += kFloats) store(y + i, load(x + i) * r * load(weight + i));
}

static void swiglu(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i += kFloats) {
    const Vec g = load(gate + i);
    store(y + i, g / (1.0f + exponential(-g)) * load(up + i));
  }
}

static void squared_relu(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i += kFloats) {
    const Vec g = larger(load(gate + i), Vec{});
    store(y + i, g * g * load(up + i));
  }
}

constexpr int kChains = kFloats == 16 ? 16 : 8;  // sums in registers that hide the latency of a multiply-add
constexpr int kMixKeys = 256;                    // keys whose values stay in the cache for all columns

constexpr int kNextBytes = 4096;  // bytes; the processor by itself does not look beyond a page

// Scores of `Blocks` blocks of 16 keys. A score's order of additions depends on nothing but head_dim.
template <int Rows, int Blocks, typename T>
EDGE_INLINE void score_blocks(const float* const* q, int dim, const T* keys, float* scores, int stride) {
  constexpr int kParts = Blocks * kKeyBlock / kFloats;
  const size_t bytes = size_t(Blocks) * dim * kKeyBlock * sizeof(T);
  Vec acc[Rows][kParts] = {};
  for (int d = 0; d < dim; ++d) {
    const char* next = reinterpret_cast<const char*>(keys) + bytes + bytes / dim * d;
    for (size_t at = 0; at < bytes / dim; at += 64) __builtin_prefetch(next + at);
    Vec k[kParts];
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) {
      const int block = p * kFloats / kKeyBlock, part = p * kFloats % kKeyBlock;
      k[p] = load(keys + (size_t(block) * dim + d) * kKeyBlock + part);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < kParts; ++p) acc[r][p] += k[p] * q[r][d];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kParts; ++p) store(scores + r * stride + p * kFloats, acc[r][p]);
  }
}

// Scores of rows [row, row + Rows) for blocks [begin, end); `keys` is block `begin`.
template <int Rows, typename T>
EDGE_INLINE void score_rows(const Attention& a, int row, const T* keys, int begin, int end, int stride) {
  constexpr int kMost = kChains * kFloats / kKeyBlock / Rows, kBlocks = kMost > 4 ? 4 : kMost > 0 ? kMost : 1;
  const float* q[Rows];
  for (int r = 0; r < Rows; ++r) q[r] = a.q + a.row(row + r);
  const size_t block = size_t(a.head_dim) * kKeyBlock;
  float* scores = a.scores + size_t(row) * stride;
  int b = begin;
  for (; b + kBlocks <= end; b += kBlocks, keys += kBlocks * block)
    score_blocks<Rows, kBlocks>(q, a.head_dim, keys, scores + b * kKeyBlock, stride);
  for (; b < end; ++b, keys += block) score_blocks<Rows, 1>(q, a.head_dim, keys, scores + b * kKeyBlock, stride);
}

// Adds the weighted values of keys [begin, end) to columns [d, d + Parts * kFloats), or starts with them; the value of
// key k is row k + shift.
template <int Rows, int Parts, typename T>
EDGE_INLINE void mix_columns(const Attention& a, int row, int d, int begin, int end, ptrdiff_t shift, int stride) {
  Vec acc[Rows][Parts] = {};
  float* out[Rows];
  const float* weights[Rows];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    out[r] = a.out + a.row(row + r) + d;
    weights[r] = a.scores + size_t(row + r) * stride;
#pragma GCC unroll 8
    for (int p = 0; p < Parts && begin; ++p) acc[r][p] = load(out[r] + p * kFloats);
  }
  const T* v = static_cast<const T*>(a.values) + size_t(begin + shift) * a.head_dim + d;
  // Whole rows at once: from a part of each, the processor would not see that they follow each other.
  const size_t fetched = d ? 0 : size_t(a.head_dim) * sizeof(T);
  for (int k = begin; k < end; ++k, v += a.head_dim) {
    Vec value[Parts];
    for (size_t at = 0; at < fetched; at += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(v) + kNextBytes + at);
#pragma GCC unroll 8
    for (int p = 0; p < Parts; ++p) value[p] = load(v + p * kFloats);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < Parts; ++p) acc[r][p] += value[p] * weights[r][k];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < Parts; ++p) store(out[r] + p * kFloats, acc[r][p]);
  }
}

template <int Rows, typename T>
EDGE_INLINE void mix_rows(const Attention& a, int row, int first, int last, ptrdiff_t shift, int stride) {
  constexpr int kMost = kChains / Rows, kParts = kMost > 4 ? 4 : kMost > 2 ? kMost / 2 * 2 : 2;
  for (int begin = first; begin < last; begin += kMixKeys) {
    const int end = begin + kMixKeys < last ? begin + kMixKeys : last;
    int d = 0;
    for (; d + kParts * kFloats <= a.head_dim; d += kParts * kFloats)
      mix_columns<Rows, kParts, T>(a, row, d, begin, end, shift, stride);
    for (; d < a.head_dim; d += 2 * kFloats) mix_columns<Rows, 2, T>(a, row, d, begin, end, shift, stride);
  }
}

// Calls f(first block, end, where the first one is) for the parts of blocks [0, blocks) that lie together.
template <typename F>
EDGE_INLINE void each_run(const Attention& a, int blocks, F&& f) {
  if (!a.run_count) return f(0, blocks, 0);
  for (const Run* r = a.runs; r < a.runs + a.run_count && r->first < blocks; ++r)
    f(r->first, r->first + r->count < blocks ? r->first + r->count : blocks, r->at);
}

// Calls f(row, number of rows) for all rows, 6 at most at a time; the number is a compile-time constant.
template <typename F>
EDGE_INLINE void in_rows(int rows, F&& f) {
  int row = 0;
  for (; row + 6 <= rows; row += 6) f(row, std::integral_constant<int, 6>());
  switch (rows - row) {
    case 5:
      f(row, std::integral_constant<int, 3>());
      return f(row + 3, std::integral_constant<int, 2>());
    case 4:
      return f(row, std::integral_constant<int, 4>());
    case 3:
      return f(row, std::integral_constant<int, 3>());
    case 2:
      return f(row, std::integral_constant<int, 2>());
    case 1:
      return f(row, std::integral_constant<int, 1>());
    default:
      return;
  }
}

// Turns the first `keys` scores into weights that sum to 1 and clears the rest up to `stride`.
EDGE_INLINE void softmax(float* s, int keys, int stride) {
  Vec best = splat(s[0]);
  for (int i = keys; i < stride; ++i) s[i] = -1e30f;
  for (int i = 0; i < stride; i += kFloats) best = larger(best, load(s + i));
  const float top = max_lanes(best);
  Vec total{};
  for (int i = 0; i < stride; i += kFloats) {
    const Vec e = exponential(load(s + i) - top);
    total += e;
    store(s + i, e);
  }
  const float inverse = 1.0f / sum_lanes(total);
  for (int i = 0; i < stride; i += kFloats) store(s + i, load(s + i) * inverse);
}

template <typename T>
EDGE_INLINE void mix(const Attention& a, int stride) {
  const int keys = a.first_position + a.tokens;
  each_run(a, (keys + kKeyBlock - 1) / kKeyBlock, [&](int begin, int end, int at) {
    const int first = begin * kKeyBlock, last = end * kKeyBlock < keys ? end * kKeyBlock : keys;
    const ptrdiff_t shift = ptrdiff_t(at - begin) * kKeyBlock;
    in_rows(a.tokens * a.heads_per_kv,
            [&](int row, auto count) { mix_rows<count, T>(a, row, first, last, shift, stride); });
  });
}

EDGE_INLINE void softmax_rows(const Attention& a, int stride) {
  for (int r = 0; r < a.tokens * a.heads_per_kv; ++r)
    softmax(a.scores + size_t(r) * stride, a.first_position + r / a.heads_per_kv + 1, stride);
}

template <typename T>
EDGE_INLINE void score(const Attention& a, const T* keys, int begin, int end, int stride) {
  in_rows(a.tokens * a.heads_per_kv,
          [&](int row, auto count) { score_rows<count>(a, row, keys, begin, end, stride); });
}

template <typename T>
static void attend_over(const Attention& a) {
  const int blocks = (a.first_position + a.tokens + kKeyBlock - 1) / kKeyBlock, stride = blocks * kKeyBlock;
  const T* keys = static_cast<const T*>(a.keys);
  const size_t block = size_t(a.head_dim) * kKeyBlock;
  each_run(a, blocks, [&](int begin, int end, int at) { score(a, keys + size_t(at) * block, begin, end, stride); });
  softmax_rows(a, stride);
  mix<T>(a, stride);
}

static void attend(const Attention& a) { a.half ? attend_over<uint16_t>(a) : attend_over<float>(a); }

static Statistics statistics(const float* logits, int n) {
  constexpr int kBlock = 32 * kFloats;  // summed in float, the blocks in double
  const int whole = n / kBlock * kBlock;
  int best = 0;
  for (int start = 0; start < whole; start += kBlock) {
    Vec most = load(logits + start);
    for (int i = start; i < start + kBlock; i += kFloats) most = larger(most, load(logits + i));
    if (max_lanes(most) > logits[best])
      for (best = start; logits[best] != max_lanes(most);) ++best;
  }
  for (int i = whole; i < n; ++i)
    if (logits[i] > logits[best]) best = i;
  const float top = logits[best];
  double total = 0.0, weighted = 0.0;
  for (int start = 0; start < whole; start += kBlock) {
    Vec sum{}, product{};
    for (int i = start; i < start + kBlock; i += kFloats) {
      const Vec x = load(logits + i) - top, e = exponential(x);
      sum += e;
      product += e * larger(x, splat(-1e4f));
    }
    total += sum_lanes(sum);
    weighted += sum_lanes(product);
  }
  for (int i = whole; i < n; ++i) {
    const double x = double(logits[i]) - top, e = __builtin_exp(x);
    total += e;
    weighted += e > 0.0 ? e * x : 0.0;
  }
  const double log_total = __builtin_log(total);
  return {best, float(top + log_total), float(log_total - weighted / total)};
}
