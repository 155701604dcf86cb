// Sends back every byte that comes, by polling, at the speed that DIVIDER sets; never reads when
// DEAF is given.
#include <avr/io.h>

#ifndef DIVIDER
#define DIVIDER 3
#endif

int main() {
  UBRR0 = DIVIDER;
  UCSR0A = 1 << U2X0;
  UCSR0B = 1 << RXEN0 | 1 << TXEN0;
  UCSR0C = 3 << UCSZ00;
  GPIOR0 = 1;
  for (;;) {
#ifndef DEAF
    if (UCSR0A & 1 << RXC0) {
      const uint8_t byte = UDR0;
      while (!(UCSR0A & 1 << UDRE0)) {
      }
      UDR0 = byte;
    }
#endif
  }
}
