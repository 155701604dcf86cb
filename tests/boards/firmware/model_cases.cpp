// Runs models that the test puts into flash, EEPROM or RAM, one after the other. The test fills the
// arena with inputs and the mailbox with a command, and reads both after the mark.
#include <avr/io.h>

#include "maille/model.h"

using namespace maille;
using namespace maille::tiny;

#ifdef __AVR_ATmega2560__
constexpr uint16_t ARENA_BYTES = 3000;
#else
constexpr uint16_t ARENA_BYTES = 1240;
#endif

struct Mailbox {
  uint8_t command;  // 1: check, then run; 2: check, then the self-tests
  uint8_t memory;
  uint16_t address;
  uint16_t size;
  uint8_t fault;  // of the check or of the self-tests; 255: refused to run
};

volatile Mailbox mailbox;
uint8_t arena[ARENA_BYTES];

int main() {
  for (;;) {
    GPIOR0 = mailbox.fault;
    while (mailbox.command == 0) {
    }
    const Model model(static_cast<Memory>(mailbox.memory),
                      reinterpret_cast<const uint8_t*>(mailbox.address), mailbox.size, ALL_LAYERS);
    Fault fault = model.check(ARENA_BYTES);
    if (fault == Fault::NONE && mailbox.command == 2) fault = model.self_test(arena, ARENA_BYTES);
    mailbox.fault = static_cast<uint8_t>(fault);
    if (fault == Fault::NONE && mailbox.command == 1) {
      if (!model.run(arena, ARENA_BYTES)) mailbox.fault = 255;
    }
    mailbox.command = 0;
  }
}
