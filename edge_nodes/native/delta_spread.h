// SPDX-License-Identifier: Apache-2.0
// Where the bytes of a packed run go under a mask of 8: for byte shuffles. Included inside a namespace.

struct Spread {
  uint8_t places[256][8];  // index of the packed byte, or 0x80: none
  Spread() {
    for (int mask = 0; mask < 256; ++mask)
      for (int i = 0, next = 0; i < 8; ++i) places[mask][i] = mask >> i & 1 ? uint8_t(next++) : uint8_t(0x80);
  }
};
static const Spread kSpread;
