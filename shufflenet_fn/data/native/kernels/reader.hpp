// A sample, read and resized, in one go.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <vector>

#include "colours.hpp"
#include "jpeg.hpp"
#include "plan.hpp"
#include "resample.hpp"
#include "stored.hpp"

namespace sfn {

// Where the time of a thread's reader goes.
enum Stage : int { kReading, kDecoding, kResizing, kJittering, kStages };

class StageClock {
 public:
  // What has passed since the last mark belongs to `stage`.
  void mark(Stage stage) {
    const auto now = std::chrono::steady_clock::now();
    seconds_[stage] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }
  void start() { last_ = std::chrono::steady_clock::now(); }
  const double* seconds() const { return seconds_; }

 private:
  std::chrono::steady_clock::time_point last_{};
  double seconds_[kStages] = {};
};

// One thread's decompressor and memory.
class Reader {
 public:
  explicit Reader(const jpeg::Functions& library) : jpeg_(library) {}

  bool usable() { return jpeg_.usable(); }

  const StageClock& clock() const { return clock_; }
  int64_t taken_over() const { return jpeg_.taken_over(); }

  // Reads `stored` and writes what `plan(size)`, a Resize, asks of it to `out`, uint8 (window.height,
  // window.width, 3). False if that cannot be done here; `out` then holds anything.
  template <class Plan>
  bool read(const Stored& stored, const Plan& plan, uint8_t* out) {
    const bool good = read_any(stored, plan, out);
    for (auto* memory : {&data_, &strip_, &narrowed_})
      if (memory->size() > kKept) std::vector<uint8_t>().swap(*memory);
    return good;
  }

  // The jitter of what `read` has just written, `count` pixels.
  void jitter(uint8_t* out, int64_t count, double strength, const double* draws) {
    color_jitter(out, count, strength, draws);
    clock_.mark(kJittering);
  }

 private:
  // Bytes of memory for one use that are kept: a huge file must not cost every thread its size for good.
  static constexpr size_t kKept = size_t{64} << 20;

  template <class Plan>
  bool read_any(const Stored& stored, const Plan& plan, uint8_t* out) {
    int64_t bytes = stored.size;
    clock_.start();
    const bool there = stored.path ? read_file(stored.path, data_, bytes) : read_record(stored, data_);
    clock_.mark(kReading);
    if (!there) return false;
    if (stored.height == 0) {
      Size size;
      return jpeg_.open(data_.data(), static_cast<size_t>(bytes), size) &&
             resize(size, plan(size), {1, 2, 4, 8}, out,
                    [this](int64_t reduction, const Box& part, const auto& take) {
                      return jpeg_.rows(reduction, part.top, part.left, part.height, part.width, strip_, take);
                    });
    }
    const Size size{stored.height, stored.width};
    if (size.width == 0 || bytes / size.width / 3 != size.height || bytes % (size.width * 3)) return false;
    return resize(size, plan(size), {1}, out,
                  [this, &size](int64_t, const Box& part, const auto& take) {
                    const int64_t stride = size.width * 3;
                    take(data_.data() + part.top * stride + part.left * 3, stride, part.height);
                    return true;
                  });
  }

  // Decoded pixels for each one of the result that are enough, along each side (decode.py).
  static constexpr int64_t kSpare = 2;

  template <class Rows>
  bool resize(const Size& size, const Resize& asked, std::initializer_list<int64_t> reductions, uint8_t* out,
              const Rows& rows) {
    const Box& box = asked.box;
    if (size.height < 1 || size.width < 1 || asked.window.top < 0 || asked.window.left < 0) return false;
    const int64_t room = std::min(box.height / asked.height, box.width / asked.width);
    int64_t reduction = 1;
    for (const int64_t one : reductions)
      if (one * kSpare <= room) reduction = std::max(reduction, one);
    const double by = static_cast<double>(reduction);
    const int64_t top = round_even(static_cast<double>(box.top) / by);
    const int64_t left = round_even(static_cast<double>(box.left) / by);
    // As a slice of an array ends with the array.
    const auto up = [reduction](int64_t value) { return (value + reduction - 1) / reduction; };
    const int64_t height = std::min(up(box.height), up(size.height) - top);
    const int64_t width = std::min(up(box.width), up(size.width) - left);
    const bool partly = reduction > 1;
    make_taps(across_, weights_, height,
              partly ? static_cast<double>(box.height) / by : static_cast<double>(height), asked.height,
              asked.window.top, asked.window.height);
    make_taps(along_, weights_, width,
              partly ? static_cast<double>(box.width) / by : static_cast<double>(width), asked.width,
              asked.window.left, asked.window.width);
    if (asked.mirrored) mirror(along_);
    const int64_t bytes = asked.window.width * 3;
    // A row is written with a few bytes more, and read in whole vectors.
    const int64_t stride = (bytes + kSlack) / kSlack * kSlack;
    const int64_t count = across_.high - across_.low;
    make_room(narrowed_, count * stride);
    for (auto& first : along_.first) first -= along_.low;
    uint8_t* next = narrowed_.data();
    const Box part{top + across_.low, left + along_.low, count, along_.high - along_.low};
    const bool good = rows(reduction, part, [&](const uint8_t* pixels, int64_t pixel_stride, int64_t strip) {
      clock_.mark(kDecoding);
      resample_along(pixels, pixel_stride, strip, along_, next, stride);
      next += strip * stride;
      clock_.mark(kResizing);
    });
    clock_.mark(kDecoding);
    if (good) resample_across(narrowed_.data(), stride, across_, bytes, out);
    clock_.mark(kResizing);
    return good;
  }

  StageClock clock_;
  JpegReader jpeg_;
  std::vector<uint8_t> data_, strip_, narrowed_;
  std::vector<double> weights_;
  Taps across_, along_;
};

}  // namespace sfn
