// Where the time of a thread's reader goes.
#pragma once

#include <chrono>
#include <cstdint>

namespace sfn {

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

}  // namespace sfn
