// Huffman codes of JPEG coefficients (ITU-T T.81, F.2.2), looked up by the next bits: one look-up gives up to two
// coefficients with their runs of zeros, or several symbols to pass over.
#pragma once

#include <algorithm>
#include <cstring>

#include "libjpeg.hpp"

namespace sfn {

namespace detail {

constexpr int kLook = 10;
constexpr uint64_t kLooks = uint64_t{1} << kLook;
constexpr int kEnd = 128;  // added to the position by the block's end

// Positions in a block in order of frequency; a look-up may go beyond by 32.
constexpr uint8_t kPlaces[64 + 32] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34,
    27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

// A value of `size` bits, as JPEG stores it (ITU-T T.81, F.2.2.1): the smaller half are negative.
inline int16_t extended(uint32_t bits, int size) {
  const auto value = static_cast<int32_t>(bits);
  return static_cast<int16_t>(value < (1 << (size - 1)) ? value - (1 << size) + 1 : value);
}

// A code and what it stands for: for coefficients, four bits of zeros before it and four of the size of its value.
struct Symbol {
  uint8_t value, length;  // 0 bits: there is none

  int size() const { return value & 15; }
  int step() const { return (value >> 4) + 1; }
  bool ends() const { return size() == 0 && value != 0xF0; }
};

// A Huffman table.
class Codes {
 public:
  // False, and nothing done, if it is the last one: many images have the same.
  bool assign(const jpeg::HuffmanTable& table) {
    if (std::memcmp(&table, &made_from_, sizeof table.counts + sizeof table.symbols) == 0) return false;
    made_from_ = table;
    std::memset(symbols_, 0, sizeof symbols_);
    uint32_t code = 0;
    int index = 0;
    for (int length = 1; length <= 16; ++length, code <<= 1) {
      offset_[length] = index - static_cast<int32_t>(code);
      for (int k = 0; k < table.counts[length] && index < 256; ++k, ++index, ++code) {
        if (length > kLook || code >> length) continue;
        const Symbol symbol{table.symbols[index], static_cast<uint8_t>(length)};
        std::fill_n(symbols_ + (code << (kLook - length)), 1 << (kLook - length), symbol);
      }
      limit_[length] = code << (16 - length);
    }
    return true;
  }

  // The symbol at the beginning of `bits`.
  Symbol operator()(uint64_t bits) const {
    const Symbol found = symbols_[bits >> (64 - kLook)];
    return found.length > 0 ? found : longer(static_cast<uint32_t>(bits >> 48));
  }
  // The same of kLook bits, if the first `known` of them are enough.
  Symbol at(uint64_t look, int known) const {
    const Symbol found = symbols_[look];
    return found.length <= known ? found : Symbol{};
  }

 private:
  Symbol longer(uint32_t code) const {
    for (int length = kLook + 1; length <= 16; ++length)
      if (code < limit_[length])
        return {made_from_.symbols[(offset_[length] + static_cast<int32_t>(code >> (16 - length))) & 255],
                static_cast<uint8_t>(length)};
    return {};
  }

  jpeg::HuffmanTable made_from_{};
  Symbol symbols_[kLooks]{};
  uint32_t limit_[17]{};  // of 16 bits: the first that is no code of this length or a shorter one
  int32_t offset_[17]{};
};

// Up to two symbols with their values; zeros are written for the block's end and for 16 zeros, which does no harm.
struct alignas(8) Steps {
  uint8_t length;               // in bits; 0 if code or value have bits beyond the look-up
  uint8_t to_first, to_second;  // by how much the coefficients are behind the position; of one alone, the same
  uint8_t advance;              // of the position
  int16_t first, second;
};

// Symbols to pass over.
struct alignas(4) Pass {
  uint8_t length;   // in bits; 0 if the code is longer than kLook, or there is none
  uint8_t to_last;  // of the position up to the last symbol
  uint8_t advance;
};

// The Huffman table of coefficients but the first of a block.
class Coefficients {
 public:
  void assign(const jpeg::HuffmanTable& table) {
    if (!codes.assign(table)) return;
    for (uint64_t look = 0; look < kLooks; ++look) {
      steps[look] = steps_at(look);
      passes[look] = pass_at(look);
    }
  }

