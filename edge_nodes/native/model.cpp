// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace edge {

namespace {

constexpr int kHeadRows = 16;  // rows of logits that are made together
constexpr int kFewChunks = 4;  // less work than this is not worth the other threads

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

// Rotates pairs (2i, 2i + 1), the order in which GGUF stores Llama's query and key rows.
void rotate_pairs(float* head, const float* cos, const float* sin, int pairs) {
  for (int i = 0; i < pairs; ++i) {
    const float a = head[2 * i], b = head[2 * i + 1];
    head[2 * i] = a * cos[i] - b * sin[i];
    head[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

// Rotates pairs (i, pairs + i), as BitNet does.
void rotate_halves(float* head, const float* cos, const float* sin, int pairs) {
  for (int i = 0; i < pairs; ++i) {
    const float a = head[i], b = head[pairs + i];
    head[i] = a * cos[i] - b * sin[i];
    head[pairs + i] = a * sin[i] + b * cos[i];
  }
}

// Sum of squares of a unit of columns, in 16 lanes whatever the processor has.
float squares(const float* x, int n) {
  constexpr int kSums = 16;
  float sums[kSums] = {};
  int i = 0;
  for (; i + kSums <= n; i += kSums)
    for (int j = 0; j < kSums; ++j) sums[j] += x[i + j] * x[i + j];
  for (int j = 0; i < n; ++i, ++j) sums[j] += x[i] * x[i];
  for (int step = kSums / 2; step; step /= 2)
    for (int j = 0; j < step; ++j) sums[j] += sums[j + step];
  return sums[0];
}

}  // namespace

Model::Model(const ModelConfig& config)
    : config_(config),
      kernels_(select_kernels(config.kernel)),
      pool_(std::max(1, config.threads)),
      blocks_(2 * std::max(0, config.layers)) {
  const ModelConfig& c = config_;
  require(c.vocabulary > 0 && c.width > 0 && c.hidden > 0 && c.layers > 0, "sizes must be positive");
  require(c.heads > 0 && c.kv_heads > 0 && c.heads % c.kv_heads == 0, "heads must be a multiple of kv_heads");
  require(c.head_dim % 32 == 0 && c.head_dim > 0, "head_dim must be a multiple of 32");
  require(c.rope_dim % 2 == 0 && c.rope_dim > 0 && c.rope_dim <= c.head_dim,
          "rope_dim must be even and at most head_dim");
  method_of(c.method);
  require(c.context > 0 && c.batch > 0 && c.slots > 0, "context, batch and slots must be positive");
  width_ = round_up(c.width, kGroup);
  hidden_ = round_up(c.hidden, kGroup);
  query_ = c.heads * c.head_dim;
  kv_ = c.kv_heads * c.head_dim;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    blocks_[i].norm.resize_zero(size_t(width_));
    if (c.bitnet) blocks_[i].sub_norm.resize_zero(size_t(i % 2 ? hidden_ : query_));
  }
  output_norm_.resize_zero(size_t(width_));
  set_columns();
  const CacheShape shape{c.slots, c.layers, c.kv_heads, c.head_dim, c.heads / c.kv_heads, c.context};
  cache_ = make_cache(c.cache, shape, kernels_);
  const size_t batch = size_t(c.batch);
  x_.resize_zero(batch * width_);
  normed_.resize_zero(size_t(pool_.threads()) * width_);
  q_.resize_zero(batch * query_);
  k_.resize_zero(batch * kv_);
  v_.resize_zero(batch * kv_);
  mixed_.resize_zero(batch * query_);
  gate_.resize_zero(batch * hidden_);
  up_.resize_zero(batch * hidden_);
  const int widest = std::max({width_, hidden_, query_});
  codes_.resize_zero(batch * widest);
  code_scales_.resize_zero(batch * widest / kGroup);
  code_sums_.resize_zero(batch * widest / kGroup);
  code_totals_.resize_zero(batch * widest / kHalf);
  scratch_size_ = size_t(widest / kGroup) * kScratch;
  scratch_.resize(scratch_size_ * pool_.threads());
  scores_.resize(cache_->score_floats() * pool_.threads());
}

// Sums over the heads are made a group of them at a time, those over hidden columns a unit of these.
void Model::set_columns() {
  const ModelConfig& c = config_;
  const int per_group = c.heads / c.kv_heads, whole_heads = c.whole_heads ? c.whole_heads : c.heads;
  const int whole = c.whole_hidden ? c.whole_hidden : c.hidden, last_column = c.first_column + c.hidden;
  const int unit = c.column_unit ? c.column_unit : unit_of(whole, kGroup);
  const auto units = [&](int columns) { return (columns + unit - 1) / unit; };
  require(whole_heads % per_group == 0 && c.first_kv_head >= 0 &&
              (c.first_kv_head + c.kv_heads) * per_group <= whole_heads,
          "the heads of a share must be whole groups of the model's");
  require(unit > 0 && unit % kGroup == 0 && c.first_column >= 0 && c.first_column % unit == 0 && last_column <= whole &&
              (last_column % unit == 0 || last_column == whole),
          "the hidden columns of a share must be whole units of the model's");
  head_columns_ = {query_, whole_heads * c.head_dim,
                   SumTree(per_group * c.head_dim, whole_heads / per_group, c.first_kv_head,
                           c.first_kv_head + c.kv_heads),
                   Reduce::heads};
  hidden_columns_ = {c.hidden, whole, SumTree(unit, units(whole), c.first_column / unit, units(last_column)),
                     Reduce::columns};
}

Matrix* Model::find_matrix(const std::string& name, int* rows, int* cols) {
  const ModelConfig& c = config_;
  auto found = [&](Matrix& m, int r, int k) {
    *rows = r;
    *cols = k;
    return &m;
  };
  if (name == "token_embd") return found(embedding_, c.vocabulary, c.width);
  if (name == "output") return found(output_, c.vocabulary, c.width);
  for (int i = 0; i < c.layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    Block &attention = blocks_[2 * size_t(i)], &feed = blocks_[2 * size_t(i) + 1];
    const std::string part = name.substr(prefix.size());
    if (part == "attn_q") return found(attention.in[0], query_, c.width);
    if (part == "attn_k") return found(attention.in[1], kv_, c.width);
    if (part == "attn_v") return found(attention.in[2], kv_, c.width);
    if (part == "attn_output") return found(attention.out, c.width, query_);
    if (part == "ffn_gate") return found(feed.in[0], c.hidden, c.width);
    if (part == "ffn_up") return found(feed.in[1], c.hidden, c.width);
    if (part == "ffn_down") return found(feed.out, c.width, c.hidden);
  }
  return nullptr;
}

Buffer<float>* Model::find_vector(const std::string& name, int* size) {
  *size = config_.width;
  if (name == "output_norm") return &output_norm_;
  for (int i = 0; i < config_.layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    Block &attention = blocks_[2 * size_t(i)], &feed = blocks_[2 * size_t(i) + 1];
    if (name == prefix + "attn_norm") return &attention.norm;
    if (name == prefix + "ffn_norm") return &feed.norm;
    if (!config_.bitnet) continue;
    if (name == prefix + "attn_sub_norm") return *size = query_, &attention.sub_norm;
    if (name == prefix + "ffn_sub_norm") return *size = config_.hidden, &feed.sub_norm;
  }
  return nullptr;
}

Matrix* Model::checked_matrix(const std::string& name, bool ternary, int rows, int cols) {
  int want_rows = 0, want_cols = 0;
  Matrix* matrix = find_matrix(name, &want_rows, &want_cols);
  if (!matrix) return nullptr;
  if (rows != want_rows || cols != want_cols)
    throw std::invalid_argument(name + " has shape " + std::to_string(rows) + " x " + std::to_string(cols) +
                                "; expected " + std::to_string(want_rows) + " x " + std::to_string(want_cols));
  if (ternary) use_ternary();
  return matrix;
}

void Model::use_ternary() {
  if (ternary_.empty())
    ternary_ = TernaryWork(config_.batch, std::max({width_, hidden_, query_}), pool_.threads(),
                           method_of(config_.method));
}

bool Model::set_matrix(const std::string& name, Source source, const uint8_t* data, size_t row_bytes, int rows,
                       int cols, float tensor_scale) {
  Matrix* matrix = checked_matrix(name, is_ternary(source), rows, cols);
  if (matrix) matrix->pack(source, data, row_bytes, rows, cols, tensor_scale, config_.dense && is_ternary(source));
  return matrix != nullptr;
}

bool Model::set_packed(const std::string& name, const Matrix& packed) {
  Matrix* matrix = checked_matrix(name, packed.ternary(), packed.rows, packed.cols);
  if (matrix) *matrix = packed.view();
  return matrix != nullptr;
}

bool Model::scale_matrix(const std::string& name, float factor) {
  int rows = 0, cols = 0;
  Matrix* matrix = find_matrix(name, &rows, &cols);
  if (!matrix || !matrix->ternary()) return false;
  if (matrix->scales.size()) throw std::invalid_argument(name + " has scales of its own for each block");
  matrix->scale *= factor;
  return true;
}

bool Model::set_vector(const std::string& name, const float* data, int size) {
  int want = 0;
  Buffer<float>* vector = find_vector(name, &want);
  if (!vector) return false;
  if (size != want)
    throw std::invalid_argument(name + " has " + std::to_string(size) + " values; expected " + std::to_string(want));
  std::copy(data, data + size, vector->data());
  vectors_set_.push_back(vector);
  return true;
}

void Model::set_rope(const float* frequencies) {
  const int pairs = config_.rope_dim / 2;
  cos_.resize(size_t(config_.context) * pairs);
  sin_.resize(cos_.size());
  for (int p = 0; p < config_.context; ++p)
    for (int i = 0; i < pairs; ++i) {
      const double angle = double(p) * double(frequencies[i]);
      cos_[size_t(p) * pairs + i] = float(std::cos(angle) * config_.rope_magnitude);
      sin_[size_t(p) * pairs + i] = float(std::sin(angle) * config_.rope_magnitude);
    }
}

std::vector<std::string> Model::missing() const {
  std::vector<std::string> names;
  if (!embedding_.rows && !rows_) names.push_back("token_embd");
  if (!cos_.size()) names.push_back("rope frequencies");
  if (source_) return names;
  static const char* const matrices[2][4] = {{"attn_q", "attn_k", "attn_v", "attn_output"},
                                             {"ffn_gate", "ffn_up", "", "ffn_down"}};
  static const char* const norms[2][2] = {{"attn_norm", "attn_sub_norm"}, {"ffn_norm", "ffn_sub_norm"}};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const std::string prefix = "blk." + std::to_string(i / 2) + ".";
    const Matrix* parts[] = {&block.in[0], &block.in[1], &block.in[2], &block.out};
    for (size_t p = 0; p < 4; ++p)
      if (*matrices[i % 2][p] && !parts[p]->rows) names.push_back(prefix + matrices[i % 2][p]);
    const Buffer<float>* vectors[] = {&block.norm, &block.sub_norm};
    for (size_t p = 0; p < 2; ++p)
      if (vectors[p]->size() && std::find(vectors_set_.begin(), vectors_set_.end(), vectors[p]) == vectors_set_.end())
        names.push_back(prefix + norms[i % 2][p]);
  }
  return names;
}

size_t Model::weight_bytes() const {
  size_t total = embedding_.bytes() + output_.bytes();
  for (size_t i = 0; i < blocks_.size(); ++i) total += blocks_[i].bytes();
  return total;
}

std::vector<std::pair<int, int>> Model::ternary_shapes() const {
  std::vector<std::pair<int, int>> shapes;
  const auto note = [&](const Matrix& m) {
    const std::pair<int, int> shape{m.rows, m.cols};
    if (m.rows && m.ternary() && std::find(shapes.begin(), shapes.end(), shape) == shapes.end()) shapes.push_back(shape);
  };
  for (size_t i = 0; i < blocks_.size(); ++i) {
    for (const Matrix& m : blocks_[i].in) note(m);
    note(blocks_[i].out);
  }
  return shapes;
}

void Model::set_table_choices(std::vector<TableChoice> choices) {
  use_ternary();
  ternary_.set_choices(std::move(choices));
}

size_t Model::work_bytes() const {
  const size_t rope = size_t(config_.context) * size_t(config_.rope_dim) * sizeof(float);  // counts before it is made
  size_t total = ternary_.bytes() + rope + scores_.bytes() + scratch_.bytes() + codes_.bytes() + code_scales_.bytes() +
                 code_sums_.bytes() + code_totals_.bytes();
  for (const Buffer<float>* b : {&x_, &normed_, &q_, &k_, &v_, &mixed_, &gate_, &up_, &logits_, &partial_})
    total += b->bytes();
  return total;
}

template <typename Work>
void Model::each_token(int n, Work&& work) {
  pool_.run(n, [&](int token, int thread) {
    if constexpr (std::is_invocable_v<Work, int, int>)
      work(token, thread);
    else
      work(token);
  });
}

Model::Inputs Model::inputs(int cols, std::initializer_list<const Matrix*> matrices) {
  Inputs in;
  for (const Matrix* m : matrices) (m->ternary() ? in.ternary : in.grouped) = true;
  in.groups = {cols / kGroup, codes_.data(), code_scales_.data(), code_totals_.data(), code_sums_.data()};
  if (in.ternary) {
    use_ternary();
    in.tokens = ternary_.activations(cols);
  }
  return in;
}

void Model::quantise_row(const float* x, Inputs& in, int token) {
  if (in.grouped) {
    const Activations& a = in.groups;
    const size_t at = size_t(token) * a.groups;
    kernels_.quantise(x, a.groups, a.q + at * kGroup, a.scale + at, a.sum + 2 * at, a.scaled_sum + at);
  }
  if (in.ternary) {
    const TokenActivations& a = in.tokens;
    kernels_.quantise_token(x, a.cols(), a.q + size_t(token) * a.cols(), a.scale + token,
                            a.sum + size_t(token) * a.blocks, a.total + token);
  }
}

// Token `row`, normalised and quantised, becomes the `token`-th input.
void Model::normalise(int row, const Buffer<float>& weights, Inputs& a, int token, int thread) {
  float* normed = normed_.data() + size_t(thread) * width_;
  kernels_.rms_norm(x_.data() + size_t(row) * width_, weights.data(), config_.width, width_, config_.epsilon, normed);
  quantise_row(normed, a, token);
}

void Model::multiply(std::initializer_list<Product> products, const Inputs& x, int n, bool add) {
  constexpr size_t kMost = 3;
  Product ternary[kMost], grouped[kMost];
  int ternaries = 0, others = 0;
  for (const Product& p : products) {
    if (p.matrix->ternary())
      ternary[ternaries++] = p;
    else
      grouped[others++] = p;
  }
  if (ternaries) ternary_.multiply(pool_, kernels_, ternary, ternaries, x.tokens, n, add);
  if (others)
    multiply_grouped(pool_, kernels_, grouped, others, x.groups, n, add, scratch_.data(), scratch_size_);
}

void Model::finish_inputs(float* rows, const Columns& columns, const Buffer<float>& sub_norm, Inputs& a, int n) {
  const int padded = round_up(columns.own, kGroup);
  if (config_.bitnet) normalise_parts(rows, columns, sub_norm, n);
  if (reducer_ && a.ternary) return share_scale(rows, padded, a, n);
  each_token(n, [&](int t) { quantise_row(rows + size_t(t) * padded, a, t); });
}

// As Kernels::rms_norm of the whole row, whose squares are added up by the tree.
void Model::normalise_parts(float* rows, const Columns& columns, const Buffer<float>& sub_norm, int n) {
  const int padded = round_up(columns.own, kGroup), unit = columns.tree.unit;
  each_token(n, [&](int t) {
    float waiting[kTreeHeight];
    int height = 0;
    for (int begin = 0, leaf = 0; begin < columns.own; begin += unit, ++leaf) {
      float sum = squares(rows + size_t(t) * padded + begin, std::min(unit, columns.own - begin));
      for (int m = columns.tree.merges[size_t(leaf)]; m; --m) sum = waiting[--height] + sum;
      waiting[height++] = sum;
    }
    for (int root = 0; root < height; ++root) shared_[size_t(root) * n + t] = waiting[root];
  });
  if (reducer_) reducer_(shared_.data(), size_t(n) * size_t(columns.tree.roots), columns.reduce);
  each_token(n, [&](int t) {
    float* row = rows + size_t(t) * padded;
    const float r = 1.0f / std::sqrt(shared_[size_t(t)] / float(columns.whole) + config_.epsilon);
    for (int i = 0; i < padded; ++i) row[i] = row[i] * r * sub_norm[size_t(i)];
  });
}

// As Kernels::quantise_token, with the largest value of the whole row instead of this share of it.
void Model::share_scale(const float* rows, int cols, Inputs& a, int n) {
  for (int t = 0; t < n; ++t) {
    float largest = 1e-5f;
    for (int i = 0; i < cols; ++i) largest = std::max(largest, std::fabs(rows[size_t(t) * cols + i]));
    shared_[size_t(t)] = largest;
  }
  reducer_(shared_.data(), size_t(n), Reduce::max);
  TokenActivations& x = a.tokens;
  each_token(n, [&](int t) {
    const float* row = rows + size_t(t) * cols;
    int8_t* q = x.q + size_t(t) * cols;
    const float inverse = 127.0f / shared_[size_t(t)];
    x.scale[t] = shared_[size_t(t)] / 127.0f;
    x.total[t] = 0;
    for (int b = 0; b < x.blocks; ++b) {
      int32_t sum = 0;
      for (int i = b * kTernaryBlock; i < std::min(cols, (b + 1) * kTernaryBlock); ++i)
        sum += q[i] = int8_t(std::nearbyint(row[i] * inverse));
      x.sum[size_t(t) * x.blocks + b] = sum;
      x.total[t] += sum;
    }
  });
}

void Model::add_product(const Matrix& out, const Columns& columns, Inputs& a, int n) {
  const bool exact = out.ternary() && !out.scales.size();  // sums of integers, in any order
  const bool by_tree = !exact && (!out.ternary() || columns.tree.unit % kTernaryBlock == 0);
  if (by_tree) {
    a.groups.tree = a.tokens.tree = &columns.tree;
    a.groups.root_stride = a.tokens.root_stride = size_t(n) * width_;
  }
  if (!reducer_) return multiply({{&out, x_.data()}}, a, n, true);
  share_ = {by_tree ? columns.reduce : Reduce::sum, by_tree ? columns.tree.roots : 1, nullptr, 1.0f};
  if (!out.ternary()) return multiply({{&out, partial_.data()}}, a, n, false);
  Matrix plain = out.view();  // without what the sums are multiplied with: it is the same on all boards
  const float scale = std::exchange(plain.scale, 1.0f);
  if (exact) share_.scale = scale;
  share_.token_scale = std::exchange(a.tokens.scale, ones_.data());
  multiply({{&plain, partial_.data()}}, a, n, false);
}

void Model::add_shares(int n) {
  reducer_(partial_.data(), size_t(n) * width_ * size_t(share_.roots), share_.reduce);
  each_token(n, [&](int t) {
    float* x = x_.data() + size_t(t) * width_;
    const float* sums = partial_.data() + size_t(t) * width_;
    if (const float* scale = share_.token_scale)
      for (int i = 0; i < width_; ++i) x[i] = std::fma(sums[i] * share_.scale, scale[t], x[i]);
    else
      for (int i = 0; i < width_; ++i) x[i] += sums[i];
  });
}

void Model::rotate(int token, int position) {
  const int dim = config_.head_dim, pairs = config_.rope_dim / 2;
  const float *cos = cos_.data() + size_t(position) * pairs, *sin = sin_.data() + size_t(position) * pairs;
  const float scale = 1.0f / std::sqrt(float(dim));
  float *q = q_.data() + size_t(token) * query_, *k = k_.data() + size_t(token) * kv_;
  const auto turn = config_.bitnet ? rotate_halves : rotate_pairs;
  for (int h = 0; h < config_.heads; ++h) turn(q + h * dim, cos, sin, pairs);
  for (int i = 0; i < query_; ++i) q[i] *= scale;
  for (int h = 0; h < config_.kv_heads; ++h) turn(k + h * dim, cos, sin, pairs);
}

void Model::write_cache(int layer, const std::vector<Segment>& segments) {
  const int heads = config_.kv_heads;
  const auto write = [&](int segment, int head) {
    const Segment& s = segments[size_t(segment)];
    const size_t at = segment_rows_[size_t(segment)] * size_t(kv_) + size_t(head) * config_.head_dim;
    cache_->write(layer, s.slot, head, s.first, s.count, k_.data() + at, v_.data() + at, kv_);
  };
  const int chunks = int(segments.size()) * heads;
  if (chunks <= kFewChunks && segments[0].count == 1)
    for (int i = 0; i < chunks; ++i) write(i / heads, i % heads);
  else
    pool_.run(chunks, [&](int i, int) { write(i / heads, i % heads); });
}

void Model::attend(int layer, const std::vector<Segment>& segments) {
  const int dim = config_.head_dim, per_kv = config_.heads / config_.kv_heads;
  queries_.clear();
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    for (int begin = (s.count - 1) / kQueryTokens * kQueryTokens; begin >= 0; begin -= kQueryTokens)  // longest first
      for (int head = 0; head < config_.kv_heads; ++head) {
        const size_t at = (segment_rows_[i] + size_t(begin)) * query_ + size_t(head) * per_kv * dim;
        Query query;
        query.layer = layer, query.slot = s.slot, query.head = head;
        query.first_position = s.first + begin;
        query.tokens = std::min(kQueryTokens, s.count - begin);
        query.q = q_.data() + at;
        query.out = mixed_.data() + at;
        query.stride = query_;
        queries_.push_back(query);
      }
  }
  pool_.run(int(queries_.size()), [&](int i, int thread) {
    Query query = queries_[size_t(i)];
    query.scores = scores_.data() + cache_->score_floats() * size_t(thread);
    cache_->attend(query);
  });
}

