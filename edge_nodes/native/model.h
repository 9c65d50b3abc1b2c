// SPDX-License-Identifier: Apache-2.0
// A Llama or BitNet b1.58 decoder over low-bit matrices: one call runs a whole step for one or many tokens.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "blocks.h"
#include "cache.h"
#include "kernels.h"
#include "pool.h"
#include "ternary.h"

namespace edge {

struct ModelConfig {
  int vocabulary = 0, width = 0, hidden = 0, layers = 0;
  int heads = 0, kv_heads = 0, head_dim = 0, rope_dim = 0;
  int context = 0;  // positions of a sequence
  int slots = 1;    // sequences in the cache
  int batch = 0;    // most tokens of one step
  int threads = 1;
  float epsilon = 1e-5f;
  float rope_magnitude = 1.0f;  // of rotated queries and keys
  std::string kernel = "auto";
  bool bitnet = false;  // norms before the output projections, squared ReLU, halves of a head rotated together
  std::string method = "auto";  // of ternary products
  bool dense = false;           // ternary weights at 1.60 bits
  std::string cache = "f16";    // type of the key/value cache
  int whole_heads = 0, whole_hidden = 0;  // of the model that this one has a share of; 0: it is the whole
  int first_kv_head = 0, first_column = 0;  // where the share begins
  int column_unit = 0;  // feed-forward columns that are never cut; 0: chosen by `unit_of`
};

// Consecutive tokens of one sequence.
struct Segment {
  int slot, first, count;  // positions first .. first + count - 1
};

// Combines `count` floats with those of the other boards that share the model; blocks until done, may throw. For `heads`
// and `columns` they are the sums of each root of this board's part of that tree, and the result is where the first are.
enum class Reduce { sum, max, heads, columns };
using Reducer = std::function<void(float* data, size_t count, Reduce op)>;

class Model {
 public:
  explicit Model(const ModelConfig& config);

  // Sets a weight by its GGUF name without ".weight"; false if the model has none of that name.
  // Throws std::invalid_argument if the shape is wrong.
  bool set_matrix(const std::string& name, Source source, const uint8_t* data, size_t row_bytes, int rows, int cols,
                  float tensor_scale = 1.0f);
  // Looks at the memory of a packed matrix, which must stay.
  bool set_packed(const std::string& name, const Matrix& matrix);
  // Multiplies a ternary matrix that was set; false if there is none of that name.
  bool scale_matrix(const std::string& name, float factor);
  bool set_vector(const std::string& name, const float* data, int size);
  // Angle of each rotated pair per position, in radians: rope_dim / 2 values.
  void set_rope(const float* frequencies);
  // Names of weights that were not set; "output" may be missing (tied to token_embd).
  std::vector<std::string> missing() const;

  // Runs the tokens of all segments, one after the other; all before a segment must be in the cache. Writes
  // `vocabulary` logits for each of the tokens `rows`. What a row gets does not depend on the others.
  // Throws std::out_of_range, and what the block source and the reducer throw.
  void forward(const int32_t* tokens, const std::vector<Segment>& segments, const std::vector<int>& rows,
               float* logits);

  // The same for states (n, width) of the tokens, and without a head: the step of a board that has only a share.
  void forward_states(const float* states, const std::vector<Segment>& segments);
  // Writes the embedding rows of n tokens, (n, width). Throws std::out_of_range.
  void embed(const int32_t* tokens, int n, float* states);

  // Takes blocks from elsewhere from now on, or from this model's own memory if null.
  void set_source(std::shared_ptr<BlockSource> source) { source_ = std::move(source); }
  void set_embedding(std::shared_ptr<RowSource> rows) { rows_ = std::move(rows); }
  // Keeps keys and values in another cache of the same shape from now on; what was cached is forgotten.
  void set_cache(std::unique_ptr<Cache> cache) { cache_ = std::move(cache); }
  // This model has a share of the heads and hidden columns; the others' are added by `reducer`.
  void set_reducer(Reducer reducer) { reducer_ = std::move(reducer); }

  const ModelConfig& config() const { return config_; }
  const Kernels& kernels() const { return kernels_; }
  size_t weight_bytes() const;
  // Shapes of the ternary matrices, each once; and from how many tokens on each is multiplied by tables.
  std::vector<std::pair<int, int>> ternary_shapes() const;
  void set_table_choices(std::vector<TableChoice> choices);
  // Makes the work space of ternary weights, which are only known once they are there.
  void use_ternary();
  size_t work_bytes() const;  // of activations, tables and scratch memory
  Cache& cache() { return *cache_; }
  const Cache& cache() const { return *cache_; }

