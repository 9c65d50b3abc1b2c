// SPDX-License-Identifier: Apache-2.0
#include "model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace edge {

namespace {

constexpr int kQueryTokens = 8;  // tokens whose queries share a pass over the keys

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

void squared_relu(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; ++i) {
    const float g = gate[i] > 0.0f ? gate[i] : 0.0f;
    y[i] = g * g * up[i];
  }
}

}  // namespace

Model::Model(const ModelConfig& config)
    : config_(config), kernels_(select_kernels(config.kernel)), pool_(std::max(1, config.threads)) {
  const ModelConfig& c = config_;
  require(c.vocabulary > 0 && c.width > 0 && c.hidden > 0 && c.layers > 0, "sizes must be positive");
  require(c.heads > 0 && c.kv_heads > 0 && c.heads % c.kv_heads == 0, "heads must be a multiple of kv_heads");
  require(c.head_dim % 32 == 0 && c.head_dim > 0, "head_dim must be a multiple of 32");
  require(c.rope_dim % 2 == 0 && c.rope_dim > 0 && c.rope_dim <= c.head_dim,
          "rope_dim must be even and at most head_dim");
  method_of(c.method);
  require(c.context > 0 && c.batch > 0, "context and batch must be positive");
  width_ = round_up(c.width, kGroup);
  hidden_ = round_up(c.hidden, kGroup);
  query_ = c.heads * c.head_dim;
  kv_ = c.kv_heads * c.head_dim;
  context_ = round_up(c.context, kKeyBlock);
  layers_.resize(size_t(c.layers));
  for (Layer& layer : layers_) {
    layer.attention_norm.resize_zero(size_t(width_));
    layer.feed_norm.resize_zero(size_t(width_));
    if (!c.bitnet) continue;
    layer.attention_sub_norm.resize_zero(size_t(query_));
    layer.feed_sub_norm.resize_zero(size_t(hidden_));
  }
  output_norm_.resize_zero(size_t(width_));
  keys_.resize(size_t(c.layers) * kv_ * context_);
  values_.resize(keys_.size());
  const size_t batch = size_t(c.batch);
  x_.resize_zero(batch * width_);
  normed_.resize_zero(batch * width_);
  q_.resize_zero(batch * query_);
  k_.resize_zero(batch * kv_);
  v_.resize_zero(batch * kv_);
  mixed_.resize_zero(batch * query_);
  gate_.resize_zero(batch * hidden_);
  up_.resize_zero(batch * hidden_);
  active_.resize_zero(batch * hidden_);
  logits_.resize_zero(size_t(round_up(c.vocabulary, kTile)));
  const int widest = std::max({width_, hidden_, query_});
  codes_.resize_zero(batch * widest);
  code_scales_.resize_zero(batch * widest / kGroup);
  code_sums_.resize_zero(batch * widest / kGroup);
  code_totals_.resize_zero(batch * widest / kGroup);
  scratch_size_ = size_t(widest / kGroup) * kScratch;
  scratch_.resize(scratch_size_ * pool_.threads());
  scores_size_ = size_t(kQueryTokens) * (c.heads / c.kv_heads) * context_;
  scores_.resize(scores_size_ * pool_.threads());
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
    Layer& layer = layers_[size_t(i)];
    const std::string part = name.substr(prefix.size());
    if (part == "attn_q") return found(layer.q, query_, c.width);
    if (part == "attn_k") return found(layer.k, kv_, c.width);
    if (part == "attn_v") return found(layer.v, kv_, c.width);
    if (part == "attn_output") return found(layer.output, c.width, query_);
    if (part == "ffn_gate") return found(layer.gate, c.hidden, c.width);
    if (part == "ffn_up") return found(layer.up, c.hidden, c.width);
    if (part == "ffn_down") return found(layer.down, c.width, c.hidden);
  }
  return nullptr;
}

Buffer<float>* Model::find_vector(const std::string& name, int* size) {
  *size = config_.width;
  if (name == "output_norm") return &output_norm_;
  for (int i = 0; i < config_.layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    if (name == prefix + "attn_norm") return &layers_[size_t(i)].attention_norm;
    if (name == prefix + "ffn_norm") return &layers_[size_t(i)].feed_norm;
    if (!config_.bitnet) continue;
    if (name == prefix + "attn_sub_norm") return *size = query_, &layers_[size_t(i)].attention_sub_norm;
    if (name == prefix + "ffn_sub_norm") return *size = config_.hidden, &layers_[size_t(i)].feed_sub_norm;
  }
  return nullptr;
}