void Model::attention(const Block& block, int layer, int n, const std::vector<Segment>& segments) {
  const Matrix &q = block.in[0], &k = block.in[1], &v = block.in[2];
  Inputs a = inputs(width_, {&q, &k, &v});
  each_token(n, [&](int t, int thread) { normalise(t, block.norm, a, t, thread); });
  multiply({{&q, q_.data()}, {&k, k_.data()}, {&v, v_.data()}}, a, n, false);
  each_token(n, [&](int t) { rotate(t, positions_[size_t(t)]); });
  write_cache(layer, segments);
  attend(layer, segments);
  a = inputs(query_, {&block.out});
  finish_inputs(mixed_.data(), head_columns_, block.sub_norm, a, n);
  add_product(block.out, head_columns_, a, n);
}

void Model::feed_forward(const Block& block, int n) {
  const Matrix &gate = block.in[0], &up = block.in[1];
  Inputs a = inputs(width_, {&gate, &up});
  each_token(n, [&](int t, int thread) { normalise(t, block.norm, a, t, thread); });
  multiply({{&gate, gate_.data()}, {&up, up_.data()}}, a, n, false);
  a = inputs(hidden_, {&block.out});
  each_token(n, [&](int t) {
    const size_t at = size_t(t) * hidden_;
    float* active = gate_.data() + at;  // in the place of what it is made of
    if (config_.bitnet)
      kernels_.squared_relu(active, up_.data() + at, hidden_, active);
    else
      kernels_.swiglu(active, up_.data() + at, hidden_, active);
  });
  finish_inputs(gate_.data(), hidden_columns_, block.sub_norm, a, n);
  add_product(block.out, hidden_columns_, a, n);
}

