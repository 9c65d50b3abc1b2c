// SPDX-License-Identifier: Apache-2.0
#include "streamed.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace edge {

namespace {

template <typename T>
void look(Buffer<T>& buffer, uint8_t* base, const Span& span) {
  buffer.borrow(reinterpret_cast<T*>(base + span.offset), span.count);
}

void look(Matrix& matrix, uint8_t* base, const MatrixSpans& spans) {
  if (!matrix.rows) matrix = spans.shape.view();
  look(matrix.codes, base, spans.codes);
  look(matrix.scales, base, spans.scales);
  look(matrix.mins, base, spans.mins);
}

// Reads the part of an array that belongs to one of `tiles` equal tiles.
template <typename T>
void read_tile(int file, const std::string& path, const Span& span, int tile, int tiles, Buffer<T>& out) {
  out.resize(span.count / size_t(tiles));
  const off_t at = off_t(span.offset + size_t(tile) * out.bytes());
  for (size_t done = 0; done < out.bytes();) {
    uint8_t* to = reinterpret_cast<uint8_t*>(out.data()) + done;
    const ssize_t got = ::pread(file, to, out.bytes() - done, at + off_t(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw BlockError("cannot read " + path + ": " + (got ? std::strerror(errno) : "it has ended early"));
    done += size_t(got);
  }
#ifdef POSIX_FADV_DONTNEED
  ::posix_fadvise(file, at, off_t(out.bytes()), POSIX_FADV_DONTNEED);
#endif
}

}  // namespace

const Block& StreamedBlocks::acquire(int index) {
  uint8_t* base = window_->acquire(index);
  const BlockSpans& spans = spans_[size_t(index)];
  Block& block = blocks_[size_t(index)];
  look(block.norm, base, spans.norm);
  look(block.sub_norm, base, spans.sub_norm);
  for (int i = 0; i < 3; ++i) look(block.in[i], base, spans.in[i]);
  look(block.out, base, spans.out);
  return block;
}

FileRows::FileRows(std::vector<Piece> pieces) : pieces_(std::move(pieces)) {
  for (const Piece& piece : pieces_) {
    const int file = ::open(piece.path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) {
      const std::string why = std::strerror(errno);
      for (int open : files_) ::close(open);
      throw BlockError("cannot open " + piece.path + ": " + why);
    }
#ifdef POSIX_FADV_RANDOM
    ::posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
#endif
    files_.push_back(file);
  }
}

FileRows::~FileRows() {
  for (int file : files_) ::close(file);
}

void FileRows::row(int index, float* out) const {
  size_t at = 0;
  while (at + 1 < pieces_.size() && index >= pieces_[at].matrix.shape.rows) index -= pieces_[at++].matrix.shape.rows;
  const MatrixSpans& whole = pieces_[at].matrix;
  const int tile = index / kTile, tiles = whole.shape.tiles;
  Matrix matrix = whole.shape.view();
  read_tile(files_[at], pieces_[at].path, whole.codes, tile, tiles, matrix.codes);
  if (whole.scales.count) read_tile(files_[at], pieces_[at].path, whole.scales, tile, tiles, matrix.scales);
  if (whole.mins.count) read_tile(files_[at], pieces_[at].path, whole.mins, tile, tiles, matrix.mins);
  matrix.row(index % kTile, out);
}

}  // namespace edge
