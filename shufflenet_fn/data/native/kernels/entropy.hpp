// Huffman decoding of a JPEG's coefficients in place of libjpeg-turbo's, which takes more than half of the time of
// reading a photograph. Blocks outside the wanted columns, or in rows that are skipped, are passed over. Whatever is
// not as it should be ends the decoding with a warning.
#pragma once

#include "huffman.hpp"

namespace sfn {

class Entropy {
 public:
  // Decodes for `decompressor`, which has just been started, if its image is of the usual kind (sequential, Huffman).
  void take_over(jpeg::Decompressor& decompressor) {
    if (decompressor.progressive || decompressor.arithmetic || decompressor.spectral_start != 0 ||
        decompressor.spectral_end != 63 || decompressor.scan_parts != decompressor.components ||
        !is_known(decompressor))
      return;
    ++images_;
    for (int k = 0; k < decompressor.scan_parts; ++k) {
      const int dc = decompressor.scanned[k]->dc_table & 3, ac = decompressor.scanned[k]->ac_table & 3;
      codes_[dc].assign(*decompressor.dc_tables[dc]);
      coefficients_[ac].assign(*decompressor.ac_tables[ac]);
      parts_[k] = {&codes_[dc], &coefficients_[ac], 0};
    }
    bits_ = detail::Bits(decompressor.source->next);
    column_ = restarts_ = 0;
    until_restart_ = decompressor.restart_interval;
    begin_ = 0;
    end_ = decompressor.mcus_per_row;
    decompressor.client = this;
    decompressor.entropy->decode = [](jpeg::Decompressor* from, jpeg::Block** blocks) {
      if (from->errors->warnings == 0 && !static_cast<Entropy*>(from->client)->decode(*from, blocks))
        ++from->errors->warnings;
      return 1;
    };
  }

  // Only the columns `left` .. `left + width - 1` of the result are wanted.
  void crop(const jpeg::Decompressor& decompressor, unsigned left, unsigned width) {
    const unsigned across = decompressor.scaled_size * (decompressor.components == 1 ? 1 : decompressor.most_across);
    begin_ = left / across;
    end_ = (left + width + across - 1) / across;
  }

  // Images whose decoding was begun here.
  int64_t images() const { return images_; }

 private:
  // A colour's tables, shared by those that have the same, and its last block's first coefficient.
  struct Part {
    const detail::Codes* codes;
    const detail::Coefficients* others;
    int32_t first;
  };

  // Whether functions of the library are where its entropy decoder should have them; found out once.
  bool is_known(const jpeg::Decompressor& decompressor) {
    if (known_ == 0) {
      Dl_info start, decode, library;
      const jpeg::EntropyDecoder& entropy = *decompressor.entropy;
      const bool found = dladdr(reinterpret_cast<void*>(entropy.start), &start) != 0 &&
                         dladdr(reinterpret_cast<void*>(entropy.decode), &decode) != 0 &&
                         dladdr(reinterpret_cast<void*>(decompressor.errors->reset), &library) != 0;
      known_ = found && start.dli_fbase == library.dli_fbase && decode.dli_fbase == library.dli_fbase ? 1 : -1;
    }
    return known_ > 0;
  }

  bool decode(const jpeg::Decompressor& from, jpeg::Block** blocks) {
    if (from.restart_interval > 0 && until_restart_-- == 0) {
      if (!bits_.restart(restarts_++ & 7)) return false;
      for (Part& part : parts_) part.first = 0;
      until_restart_ = from.restart_interval - 1;
    }
    const bool wanted = blocks != nullptr && column_ >= begin_ && column_ < end_;
    if (++column_ == from.mcus_per_row) column_ = 0;
    for (int b = 0; b < from.blocks; ++b) {
      Part& part = parts_[from.block_parts[b] & 3];
      if (!(wanted ? block(part, *blocks[b]) : pass_over(part))) return false;
    }
    return !bits_.beyond();
  }

  // Look-ups in the bits of one filling.
  static constexpr int kTimes = 56 / detail::kLook;

  // `to` is zero before.
  bool block(Part& part, int16_t* to) {
    detail::Bits bits = bits_;  // in registers
    if (!first(part, bits)) return false;
    to[0] = static_cast<int16_t>(part.first);
    const detail::Coefficients& others = *part.others;
    int k = 1;  // the next position
    while (k < 64) {
      bits.fill();
      for (int times = 0; times < kTimes && k < 64; ++times) {
        const detail::Steps& steps = others.steps[bits.look()];
        const int length = steps.length, advance = steps.advance, second = steps.to_second;  // before any is stored
        // A second symbol after the last position is of the next block.
        if (length == 0 || k + steps.to_first >= 64) {
          k = single(others.codes, bits, k, to);
          break;
        }
        bits.drop(length);
        const uint8_t* places = detail::kPlaces + k - 1;
        const int16_t value = steps.second;
        to[places[steps.to_first]] = steps.first;
        to[places[second]] = value;
        k += advance;
      }
    }
    bits_ = bits;
    return k % detail::kEnd <= 64;
  }

  bool pass_over(Part& part) {
    detail::Bits bits = bits_;
    if (!first(part, bits)) return false;
    const detail::Coefficients& others = *part.others;
    int k = 1;
    while (k < 64) {
      bits.fill();
      for (int twice = 0; twice < 2 && k < 64; ++twice) {  // at most 25 bits each
        const detail::Pass& pass = others.passes[bits.look()];
        if (pass.length == 0 || k + pass.to_last >= 64) {
          k = single(others.codes, bits, k, nullptr);
          break;
        }
        bits.drop(pass.length);
        k += pass.advance;
      }
    }
    bits_ = bits;
    return k % detail::kEnd <= 64;
  }

  // A block's first coefficient, which is stored as a difference.
  static bool first(Part& part, detail::Bits& bits) {
    bits.fill();
    const detail::Symbol symbol = (*part.codes)(bits.next());
    if (symbol.length == 0 || symbol.value > 15) return false;
    bits.drop(symbol.length);
    if (symbol.value > 0) part.first += detail::extended(bits.take(symbol.value), symbol.value);
    return part.first == static_cast<int16_t>(part.first);
  }

  // One symbol at the position `k`, to the next: from kEnd at the block's end, kEnd - 1 for damage.
  static int single(const detail::Codes& codes, detail::Bits& bits, int k, int16_t* to) {
    constexpr int kDamage = detail::kEnd - 1;
    bits.fill();
    const detail::Symbol symbol = codes(bits.next());
    if (symbol.length == 0) return kDamage;
    bits.drop(symbol.length);
    if (symbol.ends()) return k + detail::kEnd;
    k += symbol.step();
    if (symbol.size() == 0) return k;
    if (k > 64) return kDamage;
    const int16_t value = detail::extended(bits.take(symbol.size()), symbol.size());
    if (to != nullptr) to[detail::kPlaces[k - 1]] = value;
    return k;
  }

  detail::Codes codes_[4];
  detail::Coefficients coefficients_[4];
  Part parts_[4] = {};
  detail::Bits bits_;
  unsigned column_ = 0, begin_ = 0, end_ = 0, until_restart_ = 0;
  int restarts_ = 0, known_ = 0;
  int64_t images_ = 0;
};

}  // namespace sfn
