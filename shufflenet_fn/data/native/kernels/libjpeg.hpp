// What is used of libjpeg-turbo's interface for C, version 62, which Pillow's wheels bring as a shared library
// without a header. Sizes and places of fields are those of the documented structures (libjpeg.txt and jpeglib.h of
// libjpeg-turbo) where pointers and long have 64 bits; the library refuses a decompressor of another version or
// size, and `JpegReader::usable` finds out before anything is decoded.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace sfn::jpeg {

constexpr int kVersion = 62;

enum ColourSpace : int { kUnknown = 0, kGrey = 1, kRgb = 2, kYcc = 3, kCmyk = 4, kYcck = 5 };

struct Decompressor;

struct ErrorManager {
  void (*error_exit)(Decompressor*);
  void (*emit_message)(Decompressor*, int level);
  void (*output_message)(Decompressor*);
  void (*format_message)(Decompressor*, char*);
  void (*reset)(Decompressor*);
  int code;
  char parameters[80];
  int trace_level;
  long warnings;
  const void* messages;
  int last_message;
  const void* more_messages;
  int first_more, last_more;
};

struct Component {
  int id, index;
  int across, down;  // its sampling factors
  int quantisation, dc_table, ac_table;
  char rest[68];
};

struct HuffmanTable {
  uint8_t counts[17];  // codes of each length
  uint8_t symbols[256];
  int sent;
};

// A block has 64 coefficients, in rows.
typedef int16_t Block[64];

// Of jpegint.h, the one structure here that is not documented. Its first two fields are the same since version 6b.
struct EntropyDecoder {
  void (*start)(Decompressor*);
  int (*decode)(Decompressor*, Block** blocks);  // of an MCU; none for one that is skipped
};

struct Source {
  const uint8_t* next;
};

struct Decompressor {
  ErrorManager* errors;
  void *memory, *progress, *client;
  int is_decompressor, state;
  Source* source;
  unsigned image_width, image_height;
  int components;
  ColourSpace stored_colours, colours;
  unsigned scale_num, scale_denom;
  double gamma;
  int buffered, raw, dct_method, fancy_upsampling, block_smoothing, quantize, dither, two_pass, colour_count;
  int one_pass_quantizer, external_quantizer, two_pass_quantizer;
  unsigned output_width, output_height;
  int colour_components, output_components, recommended_rows, colours_used;
  void* colour_map;
  unsigned output_scanline;
  char scan_state[60];
  HuffmanTable *dc_tables[4], *ac_tables[4];
  int precision;
  const Component* parts;
  int progressive, arithmetic;
  char conditioning[48];
  unsigned restart_interval;
  char markers[36];
  int most_across, most_down, scaled_size;
  unsigned imcu_rows;
  void* range_limit;
  int scan_parts;
  const Component* scanned[4];
  unsigned mcus_per_row, mcu_rows_in_scan;
  int blocks, block_parts[10];  // of an MCU
  int spectral_start, spectral_end, high, low, marker;
  void* modules[6];
  EntropyDecoder* entropy;
  void* more_modules[4];
};

static_assert(sizeof(void*) != 8 || sizeof(ErrorManager) == 168);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, scale_num) == 68);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, output_width) == 136);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, output_scanline) == 168);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, dc_tables) == 232);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, precision) == 296);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, parts) == 304);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, restart_interval) == 368);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, scanned) == 440);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, spectral_start) == 524);
static_assert(sizeof(void*) != 8 || offsetof(Decompressor, entropy) == 592);
static_assert(sizeof(void*) != 8 || sizeof(Decompressor) == 632);
static_assert(sizeof(Component) == 96);

// The library's functions.
struct Functions {
  ErrorManager* (*std_error)(ErrorManager*);
  void (*create)(Decompressor*, int version, size_t size);
  void (*mem_src)(Decompressor*, const unsigned char*, unsigned long);
  int (*read_header)(Decompressor*, int require_image);
  int (*has_multiple_scans)(Decompressor*);
  int (*start)(Decompressor*);
  void (*crop)(Decompressor*, unsigned* left, unsigned* width);
  unsigned (*skip)(Decompressor*, unsigned lines);
  unsigned (*read)(Decompressor*, uint8_t** rows, unsigned count);
  void (*destroy)(Decompressor*);
};

// False if the library lacks a function.
inline bool load(void* library, Functions& to) {
  const auto find = [library](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    return function != nullptr;
  };
  return find(to.std_error, "jpeg_std_error") && find(to.create, "jpeg_CreateDecompress") &&
         find(to.mem_src, "jpeg_mem_src") && find(to.read_header, "jpeg_read_header") &&
         find(to.has_multiple_scans, "jpeg_has_multiple_scans") &&
         find(to.start, "jpeg_start_decompress") && find(to.crop, "jpeg_crop_scanline") &&
         find(to.skip, "jpeg_skip_scanlines") && find(to.read, "jpeg_read_scanlines") &&
         find(to.destroy, "jpeg_destroy_decompress");
}

}  // namespace sfn::jpeg