void Model::head_logits(const std::vector<int>& rows, float* logits) {
  const int n = int(rows.size()), pieces = source_ ? source_->head_pieces() : 0;
  if (!pieces) {
    Inputs a = inputs(width_, {&head()});
    normalise_rows(rows, a);
    head_piece(head(), a, n, logits);
    return;
  }
  for (int i = 0, first = 0; i < pieces; ++i) {
    const Matrix& piece = source_->acquire(2 * config_.layers + i).out;
    Inputs a = inputs(width_, {&piece});
    if (!i) normalise_rows(rows, a);
    head_piece(piece, a, n, logits + first);
    first += piece.rows;
    source_->release(2 * config_.layers + i);
  }
}

// All pieces of a head are of one type, thus their inputs are quantised once.
void Model::normalise_rows(const std::vector<int>& rows, Inputs& a) {
  each_token(int(rows.size()), [&](int i, int thread) { normalise(rows[size_t(i)], output_norm_, a, i, thread); });
}

// Writes logits of n rows that are `vocabulary` apart.
void Model::head_piece(const Matrix& piece, const Inputs& a, int n, float* logits) {
  const int stride = piece.tiles * kTile, vocabulary = config_.vocabulary;
  if (!n) return;
  if (piece.rows == stride) {  // no row is made up: nothing is written beyond the piece
    multiply({{&piece, logits, vocabulary}}, a, n, false);
    return;
  }
  for (int begin = 0; begin < n; begin += kHeadRows) {
    const int count = std::min(kHeadRows, n - begin);
    if (logits_.size() < size_t(stride) * count) logits_.resize_zero(size_t(stride) * count);
    multiply({{&piece, logits_.data()}}, a.from(begin), count, false);
    for (int i = 0; i < count; ++i)
      std::memcpy(logits + size_t(begin + i) * vocabulary, logits_.data() + size_t(stride) * i,
                  sizeof(float) * size_t(piece.rows));
  }
}