bool Model::set_matrix(const std::string& name, Source source, const uint8_t* data, size_t row_bytes, int rows,
                       int cols, float tensor_scale) {
  int want_rows = 0, want_cols = 0;
  Matrix* matrix = find_matrix(name, &want_rows, &want_cols);
  if (!matrix) return false;
  if (rows != want_rows || cols != want_cols)
    throw std::invalid_argument(name + " has shape " + std::to_string(rows) + " x " + std::to_string(cols) +
                                "; expected " + std::to_string(want_rows) + " x " + std::to_string(want_cols));
  if (is_ternary(source) && ternary_.empty())
    ternary_ = TernaryWork(config_.batch, std::max({width_, hidden_, query_}), pool_.threads(),
                           method_of(config_.method));
  matrix->pack(source, data, row_bytes, rows, cols, tensor_scale);
  return true;
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
  cos_.resize(size_t(context_) * pairs);
  sin_.resize(cos_.size());
  for (int p = 0; p < context_; ++p)
    for (int i = 0; i < pairs; ++i) {
      const double angle = double(p) * double(frequencies[i]);
      cos_[size_t(p) * pairs + i] = float(std::cos(angle));
      sin_[size_t(p) * pairs + i] = float(std::sin(angle));
    }
}

std::vector<std::string> Model::missing() const {
  std::vector<std::string> names;
  if (!embedding_.rows) names.push_back("token_embd");
  if (!cos_.size()) names.push_back("rope frequencies");
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& l = layers_[i];
    const std::pair<const char*, const Matrix*> parts[] = {
        {"attn_q", &l.q},      {"attn_k", &l.k},  {"attn_v", &l.v},     {"attn_output", &l.output},
        {"ffn_gate", &l.gate}, {"ffn_up", &l.up}, {"ffn_down", &l.down}};
    for (const auto& [name, matrix] : parts)
      if (!matrix->rows) names.push_back("blk." + std::to_string(i) + "." + name);
    const std::pair<const char*, const Buffer<float>*> norms[] = {{"attn_norm", &l.attention_norm},
                                                                  {"ffn_norm", &l.feed_norm},
                                                                  {"attn_sub_norm", &l.attention_sub_norm},
                                                                  {"ffn_sub_norm", &l.feed_sub_norm}};
    for (const auto& [name, norm] : norms)
      if (norm->size() && std::find(vectors_set_.begin(), vectors_set_.end(), norm) == vectors_set_.end())
        names.push_back("blk." + std::to_string(i) + "." + name);
  }
  return names;
}

size_t Model::weight_bytes() const {
  size_t total = embedding_.bytes() + output_.bytes();
  for (const Layer& l : layers_)
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.output, &l.gate, &l.up, &l.down}) total += m->bytes();
  return total;
}

template <typename Work>
void Model::each_token(int n, Work&& work) {
  pool_.run(n, [&](int token, int) { work(token); });
}

Model::Inputs Model::inputs(int cols, std::initializer_list<const Matrix*> matrices) {
  Inputs in;
  for (const Matrix* m : matrices) (m->ternary() ? in.ternary : in.grouped) = true;
  in.groups = {cols / kGroup, codes_.data(), code_scales_.data(), code_totals_.data(), code_sums_.data()};
  if (in.ternary) in.tokens = ternary_.activations(cols);
  return in;
}

void Model::quantise_row(const float* x, Inputs& in, int token) {
  if (in.grouped) {
    const Activations& a = in.groups;
    const size_t at = size_t(token) * a.groups;
    kernels_.quantise(x, a.groups, a.q + at * kGroup, a.scale + at, a.sum + at, a.scaled_sum + at);
  }
  if (in.ternary) {
    const TokenActivations& a = in.tokens;
    kernels_.quantise_token(x, a.cols(), a.q + size_t(token) * a.cols(), a.scale + token,
                            a.sum + size_t(token) * a.blocks, a.total + token);
  }
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
  if (others) multiply_grouped(grouped, others, x.groups, n, add);
}

void Model::multiply_grouped(const Product* products, int count, const Activations& x, int n, bool add) {
  int tiles = 0;
  for (int i = 0; i < count; ++i) tiles += products[i].matrix->tiles;
  // Small chunks even out threads of unequal speed; they never change a result.
  const int chunk = std::min(64, std::max(1, tiles / (8 * pool_.threads())));
  pool_.run((tiles + chunk - 1) / chunk, [&](int index, int thread) {
    int begin = index * chunk, end = std::min(tiles, begin + chunk);
    for (int i = 0; i < count && end > 0; ++i) {
      const Product& p = products[i];
      const int stop = std::min(end, p.matrix->tiles);
      if (begin < stop)
        kernels_.multiply(*p.matrix, begin, stop, x, n, p.y, p.matrix->tiles * kTile, add,
                          scratch_.data() + scratch_size_ * size_t(thread));
      begin = std::max(0, begin - p.matrix->tiles);
      end -= p.matrix->tiles;
    }
  });
}

void Model::write_cache(int index, int token, int position) {
  const int dim = config_.head_dim, pairs = config_.rope_dim / 2;
  const float *cos = cos_.data() + size_t(position) * pairs, *sin = sin_.data() + size_t(position) * pairs;
  const float scale = 1.0f / std::sqrt(float(dim));
  float* q = q_.data() + size_t(token) * query_;
  const auto rotate = config_.bitnet ? rotate_halves : rotate_pairs;
  for (int h = 0; h < config_.heads; ++h) rotate(q + h * dim, cos, sin, pairs);
  for (int i = 0; i < query_; ++i) q[i] *= scale;
  for (int h = 0; h < config_.kv_heads; ++h) {
    float* k = k_.data() + size_t(token) * kv_ + h * dim;
    rotate(k, cos, sin, pairs);
    float* keys = keys_.data() + cache_offset(index, h) + size_t(position / kKeyBlock) * dim * kKeyBlock;
    for (int d = 0; d < dim; ++d) keys[d * kKeyBlock + position % kKeyBlock] = k[d];
    std::memcpy(values_.data() + cache_offset(index, h) + size_t(position) * dim,
                v_.data() + size_t(token) * kv_ + h * dim, sizeof(float) * size_t(dim));
  }
}

