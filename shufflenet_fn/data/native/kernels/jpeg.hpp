// Decoding a part of a JPEG, in strips of rows.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "entropy.hpp"
#include "libjpeg.hpp"
#include "resample.hpp"

namespace sfn {

struct Size {
  int64_t height = 0, width = 0;
};

// Larger images are left to the path that says what is wrong with them.
constexpr int64_t kMostPixels = int64_t{1} << 26;

// Decodes one image after another.
//
// What libjpeg-turbo warns about is a failure: it goes on after damage, with wrong or grey pixels. So are images
// of several scans, of CMYK, of unusual sampling, and those without an end: others can say what they are.
class JpegReader {
 public:
  explicit JpegReader(const jpeg::Functions& library) : library_(library) {
    library_.std_error(&errors_.manager);
    errors_.manager.error_exit = [](jpeg::Decompressor* from) {
      std::longjmp(reinterpret_cast<Errors*>(from->errors)->failed, 1);
    };
    errors_.manager.emit_message = [](jpeg::Decompressor* from, int level) {
      if (level < 0) ++from->errors->warnings;
    };
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { close(); }

  // False where the library is of another version.
  bool usable() {
    const bool good = create();
    close();
    return good;
  }

  // Images whose decoding `Entropy` has begun.
  int64_t taken_over() const { return entropy_.images(); }

  // The size of the image in `data`, which must stay until its rows have been read, with kSlack bytes after it.
  bool open(const uint8_t* data, size_t size, Size& found) {
    if (size < 4 || data[0] != 0xFF || data[1] != 0xD8 || !ended(data, size)) return false;
    // A new one for each image: it would keep the last one's tables for an image that has lost its own.
    if (!create()) return false;
    if (setjmp(errors_.failed)) return give_up();
    library_.mem_src(&decompressor_, data, size);
    library_.read_header(&decompressor_, 1);
    const auto stored = decompressor_.stored_colours;
    const bool known = stored == jpeg::kGrey || stored == jpeg::kRgb || stored == jpeg::kYcc;
    found = {decompressor_.image_height, decompressor_.image_width};
    if (!known || decompressor_.precision != 8 || !usual_sampling() ||
        library_.has_multiple_scans(&decompressor_) || found.height * found.width > kMostPixels)
      return give_up();
    return true;
  }

  // The columns left .. left + width - 1 of rows top .. top + height - 1 of the opened image at
  // 1 / `reduction` of its size, uint8 RGB, given to `take(rows, stride, count)` strip by strip. `strip` is
  // memory to use again. False if anything is wrong, at the latest after the last strip.
  template <class Take>
  bool rows(int64_t reduction, int64_t top, int64_t left, int64_t height, int64_t width,
            std::vector<uint8_t>& strip, const Take& take) {
    if (setjmp(errors_.failed)) return give_up();
    decompressor_.colours = jpeg::kRgb;
    decompressor_.scale_num = 1;
    decompressor_.scale_denom = static_cast<unsigned>(reduction);
    library_.start(&decompressor_);
    if (errors_.manager.warnings) return give_up();  // its source may be a made-up end instead of `data`
    entropy_.take_over(decompressor_);
    // Lossless JPEGs come in full size whatever was asked for.
    if (!is_reduced(decompressor_.image_width, reduction, decompressor_.output_width) ||
        !is_reduced(decompressor_.image_height, reduction, decompressor_.output_height))
      return give_up();
    const int64_t whole = decompressor_.output_width;
    // Upsampling smooths colours over their neighbours, and at the edge of what is decoded there are none.
    unsigned from = static_cast<unsigned>(std::max<int64_t>(0, left - kMargin));
    unsigned count = static_cast<unsigned>(std::min(whole, left + width + kMargin) - from);
    if (from > 0 || count < whole) {
      library_.crop(&decompressor_, &from, &count);
      entropy_.crop(decompressor_, from, count);
    }
    if (top > 0) library_.skip(&decompressor_, static_cast<unsigned>(top));
    const int64_t stride = static_cast<int64_t>(count) * 3;
    make_room(strip, stride * kStrip);
    uint8_t* lines[kStrip];
    for (int k = 0; k < kStrip; ++k) lines[k] = strip.data() + k * stride;
    const uint8_t* first = strip.data() + (left - static_cast<int64_t>(from)) * 3;
    for (int64_t done = 0; done < height;) {
      const auto wanted = static_cast<unsigned>(std::min<int64_t>(kStrip, height - done));
      for (unsigned got = 0; got < wanted;) {
        const unsigned more = library_.read(&decompressor_, lines + got, wanted - got);
        if (more == 0) return give_up();
        got += more;
      }
      if (errors_.manager.warnings) return give_up();
      take(first, stride, static_cast<int64_t>(wanted));
      done += wanted;
    }
    close();
    return true;
  }

 private:
  static constexpr int64_t kMargin = 4;
  static constexpr int kStrip = 16;

  struct Errors {
    jpeg::ErrorManager manager;
    std::jmp_buf failed;
  };

  // A cut file has no end marker. Some writers pad with zeros after it.
  static bool ended(const uint8_t* data, size_t size) {
    while (size > 4 && data[size - 1] == 0) --size;
    return data[size - 2] == 0xFF && data[size - 1] == 0xD9;
  }

  static bool is_reduced(int64_t size, int64_t reduction, int64_t found) {
    return found == (size + reduction - 1) / reduction;
  }

  // Whether colours are sampled as TurboJPEG has a name for, and simplejpeg: these refuse all others.
  bool usual_sampling() const {
    const jpeg::Component* parts = decompressor_.parts;
    if (decompressor_.components == 1) return true;
    for (int k = 1; k < decompressor_.components; ++k)
      if (parts[k].across != 1 || parts[k].down != 1) return false;
    const int across = parts[0].across, down = parts[0].down;
    return (across <= 2 && down <= 2) || (across == 4 && down == 1);
  }

  bool create() {
    close();
    decompressor_.errors = &errors_.manager;
    if (setjmp(errors_.failed)) return false;
    library_.create(&decompressor_, jpeg::kVersion, sizeof decompressor_);
    created_ = true;
    return true;
  }

  void close() {
    if (created_) library_.destroy(&decompressor_);
    created_ = false;
  }

  bool give_up() {
    close();
    return false;
  }

  const jpeg::Functions& library_;
  jpeg::Decompressor decompressor_{};
  Entropy entropy_;
  Errors errors_{};
  bool created_ = false;
};

}  // namespace sfn