int Model::check(const std::vector<Segment>& segments) const {
  const ModelConfig& c = config_;
  int n = 0;
  for (const Segment& s : segments) {
    if (s.slot < 0 || s.slot >= c.slots) throw std::out_of_range("slot beyond the cache");
    if (s.count < 1 || s.count > c.batch - n)
      throw std::out_of_range("a step takes 1 to " + std::to_string(c.batch) + " tokens");
    if (s.first < 0 || s.first > c.context - s.count) throw std::out_of_range("positions beyond the context");
    for (const Segment& other : segments)
      if (&other != &s && other.slot == s.slot) throw std::out_of_range("two segments of one slot");
    n += s.count;
  }
  if (!n) throw std::out_of_range("a step takes 1 to " + std::to_string(c.batch) + " tokens");
  return n;
}

void Model::check_tokens(const int32_t* tokens, int n) const {
  for (int t = 0; t < n; ++t)
    if (tokens[t] < 0 || tokens[t] >= config_.vocabulary) throw std::out_of_range("token beyond the vocabulary");
}

void Model::embedding_row(int token, float* out) const {
  if (rows_)
    rows_->row(token, out);
  else
    embedding_.row(token, out);
}

void Model::embed(const int32_t* tokens, int n, float* states) {
  check_tokens(tokens, n);
  std::vector<float> row(static_cast<size_t>(width_));
  for (int t = 0; t < n; ++t) {
    embedding_row(tokens[t], row.data());
    std::copy_n(row.data(), config_.width, states + size_t(t) * config_.width);
  }
}

