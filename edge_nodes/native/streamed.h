// SPDX-License-Identifier: Apache-2.0
// Blocks and embedding rows of a decoder that lie in files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "blocks.h"
#include "window.h"

namespace edge {

// Where an array lies in a file.
struct Span {
  size_t offset = 0, count = 0;  // bytes; items
};

// A packed matrix in a file: `shape` has everything but the arrays.
struct MatrixSpans {
  Matrix shape;
  Span codes, scales, mins;
};

struct BlockSpans {
  Span norm, sub_norm;
  MatrixSpans in[3], out;
};

// The blocks of a window, as the model wants them: arrays are looked at where they were read to.
class StreamedBlocks : public BlockSource {
 public:
  StreamedBlocks(std::shared_ptr<BlockWindow> window, std::vector<BlockSpans> spans, int head_pieces)
      : window_(std::move(window)), spans_(std::move(spans)), blocks_(spans_.size()), pieces_(head_pieces) {}
  const Block& acquire(int index) override;
  void release(int index) override { window_->release(index); }
  int head_pieces() const override { return pieces_; }

 private:
  std::shared_ptr<BlockWindow> window_;
  std::vector<BlockSpans> spans_;
  std::vector<Block> blocks_;
  int pieces_;
};

// Rows of a matrix that is cut into files of whole tiles; what is read is dropped from the page cache.
class FileRows : public RowSource {
 public:
  struct Piece {
    std::string path;
    MatrixSpans matrix;
  };
  // Opens the files; throws BlockError.
  explicit FileRows(std::vector<Piece> pieces);
  ~FileRows() override;
  FileRows(const FileRows&) = delete;
  FileRows& operator=(const FileRows&) = delete;
  void row(int index, float* out) const override;

 private:
  std::vector<Piece> pieces_;
  std::vector<int> files_;
};

}  // namespace edge
