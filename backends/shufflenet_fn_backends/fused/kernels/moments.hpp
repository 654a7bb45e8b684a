// Mean and variance of every channel, gathered block by block without cancellation.
#pragma once
#include <vector>

#include "vec.hpp"

namespace sfn {

// Within a block, values are taken relative to a value near them (`origin`), in float;
// blocks are joined in double with the pairwise update of Chan, Golub and LeVeque (1979).
class Moments {
 public:
  explicit Moments(int64_t channels) : count_(channels), mean_(channels), m2_(channels) {}

  void add(int64_t channel, int64_t count, float origin, float sum, float squares) {
    double n = double(count), s = sum, block_mean = origin + s / n;
    double block_m2 = double(squares) - s * s / n;
    join(channel, n, block_mean, block_m2 > 0 ? block_m2 : (block_m2 == block_m2 ? 0 : block_m2));
  }

  void add(const Moments& other) {
    for (size_t c = 0; c < mean_.size(); ++c)
      if (other.count_[c] > 0) join(c, other.count_[c], other.mean_[c], other.m2_[c]);
  }

  // The biased variance, which normalises.
  void write(float* mean, float* var) const {
    for (size_t c = 0; c < mean_.size(); ++c) {
      mean[c] = float(mean_[c]);
      var[c] = float(m2_[c] / count_[c]);
    }
  }

 private:
  void join(int64_t c, double n, double mean, double m2) {
    double total = count_[c] + n, delta = mean - mean_[c];
    mean_[c] += delta * n / total;
    m2_[c] += m2 + delta * delta * count_[c] * n / total;
    count_[c] = total;
  }

  std::vector<double> count_, mean_, m2_;
};

}  // namespace sfn