  Codes codes;
  Steps steps[kLooks]{};
  Pass passes[kLooks]{};

 private:
  static uint64_t after(uint64_t look, int length) { return look << length & (kLooks - 1); }

  Steps steps_at(uint64_t look) const {
    Steps both = step_at(look, kLook);
    if (both.length == 0 || both.advance >= kEnd) return both;
    const Steps two = step_at(after(look, both.length), kLook - both.length);
    if (two.length == 0) return both;
    both.length += two.length;
    both.advance += two.advance;
    if (two.advance == kEnd) return both;
    both.second = two.first;
    both.to_second += two.to_first;
    return both;
  }
  Steps step_at(uint64_t look, int known) const {
    const Symbol symbol = codes.at(look, known);
    const int size = symbol.size(), length = symbol.length + size;
    if (symbol.length == 0 || length > known) return {};
    const auto bits = static_cast<uint8_t>(length), step = static_cast<uint8_t>(symbol.step());
    if (symbol.ends()) return {bits, 1, 1, kEnd, 0, 0};
    if (size == 0) return {bits, step, step, step, 0, 0};
    const int16_t value = extended(look >> (kLook - length) & ((1u << size) - 1), size);
    return {bits, step, step, step, value, value};
  }
  Pass pass_at(uint64_t look) const {
    int length = 0, to_last = 0, advance = 0;
    while (length < kLook && advance < kEnd) {
      const Symbol symbol = codes.at(after(look, length), kLook - length);
      if (symbol.length == 0) break;
      length += symbol.length + symbol.size();
      to_last = advance;
      advance += symbol.ends() ? kEnd : symbol.step();
      if (to_last + 16 > 63) break;
    }
    return {static_cast<uint8_t>(length), static_cast<uint8_t>(to_last), static_cast<uint8_t>(advance)};
  }
};

// Bits of a scan, which must end with a marker; zeros after it. Reads up to 6 bytes too many.
class Bits {
 public:
  explicit Bits(const uint8_t* at = nullptr) : at_(at) {}

  // Afterwards there are at least 56 bits.
  void fill() {
    uint64_t next;
    std::memcpy(&next, at_, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    next = __builtin_bswap64(next);
#endif
    if ((~next - 0x0101010101010101u) & next & 0x8080808080808080u) return fill_by_bytes();  // one is 0xFF
    bits_ |= next >> count_;
    const int bytes = (63 - count_) >> 3;
    at_ += bytes;
    count_ += 8 * bytes;
  }
  uint64_t next() const { return bits_; }
  uint64_t look() const { return bits_ >> (64 - kLook); }
  void drop(int count) {
    bits_ <<= count;
    count_ -= count;
  }
  uint32_t take(int count) {
    const auto value = static_cast<uint32_t>(bits_ >> (64 - count));
    drop(count);
    return value;
  }
  // Whether more was taken than there is.
  bool beyond() const { return count_ < made_up_; }

  // Goes on after the restart marker, which must be next.
  bool restart(int number) {
    if (count_ - made_up_ >= 8 || at_[0] != 0xFF || at_[1] != 0xD0 + number) return false;
    *this = Bits(at_ + 2);
    return true;
  }

 private:
  void fill_by_bytes() {
    for (; count_ < 56; count_ += 8) {
      if (at_[0] == 0xFF && at_[1] != 0) {
        made_up_ += 8;
        continue;
      }
      bits_ |= static_cast<uint64_t>(at_[0]) << (56 - count_);
      at_ += at_[0] == 0xFF ? 2 : 1;
    }
  }

  const uint8_t* at_;
  uint64_t bits_ = 0;
  int count_ = 0, made_up_ = 0;
};

}  // namespace detail

}  // namespace sfn