 private:
  // Quantised inputs of a set of products: by groups of 32, by token, or both, as their matrices need.
  struct Inputs {
    Activations groups;
    TokenActivations tokens;
    bool grouped = false, ternary = false;

    // Those of the tokens from `token` on.
    Inputs from(int token) const {
      Inputs in = *this;
      const size_t at = size_t(token) * groups.groups;
      in.groups.q += at * kGroup, in.groups.scale += at, in.groups.sum += 2 * at, in.groups.scaled_sum += at;
      if (!ternary) return in;
      in.tokens = tokens.from(token);
      return in;
    }
  };

  Matrix* find_matrix(const std::string& name, int* rows, int* cols);
  Matrix* checked_matrix(const std::string& name, bool ternary, int rows, int cols);
  void set_columns();
  Buffer<float>* find_vector(const std::string& name, int* size);
  const Matrix& head() const { return output_.rows ? output_ : embedding_; }

  int check(const std::vector<Segment>& segments) const;
  void check_tokens(const int32_t* tokens, int n) const;
  void place(const std::vector<Segment>& segments);
  void run_layers(int n, const std::vector<Segment>& segments);
  void embedding_row(int token, float* out) const;
  void attention(const Block& block, int layer, int n, const std::vector<Segment>& segments);
  void feed_forward(const Block& block, int n);
  void head_logits(const std::vector<int>& rows, float* logits);
  void normalise_rows(const std::vector<int>& rows, Inputs& a);
  void head_piece(const Matrix& piece, const Inputs& a, int rows, float* logits);
  void rotate(int token, int position);
  void write_cache(int layer, const std::vector<Segment>& segments);
  void attend(int layer, const std::vector<Segment>& segments);
  // The columns of an output projection: those that this board has, and how sums over all are made.
  struct Columns {
    int own, whole;
    SumTree tree;
    Reduce reduce;
  };
  // Normalises (BitNet) and quantises the inputs of an output projection; other boards may have more columns of it.
  void finish_inputs(float* rows, const Columns& columns, const Buffer<float>& sub_norm, Inputs& a, int n);
  void normalise_parts(float* rows, const Columns& columns, const Buffer<float>& sub_norm, int n);
  void share_scale(const float* rows, int cols, Inputs& a, int n);
  // x += out * inputs, which `a` holds for n tokens; with a reducer only this board's share of it, into partial_.
  void add_product(const Matrix& out, const Columns& columns, Inputs& a, int n);
  void add_shares(int n);
  Inputs inputs(int cols, std::initializer_list<const Matrix*> matrices);
  void quantise_row(const float* x, Inputs& a, int token);
  void normalise(int row, const Buffer<float>& weights, Inputs& a, int token, int thread);
  void multiply(std::initializer_list<Product> products, const Inputs& x, int n, bool add);
  template <typename Work>
  void each_token(int n, Work&& work);

  ModelConfig config_;
  const Kernels& kernels_;
  Pool pool_;
  int width_, hidden_, query_, kv_;  // padded sizes
  Matrix embedding_, output_;
  Buffer<float> output_norm_;
  ResidentBlocks blocks_;
  std::shared_ptr<BlockSource> source_;
  std::shared_ptr<RowSource> rows_;
  Reducer reducer_;
  std::vector<const void*> vectors_set_;
  Buffer<float> cos_, sin_;  // [position][rope_dim / 2]
  std::unique_ptr<Cache> cache_;
  Buffer<float> x_, normed_, q_, k_, v_, mixed_, gate_, up_, logits_;  // normed_: a row for each thread
  Columns head_columns_, hidden_columns_;
  // Only with a reducer: this board's share of a block's result, numbers of the tokens, and ones.
  Buffer<float> partial_, shared_, ones_;
  struct Share {
    Reduce reduce;
    int roots;
    const float* token_scale;  // ternary: what is left to multiply with; else null
    float scale;
  } share_{};
  std::vector<int> positions_;         // of each token of the step
  std::vector<size_t> segment_rows_;   // first token of each segment
  std::vector<Query> queries_;
  Buffer<float> scores_;     // [thread][Cache::score_floats]
  Buffer<uint8_t> scratch_;  // [thread][unpacked tile]
  size_t scratch_size_ = 0;
  Buffer<int8_t> codes_;
  Buffer<float> code_scales_, code_sums_;
  Buffer<int32_t> code_totals_;
  TernaryWork ternary_;  // empty without ternary weights
};

}  // namespace edge
