// What Python calls, through ctypes: no call holds the interpreter's lock. Nothing is thrown out of it.
#include <cstdint>
#include <new>

#include "reader.hpp"

#define SFN_API extern "C" __attribute__((visibility("default")))

namespace {

// Whether sample i was read, for all: read(i) where there is memory for it.
template <class Read>
void read_all(int64_t count, uint8_t* done, const Read& read) {
  for (int64_t i = 0; i < count; ++i) {
    try {
      done[i] = read(i);
    } catch (const std::bad_alloc&) {
      done[i] = 0;
    }
  }
}

}  // namespace

// libjpeg-turbo of version 62 from `path`, for the life of the process; null if it is not that.
SFN_API void* sfn_library(const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle) return nullptr;
  auto* library = new (std::nothrow) sfn::jpeg::Functions{};
  if (library && sfn::jpeg::load(handle, *library)) return library;
  delete library;
  return nullptr;
}

// A thread's reader; null if the library has another layout than is known here, or memory ran out.
SFN_API void* sfn_reader(const void* library) try {
  auto* reader = new sfn::Reader(*static_cast<const sfn::jpeg::Functions*>(library));
  if (reader->usable()) return reader;
  delete reader;
  return nullptr;
} catch (const std::bad_alloc&) {
  return nullptr;
}

// Seconds of all that it has read, by `sfn::Stage`.
SFN_API void sfn_reader_seconds(const void* reader, double* seconds) {
  const double* found = static_cast<const sfn::Reader*>(reader)->clock().seconds();
  for (int stage = 0; stage < sfn::kStages; ++stage) seconds[stage] = found[stage];
}

// Images whose coefficients it began to decode itself, in place of libjpeg-turbo.
SFN_API int64_t sfn_reader_taken_over(const void* reader) { return static_cast<const sfn::Reader*>(reader)->taken_over(); }

SFN_API void sfn_reader_free(void* reader) { delete static_cast<sfn::Reader*>(reader); }

// What is done with a training sample, as `native/reader.py` lays it out.
struct Training {
  int64_t size;
  sfn::CropRule crop;
  double jitter, flip;
  uint64_t seed, epoch;
};

// Train: random-resized crops, flipped and jittered at random. `draws`: `stride` numbers of each sample are
// written there, those of the crop, of the jitter and of the flip. `done[i]` tells whether sample i was read.
SFN_API void sfn_train(void* reader, const Training* how, const sfn::Stored* samples, int64_t count,
                       const int64_t* indices, const int64_t* repeats, double* draws, int64_t stride,
                       uint8_t* out, uint8_t* done) {
  auto* own_reader = static_cast<sfn::Reader*>(reader);
  const int64_t pixels = how->size * how->size;
  read_all(count, done, [&](int64_t i) {
    double* own = draws + i * stride;
    sfn::sample_draws(how->seed, how->epoch, static_cast<uint64_t>(indices[i]),
                      static_cast<uint64_t>(repeats[i]), stride, own);
    const auto plan = [&](const sfn::Size& found) {
      return sfn::train_resize(found.height, found.width, how->size, how->crop, own,
                               own[stride - 1] < how->flip);
    };
    uint8_t* image = out + i * pixels * 3;
    if (!own_reader->read(samples[i], plan, image)) return false;
    if (how->jitter > 0) own_reader->jitter(image, pixels, how->jitter, own + sfn::kCropDraws);
    return true;
  });
}

// Evaluate: short side to `resize`, then the central square of `size`.
SFN_API void sfn_eval(void* reader, const sfn::Stored* samples, int64_t count, int64_t resize, int64_t size,
                      uint8_t* out, uint8_t* done) {
  const auto plan = [&](const sfn::Size& found) {
    return sfn::eval_resize(found.height, found.width, resize, size);
  };
  read_all(count, done, [&](int64_t i) {
    return static_cast<sfn::Reader*>(reader)->read(samples[i], plan, out + i * size * size * 3);
  });
}

// `count` values of three channels in turn, times their `scale`, plus their `bias`: in one pass.
SFN_API void sfn_normalise(const uint8_t* values, int64_t count, const float* scale, const float* bias,
                           float* out) {
  constexpr int kBlock = 48;  // of three channels and whole vectors
  float scales[kBlock], biases[kBlock];
  for (int k = 0; k < kBlock; ++k) scales[k] = scale[k % 3], biases[k] = bias[k % 3];
  const int64_t whole = count / kBlock * kBlock;
  for (int64_t i = 0; i < whole; i += kBlock)
    for (int k = 0; k < kBlock; ++k) out[i + k] = static_cast<float>(values[i + k]) * scales[k] + biases[k];
  for (int64_t i = whole; i < count; ++i)
    out[i] = static_cast<float>(values[i]) * scales[i - whole] + biases[i - whole];
}

SFN_API void sfn_jitter(uint8_t* image, int64_t pixels, double strength, const double* draws) {
  sfn::color_jitter(image, pixels, strength, draws);
}

// For tests against what it has to equal.
SFN_API uint32_t sfn_crc32(uint32_t crc, const uint8_t* data, int64_t size) {
  return sfn::crc32(crc, data, static_cast<size_t>(size));
}
