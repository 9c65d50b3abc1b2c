// SPDX-License-Identifier: Apache-2.0
// A Llama or BitNet b1.58 decoder over low-bit matrices: one call runs a whole step for one or many tokens.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "ternary.h"

namespace edge {

struct ModelConfig {
  int vocabulary = 0, width = 0, hidden = 0, layers = 0;
  int heads = 0, kv_heads = 0, head_dim = 0, rope_dim = 0;
  int context = 0;  // positions of the key/value cache
  int batch = 0;    // most tokens of one step
  int threads = 1;
  float epsilon = 1e-5f;
  std::string kernel = "auto";
  bool bitnet = false;  // norms before the output projections, squared ReLU, halves of a head rotated together
  std::string method = "auto";  // of ternary products
};

class Model {
 public:
  explicit Model(const ModelConfig& config);

  // Sets a weight by its GGUF name without ".weight"; false if the model has none of that name.
  // Throws std::invalid_argument if the shape is wrong.
  bool set_matrix(const std::string& name, Source source, const uint8_t* data, size_t row_bytes, int rows, int cols,
                  float tensor_scale = 1.0f);
  // Multiplies a ternary matrix that was set; false if there is none of that name.
  bool scale_matrix(const std::string& name, float factor);
  bool set_vector(const std::string& name, const float* data, int size);
  // Angle of each rotated pair per position, in radians: rope_dim / 2 values.
  void set_rope(const float* frequencies);
  // Names of weights that were not set; "output" may be missing (tied to token_embd).
  std::vector<std::string> missing() const;

  // Runs n tokens at positions first .. first + n - 1; everything before must be in the cache.
  // Writes `vocabulary` logits of the last token, or n rows of them if `all`. Throws std::out_of_range.
  void forward(const int32_t* tokens, int n, int first, float* logits, bool all);

  const ModelConfig& config() const { return config_; }
  const Kernels& kernels() const { return kernels_; }
  size_t weight_bytes() const;
  size_t cache_bytes() const { return keys_.bytes() + values_.bytes(); }

 private:
  struct Layer {
    Buffer<float> attention_norm, feed_norm;
    Buffer<float> attention_sub_norm, feed_sub_norm;  // BitNet
    Matrix q, k, v, output, gate, up, down;
  };
  // Quantised inputs of a set of products: by groups of 32, by token, or both, as their matrices need.
  struct Inputs {
    Activations groups;
    TokenActivations tokens;
    bool grouped = false, ternary = false;
  };

  Matrix* find_matrix(const std::string& name, int* rows, int* cols);
  Buffer<float>* find_vector(const std::string& name, int* size);
  const Matrix& head() const { return output_.rows ? output_ : embedding_; }

  void attention(Layer& layer, int index, int n, int first);
  void feed_forward(Layer& layer, int n);
  void write_cache(int index, int token, int position);
  Inputs inputs(int cols, std::initializer_list<const Matrix*> matrices);
  void quantise_row(const float* x, Inputs& a, int token);
  void multiply(std::initializer_list<Product> products, const Inputs& x, int n, bool add);
  void multiply_grouped(const Product* products, int count, const Activations& x, int n, bool add);
  template <typename Work>
  void each_token(int n, Work&& work);

  size_t cache_offset(int layer, int head) const {
    return (size_t(layer) * config_.kv_heads + head) * context_ * config_.head_dim;
  }

  ModelConfig config_;
  const Kernels& kernels_;
  Pool pool_;
  int width_, hidden_, query_, kv_, context_;  // padded sizes
  Matrix embedding_, output_;
  Buffer<float> output_norm_;
  std::vector<Layer> layers_;
  std::vector<const void*> vectors_set_;
  Buffer<float> cos_, sin_;      // [position][rope_dim / 2]
  Buffer<float> keys_, values_;  // [layer][kv head][...], see Attention
  Buffer<float> x_, normed_, q_, k_, v_, mixed_, gate_, up_, active_, logits_;
  Buffer<float> scores_;     // [thread][rows of a block][context]
  Buffer<uint8_t> scratch_;  // [thread][unpacked tile]
  size_t scratch_size_ = 0, scores_size_ = 0;
  Buffer<int8_t> codes_;
  Buffer<float> code_scales_, code_sums_;
  Buffer<int32_t> code_totals_;
  TernaryWork ternary_;  // empty without ternary weights
};

}  // namespace edge
