// Codes of board messages and what they carry (SERIAL.md section 8, SPEC.md section 7).
#pragma once
#include <stdint.h>

namespace maille {

enum ToBoard : uint8_t {
  OFFER = 0,
  CANCEL = 1,
  DEPLOY = 2,
  CHUNK = 3,
  EVICT = 4,
  SENSE = 5,
  STOP = 6,
  CALIBRATE = 7,
  REPORT = 8,
};

enum FromBoard : uint8_t {
  INFO = 12,
  SENSOR = 13,
  MODEL = 14,
  RESULT = 15,
  WANT = 16,
  MODEL_STATE = 17,
  READING = 18,
  LOAD = 19,
  LOG = 20,
  REFUSED = 21,
};

enum NodeKind : uint8_t { NODE_ARDUINO = 3 };

enum ResultStatus : uint8_t {
  RESULT_DONE = 0,
  RESULT_FAILED = 1,
  RESULT_REFUSED = 2,
  RESULT_CANCELLED = 3,
};

enum ModelState : uint8_t { MODEL_READY = 1, MODEL_FAILED = 2, MODEL_GONE = 3 };

enum SenseMode : uint8_t { SENSE_ALWAYS = 0, SENSE_CHANGES = 1 };

enum KernelCode : uint8_t { KERNEL_DENSE = 0 };

enum ResetCause : uint8_t {
  RESET_UNKNOWN = 0,
  RESET_POWER = 1,
  RESET_PIN = 2,
  RESET_WATCHDOG = 3,
  RESET_BROWNOUT = 5,
};

enum ErrorCode : uint8_t {
  ERROR_NONE = 0,
  ERROR_BUSY = 1,
  ERROR_NO_SPACE = 4,
  ERROR_ARTEFACT_CORRUPT = 6,
  ERROR_UNSUPPORTED_FORMAT = 12,
  ERROR_MODEL_NOT_HELD = 16,
  ERROR_MODEL_TOO_LARGE = 17,
  ERROR_SELF_TEST_FAILED = 18,
  ERROR_SENSOR = 19,
  ERROR_NO_SUCH_SENSOR = 20,
  ERROR_INPUT_SHAPE = 103,
  ERROR_INPUT_MALFORMED = 104,
  ERROR_INPUT_TOO_LARGE = 105,
  ERROR_MODEL_INVALID = 106,
  ERROR_MODEL = 107,
  ERROR_OUTPUT_TOO_LARGE = 108,
};

// First 4 bytes of the SHA-256 of protocol/serial.cddl, as SERIAL.md section 8 says; a test compares.
const uint8_t BOARD_SCHEMA[4] = {0xAE, 0x1A, 0x89, 0x13};

}  // namespace maille
