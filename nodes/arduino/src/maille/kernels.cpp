#ifdef __AVR__
#pragma GCC optimize("O2")  // speed counts here
#endif
#include "kernels.h"

#include <string.h>

#include "kernels_depthwise.h"
#include "kernels_plain.h"

#if defined(__AVR__) && !defined(MAILLE_PLAIN_KERNELS)
#define MAILLE_AVR_KERNELS 1
#else
#define MAILLE_AVR_KERNELS 0
#endif

extern "C" {
typedef void (*maille_kernel)(maille::tiny::DenseJob *job);
void maille_accumulate_flash24(maille::tiny::DenseJob *job);
void maille_accumulate_flash32(maille::tiny::DenseJob *job);
void maille_accumulate_ram24(maille::tiny::DenseJob *job);
void maille_accumulate_ram32(maille::tiny::DenseJob *job);
void maille_finish_flash24(maille::tiny::DenseJob *job);
void maille_finish_flash32(maille::tiny::DenseJob *job);
void maille_finish_ram24(maille::tiny::DenseJob *job);
void maille_finish_ram32(maille::tiny::DenseJob *job);
uint32_t maille_sum(const uint8_t *x, uint16_t count);
}

namespace maille {
namespace tiny {

WindowWalk::WindowWalk(const Window& window, const uint8_t* x, uint16_t row, uint16_t column)
    : window_(window),
      x_(x),
      at_(nullptr),
      top_(static_cast<int32_t>(row) * window.stride_height - window.pad_top),
      left_(static_cast<int32_t>(column) * window.stride_width - window.pad_left),
      i_(0),
      j_(0xFFFF) {}

bool WindowWalk::next() {
  if (++j_ == window_.kernel_width) {
    j_ = 0;
    i_++;
  }
  if (i_ == window_.kernel_height) return false;
  const int32_t row = top_ + i_;
  const int32_t column = left_ + j_;
  if (row < 0 || row >= window_.input_height || column < 0 || column >= window_.input_width) {
    at_ = nullptr;
  } else {
    const size_t place =
        static_cast<size_t>(row) * window_.input_width + static_cast<size_t>(column);
    at_ = x_ + place * window_.input_channels;
  }
  return true;
}

#if MAILLE_AVR_KERNELS

static_assert(offsetof(DenseJob, correction) == 12 && offsetof(DenseJob, high) == 18 &&
          offsetof(DenseJob, sums) == 20,
        "kernels_avr.S relies on these places");

uint32_t sum(const uint8_t *x, uint16_t count) { return maille_sum(x, count); }

// Bytes of stack through which weights and records in an EEPROM go: a kernel that waits for each byte of one
// would take ten times as long.
constexpr uint8_t EEPROM_BUFFER_BYTES = 128;

// Rows of weights whose sums are kept at a time.
static uint8_t rows_at_once(uint16_t left, bool wide) {
  const uint8_t batch = wide ? BATCH_ROWS_32 : BATCH_ROWS_24;
  return left < batch ? static_cast<uint8_t>(left) : batch;
}

// The sum of one row that is longer than the buffer, in pieces.
static void accumulate_long_row(DenseJob &job, maille_kernel accumulate, uint8_t *buffer) {
  const uint8_t *weights = job.weights, *x = job.x;
  const uint16_t inputs = job.inputs;
  uint32_t total = 0;
  uint16_t left = inputs;
  job.weights = buffer;
  while (left != 0) {
    job.inputs = left < EEPROM_BUFFER_BYTES ? left : EEPROM_BUFFER_BYTES;
    eeprom_read_block(buffer, weights, job.inputs);
    accumulate(&job);
    uint32_t part;
    memcpy(&part, job.sums, sizeof part);  // of 24-bit sums the fourth byte is of no meaning, here and below
    total += part;
    weights += job.inputs;
    job.x += job.inputs;
    left -= job.inputs;
  }
  memcpy(job.sums, &total, sizeof total);
  job.x = x;
  job.inputs = inputs;
}

__attribute__((noinline)) static void dense_from_eeprom(DenseJob &job, bool wide) {
  const maille_kernel accumulate = wide ? maille_accumulate_ram32 : maille_accumulate_ram24;
  const maille_kernel finish = wide ? maille_finish_ram32 : maille_finish_ram24;
  uint8_t buffer[EEPROM_BUFFER_BYTES];
  const uint8_t *weights = job.weights, *records = job.channels;
  const uint8_t fitting = static_cast<uint8_t>(EEPROM_BUFFER_BYTES / job.inputs);
  uint16_t left = job.outputs;
  while (left != 0) {
    job.rows = rows_at_once(left, wide);
    if (job.rows > EEPROM_BUFFER_BYTES / CHANNEL_BYTES) job.rows = EEPROM_BUFFER_BYTES / CHANNEL_BYTES;
    if (job.rows > fitting) job.rows = fitting;
    job.weights = weights;
    if (job.rows == 0) {
      job.rows = 1;
      accumulate_long_row(job, accumulate, buffer);
    } else {
      eeprom_read_block(buffer, weights, static_cast<size_t>(job.rows) * job.inputs);
      job.weights = buffer;
      accumulate(&job);
    }
    const uint8_t record_bytes = static_cast<uint8_t>(job.rows * CHANNEL_BYTES);
    eeprom_read_block(buffer, records, record_bytes);
    job.channels = buffer;
    finish(&job);
    weights += static_cast<size_t>(job.rows) * job.inputs;
    records += record_bytes;
    left -= job.rows;
  }
}

void dense(DenseJob &job, Memory memory, bool wide) {
  job.correction = -static_cast<int32_t>(sum(job.x, job.inputs)) * WEIGHT_OFFSET;
  if (memory == Memory::EEPROM) {
    dense_from_eeprom(job, wide);
    return;
  }
  maille_kernel accumulate = maille_accumulate_flash24;
  maille_kernel finish = maille_finish_flash24;
  if (memory == Memory::RAM) {
    accumulate = wide ? maille_accumulate_ram32 : maille_accumulate_ram24;
    finish = wide ? maille_finish_ram32 : maille_finish_ram24;
  } else if (wide) {
    accumulate = maille_accumulate_flash32;
    finish = maille_finish_flash32;
  }
  uint16_t left = job.outputs;
  for (;;) {
    job.rows = rows_at_once(left, wide);
    accumulate(&job);
    finish(&job);
    left -= job.rows;
    if (left == 0) {
      return;
    }
    job.weights += static_cast<size_t>(job.rows) * job.inputs;
  }
}

// Copies the inputs of one output position into a row.
static void gather(const ConvolutionJob &job, uint16_t row, uint16_t column, uint8_t *patch) {
  const uint16_t channels = job.window.input_channels;
  WindowWalk walk(job.window, job.x, row, column);
  while (walk.next()) {
    const uint8_t* x = walk.x();
    if (x != nullptr) {
      for (uint16_t channel = 0; channel < channels; channel++) {
        *patch++ = x[channel];
      }
    } else {
      memset(patch, job.pad_value, channels);
      patch += channels;
    }
  }
}

void convolution(const ConvolutionJob &job, Memory memory, bool wide) {
  const Window &window = job.window;
  const uint32_t row_bytes = static_cast<uint32_t>(window.kernel_height) * window.kernel_width *
                               window.input_channels;
  if (row_bytes > MAX_PATCH_BYTES) {
    convolution_plain(AnyReader{memory}, job);
    return;
  }
  uint8_t patch[MAX_PATCH_BYTES];
  uint8_t *y = job.y;
  for (uint16_t row = 0; row < window.output_height; row++) {
    for (uint16_t column = 0; column < window.output_width; column++) {
      gather(job, row, column, patch);
      DenseJob position;
      position.weights = job.weights;
      position.channels = job.channels;
      position.x = patch;
      position.y = y;
      position.inputs = static_cast<uint16_t>(row_bytes);
      position.outputs = window.output_channels;
      position.zero = job.zero;
      position.low = job.low;
      position.high = job.high;
      dense(position, memory, wide);
      y += window.output_channels;
    }
  }
}

#else

uint32_t sum(const uint8_t *x, uint16_t count) {
  uint32_t total = 0;
  while (count-- != 0) {
    total += *x++;
  }
  return total;
}

void dense(DenseJob &job, Memory memory, bool wide) {
  (void)wide;
  dense_plain(AnyReader{memory}, job);
}

void convolution(const ConvolutionJob &job, Memory memory, bool wide) {
  (void)wide;
  convolution_plain(AnyReader{memory}, job);
}

#endif

void depthwise_convolution(const ConvolutionJob &job, Memory memory, bool wide) {
#if MAILLE_AVR_KERNELS
  if (!wide && depthwise_tiled(job, memory)) {
    return;
  }
#else
  (void)wide;
#endif
  depthwise_plain(AnyReader{memory}, job);
}

}  // namespace tiny
}  // namespace maille