void Model::place(const std::vector<Segment>& segments) {
  positions_.clear();
  segment_rows_.clear();
  for (const Segment& s : segments) {
    cache_->prepare(s.slot, s.first, s.count);
    segment_rows_.push_back(positions_.size());
    for (int t = 0; t < s.count; ++t) positions_.push_back(s.first + t);
  }
}

// A block is released before the other boards are waited for: meanwhile the next one is read.
void Model::run_layers(int n, const std::vector<Segment>& segments) {
  place(segments);
  const size_t batch = size_t(config_.batch);
  const size_t roots = size_t(std::max(head_columns_.tree.roots, hidden_columns_.tree.roots));
  if ((reducer_ || config_.bitnet) && !shared_.size()) shared_.resize_zero(batch * roots);
  if (reducer_ && !partial_.size()) {
    partial_.resize_zero(batch * width_ * roots);
    ones_.resize(batch);
    std::fill_n(ones_.data(), batch, 1.0f);
  }
  BlockSource& source = source_ ? *source_ : blocks_;
  for (int i = 0; i < 2 * config_.layers; ++i) {
    const Block& block = source.acquire(i);
    if (i % 2)
      feed_forward(block, n);
    else
      attention(block, i / 2, n, segments);
    source.release(i);
    if (reducer_) add_shares(n);
  }
}

void Model::forward(const int32_t* tokens, const std::vector<Segment>& segments, const std::vector<int>& rows,
                    float* logits) {
  const int n = check(segments);
  check_tokens(tokens, n);
  if (int(rows.size()) > config_.batch) throw std::out_of_range("more rows than tokens");
  for (int row : rows)
    if (row < 0 || row >= n) throw std::out_of_range("row beyond the tokens of the step");
  const auto look_up = [&](int t) { embedding_row(tokens[t], x_.data() + size_t(t) * width_); };
  if (rows_)  // from a file: not in the pool, whose work must not throw
    for (int t = 0; t < n; ++t) look_up(t);
  else
    each_token(n, look_up);
  run_layers(n, segments);
  head_logits(rows, logits);
}

void Model::forward_states(const float* states, const std::vector<Segment>& segments) {
  const int n = check(segments);
  for (int t = 0; t < n; ++t)
    std::copy_n(states + size_t(t) * config_.width, config_.width, x_.data() + size_t(t) * width_);
  run_layers(n, segments);
}

}  // namespace edge
