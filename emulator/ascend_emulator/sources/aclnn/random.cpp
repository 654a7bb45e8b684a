// Random numbers. torch_npu keeps (seed, offset) on the host and moves the offset on; here the two
// together seed torch's CPU generator, so that the same pair gives the same numbers. They are not
// the numbers of a chip.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/bernoulli.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/multinomial.h>
#include <ATen/ops/normal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randperm.h>

#include "operator.hpp"

namespace emulator::aclnn {
namespace {

at::Generator generator(int64_t seed, int64_t offset) {
  // Mixed, so that neighbouring offsets do not give neighbouring seeds (the finalizer of
  // splitmix64).
  uint64_t mixed =
      static_cast<uint64_t>(seed) + 0x9e3779b97f4a7c15 * (static_cast<uint64_t>(offset) + 1);
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  return at::detail::createCPUGenerator(mixed ^ (mixed >> 31));
}

// aclnnDropoutGenMaskV2 packs eight elements a byte, the first in the lowest bit.
void pack(const at::Tensor& keep, at::Tensor& mask) {
  mask.zero_();
  const bool* bits = keep.const_data_ptr<bool>();
  auto* bytes = mask.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < keep.numel(); ++i) {
    bytes[i / 8] |= static_cast<uint8_t>(bits[i] << (i % 8));
  }
}

at::Tensor unpack(const at::Tensor& mask, at::IntArrayRef shape) {
  const at::Tensor keep = at::empty(shape, at::kBool);
  bool* bits = keep.mutable_data_ptr<bool>();
  const auto* bytes = mask.const_data_ptr<uint8_t>();
  for (int64_t i = 0; i < keep.numel(); ++i) {
    bits[i] = ((bytes[i / 8] >> (i % 8)) & 1) != 0;
  }
  return keep;
}

}  // namespace

ACLNN(aclnnInplaceNormal, plain, Out self, float mean, float std, int64_t seed, int64_t offset) {
  self->normal_(mean, std, generator(seed, offset));
}

ACLNN(aclnnNormalFloatFloat, floats | f64, float mean, float std, int64_t seed, int64_t offset,
      Out out) {
  out->normal_(mean, std, generator(seed, offset));
}

ACLNN(aclnnNormalTensorFloat, floats | f64, In mean, float std, int64_t seed, int64_t offset,
      Out out) {
  out = at::normal(mean, std, generator(seed, offset));
}

ACLNN(aclnnNormalFloatTensor, floats | f64, float mean, In std, int64_t seed, int64_t offset,
      Out out) {
  out = at::normal(mean, std, generator(seed, offset));
}

ACLNN(aclnnNormalTensorTensor, floats | f64, In mean, In std, int64_t seed, int64_t offset,
      Out out) {
  out = at::normal(mean, std, generator(seed, offset));
}

ACLNN(aclnnInplaceUniform, reals, Out self, double from, double to, uint64_t seed,
      uint64_t offset) {
  self->uniform_(from, to, generator(static_cast<int64_t>(seed), static_cast<int64_t>(offset)));
}

ACLNN(aclnnInplaceRandom, plain, Out self, int64_t from, int64_t to, int64_t seed, int64_t offset) {
  self->random_(from, to, generator(seed, offset));
}

ACLNN(aclnnInplaceBernoulli, plain, Out self, Value p, int64_t seed, int64_t offset) {
  self->bernoulli_(p->toDouble(), generator(seed, offset));
}

ACLNN(aclnnInplaceBernoulliTensor, plain, Out self, In p, int64_t seed, int64_t offset) {
  self->bernoulli_(p, generator(seed, offset));
}

ACLNN(aclnnRandperm, reals, int64_t n, int64_t seed, int64_t offset, Out out) {
  out = at::randperm(n, generator(seed, offset), at::TensorOptions(at::kLong));
}

ACLNN(aclnnMultinomial, floats | f64, In self, int64_t num_samples, bool replacement, int64_t seed,
      int64_t offset, IndexOut out) {
  out = at::multinomial(self, num_samples, replacement, generator(seed, offset));
}

ACLNN(aclnnDropoutGenMaskV2, u8, Ints shape, double p, int64_t seed, int64_t offset, aclDataType,
      Out mask) {
  const at::Tensor keep = at::empty(*shape, at::kBool);
  keep.bernoulli_(1 - p, generator(seed, offset));
  pack(keep, *mask);
}

ACLNN(aclnnDropoutDoMask, floats, In self, Mask mask, double p, Out out) {
  const at::Tensor keep = unpack(mask, self->sizes());
  out = p == 1 ? at::Tensor(self->mul(0)) : self->mul(keep).mul(1 / (1 - p));
}

}  // namespace emulator::aclnn