void Model::attention(Layer& layer, int index, int n, int first) {
  const int dim = config_.head_dim, per_kv = config_.heads / config_.kv_heads;
  Inputs a = inputs(width_, {&layer.q, &layer.k, &layer.v});
  each_token(n, [&](int t) {
    float* normed = normed_.data() + size_t(t) * width_;
    kernels_.rms_norm(x_.data() + size_t(t) * width_, layer.attention_norm.data(), config_.width, width_,
                      config_.epsilon, normed);
    quantise_row(normed, a, t);
  });
  multiply({{&layer.q, q_.data()}, {&layer.k, k_.data()}, {&layer.v, v_.data()}}, a, n, false);
  each_token(n, [&](int t) { write_cache(index, t, first + t); });
  const int blocks = (n + kQueryTokens - 1) / kQueryTokens;
  pool_.run(blocks * config_.kv_heads, [&](int chunk, int thread) {
    const int head = chunk % config_.kv_heads;
    const int begin = (blocks - 1 - chunk / config_.kv_heads) * kQueryTokens;  // longest first
    const int tokens = std::min(kQueryTokens, n - begin);
    const size_t at = size_t(begin) * query_ + size_t(head) * per_kv * dim;
    Attention work;
    work.q = q_.data() + at;
    work.out = mixed_.data() + at;
    work.stride = query_;
    work.tokens = tokens;
    work.heads_per_kv = per_kv;
    work.first_position = first + begin;
    work.head_dim = dim;
    work.keys = keys_.data() + cache_offset(index, head);
    work.values = values_.data() + cache_offset(index, head);
    work.scores = scores_.data() + scores_size_ * size_t(thread);
    kernels_.attend(work);
  });
  a = inputs(query_, {&layer.output});
  each_token(n, [&](int t) {
    float* mixed = mixed_.data() + size_t(t) * query_;
    if (config_.bitnet)
      kernels_.rms_norm(mixed, layer.attention_sub_norm.data(), query_, query_, config_.epsilon, mixed);
    quantise_row(mixed, a, t);
  });
  multiply({{&layer.output, x_.data()}}, a, n, true);
}

void Model::feed_forward(Layer& layer, int n) {
  Inputs a = inputs(width_, {&layer.gate, &layer.up});
  each_token(n, [&](int t) {
    float* normed = normed_.data() + size_t(t) * width_;
    kernels_.rms_norm(x_.data() + size_t(t) * width_, layer.feed_norm.data(), config_.width, width_, config_.epsilon,
                      normed);
    quantise_row(normed, a, t);
  });
  multiply({{&layer.gate, gate_.data()}, {&layer.up, up_.data()}}, a, n, false);
  a = inputs(hidden_, {&layer.down});
  each_token(n, [&](int t) {
    const size_t at = size_t(t) * hidden_;
    float* active = active_.data() + at;
    if (config_.bitnet) {
      squared_relu(gate_.data() + at, up_.data() + at, hidden_, active);
      kernels_.rms_norm(active, layer.feed_sub_norm.data(), config_.hidden, hidden_, config_.epsilon, active);
    } else {
      kernels_.swiglu(gate_.data() + at, up_.data() + at, hidden_, active);
    }
    quantise_row(active, a, t);
  });
  multiply({{&layer.down, x_.data()}}, a, n, true);
}

void Model::forward(const int32_t* tokens, int n, int first, float* logits, bool all) {
  const ModelConfig& c = config_;
  if (n < 1 || n > c.batch) throw std::out_of_range("a step takes 1 to " + std::to_string(c.batch) + " tokens");
  if (first < 0 || first + n > c.context) throw std::out_of_range("positions beyond the context");
  for (int t = 0; t < n; ++t)
    if (tokens[t] < 0 || tokens[t] >= c.vocabulary) throw std::out_of_range("token beyond the vocabulary");
  each_token(n, [&](int t) { embedding_.row(tokens[t], x_.data() + size_t(t) * width_); });
  for (int i = 0; i < c.layers; ++i) {
    attention(layers_[size_t(i)], i, n, first);
    feed_forward(layers_[size_t(i)], n);
  }
  Inputs a = inputs(width_, {&head()});
  for (int t = all ? 0 : n - 1; t < n; ++t, logits += c.vocabulary) {
    kernels_.rms_norm(x_.data() + size_t(t) * width_, output_norm_.data(), c.width, width_, c.epsilon, normed_.data());
    quantise_row(normed_.data(), a, 0);
    multiply({{&head(), logits_.data()}}, a, 1, false);
    std::memcpy(logits, logits_.data(), sizeof(float) * size_t(c.vocabulary));
  }
}

}  // namespace edge
